"""From whatever somebody uploads to what a provider can take. Nothing here knows of gRPC, storage or providers."""
