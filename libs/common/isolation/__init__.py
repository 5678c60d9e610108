"""Confines processes that handle untrusted bytes, and hides the memory of services from them. Linux only."""
