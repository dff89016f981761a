"""A soak: mixed traffic for minutes, and whether anything is left behind."""
