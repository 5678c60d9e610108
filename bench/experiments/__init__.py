"""Whether experiments tell the truth: simulated by the thousand, compared with other libraries, and run for real."""
