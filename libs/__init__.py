"""The libraries that services share."""
