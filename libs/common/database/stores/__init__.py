"""All SQL lives here, one file a group of tables."""
