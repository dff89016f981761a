"""HTTP towards backends behind one Protocol: a lean HTTP/1.1 client, and httpx."""
