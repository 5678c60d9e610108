"""Requests that take part in experiments, and what users think of what they got."""
