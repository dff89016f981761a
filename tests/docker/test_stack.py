"""The Compose stack: it answers, is confined, keeps its registry in PostgreSQL, is scraped, and drains."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.docker.stack import ROOT, Stack, docker, until

pytestmark = pytest.mark.timeout(3600)
OURS = pytest.mark.parametrize(
    ("service", "image", "limit"),
    [("router", "inference-router/router:dev", 350), ("agent", "inference-router/local-agent:dev", 1500)],
)
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture
def client(stack: Stack) -> Iterator[openai.OpenAI]:
    """OpenAI's own client, pointed at the stack."""
    with openai.OpenAI(base_url=f"{stack.url('ROUTER')}/v1", api_key="none", max_retries=0, timeout=120) as client:
        yield client


def test_script_says_what_it_did(stack: Stack) -> None:
    """The first run ends with an answer of the model's, readiness and where everything is."""
    for told in ("asked for the capital of France", '"status":"ok"', f"{stack.url('ROUTER')}/v1"):
        assert told in stack.said


def test_stack_answers_a_chat(client: openai.OpenAI) -> None:
    """A chat and a stream, through the router, from the agent's model."""
    assert [model.id for model in client.models.list() if model.id.startswith("local_")] == [
        "local_smollm2-135m-instruct"
    ]
    reply = client.chat.completions.create(model="auto", messages=QUESTION, temperature=0, max_tokens=16)  # type: ignore[arg-type]
    assert "Paris" in str(reply.choices[0].message.content)
    stream = client.chat.completions.create(  # type: ignore[call-overload]
        model="auto", messages=QUESTION, temperature=0, max_tokens=16, stream=True
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    assert "Paris" in text


def test_second_run_starts_nothing_anew(stack: Stack) -> None:
    """With nothing changed, the same containers go on."""
    before = stack.containers()
    stack.script()
    assert stack.containers() == before


def test_services_are_confined(stack: Stack) -> None:
    """Read-only, without privileges and capabilities, published on loopback alone, and healthy all the same."""
    for service in stack.containers():
        told = stack.inspect(service)
        host = told["HostConfig"]
        assert host["ReadonlyRootfs"] is True
        assert host["CapDrop"] == ["ALL"]
        assert "no-new-privileges:true" in host["SecurityOpt"]
        assert told["State"]["Health"]["Status"] == "healthy"
        for published in told["NetworkSettings"]["Ports"].values():
            assert {port["HostIp"] for port in published or ()} <= {"127.0.0.1"}
        assert stack.run(service, "id", "-u").stdout.strip() != "0"
        status = stack.run(service, "cat", "/proc/1/status").stdout
        assert re.search(r"^CapEff:\s+0+$", status, flags=re.MULTILINE)
        assert re.search(r"^NoNewPrivs:\s+1$", status, flags=re.MULTILINE)
        written = stack.run(service, "touch", "/a-file", check=False)
        assert "Read-only file system" in written.stderr


@OURS
def test_image_holds_the_service_and_no_more(stack: Stack, service: str, image: str, limit: int) -> None:
    """A numeric user; no pip, tests or build tools; no trace of what was lent to the build; not large."""
    (told,) = json.loads(docker("image", "inspect", image).stdout)
    assert told["Config"]["User"] == "10001:10001"
    assert told["Config"]["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    megabytes = told["Size"] / 1e6
    print(f"\n{image}: {megabytes:.0f} MB")  # noqa: T201 - the figure of the documentation
    assert megabytes < limit
    environment = stack.run(service, "ls", "/opt/venv/lib/python3.11/site-packages").stdout.split()
    assert not {"pip", "setuptools", "wheel", "tests", "scripts"} & set(environment)
    assert stack.run(service, "sh", "-c", "command -v gcc make git", check=False).stdout == ""
    history = docker("history", "--no-trunc", image).stdout
    assert "index" not in history.replace("inference", "")
    assert "/lent" not in history
    left = stack.run(service, "sh", "-c", "ls -A /lent /root/.cache /src 2>/dev/null", check=False).stdout
    assert left == ""


def test_registry_is_in_postgresql(stack: Stack, client: openai.OpenAI) -> None:
    """What the router counts gets into the database, and it makes no SQLite file."""
    client.chat.completions.create(model="auto", messages=QUESTION, max_tokens=4)  # type: ignore[arg-type]

    def rows() -> int:
        query = "PGPASSWORD=$POSTGRES_PASSWORD psql -U router -Atc 'SELECT count(*) FROM usage' router"
        return int(stack.run("postgres", "sh", "-c", query).stdout)

    until(lambda: rows() > 0, 30)
    assert "models.db" not in stack.run("router", "ls", "-A", "data").stdout.split()


def test_prometheus_has_what_the_dashboard_asks_for(stack: Stack, client: openai.OpenAI) -> None:
    """Router and agent are scraped, and every expression of the dashboard is one that Prometheus takes."""
    client.chat.completions.create(model="auto", messages=QUESTION, max_tokens=4)  # type: ignore[arg-type]
    with httpx.Client(base_url=f"{stack.url('PROMETHEUS')}/api/v1", trust_env=False) as prometheus:

        def ask(expression: str) -> list[dict[str, object]]:
            reply = prometheus.get("/query", params={"query": expression.replace("$__rate_interval", "1m")})
            assert reply.status_code == 200, reply.text
            return list(reply.json()["data"]["result"])

        until(lambda: len(ask("up == 1")) == 2, 60)
        assert {str(found["metric"]["job"]) for found in ask("up")} == {"router", "agent"}  # type: ignore[index]
        until(lambda: bool(ask("router_requests_total > 0")), 60)
        dashboard = json.loads((ROOT / "scripts/monitoring/grafana/dashboards/router.json").read_text())
        for panel in dashboard["panels"]:
            for target in panel.get("targets", []):
                ask(target["expr"])


def test_grafana_shows_the_dashboard(stack: Stack) -> None:
    """Whoever comes may look, and nobody may change anything."""
    if "grafana" not in stack.containers():
        pytest.skip("no registry to fetch Grafana's image from")
    with httpx.Client(base_url=stack.url("GRAFANA"), trust_env=False) as grafana:
        assert grafana.get("/api/dashboards/uid/inference-router").json()["dashboard"]["title"] == "Inference router"
        assert grafana.post("/api/dashboards/db", json={}).status_code in (401, 403)
        assert grafana.get("/api/org", auth=("admin", "admin")).status_code != 200


def test_source_change_reuses_the_dependencies(stack: Stack, tmp_path: Path) -> None:
    """A changed module is copied and installed; what the project depends on comes from the cache."""
    for name in ("LICENSE", "README.md", "pyproject.toml", ".dockerignore"):
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("router", "shared", "scripts"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "router" / "types.py").open("a") as module:
        module.write(f"\n# {uuid.uuid4()}\n")  # never the one that an earlier run has built
    given = {"PIP_EXTRA_INDEX_URL": "https://download.pytorch.org/whl/cpu"} | stack.settings
    names = ("BASE_IMAGE", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL")
    flags = [flag for name in names if name in given for flag in ("--build-arg", f"{name}={given[name]}")]
    for file, name in (("index", "PIP_CONFIG_FILE"), ("ca", "PIP_CERT")):
        if name in given:
            (tmp_path / ".pip-lent").mkdir(mode=0o700, exist_ok=True)
            shutil.copy(given[name], tmp_path / ".pip-lent" / file)
            (tmp_path / ".pip-lent" / file).chmod(0o600)  # as `docker_dev.sh` makes it: modes are part of a layer
    built = docker("build", *flags, "--file", str(tmp_path / "router/Dockerfile"), str(tmp_path))
    cached = _cached_runs(built.stderr + built.stdout)
    (dependencies,) = (was for step, was in cached.items() if "setup.sh" in step and not step.endswith("--slim"))
    (code,) = (was for step, was in cached.items() if step.endswith("--slim"))
    assert dependencies
    assert not code


def _cached_runs(said: str) -> dict[str, bool]:
    """Return the RUN steps that a build speaks of, and whether each came from the cache; as both builders put it."""
    steps = re.findall(r"^#(\d+) \[build [^\]]*\] RUN (.*)$", said, flags=re.MULTILINE)
    if steps:
        return {step: f"\n#{number} CACHED" in said for number, step in steps}
    told = re.findall(r"^Step \S+ : RUN (.*)\n ---> (.*)$", said, flags=re.MULTILINE)
    return {step: after == "Using cache" for step, after in told}


def test_stop_lets_a_stream_end(stack: Stack) -> None:
    """SIGTERM in the middle of a stream: it ends as it should, and then the router does, with status 0."""
    body = {
        "model": "auto",
        "stream": True,
        "temperature": 0,
        "max_tokens": 64,  # less than what the slowest machine says in ROUTER_DRAIN_SECONDS
        "messages": [{"role": "user", "content": "Write a long story about a sailor and a whale."}],
    }
    container = stack.containers()["router"]
    stopped: list[subprocess.CompletedProcess[str]] = []
    stop = threading.Thread(target=lambda: stopped.append(docker("stop", "--time", "40", container)))
    data = []
    with httpx.stream(
        "POST",
        f"{stack.url('ROUTER')}/v1/chat/completions",
        json=body,
        headers={"x-router-cache": "off"},
        timeout=120,
        trust_env=False,
    ) as reply:
        for line in reply.iter_lines():
            if line.startswith("data: "):
                data.append(line)
                if len(data) == 3:
                    stop.start()
    stop.join()

    assert data[-1] == "data: [DONE]"
    assert len(data) > 10
    state = stack.inspect("router")["State"]
    assert (state["Status"], state["ExitCode"], state["OOMKilled"]) == ("exited", 0, False)
    # And the script brings it back.
    stack.script()
    assert stack.inspect("router")["State"]["Health"]["Status"] == "healthy"
