"""`make docker-dev` against a Docker that only records: what it starts, what it says, how it ends."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.scripts.docker.stage import Reply, Stage

READY = '{"id":"auto-local","available":true}'
ANSWER = '{"choices": [{"message": {"content": "Paris."}}]}'
STREAM = 'data: {"choices": [{"delta": {"content": "Paris."}}]}\n\ndata: [DONE]\n'


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    """A machine where everything goes well."""
    stage = Stage(tmp_path, "docker_dev.sh", "docker curl sleep")
    stage.says("docker", "^version", "20.10.24")
    stage.says("docker", "^compose ps", "the-container")
    stage.says("docker", "^inspect", "healthy")
    stage.says("docker", "^compose port router", "127.0.0.1:8000")
    stage.says("docker", "^compose port agent", "127.0.0.1:5000")
    stage.says("docker", "^compose port prometheus", "127.0.0.1:9090")
    stage.says("docker", "^compose port grafana", "127.0.0.1:3000")
    stage.says("curl", "/v1/models", READY)
    stage.says("curl", '"stream": false', ANSWER)
    stage.says("curl", '"stream": true', STREAM)
    stage.says("curl", "/readyz", '{"status": "ok"}')
    return stage


def _nothing_was_started(reply: Reply) -> bool:
    return not any(re.search(r"\b(build|up|down)\b", line) for line in reply.lines())


def test_stack_is_built_started_and_tried(stage: Stage) -> None:
    """Images first, then what the router stands on, then all; the requests last, and where everything is."""
    reply = stage.run()

    assert reply.status == 0, reply.text
    assert [line.split(" --build-arg")[0] for line in reply.lines() if line.startswith("build")] == [
        "build --file local_agent/Dockerfile --tag inference-router/local-agent:dev",
        "build --file router/Dockerfile --tag inference-router/router:dev",
    ]
    ups = [line for line in reply.lines() if " up " in line]
    assert ups == ["compose up --detach --no-build redis", "compose up --detach --no-build redis agent router"]
    assert reply.lines().index(ups[0]) > reply.lines().index(reply.one("build --file router").line)
    asked = [re.findall(r"http://\S+", line)[0] for line in reply.lines("curl")]
    base = "http://127.0.0.1:8000"
    assert asked == [f"{base}/v1/models/auto-local", *[f"{base}/v1/chat/completions"] * 2, f"{base}/readyz"]
    for told in ("Paris.", "in 1 events", '"status": "ok"', f"{base}/v1", f"{base}/docs", "http://127.0.0.1:5000"):
        assert told in reply.text
    assert "Prometheus" not in reply.text


def test_second_run_keeps_its_secrets(stage: Stage) -> None:
    """A token made once is for its owner's eyes alone, stays, and is no argument of any program."""
    tokens = {stage.run().one("compose up --detach --no-build redis agent").environment["ROUTER_AGENT_TOKEN"]}
    kept = stage.root / ".dev" / "agent-token"
    again = stage.run()
    tokens.add(again.one("compose up --detach --no-build redis agent").environment["ROUTER_AGENT_TOKEN"])

    assert tokens == {kept.read_text()}
    assert re.fullmatch("[0-9a-f]{64}", kept.read_text())
    assert kept.stat().st_mode & 0o777 == 0o600
    assert not any(kept.read_text() in call.line for call in again.calls)
    assert kept.read_text() not in again.text


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        ("docker", "docker is not installed"),
        ("daemon", "daemon does not answer"),
        ("compose", "Compose is not installed"),
    ],
)
def test_missing_part_is_named(stage: Stage, missing: str, told: str) -> None:
    """Without Docker, its daemon or Compose nothing is started."""
    if missing == "docker":
        stage.remove("docker")
    stage.says("docker", {"daemon": "^info", "compose": "^compose version"}.get(missing, "^$"), status=1)
    reply = stage.run()

    assert reply.status == 1
    assert told in reply.text
    assert _nothing_was_started(reply)


def test_old_compose_does_too(stage: Stage) -> None:
    """Where the plugin is missing, `docker-compose` takes its place."""
    stage.says("docker", "^compose version", status=1)
    stage.install("docker-compose")
    stage.says("docker-compose", "^ps", "the-container")
    stage.says("docker-compose", "^port", "127.0.0.1:8000")
    reply = stage.run()

    assert reply.status == 0, reply.text
    assert "up --detach --no-build redis" in reply.lines("docker-compose")


@pytest.mark.parametrize(
    ("arguments", "profiles", "told"),
    [(["--up"], "", "unknown option --up"), ([], "postgres mysql", "unknown profile mysql")],
)
def test_unknown_word_is_refused(stage: Stage, arguments: list[str], profiles: str, told: str) -> None:
    """A word that means nothing changes nothing, and is named."""
    reply = stage.run(*arguments, DOCKER_PROFILES=profiles)

    assert reply.status == 2
    assert told in reply.text
    assert reply.calls == []


