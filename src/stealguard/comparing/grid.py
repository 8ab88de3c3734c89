"""A grid: one short file -> the victims to train and the thieves to set on each.

```yaml
data: [mnist]
outliers: [cifar10-gray]        # or {mnist: [...], fashion-mnist: [...]}
epochs: 6                       # training: and epochs: hold for all, or, inside a defense's settings, for it alone
defenses:
  - none
  - ini: {delta: [0, 1]}        # a list is swept
  - ini-official-mnist: {name: official, epochs: 50}
attacks:
  - knockoff: {budget: 20000}
  - jbda: {pools: ["own:150"]}  # pools, labels, answers, own and budgets hold for all, or for one attack alone
pools: [letters]
seeds: [0, 1, 2]
```
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml

from stealguard.attacks import ATTACKS
from stealguard.attacks.base import Attack
from stealguard.attacks.treatments import TREATMENTS
from stealguard.auditing.plan import OWN
from stealguard.auditing.suites import NOTHING, SUITES, Block, suite
from stealguard.data import SETS
from stealguard.data.roles import several
from stealguard.defenses import DEFENSES
from stealguard.defenses.base import Defense
from stealguard.errors import StealguardError, nearest, pick, require
from stealguard.files import sha256
from stealguard.identity import fingerprint
from stealguard.nets import check_name
from stealguard.releases.presets import PRESETS
from stealguard.results.row import LABELS
from stealguard.settings import changed, create, describe
from stealguard.training.loop import Training

T = TypeVar("T")

THIEVING: dict[str, list[Any]] = {"pools": [], "labels": list(LABELS), "answers": [""], "own": [0], "budgets": []}
DEFAULTS: dict[str, Any] = {
    "data": [], "nets": ["lenet5"], "outliers": [], "defenses": [], "attacks": ["knockoff"], **THIEVING,
    "seeds": [0], "training": {}, "epochs": None, "clone": None, "resize": False,
}  # fmt: skip


class Defended(NamedTuple):
    """A defense, how it is trained, and what tables call both."""

    name: str
    defense: Defense
    training: Training


@dataclass(frozen=True)
class Grid:
    """Every victim (a data set, net, defense and seed) and, for each, every theft of the blocks with the same seed.

    Attributes:
        outliers: by data set.
        blocks: what thieves do; each is one unit of work for each victim.
        contents: by the names of data, outliers and pools, what stands for their contents in keys.
        thief: the clone's architecture; the victim's own if None.
    """

    data: Sequence[str]
    nets: Sequence[str]
    outliers: Mapping[str, Sequence[str]]
    defenses: Sequence[Defended]
    blocks: Sequence[Block]
    seeds: Sequence[int]
    contents: Mapping[str, str]
    clone: str | None = None
    resize: bool = False

    @property
    def victims(self) -> Iterator[Victim]:
        for data, net, (name, defense, training), seed in product(self.data, self.nets, self.defenses, self.seeds):
            kind, settings = describe(DEFENSES, defense)
            outliers = list(self.outliers[data])
            contents = [self.contents[each] for each in (data, *outliers)]
            yield Victim(name, data, net, outliers, contents, self.resize, kind, settings, asdict(training), seed)


@dataclass(frozen=True)
class Victim:
    """One release to be made, as JSON data: all that it follows from, and what tables call it.

    `contents` are hashes of the sets whose names do not say what is in them, and the names of those that do.
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
    seed: int

    @property
    def setting(self) -> str:
        """SHA-256 of all that made it but the seed and the name."""
        return fingerprint({key: value for key, value in asdict(self).items() if key not in ("name", "seed")})

    @property
    def key(self) -> str:
        return fingerprint([self.setting, self.seed])

    @property
    def folder(self) -> str:
        """Its place among releases: readable, then as much of the hash as tells settings apart, then the seed."""
        words = [_plain(word) for word in (self.data, self.net, self.defense)]
        return f"{'-'.join(words)}-{self.setting[:10]}/seed-{self.seed}"

    @property
    def base(self) -> Victim | None:
        """The victim whose weights it shares, where its defense is not trained with the settings that it has."""
        defense = create(DEFENSES, self.defense, self.settings, "defense")
        if defense.basis == defense:
            return None
        name, settings = describe(DEFENSES, defense.basis)
        return replace(self, name=name, defense=name, settings=settings)


def _plain(name: str) -> str:
    """A set's name, or the last part of its path, as a part of a folder's name."""
    return "".join(sign if sign.isalnum() or sign in "-_." else "-" for sign in name.rsplit("/", 1)[-1])


