"""What an untrained network does to gradients on their way to the input."""
