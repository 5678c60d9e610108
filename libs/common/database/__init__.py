"""The truth: tables, the transition table, migrations, and the stores in which all SQL lives."""
