"""Stand-ins for the vendors: one process that speaks their wire formats, draws what is asked for, keeps a ledger."""

VENDORS = {
    "flux": "/bfl",
    "tuzi_openai": "/openai",
    "kling": "/kling",
    "kling_relay": "/kling-relay",
    "pollo": "/pollo",
    "replicate": "/replicate",
    "fal": "/fal",
    "openai_video": "/openai-video",
}
"""By the adapter that speaks it, the path under which the simulator serves a vendor's wire format."""

CONTROL = "/_control"
"""The path under which tests and people read the ledger and set faults."""
