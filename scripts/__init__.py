"""Automation: what stands behind the make targets."""
