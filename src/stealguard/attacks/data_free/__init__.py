"""Attacks that make their own queries."""

from __future__ import annotations
