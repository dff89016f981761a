#!/usr/bin/env bash
# Every command that k3s-up must not really run, in one scripted host and cluster. $WORLD holds what is so (state/),
# what a test wants to be answered (answers/), what can be downloaded (downloads/), and what was run (log).
# A command is a link to this file.
set -uo pipefail

me="${ME:-${0##*/}}"
unset ME
state="$WORLD/state"

is() { [ -e "$state/$1" ]; }
now_is() { printf '%s' "${2:-}" >"$state/$1"; }
# What a test wants to be answered, else the default.
answer() { if [ -e "$WORLD/answers/$1" ]; then cat "$WORLD/answers/$1"; else printf '%s' "${2:-}"; fi; }
record() {
    local line="$me $*"
    printf '%s\n' "${line//$'\n'/ }" >>"$WORLD/log"
}
# Writes down something that happens in the world, beside the commands.
happens() { printf '# %s\n' "$*" >>"$WORLD/log"; }

start_k3s() {
    local config="$K3S_UP_HOST_ROOT/var/lib/rancher/k3s/agent/etc/containerd"
    now_is running
    mkdir -p "$config"
    if [ -e "$WORLD/bin/nvidia-container-runtime" ] && ! [ -e "$WORLD/answers/runtime-not-found" ]; then
        echo nvidia >"$config/config.toml"
    else
        echo runc >"$config/config.toml"
    fi
    [ -e "$WORLD/answers/no-runtime-class" ] || now_is runtimeclass
}

install_k3s() {
    [ -x "$K3S_UP_HOST_ROOT/usr/local/bin/k3s" ] || exit 1
    if [ -e "$WORLD/answers/install-is-interrupted" ]; then
        rm "$WORLD/answers/install-is-interrupted"
        kill -INT "$K3S_UP_PID"
        exit 1
    fi
    mkdir -p "$K3S_UP_HOST_ROOT/etc/systemd/system"
    touch "$K3S_UP_HOST_ROOT/etc/systemd/system/k3s.service"
    ln -sf "$WORLD/world.sh" "$K3S_UP_HOST_ROOT/usr/local/bin/k3s-uninstall.sh"
    start_k3s
}

download() {
    local output="" url="" word
    for word in "$@"; do
        case "$word" in https://*) url="$word" ;; esac
    done
    while [ $# -gt 0 ]; do
        [ "$1" != --output ] || output="$2"
        shift
    done
    [ -e "$WORLD/downloads/$(basename "$url")" ] || { echo "curl: (22) 404" >&2; exit 22; }
    cp "$WORLD/downloads/$(basename "$url")" "$output"
}

# One object from a manifest.
apply_object() {
    local text kind name
    text="$(cat)"
    kind="$(sed -nE 's/^kind: //p' <<<"$text")"
    name="$(sed -nE 's/^  name: //p; s/^metadata: \{name: (.*)\}/\1/p' <<<"$text" | head -n 1)"
    happens "applied $kind $name"
    case "$kind" in
        Namespace) now_is "namespace-$name" k3s-up ;;
        Secret) now_is "secret-$name" "$(sed -nE 's/^  HF_TOKEN: //p' <<<"$text")" ;;
        RuntimeClass) now_is runtimeclass ;;
    esac
}

workers() {
    is release-llm-d || return 0
    printf 'llm-d-decode-1|engine|true|0||||docker.io/engine|\n'
    printf 'llm-d-epp-1|epp|true|0||||ghcr.io/epp|\n'
}

kubectl() {
    [ "$1" != --kubeconfig ] || shift 2
    local arguments="$*"
    is running || { echo "The connection to the server was refused" >&2; exit 1; }
    case "$arguments" in
        "get --raw /readyz") printf ok ;;
        "get --raw "*decode*/proxy/metrics) answer worker-metrics $'vllm:num_requests_running 0\n' ;;
        "get --raw "*epp*/proxy/metrics) answer epp-metrics $'llm_d_epp_ready_endpoints 1\n' ;;
        "get nodes"*'"Ready")].status'*) answer node-ready True ;;
        "get nodes"*'"Ready")].message'*) answer node-message ;;
        "get nodes"*allocatable*) if is gpus; then cat "$state/gpus"; fi ;;
        "get nodes"*'gpu\.memory'*) answer gpu-memory ;;
        "get nodes"*InternalIP*) printf 127.0.0.1 ;;
        "get deployment coredns"*) answer dns-replicas 1 ;;
        "get runtimeclass nvidia"*) ! is runtimeclass || echo runtimeclass.node.k8s.io/nvidia ;;
        "get namespace "*"-o name") ! is "namespace-$3" || echo "namespace/$3" ;;
        "get namespace "*) ! is "namespace-$3" || cat "$state/namespace-$3" ;;
        "get secret "*"-o name") ! is "secret-$3" || echo "secret/$3" ;;
        "get secret "*) ! is "secret-$3" || cat "$state/secret-$3" ;;
        "get crd "*"-o name") ! is "crd-$3" || echo "crd/$3" ;;
        "get crd "*channel*) answer crd-channel standard ;;
        "get crd "*) ! is "crd-$3" || cat "$state/crd-$3" ;;
        "get persistentvolumeclaims "*) ! is claim || echo persistentvolumeclaim/llm-d-models ;;
        "get service "*loadBalancer*) answer service-address 127.0.0.1 ;;
        "get service "*spec.type*) answer service-type LoadBalancer ;;
        "get service "*nodePort*) answer node-port ;;
        "get gateway "*addresses*) answer gateway-address 127.0.0.1 ;;
        "get pods "*containerStatuses*) answer containers "$(workers)" ;;
        "get pods "*PodScheduled*) answer unscheduled ;;
        "get pods "*component=decode*) echo llm-d-decode-1 ;;
        "get pods "*component=epp*) echo llm-d-epp-1 ;;
        "get deployments "*) answer refused ;;
        "get events "*) answer warnings ;;
        "logs --namespace nvidia-device-plugin "*) answer device-plugin-log ;;
        "logs "*--previous) answer "log-$2" ;;
        "logs "*) answer "log-$2" ;;
        "apply --server-side -f -") apply_object ;;
        "apply --server-side -f "*) now_is "crd-$(basename "$4" .yaml)" ;;
        "wait "*) ;;
        "delete namespace "*)
            rm -f "$state/namespace-$3"
            [ "$3" != llm-d ] || rm -f "$state/claim"
            ;;
        "delete secret "*) rm -f "$state/secret-$3" ;;
        "delete persistentvolumeclaim/"*) rm -f "$state/claim" ;;
        *) happens "kubectl was asked what nobody answers: $arguments" ;;
    esac
}

