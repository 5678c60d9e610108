"""The current schema: each table is declared in the module of its subject, its functions and triggers in the SQL file.

The migrations make the same schema of an empty database, and a test compares the two.
"""
