"""What follows from what was measured: pure reckoning, from sums to words. No database, no RPC."""
