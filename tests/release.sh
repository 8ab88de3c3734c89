#!/bin/sh
# Build what is published, from a clean tree, check it, and say what is left to do by hand. `make release` runs the tests first.
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
cd "$here"
bin="$here/.venv/bin"
version=$("$bin/python" -c 'import stealguard; print(stealguard.__version__)')

fail() { echo "error: $1" >&2; exit 1; }
[ -z "$(git status --porcelain)" ] || fail "the working tree has changes that are not committed"
grep -q "^## $version" CHANGELOG.md || fail "CHANGELOG.md has no section for $version"
! grep -q "^## $version, unreleased" CHANGELOG.md || fail "CHANGELOG.md still calls $version unreleased: give it a date"
grep -q "^version: $version$" CITATION.cff || fail "CITATION.cff is not of version $version"
! git rev-parse -q --verify "refs/tags/v$version" >/dev/null || fail "the tag v$version is there already"

rm -rf dist
"$bin/uv" build -q -o dist
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for file in dist/*; do
  "$bin/uv" venv -q --clear "$work/venv"
  "$bin/uv" pip install -q --python "$work/venv/bin/python" -c constraints.txt ${PIP_FIND_LINKS:+--find-links "$PIP_FIND_LINKS"} "$file"
  (cd "$work" && venv/bin/python -c "import stealguard; assert stealguard.__version__ == '$version'")
done

echo "dist/ holds version $version; both files install. Left to do by hand:"
echo "  git tag -s v$version && git push --tags"
echo "  .venv/bin/uv publish dist/*"
echo "  upload runs/site as the documentation of $version (make docs builds it)"
echo "  put the next version into src/stealguard/__init__.py and CITATION.cff, and a new section into CHANGELOG.md"
