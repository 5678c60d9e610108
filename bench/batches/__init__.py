"""Batches measured: one that is large, what others notice of it, and what it was expected to cost."""
