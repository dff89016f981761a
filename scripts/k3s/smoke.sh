# shellcheck shell=bash
# One request of each kind through the entrance, as the router will send them.

endpoint=""
answer="" # of the last request
status=""

find_endpoint() {
    local address place="$release-gateway" at_port="$port"
    if [ "$route" = gateway ]; then
        wait_until 180 "the Gateway has an address" has_text gateway_address "$place" || fail_smoke entrance \
            "the Gateway $place has no address" "kubectl --namespace $namespace describe gateway $place"
        address="$(gateway_address "$place")"
    elif [ "$dry_run" = yes ] || [ "$(service_type "$place")" = LoadBalancer ]; then
        wait_until 180 "the entrance has an address" has_text service_address "$place" || fail_smoke entrance \
            "the Service $place has no address" "kubectl --namespace $namespace describe service $place"
        address="$(service_address "$place")"
    else
        address="$(node_address)"
        at_port="$(service_port "$place" nodePort)"
        [ -n "$at_port" ] || die "$NO_ANSWER" "the Service $place is of the type $(service_type "$place"), which nothing" \
            "outside the cluster reaches: $(rerun --set service.type=NodePort)"
    fi
    case "$address" in *:*) address="[$address]" ;; esac
    endpoint="http://${address:-ADDRESS}:$at_port"
}
has_text() { [ -n "$("$@")" ]; }

# `request SECONDS PATH [BODY]`: sets answer and status; a request that fails on the way has the status 000.
request() {
    local command=(curl --silent --show-error --noproxy '*' --max-time "$1" --output "$scratch/answer"
        --write-out '%{http_code}')
    [ -z "${3:-}" ] || command+=(--header 'Content-Type: application/json' --data "$3")
    : >"$scratch/answer"
    if [ -n "${LLMD_API_KEY:-}" ]; then
        # Through a pipe: no list of arguments shows the key.
        status="$("${command[@]}" --header @- "$endpoint$2" <<<"Authorization: Bearer $LLMD_API_KEY" 2>"$scratch/error")" || true
    else
        status="$("${command[@]}" "$endpoint$2" 2>"$scratch/error")" || true
    fi
    answer="$(tr -d '\r' <"$scratch/answer")"
    [ -n "$answer" ] || answer="$(cat "$scratch/error")"
    log "smoke: $2 $status $(head -c 300 <<<"$answer" | tr '\n' ' ')"
}

# `fail_smoke STEP WHAT COMMAND`: says what came instead, and which command tells more.
fail_smoke() {
    say "smoke test, $1: $2."
    [ -z "$answer" ] || say "  the answer ($status): $(head -c 500 <<<"$answer" | tr '\n' ' ')"
    die "$NO_ANSWER" "  $3 says more. llm-d was deployed; when it is mended, run this again."
}

models_answer() {
    request 10 /v1/models
    [ "$status" = 200 ]
}

smoke() {
    local entrance_log="kubectl --namespace $namespace logs deployment/$release-epp --all-containers --tail 50"
    local worker_log="kubectl --namespace $namespace logs deployment/$release-decode --tail 50"
    find_endpoint
    if [ "$dry_run" = yes ]; then
        printf '  # asks %s: models, one chat, one stream, a model that is not there; and the metrics in the cluster\n' "$endpoint"
        return
    fi
    wait_until 180 "the models are listed at $endpoint" models_answer ||
        fail_smoke models "$endpoint/v1/models does not answer 200" "$entrance_log"
    [[ "$answer" =~ \"id\":\ *\"([^\"]+)\" ]] || fail_smoke models "no model is listed" "$worker_log"
    local model="${BASH_REMATCH[1]}" length=""
    [[ "$answer" =~ \"max_model_len\":\ *([0-9]+) ]] && length="${BASH_REMATCH[1]}"
    [ -n "$length" ] || fail_smoke models "max_model_len is missing" "$worker_log"
    say "smoke test: models: $model, $length tokens"
    smoke_chat "$model" "$entrance_log"
    smoke_metrics
}

smoke_chat() {
    local model="$1" entrance_log="$2" messages='"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 16'
    request 300 /v1/chat/completions "{\"model\": \"$model\", $messages}"
    [ "$status" = 200 ] && [[ "$answer" == *'"choices"'* && "$answer" == *'"usage"'* ]] ||
        fail_smoke chat "no whole answer came" "$entrance_log"
    say "smoke test: chat: answered"
    request 300 /v1/chat/completions \
        "{\"model\": \"$model\", $messages, \"stream\": true, \"stream_options\": {\"include_usage\": true}}"
    [ "$status" = 200 ] && [[ "$answer" == data:* ]] || fail_smoke stream "no stream came" "$entrance_log"
    [[ "$answer" =~ \"usage\":\ *\{ ]] || fail_smoke stream "the stream has no usage" "$entrance_log"
    [ "$(tail -n 1 <<<"$answer")" = "data: [DONE]" ] || fail_smoke stream "the stream does not end with [DONE]" "$entrance_log"
    say "smoke test: stream: whole, with usage"
    request 60 /v1/chat/completions "{\"model\": \"no-such-model\", $messages}"
    [ "$status" = 404 ] || fail_smoke "bad model" "a model that is not there gets $status, not 404" "$entrance_log"
    say "smoke test: a model that is not there: 404"
}

# The metrics are closed to the outside, so the API server is asked. On a cluster that is not of k3s-up, policies may
# keep it out, too; there this is no failure.
smoke_metrics() {
    local pair part at_port sign pod text
    answer="" status=""
    for pair in decode:8000:vllm: epp:9090:llm_d_epp_; do
        part="${pair%%:*}"
        sign="${pair#*:}"
        at_port="${sign%%:*}"
        sign="${sign#*:}"
        pod="$(pod_of "$part")"
        text="$(pod_metrics "$pod" "$at_port")"
        if grep -q "^$sign" <<<"$text"; then
            say "smoke test: metrics of $part: there"
        elif [ "$is_remote" = yes ]; then
            say "smoke test: metrics of $part: not to be read from here"
        else
            fail_smoke metrics "the pod ${pod:-$part} has none on port $at_port" \
                "kubectl --namespace $namespace get --raw /api/v1/namespaces/$namespace/pods/$pod:$at_port/proxy/metrics"
        fi
    done
}
