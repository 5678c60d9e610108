"""Other libraries' answers to the same questions, each run by itself."""
