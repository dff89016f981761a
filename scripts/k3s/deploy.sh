# shellcheck shell=bash
# The release: its namespace, its secret, its values, and Helm.

chart=worker_cluster/chart
helm_status=0

# The token of Hugging Face goes from the environment to the cluster through a pipe: no argument list, no log shows it.
ensure_secret() {
    [ -n "${HF_TOKEN:-}" ] || return 0
    [ "$(secret_value llm-d-hf-token HF_TOKEN)" != "$HF_TOKEN" ] || return 0
    apply "Secret llm-d-hf-token, of \$HF_TOKEN" <<YAML || die "$NO_DEPLOYMENT" "the secret could not be made."
apiVersion: v1
kind: Secret
metadata:
  name: llm-d-hf-token
  namespace: $namespace
  labels: {app.kubernetes.io/managed-by: k3s-up}
data:
  HF_TOKEN: $(printf '%s' "$HF_TOKEN" | base64 | tr -d '\n')
YAML
}

# The values of this run, as Helm's arguments: those of the mode, of what was found here, and the user's own, which win.
release_values=()
collect_values() {
    release_values=(--values "worker_cluster/profiles/$mode.yaml" --set "router.mode=$route")
    if [ "$route" = gateway ]; then
        release_values+=(--set "gateway.listenerPort=$port")
    else
        release_values+=(--set "service.port=$port")
        # Only of k3s it is known that it has an address for each LoadBalancer.
        if [ "$is_remote" = yes ]; then
            release_values+=(--set service.type=NodePort)
        else
            release_values+=(--set service.type=LoadBalancer)
        fi
    fi
    if [ "$mode" = gpu ]; then
        release_values+=(--set "gpu.memoryMiB=$gpu_memory" --set "gpu.available=$gpu_count")
        [ "$is_remote" = no ] || runtime_class_exists || release_values+=(--set gpu.runtimeClassName=)
    fi
    release_values+=("${user_values[@]}")
}

# What a release was made from. Helm keeps it as the release's description, and only of one that came up.
fingerprint() {
    {
        typed "${release_values[@]}"
        find "$chart" worker_cluster/profiles -type f -exec sha256sum {} + | sort
        [ ${#value_files[@]} = 0 ] || sha256sum "${value_files[@]}"
    } | sha256sum | cut -c 1-16
}

ensure_release() {
    local mark
    collect_values
    mark="k3s-up:$(fingerprint)"
    if release_is_deployed "$release" "$namespace" && [[ "$(release_json "$release" "$namespace")" == *"$mark"* ]]; then
        say "the release is up to date"
        return
    fi
    settle_release "$release" "$namespace"
    say "deploying llm-d in mode $mode; this takes as long as images and weights take to download"
    run_helm "${helm[@]}" upgrade --install "$release" "$chart" --namespace "$namespace" "${release_values[@]}" \
        --description "$mark" --wait --timeout "$timeout"
    [ "$helm_status" = 0 ] || explain_failure
}

# Runs Helm and looks at the pods meanwhile: what does not get well by waiting ends the wait.
run_helm() {
    local stuck="" now same=0 looks=0
    show "$(typed "$@")"
    [ "$dry_run" = no ] || return 0
    "$@" >"$scratch/helm" 2>&1 &
    background=$!
    while [ -n "$(jobs -rp)" ]; do
        sleep 5
        looks=$((looks + 1))
        now="$(hopeless_pods)"
        if [ -n "$now" ] && [ "$now" = "$stuck" ]; then same=$((same + 1)); else same=0; fi
        stuck="$now"
        if [ "$same" -ge 12 ] || [[ "$now" == *CrashLoopBackOff* ]]; then
            say "ends the wait: $(head -n 1 <<<"$now")"
            "${root[@]}" kill -TERM "$background" 2>/dev/null || true
            break
        fi
        [ $((looks % 12)) != 0 ] || say "still at it after $((looks / 12)) min: $(pods_in_words)"
    done
    helm_status=0
    wait "$background" || helm_status=$?
    background=""
    redact <"$scratch/helm" >>"$log_file"
}

# POD: REASON of what waiting does not mend, if it lasts. A crash counts from the second restart on.
hopeless_pods() {
    local pod container ready restarts reason rest
    while IFS='|' read -r pod container ready restarts reason rest; do
        case "$reason" in
            CrashLoopBackOff) [ "$restarts" -lt 2 ] || echo "$pod/$container: $reason" ;;
            ErrImagePull | ImagePullBackOff) echo "$pod/$container: the image does not come" ;;
            InvalidImageName | CreateContainerConfigError | CreateContainerError) echo "$pod/$container: $reason" ;;
        esac
    done < <(containers)
    while IFS='|' read -r pod rest; do echo "$pod: no node takes it"; done < <(unscheduled)
    while IFS='|' read -r pod rest; do echo "$pod: its pods are refused"; done < <(refused)
}

pods_in_words() {
    local pod container ready restarts reason rest words=""
    while IFS='|' read -r pod container ready restarts reason rest; do
        [ "$ready" = true ] || words="${words:+$words, }$container of $pod ${reason:-is loading}"
    done < <(containers)
    echo "${words:-no pods yet}"
}
