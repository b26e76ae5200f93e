#!/usr/bin/env bash
# Takes the README's picture of a run's report. Needs Chromium (Debian: apt-get install chromium).
#
# Usage: scripts/screenshot.sh [REPORT [PICTURE]]      default: runs/latest/report.html docs/images/report.png
set -euo pipefail
cd "$(dirname "$0")/.."
report=$(realpath "${1:-runs/latest/report.html}")
picture=${2:-docs/images/report.png}

browser=
for name in chromium chromium-browser google-chrome; do
  if command -v "$name" >/dev/null; then browser=$name; break; fi
done
[ -n "$browser" ] || { echo "no Chromium found; on Debian: apt-get install chromium" >&2; exit 2; }
mkdir -p "$(dirname "$picture")"
# The charts are drawn by a script in the page, so the picture is taken after eight (virtual) seconds.
"$browser" --headless --no-sandbox --disable-gpu --disable-background-networking --hide-scrollbars --virtual-time-budget=8000 \
  --window-size=1100,1060 --screenshot="$picture" "file://$report" 2>/dev/null
ls -l "$picture"
