"""Arithmetic that turns a request's features into a ranked decision; no I/O, no clock."""
