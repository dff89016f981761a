"""`python -m local_agent`: settings, a socket, and uvicorn."""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
from types import FrameType

import uvicorn
from pydantic import ValidationError

from local_agent.main import create_app
from local_agent.settings import AgentSettings

__all__ = ["main"]

_BACKLOG = 2048


def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Raises:
        OSError: The address cannot be had.
    """
    info = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listener = socket.socket(info[0], socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(info[4])
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _explain(error: OSError, settings: AgentSettings) -> str:
    address = f"{settings.host}:{settings.port}"
    if error.errno == errno.EADDRINUSE:
        cause = "Another program uses this port."
        if sys.platform == "darwin" and settings.port in (5000, 7000):
            cause = (
                "On macOS this is usually the AirPlay Receiver "
                "(System Settings > General > AirDrop & Handoff > AirPlay Receiver)."
            )
        return f"Cannot listen on {address}: {cause} Stop it, or set LOCAL_AGENT_PORT to a free port."
    if error.errno == errno.EACCES:
        return f"Cannot listen on {address}: not allowed. Set LOCAL_AGENT_PORT to a port above 1023."
    return f"Cannot listen on {address}: {error.strerror or error}. Check LOCAL_AGENT_HOST and LOCAL_AGENT_PORT."


def _stop(_signal: int, _frame: FrameType | None) -> None:
    """End quietly: uvicorn shuts down first and then raises the signal again."""
    raise SystemExit(0)


def main() -> int:
    """Run the agent and return its exit code."""
    try:
        settings = AgentSettings()
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_input=False):
            name = "LOCAL_AGENT_" + "_".join(map(str, problem["loc"])).upper()
            print(f"local_agent: {name}: {problem['msg'].removeprefix('Value error, ')}", file=sys.stderr)
        return 2
    try:
        listener = _listen(settings.host, settings.port)
    except OSError as error:
        print(f"local_agent: {_explain(error, settings)}", file=sys.stderr)
        return 1
    with listener:
        port = listener.getsockname()[1]
        settings = settings.model_copy(update={"port": port})
        config = uvicorn.Config(
            create_app(settings),
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=round(settings.shutdown_grace_s),
        )
        print(f"local_agent: http://{settings.host}:{port} (process {os.getpid()})", file=sys.stderr, flush=True)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _stop)
        server = uvicorn.Server(config)
        server.run(sockets=[listener])
    return 0 if server.started else 3


if __name__ == "__main__":
    raise SystemExit(main())