def test_help_needs_no_docker(stage: Stage) -> None:
    """`--help` says what can be said."""
    stage.remove("docker")
    reply = stage.run("--help")

    assert reply.status == 0
    for told in ("--down", "--purge", "DOCKER_PROFILES"):
        assert told in reply.text


@pytest.mark.parametrize(("folder", "service"), [("router", "router"), ("local_agent", "agent")])
def test_failed_build_names_the_service(stage: Stage, folder: str, service: str) -> None:
    """What cannot be built is named, and nothing is started."""
    stage.says("docker", f"^build --file {folder}/", "E: no space left on device", status=1)
    reply = stage.run()

    assert reply.status == 1
    assert "no space left on device" in reply.text
    assert f"the image of {service} could not be built" in reply.text
    assert not any(" up " in line for line in reply.lines())


@pytest.mark.parametrize(
    ("state", "told"),
    [("exited", "router has ended"), ("restarting", "router has ended"), ("unhealthy", "router is unhealthy")],
)
def test_failed_service_is_named_with_its_last_lines(stage: Stage, state: str, told: str) -> None:
    """A service that ends or falls ill ends the wait, and its own words come before ours."""
    stage.says("docker", "^compose ps .* router$", "the-router")
    stage.says("docker", "^inspect .* the-router$", "starting", state)
    stage.says("docker", "^compose logs .* router$", "router: DATABASE_URL cannot be used")
    reply = stage.run()

    assert reply.status == 1
    assert f"router: DATABASE_URL cannot be used\ndocker-dev: {told}" in reply.text
    assert "router: starting" in reply.text
    assert reply.lines("curl") == []


def test_service_without_a_container_is_named(stage: Stage) -> None:
    """A container that somebody has removed is not waited for."""
    stage.says("docker", "^compose ps .* agent$", "")
    reply = stage.run()

    assert reply.status == 1
    assert "agent has no container" in reply.text


def test_failed_start_is_told(stage: Stage) -> None:
    """A port in use, say: Compose's own words, and which services it was about."""
    stage.says("docker", "^compose up .* router$", "port is already allocated", status=1)
    reply = stage.run()

    assert reply.status == 1
    assert "port is already allocated" in reply.text
    assert "could not start redis agent router" in reply.text


def test_wait_has_an_end(stage: Stage) -> None:
    """A service that never gets well is named when the time is up."""
    stage.says("docker", "^compose ps .* agent$", "the-agent")
    stage.says("docker", "^inspect .* the-agent$", "starting")
    reply = stage.run(DOCKER_WAIT_SECONDS="0")

    assert reply.status == 1
    assert "agent is not healthy after 0 seconds" in reply.text


def test_model_is_waited_for(stage: Stage) -> None:
    """The agent announces itself a moment after it is well, and again to a router that was away."""
    away = '{"id":"auto-local","available":false,"reason":"the agent has missed three heartbeats"}'
    stage.says("curl", "/v1/models", away, away, READY)
    reply = stage.run()

    assert reply.status == 0, reply.text
    assert len([line for line in reply.lines("curl") if line.endswith("/v1/models/auto-local")]) == 3


@pytest.mark.parametrize(
    ("pattern", "answer", "status", "told"),
    [
        ("/v1/models", '{"error": {"code": "invalid_api_key"}}', 22, "models: .*invalid_api_key"),
        ('"stream": false', '{"error": {"code": "no_candidate"}}', 22, "chat: .*no_candidate"),
        ('"stream": true', 'data: {"error": {}}', 0, "stream: data: .*error"),
        ("/readyz", "", 7, "readiness: no answer"),
    ],
)
def test_failed_request_is_told(stage: Stage, pattern: str, answer: str, status: int, told: str) -> None:
    """A request that fails, or a stream without its end, is a failure, told with the answer."""
    stage.says("curl", pattern, answer, status=status)
    reply = stage.run()

    assert reply.status == 1
    assert re.search(rf"router did not answer as it should \({told}", reply.text)


def test_profiles_add_services_and_tell_the_router(stage: Stage) -> None:
    """PostgreSQL comes before the router, which is told of it and of vLLM; the URLs of the rest are told."""
    reply = stage.run(DOCKER_PROFILES="postgres monitoring  gpu")

    assert reply.status == 0, reply.text
    assert "compose up --detach --no-build redis postgres" in reply.lines()
    call = reply.one("compose up --detach --no-build redis agent router postgres prometheus grafana vllm")
    password = (stage.root / ".dev" / "postgres-password").read_text()
    assert call.environment["COMPOSE_PROFILES"] == "postgres,monitoring,gpu"
    assert call.environment["POSTGRES_PASSWORD"] == password
    assert call.environment["DATABASE_URL"] == f"postgresql://router:{password}@postgres:5432/router"
    assert call.environment["LLMD_ENDPOINT"] == "http://vllm:8000"
    assert "Prometheus  http://127.0.0.1:9090" in reply.text
    assert "Grafana     http://127.0.0.1:3000" in reply.text


