"""Answers kept for later requests."""
