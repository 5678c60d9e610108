"""Results on their way into object storage: fetched under guard, looked into, kept under a key of their own."""
