"""`make reference`: writes the tables of the documentation that list settings, metrics, keys and codes of the code."""
