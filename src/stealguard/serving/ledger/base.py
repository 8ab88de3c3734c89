"""What every ledger has in common: leases, rates, and the words. Importing this loads no torch.

A ledger counts rows before they are computed. `reserve` either has all rows of a request counted, durably, or raises;
nothing is answered before it returns. So that most requests need no disk and no network, a server counts some rows
ahead, which are its lease, and hands them out from memory. The store then holds the rows that were answered plus those
of the leases. It follows that

- no more rows are answered than the budget has, by however many servers;
- a server that is killed has answered no row that is not counted. Lost to the account are the rows of its lease, and
  the rows of the requests under way.

A lease has FIRST rows, or twice as many as the account asks of the net in a second, up to LEASE. It is returned when it
was not used for IDLE seconds, when more than FIRST rows are left of it after these, since the account asks less than
before, and when the server ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from stealguard.errors import BudgetExhausted, StealguardError, counted, require
from stealguard.serving.keys import Key

if TYPE_CHECKING:
    from stealguard.boxes.accounts import States

FIRST = 256  # rows that a server counts ahead of an account that asks little
LEASE = 4_096  # and at most
SHARE = 16  # a lease is at most this part of what is left of the budget, so that it shrinks as the end comes near
IDLE = 10.0  # seconds after which an unused lease is returned
TICK = 0.5  # seconds between two looks for other processes' changes, idle leases and what is to be written
HISTORY_DAYS = 90.0
EVENTS = 100_000  # entries of the history that wait while the store fails, at most
KNOWN_KEYS = 10_000  # keys in memory, at most
UNLIMITED = 2**53  # in place of a budget: the largest whole number that floats, and so Redis's scripts, hold exactly

Outcome = Literal["answered", "refused", "budget", "rate", "failed"]

_log = logging.getLogger("stealguard.serving")


class Spent(BudgetExhausted):
    """The account's budget has fewer rows left than were asked for; `left` of them. None is reserved."""


class TooFast(StealguardError):
    """The key asks faster than its rate allows; the request can be made again after `retry_after` seconds."""

    def __init__(self, message: str, retry_after: float):
        super().__init__(message)
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[type[TooFast], tuple[str, float]]:
        return type(self), (str(self), self.retry_after)


class LedgerUnavailable(StealguardError):
    """The ledger cannot be read or written, so that nothing may be answered; names the ledger and the reason."""


class Event(NamedTuple):
    """What an account asked of a model within one second, with one key and one outcome.

    Attributes:
        at: seconds since 1970.
        account: its name.
        key: the key's id.
        model: the model's name.
        rows: of the requests together.
        outcome: answered; refused by the guard; beyond the budget or the rate; or failed.
        requests: how many.
        suspicion: what the guard held against the account after the last of them, where it says so.
        hashes: SHA-256 of each input in hex, where the server's owner keeps them.
    """

    at: float
    account: str
    key: str
    model: str
    rows: int
    outcome: Outcome
    requests: int = 1
    suspicion: float | None = None
    hashes: tuple[str, ...] = ()


class Keys(Protocol):
    """A ledger's keys and what was counted under them, for whoever owns the server. Calls wait for the store.

    Attributes:
        name: of the ledger, without a password.
    """

    name: str

    def add_key(self, key: Key) -> None:
        """Put a key in force; it is durable when this returns."""
        ...

    def keys(self) -> list[Key]:
        """All keys, revoked ones too, oldest first."""
        ...

    def revoke(self, key_id: str) -> Key:
        """Put a key out of force; servers notice within a second. A key that is revoked already stays as it is.

        Raises:
            StealguardError: there is no such key.
        """
        ...

    def usage(self) -> Mapping[str, Mapping[str, int]]:
        """By account, the rows that are counted of each net, by the SHA-256 of its weights; leases are counted."""
        ...

    def history(self, account: str, since: float = 0.0) -> list[Event]:
        """What the account asked from that second on, oldest first."""
        ...

    def close(self) -> None:
        """Close files and connections."""
        ...


