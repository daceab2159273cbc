"""What `gradguard train` runs: settings, and the run they describe."""
