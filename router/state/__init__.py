"""State that routers share, behind the `StateStore` Protocol."""