class Ledger(Protocol):
    """What one server's requests are counted in. Its methods are for one event loop; those of `keys` for any thread."""

    @property
    def keys(self) -> Keys:
        """The same ledger's keys."""
        ...

    async def key(self, key_id: str) -> Key | None:
        """The key of that public id, or None. Other processes' changes are seen within a second."""
        ...

    async def reserve(self, key: Key, weights: str, n: int) -> None:
        """Count `n` rows, at least 1, of the net with that SHA-256 of weights: all of them, durably, or none.

        Raises:
            TooFast: the key's rate is exceeded.
            Spent: fewer rows are left of the budget.
            LedgerUnavailable: the rows cannot be counted.
        """
        ...

    def give_back(self, key: Key, weights: str, n: int) -> None:
        """Count `n` reserved rows no longer: none of their request was answered. The rate counts them all the same."""
        ...

    async def used(self, account: str, weights: str) -> int:
        """Rows of that net that count against the account, less those that this server has counted ahead."""
        ...

    async def left(self, key: Key, weights: str) -> int | None:
        """How many rows are left of the key's budget; None if it has none."""
        ...

    def record(self, event: Event) -> None:
        """Add to the history. It is written within about a second; what was not is lost if the server is killed."""
        ...

    def states(self, release: str) -> States:
        """The memory of accounts for the release of that identity. Use it in one place at a time."""
        ...

    async def close(self) -> None:
        """Return the leases and write what is not yet written."""
        ...


# Leases -----------------------------------------------------------------------------------------------------


class Want(NamedTuple):
    """One request for `n` rows, of an account that may have `budget` in all."""

    n: int
    budget: int


class Order(NamedTuple):
    """What a server wants of the store for one account and one net: to return rows, then to have some counted.

    Attributes:
        account: its name.
        weights: the SHA-256 of the net's weights.
        held: rows that are returned.
        wants: what requests ask.
        lease: rows to count beyond these, if any of these is counted.
    """

    account: str
    weights: str
    held: int
    wants: Sequence[Want]
    lease: int = 0


class Settled(NamedTuple):
    """What the store made of an order.

    Attributes:
        counted: rows that are counted from now on.
        granted: for each want, whether its rows are counted.
        lease: rows that are counted beyond those, for the server to hand out,
        budget: which were all within this budget.
    """

    counted: int
    granted: tuple[bool, ...]
    lease: int = 0
    budget: int = 0


