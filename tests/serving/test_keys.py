"""Keys: tokens that match one key, and restrictions that only get stricter."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stealguard.errors import Invalid
from stealguard.serving.keys import Key, Restriction, key_id, matches, new_key

RESTRICTIONS = st.builds(
    Restriction, st.booleans(), st.none() | st.integers(1, 5), st.none() | st.integers(1, 6)
)  # fmt: skip


def test_a_token_matches_its_key_alone() -> None:
    (key, token), (other, others_token) = new_key("ann"), new_key("ann")
    assert key_id(token) == key.id != other.id
    assert matches(key, token)
    for wrong in (others_token, token[:-1], token + "0", token.upper(), "", f"sg_{key.id}_", "\ud800"):
        assert not matches(key, wrong)


def test_a_revoked_key_matches_nothing() -> None:
    key, token = new_key("ann")
    assert not matches(replace(key, revoked=1.0), token)


def test_the_secret_is_not_kept() -> None:
    key, token = new_key("ann")
    assert token.split("_")[2] not in repr(key) + key.sha256
    assert key.sha256 not in repr(key)
    assert len(token.split("_")[2]) == 64


@given(st.text())
def test_what_is_no_token_has_no_id(text: str) -> None:
    assert key_id(text) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budget": -1}, "`budget` should be from 0"),
        ({"budget": 10**16}, "`budget` should be from 0"),
        ({"rate": 0.0}, "`rate` should be a finite number"),
        ({"rate": 1e-320}, "`rate` should be a finite number"),
        ({"account": " ann"}, "`account` should be without spaces around it"),
        ({"rate": float("nan")}, "`rate` should be a finite number"),
        ({"models": ("",)}, "`models` should be names"),
        ({"account": ""}, "`account` should be 1 to 200"),
        ({"account": "a\nb"}, "`account` should be 1 to 200"),
        ({"account": "a" * 201}, "`account` should be 1 to 200"),
    ],
)
def test_a_setting_that_breaks_its_rule_is_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(Invalid, match=message):
        new_key(**{"account": "ann", **settings})  # type: ignore[arg-type]


@pytest.mark.parametrize(("setting", "value"), [("top_k", 0), ("digits", 0), ("digits", 7)])
def test_a_restriction_that_breaks_its_rule_is_named(setting: str, value: int) -> None:
    with pytest.raises(Invalid, match=f"`{setting}` should be"):
        Restriction(**{setting: value})  # type: ignore[arg-type]


def test_a_key_may_ask_the_models_that_it_names() -> None:
    assert Key("1", "ann", "").allows("any")
    assert Key("1", "ann", "", models=("a", "b")).allows("b")
    assert not Key("1", "ann", "", models=("a", "b")).allows("ab")


def test_restrictions_cut_answers_as_the_defenses_do() -> None:
    answers = torch.tensor([[0.449, 0.351, 0.15, 0.05]])
    assert torch.equal(Restriction()(answers), answers)
    assert Restriction(labels=True, top_k=2)(answers).tolist() == [[1, 0, 0, 0]]
    torch.testing.assert_close(Restriction(top_k=2)(answers), torch.tensor([[0.449 / 0.8, 0.351 / 0.8, 0, 0]]))
    torch.testing.assert_close(Restriction(digits=1)(answers), torch.tensor([[0.4, 0.4, 0.2, 0]]))
    both = Restriction(top_k=2, digits=1)(answers)
    torch.testing.assert_close(both, torch.tensor([[0.6, 0.4, 0, 0]]))


@given(RESTRICTIONS, RESTRICTIONS)
def test_the_stricter_of_two_restrictions_tells_no_more_than_either(a: Restriction, b: Restriction) -> None:
    both = a.stricter(b)
    assert both == b.stricter(a) == both.stricter(a)
    assert both.labels == (a.labels or b.labels)
    for name in ("top_k", "digits"):
        given = [value for value in (getattr(a, name), getattr(b, name)) if value is not None]
        assert getattr(both, name) == min(given, default=None)
