"""A recording in, what is wrong with it out, in words. Knows arrays only."""
