"""The tables of what is under way, while everything in them changes all the time."""
