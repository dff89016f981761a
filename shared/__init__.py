"""Code that the services share; it holds no service logic."""
