"""Images: how fast beside sharp and libvips, how good, and what hostile ones do to everybody else's work."""
