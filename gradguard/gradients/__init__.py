"""Norms of what hangs on parameters, whatever their kind and wherever their shards."""
