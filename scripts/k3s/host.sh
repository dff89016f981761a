# shellcheck shell=bash
# What this host is, and who may change it.

# The tests put a folder here that stands for the root of a host.
host_root="${K3S_UP_HOST_ROOT:-}"
bin_dir="$host_root/usr/local/bin"
k3s_bin="$bin_dir/k3s"
k3s_config="/etc/rancher/k3s/k3s.yaml"
k3s_marker="$host_root/etc/rancher/k3s/.installed-by-k3s-up"

problems=()
is_remote=no # the cluster of the current kubeconfig, wherever it is

have() { command -v "$1" >/dev/null 2>&1; }
problem() { problems+=("$*"); }

# Only Linux runs k3s; checked before anything that a Mac's old bash cannot read.
require_linux() {
    local system
    system="$(uname -s)"
    [ "$system" != Linux ] || return 0
    die "$UNFIT" "k3s needs Linux, and this is $system. Run make k3s-up on a Linux host or in a Linux virtual machine" \
        "(on a Mac: lima or multipass), or use a cluster that is there already:" \
        "make k3s-up K3S_ARGS=--no-install-k3s takes that of the current kubeconfig."
}

become_root() {
    [ "$(id -u)" = 0 ] || root=(sudo)
}

# none, agent (of another cluster), partial (an installation that was cut off), or present.
k3s_state() {
    if [ -e "$host_root/etc/systemd/system/k3s-agent.service" ]; then
        echo agent
    elif [ -x "$k3s_bin" ] && [ -e "$host_root/etc/systemd/system/k3s.service" ]; then
        echo present
    elif [ -x "$k3s_bin" ] || [ -e "$k3s_marker" ]; then
        echo partial
    else
        echo none
    fi
}

check_privileges() {
    [ "$(id -u)" != 0 ] && [ "$dry_run" = no ] || return 0
    if ! have sudo; then
        problem "k3s needs root, and there is no sudo. Run this as root."
    elif ! sudo -n true 2>/dev/null && ! { [ -t 0 ] && sudo -v; }; then
        problem "k3s needs root, and sudo wants a password. Run this as root, or in a terminal."
    fi
}
