"""A grid: one short file -> the victims to train and the thefts from each.

```yaml
data: [mnist]
outliers: [cifar10-gray]        # or {mnist: [...], fashion-mnist: [...]}
epochs: 6                       # `training` and `epochs` hold for all, or, inside a defense's settings, for it alone
defenses:
  - none
  - ini: {delta: [0, 1]}        # each value of a list is tried
  - ini-official-mnist: {name: official, epochs: 50}
  - my_module:MyDefense         # your own; a file that names code is read with `allow_code`
attacks:
  - knockoff: {budget: 20000}
  - jbda: {pools: ["own:150"]}  # pools, labels, treatments, own, accounts and budgets hold for all or one; an attack
                                # that has a `budget` has no other
pools: [letters]
seeds: [0, 1, 2]
```
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from stealguard.attacks import ATTACKS
from stealguard.attacks.base import Attack
from stealguard.attacks.treatments import TREATMENTS
from stealguard.auditing.plan import OWN, owned_by
from stealguard.auditing.suites import NOTHING, SUITES, Block, suite
from stealguard.data import OF_FILES, SETS, files
from stealguard.data.roles import several
from stealguard.defenses import DEFENSES
from stealguard.defenses.base import Defense
from stealguard.errors import Invalid, StealguardError, nearest, one_line, pick, require
from stealguard.files import read_text
from stealguard.identity import fingerprint
from stealguard.nets import check_name
from stealguard.registry import Registry, imported
from stealguard.releases.presets import preset_of
from stealguard.results import LABELS
from stealguard.settings import changed, describe, from_yaml
from stealguard.training.loop import Training

T = TypeVar("T")

STEALING: dict[str, list[Any]] = {
    "pools": [], "labels": list(LABELS), "treatments": [""], "own": [0], "accounts": [1], "budgets": [],
}  # fmt: skip
DEFAULTS: dict[str, Any] = {
    "data": [], "nets": ["lenet5"], "outliers": [], "defenses": [], "attacks": ["knockoff"], **STEALING,
    "seeds": [0], "training": {}, "epochs": None, "clone": None, "resize": False,
}  # fmt: skip
RENAMED = {"answers": "treatments", "thief": "clone"}  # keys of version 0.1.0
CODE = ("nets", "clone", "defenses", "attacks")  # keys whose values may name code to import
MOST = 10_000  # methods that one entry may stand for


class DefenseSetting(NamedTuple):
    """A defense, how it is trained, and what tables call both."""

    name: str
    defense: Defense
    training: Training


@dataclass(frozen=True)
class GridSpec:
    """Every victim (a data set, net, defense and seed) and, for each, every theft of the blocks with the same seed.

    Attributes:
        outliers: by data set.
        blocks: what attackers do against a defense; each is one unit of work for each victim.
        clone: the name of the clone's architecture; the victim's own if None.
    """

    data: Sequence[str]
    nets: Sequence[str]
    outliers: Mapping[str, Sequence[str]]
    defenses: Sequence[DefenseSetting]
    blocks: Callable[[Defense], Sequence[Block]]
    seeds: Sequence[int]
    clone: str | None = None
    resize: bool = False


def read(source: str | Path | Mapping[str, Any], *, allow_code: bool = False) -> GridSpec:
    """The grid of a YAML file, or of what such a file holds.

    Args:
        source: the file, or a mapping with the same keys.
        allow_code: let a file name code of your own to import (`module:Class`, `module:callable`). A mapping may
            always name some.

    Raises:
        StealguardError: there is no such file, it is not YAML, or a key, name or value breaks its rule; names it.
    """
    if isinstance(source, Mapping):
        return _grid(source)
    try:
        values = from_yaml(read_text(Path(source)))
        require(isinstance(values, Mapping), "grid", f"a mapping of {', '.join(DEFAULTS)}", repr(values))
        code = [] if allow_code else sorted(code_in([values.get(key) for key in CODE]))
        rule = "free of code to import, unless `--allow-code` (`allow_code=True`) is given"
        require(not code, "grid", rule, f"`{'`, `'.join(code)}`")
        return _grid(values)
    except StealguardError as e:
        raise StealguardError(f"Grid `{source}`: {e}") from e
    except (OSError, ValueError) as e:
        raise StealguardError(f"Grid `{source}` cannot be read: {one_line(e)}.") from e


def code_in(value: Any) -> set[str]:
    """Every text `module:name` in JSON data, but for what stands under `name` or `pools`.

    >>> sorted(code_in(["lenet5", {"my:Defense": {"name": "a: b", "surrogate": "my:net"}}]))
    ['my:Defense', 'my:net']
    """
    if isinstance(value, str):
        return {value} if ":" in value else set()
    if isinstance(value, Mapping):
        return code_in(list(value)) | code_in([part for key, part in value.items() if key not in ("name", "pools")])
    return {name for part in value for name in code_in(part)} if isinstance(value, list | tuple | set) else set()


def _grid(values: Mapping[str, Any]) -> GridSpec:
    _known_keys(values)
    given = DEFAULTS | dict(values)
    data, nets, seeds = _names(given, "data"), _names(given, "nets"), _list(given, "seeds")
    for net in nets:
        _known_net(net, "nets")
    if given["clone"] is not None:
        require(isinstance(given["clone"], str), "clone", "the name of one network", repr(given["clone"]))
        _known_net(given["clone"], "clone")
    _whole(seeds, "seeds")
    require(isinstance(given["resize"], bool), "resize", "true or false", repr(given["resize"]))
    outliers = _outliers(given["outliers"], data)
    training = _training(given["training"], given["epochs"])
    defenses = [one for entry in _list(given, "defenses") for one in _defense_settings(entry, training)]
    for name in data:
        needy = next((one.name for one in defenses if one.defense.needs_outliers and not outliers[name]), None)
        require(needy is None, "outliers", f"given for `{name}`: `{needy}` needs some", "none")
    _tell_apart(defenses)
    attackers = _attackers(given, set(values))
    return GridSpec(data, nets, outliers, defenses, attackers, seeds, given["clone"], given["resize"])


def _known_keys(values: Mapping[str, Any]) -> None:
    _not_renamed(values)
    for key in values:
        rule = f"a key of a grid: {', '.join(DEFAULTS)}"
        require(key in DEFAULTS, str(key), rule, f"`{key}`{nearest(key, DEFAULTS)}")


def _not_renamed(values: Mapping[Any, Any]) -> None:
    for old, new in RENAMED.items():
        require(old not in values, old, f"called `{new}`, its name since version 0.2", f"`{old}`")


def _defense_settings(entry: Any, training: Mapping[str, Any]) -> Iterator[DefenseSetting]:
    """The defenses that an entry stands for: one for each combination of the settings that are lists."""
    preset_name, given = _entry(entry, "defenses", DEFENSES)
    preset = preset_of(preset_name, "defenses")
    label = given.pop("name", preset_name)
    require(isinstance(label, str), "name", "a text", repr(label))
    own = _training(given.pop("training", {}), given.pop("epochs", None))
    how = changed(preset.training, {**training, **own}, "training")
    for defense, words in _swept(preset.defense, given, f"defense {preset_name}"):
        yield DefenseSetting(" ".join([label, *words]), defense, how)


def _tell_apart(defenses: Sequence[DefenseSetting]) -> None:
    names = [one.name for one in defenses]
    twice = sorted({name for name in names if names.count(name) > 1})
    require(not twice, "defenses", "told apart: give one of them a `name`", f"{', '.join(twice)} more than once")
    known: dict[str, str] = {}
    for name, defense, training in defenses:  # the victims of equal ones are the same, and have one name
        first = known.setdefault(fingerprint([describe(DEFENSES, defense), training.record()]), name)
        require(first == name, "defenses", "unlike each other", f"`{first}` and `{name}` with equal settings")


def _attackers(given: Mapping[str, Any], named: Collection[str]) -> Callable[[Defense], Sequence[Block]]:
    """What attackers do against a defense: the same against all, unless a suite knows what counters each."""
    common = {key: _list(given, key, empty=True) for key in STEALING}
    name = given["attacks"]
    if not isinstance(name, str) or name not in SUITES:
        for key in STEALING:
            unread = key in named and all(_has_own(entry, key) for entry in _list(given, "attacks"))
            require(not unread, key, "left out: every attack has its own", repr(given[key]))
        blocks = list(_blocks(given, common))
        return lambda _: blocks
    for key in ("labels", "treatments", "own", "accounts"):
        require(key not in named, key, f"left out: the suite `{name}` chooses them", repr(given[key]))
    pools, budgets = _checked_pools(common["pools"]), common["budgets"]

    def of(defense: Defense) -> Sequence[Block]:
        found = suite(name, pools, defense)
        return [replace(block, attacks=_with_budgets(block.attacks, budgets)) for block in found]

    return of


def _has_own(entry: Any, key: str) -> bool:
    """Whether an attack of a grid does not read what all have under this key."""
    settings = next(iter(entry.values()), None) if isinstance(entry, Mapping) else None
    if not isinstance(settings, Mapping):
        return False
    return key in settings or (key == "budgets" and "budget" in settings)


def _with_budgets(attacks: Sequence[Attack], budgets: Sequence[int]) -> Sequence[Attack]:
    """Each attack with each of the budgets, once; with its own if none is given."""
    found = [changed(attack, {"budget": n}, "budgets") for attack in attacks for n in budgets] if budgets else attacks
    return [attack for n, attack in enumerate(found) if attack not in found[:n]]


def _blocks(given: Mapping[str, Any], common: dict[str, list[Any]]) -> Iterator[Block]:
    """What attackers do, as small as can be worth a process: one block for each attack, budget and pool."""
    for entry in _list(given, "attacks"):
        name, own = _entry(entry, "attacks", ATTACKS)
        _not_renamed(own)
        how = common | {key: _list(own, key, empty=True) for key in STEALING if key in own}
        settings = {key: value for key, value in own.items() if key not in STEALING}
        if "budget" in settings and isinstance(entry, Mapping):
            require("budgets" not in own, "budgets", "left out beside `budget`", repr(own.get("budgets")))
            how["budgets"] = []
        kind = ATTACKS.find(name, "attacks")
        attacks = _with_budgets([a for a, _ in _swept(kind(), settings, f"attack {name}")], how["budgets"])
        for attack, pool in product(attacks, _checked_pools(how["pools"])):
            yield _checked(Block([attack], [pool], how["labels"], how["treatments"], how["own"], how["accounts"]))


def _checked(block: Block) -> Block:
    for mode in block.labels:
        require(mode in LABELS, "labels", f"of {', '.join(LABELS)}", f"`{mode}`")
    for treatments in block.treatments:
        require(isinstance(treatments, str), "treatments", "names joined by +, or an empty text", repr(treatments))
        for name in treatments.split("+") if treatments else []:
            pick(TREATMENTS, name, "treatments")
    _whole(block.own, "own")
    _whole(block.accounts, "accounts")
    require(0 not in block.accounts, "accounts", "at least 1", 0)
    for key in ("labels", "treatments", "own", "accounts"):
        require(bool(getattr(block, key)), key, "at least one", "an empty list")
    return block


def _checked_pools(pools: Sequence[Any]) -> Sequence[str]:
    require(bool(pools), "pools", "given", "none")
    for pool in pools:
        if isinstance(pool, str) and pool.startswith(OWN):
            require(owned_by(pool) >= 1, "pools", "own:N with N at least 1", f"`{pool}`")
        elif pool != NOTHING:
            _known_set(pool, "pools")
    return pools


def _outliers(given: Any, data: Sequence[str]) -> dict[str, list[str]]:
    for name in data:
        _known_set(name, "data")
    for key in given if isinstance(given, Mapping) else ():
        rule = f"by data sets of the grid: {', '.join(data)}"
        require(key in data, "outliers", rule, f"`{key}`{nearest(key, data)}")
    by_data = {name: several(given.get(name, []) if isinstance(given, Mapping) else given) for name in data}
    for name in (name for names in by_data.values() for name in names):
        _known_set(name, "outliers")
    return by_data


# Small parts ------------------------------------------------------------------------------------------------


def _entry(entry: Any, parameter: str, table: Registry[Any]) -> tuple[str, dict[str, Any]]:
    """A name, {name: settings}, or a method itself."""
    if isinstance(entry, str):
        return entry, {}
    if is_dataclass(entry) and not isinstance(entry, type):
        return describe(table, entry)
    rule = "a list of names, or of {name: {setting: value}}"
    require(isinstance(entry, Mapping) and len(entry) == 1, parameter, rule, repr(entry))
    ((name, settings),) = entry.items()
    return str(name), _settings({} if settings is None else settings, f"{parameter} {name}")


def _swept(method: T, settings: Mapping[str, Any], owner: str) -> Iterator[tuple[T, list[str]]]:
    """The method for each combination of the settings that are lists, and the words that tell it from the others."""
    options = {key: _options(getattr(method, str(key), None), value) for key, value in settings.items()}
    for key, values in options.items():
        require(bool(values), str(key), "a value, or a list of some to try", "an empty list")
    many = math.prod(map(len, options.values()))
    require(many <= MOST, owner, f"one of at most {MOST} combinations of settings", many)
    for chosen in product(*options.values()):
        told = zip(options.items(), chosen, strict=True)
        words = [f"{key}={value}" for (key, values), value in told if len(values) > 1]
        yield changed(method, dict(zip(options, chosen, strict=True)), owner), words


def _options(default: Any, value: Any) -> list[Any]:
    """The values to try: those of a list, unless the setting's one value is a list itself."""
    one = not isinstance(value, list) or (isinstance(default, tuple) and not any(isinstance(v, list) for v in value))
    return [value] if one else value