# `released NAME STATUS DESCRIPTION`
released() { now_is "release-$1" "{\"name\":\"$1\",\"info\":{\"status\":\"$2\",\"description\":\"$3\"}}"; }

helm() {
    [ "$1" != --kubeconfig ] || shift 2
    case "$1 $2" in
        "version --template") answer helm-version v4.2.4 ;;
        "status "*) is "release-$2" && cat "$state/release-$2" ;;
        "pull "*) cp "$WORLD/downloads/$2.tgz" "$WORLD/chart.tgz" && mv "$WORLD/chart.tgz" "${*: -1}/$2-$6.tgz" ;;
        "uninstall "*) rm -f "$state/release-$2" ;;
        "rollback "*) released "$2" deployed "Rollback to 1" ;;
        "upgrade --install")
            local name="$3" description=""
            while [ $# -gt 0 ]; do
                [ "$1" != --description ] || description="$2"
                shift
            done
            if [ -e "$WORLD/answers/helm-fails-$name" ]; then
                cat "$WORLD/answers/helm-fails-$name" >&2
                released "$name" failed "Upgrade failed"
                exit 1
            fi
            if [ -e "$WORLD/answers/helm-hangs-$name" ]; then
                released "$name" pending-install "Initial install underway"
                trap 'released '"$name"' failed "cancelled"; echo "Error: context canceled" >&2; exit 1' TERM
                while :; do "$REAL_SLEEP" 0.02; done
            fi
            released "$name" deployed "$description"
            [ "$name" != nvidia-device-plugin ] || now_is gpus "$(answer gpus-offered 1)"
            [ "$name" != llm-d ] || now_is claim
            ;;
        *) happens "helm was asked what nobody answers: $*" ;;
    esac
}

case "$me" in
    sleep)
        # A test may press Ctrl-C while there is something to wait for.
        if [ -e "$WORLD/answers/wait-is-interrupted" ]; then
            until is release-llm-d; do "$REAL_SLEEP" 0.02; done
            rm "$WORLD/answers/wait-is-interrupted"
            kill -INT "$K3S_UP_PID"
        fi
        exit 0
        ;;
    id) answer user-id 0 && exit ;;
    uname)
        if [ "${1:-}" = -m ]; then answer machine x86_64; else answer system Linux; fi
        echo
        exit
        ;;
    nproc) answer processors 16 && echo && exit ;;
    df) printf 'Avail\n%s\n' "$(answer disk 200000000)" && exit ;;
    sudo)
        [ "$*" != "-n true" ] || exit "$(answer sudo-refuses 0)"
        [[ "$1" != --preserve-env=* ]] || shift
        exec "$@"
        ;;
    curl)
        case "$*" in
            *http://127.0.0.1*) exec "$REAL_CURL" "$@" ;;
        esac
        ;;
esac
record "$@"
case "$me" in
    curl) download "$@" ;;
    nvidia-smi) answer gpus "NVIDIA L4, 23034, 550.90.07" && exit "$(answer nvidia-smi-status 0)" ;;
    systemctl)
        case "$1" in
            is-active) if [ "${!#}" = firewalld ]; then is firewalld; else is running; fi ;;
            start | restart) start_k3s ;;
        esac
        ;;
    k3s)
        case "$1" in
            --version) echo "k3s version $(answer k3s-version v1.36.4+k3s1) (abc)" ;;
            kubectl) shift && kubectl "$@" ;;
        esac
        ;;
    k3s-installer) install_k3s ;;
    k3s-uninstall.sh)
        rm -rf "$K3S_UP_HOST_ROOT/etc/rancher" "$K3S_UP_HOST_ROOT"/usr/local/bin/k3s* \
            "$K3S_UP_HOST_ROOT/etc/systemd/system/k3s.service" "${state:?}"/*
        ;;
    kubectl) kubectl "$@" ;;
    helm) helm "$@" ;;
esac
