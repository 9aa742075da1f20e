"""Opens reports in Chromium, wide and narrow, light and dark, and says what is wrong with them: `make report-test`.

    PYTHONPATH=tests python tests/report/browser.py FOLDER [PAGE ...]    # needs selenium, Chromium and its driver

Screenshots go into the folder. Without pages it trains two runs, of names that are full of markup, and writes theirs. A
page must write nothing to the console, ask for nothing but itself, be no wider than the window, and take no name for
markup.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from selenium import webdriver
from shared.markup import MARKUP

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


def make_pages(folder: Path) -> list[Path]:
    """Pages of a run, and of it beside another one: entities, relations, graph and folder have names of markup."""
    from bess_jax.cli.main import main as bess_jax

    rng = np.random.default_rng(0)
    rows = rng.permutation(np.unique(rng.integers([60, 6, 60], size=(900, 3)), axis=0)).tolist()
    graph = folder / MARKUP[2]
    graph.mkdir()
    for split, part in (("train", rows[:600]), ("valid", rows[600:700]), ("test", rows[700:])):
        lines = [f"{MARKUP[h % 6]} {h}\t{MARKUP[r]} {r}\t{MARKUP[t % 6]} {t}\n" for h, r, t in part]
        (graph / f"{split}.tsv").write_text("".join(lines), encoding="utf-8")
    options = ["--dataset", str(graph), "--n-shard", "2", "--batch-size", "64", "--n-negative", "16", "--n-epoch", "4"]
    runs = [str(folder / f"{graph.name} {model}") for model in ("ComplEx", "TransE")]
    for model, run in zip(("ComplEx", "TransE"), runs, strict=True):
        code = bess_jax(["train", *options, "--model", model, "--eval-every", "2", "--run", run])
        if code:
            sys.exit(code)
    pages = {folder / "one.html": runs[:1], folder / "two.html": runs}
    for page, of in pages.items():
        if code := bess_jax(["report", *of, "--out", str(page)]):
            sys.exit(code)
    return list(pages)


def main(folder: Path, *pages: Path) -> int:
    """The number of things that are wrong."""
    folder.mkdir(parents=True, exist_ok=True)
    n_wrong = 0
    with tempfile.TemporaryDirectory() as temporary:
        made = list(pages) or make_pages(Path(temporary))
        browser = open_browser(os.path.join(temporary, "profile"))
        try:
            for page in made:
                for width in WIDTHS:
                    for scheme in SCHEMES:
                        picture = folder / f"{page.stem}-{width}-{scheme}.png"
                        wrong = look(browser, page.resolve().as_uri(), width, scheme, picture)
                        print(f"{picture.name}: {'; '.join(wrong) or 'ok'}")
                        n_wrong += len(wrong)
        finally:
            browser.quit()
    return n_wrong


if __name__ == "__main__":
    sys.exit(min(main(*map(Path, sys.argv[1:])), 1))
