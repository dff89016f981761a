"""Alembic migrations of the registry; landed versions are never rewritten (see `checksums`)."""
