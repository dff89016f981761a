#!/usr/bin/env bash
# Builds and starts all services with Docker Compose, waits until they are healthy, and tries them:
# the models, one chat, one stream, readiness. They keep running.
#
#   scripts/docker_dev.sh           build, start, wait, try; once more changes only what has changed
#   scripts/docker_dev.sh --down    stop and remove the containers; what they keep in volumes stays
#   scripts/docker_dev.sh --purge   the same, and remove the volumes too
#   scripts/docker_dev.sh -- logs   any command of Docker Compose, such as logs, ps or exec, on this stack
#
# DOCKER_PROFILES="postgres metrics monitoring gpu" adds services: PostgreSQL for the registry,
# Prometheus, Prometheus with Grafana, vLLM on an NVIDIA GPU. docs/how-to/run-in-containers.md
# lists what else can be set.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf 'docker-dev: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

action="${1:-up}"
case "$action" in
    up | --down | --purge | --) ;;
    -h | --help) sed -n '2,13s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) say "unknown option $action (see --help)"; exit 2 ;;
esac

# What the profiles add to the stack, the router's part of it included.
backing=(redis)
services=(redis agent router)
for profile in ${DOCKER_PROFILES:-}; do
    case "$profile" in
        postgres) backing+=(postgres); services+=(postgres) ;;
        metrics) services+=(prometheus) ;;
        monitoring) services+=(prometheus grafana) ;;
        gpu) services+=(vllm); export LLMD_ENDPOINT="${LLMD_ENDPOINT:-http://vllm:8000}" ;;
        *) say "unknown profile $profile in DOCKER_PROFILES; there are postgres, metrics, monitoring and gpu"; exit 2 ;;
    esac
done
COMPOSE_PROFILES="$(printf '%s' "${DOCKER_PROFILES:-}" | tr -s ' ' ,)"
[ "$action" = up ] || COMPOSE_PROFILES=postgres,metrics,monitoring,gpu
export COMPOSE_PROFILES

command -v docker >/dev/null || die "docker is not installed (https://docs.docker.com/get-docker/)."
docker info >/dev/null 2>&1 || die "the Docker daemon does not answer; start it and run this again."
if docker compose version >/dev/null 2>&1; then
    compose=(docker compose)
elif command -v docker-compose >/dev/null; then
    compose=(docker-compose)
else
    die "Docker Compose is not installed (https://docs.docker.com/compose/install/)."
fi

# A secret of this checkout's own, made once.
kept() {
    [ -s ".dev/$1" ] || (umask 077 && mkdir -p .dev && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >".dev/$1")
    cat ".dev/$1"
}
# The agent is no loopback caller for the router, so it needs a token.
ROUTER_AGENT_TOKEN="${ROUTER_AGENT_TOKEN:-$(kept agent-token)}"
export ROUTER_AGENT_TOKEN
if [[ " ${backing[*]} " == *" postgres "* ]]; then
    POSTGRES_PASSWORD="${POSTGRES_PASSWORD:-$(kept postgres-password)}"
    DATABASE_URL="${DATABASE_URL:-postgresql://router:$POSTGRES_PASSWORD@postgres:5432/router}"
    export POSTGRES_PASSWORD DATABASE_URL
fi
[ -n "${ROUTER_ENV_FILE:-}" ] || [ ! -f .env ] || export ROUTER_ENV_FILE=.env

case "$action" in
    --down) exec "${compose[@]}" down ;;
    --purge) exec "${compose[@]}" down --volumes ;;
    --) shift; exec "${compose[@]}" "$@" ;;
esac

# --- build ---------------------------------------------------------------------------------------

arguments=(
    --build-arg "BASE_IMAGE=${BASE_IMAGE:-python:3.11-slim-bookworm}"
    --build-arg "PIP_EXTRA_INDEX_URL=${PIP_EXTRA_INDEX_URL-https://download.pytorch.org/whl/cpu}"
)
[ -z "${PIP_INDEX_URL:-}" ] || arguments+=(--build-arg "PIP_INDEX_URL=$PIP_INDEX_URL")
# Lent to the build for as long as it takes; no image has them.
lend() {
    [ -n "$2" ] || return 0
    (umask 077 && mkdir -p .pip-lent && cp -- "$2" ".pip-lent/$1") || die "$3=$2 cannot be read."
}
rm -rf .pip-lent
trap 'rm -rf .pip-lent' EXIT
lend index "${PIP_CONFIG_FILE:-}" PIP_CONFIG_FILE
lend ca "${PIP_CERT:-}" PIP_CERT

