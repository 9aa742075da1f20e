"""Opens a report in Chromium, wide and narrow, light and dark, and says what is wrong with it: `make report-test`.

    python tests/report/browser.py PAGE.html FOLDER    # screenshots go into the folder; needs selenium and Chromium

A page must write nothing to the console, ask for nothing but itself, be no wider than the window, and take no label for
markup.
"""

from __future__ import annotations

import base64
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from selenium import webdriver

WIDTHS, SCHEMES = (1400, 390), ("light", "dark")
BROWSER, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-default-apps")


def open_browser(profile: str) -> Any:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", *QUIET):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    browser.get("about:blank")
    browser.get_log("performance")  # drops what the first tab of the browser asked for
    return browser


def look(browser: Any, page: str, width: int, scheme: str, picture: Path) -> list[str]:
    """What is wrong with a page at a width, in a scheme of colours."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get(page)
    browser.execute_async_script("setTimeout(arguments[0], 700)")
    wrong = [f"console: {entry['message']}" for entry in browser.get_log("browser")]
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            url = message["params"]["request"]["url"]
            if url != page and not url.startswith(("data:", "blob:")):
                wrong.append(f"request: {url}")
    scroll, inner = browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    if scroll > inner or inner != width:
        wrong.append(f"the page is {scroll} wide in a window of {inner}, at a width of {width}")
    if n := browser.execute_script("return document.querySelectorAll('main :is(img, b, i, iframe, a[href])').length"):
        wrong.append(f"{n} elements that only a label can have made")
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
    picture.write_bytes(base64.b64decode(shot["data"]))
    return wrong


def main(page: Path, folder: Path) -> int:
    """The number of things that are wrong."""
    folder.mkdir(parents=True, exist_ok=True)
    n_wrong = 0
    with tempfile.TemporaryDirectory() as profile:
        browser = open_browser(profile)
        try:
            for width in WIDTHS:
                for scheme in SCHEMES:
                    picture = folder / f"{page.stem}-{width}-{scheme}.png"
                    wrong = look(browser, page.resolve().as_uri(), width, scheme, picture)
                    print(f"{width} {scheme}: {'ok' if not wrong else ''}", *wrong, sep="\n  ")
                    n_wrong += len(wrong)
        finally:
            browser.quit()
    return n_wrong


if __name__ == "__main__":
    sys.exit(min(main(*map(Path, sys.argv[1:])), 1))
