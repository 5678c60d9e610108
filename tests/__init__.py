"""Tests; each mirrors the tree of what it tests."""

from sandbox import forks

forks.prepare()
