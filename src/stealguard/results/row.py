"""Audit rows: what is known of a victim, and what one theft from it gave. Importing this loads no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from stealguard.errors import Invalid, nearest, require
from stealguard.identity import fingerprint
from stealguard.results.metrics import METRICS
from stealguard.results.migrations import FORMAT, upgraded

STATUSES = ("ok", "skip", "failed")
LABELS = ("soft", "hard")
UNDEFENDED = "none"
CLEARLY = 0.005  # more accuracy after a renaming, which is measured on other inputs, that is a difference
NEEDED = ("benign_accuracy", "clone_accuracy", "agreement")


@dataclass(frozen=True)
class VictimFacts:
    """What is known of a victim; what is not known of a model that stealguard did not train is empty or None.

    Raises:
        Invalid: a value breaks its rule.
    """

    key: str  # SHA-256 (hex) of all that the victim's answers follow from; "" where it is not known
    name: str
    setting: str = (
        ""  # SHA-256 (hex) of all that the victim was made from but its seed: equal for samples of one setting
    )
    seed: int = 0
    data: str = ""
    data_hash: str = ""  # of the test set
    net: str = ""
    net_hash: str = ""  # of the structure of the net that is protected, without what a defense adds to it
    defense: str = ""  # "none" where there is none, "" where it is not known
    defense_settings: str = "{}"  # a JSON object
    outliers: tuple[str, ...] = ()  # names of the sets
    training: str = "{}"  # a JSON object
    classes: int | None = None
    shape: tuple[int, ...] = ()  # of one input
    metrics: Mapping[str, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        _check_fields(self)
        _check_object("defense_settings", self.defense_settings)
        _check_object("training", self.training)
        require(self.classes is None or self.classes >= 1, "classes", "a positive integer or None", self.classes)
        object.__setattr__(self, "metrics", _checked(self.metrics))

    @property
    def unknown(self) -> bool:
        """Whether nothing is known of how the victim was made, its defense above all."""
        return not self.defense

    @property
    def given(self) -> bool:
        """Whether the victim has the weights that `protect` was given: nothing was trained."""
        return json.loads(self.training).get("epochs") == 0  # type: ignore[no-any-return]

    def record(self) -> dict[str, Any]:
        """The facts as JSON data."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> VictimFacts:
        """The facts from JSON data. Raises `Invalid` where a field is unknown, missing or breaks its rule."""
        return cls(**_complete(cls, record, "victim"))


