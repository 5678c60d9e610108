"""Batches: what they are asked for with, what they cost, and how they come in and out."""
