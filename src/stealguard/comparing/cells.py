"""The cells of a grid: victims to train and blocks of thefts from each, with keys made of all that they follow from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from stealguard.attacks import ATTACKS
from stealguard.attacks.base import Attack
from stealguard.auditing.suites import Block
from stealguard.comparing.grid import GridSpec, code_in
from stealguard.data import SETS, files, store
from stealguard.defenses import DEFENSES
from stealguard.defenses.base import Defense
from stealguard.files import sha256
from stealguard.identity import fingerprint
from stealguard.registry import imported, source_hash
from stealguard.settings import create, describe


@dataclass(frozen=True)
class PlannedVictim:
    """One release to be made, as JSON data: all that it follows from, and what tables call it.

    Attributes:
        contents: hashes of the task data and of the outliers.
        code: hashes of the files of code of your own, by the names that stand for it.
    """

    name: str
    data: str
    net: str
    outliers: list[str]
    contents: list[str]
    resize: bool
    defense: str
    settings: dict[str, Any]
    training: dict[str, Any]
    code: dict[str, str]
    seed: int

    @property
    def setting(self) -> str:
        """SHA-256 (hex) of all that it is made from but its seed and name."""
        return fingerprint({key: value for key, value in asdict(self).items() if key not in ("name", "seed")})

    @property
    def key(self) -> str:
        return fingerprint([self.setting, self.seed])

    @property
    def folder(self) -> str:
        """Its place among releases: readable, then as much of the hash as tells settings apart, then the seed."""
        words = [_plain(word) for word in (self.data, self.net, self.defense)]
        return f"{'-'.join(words)}-{self.setting[:10]}/seed-{self.seed}"

    def made(self) -> Defense:
        """Its defense with its settings."""
        return create(DEFENSES, self.defense, self.settings, "defense")

    @property
    def base(self) -> PlannedVictim | None:
        """The victim whose weights it shares, where its defense is not trained with the settings that it has."""
        defense = self.made()
        if defense.basis == defense:
            return None
        name, settings = describe(DEFENSES, defense.basis)
        code = _code([self.net, settings], defense.basis)
        return replace(self, name=name, defense=name, settings=settings, code=code)


@dataclass(frozen=True)
class GridCell:
    """One unit of work: a victim to be trained or, with a block, the block's thefts from it.

    Attributes:
        key: SHA-256 (hex) of all that the cell follows from.
        needs: the key of the cell that goes before it.
    """

    key: str
    victim: PlannedVictim
    block: Block | None
    clone: str | None
    needs: str | None

    @property
    def title(self) -> str:
        what = f"{self.victim.name}, {self.victim.data}, {self.victim.net}, seed {self.victim.seed}"
        if self.block is None:
            return f"train {what}"
        attacks = ", ".join(dict.fromkeys(attack["name"] for attack in attacks_of(self.block)))
        return f"{attacks} on {', '.join(self.block.pools)} against {what}"

    @property
    def arguments(self) -> dict[str, Any]:
        """What the cell function takes, as JSON data."""
        block = self.block and {**asdict(self.block), "attacks": attacks_of(self.block)}
        return {"key": self.key, "title": self.title, "victim": asdict(self.victim), "block": block,
                "clone": self.clone}  # fmt: skip


def plan(grid: GridSpec) -> list[GridCell]:
    """Every cell of the grid, once, and after what it needs."""
    contents = cache(contents_of)
    planned: dict[str, GridCell] = {}
    for victim in victims(grid, contents):
        base = victim.base
        if base is not None:
            planned.setdefault(base.key, GridCell(base.key, base, None, None, None))
        planned.setdefault(victim.key, GridCell(victim.key, victim, None, None, base.key if base else None))
        for block in grid.blocks(victim.made()):
            attacks, pools = attacks_of(block), [[pool, contents(pool)] for pool in block.pools]
            follows_from = {
                "victim": victim.key, "block": {**asdict(block), "attacks": attacks, "pools": pools},
                "clone": grid.clone,
                "code": _code([[attack["settings"] for attack in attacks], grid.clone], *block.attacks),
            }  # fmt: skip
            key = fingerprint(follows_from)
            planned.setdefault(key, GridCell(key, victim, block, grid.clone, victim.key))
    return list(planned.values())


def victims(grid: GridSpec, contents: Callable[[str], str]) -> Iterator[PlannedVictim]:
    """Every victim of the grid; `contents` gives the hash of a set by its name."""
    for data, net, (name, defense, training), seed in product(grid.data, grid.nets, grid.defenses, grid.seeds):
        kind, settings = describe(DEFENSES, defense)
        outliers = list(grid.outliers[data])
        yield PlannedVictim(
            name, data, net, outliers, [contents(each) for each in (data, *outliers)], grid.resize, kind, settings,
            training.record(), _code([net, settings], defense), seed,
        )  # fmt: skip


def unpinned(grid: GridSpec) -> list[str]:
    """The sets of the grid whose contents are only known once they have been fetched or made."""
    outliers = (name for names in grid.outliers.values() for name in names)
    blocks = (block for one in grid.defenses for block in grid.blocks(one.defense))
    used = {*grid.data, *outliers, *(pool for block in blocks for pool in block.pools)}
    return sorted(name for name in used if name in SETS and SETS[name].sources and SETS[name].sha256 is None)


def contents_of(name: str) -> str:
    """The hash of a set's contents: of the files of `kind:PATH`, or the one that is known of a name.

    It is the name itself for what is no set, or where nothing is known yet.
    """
    found = files(name)
    if found is not None:
        kind, _, path = name.partition(":")
        top = Path(path).expanduser() if kind == "folder" else None
        return fingerprint([kind, [[str(file.relative_to(top)) if top else file.name, sha256(file)] for file in found]])
    if name not in SETS:
        return name
    note = None if SETS[name].sha256 else store.note(store.place(name, store.home(None)))
    return SETS[name].sha256 or (note.sha256 if note else name)


def attacks_of(block: Block) -> list[dict[str, Any]]:
    """The block's attacks as JSON data."""
    return [dict(zip(("name", "settings"), describe(ATTACKS, attack), strict=True)) for attack in block.attacks]


def attack_of(given: Mapping[str, Any]) -> Attack:
    """The attack of such data."""
    return create(ATTACKS, given["name"], given["settings"], "attack")


def _code(names: Any, *methods: Attack | Defense) -> dict[str, str]:
    """Hashes of the files of each `module:name`, and of methods that are not built in."""
    found = {name: imported(name, "grid") for name in sorted(code_in(names))}
    hashes = {name: source_hash(each) for name, each in (found | {type(m).__qualname__: m for m in methods}).items()}
    return {name: value for name, value in hashes.items() if value}


def _plain(name: str) -> str:
    """A set's name, or the last part of its path, as a part of a folder's name."""
    return "".join(sign if sign.isalnum() or sign in "-_." else "-" for sign in name.rsplit("/", 1)[-1])
