"""`routerctl` as people and scripts use it: real files, real output, exit codes, never a traceback."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from router.cli import main
from router.registry.manifest import parse_manifest
from router.registry.rows import Announcement, FoundBackend, FoundModel, Look
from router.registry.store import RegistryStore, open_store
from router.registry.usage_rows import UsageRow

MANIFEST = """\
backends:
  - {name: b, dialect: openai, base_url: "http://h/v1", tier: external, api_key_env: B_KEY}
models:
  - {id: m, aliases: [x], context_length: 4096, deployments: [{backend: b, price: {input: 0.15, output: 0.6}}]}
policies:
  - {name: p, candidates: [m], constraints: {privacy: any, max_cost_usd: 0.05}}
"""


@dataclass
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its output as JSON."""
        return json.loads(self.out)


Ctl = Callable[..., Ran]


@pytest.fixture
def db(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the command finds its registry."""
    for name in list(os.environ):  # noqa: TID251
        if name.startswith(("ROUTER_", "DATABASE_", "EXTERNAL_", "LLMD_")):
            monkeypatch.delenv(name)
    path = tmp_path / "new" / "models.db"
    monkeypatch.setenv("SQLITE_DB_PATH", str(path))
    return path


@pytest.fixture
def ctl(db: Path, capsys: pytest.CaptureFixture[str]) -> Ctl:
    """Run a command in this process."""

    def run(*arguments: str) -> Ran:
        try:
            code = main(arguments)
        except SystemExit as left:  # argparse leaves so
            code = int(left.code or 0)
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


@pytest.fixture
def manifest(tmp_path: Path) -> str:
    """A manifest file."""
    (tmp_path / "models.yaml").write_text(MANIFEST)
    return str(tmp_path / "models.yaml")


def test_apply_prints_what_it_did(ctl: Ctl, manifest: str) -> None:
    """Applying tells what was added, applying again that nothing changed."""
    first = ctl("apply", "-f", manifest)
    assert (first.code, first.err) == (0, "")
    assert first.out.splitlines() == ["added  backend  b", "added  model    m", "added  policy   p"]
    assert ctl("apply", "-f", manifest).out == "nothing to change\n"
    Path(manifest).write_text(MANIFEST.replace("0.15", "0.25"))
    assert ctl("apply", "-f", manifest, "--json").json == {
        "added": [],
        "changed": [{"kind": "model", "name": "m"}],
        "removed": [],
    }


def test_apply_reads_standard_input(ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    """`-` is standard input, and messages say so."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(MANIFEST))
    assert ctl("apply", "-f", "-").code == 0
    monkeypatch.setattr(sys, "stdin", io.StringIO("models: 3"))
    assert ctl("apply", "-f", "-").err == "routerctl: <stdin>:1: models: must be a list\n"


def test_apply_of_a_wrong_manifest_changes_nothing(ctl: Ctl, manifest: str) -> None:
    """Every error is told with its line, the exit code is 1, and the registry is as before."""
    ctl("apply", "-f", manifest)
    before = ctl("export").out
    Path(manifest).write_text(MANIFEST.replace("tier", "teir").replace("0.15", "abc"))
    ran = ctl("apply", "-f", manifest)
    assert ran.code == 1
    assert ran.out == ""
    assert [line.partition("models.yaml:")[2] for line in ran.err.splitlines()] == [
        "2: backends[0].teir: unknown key; did you mean 'tier'?",
        "2: backends[0].tier: is missing",
        "4: models[0].deployments[0].price.input: must be a valid decimal",
    ]
    assert ctl("export").out == before


def test_export_is_a_manifest(ctl: Ctl, manifest: str) -> None:
    """What is exported applies without a change, as YAML and as JSON."""
    ctl("apply", "-f", manifest)
    for arguments in (["export"], ["export", "--json"]):
        ran = ctl(*arguments)
        assert parse_manifest(ran.out) == parse_manifest(MANIFEST)
        Path(manifest).write_text(ran.out)
        assert ctl("apply", "-f", manifest).out == "nothing to change\n"


def test_lists_are_aligned_tables(ctl: Ctl, manifest: str) -> None:
    """People get columns; what is unknown is a dash."""
    ctl("apply", "-f", manifest)
    assert ctl("models", "list").out.splitlines() == [
        "MODEL  CONTEXT  INPUT $/M  OUTPUT $/M  BACKENDS  ALIASES",
        "m         4096  0.15       0.6         b         x",
    ]
    assert ctl("backends", "list").out.splitlines() == [
        "BACKEND  TIER      DIALECT  BASE URL     KEY FROM  MODELS  STATE",
        "b        external  openai   http://h/v1  B_KEY          1  ok",
    ]
    assert ctl("policies", "list").out.splitlines()[1].split() == ["p", "m", "-", "any", "1"]
    assert ctl("agents", "list").out.split() == [
        "AGENT",
        "BACKEND",
        "STATE",
        "URL",
        "DEVICE",
        "VERSION",
        "QUEUED",
        "RUNNING",
        "LAST",
        "SEEN",
        "ID",
    ]


def test_lists_as_json(ctl: Ctl, manifest: str, db: Path) -> None:
    """Scripts get everything, discovered and announced things too."""
    ctl("apply", "-f", manifest)
    store = open_store(db)
    store.replace_discovered(FoundBackend("llmd", "openai", "http://gw/v1", "cluster"), [FoundModel("q")])
    store.register_agent(Announcement("a1", "mac", "http://mac:5000", ({"id": "m2"},)))
    store.close()
    models = ctl("models", "list", "--json").json
    assert [model["id"] for model in models] == ["m", "m2", "q"]
    assert models[0]["deployments"][0]["price"] == {"input": 0.15, "cached_input": None, "output": 0.6}
    backends = {backend["name"]: backend for backend in ctl("backends", "list", "--json").json}
    assert (backends["b"]["api_key_env"], backends["llmd"]["models"]) == ("B_KEY", ["q"])
    assert ctl("--json", "policies", "list").json[0]["name"] == "p"
    (agent,) = ctl("agents", "list", "--json").json
    assert (agent["backend"], agent["state"]) == ("agent-mac", "live")


def test_keys_are_shown_once(ctl: Ctl, db: Path) -> None:
    """Creating prints the key; the file holds its digest alone, and no other command shows it."""
    made = ctl("keys", "create", "--name", "bob", "--models", "gpt-*", "auto", "--json").json
    assert list(made)[:3] == ["id", "key", "name"]
    assert made["name"] == "bob"
    assert made["key"].encode() not in b"".join(file.read_bytes() for file in db.parent.iterdir())
    (listed,) = ctl("keys", "list", "--json").json
    assert listed["id"] == made["id"]
    assert listed["models"] == ["gpt-*", "auto"]
    assert made["key"] not in ctl("keys", "list").out
    connection = sqlite3.connect(db)
    (digest,) = connection.execute("SELECT sha256 FROM api_keys").fetchone()
    connection.close()
    assert digest == hashlib.sha256(made["key"].encode()).hexdigest()


def test_keys_for_people(ctl: Ctl) -> None:
    """Without `--json` the key stands on a line of its own, and the warning on standard error."""
    ran = ctl("keys", "create")
    lines = dict(line.split(maxsplit=1) for line in ran.out.splitlines())
    assert lines["key"].startswith("sk-router-")
    assert lines["name"] == "unnamed"
    assert ran.err == "The key is not shown again.\n"


def test_keys_have_an_objective_where_they_are_given_one(ctl: Ctl) -> None:
    """It is shown wherever the key is, and has to be a name that Kubernetes takes."""
    made = ctl("keys", "create", "--name", "gold", "--objective", "gold.tier-1", "--json").json
    assert (made["objective"], ctl("keys", "create", "--json").json["objective"]) == ("gold.tier-1", None)
    assert [key["objective"] for key in ctl("keys", "list", "--json").json] == ["gold.tier-1", None]
    assert "gold.tier-1" in ctl("keys", "list").out
    assert ["objective", "gold"] in [
        line.split() for line in ctl("keys", "create", "--objective", "gold").out.splitlines()
    ]
    for wrong in ("Gold", "a-", "a..b", "a_b", "a b", "", "a\n", "ä", "a" * 254):
        ran = ctl("keys", "create", "--objective", wrong)
        assert ran.code == 2
        assert "is not the name of a Kubernetes object" in ran.err
    assert len(ctl("keys", "list", "--json").json) == 3


def test_backends_say_what_became_of_the_last_look(ctl: Ctl, db: Path) -> None:
    """A cluster without workers is no failure; a failure is told with its reason."""
    with closing(open_store(db)) as store:
        for name, state, detail in (
            ("a", "ok", None),
            ("b", "empty", "it has no workers yet"),
            ("c", "failed", "away"),
        ):
            found = FoundBackend(name, "openai", f"http://{name}/v1", "cluster")
            store.replace_discovered(found, [FoundModel("m")])
            store.note_look(Look(name, found.base_url, state, detail, 1_700_000_000_000))
    shown = {entry["name"]: entry["listing"] for entry in ctl("backends", "list", "--json").json}
    assert shown["c"] == {
        "state": "failed",
        "detail": "away",
        "looked_at": "2023-11-14T22:13:20Z",
        "listed_at": None,
    }
    states = [line.split("  ")[-1] for line in ctl("backends", "list").out.splitlines()[1:]]
    assert [state.strip() for state in states] == ["ok", "no workers yet", "not listed: away"]


def test_keys_revoke(ctl: Ctl) -> None:
    """A revoked key stays in the list with its end; an unknown id is an error."""
    made = ctl("keys", "create", "--json").json
    assert ctl("keys", "revoke", made["id"]).out == f"revoked {made['id']} (unnamed)\n"
    assert ctl("keys", "revoke", made["id"], "--json").json["revoked_at"] is not None
    assert ctl("keys", "list", "--json").json[0]["revoked_at"] is not None
    ran = ctl("keys", "revoke", "key_0")
    assert (ran.code, ran.err) == (
        1,
        "routerctl: there is no key with the id 'key_0'; `routerctl keys list` shows them\n",
    )


def test_tables_spell_out_control_characters(ctl: Ctl) -> None:
    """A name that holds a line break or a terminal's commands stays one harmless line; JSON has it as it is."""
    name = "a\nb\x1b]0;x\x07 模型"
    made = ctl("keys", "create", "--name", name, "--json").json
    table = ctl("keys", "list").out
    assert r"a\nb\x1b]0;x\x07 模型" in table
    assert len(table.splitlines()) == 2
    assert made["name"] == ctl("keys", "list", "--json").json[0]["name"] == name


def test_usage(ctl: Ctl, db: Path) -> None:
    """Totals by key and model, of all time or since a moment."""
    store: RegistryStore = open_store(db)
    row = UsageRow(
        "r1", caller="key_1", caller_name="bob", endpoint="chat", asked="m", status=200, stream=False,
        cache="off", attempts=(), duration_ms=1.0, overhead_ms=0.1, prompt_tokens=10, completion_tokens=5, created_at=0,
    )  # fmt: skip
    store.insert_usage([row, replace(row, request_id="r2")])
    store.close()
    assert ctl("usage", "--json").json == [
        {
            "key": "key_1",
            "key_name": "bob",
            "model": "m",
            "requests": 2,
            "errors": 0,
            "prompt_tokens": 20,
            "completion_tokens": 10,
            "cost_usd": 0.0,
            "unpriced_requests": 2,
        }
    ]
    assert ctl("usage").out.splitlines()[1].split()[:3] == ["bob", "key_1", "m"]
    for since in ("24h", "2026-01-31", "2026-01-31T10:00:00Z"):
        assert ctl("usage", "--json", "--since", since).json == []
    assert ctl("usage", "--since", "yesterday").code == 2


@pytest.mark.parametrize("arguments", [[], ["keys"], ["models"], ["apply"], ["nothing"], ["keys", "revoke"]])
def test_misuse_is_exit_code_2(ctl: Ctl, arguments: list[str]) -> None:
    """A command line that means nothing is answered with its usage."""
    ran = ctl(*arguments)
    assert ran.code == 2
    assert ran.err.startswith("usage: routerctl")


def test_failures_are_one_line(ctl: Ctl, db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing file, a damaged registry and a bad setting each end in one clear line and exit code 1."""
    cases = [ctl("apply", "-f", "/nowhere.yaml")]
    db.parent.mkdir(exist_ok=True)
    for suffix in ("-wal", "-shm"):
        db.with_name(db.name + suffix).unlink(missing_ok=True)
    db.write_bytes(b"rubbish " * 1000)
    cases.append(ctl("export"))
    monkeypatch.setenv("DATABASE_URL", "nosuch://h/db")
    cases.append(ctl("export"))
    monkeypatch.setenv("ROUTER_PORT", "many")
    cases.append(ctl("export"))
    for ran in cases:
        assert ran.code == 1
        assert ran.out == ""
        assert len(ran.err.splitlines()) == 1
        assert ran.err.startswith("routerctl: ")


def test_routerctl_is_a_program(db: Path) -> None:
    """The module runs on its own, quietly, and survives a reader that leaves early."""
    command = [sys.executable, "-W", "error", "-m", "router.cli", "--json", "policies", "list"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (len(json.loads(ran.stdout)), ran.stderr) == (5, "")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
