"""Results on their way into object storage: fetched under guard, looked into, and kept under a key that follows from them."""
