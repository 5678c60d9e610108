"""The transition table, the schema, its migrations, and the stores, in which all other SQL lives."""
