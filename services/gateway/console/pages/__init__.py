"""What each page shows and each button does."""
