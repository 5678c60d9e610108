"""The console: what operators look at and press, as pages under /admin."""