@dataclass(frozen=True)
class Row:
    """One theft: one attack, of one seed, on one victim, and the metrics of the clone that it gave.

    Accuracies are fractions in [0, 1] on the victim's test set. A row whose `status` is "ok" has at least
    `clone_accuracy` and `agreement`, and its victim has `benign_accuracy`; any other row gives its `reason`.

    Raises:
        Invalid: a value breaks its rule.
    """

    key: str  # SHA-256 (hex) of everything that the row follows from: see `key_of`
    victim: VictimFacts
    attack: str
    attack_settings: str  # a JSON object
    pool: str
    pool_hash: str
    in_family: bool  # the pool is a held-out part of the defender's own outliers
    labels: str  # "soft" | "hard"
    own: int  # labeled task samples that the attacker owns
    budget: int  # answers that the attacker may have
    queries: int  # answers that the attacker had
    seed: int
    clone: str  # name of the clone's architecture
    seconds: float
    status: str  # "ok" | "skip" | "failed"
    reason: str
    when: str  # ISO 8601, UTC
    version: str  # of stealguard
    torch: str
    python: str
    hardware: str
    threads: int
    treatment: str = ""  # what the attacker does with the answers: names of treatments joined by "+"
    accounts: int = 1  # accounts that the attacker queries with
    clone_hash: str = ""  # of the clone's structure
    device: str = ""
    precision: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        _check_fields(self)
        _check_object("attack_settings", self.attack_settings)
        object.__setattr__(self, "metrics", _checked(self.metrics))
        require(bool(self.key), "key", "the hash of what the row follows from", "an empty string")
        require(self.labels in LABELS, "labels", "`soft` or `hard`", f"`{self.labels}`")
        require(self.status in STATUSES, "status", "`ok`, `skip` or `failed`", f"`{self.status}`")
        for name in ("own", "budget", "queries"):
            require(getattr(self, name) >= 0, name, "a non-negative integer", getattr(self, name))
        require(self.accounts >= 1, "accounts", "a positive integer", self.accounts)
        require(0 <= self.seconds < math.inf, "seconds", "finite and non-negative", self.seconds)
        complete = None not in (self.benign_accuracy, self.clone_accuracy, self.agreement)
        require(self.status != "ok" or complete, "status", "`ok` only with every accuracy measured", self.status)
        require(self.status == "ok" or bool(self.reason), "reason", f"given where `{self.status}`", "none")

    @classmethod
    def of_theft(
        cls,
        *,
        key: str,
        victim: VictimFacts,
        attack: str,
        settings: Mapping[str, Any],
        pool: str,
        labels: str,
        clone: str,
        seed: int,
        budget: int,
        pool_hash: str = "",
        in_family: bool = False,
        treatment: str = "",
        own: int = 0,
        accounts: int = 1,
        clone_hash: str = "",
        queries: int = 0,
        metrics: Mapping[str, float | None] | None = None,
        seconds: float = 0.0,
        status: str = "ok",
        reason: str = "",
        device: str = "",
        precision: str = "",
    ) -> Row:
        """The row of a theft that ends now, in this process; metrics that are None are left out.

        Args:
            key: the hash of everything that the row follows from, see `key_of`.
            settings: the attack's, as JSON data.
            device, precision: where and how exactly the clone was trained; "" where it was not.
        """
        from stealguard.results.provenance import provenance

        return cls(
            key=key, victim=victim, attack=attack, attack_settings=json.dumps(settings, sort_keys=True), pool=pool,
            pool_hash=pool_hash, in_family=in_family, labels=labels, treatment=treatment, own=own, budget=budget,
            queries=queries, accounts=accounts, seed=seed, clone=clone, clone_hash=clone_hash, seconds=seconds,
            status=status, reason=reason, when=datetime.now(UTC).isoformat(timespec="seconds"),
            metrics={name: value for name, value in (metrics or {}).items() if value is not None},
            **provenance(device, precision),
        )  # fmt: skip

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Row:
        """A row from JSON data of any format so far. Raises `Invalid` where a field is unknown, missing or wrong."""
        values = {name: value for name, value in upgraded(record).items() if name != "format"}
        require(isinstance(values.get("victim", {}), Mapping), "victim", "a JSON object", repr(values.get("victim")))
        known = _complete(cls, values, "row")
        return cls(**known | {"victim": VictimFacts.of(known["victim"])})

    def record(self) -> dict[str, Any]:
        """The row as JSON data, the victim's facts nested: what `of` takes."""
        values = {f.name: _plain(getattr(self, f.name)) for f in fields(self) if f.name != "victim"}
        return {"format": FORMAT, "victim": self.victim.record(), **values}

    @property
    def benign_accuracy(self) -> float | None:
        return self.victim.metrics.get("benign_accuracy")

    @property
    def clone_accuracy(self) -> float | None:
        return self.metrics.get("clone_accuracy")

    @property
    def agreement(self) -> float | None:
        """The share of the test set on which the clone's most probable class is the victim's."""
        return self.metrics.get("agreement")

    @property
    def no_theft(self) -> float | None:
        """The accuracy that the attacker's own samples give without any query; None where it owns none."""
        return self.metrics.get("no_theft")

    @property
    def chance(self) -> float | None:
        """The accuracy of a clone that learned nothing: as measured, else one over the classes, if these are known."""
        known = self.victim.classes
        return self.metrics.get("chance", 1 / known if known else None)

    @property
    def renamed_accuracy(self) -> float | None:
        """Clone accuracy after the best renaming of its classes.

        Of two classes without a measurement: what swapping them gives, if the clone answers every input.
        """
        reached = self.clone_accuracy
        swapped = max(reached, 1 - reached) if reached is not None and self.victim.classes == 2 else None
        return self.metrics.get("renamed_accuracy", swapped)

    @property
    def stolen_accuracy(self) -> float | None:
        """What an attacker makes of the clone: its accuracy, or that after renaming its classes where that is more.

        The renaming is learned from 20 labeled samples; where that was not measured, it is the best one. It counts if
        it gives at least half a point more, since it is measured on fewer inputs, and more than the samples alone.
        """
        clone, best = self.clone_accuracy, self.renamed_accuracy
        if clone is None or best is None:
            return clone
        renamed = min(best, self.metrics.get("renamed_accuracy_20", best))
        alone = self.metrics.get("no_theft_20", 0.0)
        return renamed if renamed >= clone + CLEARLY and renamed > alone else clone