def settle(counted: int, order: Order, *, alone: bool) -> Settled:
    """What a store that has counted so many rows makes of an order. Redis runs the same in Lua.

    The lease shrinks with what is left of the budget. Where several servers share a budget there is none of less than
    FIRST rows, and so none at its end, so that no server is refused rows that another one holds.

    >>> settle(90, Order("ann", "", 20, [Want(10, 100), Want(25, 100), Want(4, 100)], 256), alone=True)
    Settled(counted=85, granted=(True, False, True), lease=1, budget=100)
    """
    counted, granted, budget = counted - order.held, [], 0
    for want in order.wants:
        granted.append(counted + want.n <= want.budget)
        if granted[-1]:
            counted, budget = counted + want.n, want.budget
    ahead = min(order.lease, max(0, budget - counted) // SHARE)
    if ahead < min(order.lease, FIRST) and not alone:
        ahead = 0
    return Settled(counted + ahead, tuple(granted), ahead, budget)


class _Waiting(NamedTuple):
    want: Want
    future: asyncio.Future[None]


class _Purse:
    """What a server holds for one account and one net.

    Attributes:
        rows: counted in the store, and not handed out.
        budget: they may be handed out under budgets of at least this.
        counted: rows in the store when it was asked last, or None.
        used: when the purse was used last.
        filled: when the store was asked last,
        leased: for how many rows ahead, of which some may be left.
        waiting: requests whose rows the store has still to count.
    """

    __slots__ = "budget", "counted", "filled", "leased", "rows", "used", "waiting"  # a server has one for each account

    def __init__(self) -> None:
        self.rows, self.budget, self.used = 0, 0, 0.0
        self.filled, self.leased = -math.inf, 0
        self.counted: int | None = None
        self.waiting: list[_Waiting] = []

    def put(self, rows: int, budget: int) -> None:
        self.budget = max(budget, self.budget if self.rows else 0)
        self.rows += rows

    def take(self, n: int, limit: int) -> bool:
        """Hand out `n` rows under that budget, if there are so many."""
        if self.rows < n or self.budget > limit:
            return False
        self.rows -= n
        return True

    def serve(self) -> None:
        """Hand out rows to the requests that came while the store was asked."""
        for one in self.waiting:
            if not one.future.done() and self.take(*one.want):
                one.future.set_result(None)
        self.waiting = [one for one in self.waiting if not one.future.done()]

    def order(self, name: tuple[str, str], now: float, most: int) -> Order:
        """Return all rows, and ask for those that requests wait for, and for `most` ahead at most."""
        wants = [one.want for one in self.waiting]
        asked = self.leased - self.rows + sum(want.n for want in wants)
        in_second = int(asked / max(1.0, now - self.filled))
        self.filled, self.leased = now, min(most, max(FIRST, 2 * in_second)) if wants else 0
        held, self.rows, self.waiting = self.rows, 0, []
        return Order(*name, held, wants, self.leased)


class Leases:
    """The rows that this server has counted ahead, and the requests that wait for more. For one event loop.

    One call of the store is under way at a time; the requests that arrive meanwhile share the next one, so that a
    store that waits for the disk is asked once for all of them.

    Args:
        settle: has orders settled durably, one result for each in their order, or raises. An order may have been
            carried out though it raises: the rows that it returned are not handed out any more.
        lease: rows that are counted ahead for an account and a net, at most.
        clock: seconds.
    """

    def __init__(
        self, settle: Callable[[Sequence[Order]], Awaitable[Sequence[Settled]]], lease: int = LEASE,
        clock: Callable[[], float] = time.monotonic,
    ):  # fmt: skip
        self._settle, self._most, self._clock = settle, lease, clock
        self._purses: dict[tuple[str, str], _Purse] = {}
        self._due: dict[tuple[str, str], None] = {}  # purses with an order to make, in their order
        self._work: asyncio.Task[None] | None = None

    async def take(self, account: str, weights: str, budget: int | None, n: int) -> None:
        """See `Ledger.reserve`."""
        name, limit = (account, weights), UNLIMITED if budget is None else budget
        purse = self._purses.get(name)
        if purse is None:
            purse = self._purses[name] = _Purse()
        purse.used = self._clock()
        if purse.take(n, limit):
            return
        future = asyncio.get_running_loop().create_future()
        purse.waiting.append(_Waiting(Want(n, limit), future))
        self._order(name)
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.put(account, weights, budget, n)  # granted in the moment in which the request was given up
            raise

    def put(self, account: str, weights: str, budget: int | None, n: int) -> None:
        """See `Ledger.give_back`."""
        purse = self._purses.setdefault((account, weights), _Purse())
        purse.put(n, UNLIMITED if budget is None else budget)
        purse.used = self._clock()

    def counted(self, account: str, weights: str) -> int | None:
        """Rows that the store had counted when it was asked last; None if it was not asked."""
        purse = self._purses.get((account, weights))
        return None if purse is None else purse.counted

    def held(self, account: str, weights: str) -> int:
        """Rows that are counted in the store, and can still be handed out."""
        purse = self._purses.get((account, weights))
        return 0 if purse is None else purse.rows

    def tidy(self, idle: float) -> None:
        """Have the rows returned of purses that were not used, or that have more than FIRST, for so many seconds."""
        latest = self._clock() - idle
        for name, purse in self._purses.items():
            if purse.used <= latest or (purse.rows > FIRST and purse.filled <= latest):
                self._order(name)

    async def close(self) -> None:
        """Return all rows."""
        await self._finished()
        self.tidy(0.0)
        await self._finished()

    async def _finished(self) -> None:
        while self._work is not None:
            await asyncio.shield(self._work)

    def _order(self, name: tuple[str, str]) -> None:
        self._due[name] = None
        if self._work is None:
            self._work = asyncio.get_running_loop().create_task(self._settle_all())

    async def _settle_all(self) -> None:
        try:
            while self._due:
                names, self._due = list(self._due), {}
                purses = [self._purses[name] for name in names]
                asked = [purse.waiting for purse in purses]
                now = self._clock()
                orders = [purse.order(name, now, self._most) for name, purse in zip(names, purses, strict=True)]
                try:
                    results = await self._settle(orders)
                except Exception as e:
                    _fail(asked, e)
                else:
                    for name, purse, waiting, settled in zip(names, purses, asked, results, strict=True):
                        _deliver(purse, waiting, settled)
                        if purse.waiting:
                            purse.serve()
                            if not purse.waiting:
                                del self._due[name]
                self._forget(names)
        finally:
            self._work = None

    def _forget(self, names: Sequence[tuple[str, str]]) -> None:
        """Purses that hold nothing and that no request has used meanwhile."""
        for name in names:
            purse = self._purses[name]
            if not purse.rows and not purse.waiting and name not in self._due:
                del self._purses[name]


def _deliver(purse: _Purse, waiting: Sequence[_Waiting], settled: Settled) -> None:
    purse.counted, purse.leased = settled.counted, settled.lease
    if settled.lease:
        purse.put(settled.lease, settled.budget)
    for (want, future), granted in zip(waiting, settled.granted, strict=True):
        if future.done():  # the request was given up
            if granted:
                purse.put(*want)
        elif granted:
            future.set_result(None)
        else:
            left = max(0, want.budget - settled.counted + purse.rows)
            told = f"The account's budget has {counted(left, 'row')} left, fewer than the request's {want.n:,}."
            future.set_exception(Spent(told, left))


def _fail(asked: Sequence[Sequence[_Waiting]], error: Exception) -> None:
    for waiting in asked:
        for _, future in waiting:
            if not future.done():
                future.set_exception(error)


# Rates ------------------------------------------------------------------------------------------------------


class Rates:
    """Rows per second of each key, in this server: a bucket of tokens that holds one second's rows, at least one.

    A request of more rows than the bucket holds is let through when the bucket is full, and the rows are made up for
    afterwards, so that the rate holds in the long run.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._full: dict[str, float] = {}  # when each key's bucket is full again

    def take(self, key: Key, n: int) -> None:
        """See `Ledger.reserve`."""
        if key.rate is None:
            return
        now, most = self._clock(), max(1.0, key.rate)
        full = max(now, self._full.get(key.id, now))
        missing = min(n, most) - (most - (full - now) * key.rate)
        if missing > 1e-9:
            wait = missing / key.rate
            raise TooFast(f"The key may ask {key.rate:g} rows a second; ask again in {wait:.2f} s.", wait)
        self._full[key.id] = full + n / key.rate

    def put(self, key: Key, n: int) -> None:
        """Take `n` rows as not asked."""
        if key.rate is not None and key.id in self._full:
            self._full[key.id] -= n / key.rate

    def tidy(self) -> None:
        """Forget the buckets that are full."""
        now = self._clock()
        self._full = {name: full for name, full in self._full.items() if full > now}


# The server's side of a ledger ------------------------------------------------------------------------------


class Serving(ABC):
    """What a server's ledger does, whatever the store is: `Ledger` less the store.

    Args:
        name: of the ledger, for messages.
        keys: the store's keys.
        lease: rows that are counted ahead for an account and a net, at most.
        clock: seconds.
    """

    def __init__(self, name: str, keys: Keys, lease: int = LEASE, clock: Callable[[], float] = time.monotonic):
        self.name, self.keys = name, keys
        self._leases, self._rates = Leases(self._settle, lease, clock), Rates(clock)
        self._known: dict[str, Key] = {}
        self._changes = 0  # how often other processes have changed keys
        self._history = History()  # that is not written yet
        self._watch: asyncio.Task[None] | None = None
        self._closed, self._closing = False, asyncio.Event()

    async def key(self, key_id: str) -> Key | None:
        """See `Ledger.key`."""
        known = self._known.get(key_id)
        if known is not None:
            return known
        self._start()
        changes = self._changes
        found = await self._find(key_id)
        if found is not None and changes == self._changes:  # else it may be older than the change
            if len(self._known) >= KNOWN_KEYS:
                self._known.clear()
            self._known[key_id] = found
        return found

    async def reserve(self, key: Key, weights: str, n: int) -> None:
        """See `Ledger.reserve`."""
        require(n >= 1, "n", "at least 1", n)
        self._start()
        self._rates.take(key, n)
        try:
            await self._leases.take(key.account, weights, key.budget, n)
        except BaseException:
            self._rates.put(key, n)
            raise

    def give_back(self, key: Key, weights: str, n: int) -> None:
        """See `Ledger.give_back`."""
        self._leases.put(key.account, weights, key.budget, n)

    async def used(self, account: str, weights: str) -> int:
        """See `Ledger.used`."""
        counted = self._leases.counted(account, weights)
        if counted is None:
            counted = await self._counted(account, weights)
        return counted - self._leases.held(account, weights)

    async def left(self, key: Key, weights: str) -> int | None:
        """See `Ledger.left`."""
        return None if key.budget is None else max(0, key.budget - await self.used(key.account, weights))

    def record(self, event: Event) -> None:
        """See `Ledger.record`."""
        self._history.add(event)

    async def tick(self) -> None:
        """What is to be done now and then: see other processes' changes, return idle leases, write what waits."""
        try:
            if await self._changed():
                self._forget_keys()
        except BaseException:
            self._forget_keys()  # a key may be revoked meanwhile
            raise
        self._rates.tidy()
        self._leases.tidy(IDLE)
        await self._write()

    async def close(self) -> None:
        """See `Ledger.close`."""
        if self._closed:
            return
        self._closed = True
        self._closing.set()
        if self._watch is not None:
            await self._watch
        try:
            await self._leases.close()
            await self._write()
        finally:
            await self._release()
            self.keys.close()

    def _start(self) -> None:
        """The first request starts the ticks, since there is no event loop before it."""
        if self._closed:
            raise LedgerUnavailable(f"The ledger `{self.name}` is closed.")
        if self._watch is None:
            self._watch = asyncio.get_running_loop().create_task(self._keep_ticking())

    async def _keep_ticking(self) -> None:
        while not self._closed:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), TICK)
                return
            try:
                await self.tick()
            except StealguardError as e:
                _log.error("%s", e)
            except Exception:
                _log.exception("The ledger `%s` could not be kept up to date.", self.name)

    def _forget_keys(self) -> None:
        self._changes += 1
        self._known.clear()

    async def _write(self) -> None:
        """Write the history and the states; events that cannot be written are kept for the next time."""
        history, self._history = self._history, History()
        try:
            await self._flush(history.events())
        except Exception:
            if len(history) > EVENTS:
                _log.error("The history lacks %d entries that could not be written.", len(history))
                history = History()
            for event in self._history.events():
                history.add(event)
            self._history = history
            raise

    @abstractmethod
    def states(self, release: str) -> States:
        """See `Ledger.states`."""

    @abstractmethod
    async def _find(self, key_id: str) -> Key | None:
        """The key in the store."""

    @abstractmethod
    async def _counted(self, account: str, weights: str) -> int:
        """Rows counted in the store."""

    @abstractmethod
    async def _changed(self) -> bool:
        """Whether another process may have changed keys since the last time."""

    @abstractmethod
    async def _settle(self, orders: Sequence[Order]) -> Sequence[Settled]:
        """See `Leases`."""

    @abstractmethod
    async def _flush(self, events: Sequence[Event]) -> None:
        """Write the states that have changed, then events: all of them, or none if it raises, since they are kept."""

    @abstractmethod
    async def _release(self) -> None:
        """Close what the server alone has open."""


