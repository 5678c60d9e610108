"""Mutation tests: small faults put into the source, each of which the tests must find."""
