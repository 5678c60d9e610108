"""REST, written once: each route is read from `google.api.http` in the protos, and calls the RPC it stands beside."""