def key_of(**what: object) -> str:
    """SHA-256 (hex) of JSON-able values, whatever their order: equal makings give equal keys, in every process.

    Example:
        >>> results.key_of(a=1, b=2) == results.key_of(b=2, a=1)
        True
    """
    return fingerprint(what)


def to_records(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """A flat dict a row, all with the same keys, for CSV, JSON and `pandas.DataFrame`.

    Fields of the victim begin with `victim_`; metrics have their own names, None where one was not measured.

    Example:
        >>> records = results.to_records(results.read("docs/results/mnist-lenet5.jsonl"))
        >>> records[0]["attack"], records[0]["clone_accuracy"]
        ('knockoff', 0.8715)
    """
    kept = list(rows)
    measured = dict.fromkeys(name for row in kept for name in (*row.victim.metrics, *row.metrics))
    return [_flat(row) | {name: _measured(row, name) for name in measured} for row in kept]


def _flat(row: Row) -> dict[str, Any]:
    victim = {f"victim_{name}": value for name, value in row.victim.record().items() if name != "metrics"}
    theft = {name: value for name, value in row.record().items() if name not in ("format", "victim", "metrics")}
    return {"key": theft.pop("key"), **victim, **theft}


def _measured(row: Row, name: str) -> float | None:
    return row.metrics.get(name, row.victim.metrics.get(name))


# Rules --------------------------------------------------------------------------------------------------------

_KINDS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "int | None": (int, type(None)),
    "bool": (bool,),
    "float": (float, int),
    "tuple[str, ...]": (tuple,),
    "tuple[int, ...]": (tuple,),
    "Mapping[str, float]": (Mapping,),
    "VictimFacts": (VictimFacts,),
}


def _check_fields(of: VictimFacts | Row) -> None:
    for f in fields(of):
        _check_type(f.name, str(f.type), getattr(of, f.name))


def _check_type(name: str, kind: str, value: Any) -> None:
    ok = isinstance(value, _KINDS[kind]) and (kind == "bool" or not isinstance(value, bool))  # a bool is an int too
    require(ok, name, f"of type {kind}", repr(value))
    if isinstance(value, str):
        require(_encodable(value), name, "text that UTF-8 can hold", repr(value))
    elif isinstance(value, int) and kind != "bool":
        require(-(2**63) <= value < 2**63, name, "an integer of 64 bits", value)  # what SQLite holds
    elif isinstance(value, tuple):
        for one in value:
            _check_type(name, "str" if "str" in kind else "int", one)


def _encodable(text: str) -> bool:
    """False for lone surrogates, which JSON may hold and no file or database takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _checked(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Metrics by name, as floats in their ranges; unknown names are allowed where the value is finite."""
    for name, value in metrics.items():
        _check_type("metrics", "str", name)
        known = METRICS.get(name)
        fraction = known is not None and known.high == 1
        low, high = known[:2] if known else (-math.inf, math.inf)
        rule = "a fraction in [0, 1] or None" if fraction else "finite and non-negative" if known else "finite"
        number = isinstance(value, float | int) and not isinstance(value, bool)
        require(number and low <= value <= high and abs(value) <= _LARGEST, name, rule, value)
    return {name: float(metrics[name]) for name in sorted(metrics)}


_LARGEST = 1.7976931348623157e308  # of the finite floats


@lru_cache(maxsize=4096)
def _check_object(name: str, text: str) -> None:
    """A text that holds a JSON object."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    require(isinstance(found, dict), name, "the text of a JSON object", repr(text[:80]))


def _plain(value: Any) -> Any:
    """A field as JSON data."""
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value


def _complete(cls: type[VictimFacts] | type[Row], record: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The record with lists as tuples. Raises `Invalid` for a name that is unknown, or missing without a default."""
    known = {f.name: f for f in fields(cls)}
    for name in sorted(record.keys() - known.keys()):
        raise Invalid(name, f"a field of a {what}", f"`{name}`{nearest(name, known)}")
    needed = [f.name for f in known.values() if f.default is MISSING and f.default_factory is MISSING]
    missing = [name for name in needed if name not in record]
    require(not missing, what, "complete", f"no {', '.join(missing)}")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in record.items()}
