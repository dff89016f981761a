# shellcheck shell=bash
# What --route gateway needs beside the release: the CRDs, and a gateway that speaks to an endpoint picker.

is_version() { [[ "$1" =~ ^v[0-9]+\.[0-9]+\.[0-9]+$ ]]; }
at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$2" ]; }

# Applies a set of CRDs where it is missing or older: `ensure_crds CRD ANNOTATION VERSION URL PIN VARIABLE`. Never
# back: an older one would drop fields that objects of others use.
ensure_crds() {
    local crd="$1" version="$3" url="$4" there
    if crd_exists "$crd"; then
        there="$(crd_version "$crd" "$2")"
        if ! is_version "$there" || at_least "$there" "$version"; then
            say "$crd is here (${there:-no version told}); it stays"
            return
        fi
        if [ "$(crd_version "$crd" gateway.networking.k8s.io/channel)" = experimental ]; then
            say "$crd is of the experimental channel ($there); it stays"
            return
        fi
    fi
    local file="$scratch/$crd.yaml"
    if ! fetch "$url" "$file" "$5" "$6" ||
        ! change "${kubectl[@]}" apply --server-side -f "$file" ||
        ! change "${kubectl[@]}" wait --for=condition=Established --timeout=60s "crd/$crd"; then
        die "$NO_DEPLOYMENT" "the CRDs of $url could not be applied."
    fi
}

ensure_gateway() {
    local github=https://github.com
    ensure_crds gateways.gateway.networking.k8s.io gateway.networking.k8s.io/bundle-version "$GATEWAY_API_VERSION" \
        "$github/kubernetes-sigs/gateway-api/releases/download/$GATEWAY_API_VERSION/standard-install.yaml" \
        "$GATEWAY_API_SHA256" GATEWAY_API_SHA256
    ensure_crds inferencepools.inference.networking.k8s.io inference.networking.k8s.io/bundle-version \
        "$INFERENCE_EXTENSION_VERSION" \
        "$github/kubernetes-sigs/gateway-api-inference-extension/releases/download/$INFERENCE_EXTENSION_VERSION/v1-manifests.yaml" \
        "$INFERENCE_EXTENSION_SHA256" INFERENCE_EXTENSION_SHA256
    ensure_crds inferenceobjectives.llm-d.ai llm-d.ai/bundle-version "$LLMD_ROUTER_VERSION" \
        "$github/llm-d/llm-d-router/releases/download/$LLMD_ROUTER_VERSION/manifests.yaml" \
        "$LLMD_ROUTER_SHA256" LLMD_ROUTER_SHA256
    ensure_namespace agentgateway-system baseline
    install_agentgateway agentgateway-crds
    install_agentgateway agentgateway --set inferenceExtension.enabled=true --wait --timeout 5m
}

install_agentgateway() {
    local name="$1"
    shift
    ! release_is_deployed "$name" agentgateway-system || return 0
    settle_release "$name" agentgateway-system
    change "${helm[@]}" upgrade --install "$name" "$AGENTGATEWAY_CHARTS/$name" --version "$AGENTGATEWAY_VERSION" \
        --namespace agentgateway-system --description k3s-up "$@" ||
        die "$NO_DEPLOYMENT" "$name could not be installed; kubectl --namespace agentgateway-system get pods says more."
}
