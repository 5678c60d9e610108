"""Follows tasks at the providers to their end, and brings their results into storage."""
