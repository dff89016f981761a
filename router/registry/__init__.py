"""The registry: what the router knows of backends, models, policies, keys and past requests."""