# From a file ------------------------------------------------------------------------------------------------


def read(source: str | Path | Mapping[str, Any]) -> Grid:
    """The grid of a YAML file, or of what such a file holds.

    Raises:
        StealguardError: no such file or no YAML, or a key, name or value that breaks its rule; names it and the file.
    """
    if isinstance(source, Mapping):
        return _grid(source)
    try:
        values = yaml.safe_load(Path(source).read_text(encoding="utf-8"))
        require(isinstance(values, dict), "grid", f"a mapping of {', '.join(DEFAULTS)}", repr(values))
        return _grid(values)
    except (OSError, UnicodeDecodeError) as e:
        raise StealguardError(f"Grid `{source}` cannot be read: {e}.") from e
    except yaml.YAMLError as e:
        raise StealguardError(f"Grid `{source}` is no YAML: {' '.join(str(e).split())}.") from e
    except StealguardError as e:
        raise StealguardError(f"Grid `{source}`: {e}") from e


def _grid(values: Mapping[str, Any]) -> Grid:
    for key in values:
        require(
            key in DEFAULTS, str(key), f"a key of a grid: {', '.join(DEFAULTS)}", f"`{key}`{nearest(key, DEFAULTS)}"
        )
    given = DEFAULTS | dict(values)
    data, nets, seeds = (_list(given, key) for key in ("data", "nets", "seeds"))
    for net in nets + several(given["clone"] or []):
        check_name(net)
    _whole(seeds, "seeds")
    require(isinstance(given["resize"], bool), "resize", "true or false", repr(given["resize"]))
    outliers = _outliers(given["outliers"], data)
    training = _settings(given["training"], "training") | _epochs(given["epochs"])
    defenses = [one for entry in _list(given, "defenses") for one in _defended(entry, training)]
    for name in data:
        needy = next((one.name for one in defenses if one.defense.needs_outliers and not outliers[name]), None)
        require(needy is None, "outliers", f"given for `{name}`: `{needy}` needs some", "none")
    _tell_apart(defenses)
    blocks = list(_blocks(given))
    used = {*data, *(name for names in outliers.values() for name in names), *(p for b in blocks for p in b.pools)}
    contents = {name: _contents(name) for name in sorted(used)}
    return Grid(data, nets, outliers, defenses, blocks, seeds, contents, given["clone"], given["resize"])


def _defended(entry: Any, training: Mapping[str, Any]) -> Iterator[Defended]:
    """The defenses that an entry stands for: one for each combination of the settings that are lists."""
    preset_name, given = _entry(entry, "defenses")
    preset = pick(PRESETS, preset_name, "defenses")
    label = given.pop("name", preset_name)
    own = _settings(given.pop("training", {}), "training") | _epochs(given.pop("epochs", None))
    how = changed(preset.training, {**training, **own}, "training")
    for defense, swept in _swept(preset.defense, given, f"defense {preset_name}"):
        yield Defended(" ".join([label, *swept]), defense, how)


def _tell_apart(defenses: Sequence[Defended]) -> None:
    names = [one.name for one in defenses]
    twice = sorted({name for name in names if names.count(name) > 1})
    require(not twice, "defenses", "told apart: give one of them a `name`", f"{', '.join(twice)} more than once")


def _blocks(given: Mapping[str, Any]) -> Iterator[Block]:
    """What thieves do, as small as can be worth a process: one block for each attack, budget and pool."""
    common = {key: _list(given, key, empty=True) for key in THIEVING}
    if given["attacks"] in SUITES if isinstance(given["attacks"], str) else False:
        yield from suite(given["attacks"], _checked_pools(common["pools"]))
        return
    for entry in _list(given, "attacks"):
        name, own = _entry(entry, "attacks")
        how = common | {key: _list(own, key, empty=True) for key in THIEVING if key in own}
        settings = {key: value for key, value in own.items() if key not in THIEVING}
        attacks = [attack for attack, _ in _swept(pick(ATTACKS, name, "attacks")(), settings, f"attack {name}")]
        if how["budgets"]:
            attacks = [changed(attack, {"budget": n}, f"attack {name}") for attack in attacks for n in how["budgets"]]
        for attack, pool in product(attacks, _checked_pools(how["pools"])):
            yield _checked(Block([attack], [pool], how["labels"], how["answers"], how["own"]))


def _checked(block: Block) -> Block:
    for mode in block.labels:
        require(mode in LABELS, "labels", f"of {', '.join(LABELS)}", f"`{mode}`")
    for answers in block.answers:
        require(isinstance(answers, str), "answers", "names joined by +, or an empty string", repr(answers))
        for name in answers.split("+") if answers else []:
            pick(TREATMENTS, name, "answers")
    _whole(block.own, "own")
    for key in ("labels", "answers", "own"):
        require(bool(getattr(block, key)), key, "at least one", "an empty list")
    return block


