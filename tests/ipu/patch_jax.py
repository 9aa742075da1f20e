"""Fits jax 0.3.16 to the jaxlib of `requirements.txt`, which is half a year younger: `setup.sh` runs it once.

python tests/ipu/patch_jax.py SITE_PACKAGES
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

NO_GPU = """class _Absent:
  def __getattr__(self, name):
    if name.startswith('__'): raise AttributeError(name)
    def absent(*args, **kwargs): raise NotImplementedError(name)
    return False if name.endswith('supported') else absent
xla_client.Executable = xla_client.LoadedExecutable
"""

CHANGES = {
    "_src/lib/__init__.py": [
        ("  if _jaxlib_version > _jax_version:", "  if False:"),
        ("import jaxlib.pocketfft as", "import jaxlib.ducc_fft as"),
        ("import jaxlib.lapack as lapack", NO_GPU + "import jaxlib.lapack as lapack"),
        ('    hasattr(xla_client.Executable, "execute_with_token"))', "    False)"),
        (
            "pmap_lib = xla_client._xla.pmap_lib",
            "pmap_lib = xla_client._xla.pmap_lib\njax_jit.global_state().jax_array = False",
        ),
        *(
            (f"import jaxlib.{name} as {name}  # pytype: disable=import-error", f"{name} = _Absent()")
            for name in ("gpu_solver", "gpu_sparse", "gpu_prng", "gpu_linalg")
        ),
    ],
    "_src/api.py": [("    if use_fastpath:", "    if False:")],
    "_src/dispatch.py": [
        ("buf.to_py()", "np.asarray(buf)"),
        ("x.device_buffer.to_py()", "np.asarray(x.device_buffer)"),
    ],
    "interpreters/mlir.py": [
        ("val.device_buffer.to_py()", "np.asarray(val.device_buffer)"),
        (  # the younger CPU client takes donated memory over, as an IPU does
            'platforms_with_donation = ("cuda", "rocm", "tpu")',
            'platforms_with_donation = ("cuda", "rocm", "tpu", "cpu")',
        ),
        (
            "  chlo.register_chlo_dialect(context)",
            "  chlo.register_chlo_dialect(context)\n"
            "  import jaxlib.mlir.dialects.stablehlo as stablehlo\n"
            "  stablehlo.register_dialect(context)",
        ),
    ],
    "interpreters/pxla.py": [
        (
            "self.indices[i]] = self.device_buffers[i].to_py()",
            "self.indices[i]] = np.asarray(self.device_buffers[i])",
        )
    ],
}
"""File of jax -> pieces of its text, and what they become."""

RESULT_TYPES = """
def _accept_result_types(module):
  import functools
  import jaxlib.mlir.ir as ir
  for name in dir(module):
    cls = getattr(module, name)
    if isinstance(cls, type) and name.endswith('Op'):
      def wrap(original):
        @functools.wraps(original)
        def init(self, *args, **kwargs):
          try:
            return original(self, *args, **kwargs)
          except (TypeError, AttributeError, ValueError):
            if not (args and isinstance(args[0], (ir.Type, list, tuple))): raise
            return original(self, *args[1:], **kwargs)
        return init
      cls.__init__ = wrap(cls.__init__)
_accept_result_types(mhlo)
_accept_result_types(chlo)
"""
"""The younger jaxlib infers the result types that this jax gives first."""


def main(packages: Path) -> None:
    """Changes the files of a fresh installation.

    Raises:
        ValueError: if a file is not the one that the change is for.
    """
    for name, changes in CHANGES.items():
        path = packages / "jax" / name
        text = path.read_text(encoding="utf-8")
        for old, new in changes:
            if old not in text:
                raise ValueError(f"{path} has no {old!r}: this is not jax 0.3.16 as released")
            text = text.replace(old, new)
        path.write_text(text, encoding="utf-8")
    with (packages / "jax/_src/lib/mlir/dialects/__init__.py").open("a", encoding="utf-8") as file:
        file.write(RESULT_TYPES)
    look_beside(packages / "jaxlib/xla_extension.so")


def look_beside(library: Path) -> None:
    """Has a library look for others beside it, where it looked for ROCm."""
    data = library.read_bytes()
    found = re.findall(rb"\$ORIGIN/[^\0]*local_config_rocm[^\0]*\0", data)
    if len(found) != 1:
        raise ValueError(f"{library} names its search path {len(found)} times, not once")
    library.write_bytes(data.replace(found[0], b"$ORIGIN/".ljust(len(found[0]), b"\0")))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