def _list(given: Mapping[str, Any], key: str, *, empty: bool = False) -> list[Any]:
    values = several(given[key])
    require(empty or bool(values), key, "at least one", "none")
    unique = [value for n, value in enumerate(values) if value not in values[:n]]
    require(len(unique) == len(values), key, "without repetitions", repr(values))
    return values


def _names(given: Mapping[str, Any], key: str) -> list[str]:
    values = _list(given, key)
    for value in values:
        require(isinstance(value, str), key, "a name, or a list of names", repr(value))
    return values


def _settings(given: Any, parameter: str) -> dict[str, Any]:
    require(isinstance(given, Mapping), parameter, "a mapping of settings", repr(given))
    return dict(given)


def _training(given: Any, epochs: int | None) -> dict[str, Any]:
    """Settings of the training, with the epochs that stand beside them."""
    training = _settings(given, "training")
    require(epochs is None or "epochs" not in training, "epochs", "given once: by itself or in `training`", epochs)
    return training if epochs is None else training | {"epochs": epochs}


def _whole(numbers: Sequence[Any], parameter: str) -> None:
    for n in numbers:
        whole = isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**63
        require(whole, parameter, "whole numbers of at least 0", repr(n))


def _known_net(name: str, parameter: str) -> None:
    if ":" in name:
        require(callable(imported(name, parameter)), parameter, "a callable that makes a network", f"`{name}`")
    else:
        check_name(name, parameter)


def _known_set(name: Any, parameter: str) -> None:
    rule = f"a set's name, or one of {', '.join(f'{kind}:PATH' for kind in OF_FILES)}"
    require(isinstance(name, str), parameter, rule, repr(name))
    try:
        found = files(name)
    except StealguardError as e:
        raise Invalid(parameter, f"{rule}, that is there", f"`{name}`") from e
    if found is None:
        pick(SETS, name, parameter)
