"""A model behind somebody's server, as a victim."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence

from stealguard.boxes.remote import Endpoint, RemoteBox
from stealguard.errors import Invalid, require
from stealguard.identity import fingerprint
from stealguard.results import VictimFacts
from stealguard.types import Probabilities

HONEST = "honest"  # the account that a victim's users ask from
OVER_HTTP = "over HTTP"


class Remote:
    """A model behind a server that speaks the Open Inference Protocol, version 2, as a victim. Attack only your own.

    A key is an account of the server. An audit asks for the answers to the test inputs with `key`, and attacks with
    each of `keys`, over which a theft divides its budget unless `accounts` says that it is fewer. With `key` alone it
    does both, with `keys` alone the first of them does, and the server counts both against one budget. Attack, pool,
    labels, treatment and seed choose with which key a theft begins. Nothing makes a server forget what it remembers of
    an account: where its guard remembers queries, use new keys for each audit. A row says how many accounts answered
    nothing (`silent_accounts`).

    A request that is interrupted after the server has answered is sent again, and the server may count it twice. An
    interruption costs at most `rows * parallel` answers: every answer that arrives is written to the audit's ledger
    before more is asked.

    Answers agree with those in the process to the last bit where the server computes in torch on the same kind of
    device, merges no requests and splits batches as an audit does (1,024 rows). Elsewhere they agree within noise:
    sums of floating-point numbers depend on their order, and the order on the backend, the device and the size of the
    batch. A clone is trained on the answers, so clones then differ as clones of two seeds do, or less.

    Args:
        url: `http(s)://host[:port][/prefix][/v2[/models/NAME[/versions/VERSION]]]`.
        key: what the server knows an account by; "" where it asks for none.
        keys: the attacker's accounts.
        model, version, output, rows, parallel, timeout, patience: see `stealguard.boxes.Endpoint`.
        name: what reports call the victim; the model's name if "".
        names: of the classes, in the order of the answers' columns, where the server does not tell.

    Raises:
        Invalid: a parameter breaks its rule.
        BoxFault: the server does not tell what the protocol demands.
        StealguardError: the server cannot be reached, or does not accept the key; or httpx is missing.

    Example:
        >>> victim = sg.Remote("https://models.example/v2/models/digits", key)  # doctest: +SKIP
        >>> rows = sg.audit(victim, data="mnist", pools=["letters"])  # doctest: +SKIP
    """

    def __init__(
        self, url: str, key: str = "", *, keys: Sequence[str] = (), model: str = "", version: str = "",
        output: str = "", rows: int | None = None, parallel: int = 1, timeout: float = 60.0, patience: float = 120.0,
        name: str = "", names: Sequence[str] = (),
    ):  # fmt: skip
        require(not isinstance(keys, str), "keys", "a sequence of keys", "a text")
        require(len({*keys}) == len(keys), "keys", "unlike each other", f"{len(keys)} keys, some of them equal")
        self._honest, self._keys = key or next(iter(keys), ""), tuple(keys) or (key,)
        self._endpoint = Endpoint(
            url, self._honest, model=model, version=version, output=output, rows=rows, parallel=parallel,
            timeout=timeout, patience=patience,
        )  # fmt: skip
        served = self._endpoint.served
        self.name, self.shape = name or served.name, served.shape
        self.identity = served.identity
        self.output = Probabilities(served.classes or len(names), served.names or tuple(names))
        require(len(names) in (0, self.output.classes), "names", f"of all {self.output.classes} classes", len(names))
        self.close = self._endpoint.close
        self._dealt: dict[str, str] = {}
        self._first = 0  # of the keys, by its place

    @property
    def accounts(self) -> int:
        """How many accounts an attacker has."""
        return len(self._keys)

    @property
    def rows(self) -> int:
        """How many answers an interruption loses, at most."""
        return self.request_rows * self._endpoint.parallel

    @property
    def request_rows(self) -> int:
        """How many inputs a request has, at most."""
        return self._endpoint.served.rows

    @property
    def source(self) -> str:
        """SHA-256 (hex) of where the answers come from: the URL, what the server says it is, output, accounts."""
        url, served = self._endpoint.url, self._endpoint.served
        accounts = [_digest(key, url) for key in (self._honest, *self._keys)]
        return fingerprint([url, self.identity, served.versions, served.output, *accounts])

    def connect(self, account: str = "") -> RemoteBox:
        """The box of one account: of `key` for "" and `HONEST`; other names get `keys` in the order of their first use,
        from the one on that `renewed` was told.

        Raises:
            Invalid: there are more names than keys.
        """
        if account in ("", HONEST):
            return self._endpoint.box(self._honest)
        if account not in self._dealt:
            self.check_accounts(len(self._dealt) + 1)
            self._dealt[account] = self._keys[(self._first + len(self._dealt)) % self.accounts]
        return self._endpoint.box(self._dealt[account])

    def check_accounts(self, accounts: int) -> None:
        """Raise `Invalid` where an attacker is to have more accounts than there are keys."""
        if accounts > self.accounts:
            rule = f"at most {self.accounts}, one for each of the keys that were given"
            raise Invalid("accounts", rule, f"{accounts:,}")

    def facts(self) -> VictimFacts:
        return VictimFacts(
            key=f"{self.identity} {OVER_HTTP}" if self.identity else "", name=self.name, net=OVER_HTTP,
            shape=self.shape, classes=self.output.classes or None,
        )  # fmt: skip

    def fitted(self, shape: tuple[int, ...], classes: int, names: Sequence[str]) -> Remote:
        """This victim, with the shape and the classes of an audit's data where its server does not tell them."""
        other, known = self.renewed(), self.output
        other.shape = self.shape or shape
        other.output = Probabilities(known.classes or classes, known.names or tuple(names))
        return other

    def renewed(self, first: int = 0) -> Remote:
        """This victim, whose keys are given to accounts anew, from number `first` on, modulo how many there are."""
        other = copy.copy(self)
        other._dealt, other._first = {}, first % self.accounts
        return other


def _digest(key: str, url: str) -> str:
    """A hash of a key that is slow to make, so that a short key cannot be found from it by trying."""
    return hashlib.scrypt(key.encode(), salt=url.encode(), n=2**14, r=8, p=1, dklen=32).hex()