class History:
    """Events, of which those of one second, account, key, model and outcome are taken together as they come.

    >>> history = History()
    >>> history.add(Event(7.25, "ann", "k", "digits", 3, "answered"))
    >>> history.add(Event(7.5, "ann", "k", "digits", 1, "answered"))
    >>> [(event.at, event.rows, event.requests) for event in history.events()]
    [(7.0, 4, 2)]
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[int, str, str, str, Outcome], _Sum] = {}

    def __len__(self) -> int:
        return len(self._sums)

    def add(self, event: Event) -> None:
        name = int(event.at), event.account, event.key, event.model, event.outcome
        known = self._sums.get(name)
        if known is None:
            known = self._sums[name] = _Sum()
        known.rows += event.rows
        known.requests += event.requests
        if event.suspicion is not None:
            known.suspicion = event.suspicion
        if event.hashes:
            known.hashes += event.hashes

    def events(self) -> list[Event]:
        """One for each of them, in the order of their first requests."""
        return [
            Event(
                float(at), account, key, model, known.rows, outcome, known.requests, known.suspicion, (*known.hashes,)
            )
            for (at, account, key, model, outcome), known in self._sums.items()
        ]


class _Sum:
    __slots__ = "hashes", "requests", "rows", "suspicion"

    def __init__(self) -> None:
        self.rows, self.requests = 0, 0
        self.suspicion: float | None = None
        self.hashes: list[str] = []
