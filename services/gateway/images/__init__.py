"""Images that are prepared for whoever asks, and what callers say that is to become of theirs."""
