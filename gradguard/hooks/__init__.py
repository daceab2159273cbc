"""When gradients can be looked at, in every way Lightning can train."""
