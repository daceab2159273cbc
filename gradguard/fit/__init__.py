"""One fit: what is measured at which moment, and where it is written."""
