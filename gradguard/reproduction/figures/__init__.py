"""Pictures of the reproduced experiments."""
