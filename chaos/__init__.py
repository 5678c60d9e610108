"""Breaks a running stack on purpose, and counts what it cost: `make chaos`."""

from sandbox import forks

forks.prepare()
