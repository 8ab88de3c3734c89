"""Black boxes, and the wrappers that meter and restrict them."""

from __future__ import annotations

from stealguard.boxes.accounts import Account, Accounts, LocalStates, States
from stealguard.boxes.base import Boxed, Labels, Rewritten, ask, logits, outputs_of, top_1
from stealguard.boxes.ledger import AnswerLedger, LedgerError, read_records
from stealguard.boxes.many import AccountsInTurn, ManyAccounts
from stealguard.boxes.metered import Metered, check_answers
from stealguard.boxes.remote import Endpoint, RemoteBox
from stealguard.boxes.scaled import Scaled, Unscaled

__all__ = [
    "Account",
    "Accounts",
    "AccountsInTurn",
    "AnswerLedger",
    "Boxed",
    "Endpoint",
    "Labels",
    "LedgerError",
    "LocalStates",
    "ManyAccounts",
    "Metered",
    "RemoteBox",
    "Rewritten",
    "Scaled",
    "States",
    "Unscaled",
    "ask",
    "check_answers",
    "logits",
    "outputs_of",
    "read_records",
    "top_1",
]
