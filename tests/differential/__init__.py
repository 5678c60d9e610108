"""Differential tests: record what two commits do, in canonical names and units, and compare the recordings."""
