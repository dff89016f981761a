"""Limits of deployments, exact over processes: spent from leases in memory, renewed off the request path."""
