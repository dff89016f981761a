# shellcheck shell=bash
# What is asked of the cluster. Nothing here changes it; an answer is plain text, one thing a line, and nothing where
# the cluster has nothing to say.

kubectl=()
release=llm-d

# A dry run asks too, where it may: not before there is a k3s, and not where only root may and this is not root.
blind=no
is_blind() { [ "$blind" = yes ]; }
ask() { is_blind || "${kubectl[@]}" "$@" 2>/dev/null || true; }

use_cluster() {
    if [ "$is_remote" = yes ]; then
        kubectl=(kubectl)
    else
        kubectl=("${root[@]}" "$k3s_bin" kubectl --kubeconfig "$k3s_config")
    fi
}

cluster_answers() { [ "$(ask get --raw /readyz)" = ok ]; }

nodes_ready() {
    [[ "$(ask get nodes -o 'jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}')" == *True* ]]
}
node_trouble() { ask get nodes -o 'jsonpath={.items[*].status.conditions[?(@.type=="Ready")].message}'; }
node_address() {
    ask get nodes -o 'jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}' | cut -d ' ' -f 1
}
dns_ready() {
    [[ "$(ask get deployment coredns --namespace kube-system -o 'jsonpath={.status.availableReplicas}')" == [1-9]* ]]
}
storage_exists() { [ -n "$(ask get storageclass -o 'jsonpath={.items[*].metadata.name}')" ]; }

# The GPUs that all nodes offer together.
cluster_gpus() {
    local count sum=0
    for count in $(ask get nodes -o 'jsonpath={.items[*].status.allocatable.nvidia\.com/gpu}'); do
        sum=$((sum + count))
    done
    echo "$sum"
}
gpus_offered() { [ "$(cluster_gpus)" -ge 1 ]; }
# MiB of the smallest, as gpu-feature-discovery labels it.
cluster_gpu_memory() {
    ask get nodes -o 'jsonpath={.items[*].metadata.labels.nvidia\.com/gpu\.memory}' | tr ' ' '\n' | sort -n | head -n 1
}
runtime_class_exists() { [ -n "$(ask get runtimeclass nvidia -o name)" ]; }
device_plugin_log() {
    ask logs --namespace nvidia-device-plugin --selector app.kubernetes.io/name=nvidia-device-plugin --all-containers --tail 20
}

namespace_exists() { [ -n "$(ask get namespace "$1" -o name)" ]; }
namespace_is_ours() {
    [ "$(ask get namespace "$1" -o 'jsonpath={.metadata.labels.app\.kubernetes\.io/managed-by}')" = k3s-up ]
}
secret_value() { ask get secret "$1" --namespace "$namespace" -o "jsonpath={.data.$2}" | base64 -d; }
crd_version() { ask get crd "$1" -o "jsonpath={.metadata.annotations.${2//./\\.}}"; }
crd_exists() { [ -n "$(ask get crd "$1" -o name)" ]; }
model_claims() {
    ask get persistentvolumeclaims --namespace "$namespace" --selector "app.kubernetes.io/instance=$release" -o name
}

# What a Service or Gateway is reached by: an address, or nothing yet.
service_address() {
    ask get service "$1" --namespace "$namespace" \
        -o 'jsonpath={.status.loadBalancer.ingress[0].ip}{.status.loadBalancer.ingress[0].hostname}'
}
service_type() { ask get service "$1" --namespace "$namespace" -o 'jsonpath={.spec.type}'; }
service_port() { ask get service "$1" --namespace "$namespace" -o "jsonpath={.spec.ports[0].$2}"; }
gateway_address() { ask get gateway "$1" --namespace "$namespace" -o 'jsonpath={.status.addresses[0].value}'; }
gateway_port() { ask get gateway "$1" --namespace "$namespace" -o 'jsonpath={.spec.listeners[0].port}'; }

# POD|CONTAINER|READY|RESTARTS|WAITS FOR|LAST EXIT CODE|WHY|IMAGE|MESSAGE, a line for each container.
container_row='{{.name}}|{{.ready}}|{{.restartCount}}|{{with .state.waiting}}{{.reason}}{{end}}|'
container_row+='{{with .lastState.terminated}}{{.exitCode}}|{{.reason}}{{else}}|{{end}}|{{.image}}|'
container_row+='{{with .state.waiting}}{{with .message}}{{printf "%q" .}}{{end}}{{end}}{{"\n"}}'
containers() {
    ask get pods --namespace "$namespace" --selector "app.kubernetes.io/instance=$release" -o "go-template=\
{{range .items}}{{\$pod := .metadata.name}}\
{{range .status.initContainerStatuses}}{{\$pod}}|$container_row{{end}}\
{{range .status.containerStatuses}}{{\$pod}}|$container_row{{end}}{{end}}"
}
# POD|MESSAGE of pods that no node takes.
# shellcheck disable=SC2016 # the variables are the template's
unscheduled() {
    ask get pods --namespace "$namespace" --selector "app.kubernetes.io/instance=$release" -o 'go-template=
{{- range .items}}{{$pod := .metadata.name}}{{range .status.conditions}}
{{- if and (eq .type "PodScheduled") (eq .status "False")}}{{$pod}}|{{.message}}{{"\n"}}{{end}}{{end}}{{end}}'
}
# DEPLOYMENT|MESSAGE of those whose pods are refused.
# shellcheck disable=SC2016 # the variables are the template's
refused() {
    ask get deployments --namespace "$namespace" --selector "app.kubernetes.io/instance=$release" -o 'go-template=
{{- range .items}}{{$name := .metadata.name}}{{range .status.conditions}}
{{- if and (eq .type "ReplicaFailure") (eq .status "True")}}{{$name}}|{{.message}}{{"\n"}}{{end}}{{end}}{{end}}'
}
# REASON|OBJECT|MESSAGE of what the cluster warns of.
warnings() {
    ask get events --namespace "$namespace" --field-selector type=Warning -o 'go-template=
{{- range .items}}{{.reason}}|{{.involvedObject.name}}|{{printf "%q" .message}}{{"\n"}}{{end}}'
}
# The last lines of a container, of the one before where that crashed: `container_log POD CONTAINER LINES`.
container_log() {
    local text
    text="$(ask logs "$1" --namespace "$namespace" --container "$2" --tail "$3" --previous)"
    [ -n "$text" ] || text="$(ask logs "$1" --namespace "$namespace" --container "$2" --tail "$3")"
    printf '%s\n' "$text"
}
pod_metrics() { ask get --raw "/api/v1/namespaces/$namespace/pods/$1:$2/proxy/metrics"; }
pod_of() {
    ask get pods --namespace "$namespace" --field-selector status.phase=Running \
        --selector "app.kubernetes.io/instance=$release,app.kubernetes.io/component=$1" -o 'jsonpath={.items[0].metadata.name}'
}
