"""A ledger in Redis, for several servers. Importing this loads no torch.

What is reserved is as durable as Redis is told to be: with `appendonly yes` it survives the end of Redis itself, and
with `appendfsync always` a power failure too, where `everysec` loses up to two seconds. A replica that takes over may
lack the last writes. Rates are each server's own. Memory costs each request two round trips.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, TypeVar

from stealguard.errors import StealguardError
from stealguard.serving.keys import Key, Restriction
from stealguard.serving.ledger.base import (
    FIRST,
    HISTORY_DAYS,
    LEASE,
    SHARE,
    Event,
    LedgerUnavailable,
    Order,
    Serving,
    Settled,
)

try:
    import redis
    import redis.asyncio
    from redis.asyncio.retry import Retry as AsyncRetry
    from redis.backoff import NoBackoff
    from redis.retry import Retry
except ImportError as e:
    raise StealguardError("A ledger in Redis needs its client: pip install 'stealguard[redis]'.") from e

if TYPE_CHECKING:
    from stealguard.boxes.accounts import Step
    from stealguard.types import State

T = TypeVar("T")

VERSION = 1
PREFIX = "stealguard"
KEYS, CHANGES, ACCOUNTS = f"{PREFIX}:keys", f"{PREFIX}:changes", f"{PREFIX}:accounts"
WAIT = 5.0  # seconds for Redis to answer

# Scripts are sent whole: Redis has them by their hash after the first time, also where it was started again meanwhile.
#
# `base.settle`, for several servers: KEYS[1] is a hash from weights to rows that are counted, KEYS[2] the set of all
# accounts; ARGV is the account, the weights, the rows that are returned, the lease, its share, the least one, and for
# each want its rows and its budget.
SETTLE = """
local before = redis.call('HGET', KEYS[1], ARGV[2])
if not before then redis.call('SADD', KEYS[2], ARGV[1]) end
local counted = tonumber(before or '0') - tonumber(ARGV[3])
local lease, budget, granted = tonumber(ARGV[4]), 0, {}
for i = 7, #ARGV, 2 do
    local n, most = tonumber(ARGV[i]), tonumber(ARGV[i + 1])
    local fits = counted + n <= most
    if fits then counted, budget = counted + n, most end
    granted[#granted + 1] = fits and 1 or 0
end
local ahead = math.min(lease, math.floor(math.max(0, budget - counted) / tonumber(ARGV[5])))
if ahead < math.min(lease, tonumber(ARGV[6])) then ahead = 0 end
redis.call('HSET', KEYS[1], ARGV[2], string.format('%.0f', counted + ahead))
return {string.format('%.0f', counted + ahead), ahead, string.format('%.0f', budget), granted}
"""

# Write a state if its version is still the one that was read: KEYS[1] is a hash; ARGV the version and the state.
EXCHANGE = """
if (redis.call('HGET', KEYS[1], 'version') or '0') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'version', string.format('%.0f', tonumber(ARGV[1]) + 1), 'state', ARGV[2])
return 1
"""

_log = logging.getLogger("stealguard.serving")


class RedisKeys:
    """The keys of a ledger in Redis; see `Keys`.

    Args:
        address: redis://[:PASSWORD@]HOST:PORT/NUMBER.

    Raises:
        LedgerUnavailable: Redis cannot be reached, or is set to forget.
        StealguardError: a newer stealguard wrote it.
    """

    def __init__(self, address: str):
        self.name = _without_password(address)
        try:
            self.client = _client(address)
        except ValueError:  # which tells a part of the address, of a password perhaps
            rule = "redis://[:PASSWORD@]HOST:PORT/NUMBER"
            raise LedgerUnavailable(f"The ledger `{self.name}` should be {rule}.") from None
        with self._told():
            _check(self.client, self.name)

    def add_key(self, key: Key) -> None:
        """See `Keys.add_key`."""
        self._write(key)

    def keys(self) -> list[Key]:
        """See `Keys.keys`."""
        with self._told():
            found = [key_of(data) for data in self.client.hvals(KEYS)]
        return sorted(found, key=lambda key: (key.created, key.id))

    def revoke(self, key_id: str) -> Key:
        """See `Keys.revoke`."""
        with self._told():
            data = self.client.hget(KEYS, key_id)
        if data is None:
            raise StealguardError(f"The ledger `{self.name}` has no key `{key_id}`.")
        key = key_of(data)
        if key.revoked is None:
            self._write(key := replace(key, revoked=time.time()))
        return key

    def usage(self) -> Mapping[str, Mapping[str, int]]:
        """See `Keys.usage`."""
        with self._told():
            accounts = sorted(data.decode() for data in self.client.smembers(ACCOUNTS))
            counted = {account: self.client.hgetall(_counted(account)) for account in accounts}
        return {account: {w.decode(): int(n) for w, n in rows.items()} for account, rows in counted.items()}

    def history(self, account: str, since: float = 0.0) -> list[Event]:
        """See `Keys.history`."""
        with self._told():
            entries = self.client.xrange(_history(account), min=f"{max(0, int(since * 1000))}-0")
        events = [_event(record) for _, fields in entries for record in json.loads(fields[b"events"])]
        return sorted((event for event in events if event.at >= since), key=lambda event: event.at)

    def close(self) -> None:
        """See `Keys.close`."""
        self.client.close()

    def _write(self, key: Key) -> None:
        with self._told(), self.client.pipeline() as pipe:
            pipe.hset(KEYS, key.id, json.dumps(asdict(key)))
            pipe.incr(CHANGES)
            pipe.execute()

    @contextmanager
    def _told(self) -> Iterator[None]:
        with _told(self.name):
            yield


class RedisLedger(Serving):
    """A ledger in Redis, which several servers may share; see `Ledger`.

    Args:
        address: redis://[:PASSWORD@]HOST:PORT/NUMBER.
        lease: rows that each server counts ahead for an account and a net, at most.
        history_days: for how long the history is kept.
        clock: seconds.

    Raises:
        LedgerUnavailable: Redis cannot be reached, or is set to forget.
        StealguardError: a newer stealguard wrote it.
    """

    def __init__(
        self, address: str, *, lease: int = LEASE, history_days: float = HISTORY_DAYS,
        clock: Callable[[], float] = time.monotonic,
    ):  # fmt: skip
        keys = RedisKeys(address)
        super().__init__(keys.name, keys, lease, clock)
        self._kept, self._waiting_client = history_days * 86_400, keys.client
        self._client: Any = redis.asyncio.from_url(
            address, socket_timeout=WAIT, socket_connect_timeout=WAIT, retry=AsyncRetry(NoBackoff(), 0)
        )
        with _told(self.name):
            self._version = keys.client.get(CHANGES)

    def states(self, release: str) -> RedisStates:
        """See `Ledger.states`."""
        return RedisStates(self._waiting_client, release, self.name)

    async def _find(self, key_id: str) -> Key | None:
        with _told(self.name):
            data = await self._client.hget(KEYS, key_id)
        return None if data is None else key_of(data)

    async def _counted(self, account: str, weights: str) -> int:
        with _told(self.name):
            return int(await self._client.hget(_counted(account), weights) or 0)

    async def _changed(self) -> bool:
        with _told(self.name):
            before, self._version = self._version, await self._client.get(CHANGES)
        return self._version != before

    async def _settle(self, orders: Sequence[Order]) -> Sequence[Settled]:
        """All orders in one round trip. A script is not sent again if its result is lost: it would count twice."""
        with _told(self.name):
            async with self._client.pipeline(transaction=False) as pipe:
                for order in orders:
                    wants = [number for want in order.wants for number in want]
                    numbers = order.held, order.lease, SHARE, FIRST, *wants
                    pipe.eval(SETTLE, 2, _counted(order.account), ACCOUNTS, order.account, order.weights, *numbers)
                replies = await pipe.execute()
        return [
            Settled(int(counted), tuple(map(bool, granted)), int(lease), int(budget))
            for counted, lease, budget, granted in replies
        ]

    async def _flush(self, events: Sequence[Event]) -> None:
        """The events of an account become one entry of its stream; entries are removed when they are too old.

        A Redis that is full refuses a transaction as a whole.
        """
        by_account = dict[str, list[Event]]()
        for event in events:
            by_account.setdefault(event.account, []).append(event)
        oldest = f"{int((time.time() - self._kept) * 1000)}-0"
        with _told(self.name):
            async with self._client.pipeline(transaction=True) as pipe:
                for account, some in by_account.items():
                    pipe.xadd(_history(account), {"events": json.dumps(some)}, minid=oldest, approximate=True)
                await pipe.execute()

    async def _release(self) -> None:
        await self._client.aclose()


class RedisStates:
    """States in Redis; see `States`. Each step is written before its result is returned, and nothing is held here.

    A step that another one overtook is run again on what that one left.
    """

    def __init__(self, client: Any, release: str, name: str):
        self._client, self._release, self._name = client, release, name

    def update(self, name: str, step: Step[T]) -> T:
        """See `States.update`.

        Raises:
            LedgerUnavailable: Redis cannot be reached.
            StealguardError: what is remembered is damaged.
        """
        place = f"{PREFIX}:memory:{self._release}:{name}"
        while True:
            version, known = self._read(place, name)
            result, state = step(known)
            if state is known or state is None or self._written(place, version, state):
                return result

    def _read(self, place: str, name: str) -> tuple[bytes, State | None]:
        from stealguard.boxes.accounts import unpacked

        with _told(self._name):
            version, data = self._client.hmget(place, "version", "state")
        return version or b"0", None if data is None else unpacked(data, name)

    def _written(self, place: str, version: bytes, state: State) -> bool:
        from stealguard.boxes.accounts import packed

        with _told(self._name):
            return bool(self._client.eval(EXCHANGE, 1, place, version, packed(state)))


def key_of(data: bytes) -> Key:
    """The key in a record as JSON."""
    record = json.loads(data)
    allowed = Restriction(**record.pop("restriction"))
    return Key(**{**record, "restriction": allowed, "models": tuple(record["models"])})


def _event(record: Sequence[Any]) -> Event:
    return Event._make((*record[:-1], tuple(record[-1])))


def _counted(account: str) -> str:
    return f"{PREFIX}:counted:{account}"


def _history(account: str) -> str:
    return f"{PREFIX}:history:{account}"


# The connection ---------------------------------------------------------------------------------------------


@contextmanager
def _told(name: str) -> Iterator[None]:
    """What Redis and the system say, as one line that names the ledger."""
    try:
        yield
    except (redis.RedisError, OSError, ValueError) as error:
        raise LedgerUnavailable(f"The ledger `{name}` cannot be used: {error or type(error).__name__}.") from error


def _client(address: str) -> Any:
    return redis.Redis.from_url(address, socket_timeout=WAIT, socket_connect_timeout=WAIT, retry=Retry(NoBackoff(), 0))


def _check(client: Any, name: str) -> None:
    """That the data are of this version, and that Redis keeps them."""
    client.set(f"{PREFIX}:version", VERSION, nx=True)
    version = int(client.get(f"{PREFIX}:version"))
    if version > VERSION:
        raise StealguardError(
            f"The ledger `{name}` has version {version}; this stealguard reads version {VERSION}: use a newer one."
        )
    memory, persistence = client.info("memory"), client.info("persistence")
    policy = memory.get("maxmemory_policy", "noeviction")
    if memory.get("maxmemory") and policy != "noeviction":
        raise LedgerUnavailable(
            f"The Redis of the ledger `{name}` drops data when it is full (maxmemory-policy {policy}): set noeviction."
        )
    if not persistence.get("aof_enabled"):
        _log.warning("The Redis of the ledger `%s` forgets what is reserved when it ends: set appendonly yes.", name)


def _without_password(address: str) -> str:
    """The address, for messages; a password may hold any sign, and may also be among the settings after `?`.

    >>> _without_password("redis://ann:a/b@c@host:6379/0?password=d")
    'redis://host:6379/0'
    """
    scheme, _, rest = address.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"
