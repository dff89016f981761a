#!/usr/bin/env bash
# Builds and starts all services with Docker Compose, waits until they answer, and sends one chat
# request through the router to the agent. They keep running; `--down` removes them.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf 'docker-dev: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

command -v docker >/dev/null || die "docker is not installed (https://docs.docker.com/get-docker/)."
docker info >/dev/null 2>&1 || die "the Docker daemon does not answer; start it and run this again."
if docker compose version >/dev/null 2>&1; then
    compose=(docker compose)
elif command -v docker-compose >/dev/null; then
    compose=(docker-compose)
else
    die "Docker Compose is not installed (https://docs.docker.com/compose/install/)."
fi

# The agent is no loopback caller for the router, so it needs a token. One for each checkout will do.
if [ -z "${ROUTER_AGENT_TOKEN:-}" ]; then
    mkdir -p .dev
    [ -s .dev/agent-token ] || (umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >.dev/agent-token)
    ROUTER_AGENT_TOKEN="$(cat .dev/agent-token)"
    export ROUTER_AGENT_TOKEN
fi

if [ "${1:-}" = --down ]; then
    exec "${compose[@]}" down
fi

url="http://127.0.0.1:${ROUTER_PORT:-8000}"
"${compose[@]}" up --build --detach || die "Docker Compose could not build or start the services; see above."

ended() {
    local service id
    for service in redis agent router; do
        id="$("${compose[@]}" ps --quiet "$service" 2>/dev/null)"
        if [ -z "$id" ] || [ "$(docker inspect --format '{{.State.Status}}' "$id")" = exited ]; then
            echo "$service"
            return
        fi
    done
    return 1
}

say "waiting for a model at $url (the agent converts its weights the first time)"
until curl --silent --max-time 5 "$url/v1/models" | grep -q '"local_'; do
    if service="$(ended)"; then
        "${compose[@]}" logs --tail 20 "$service" >&2
        die "$service has ended; its last lines are above."
    fi
    [ "$SECONDS" -lt 1800 ] || die "no model after 30 minutes: ${compose[*]} logs says more."
    sleep 1
done

answer="$(curl --silent --show-error --fail-with-body --max-time 120 "$url/v1/chat/completions" \
    -H 'content-type: application/json' \
    -d '{"model": "auto", "temperature": 0, "max_tokens": 32,
         "messages": [{"role": "user", "content": "What is the capital of France?"}]}')" || {
    "${compose[@]}" logs --tail 20 >&2
    die "the first request failed: ${answer:-no answer}"
}
say "asked for the capital of France, got: $answer"
say "readiness: $(curl --silent --max-time 5 "$url/readyz")"
say "ready: base URL $url/v1, docs $url/docs, logs: ${compose[*]} logs --follow, stop: scripts/docker_dev.sh --down"
