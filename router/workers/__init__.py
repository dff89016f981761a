"""Worker processes: the parent that keeps them, and what a worker knows of it."""
