"""What the monitor costs: its questions over many rows, its absence under load, a line of a log."""
