"""Training: a frozen recipe and one loop."""
