#!/usr/bin/env bash
# Makes a virtual environment with this project in it, editable, and all that its commands and tests need. `make` calls it.
#
#   PYTHON   which Python; by default the newest supported one found. An environment that is there keeps the Python it has.
#   TORCH    which build of torch, by its name in PyTorch's own index: cpu (about 200 MB), cu128, ...; or the address of an index.
#            By default the one on PyPI, which on Linux x86_64 brings CUDA, 3 GB of it.
#
# Usage: scripts/make-environment.sh FOLDER [EXTRAS]      EXTRAS of pyproject.toml, by default all,dev
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$1
extras=${2:-all,dev}

if ! "$folder/bin/python" -c "import pip" 2>/dev/null; then
  "$(scripts/find-python.sh)" -m venv --clear "$folder"
elif [ -n "${PYTHON:-}" ] && [ "$("$PYTHON" -V)" != "$("$folder/bin/python" -V)" ]; then
  echo "$folder has $("$folder/bin/python" -V), not $("$PYTHON" -V): remove it first (make clean)" >&2
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
