"""Measures Darkroom against peers, as ratios in one run: `make bench`."""

from sandbox import forks

forks.prepare()
