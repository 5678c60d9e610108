"""One replica of dispatcher and poller against several, on the same load."""
