"""A bad step run again: what broke it, which samples, and in which precision."""
