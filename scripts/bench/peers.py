"""The other gateways: nginx as the neutral reference, vLLM's Rust router and LiteLLM as peers."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scripts.bench.gateways import Absent, Gateway
from scripts.bench.processes import clean_environment, free_port

__all__ = ["PEERS", "Peer", "install", "nginx", "peer_gateway"]

_NGINX = """\
# One worker in one process, connections to both sides kept open, no log, nothing held back.
daemon off; master_process off; worker_processes 1;
pid {folder}/nginx.pid; error_log stderr crit; worker_rlimit_nofile 65536;
events {{ worker_connections 20000; }}
http {{
  access_log off; tcp_nodelay on; keepalive_requests 100000000;
  client_max_body_size 64m; client_body_buffer_size 16m;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  upstream mock {{ server 127.0.0.1:{mock_port}; keepalive 2048; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://mock; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; proxy_read_timeout 300s;
    }}
  }}
}}
"""
_LITELLM = """\
model_list:
  - model_name: mock-model
    litellm_params:
      model: openai/mock-model
      api_base: http://127.0.0.1:{mock_port}/v1
      api_key: sk-mock
litellm_settings:
  set_verbose: false
  drop_params: true
  num_retries: 0
  request_timeout: 600
general_settings:
  dangerously_permit_weak_or_unset_master_key: true
  disable_spend_logs: true
  disable_error_logs: true
  background_health_checks: false
router_settings:
  routing_strategy: simple-shuffle
  disable_cooldowns: true
"""


def nginx(folder: Path, mock_port: int) -> Gateway | Absent:
    """Return nginx with a configuration of its own in `folder`."""
    program = shutil.which("nginx", path=None) or shutil.which("nginx", path="/usr/sbin:/opt/homebrew/bin")
    if program is None:
        return Absent("nginx", "not installed (Debian: apt install nginx-light; macOS: brew install nginx)")
    folder.mkdir(parents=True)
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(_NGINX.format(folder=folder, mock_port=mock_port, port=port), encoding="utf-8")
    reply = subprocess.run([program, "-v"], capture_output=True, text=True, check=False)
    return Gateway(
        "nginx",
        port,
        command=(program, "-p", str(folder), "-c", str(config), "-e", "stderr"),
        environment=clean_environment({}),
        version=reply.stderr.strip().rpartition("/")[2],
        remark="proxy_pass, one worker, kept connections, no log, proxy_buffering off",
        alone=1,
    )


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer that lives in a virtual environment of its own.

    Args:
        name: What it is called in results, and its environment's folder.
        requirements: What pip installs for it.
        package: Whose version is told.
        make: Returns its gateway from its environment, a folder for its files, and the mock's port.
    """

    name: str
    requirements: tuple[str, ...]
    package: str
    make: Callable[[Path, Path, int, str], Gateway]


def _vllm_router(venv: Path, _folder: Path, mock_port: int, version: str) -> Gateway:
    port = free_port()
    options = ("--policy", "round_robin", "--disable-retries", "--log-level", "warning")
    return Gateway(
        "vllm-router",
        port,
        command=(
            str(venv / "bin/vllm-router"),
            *("--worker-urls", f"http://127.0.0.1:{mock_port}"),
            *("--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(free_port())),
            *options,
        ),
        environment=clean_environment({}),
        version=version,
        remark=f"one worker URL, {' '.join(options)}; no key",
        alone=3,
        patience=60.0,
    )


def _litellm(venv: Path, folder: Path, mock_port: int, version: str) -> Gateway:
    port = free_port()
    folder.mkdir(parents=True)
    config = folder / "litellm.yaml"
    config.write_text(_LITELLM.format(mock_port=mock_port), encoding="utf-8")
    settings = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION", "LITELLM_LOG": "ERROR"}
    address = ("--host", "127.0.0.1", "--port", str(port), "--num_workers", "1")
    return Gateway(
        "litellm",
        port,
        command=(str(venv / "bin/litellm"), "--config", str(config), *address),
        environment=clean_environment(settings),
        folder=folder,
        version=version,
        remark="one deployment, production mode, errors only logged, no database, no key, no retries, simple-shuffle",
        # It cannot hold thousands of streams on one core; what it is not made for is left out.
        only=frozenset({"conns-1", "conns-16", "conns-64", "streams-20ms", "body-100k", "body-1m"}),
        alone=1,
        open_streams=False,
        patience=120.0,
    )


PEERS = (
    Peer("vllm-router", ("vllm-router==0.1.17",), "vllm-router", _vllm_router),
    # httptools is what uvicorn[standard] would bring: the faster parser.
    Peer("litellm", ("litellm[proxy]==1.106.2", "httptools~=0.9.0"), "litellm", _litellm),
)


def peer_gateway(peer: Peer, venvs: Path, folder: Path, mock_port: int) -> Gateway | Absent:
    """Return a peer as a gateway, if its environment is there."""
    venv = venvs / peer.name
    version = _installed(venv, peer.package)
    if version is None:
        return Absent(peer.name, f"not installed in {venv} (make bench-peers installs it)")
    return peer.make(venv, folder, mock_port, version)


def install(peer: Peer, venvs: Path) -> None:
    """Make a peer's environment, if it is not there.

    Raises:
        subprocess.CalledProcessError: pip or venv failed; they have said why.
    """
    venv = venvs / peer.name
    if _installed(venv, peer.package) is not None:
        return
    print(f"bench: installing {' '.join(peer.requirements)} into {venv}", file=sys.stderr, flush=True)
    shutil.rmtree(venv, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    pip = [str(venv / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    subprocess.run([*pip, *peer.requirements], check=True, stdout=sys.stderr)


def _installed(venv: Path, package: str) -> str | None:
    pattern = f"lib/python*/site-packages/{package.replace('-', '_')}-*.dist-info"
    found = sorted(venv.glob(pattern))
    return found[-1].name.removesuffix(".dist-info").rpartition("-")[2] if found else None
