"""Errors, alerts, health and statistics of the whole."""
