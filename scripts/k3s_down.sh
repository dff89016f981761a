#!/usr/bin/env bash
# Removes what k3s-up made. Says so and ends well where nothing is there.
#
#   make k3s-down
#   make k3s-down K3S_ARGS="--purge-models --dry-run"
#
#   --namespace NAME   where llm-d is (llm-d)
#   --purge-models     delete the downloaded models too; without it their volume stays, and its namespace
#   --purge            uninstall k3s, if k3s-up installed it; its volumes, and so the models, go with it
#   --no-install-k3s   the cluster of the current kubeconfig, as in k3s-up
#   --dry-run          show the commands, change nothing
#   --help             show this
#
# CRDs stay: other objects of the cluster may use them. Ends with 0; 2: wrong options; 4: needs root; 6: something could
# not be removed.
set -euo pipefail

program=k3s-down
namespace=llm-d
installs_k3s=yes
shows_only=no
purges_models=no
purges_k3s=no

usage_error() {
    printf 'k3s-down: %s (see --help)\n' "$*" >&2
    exit 2
}

while [ $# -gt 0 ]; do
    case "$1" in
        --namespace)
            [ $# -ge 2 ] || usage_error "$1 needs a value"
            [[ "$2" =~ ^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$ ]] || usage_error "--namespace takes a Kubernetes name; not $2"
            namespace="$2"
            shift
            ;;
        --purge-models) purges_models=yes ;;
        --purge) purges_k3s=yes ;;
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
# shellcheck source=scripts/k3s/queries.sh
. scripts/k3s/queries.sh
# shellcheck source=scripts/k3s/cluster.sh
. scripts/k3s/cluster.sh
# shellcheck source=scripts/k3s/dotenv.sh
. scripts/k3s/dotenv.sh

# Helm of the PATH, or the one that k3s-up has fetched; without one, a release is only seen by its objects.
find_helm() {
    local program_path="$PWD/.dev/helm-$HELM_VERSION/helm"
    [ -x "$program_path" ] || program_path="$(command -v helm || true)"
    [ -n "$program_path" ] || return 1
    if [ "$is_remote" = yes ]; then helm=("$program_path"); else helm=("${root[@]}" "$program_path" --kubeconfig "$k3s_config"); fi
}

remove_release() {
    [ -n "$(release_json "$1" "$2")" ] || return 0
    change "${helm[@]}" uninstall "$1" --namespace "$2" --wait --timeout 5m ||
        die "$NO_DEPLOYMENT" "the release $1 could not be removed; see $log_file."
}

# A release that was there before k3s-up has another description.
remove_our_release() { [[ "$(release_json "$1" "$2")" != *'"description":"k3s-up"'* ]] || remove_release "$1" "$2"; }

remove_namespace() {
    namespace_exists "$1" || return 0
    if ! namespace_is_ours "$1"; then
        say "the namespace $1 was not made by k3s-up; it stays"
        return
    fi
    change "${kubectl[@]}" delete namespace "$1" --timeout 5m ||
        die "$NO_DEPLOYMENT" "the namespace $1 could not be removed; kubectl describe namespace $1 says more."
}

remove_models() {
    local claim
    for claim in $(model_claims); do
        if [ "$purges_models" = no ]; then
            say "the models stay in $claim; --purge-models deletes them"
            return 1
        fi
        change "${kubectl[@]}" delete "$claim" --namespace "$namespace" --timeout 5m ||
            die "$NO_DEPLOYMENT" "$claim could not be removed."
    done
}

remove_from_cluster() {
    if ! cluster_answers; then
        say "no cluster answers; there is nothing to remove in it"
        return
    fi
    if find_helm; then
        remove_release llm-d "$namespace"
        remove_our_release agentgateway agentgateway-system
        remove_our_release agentgateway-crds agentgateway-system
        remove_our_release nvidia-device-plugin nvidia-device-plugin
    fi
    remove_namespace agentgateway-system
    remove_namespace nvidia-device-plugin
    if remove_models; then
        remove_namespace "$namespace"
    elif [ -n "$(ask get secret llm-d-hf-token --namespace "$namespace" -o name)" ]; then
        change "${kubectl[@]}" delete secret llm-d-hf-token --namespace "$namespace"
    fi
}

remove_k3s() {
    [ "$purges_k3s" = yes ] || return 0
    if [ ! -e "$k3s_marker" ]; then
        say "k3s was not installed by k3s-up; it stays"
    elif [ -x "$bin_dir/k3s-uninstall.sh" ]; then
        change "${root[@]}" "$bin_dir/k3s-uninstall.sh" || die "$NO_DEPLOYMENT" "k3s could not be uninstalled; see $log_file."
    else
        # An installation that was cut off: no more than the binary is there.
        change "${root[@]}" rm -rf "$k3s_bin" "$(dirname "$k3s_marker")"
    fi
}

dry_run="$shows_only"
trap close_console EXIT
trap interrupted INT TERM
open_console "$@"
take_lock
if [ "$installs_k3s" = no ]; then is_remote=yes; else become_root; fi
use_cluster
if [ "$is_remote" = yes ] || [ "$(k3s_state)" = present ]; then
    if [ "$is_remote" = no ]; then
        check_privileges
        [ ${#problems[@]} = 0 ] || die "$UNFIT" "${problems[0]}"
    fi
    remove_from_cluster
else
    say "no k3s is here; there is nothing to remove in it"
fi
[ "$is_remote" = yes ] || remove_k3s
forget_endpoint
say "done"
