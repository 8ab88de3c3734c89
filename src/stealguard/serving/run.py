"""From settings to a running server."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch

from stealguard.errors import StealguardError, require
from stealguard.registry import Registry
from stealguard.releases import Release, load
from stealguard.serving.app import Application, Reply, Request, Route, log_to
from stealguard.serving.config import Config, Served
from stealguard.serving.engine import engine_of
from stealguard.serving.http import Server
from stealguard.serving.ledger import Ledger, open_ledger
from stealguard.serving.metrics import CONTENT_TYPE, Metrics
from stealguard.serving.page.routes import page_routes
from stealguard.serving.service import Service

Services = Mapping[tuple[str, str], Service]
