"""Adapters, one for each wire dialect."""
