"""The Gradients tab: what it asks for, and what serves it."""
