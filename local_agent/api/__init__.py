"""The HTTP surface: thin, one file per resource."""
