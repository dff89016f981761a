#!/usr/bin/env bash
# From a bare Linux host to llm-d: single-node k3s, the GPU, and the chart in worker_cluster/chart, in one command.
# Each step looks first and does only what is missing, so that this may be run again at any time.
#
#   make k3s-up
#   make k3s-up K3S_ARGS="--mode sim --dry-run"
#
#   --mode MODE        auto: the GPU, or the simulator where there is none (default); gpu: the GPU or nothing;
#                      cpu: a small real model on the processor; sim: the simulator, whose answers are random text
#   --route ROUTE      standalone: Envoy and the endpoint picker (default); gateway: behind agentgateway, with CRDs
#   --namespace NAME   where llm-d goes (llm-d)
#   --port PORT        where the entrance listens (80)
#   --values FILE      more values for the chart; may be repeated
#   --set KEY=VALUE    one value for the chart; may be repeated
#   --timeout TIME     how long the deployment may take (25m)
#   --no-install-k3s   take the cluster of the current kubeconfig; installs no k3s and no GPU support
#   --dry-run          show the commands for this host, in order; change nothing; needs no root
#   --help             show this
#
# HF_TOKEN in the environment becomes a Secret for models that ask for it. LLMD_API_KEY is sent where the entrance asks
# for keys. The log is .dev/k3s-up.log.
#
# Ends with 0: ready; 2: wrong options; 3: no GPU; 4: the host is not fit; 5: k3s or its GPU support; 6: the deployment;
# 7: the smoke test.
set -euo pipefail

given_arguments=("$@")
program=k3s-up
mode=auto
route=standalone
namespace=llm-d
port=80
timeout=25m
installs_k3s=yes
shows_only=no
value_files=()
user_values=()

usage_error() {
    printf 'k3s-up: %s (see --help)\n' "$*" >&2
    exit 2
}
one_of() {
    local option="$1" value="$2" allowed="$3"
    [[ " $allowed " == *" $value "* ]] || usage_error "$option takes ${allowed// /, }; not $value"
}
matching() { [[ "$2" =~ $3 ]] || usage_error "$1 takes $4; not $2"; }

while [ $# -gt 0 ]; do
    case "$1" in
        --mode | --route | --namespace | --port | --values | --set | --timeout)
            [ $# -ge 2 ] || usage_error "$1 needs a value"
            case "$1" in
                --mode) one_of "$1" "$2" "auto gpu cpu sim" && mode="$2" ;;
                --route) one_of "$1" "$2" "standalone gateway" && route="$2" ;;
                --namespace) matching "$1" "$2" '^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$' "a Kubernetes name" && namespace="$2" ;;
                --port) matching "$1" "$2" '^[1-9][0-9]{0,4}$' "a port" && port="$2" ;;
                --timeout) matching "$1" "$2" '^([0-9]+[smh])+$' "a time such as 25m" && timeout="$2" ;;
                --set) matching "$1" "$2" '^[^=]+=' "KEY=VALUE" && user_values+=(--set "$2") ;;
                --values)
                    [ -r "$2" ] || usage_error "--values: cannot read $2"
                    value_files+=("$(cd "$(dirname "$2")" && pwd)/$(basename "$2")")
                    user_values+=(--values "${value_files[-1]}")
                    ;;
            esac
            shift
            ;;
        --no-install-k3s) installs_k3s=no ;;
        --dry-run) shows_only=yes ;;
        -h | --help)
            sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//p;}' "${BASH_SOURCE[0]}"
            exit 0
            ;;
        *) usage_error "unknown option $1" ;;
    esac
    shift
done

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/k3s/versions.sh
. scripts/k3s/versions.sh
# shellcheck source=scripts/k3s/console.sh
. scripts/k3s/console.sh
# shellcheck source=scripts/k3s/host.sh
. scripts/k3s/host.sh
[ "$installs_k3s" = no ] || require_linux
[ "${BASH_VERSINFO[0]}${BASH_VERSINFO[1]}" -ge 44 ] || die "$UNFIT" "bash $BASH_VERSION is too old; 4.4 will do."
# shellcheck source=scripts/k3s/preflight.sh
. scripts/k3s/preflight.sh
# shellcheck source=scripts/k3s/queries.sh
. scripts/k3s/queries.sh
# shellcheck source=scripts/k3s/fetch.sh
. scripts/k3s/fetch.sh
# shellcheck source=scripts/k3s/cluster.sh
. scripts/k3s/cluster.sh
# shellcheck source=scripts/k3s/gpu.sh
. scripts/k3s/gpu.sh
# shellcheck source=scripts/k3s/gateway.sh
. scripts/k3s/gateway.sh
# shellcheck source=scripts/k3s/deploy.sh
. scripts/k3s/deploy.sh
# shellcheck source=scripts/k3s/diagnosis.sh
. scripts/k3s/diagnosis.sh
# shellcheck source=scripts/k3s/smoke.sh
. scripts/k3s/smoke.sh
# shellcheck source=scripts/k3s/dotenv.sh
. scripts/k3s/dotenv.sh

dry_run="$shows_only"
# What is started here does not inherit the secrets; the two places that need them get them through pipes.
export -n HF_TOKEN LLMD_API_KEY
trap close_console EXIT
trap interrupted INT TERM
open_console "$@"
take_lock

if [ "$installs_k3s" = no ]; then
    is_remote=yes
else
    become_root
fi
use_cluster
if [ "$is_remote" = yes ]; then
    have kubectl || die "$UNFIT" "--no-install-k3s needs kubectl, which is not installed."
    cluster_answers || die "$NO_CLUSTER" "the cluster of the current kubeconfig does not answer: kubectl get nodes says more."
fi
choose_mode
preflight

if [ "$is_remote" = no ]; then
    ensure_k3s
    wait_for_node
fi
ensure_helm
if [ "$is_remote" = no ] && [ "$mode" = gpu ]; then
    ensure_nvidia_runtime
    ensure_device_plugin
fi
[ "$route" = standalone ] || ensure_gateway
ensure_namespace "$namespace" "$([ "$route" = standalone ] && echo restricted || echo baseline)"
ensure_secret
ensure_release
smoke
store_endpoint "$endpoint"

if [ "$dry_run" = yes ]; then
    # As a real run would end.
    [ ${#problems[@]} = 0 ] || exit "$UNFIT"
    exit 0
fi
say "ready. make dev takes LLMD_ENDPOINT from .env; for a router that runs elsewhere:"
printf 'export LLMD_ENDPOINT=%s\n' "$endpoint"