def _checked_pools(pools: Sequence[Any]) -> Sequence[str]:
    require(bool(pools), "pools", "given", "none")
    for pool in pools:
        if pool != NOTHING and not str(pool).startswith(OWN):
            _known_set(pool, "pools")
    return pools


def _outliers(given: Any, data: Sequence[str]) -> dict[str, list[str]]:
    for name in data:
        _known_set(name, "data")
    if isinstance(given, Mapping):
        for key in given:
            require(
                key in data, "outliers", f"by data sets of the grid: {', '.join(data)}", f"`{key}`{nearest(key, data)}"
            )
    by_data = {name: several(given.get(name, []) if isinstance(given, Mapping) else given) for name in data}
    for name in (name for names in by_data.values() for name in names):
        _known_set(name, "outliers")
    return by_data


# Small parts ------------------------------------------------------------------------------------------------


def _entry(entry: Any, parameter: str) -> tuple[str, dict[str, Any]]:
    """A name, or {name: settings}."""
    if isinstance(entry, str):
        return entry, {}
    rule = "a list of names, or of {name: {setting: value}}"
    require(isinstance(entry, Mapping) and len(entry) == 1, parameter, rule, repr(entry))
    ((name, settings),) = entry.items()
    return str(name), _settings(settings or {}, f"{parameter} {name}")


def _swept(method: T, settings: Mapping[str, Any], owner: str) -> Iterator[tuple[T, list[str]]]:
    """The method for each combination of the settings that are lists, and the words that tell it from the others."""
    options = {}
    for key, value in settings.items():
        whole = isinstance(getattr(method, key, None), tuple)  # its one value is a list already
        options[key] = (
            value if isinstance(value, list) and (not whole or any(isinstance(v, list) for v in value)) else [value]
        )
        require(bool(options[key]), key, "a value, or a list of some to sweep", "an empty list")
    for values in product(*options.values()):
        words = [f"{key}={value}" for (key, many), value in zip(options.items(), values, strict=True) if len(many) > 1]
        yield changed(method, dict(zip(options, values, strict=True)), owner), words


def _list(given: Mapping[str, Any], key: str, *, empty: bool = False) -> list[Any]:
    values = several(given[key])
    require(empty or bool(values), key, "at least one", "none")
    unique = [value for n, value in enumerate(values) if value not in values[:n]]
    require(len(unique) == len(values), key, "without repetitions", repr(values))
    return values


def _settings(given: Any, parameter: str) -> dict[str, Any]:
    require(isinstance(given, Mapping), parameter, "a mapping of settings", repr(given))
    return dict(given)


def _epochs(epochs: int | None) -> dict[str, int]:
    return {} if epochs is None else {"epochs": epochs}


def _whole(numbers: Sequence[Any], parameter: str) -> None:
    for n in numbers:
        whole = isinstance(n, int) and not isinstance(n, bool) and n >= 0
        require(whole, parameter, "whole numbers of at least 0", repr(n))


def _known_set(name: Any, parameter: str) -> None:
    rule = "a set's name, folder:PATH or npz:PATH"
    require(isinstance(name, str), parameter, rule, repr(name))
    kind, _, path = name.partition(":")
    if path and kind in ("npz", "folder"):
        there = Path(path).expanduser()
        require(there.is_file() if kind == "npz" else there.is_dir(), parameter, f"{rule} that is there", f"`{name}`")
    else:
        pick(SETS, name, parameter)


def _contents(name: str) -> str:
    """What stands for a set in keys: a hash over the files of an npz or a folder; else the name, which says it all."""
    kind, _, path = name.partition(":")
    if kind not in ("npz", "folder"):
        return name
    there = Path(path).expanduser()
    files = [there] if kind == "npz" else sorted(file for file in there.rglob("*") if file.is_file())
    return fingerprint([kind, [[str(file.relative_to(there)), sha256(file)] for file in files]])


def attacks_of(block: Block) -> list[dict[str, Any]]:
    """The block's attacks as JSON data."""
    return [dict(zip(("name", "settings"), describe(ATTACKS, attack), strict=True)) for attack in block.attacks]


def attack_of(given: Mapping[str, Any]) -> Attack:
    """The attack of such data."""
    made: Attack = changed(ATTACKS[given["name"]](), given["settings"], f"attack {given['name']}")
    return made
