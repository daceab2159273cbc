"""What the source documents claim, as experiments."""
