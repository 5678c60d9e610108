"""Takes accepted generations to their providers: claims, records the attempt, submits, hands over."""
