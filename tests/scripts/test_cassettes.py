"""`make cassettes`: what it records with, and what it leaves out; the recording itself needs keys."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from scripts.cassettes import only
from tests.support.cassettes import SCENARIOS

ROOT = Path(__file__).parents[2]


def test_only_leaves_one_provider_at_its_own_address() -> None:
    """Another provider's models, or another server's answers, have no place in a cassette."""
    scenario = SCENARIOS[0]
    own = {scenario.key_env: "k", "PATH": "/bin"}
    others = {"EXTERNAL_GROQ_KEY": "k", "EXTERNAL_OPENAI_BASE_URL": "http://proxy", "EXTERNAL_OPENAI_MODELS": "a"}
    assert only(scenario, own | others) == own


def test_cassettes_without_keys_are_kept() -> None:
    """It names each key that is missing, changes nothing and fails."""
    inherited = os.environ.items()  # noqa: TID251 - all of it but the keys
    environment = {name: value for name, value in inherited if not name.startswith("EXTERNAL_")}
    command = [sys.executable, "-m", "scripts.cassettes"]
    reply = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert reply.returncode == 1
    assert reply.stdout.splitlines() == [f"kept: {one.file} ({one.key_env} is not set)" for one in SCENARIOS]
