"""Google's `generateContent`: chat requests as its requests, its answers and streams as chat answers."""
