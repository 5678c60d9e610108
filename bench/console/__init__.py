"""The console over many generations: time to the first byte, statements, and size of each page."""
