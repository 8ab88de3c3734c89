"""Whether a release is what it was: its recipe, its weights and its exports, by their hashes."""

from __future__ import annotations

from dataclasses import dataclass
from hmac import compare_digest
from pathlib import Path

from stealguard.errors import Invalid, ReleaseError
from stealguard.identity import identity_of
from stealguard.releases.export import checked, read_report
from stealguard.releases.release import RECIPE, REPORT, WEIGHTS, check_weights, read_recipe


@dataclass(frozen=True)
class Verified:
    """What was found of a release whose files are whole.

    Attributes:
        identity: SHA-256 (hex) of all that its answers follow from.
        weights_sha256: of its weights.
        files: that were checked.
    """

    identity: str
    weights_sha256: str
    files: tuple[str, ...]


def verified(folder: Path, expect: str | None = None) -> Verified:
    """Check a release's recipe, its weights, and its exports if there are some; no network is built.

    Args:
        folder: of the release.
        expect: the identity or the hash of the weights that it should have, 64 hexadecimal digits.

    Raises:
        ReleaseError: a file is missing, or was changed.
        Invalid: `expect` is neither the identity nor the hash of the weights.
    """
    recipe = read_recipe(folder)
    check_weights(folder, recipe)
    identity, weights, files = identity_of(recipe), str(recipe["weights_sha256"]), [RECIPE, WEIGHTS]
    if (folder / REPORT).exists():
        files.append(REPORT)
        for record in read_report(folder).values():
            for part in ("heads", "model"):
                if record[part]["file"]:
                    checked(folder, record, part, identity)
                    files.append(record[part]["file"])
    for to in ("onnx", "pt2"):
        unknown = {path.name for path in folder.glob(f"*.{to}")} - set(files)
        if unknown:
            raise ReleaseError(f"`{folder}` holds {', '.join(sorted(unknown))}, of which no report tells.")
    if expect is not None and not any(_same(expect, known) for known in (identity, weights)):
        rule = "the release's identity or the SHA-256 of its weights"
        raise Invalid("expect", rule, f"`{expect}`, while identity is {identity} and weights have {weights}")
    return Verified(identity, weights, tuple(files))


def _same(expected: str, found: str) -> bool:
    """Compared in a time that does not tell how many digits agree."""
    return compare_digest(expected.strip().lower().encode(), found.encode())
