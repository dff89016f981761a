# shellcheck shell=bash
# Why a deployment failed, and the command that mends it.

causes=0
cause() {
    causes=$((causes + 1))
    say "CAUSE: $*"
}
mend() { say "  mend it: $*"; }
rerun() { printf 'make k3s-up K3S_ARGS="%s"' "$(arguments_with "$@")"; }

# This run's arguments with another one; of a value that is set twice, the last stays.
arguments_with() {
    local kept=() index word
    for ((index = 0; index < ${#given_arguments[@]}; index++)); do
        word="${given_arguments[index]}"
        if [ "$word" = "$1" ] && { [ "$1" != --set ] || [[ "${given_arguments[index + 1]:-}" == "${2%%=*}="* ]]; }; then
            index=$((index + 1))
            continue
        fi
        kept+=("$word")
    done
    typed "${kept[@]}" "$@"
}

explain_failure() {
    say "the deployment failed. Helm says:"
    tail -n 5 "$scratch/helm" | redact >&2
    explain_unscheduled
    explain_refused
    explain_containers
    [ "$causes" != 0 ] || explain_waiting
    [ "$causes" != 0 ] || explain_nothing
    show_logs
    die "$NO_DEPLOYMENT" "llm-d does not run. Everything is left as it is, to be looked at; this run's log is $log_file."
}

explain_unscheduled() {
    local pod message
    while IFS='|' read -r pod message; do
        cause "no node takes the pod $pod: $message"
        case "$message" in
            *"Insufficient nvidia.com/gpu"*)
                mend "another pod holds the GPU, or more are asked for than there are ($gpu_count):" \
                    "kubectl get pods --all-namespaces shows who; then $(rerun --set decode.replicas=1)"
                ;;
            *"Insufficient memory"*) mend "$(rerun --set decode.resources.requests.memory=4Gi) asks for less" ;;
            *"Insufficient cpu"*) mend "$(rerun --set decode.resources.requests.cpu=1) asks for less" ;;
            *"disk-pressure"*) mend "free disk space (sudo k3s crictl rmi --prune), then run this again" ;;
            *olume*) mend "kubectl --namespace $namespace describe pvc says more; without a cache: $(rerun --set modelCache.enabled=false)" ;;
            *) mend "kubectl --namespace $namespace describe pod $pod says more" ;;
        esac
    done < <(unscheduled)
}

explain_refused() {
    local name message
    while IFS='|' read -r name message; do
        cause "the cluster refuses the pods of $name: $message"
        mend "leave out what of --set or --values asks for more than the namespace allows"
    done < <(refused)
}

explain_containers() {
    local pod container ready restarts reason code why image message
    while IFS='|' read -r pod container ready restarts reason code why image message; do
        [ "$ready" != true ] || continue
        case "$reason" in
            ErrImagePull | ImagePullBackOff | InvalidImageName) explain_image "$image" "$message" ;;
            CreateContainerConfigError | CreateContainerError)
                cause "$container of $pod cannot be made: $message"
                mend "make what it names in the namespace $namespace, or take it out of the values"
                ;;
            *) [ -z "$code" ] || explain_crash "$pod" "$container" "$code" "$why" ;;
        esac
    done < <(containers)
}

explain_image() {
    cause "the image $1 does not come: $2"
    case "$2" in
        *"no match for platform"*) mend "it has no build for $(uname -m); use another mode or host" ;;
        *toomanyrequests* | *"429"*) mend "the registry limits pulls: wait an hour, or use a mirror: $(rerun --set imageRegistry=REGISTRY)" ;;
        *unauthorized* | *denied* | *"401"* | *"403"*) mend "the registry wants a login: make a pull secret, then $(rerun --set "imagePullSecrets[0].name=SECRET")" ;;
        *"not found"*) mend "there is no such tag: correct engine.image, or leave it out for the pinned one" ;;
        *) mend "see that this host reaches the registry (curl -I https://${1%%/*}/v2/), then run this again" ;;
    esac
}

