"""Stand-ins for the vendors: one process that speaks their wire formats, draws images and keeps a ledger of bills."""

VENDORS = {"flux": "/bfl", "tuzi_openai": "/openai"}
"""By the adapter that speaks it, the path under which the simulator serves a vendor's wire format."""

CONTROL = "/_control"
"""The path under which tests and people read the ledger and set faults."""
