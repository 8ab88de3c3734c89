#!/bin/sh
# Build the wheel, install it into an empty environment outside the checkout, and run the demo there, in few epochs.
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
uv="$here/.venv/bin/uv"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$uv" build --wheel -q -o "$work" "$here"
"$uv" venv -q "$work/venv"
"$uv" pip install -q --python "$work/venv/bin/python" -c "$here/constraints.txt" \
  ${PIP_FIND_LINKS:+--find-links "$PIP_FIND_LINKS"} "$work"/stealguard-*.whl
cd "$work"
venv/bin/stealguard demo --out demo --epochs 2
test -s demo/report.html
echo "The wheel's demo ran: 1 passed, 0 failed"
