"""The HTTP/1.1 front: data-plane requests go straight to the core, everything else through ASGI."""
