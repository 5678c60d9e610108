"""Input images between whoever hands them in and whoever is to get them: fetched, prepared once, kept for a while."""
