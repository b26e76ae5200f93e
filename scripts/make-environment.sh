#!/usr/bin/env bash
# Creates a virtual environment with this project (editable) and the dependencies of its commands and tests. Called by `make`.
#
#   PYTHON   Python to use; default: the newest supported one found. An existing environment keeps its Python.
#   TORCH    build of torch, by its name in PyTorch's index: cpu (about 200 MB), cu128, ...; or the URL of an index.
#            Default: the build on PyPI, which on Linux x86_64 includes 3 GB of CUDA.
#
# Usage: scripts/make-environment.sh FOLDER [EXTRAS]      EXTRAS of pyproject.toml; default: all,dev
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$1
extras=${2:-all,dev}

if ! "$folder/bin/python" -c "import pip" 2>/dev/null; then
  "$(scripts/find-python.sh)" -m venv --clear "$folder"
elif [ -n "${PYTHON:-}" ] && [ "$("$PYTHON" -V)" != "$("$folder/bin/python" -V)" ]; then
  echo "$folder has $("$folder/bin/python" -V), not $("$PYTHON" -V): remove the folder first (make clean)" >&2
  exit 1
fi

export PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONWARNINGS=ignore
echo "installing into $folder with $("$folder/bin/python" -V), which takes a few minutes ..."
"$folder/bin/pip" install --quiet --upgrade pip
case ${TORCH:-} in
  '') ;;
  *://*) "$folder/bin/pip" install --quiet --index-url "$TORCH" torch ;;
  *) "$folder/bin/pip" install --quiet --index-url "https://download.pytorch.org/whl/$TORCH" torch ;;
esac
"$folder/bin/pip" install --quiet --editable ".[$extras]"
