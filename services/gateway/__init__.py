"""The only way in: takes requests, commits them in groups, and tells what became of them."""
