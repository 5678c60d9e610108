"""Taking requests in: our gateway beside a bare echo, an INSERT per call, and the LiteLLM proxy."""
