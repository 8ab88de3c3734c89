#!/bin/sh
# Build the wheel and install it into an empty environment outside the checkout. There, type-check a user's program in
# strict mode, and run the demo with one epoch and few queries.
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
bin="$here/.venv/bin"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$bin/uv" build --wheel -q -o "$work" "$here"
"$bin/uv" venv -q "$work/venv"
"$bin/uv" pip install -q --python "$work/venv/bin/python" -c "$here/constraints.txt" \
  ${PIP_FIND_LINKS:+--find-links "$PIP_FIND_LINKS"} "$work"/stealguard-*.whl
cp "$here/tests/typed_program.py" "$work/program.py"
cd "$work"
"$bin/mypy" --strict --config-file= --python-executable venv/bin/python program.py
venv/bin/python -c '
from stealguard.cli import demonstration, main
demonstration.BUDGETS = dict.fromkeys(demonstration.BUDGETS, 1_000)
main(["demo", "--out", "demo", "--epochs", "1"])
'
venv/bin/stealguard --version
test -s demo/report.html
echo "The wheel is typed and its demo ran: 2 passed, 0 failed"
