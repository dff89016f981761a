# shellcheck shell=bash
# k3s itself, Helm, and the parts of the cluster that a release needs.

k3s_was=none
helm=()

apply() {
    show "$(typed "${kubectl[@]}" apply --server-side -f -)  # $1"
    [ "$dry_run" = no ] || return 0
    "${kubectl[@]}" apply --server-side -f - >"$scratch/output" 2>&1 || {
        redact <"$scratch/output" >&2
        return 1
    }
    redact <"$scratch/output" >>"$log_file"
}

# Installs k3s where it is missing, or goes on with an installation that was cut off.
ensure_k3s() {
    k3s_was="$(k3s_state)"
    case "$k3s_was" in
        present)
            systemctl is-active --quiet k3s ||
                change "${root[@]}" systemctl start k3s ||
                die "$NO_CLUSTER" "k3s did not start: journalctl -u k3s says why."
            ;;
        *)
            say "installing k3s $K3S_VERSION"
            install_k3s || die "$NO_CLUSTER" "k3s could not be installed; see above${log_file:+ and $log_file}."
            ;;
    esac
    # A dry run sees only as far as root lets it, and nothing of a cluster that is still to come.
    if [ "$dry_run" = yes ] && { [ "$k3s_was" != present ] || ! cluster_answers; }; then
        blind=yes
        printf '  # no cluster can be asked; what follows is what an empty one takes\n'
    fi
}

install_k3s() {
    local release_url="https://github.com/k3s-io/k3s/releases/download/${K3S_VERSION/+/%2B}"
    local source_url="https://raw.githubusercontent.com/k3s-io/k3s/${K3S_VERSION/+/%2B}"
    local file=k3s pin="$K3S_SHA256_AMD64" variable=K3S_SHA256_AMD64
    if [ "$arch" = arm64 ]; then
        file=k3s-arm64 pin="$K3S_SHA256_ARM64" variable=K3S_SHA256_ARM64
    fi
    fetch "$release_url/$file" "$scratch/$file" "$pin" "$variable" "$release_url/sha256sum-$arch.txt" "$file" || return 1
    fetch "$source_url/install.sh" "$scratch/install.sh" "$K3S_INSTALL_SHA256" K3S_INSTALL_SHA256 \
        "$source_url/install.sh.sha256sum" install.sh || return 1
    # Before anything of k3s is there, so that k3s-down knows whose it is even if this is cut off. k3s's own
    # uninstaller takes the folder away.
    change "${root[@]}" mkdir -p "$(dirname "$k3s_marker")" || return 1
    change "${root[@]}" touch "$k3s_marker" || return 1
    change "${root[@]}" install -m 0755 "$scratch/$file" "$k3s_bin" || return 1
    # The installer's own download is left out: the binary is here and checked. Variables that would make an agent of
    # this host are taken from it.
    local keep_proxies=()
    [ ${#root[@]} = 0 ] || keep_proxies=("--preserve-env=HTTP_PROXY,HTTPS_PROXY,NO_PROXY")
    change "${root[@]}" "${keep_proxies[@]}" env -u K3S_URL -u K3S_TOKEN -u K3S_TOKEN_FILE \
        INSTALL_K3S_SKIP_DOWNLOAD=binary INSTALL_K3S_BIN_DIR="$bin_dir" \
        sh "$scratch/install.sh" server --disable=traefik --write-kubeconfig-mode=0640 --secrets-encryption
}

wait_for_node() {
    wait_until 300 "the node is ready" nodes_ready || {
        say "the node is not ready after five minutes: $(node_trouble)"
        die "$NO_CLUSTER" "journalctl -u k3s says more. When it is mended, run this again."
    }
    wait_until 300 "the cluster's DNS is up" dns_ready ||
        die "$NO_CLUSTER" "coredns is not available after five minutes: kubectl --namespace kube-system get pods says more."
}

# Takes the helm that is there where it is new enough, else fetches one into this checkout.
ensure_helm() {
    local version own=".dev/helm-$HELM_VERSION/helm" program_path="" pin="$HELM_SHA256_AMD64" variable=HELM_SHA256_AMD64
    if have helm; then
        version="$(helm version --template '{{.Version}}' 2>/dev/null || true)"
        [[ "$version" =~ ^v([0-9]+)\.([0-9]+) ]] &&
            { [ "${BASH_REMATCH[1]}" -ge 4 ] || { [ "${BASH_REMATCH[1]}" = 3 ] && [ "${BASH_REMATCH[2]}" -ge 14 ]; }; } &&
            program_path="$(command -v helm)"
    fi
    if [ -z "$program_path" ]; then
        program_path="$PWD/$own"
        if [ ! -x "$own" ]; then
            [ "$(uname -s)" = Linux ] || die "$UNFIT" "install helm 3.14 or newer (brew install helm) and run this again."
            say "fetching helm $HELM_VERSION${version:+ (the one here is $version; 3.14 is the oldest that will do)}"
            case "$(uname -m)" in
                aarch64 | arm64) arch=arm64 pin="$HELM_SHA256_ARM64" variable=HELM_SHA256_ARM64 ;;
                *) arch=amd64 ;;
            esac
            local archive="helm-$HELM_VERSION-linux-$arch.tar.gz"
            if ! fetch "https://get.helm.sh/$archive" "$scratch/$archive" "$pin" "$variable" \
                "https://get.helm.sh/$archive.sha256sum" "$archive" ||
                ! change tar -xzf "$scratch/$archive" -C "$scratch" ||
                ! change mkdir -p "$(dirname "$own")" ||
                ! change install -m 0755 "$scratch/linux-$arch/helm" "$own"; then
                die "$NO_CLUSTER" "helm could not be fetched. Install helm 3.14 or newer (helm.sh), and run this again."
            fi
        fi
    fi
    if [ "$is_remote" = yes ]; then
        helm=("$program_path")
    else
        helm=("${root[@]}" "$program_path" --kubeconfig "$k3s_config")
    fi
}

# What Helm says of a release, as JSON; nothing where there is none.
release_json() { is_blind || "${helm[@]}" status "$1" --namespace "$2" --output json 2>/dev/null || true; }
release_is_deployed() { [[ "$(release_json "$1" "$2")" =~ \"status\":\ *\"deployed\" ]]; }

# A run that was cut off leaves a release "pending", which Helm does not touch again by itself.
settle_release() {
    local json
    json="$(release_json "$1" "$2")"
    if [[ "$json" =~ \"status\":\ *\"pending-install\" ]]; then
        change "${helm[@]}" uninstall "$1" --namespace "$2" --wait || die "$NO_DEPLOYMENT" "the release $1 is half there."
    elif [[ "$json" =~ \"status\":\ *\"pending-(upgrade|rollback)\" ]]; then
        change "${helm[@]}" rollback "$1" --namespace "$2" || die "$NO_DEPLOYMENT" "the release $1 is half there."
    fi
}

# A namespace of ours, with what its pods may do (Pod Security); one that is there already stays as it is.
ensure_namespace() {
    namespace_exists "$1" || apply "Namespace $1" <<YAML || die "$NO_DEPLOYMENT" "the namespace could not be made."
apiVersion: v1
kind: Namespace
metadata:
  name: $1
  labels:
    app.kubernetes.io/managed-by: k3s-up
    pod-security.kubernetes.io/enforce: $2
    pod-security.kubernetes.io/warn: restricted
YAML
}
