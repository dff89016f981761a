"""What a router that has only started has not loaded."""

from __future__ import annotations

import subprocess
import sys

from tests.support.process import ROOT, free_port

LATER = (
    "alembic",
    "genai_prices",
    "httpx",
    "httpx2",
    "jsonschema",
    "local_agent",
    "opentelemetry.exporter",
    "opentelemetry.sdk",
    "psycopg",
    "redis",
    "requests",
    "router.spans",
    "router.transport.general",
    "sqlalchemy.dialects.postgresql",
    "sqlalchemy.orm",
    "torch",
    "transformers",
)
"""Each costs every start time and memory, and is needed by some routers only."""


def test_start_loads_only_what_the_first_request_needs() -> None:
    """Importing the whole router brings none of what only some settings, or the first migration, need."""
    program = "import sys, router.__main__, router.main; print(*sys.modules)"
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert sorted(set(LATER) & set(ended.stdout.split())) == []


def test_a_new_registry_needs_no_migrations() -> None:
    """Opening a registry that is new, or at head, leaves Alembic out."""
    program = (
        "import sys, tempfile; from pathlib import Path; from router.registry.store import open_store\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    for _ in range(2):\n"
        "        open_store(Path(folder) / 'models.db').close()\n"
        "print('alembic' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "False"


def test_a_redis_that_is_away_loads_no_client() -> None:
    """Where nobody listens, redis-py stays out of memory."""
    program = (
        "import asyncio, sys; from router.state.redis import RedisStore\n"
        "async def ask():\n"
        f"    store = RedisStore('redis://127.0.0.1:{free_port()}/0')\n"
        "    await store.connect()\n"
        "    await store.close()\n"
        "asyncio.run(ask())\n"
        "print('redis' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "False"
