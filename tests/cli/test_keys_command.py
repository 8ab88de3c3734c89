"""`stealguard keys`: tokens are printed once, secrets never again, and errors take one line."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stealguard.cli import main
from stealguard.cli.printing import print_table
from stealguard.serving.keys import Restriction, key_id, matches
from stealguard.serving.ledger import Event, open_keys, open_ledger

Output = tuple[str, str]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> Output:
    """What `stealguard keys` prints to both streams."""
    main(["keys", *arguments])
    return tuple(capsys.readouterr())  # type: ignore[return-value]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What `stealguard keys` prints when it ends with status 2."""
    with pytest.raises(SystemExit) as ended:
        main(["keys", *arguments])
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return str(err)


def test_a_key_is_made_with_its_terms_and_its_token_stands_alone_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    terms = ["--budget", "1000", "--rate", "2.5", "--top-k", "3", "--digits", "2", "--models", "a", "b", "--owner"]
    out, err = said(capsys, "add", "ann", *terms)
    token = out.removesuffix("\n")
    (key,) = open_keys("stealguard-ledger.sqlite").keys()
    assert matches(key, token)
    assert (key.account, key.budget, key.rate, key.models, key.owner) == ("ann", 1000, 2.5, ("a", "b"), True)
    assert key.restriction == Restriction(top_k=3, digits=2)
    assert err == (
        f"Key {key.id} of account ann: top 3, 2 digits, a budget of 1,000, 2.5 a second, of a, b only, owner. "
        "The token is not shown again.\n"
    )


def test_the_list_shows_terms_and_counts_but_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    token, _ = said(capsys, "add", "ann", "--labels", "--ledger", "mine.sqlite")
    id_, secret = token.strip().split("_")[1:]

    async def serve() -> None:
        ledger = open_ledger("mine.sqlite")
        key = await ledger.key(id_)
        assert key is not None
        await ledger.reserve(key, "ab" * 32, 1234)
        await ledger.close()

    asyncio.run(serve())
    table, _ = said(capsys, "list", "--ledger", "mine.sqlite")
    for text in (id_, "ann", "labels, no budget", "abababab: 1,234"):
        assert text in table
    listed, _ = said(capsys, "list", "--json", "--ledger", "mine.sqlite")
    (key,) = json.loads(listed)
    assert (key["id"], key["counted"], key["restriction"]["labels"]) == (id_, {"ab" * 32: 1234}, True)
    for printed in (table, listed):
        assert secret not in printed
        assert open_keys("mine.sqlite").keys()[0].sha256 not in printed


def test_a_revoked_key_is_out_of_force_and_listed_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    tokens = [said(capsys, "add", name)[0].strip() for name in ("ann", "bob", "cy")]
    ids = [str(key_id(token)) for token in tokens]
    out, _ = said(capsys, "revoke", *ids[:2])
    assert out == f"Key {ids[0]} of account ann is revoked.\nKey {ids[1]} of account bob is revoked.\n"
    keys = open_keys("stealguard-ledger.sqlite").keys()
    assert [matches(key, token) for key, token in zip(keys, tokens, strict=True)] == [False, False, True]
    assert said(capsys, "list")[0].count("revoked on") == 2
    assert "has no key `0`" in refused(capsys, "revoke", "0")


def test_the_history_of_an_account_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    event = Event(float(int(time.time())), "ann", "k", "digits", 1234, "answered", 2)

    async def serve() -> None:
        ledger = open_ledger("stealguard-ledger.sqlite")
        ledger.record(event)
        ledger.record(event._replace(at=event.at - 5 * 86_400, outcome="refused"))
        await ledger.close()

    asyncio.run(serve())
    table, _ = said(capsys, "history", "ann")
    assert "1,234" in table
    assert table.index("refused") < table.index("answered")
    listed, _ = said(capsys, "history", "ann", "--json", "--days", "1")
    assert [Event(**{**entry, "hashes": tuple(entry["hashes"])}) for entry in json.loads(listed)] == [event]
    said(capsys, "add", "bob")
    assert json.loads(said(capsys, "history", "bob", "--json")[0]) == []
    for options in ([], ["--json"]):
        told = refused(capsys, "history", "nobody", *options)
        assert "`account` should be one that has a key or a history in the ledger. Found `nobody`" in told
    for days in ("0", "-1", "nan"):
        assert "`days` should be above 0" in refused(capsys, "history", "ann", "--days", days)


def test_a_ledger_that_is_not_there_is_named_and_not_made(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for command in (["list"], ["revoke", "0"], ["history", "ann"]):
        assert "There is no ledger `stealguard-ledger.sqlite`" in refused(capsys, *command)
    assert list(tmp_path.iterdir()) == []


def test_terms_that_break_a_rule_make_no_key(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "`budget` should be from 0" in refused(capsys, "add", "ann", "--budget", "-1")
    assert "`digits` should be from 1 to 6" in refused(capsys, "add", "ann", "--digits", "7")
    for option in ("top-k", "digits"):
        told = refused(capsys, "add", "ann", "--labels", f"--{option}", "2")
        assert f"`{option}` should be left out with `--labels`, which tells no probability. Found 2" in told
    assert "`account` should be 1 to 200" in refused(capsys, "add", "")
    assert list(tmp_path.iterdir()) == []


def test_a_redis_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "`redis://127.0.0.1:1/0` cannot be used" in refused(capsys, "list", "--ledger", "redis://127.0.0.1:1/0")


def test_keys_are_handled_without_torch() -> None:
    code = (
        "import sys; from stealguard.cli import main; main(['keys', 'add', 'ann']); main(['keys', 'list']);"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


def test_what_is_printed_does_not_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("model",), [("\x1b]0;title\x07digits\x1b[2J",)])
    assert "?]0;title?digits?[2J" in capsys.readouterr().out
