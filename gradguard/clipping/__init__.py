"""Clipping policies: values that shrink gradients in place and say by how much."""
