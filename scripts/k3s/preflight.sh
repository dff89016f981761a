# shellcheck shell=bash
# Whether k3s and a worker fit on this host: all that is wrong, at once.

notes=()
arch=""

# A file's number behind a name, such as MemTotal in /proc/meminfo.
number_of() { sed -nE "s/^$2:? *([0-9]+).*/\1/p" "$1" 2>/dev/null | head -n 1; }

# Whether something listens on a TCP port.
listens() {
    local hex
    printf -v hex '%04X' "$1"
    grep -qsE "^ *[0-9]+: [0-9A-F]+:$hex [0-9A-F]+:0000 0A " "$host_root/proc/net/tcp" "$host_root/proc/net/tcp6"
}

check_tools() {
    local tool missing=()
    for tool in "$@"; do
        have "$tool" || missing+=("$tool")
    done
    [ ${#missing[@]} = 0 ] || problem "missing: ${missing[*]}. Install them (Debian: apt-get install -y ${missing[*]})."
}

check_kernel() {
    case "$(uname -m)" in
        x86_64) arch=amd64 ;;
        aarch64 | arm64) arch=arm64 ;;
        *) problem "the processor is $(uname -m); k3s and llm-d's images are for x86_64 and aarch64." ;;
    esac
    if [ ! -e "$host_root/sys/fs/cgroup/cgroup.controllers" ]; then
        problem "cgroup v2 is not in use, which Kubernetes needs. Boot with systemd.unified_cgroup_hierarchy=1."
    elif ! grep -qw memory "$host_root/sys/fs/cgroup/cgroup.controllers"; then
        problem "the memory cgroup is off. Boot with cgroup_enable=memory cgroup_memory=1."
    fi
    if [ "$(cat "$host_root/sys/fs/selinux/enforce" 2>/dev/null)" = 1 ] &&
        [ ! -e "$host_root/usr/share/selinux/packages/k3s.pp" ]; then
        if have dnf || have yum || have zypper; then
            notes+=("SELinux is enforcing; k3s's installer adds the package k3s-selinux from rpm.rancher.io.")
        else
            problem "SELinux is enforcing and the policy k3s-selinux is missing; see docs.k3s.io, \"SELinux\"."
        fi
    fi
}

# Processors, GiB of memory, GiB of free disk: what a mode needs.
check_size() {
    local cpus memory disk need_cpus need_memory need_disk place="$host_root/var/lib"
    case "$mode" in
        gpu) need_cpus=4 need_memory=16 need_disk=60 ;;
        cpu) need_cpus=4 need_memory=8 need_disk=25 ;;
        *) need_cpus=2 need_memory=4 need_disk=10 ;;
    esac
    cpus="$(nproc)"
    [ "$cpus" -ge "$need_cpus" ] || problem "$cpus processors; --mode $mode needs $need_cpus."
    memory="$(number_of "$host_root/proc/meminfo" MemTotal)"
    memory=$(((${memory:-0} + 524288) / 1048576))
    # What a machine of 8 GiB has behind its kernel counts as 8 GiB.
    [ "$((memory + 1))" -ge "$need_memory" ] || problem "$memory GiB of memory; --mode $mode needs $need_memory."
    [ "$(k3s_state)" = none ] || return 0
    disk="$(df -k --output=avail "$place" 2>/dev/null | tail -n 1 | tr -d ' ')"
    disk=$((${disk:-0} / 1048576))
    [ "$disk" -ge "$need_disk" ] ||
        problem "$disk GiB free for /var/lib; --mode $mode needs $need_disk, for images and weights."
}

check_instructions() {
    [ "$mode" = cpu ] && [ "$arch" = amd64 ] || return 0
    grep -qsw avx2 "$host_root/proc/cpuinfo" ||
        problem "the processor lacks AVX2, which vLLM needs on x86_64. Use --mode sim."
}

check_ports() {
    local version minor
    case "$(k3s_state)" in
        none) ! listens 6443 || problem "port 6443 is taken, and not by k3s: another Kubernetes runs here. Stop it, or use" \
            "it: --no-install-k3s." ;;
        agent) problem "this host is an agent of another k3s cluster. Run this on that cluster's server with" \
            "--no-install-k3s, or on another host." ;;
        present)
            version="$("$k3s_bin" --version 2>/dev/null | sed -nE '1s/^k3s version (v[^ ]+).*/\1/p')"
            minor="${version#v1.}"
            minor="${minor%%.*}"
            if [[ "$minor" =~ ^[0-9]+$ ]] && [ "$minor" -lt "$KUBERNETES_MINOR_MIN" ]; then
                problem "k3s $version is here; the chart needs v1.$KUBERNETES_MINOR_MIN. Upgrade it (docs.k3s.io, \"Upgrades\")."
            fi
            ;;
    esac
    if systemctl is-active --quiet firewalld 2>/dev/null; then
        notes+=("firewalld is active; pods reach each other only if it trusts them: firewall-cmd --permanent \
--zone=trusted --add-source=10.42.0.0/16 --add-source=10.43.0.0/16, then firewall-cmd --reload")
    fi
    if listens "$port"; then
        problem "port $port is taken. Free it, or choose another: make k3s-up K3S_ARGS=\"$(arguments_with --port 8080)\""
    fi
}

# Finds all that is wrong at once.
preflight() {
    if [ "$is_remote" = yes ]; then
        check_tools curl kubectl tar sha256sum base64
    else
        check_tools curl tar sha256sum base64
        have systemctl || problem "systemd is not here (no systemctl), under which k3s runs."
        check_privileges
        check_kernel
        check_size
        check_instructions
        check_ports
    fi
    local item
    for item in "${notes[@]}"; do
        say "note: $item"
    done
    [ ${#problems[@]} != 0 ] || return 0
    say "this host is not ready; nothing was changed:"
    for item in "${problems[@]}"; do
        say "  - $item"
    done
    [ "$dry_run" = yes ] || exit "$UNFIT"
    say "with that mended, these are the commands:"
}
