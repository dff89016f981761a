# shellcheck shell=bash
# The GPUs of this host, and how the cluster comes to offer them.

readonly TOOLKIT_GUIDE=https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/latest/install-guide.html

gpu_count=0
gpu_memory=0 # MiB of the smallest
gpu_names=""
gpu_lacks="" # why none can be used
gpu_mend=""

# A card can be there without a driver that would tell of it.
has_nvidia_card() {
    local device
    for device in "$host_root"/sys/bus/pci/devices/*; do
        [ "$(cat "$device/vendor" 2>/dev/null)" = 0x10de ] || continue
        case "$(cat "$device/class" 2>/dev/null)" in 0x03*) return 0 ;; esac
    done
    return 1
}

is_jetson() { [ -e "$host_root/etc/nv_tegra_release" ] || grep -qsa 'Jetson' "$host_root/proc/device-tree/model"; }

# Finds the GPUs, or why there is none to be used.
find_gpus() {
    local answer name memory driver
    if is_jetson; then
        gpu_lacks="this is a Jetson, whose GPU needs a runtime of its own and images that llm-d does not have"
        gpu_mend="there is none; use another host for the GPU"
    elif ! have nvidia-smi && has_nvidia_card; then
        gpu_lacks="an NVIDIA card is here, its driver is not (no nvidia-smi)"
        gpu_mend="install the driver (Ubuntu: sudo ubuntu-drivers install), then reboot"
    elif ! have nvidia-smi; then
        gpu_lacks="no NVIDIA GPU is here (no nvidia-smi, no NVIDIA card on the PCI bus)"
        gpu_mend="use a host with an NVIDIA GPU"
    elif ! answer="$(nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader,nounits 2>&1)"; then
        gpu_lacks="nvidia-smi fails: $(head -n 1 <<<"$answer")"
        gpu_mend="mend the driver until nvidia-smi lists the GPU; after an update that is a reboot"
    else
        while IFS=, read -r name memory driver; do
            memory="${memory// /}"
            [[ "$memory" =~ ^[0-9]+$ ]] || memory=0 # some tell no memory of their own: it is the host's
            [ "$gpu_count" != 0 ] && [ "$memory" -ge "$gpu_memory" ] || gpu_memory="$memory"
            gpu_count=$((gpu_count + 1))
            gpu_names="${gpu_names:+$gpu_names; }$name, $memory MiB, driver${driver}"
        done <<<"$answer"
        have nvidia-container-runtime || {
            gpu_lacks="$gpu_names: the GPU is here, the NVIDIA Container Toolkit is not (no nvidia-container-runtime)"
            gpu_mend="install the package nvidia-container-toolkit: $TOOLKIT_GUIDE"
        }
    fi
}

# What the nodes of a cluster offer.
find_offered_gpus() {
    if gpus_offered; then
        gpu_count="$(cluster_gpus)"
        gpu_memory="$(cluster_gpu_memory)"
        gpu_memory="${gpu_memory:-0}"
        gpu_names="$gpu_count offered by the cluster"
    else
        gpu_lacks="no node of this cluster offers nvidia.com/gpu"
        gpu_mend="install NVIDIA's device plugin or GPU Operator in the cluster"
    fi
}

# Turns `auto` into what this host can do, and says so where that is not the GPU.
choose_mode() {
    if [ "$mode" = auto ] || [ "$mode" = gpu ]; then
        if [ "$is_remote" = yes ]; then find_offered_gpus; else find_gpus; fi
    fi
    if [ "$mode" = gpu ] && [ -n "$gpu_lacks" ]; then
        say "--mode gpu, but $gpu_lacks."
        die "$NO_GPU" "To mend it: $gpu_mend. Nothing was changed."
    fi
    [ "$mode" = auto ] || return 0
    if [ -z "$gpu_lacks" ]; then
        mode=gpu
        say "GPU: $gpu_names"
        return
    fi
    mode=sim
    say "------------------------------------------------------------------------------------------"
    say "No GPU will be used: $gpu_lacks."
    say "The simulator runs instead. It speaks vLLM's API; its answers are random text."
    say "For the GPU: $gpu_mend. Then run this again."
    say "--mode gpu insists on a GPU; --mode cpu runs a small real model on the processor, slowly."
    say "------------------------------------------------------------------------------------------"
}

runtime_known() { "${root[@]}" grep -qs nvidia "$host_root/var/lib/rancher/k3s/agent/etc/containerd/config.toml"; }

# k3s finds NVIDIA's runtime when it starts, so a toolkit that came later takes a restart.
ensure_nvidia_runtime() {
    if ! is_blind && runtime_known; then
        :
    elif [ "$k3s_was" = none ] && [ "$dry_run" = yes ]; then
        printf '  # k3s finds nvidia-container-runtime when it starts\n'
    else
        say "k3s does not know the runtime of NVIDIA yet; restarting it once"
        change "${root[@]}" systemctl restart k3s || die "$NO_CLUSTER" "k3s did not restart: journalctl -u k3s says why."
        wait_for_node
        [ "$dry_run" = yes ] || runtime_known || die "$NO_CLUSTER" "k3s does not take up nvidia-container-runtime, which is" \
            "at $(command -v nvidia-container-runtime). See that root can run it, and that" \
            "/var/lib/rancher/k3s/agent/etc/containerd has no config template of yours without it."
    fi
    # k3s brings its own; one that was told not to has none.
    if ! is_blind && ! runtime_class_exists; then
        apply "RuntimeClass nvidia" <<'YAML' || die "$NO_CLUSTER" "the RuntimeClass could not be made; see $log_file."
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: nvidia}
handler: nvidia
YAML
    fi
}

# Where something offers the GPU already, NVIDIA's operator for instance, nothing is installed.
ensure_device_plugin() {
    ! gpus_offered || return 0
    if ! release_is_deployed nvidia-device-plugin nvidia-device-plugin; then
        local chart="$scratch/nvidia-device-plugin-$DEVICE_PLUGIN_VERSION.tgz"
        ensure_namespace nvidia-device-plugin privileged
        change "${helm[@]}" pull nvidia-device-plugin --repo "$DEVICE_PLUGIN_REPOSITORY" \
            --version "$DEVICE_PLUGIN_VERSION" --destination "$scratch" ||
            die "$NO_CLUSTER" "the chart of NVIDIA's device plugin could not be downloaded."
        check_sum "$chart" "$DEVICE_PLUGIN_SHA256" DEVICE_PLUGIN_SHA256 || exit "$NO_CLUSTER"
        settle_release nvidia-device-plugin nvidia-device-plugin
        change "${helm[@]}" upgrade --install nvidia-device-plugin "$chart" --namespace nvidia-device-plugin \
            --description k3s-up --set runtimeClassName=nvidia --set gfd.enabled=true ||
            die "$NO_CLUSTER" "NVIDIA's device plugin could not be installed."
    fi
    wait_until 300 "the node offers nvidia.com/gpu" gpus_offered && return 0
    say "the device plugin runs, and the node offers no nvidia.com/gpu after five minutes. Its last lines:"
    device_plugin_log | redact >&2
    say "Three causes are usual:"
    say "  1. The driver: nvidia-smi has to work on this host. After a driver update: reboot."
    say "  2. The runtime: \"failed to initialize NVML\" above means that the plugin runs without NVIDIA's runtime:" \
        "sudo systemctl restart k3s, then run this again."
    say "  3. The label: a plugin without a pod waits for node-feature-discovery to see the card:" \
        "kubectl label node --all nvidia.com/gpu.present=true"
    exit "$NO_CLUSTER"
}
