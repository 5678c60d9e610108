"""What allocates variants: the same for the gateway and for the service that is asked."""
