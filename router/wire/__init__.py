"""Pure translation between bytes on the wire and the router's nouns."""
