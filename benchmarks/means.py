"""JSON lines of one release each -> a Markdown table of their means in %, with half a 95 % t-interval over releases.

python -m benchmarks.means docs/results/labelling.jsonl --by labelling --of honest clone_accuracy
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from stealguard.report.naming import number
from stealguard.report.statistics import Spread


def table(path: Path, by: Sequence[str], of: Sequence[str], where: Mapping[str, str] | None = None) -> str:
    """A line for each value of the columns `by`, in order of appearance; of the rows with the values `where` alone."""
    found: dict[tuple[str, ...], list[dict[str, float]]] = defaultdict(list)
    for row in map(json.loads, path.read_text().splitlines()):
        if any(str(row.get(name)) != value for name, value in (where or {}).items()):
            continue
        found[tuple(str(row[name]) for name in by)].append(row)
    lines = [[*by, *of], [*["---"] * len(by), *["--:"] * len(of)]]
    for key, rows in found.items():
        lines.append([*key, *(number(Spread.of([row[name] for row in rows])) for name in of)])
    return "\n".join(f"| {' | '.join(line).replace('_', ' ')} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--by", nargs="+", required=True)
    parser.add_argument("--of", nargs="+", required=True)
    parser.add_argument("--where", nargs="+", default=[], metavar="COLUMN=VALUE")
    given = parser.parse_args()
    print(table(given.path, given.by, given.of, dict(pair.split("=", 1) for pair in given.where)))


if __name__ == "__main__":
    main()
