"""A fuzzer of everything that strangers can reach: grammars of each face, and what no answer may be."""
