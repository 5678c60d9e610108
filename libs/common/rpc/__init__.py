"""All plumbing of gRPC in one place, so that a service is configuration, wiring and its own subject."""
