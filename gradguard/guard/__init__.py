"""What stops a bad step, names its culprits, and keeps it to be run again."""
