#!/usr/bin/env bash
# JAX 0.3.16, which the IPU's JAX is a fork of, for CPU: an environment of Python 3.8 in a folder, made if it is not
# there. Programs run with `JAX_PLATFORMS=cpu FOLDER/bin/python`.
#
#     bash tests/ipu/setup.sh FOLDER     # PY38=... for a Python 3.8 elsewhere
#     bash tests/ipu/setup.sh --python   # prints the Python 3.8 that it would take; ends with 1 where there is none
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

find_python() {
    local candidate
    for candidate in ${PY38:-python3.8 "$HOME"/.pyenv/versions/3.8*/bin/python3.8}; do
        if "$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info[:2] != (3, 8))' 2> /dev/null; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

fail() {
    echo "error: $1" >&2
    exit 1
}

if [ "${1:-}" = --python ]; then
    find_python
    exit
fi
[ $# -eq 1 ] || fail "one folder is needed: bash tests/ipu/setup.sh FOLDER"
folder=$(realpath -m "$1")
made=$(cat "$here"/{setup.sh,requirements.txt,patch_jax.py} | cksum)
[ "$(cat "$folder/.made" 2> /dev/null)" = "$made" ] && exit
[ ! -e "$folder" ] || [ -e "$folder/pyvenv.cfg" ] || fail "$folder is there, and no environment of this script"
[ "$(uname -sm)" = "Linux x86_64" ] || fail "jaxlib for Python 3.8 is there for Linux on x86_64 alone"
python=$(find_python) || fail "no Python 3.8 with venv: install python3.8 and python3.8-venv, or name one: PY38=/path/to/python3.8"
command -v gcc > /dev/null && command -v nm > /dev/null || fail "gcc and nm are needed: install gcc and binutils"

rm -rf "$folder"
"$python" -m venv "$folder"
"$folder/bin/python" -m pip install -qq --disable-pip-version-check --no-deps pip==25.0.1 wheel==0.45.1
"$folder/bin/python" -m pip install -qq --disable-pip-version-check --no-deps -r "$here/requirements.txt"
packages=$folder/lib/python3.8/site-packages

# jaxlib is linked with the libraries of ROCm, which a CPU never calls: empty ones beside it stand in for them, with those
# of their functions that it names.
cd "$packages/jaxlib"
undefined() { nm -D --undefined-only xla_extension.so | awk '{print $NF}' | grep -E "$1" | sed 's/@.*//'; }
library() { gcc -w -shared -fPIC -o "$1" -Wl,-soname,"$1" "${@:2}"; }
undefined '^_*hip' | awk '{print ($1 == "__hipRegisterFatBinary") ? "static long x[8]; void *"$1"(void) {return x;}" : "long "$1"(void) {return 1;}"}' > hip.c
undefined '^nccl' | awk '{print "long "$1"(void) {return 1;}"}' > nccl.c
echo 'int none;' > none.c
echo 'hip_4.2 { global: *; };' > hip.map
library libamdhip64.so.5 hip.c -Wl,--version-script=hip.map
library librocblas.so.0 nccl.c
for name in librccl.so.1 librocsolver.so.0 libhipsolver.so.0 libMIOpen.so.1 libhipfft.so libhiprand.so.1 libhsa-runtime64.so.1; do
    library "$name" none.c
done
rm hip.c nccl.c none.c hip.map

"$folder/bin/python" "$here/patch_jax.py" "$packages"
cd "$folder"
JAX_PLATFORMS=cpu JAX_PLATFORM_NAME=cpu "$folder/bin/python" -c 'import flax, jax, optax; assert jax.numpy.arange(3).sum() == 3'
echo "$made" > "$folder/.made"
