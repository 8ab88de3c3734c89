"""Audit: a victim and the ways to steal it -> rows, in a store that resumes."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import torch
from filelock import BaseFileLock, FileLock, Timeout
from torch import Tensor, nn

from stealguard import data as sets
from stealguard.attacks import ATTACKS, Knockoff
from stealguard.attacks.base import Attack, OpeningAttack
from stealguard.attacks.recovery import Resources
from stealguard.attacks.treatments import treated
from stealguard.auditing.beside import Before, beside, helping
from stealguard.auditing.owned import fine_tuned, near_task, no_theft_accuracy, owned
from stealguard.auditing.plan import Architecture, Pool, Theft, architecture, thefts
from stealguard.auditing.remote import HONEST, Remote
from stealguard.auditing.resuming import checked
from stealguard.auditing.suites import NOTHING, SUITES, Block, suite
from stealguard.auditing.utility import boxed, utility
from stealguard.auditing.victim import Given, Victim, by_account, remembers, renewed, victim_of
from stealguard.boxes import AccountsInTurn, AnswerLedger, Boxed, Labels, LedgerError, ManyAccounts, Metered
from stealguard.boxes.metered import check_answers
from stealguard.boxes.users import ACCOUNT, everything, served
from stealguard.data.roles import chosen, several, unseen
from stealguard.defenses.base import Defense
from stealguard.devices import choose, device_of
from stealguard.errors import (
    BudgetExhausted,
    NoAnswers,
    NotApplicable,
    Refused,
    StealguardError,
    counted,
    pick,
    require,
)
from stealguard.identity import code_of, fingerprint, tensor_hash
from stealguard.progress import Tick, bar
from stealguard.releases import Release
from stealguard.results import STORE, Row, Rows, Store, VictimFacts
from stealguard.results.honest import PoorAnswers, audited_at_chance
from stealguard.results.metrics import accuracy, agreement, chance
from stealguard.results.renaming import best_renaming, renamed_accuracy
from stealguard.seeds import derive, seeded
from stealguard.settings import changed, create, describe
from stealguard.types import Asked, BlackBox

UNKNOWN = (
    "identity: the server tells none, so rows of an earlier audit count as this model's where it answers all test "
    "inputs as then (with another `store` nothing is taken from earlier)"
)
SILENT = "as after a refusal in an earlier theft or with a spent budget"
TRIES = 100  # to make a lock that other processes remove
RENAMED_WITH = 20  # labeled samples
TOLD_APART_BY = 1000  # inputs of a pool
TOLD = 0.01  # share of a pool's numbers that are clamped
NARROW = 0.05  # share of the range of the training inputs that a pool in the same units fills, at least


def audit(
    victim: Any,
    attacks: Any = None,
    pools: Any = None,
    labels: str | Sequence[str] | None = None,
    *,
    budgets: int | Sequence[int] = (),
    treatments: str | Sequence[str] | None = None,
    own: int | Sequence[int] | None = None,
    accounts: int | Sequence[int] | None = None,
    seeds: int | Sequence[int] = (0,),
    clone: str | nn.Module | None = None,
    data: Any = None,
    net: str | nn.Module | None = None,
    defense: str | type[Defense] | None = None,
    resize: bool = False,
    store: str | Path | None = None,
    device: str | torch.device | None = None,
    workers: int = 1,
    progress: bool = True,
) -> Rows:
    """Steal the victim in every combination of what is given, and measure each clone.

    A row that the store already has is not computed again, and an attack that was killed asks only what it has not
    been answered yet, so an audit that was interrupted goes on where it stopped. Where the victim's guard remembers
    an account's queries, that attack begins anew, and so does an `OpeningAttack`.

    Args:
        victim: a release or its folder; or any other `Victim`, or what `Given` takes: a module, a scikit-learn
            classifier, a function, `module:callable`, an `.onnx` file. A model behind a server is a `Remote`.
        attacks: KnockoffNets if None; an attack or its name, `module:Class`, or several of these; or the name of a
            suite (`quick`, `adaptive`, `standard`, `full`), which brings its own budgets, labels, treatments and owned
            samples; all but `quick` have the attacks that counter a release's defense, over several accounts where
            its answers depend on the account.
        pools: what attackers query with: one or several of what `stealguard.data.images` takes. Of a pool that is one
            of the defender's outlier families, the part is queried that the defender did not train on; test inputs of
            the task are left out. `own:N` is N task samples, with altered copies of them as far as the budget goes;
            `nothing` is for attacks that make their own queries, and their only pool if None. A set with the role
            `near-task` (`digits`) has inputs that anyone can make who knows the task. The families that fit the inputs'
            shape if None.
        labels: `soft` (answers as they are) and `hard` (the most probable class only); both if None.
        budgets: how many inputs may be answered, where it is not the attacks' own number.
        treatments: what attackers do with the answers: "" for nothing, or names in `TREATMENTS` joined by "+"; nothing
            if None.
        own: how many labeled task samples attackers fine-tune the clone on; none if None. With a pool `own:N` they have
            N at least.
        accounts: over how many accounts of the victim the budget is divided (see `ManyAccounts`); an `OpeningAttack`
            opens them when it likes, and so many at most. If None, one, or as many as a `Remote` has keys, or the
            numbers of a suite.
        seeds: one attack for each.
        clone: the clone's architecture: a name or `module:callable`, drawn anew for each seed; or a module, which is
            taken as it is. The victim's own, drawn anew, if None; for a victim that shows none, one by the shape.
        data: the task, where the victim is not a release made from data with a name.
        net: the protected network of a release's folder, where it is the user's own: `module:callable`, or a module
            like it.
        defense: the class of the release's defense or its `module:Class`, where it is the user's own.
        resize: fit pools of another shape to the victim's inputs.
        store: the SQLite file for the rows; if None, `audit.sqlite` in the release's folder, or in `runs/audit-NAME`.
        device: where clones run, and a victim that is read here: a release's folder, or a torch module that is no
            victim yet. Where the victim is if None, and a folder is read to the processor then.
        workers: processes that steal at the same time, each with its share of torch's threads. They are spawned, so a
            script that asks for more than one is a file and needs `if __name__ == "__main__":`; what it changes of
            torch's switches below that line does not hold in them, but for deterministic algorithms. 1 for a `Remote`.
        progress: show bars.

    Raises:
        Invalid: a parameter breaks its rule; nothing is asked or written then.

    Warns:
        PoorAnswers: the victim is right on no more test inputs than guessing is.

    Example:
        >>> data = torch.rand(90, 4), torch.arange(90) % 3
        >>> victim = sg.Given(nn.Sequential(nn.Linear(4, 3)), shape=(4,), classes=3)
        >>> attack = sg.attacks.Knockoff(budget=50)
        >>> pool = torch.rand(50, 4)
        >>> rows = sg.audit(victim, [attack], [pool], "soft", data=data, store="rows.sqlite", progress=False)
        >>> [(row.attack, row.queries, row.status) for row in rows]
        [('knockoff', 50, 'ok')]
    """
    given = {**locals(), "workers": 1, "progress": False}
    require(isinstance(workers, int) and workers >= 1, "workers", "a whole number of at least 1", workers)
    victim = victim_of(victim, net=net, defense=defense, device=device)
    require(workers == 1 or not isinstance(victim, Remote), "workers", "1 for a model behind a server", workers)
    task = _task(victim, data)
    shape = tuple(task.train.x.shape[1:])
    if isinstance(victim, Given | Remote):
        victim = victim.fitted(shape, task.classes, task.names)
    if isinstance(attacks, str) and attacks in SUITES:
        brought = {"labels": labels, "budgets": budgets or None, "treatments": treatments, "own": own}
        for name, value in brought.items():
            require(value is None, name, f"left out: the suite `{attacks}` chooses them", value)
        families = _families(pools, [], shape, progress)
        blocks = suite(attacks, families, victim, None if accounts is None else _many(accounts))
    else:
        made = _attacks(attacks, _many(budgets))
        if accounts is None and isinstance(victim, Remote):
            accounts = victim.accounts
        parts = {"labels": labels, "treatments": treatments, "own": own, "accounts": accounts}
        combined = {name: _many(part) for name, part in parts.items() if part is not None}
        blocks = [Block(made, _families(pools, made, shape, progress), **combined)]
    where = choose(device) if device is not None else _device(victim)
    clones = architecture(victim, clone, task.classes, where, shape)
    planned = [t for block in blocks for t in thefts(victim, task, block, _many(seeds), clones, resize=resize)]
    required = "attacks, pools, labels, treatments, own, accounts, seeds"
    require(bool(planned), required, "at least one of each", "an empty list")
    if isinstance(victim, Remote):
        victim.check_accounts(max(theft.accounts for theft in planned))
    planned[0].fresh()  # a clone that cannot be built is found before anything is asked
    if progress:
        _tell(victim, task, planned)
    path = Path(store or (victim.folder if isinstance(victim, Release) else home(victim.name)) / STORE)
    kept = Store(path)
    work = _Audit(victim, task, path.with_name(f"{path.name}.answers"), where, progress=progress)
    keys = [work.key(theft) for theft in planned]
    plan = dict(zip(keys, planned, strict=True))
    helped = helping()
    before = {key: kept.get(key) for key in plan} if helped is None else helped
    if helped is None and (poor := _poor(work, task, [row for row in map(kept.get, plan) if row])):
        warnings.warn(poor, PoorAnswers, stacklevel=2)
    with (
        beside(min(workers, sum(not _done(kept, key) for key in plan)) - 1, audit, given, before),
        bar(f"audit {victim.name}", len(plan), show=progress) as tick,
    ):
        _carry_out(work, plan, kept, before, tick, waits=helped is None)
    if helped is None:
        done = [key for key in plan if _done(kept, key)]
        work.close(done, complete=len(done) == len(plan))
    return Rows(found for found in map(kept.get, plan) if found is not None)


def _carry_out(
    work: _Audit, plan: Mapping[str, Theft], kept: Store, before: Before, tick: Tick, *, waits: bool
) -> None:
    """Steal whatever is not done, and put the rows into the store; other processes may do the same.

    Args:
        before: a row that failed is tried again if it failed before the audit began.
        tick: tells how far this is.
        waits: whether this process waits for what others are doing, in the end.
    """

    def over(key: str) -> bool:
        return _done(kept, key) or kept.get(key) != before.get(key)

    for wait in (False, True) if waits else (False,):
        for key, theft in plan.items():
            if over(key):
                continue
            how = f"{theft.labels} {theft.treatment} accounts {theft.accounts:,} seed {theft.seed}"
            tick(sum(map(over, plan)), f"{theft.name} {theft.pool.name} {how}")
            with work.alone(key, wait=wait) as mine:
                if mine and not over(key):  # another process may have done it meanwhile
                    kept.put(work.row(key, theft))
                if mine and _done(kept, key):  # else the next try need not pay for the same answers
                    work.forget(key)


def _poor(work: _Audit, task: sets.Task, known: Sequence[Row]) -> str:
    """What must be told of a victim that is no better than chance; "" of others. Known rows save asking it again."""
    facts = known[0].victim if known else work.facts
    return audited_at_chance(facts.metrics["benign_accuracy"], chance(task.test.y), len(task.test.y))


def _done(kept: Store, key: str) -> bool:
    known = kept.get(key)
    return known is not None and known.status != "failed"


def _many(value: Any) -> list[Any]:
    """One value or several, as a list."""
    return list(value) if isinstance(value, Sequence | range) and not isinstance(value, str) else [value]


def _attacks(given: Any, budgets: Sequence[int]) -> list[Attack]:
    """The attacks that are named or given, each with each budget."""
    chosen: list[Attack] = [Knockoff()] if given is None else [_attack(one) for one in _many(given)]
    return [changed(attack, {"budget": n}, "attack") for attack in chosen for n in budgets] if budgets else chosen


def _attack(given: Any) -> Attack:
    if isinstance(given, str):
        if ":" not in given:
            pick(dict.fromkeys([*SUITES, *ATTACKS.names]), given, "attacks")
        return create(ATTACKS, given, {}, "attacks")
    complete = all(hasattr(given, name) for name in ("budget", "needed")) and callable(given)
    require(complete and not isinstance(given, type), "attacks", "attacks, their names or a suite's", repr(given))
    return given  # type: ignore[no-any-return]


def _families(pools: Any, attacks: Sequence[Attack], shape: tuple[int, ...], progress: bool) -> list[Any]:
    """The pools that are given, or those that fit the shape; none to read where all attacks make their own queries."""
    if pools is not None:
        return several(pools)
    if attacks and all(map(_free, attacks)):
        return [NOTHING]
    families = unseen(shape)
    if progress:
        print(f"pools: {chosen(families, shape)}", file=sys.stderr)
    return families


def _free(attack: Attack) -> bool:
    """Whether an attack makes its own queries, as it says itself."""
    return getattr(attack, "data_free", False)


def _device(victim: Victim) -> torch.device:
    module = victim.model if isinstance(victim, Release) else victim.module if isinstance(victim, Given) else None
    return torch.device("cpu") if module is None else device_of(module)


def home(name: str) -> Path:
    """Where rows about a victim of that name, which has no folder of its own, are kept unless the caller says where.

    >>> home("models:mine").as_posix()
    'runs/audit-models-mine'
    """
    return Path("runs") / f"audit-{''.join(sign if sign.isalnum() or sign in '-_.' else '-' for sign in name)}"


def _tell(victim: Victim, task: sets.Task, planned: Sequence[Theft]) -> None:
    notes = [f"data: {note}" for note in task.notes]
    if isinstance(victim, Remote):
        spent = sum(theft.attack.budget for theft in planned)
        tested, stolen = counted(len(task.test.x), "test input"), counted(len(planned), "theft")
        notes.append(f"queries: {tested}, and at most {spent:,} of {stolen}")
        if not victim.identity:
            notes.append(UNKNOWN)
        needed = sum(theft.accounts for theft in planned)
        if needed > victim.accounts:
            use = f"{counted(len(planned), 'theft')} use {needed:,} accounts, of {counted(victim.accounts, 'key')}"
            notes.append(f"keys: {use}: a server that remembers accounts judges some thefts by earlier ones")
        most = max(theft.accounts for theft in planned)
        if most < victim.accounts:
            notes.append(
                f"keys: a theft asks with {most:,} of {victim.accounts:,} at most, as `accounts` or a suite says"
            )
    for name, unread in dict.fromkeys((theft.name, theft.pool.name) for theft in planned if _free(theft.attack)):
        if unread != NOTHING:
            notes.append(f"pools: `{name}` makes its own queries, and asks none of `{unread}`")
    for pool in {theft.pool.name: theft.pool for theft in planned}.values():
        notes += _told_of(pool)
    for note in notes:
        print(note, file=sys.stderr)


def _told_of(pool: Pool) -> Iterator[str]:
    if pool.dropped:
        yield f"pools: inputs of `{pool.name}` that are test inputs of the task, and are not queried: {pool.dropped:,}"
    if pool.clamped >= TOLD:
        share = f"{100 * pool.clamped:.0f} % of the numbers of `{pool.name}`"
        yield f"pools: {share} are beyond the bounds of the training inputs, and are clamped to them"
    if pool.span < NARROW:
        share = f"{100 * pool.span:.1f} % of the range of the training inputs"
        yield f"pools: `{pool.name}` fills {share}: its numbers may be in other units"


def _task(victim: Victim, data: Any) -> sets.Task:
    """The task, in the release's own units; a release is audited with the data that it was made from.

    Raises:
        Invalid: none is given, or it is not the victim's; says what differs.
    """
    if not isinstance(victim, Release):
        require(data is not None, "data", "given: nothing else tells what the victim's classes are", "none")
        task = sets.task(data)
        _check_shape(task, victim.shape)
        return _check_classes(task, victim.output.classes, victim.output.names)
    made = victim.recipe["data"]
    task = victim.task(data)
    _check_shape(task, victim.shape)
    _check_classes(task, victim.output.classes, victim.output.names)
    if data is None or task.name == made["name"]:
        for part in ("train", "test"):
            now, then = getattr(task, f"{part}").hash, made[f"{part}_sha256"]
            rule = f"what the release was made from: its {part} inputs had SHA-256 {then[:12]}"
            require(now == then, "data", rule, f"{now[:12]} in `{task.name}`")
    return task


def _check_shape(task: sets.Task, shape: tuple[int, ...]) -> None:
    found = tuple(task.test.x.shape)
    require(not shape or found[1:] == shape, "data", f"of shape (N, {', '.join(map(str, shape))})", found)


def _check_classes(task: sets.Task, classes: int, names: tuple[str, ...]) -> sets.Task:
    rule = f"of the victim's {classes} classes"
    require(classes in (0, task.classes), "data", rule, f"{task.classes} classes in `{task.name}`")
    same = not names or not task.names or names == task.names
    require(same, "data", f"{rule}, {', '.join(names)}", ", ".join(task.names))
    return task


class _Account:
    """The box of an account, and whether it is `silent`: its first request was refused, and so would be any other."""

    def __init__(self, box: BlackBox):
        self._box, self._asked, self.silent = box, False, False

    def __call__(self, x: Tensor, /) -> Tensor:
        first, self._asked = not self._asked, True
        try:
            return self._box(x)
        except (BudgetExhausted, Refused) as refusal:
            self.silent |= first and not refusal.left
            raise


class _Audit:
    """Carries out thefts from one victim, and measures the clones on the task's test set.

    Args:
        answers: a folder for what attackers are answered until their rows are safe.
        device: where clones run.
        progress: whether to tell what becomes of answers that were kept.
    """

    def __init__(self, victim: Victim, task: sets.Task, answers: Path, device: torch.device, *, progress: bool):
        self._victim, self._task, self._folder, self._device = victim, task, answers, device
        self._progress = progress
        self._line, self._near_line = cache(self._no_theft), cache(self._no_theft_near)
        self._of_pool: dict[str, str] = {}

    @cached_property
    def _answers(self) -> Tensor:
        """The victim's answers to the test inputs, as its users get them; uniform where an account is refused.

        Users are many, as where a release is made. Only a remote victim has one account for all of them.
        """
        victim, x, classes = renewed(self._victim), self._task.test.x, self._task.classes
        box = boxed(victim, HONEST, self._task.scaling)
        if not isinstance(victim, Remote):
            each = partial(boxed, victim, scaling=self._task.scaling)
            found = served(each, x, classes) if self._many_users else everything(box, x, classes)
            return check_answers(found, len(x), victim.name, classes)
        with self.alone(self._honest):
            told = "" if self._victim.identity else checked(self._folder / self._honest, box, x, classes)
            if told and self._progress:
                print(f"resuming: {told}", file=sys.stderr)
            ledger = self._ledger(box, self._honest)
            try:
                return everything(ledger, x, classes)
            finally:
                ledger.close()

    @cached_property
    def _many_users(self) -> bool:
        """Whether users ask from accounts of their own, since it may matter to the answers who asks."""
        victim = self._victim
        return remembers(victim) or (by_account(victim) and not isinstance(victim, Remote))

    @cached_property
    def _of_users(self) -> dict[str, float]:
        """How many inputs each user asks, and what all of them give from one account, where accounts matter."""
        x, y = self._task.test
        if not self._many_users:
            return {"user_queries": len(x)} if isinstance(self._victim, Remote) else {}
        found = {"user_queries": float(min(ACCOUNT, len(x)))}
        if remembers(self._victim) and len(x) > ACCOUNT:
            box = boxed(renewed(self._victim), HONEST, self._task.scaling)
            found["one_account_accuracy"] = accuracy(everything(box, x, self._task.classes), y)
        return found

    @cached_property
    def _honest(self) -> str:
        """The name of the file with a remote victim's answers to the test inputs."""
        return f"test-{fingerprint([*self._source, self._task.test.hash])}"

    @cached_property
    def _source(self) -> list[str]:
        """Where the answers come from, in a list; an empty one where the victim is in this process."""
        return [self._victim.source] if isinstance(self._victim, Remote) else []

    @cached_property
    def _code(self) -> list[str]:
        """Of the user's own code that a release's answers follow from, beside its weights and settings, in a list.

        The structure of the user's own net counts where it is not the one that was protected.
        """
        if not isinstance(self._victim, Release):
            return []
        own = code_of(type(self._victim.defense)), self._victim.structure
        return [code for code in own if code not in ("", self._victim.recipe["structure"])]

    @cached_property
    def _identity(self) -> str:
        """Of the victim; for a victim without one, the hash of its answers to the test inputs."""
        return self._victim.facts().key or self._victim.identity or f"answers-{tensor_hash(self._answers)}"

    @cached_property
    def facts(self) -> VictimFacts:
        test = self._task.test
        facts = self._victim.facts()
        found = utility(self._victim, self._answers, test.x, test.y, self._task.scaling)
        return replace(
            facts, key=self._identity, data=facts.data or self._task.name, data_hash=self._task.test.hash,
            classes=self._task.classes, shape=tuple(test.x.shape[1:]),
            metrics={**facts.metrics, **found, **self._of_users},
        )  # fmt: skip

    def _told_apart(self, pool: Pool) -> list[str]:
        """Of a scikit-learn classifier the hash of its answers to the pool, in a list.

        Another one may answer the test inputs, which are few, alike.
        """
        if not (isinstance(self._victim, Given) and self._victim.fitted_here):
            return []
        if pool.x.hash not in self._of_pool:
            box, self._of_pool[pool.x.hash] = boxed(self._victim, HONEST, self._task.scaling), ""
            with suppress(StealguardError):  # the theft says why there are no answers
                self._of_pool[pool.x.hash] = tensor_hash(everything(box, pool.x[:TOLD_APART_BY], self._task.classes))
        return [self._of_pool[pool.x.hash]]

    def key(self, theft: Theft) -> str:
        """SHA-256 (hex) of everything that the theft's row follows from."""
        name, settings = describe(ATTACKS, theft.attack)
        made_from = self._victim.recipe["data"]["train_sha256"] if isinstance(self._victim, Release) else ""
        train = self._task.train.hash  # of which the no-theft lines are drawn; a release's own follow from its identity
        train = train if theft.own or train != made_from else ""
        users = [f"users of {ACCOUNT}"] if self._many_users else []  # whose answers clones are compared with
        return fingerprint([
            *self._source, *self._code, *self._told_apart(theft.pool), self._identity, self._victim.facts().setting,
            self._task.test.hash, train, name, settings, code_of(type(theft.attack)), *theft.pool.content, theft.labels,
            theft.treatment, theft.own, theft.tunes, theft.accounts, theft.seed, theft.clone.hash, self._device.type,
            *users,
        ])  # fmt: skip

    def _ledger(self, box: BlackBox, name: str) -> AnswerLedger:
        """The box with a ledger of that name."""
        rows = self._victim.rows if isinstance(self._victim, Remote) else None
        return AnswerLedger(box, self._folder / name, self._victim.name, rows, self._task.classes)

    def row(self, key: str, theft: Theft) -> Row:
        """Steal once and measure; an attack that cannot be finished gives a row that says why."""
        facts, started = self.facts, time.perf_counter()  # users' answers first: an attack may spend the whole budget
        status, reason, metrics = "ok", "", dict[str, float]()
        accounts: list[_Account] = []
        with self._box(key, theft, accounts) as box:
            try:
                if theft.accounts > 1 and not by_account(self._victim):
                    raise NotApplicable("This victim's answers do not depend on the account.")
                metrics = self._measured(self._steal(box, theft), theft)
            except NotApplicable as e:
                status, reason = "skip", str(e)
            except LedgerError:
                raise
            except NoAnswers as e:
                status, reason = "failed", box.refusal or str(e)
            except StealguardError as e:
                status, reason = "failed", str(e)
            except (Exception, SystemExit) as e:  # an attack or a victim of somebody else's: the other thefts go on
                status, reason = "failed", f"{type(e).__name__}: {(str(e).splitlines() or [''])[0]}"
                if box.refusal and not box.spent:  # few attacks can do anything without a single answer
                    reason = box.refusal
        silent = sum(account.silent for account in accounts)
        if silent and isinstance(self._victim, Remote):  # elsewhere nobody has asked from them before
            metrics["silent_accounts"] = silent
            note = f"{counted(silent, 'account')} of {theft.accounts:,} answered nothing, {SILENT}."
            reason = f"{reason} {note}".strip()
        name, settings = describe(ATTACKS, theft.attack)
        return Row.of_theft(
            key=key, victim=facts, attack=name, settings=settings, pool=theft.pool.name,
            pool_hash=theft.pool.x.hash, in_family=theft.pool.in_family, labels=theft.labels,
            treatment=theft.treatment, own=theft.own, accounts=theft.accounts, budget=theft.attack.budget,
            queries=box.spent, seed=theft.seed, clone=theft.clone.name, clone_hash=theft.clone.hash,
            metrics=metrics, seconds=time.perf_counter() - started, status=status, reason=reason,
            device=self._device.type,
        )  # fmt: skip

    @contextmanager
    def alone(self, key: str, *, wait: bool = True) -> Iterator[bool]:
        """One process at a time carries out a theft; the answers that it has paid for are in one file.

        Gives whether it is this process, which it is in the end where it waits.
        """
        lock = self._locked(self._folder / f"{key}.lock", wait=wait)
        try:
            yield lock is not None
        finally:
            if lock is not None:
                lock.release()

    def _locked(self, path: Path, *, wait: bool) -> BaseFileLock | None:
        """The lock at that path, held; None where another process holds it and this one does not wait.

        Another process that has done everything may remove it, and the folder.
        """
        for _ in range(TRIES):
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path)
            with suppress(FileNotFoundError):
                try:
                    lock.acquire(timeout=-1 if wait else 0)
                except Timeout:
                    return None
                if path.exists():
                    return lock
                lock.release()
        raise StealguardError(f"The lock `{path}` cannot be made.")

    def forget(self, key: str) -> None:
        """Drop what an attacker was answered: its row is safe."""
        (self._folder / key).unlink(missing_ok=True)

    def close(self, done: Iterable[str], *, complete: bool) -> None:
        """Remove the locks, and the folder of answers if nothing is kept in it.

        Args:
            done: the thefts whose rows are safe.
            complete: whether all are; else a remote victim's answers to the test inputs are kept.
        """
        for key in done:
            self.forget(key)
        if complete:
            self.forget(self._honest)
        if self._folder.is_dir():
            for lock in self._folder.glob("*.lock"):
                with suppress(Timeout, OSError), FileLock(lock, timeout=0):  # else another process holds it
                    if not lock.with_suffix("").exists():
                        lock.unlink(missing_ok=True)
            with suppress(OSError):
                self._folder.rmdir()

    @contextmanager
    def _box(self, key: str, theft: Theft, accounts: list[_Account]) -> Iterator[Metered | AccountsInTurn]:
        """The box of the attacker, whose accounts have asked nothing yet; it counts queries.

        Each account is added to `accounts` when it is first used.
        Answers to an attack that opens accounts when it likes are in no ledger: what it learns from refusals has to be
        asked again.
        """
        victim, budget = renewed(self._victim, derive(theft.root, "first key")), theft.attack.budget

        def connect(number: int) -> BlackBox:
            box = _Account(boxed(victim, f"attacker {key[:16]} {number}", self._task.scaling))
            accounts.append(box)
            return Labels(box) if theft.labels == "hard" else box

        if isinstance(theft.attack, OpeningAttack):
            rows = victim.request_rows if isinstance(victim, Remote) else None
            yield AccountsInTurn(connect, theft.accounts, budget, victim.name, rows)
            return
        if remembers(victim):  # what the guard remembered of an attacker that was killed is gone
            (self._folder / key).unlink(missing_ok=True)
        ledger = self._ledger(ManyAccounts(connect, theft.accounts, budget), key)
        try:
            yield Metered(ledger, budget, victim.name)
        finally:
            ledger.close()

    def _measured(self, clone: nn.Module, theft: Theft) -> dict[str, float]:
        test, classes = self._task.test, self._task.classes
        stolen = everything(Boxed(clone, tuple(test.x.shape[1:])), test.x)
        check_answers(stolen, len(test.y), "clone", classes)
        found = {
            "clone_accuracy": accuracy(stolen, test.y),
            "agreement": agreement(stolen, self._answers),
            "chance": chance(test.y),
            "renamed_accuracy": best_renaming(stolen, test.y),
        }
        if len(test.y) > RENAMED_WITH:  # a renaming is measured on samples that it was not learned from
            renamed = renamed_accuracy(stolen, test.y, RENAMED_WITH, seed=theft.seed)
            found[f"renamed_accuracy_{RENAMED_WITH}"] = renamed
        if theft.own:
            found["no_theft"] = self._line(theft.own, theft.seed, theft.clone)
        if len(self._task.train.x) >= RENAMED_WITH:
            found[f"no_theft_{RENAMED_WITH}"] = self._line(RENAMED_WITH, theft.seed, theft.clone)
        near = self._near_line(theft.pool.name, theft.seed, theft.clone)
        return found if near is None else found | {"no_theft_pool": near}

    def _steal(self, box: Asked, theft: Theft) -> nn.Module:
        with seeded(derive(theft.root, "treatments")):
            fresh = partial(theft.clone.fresh, theft.pool.x)
            resources = Resources(theft.pool.x, fresh, derive(theft.root, "recovery"))
            box = treated(box, theft.treatment.split("+") if theft.treatment else [], resources)
            clone = theft.attack(box, theft.pool.x, theft.fresh(), seed=derive(theft.root, "attack"))
        require(isinstance(clone, nn.Module), "attack", "one that returns the trained clone", type(clone).__name__)
        if theft.tunes:
            own = owned(self._task.train, theft.own, seed=theft.seed)
            clone = fine_tuned(clone, own, seed=derive(theft.root, "own"))
        return clone

    def _no_theft(self, own: int, seed: int, clone: Architecture) -> float:
        """What so many owned samples give alone."""
        return self._alone(owned(self._task.train, own, seed=seed), derive(seed, "no theft", own), clone)

    def _no_theft_near(self, pool: str, seed: int, clone: Architecture) -> float | None:
        """What the attacker's own labels of a near-task pool give alone; None for any other pool."""
        near = near_task(pool, self._task)
        return None if near is None else self._alone(near, derive(seed, "no theft", pool), clone)

    def _alone(self, samples: sets.Split, seed: int, clone: Architecture) -> float:
        return no_theft_accuracy(clone.fresh(samples.x, seed=seed), samples, self._task.test, seed=seed)
