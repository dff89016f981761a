"""OpenAI's Responses API: read from clients, passed on to backends that speak it, carried over chat elsewhere."""
