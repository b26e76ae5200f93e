#!/usr/bin/env bash
# Finds Pythons that can run this project: a supported version (3.11 to 3.13) with venv and ensurepip.
#
# Usage: scripts/find-python.sh            prints the newest one, or $PYTHON if it is set and suitable
#        scripts/find-python.sh --every    prints one of each supported version, newest first
set -euo pipefail
SUPPORTED=(3.13 3.12 3.11)     # as in pyproject.toml (requires-python)

# will_do COMMAND VERSION: prints the path of a Python with this version, venv and ensurepip. It runs the command, because a name
# is not enough: pyenv puts a python3.12 on the PATH that fails unless this version is selected.
will_do() {
  "$1" -c "import sys, ensurepip, venv; sys.exit(1) if '%d.%d' % sys.version_info[:2] != '$2' else print(sys.executable)" 2>/dev/null
}

of_version() {
  local candidate
  while read -r candidate; do
    if will_do "$candidate" "$1"; then return; fi
  done < <(type -ap "python$1" python3 python || true; ls "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1".*/bin/python3 2>/dev/null | sort -rV)
  return 1
}

if [ -n "${PYTHON:-}" ]; then
  for version in "${SUPPORTED[@]}"; do
    if will_do "$PYTHON" "$version"; then exit; fi
  done
  echo "$PYTHON can't be used: the project needs Python ${SUPPORTED[*]} with venv" >&2
  exit 1
fi

any=
for version in "${SUPPORTED[@]}"; do
  if of_version "$version"; then
    any=yes
    [ "${1:-}" = --every ] || exit 0
  fi
done
[ -n "$any" ] || { echo "found no Python ${SUPPORTED[*]} with venv. On Debian 13 and Ubuntu 24.04: apt-get install python3-venv
On other systems, install one. If it is not on the PATH, give its path: make PYTHON=/path/to/python3.13" >&2; exit 1; }