build() {
    say "building the image of $1"
    docker build --file "$2/Dockerfile" --tag "$3" "${arguments[@]}" . ||
        die "the image of $1 could not be built; what went wrong is above. $2/Dockerfile has the steps."
}
[ -n "${AGENT_IMAGE:-}" ] || build agent local_agent inference-router/local-agent:dev
[ -n "${ROUTER_IMAGE:-}" ] || build router router inference-router/router:dev
rm -rf .pip-lent

# --- start and wait ------------------------------------------------------------------------------

patience="${DOCKER_WAIT_SECONDS:-1800}"

failed() {
    "${compose[@]}" logs --no-color --tail 20 "$1" >&2 || true
    die "$1 $2; its last lines are above (all of them: scripts/docker_dev.sh -- logs $1)."
}

# Prints one word about a service: healthy, or what it is instead.
state() {
    local id
    id="$("${compose[@]}" ps --all --quiet "$1" 2>/dev/null || true)"
    [ -n "$id" ] || { echo missing; return; }
    docker inspect --format '{{if ne .State.Status "running"}}{{.State.Status}}{{else if .State.Health}}{{.State.Health.Status}}{{else}}running{{end}}' "$id"
}

wait_for() {
    local service word now waiting said="" spoke=$SECONDS began=$SECONDS
    while :; do
        now="" waiting=""
        for service in "$@"; do
            word="$(state "$service")"
            case "$word" in
                exited | dead | restarting) failed "$service" "has ended" ;;
                missing) die "$service has no container; scripts/docker_dev.sh -- ps --all says more." ;;
                unhealthy) failed "$service" "is unhealthy" ;;
                healthy) ;;
                *) waiting="$waiting $service" ;;
            esac
            now="$now $service: $word,"
        done
        if [ "$now" != "$said" ] || [ $((SECONDS - spoke)) -ge 15 ]; then
            say "$((SECONDS - began))s:${now%,}"
            said="$now" spoke=$SECONDS
        fi
        [ -n "$waiting" ] || return 0
        [ $((SECONDS - began)) -lt "$patience" ] || failed "${waiting##* }" "is not healthy after $patience seconds"
        sleep 1
    done
}

up() { "${compose[@]}" up --detach --no-build "$@" || die "Docker Compose could not start ${*:-all services}; see above."; }
# The router ends where its database does not answer, so what it stands on comes first.
up "${backing[@]}"
wait_for "${backing[@]}"
up "${services[@]}"
wait_for "${services[@]}"

# --- try -----------------------------------------------------------------------------------------

address() { "${compose[@]}" port "$1" "$2"; }
url="http://$(address router 8000)"

ask() { curl --silent --show-error --fail-with-body --max-time 120 --header @<(key) "$@"; }
key() { [ -z "${ROUTER_KEY:-}" ] || printf 'authorization: Bearer %s\n' "$ROUTER_KEY"; }
chat() {
    ask --no-buffer "$url/v1/chat/completions" --header 'content-type: application/json' --header 'x-router-cache: off' \
        --data "{\"model\": \"auto-local\", \"temperature\": 0, \"max_tokens\": 32, \"stream\": $1,
                 \"messages\": [{\"role\": \"user\", \"content\": \"What is the capital of France?\"}]}"
}
refused() { failed router "did not answer as it should ($1: ${2:-no answer})"; }

# The agent announces itself within seconds, also to a router that was away.
say "waiting for the agent's model at $url/v1/models/auto-local"
began=$SECONDS
until models="$(ask "$url/v1/models/auto-local")" && grep -q '"available": \{0,1\}true' <<<"$models"; do
    [[ "$models" != *'"error"'* ]] || refused models "$models"
    [ $((SECONDS - began)) -lt "$patience" ] || refused "no model of the agent's after $patience seconds" "$models"
    sleep 1
done
answer="$(chat false)" && [[ "$answer" == *'"content"'* ]] || refused chat "$answer"
say "asked for the capital of France, got: $answer"
stream="$(chat true)" && [[ "$stream" == *'data: [DONE]'* ]] || refused stream "$stream"
say "streamed it too, in $(grep -c '^data: {' <<<"$stream") events"
ready="$(ask "$url/readyz")" || refused readiness "$ready"
say "readiness: $ready"

say "ready:"
say "  base URL    $url/v1"
say "  API's docs  $url/docs"
say "  agent       http://$(address agent 5000)"
[[ " ${services[*]} " != *" prometheus "* ]] || say "  Prometheus  http://$(address prometheus 9090)"
[[ " ${services[*]} " != *" grafana "* ]] || say "  Grafana     http://$(address grafana 3000)"
say "logs: scripts/docker_dev.sh -- logs --follow; stop: scripts/docker_dev.sh --down"
