"""The client: what a Python program, or a person at a terminal, hands requests to Darkroom with."""
