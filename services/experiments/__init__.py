"""A/B experiments over models, prompts and parameters."""
