"""What our gateway is measured beside. Each is a process of its own."""
