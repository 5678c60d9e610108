"""Stand-ins for the vendors: one process that speaks their wire formats, draws images and keeps a ledger of bills."""