def test_own_addresses_win_over_the_profiles(stage: Stage) -> None:
    """A database or cluster that is set is used in place of the stack's."""
    own = {"DATABASE_URL": "postgresql://elsewhere/registry", "LLMD_ENDPOINT": "http://cluster.example"}
    reply = stage.run(DOCKER_PROFILES="postgres gpu", **own)

    environment = reply.one("compose up --detach --no-build redis agent").environment
    assert {name: environment[name] for name in own} == own


def test_plain_stack_is_told_of_no_profile(stage: Stage) -> None:
    """Without a profile neither a database nor a cluster is made up."""
    environment = stage.run().one("compose up --detach --no-build redis agent").environment

    assert environment["COMPOSE_PROFILES"] == ""
    assert not environment.keys() & {"DATABASE_URL", "LLMD_ENDPOINT", "POSTGRES_PASSWORD", "ROUTER_ENV_FILE"}


def test_env_file_reaches_the_router(stage: Stage) -> None:
    """`.env` is what the router reads where there is one."""
    (stage.root / ".env").write_text("EXTERNAL_OPENAI_KEY=sk-secret\n")
    reply = stage.run()

    assert reply.one("compose up --detach --no-build redis agent").environment["ROUTER_ENV_FILE"] == ".env"
    assert "sk-secret" not in reply.text


def test_index_and_certificates_are_lent_to_the_builds(stage: Stage, tmp_path: Path) -> None:
    """A network's own index lies in the context while the images are built; an empty extra index stays empty."""
    config, certificates = tmp_path / "pip.conf", tmp_path / "ca.pem"
    config.write_text("[global]\n")
    certificates.write_text("trusted\n")
    stage.install("docker", '[ "$1" != build ] || { [ -s .pip-lent/index ] && [ -s .pip-lent/ca ]; } || exit 9')
    reply = stage.run(
        PIP_CONFIG_FILE=str(config), PIP_CERT=str(certificates), PIP_EXTRA_INDEX_URL="", BASE_IMAGE="mine"
    )

    assert reply.status == 0, reply.text
    builds = [line for line in reply.lines() if line.startswith("build")]
    assert len(builds) == 2
    assert all("--build-arg BASE_IMAGE=mine --build-arg PIP_EXTRA_INDEX_URL= " in line for line in builds)
    assert not (stage.root / ".pip-lent").exists()


def test_missing_pip_configuration_is_named(stage: Stage) -> None:
    """A file that is to be lent and is not there is told by its variable."""
    reply = stage.run(PIP_CONFIG_FILE="/nowhere/pip.conf")

    assert reply.status == 1
    assert "PIP_CONFIG_FILE=/nowhere/pip.conf cannot be read." in reply.text
    assert _nothing_was_started(reply)


def test_given_images_are_not_built(stage: Stage) -> None:
    """Who names an image wants that one."""
    reply = stage.run(ROUTER_IMAGE="ghcr.io/example/router:1", AGENT_IMAGE="ghcr.io/example/agent:1")

    assert reply.status == 0
    assert not any(line.startswith("build") for line in reply.lines())


def test_key_of_the_router_is_sent_and_not_shown(stage: Stage) -> None:
    """With ROUTER_AUTH=required the requests carry ROUTER_KEY, which no list of processes shows."""
    reply = stage.run(ROUTER_KEY="sk-router-secret")

    assert reply.status == 0
    assert all("--header /dev/fd/" in line or "--header @/dev/fd/" in line for line in reply.lines("curl"))
    assert not any("sk-router-secret" in call.line for call in reply.calls)


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["--down"], "compose down"),
        (["--purge"], "compose down --volumes"),
        (["--", "logs", "--tail", "3", "router"], "compose logs --tail 3 router"),
    ],
)
def test_other_actions_reach_all_profiles(stage: Stage, arguments: list[str], command: str) -> None:
    """Taking down, or any command of Compose's, sees the services of every profile and builds nothing."""
    reply = stage.run(*arguments)

    assert reply.status == 0
    assert reply.lines()[-1] == command
    assert reply.calls[-1].environment["COMPOSE_PROFILES"] == "postgres,metrics,monitoring,gpu"
    assert not any(line.startswith("build") for line in reply.lines())
