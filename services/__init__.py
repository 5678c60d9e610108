"""One package a service. None imports another."""
