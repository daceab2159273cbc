"""Run directories in; a table, JSON, a page and pictures out, run beside run."""
