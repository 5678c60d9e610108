"""Experiments through the running stack: planned, allocated, measured, decided."""

from __future__ import annotations