# `explain_crash POD CONTAINER EXIT_CODE REASON`
explain_crash() {
    local pod="$1" container="$2" code="$3" why="$4" text
    text="$(container_log "$pod" "$container" 200)"
    if [[ "$text" =~ estimated\ maximum\ model\ length\ is\ ([0-9,]+) ]]; then
        explain_length "$(tr -d , <<<"${BASH_REMATCH[1]}")"
    elif [[ "$text" =~ Free\ memory\ on\ device[^\(]*\(([0-9.]+)/([0-9.]+)\ GiB\) ]]; then
        explain_shared_gpu "${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}"
    elif [[ "$text" == *"No available memory for the cache blocks"* ]]; then
        cause "the weights leave no GPU memory for the cache: the model is too large for this GPU"
        mend "$(rerun --set model.id=Qwen/Qwen3-0.6B) takes a small one; a quantised build of yours may fit, too"
    elif [[ "$text" =~ "CUDA out of memory"|"CUDA error: out of memory"|OutOfMemoryError ]]; then
        cause "$container of $pod ran out of GPU memory (CUDA out of memory)"
        mend "$(rerun --set limits.gpuMemoryUtilization=0.85) leaves more aside; if it comes again, limits.maxNumSeqs=64"
    elif [ "$why" = OOMKilled ] || [ "$code" = 137 ]; then
        cause "$container of $pod was killed for the host's memory (exit code $code${why:+, $why}), not the GPU's"
        if [ "$mode" = gpu ]; then
            mend "$(rerun --set decode.resources.limits.memory=64Gi), if the host has it"
        else
            mend "$(rerun --set decode.resources.limits.memory=16Gi), if the host has it"
        fi
    elif [[ "$text" =~ GatedRepoError|"gated repo"|"401 Client Error"|"Access to model" ]]; then
        cause "Hugging Face does not give out the model without a token"
        mend "accept its terms on huggingface.co, then HF_TOKEN=… $(rerun)"
    elif [[ "$text" == *"No space left on device"* ]]; then
        cause "the disk is full"
        mend "free space for /var/lib/rancher, or a larger cache: $(rerun --set modelCache.size=200Gi)"
    elif [[ "$text" =~ "unrecognized arguments: "([^$'\n']+) ]]; then
        cause "the engine does not know the argument ${BASH_REMATCH[1]}"
        mend "correct engine.extraArgs"
    else
        cause "$container of $pod ends with exit code $code${why:+ ($why)}; its last lines are below"
    fi
}

# vLLM has measured what fits; a little less leaves room for what differs from start to start.
explain_length() {
    local length=$(($1 / 16 * 16))
    cause "the context is longer than the GPU's memory has room for; vLLM reckons that $1 tokens fit (max_model_len)"
    if [ "$length" -lt 512 ]; then
        mend "that is too short to be of use: $(rerun --set model.id=Qwen/Qwen3-0.6B) takes a smaller model"
    else
        mend "$(rerun --set limits.maxModelLen="$length")"
    fi
}

explain_shared_gpu() {
    local share
    # Hundredths, rounded down, less three for what the other process may still take.
    share=$(($(tr -d . <<<"$(printf '%.2f' "$1")") * 100 / $(tr -d . <<<"$(printf '%.2f' "$2")") - 3))
    cause "only $1 of the GPU's $2 GiB are free: another process uses it (nvidia-smi shows which)"
    if [ "$share" -lt 20 ]; then
        mend "end that process, then run this again"
    else
        mend "end that process, or take less: $(rerun --set "limits.gpuMemoryUtilization=0.$(printf '%02d' "$share")")"
    fi
}

# Nothing crashed, and it was not ready in time.
explain_waiting() {
    local reason object message probe=""
    while IFS='|' read -r reason object message; do
        [ "$reason" != Unhealthy ] || probe="$object: $message"
    done < <(warnings)
    if [ -n "$probe" ]; then
        cause "a probe still failed when $timeout were over ($probe): the model was loading, or does not answer"
        mend "$(rerun --timeout 60m) waits longer; if the log below shows an error, mend that first"
    elif [ "$route" = standalone ] && [ "$(service_type "$release-gateway")" = LoadBalancer ] &&
        [ -z "$(service_address "$release-gateway")" ]; then
        cause "the entrance has no address: k3s runs without servicelb, or another Service has port $port"
        mend "$(rerun --set service.type=NodePort), or $(rerun --port 8080)"
    fi
}

explain_nothing() {
    local text
    text="$(cat "$scratch/helm")"
    if [[ "$text" == *"another operation"* ]]; then
        cause "another Helm runs on this release"
        mend "wait for it, then run this again"
    elif [ -z "$(containers)" ]; then
        cause "no pod was made: the chart or the cluster refuses the values; Helm's words above say which"
        mend "correct --set or --values as they say"
    else
        cause "none that k3s-up knows; the last lines of what is not ready are below"
    fi
}

show_logs() {
    local pod container ready rest
    while IFS='|' read -r pod container ready rest; do
        [ "$ready" != true ] || continue
        say "last 30 lines of $container in $pod:"
        container_log "$pod" "$container" 30 | redact | sed 's/^/    /' >&2 || true
    done < <(containers)
}
