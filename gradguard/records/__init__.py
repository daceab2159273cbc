"""What was seen: norms and losses step by step, as NumPy arrays."""
