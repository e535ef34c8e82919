"""Balancing inside somebody else's training loop."""
