# shellcheck shell=bash
# What is said, what is logged, and the one door to everything that changes something.

# shellcheck disable=SC2034 # each script ends with its own
readonly NO_GPU=3 UNFIT=4 NO_CLUSTER=5 NO_DEPLOYMENT=6 NO_ANSWER=7

root=() # sudo, where that is needed

program="${program:?the script names itself before it reads its parts}"
dry_run=no
log_file=""
scratch=""

# Puts a text into REPLY without the secrets of this run, and without whatever looks like a token.
clean() {
    REPLY="$1"
    [ -z "${HF_TOKEN:-}" ] || REPLY="${REPLY//"$HF_TOKEN"/***}"
    [ -z "${LLMD_API_KEY:-}" ] || REPLY="${REPLY//"$LLMD_API_KEY"/***}"
    while [[ "$REPLY" =~ hf_[A-Za-z0-9]{8,} ]]; do
        REPLY="${REPLY//"${BASH_REMATCH[0]}"/hf_***}"
    done
}

# The same for all that a command says.
redact() {
    local line REPLY
    while IFS= read -r line || [ -n "$line" ]; do
        clean "$line"
        printf '%s\n' "$REPLY"
    done
}

log() {
    local REPLY
    [ -n "$log_file" ] || return 0
    clean "$*"
    printf '%(%Y-%m-%dT%H:%M:%S%z)T %s\n' -1 "$REPLY" >>"$log_file"
}
say() {
    local REPLY
    log "$*"
    clean "$*"
    printf '%s: %s\n' "$program" "$REPLY" >&2
}
die() {
    local status="$1"
    shift
    say "$*"
    exit "$status"
}

# A command as one can type it.
typed() {
    local text
    printf -v text '%q ' "$@"
    printf '%s' "${text% }"
}

# Shows a command: in a dry run as the result, else beside what is said.
show() {
    local REPLY
    clean "$1"
    if [ "$dry_run" = yes ]; then
        printf '  $ %s\n' "$REPLY"
    else
        log "\$ $1"
        printf '  $ %s\n' "$REPLY" >&2
    fi
}

# Runs what changes something. A dry run only shows it. What it says goes to the log, and its end to the user where it
# fails.
change() {
    show "$(typed "$@")"
    [ "$dry_run" = no ] || return 0
    local status=0
    "$@" >"$scratch/output" 2>&1 || status=$?
    redact <"$scratch/output" >>"$log_file"
    [ "$status" = 0 ] || tail -n 15 "$scratch/output" | redact >&2
    return "$status"
}

# Waits until a question is answered with yes: `wait_until SECONDS WHAT COMMAND…`. A dry run only says so.
wait_until() {
    local patience="$1" what="$2" waited=0
    shift 2
    if [ "$dry_run" = yes ]; then
        printf '  # waits until %s\n' "$what"
        return 0
    fi
    until "$@"; do
        [ "$waited" -lt "$patience" ] || return 1
        [ "$waited" != 0 ] || say "waiting until $what"
        sleep 5
        waited=$((waited + 5))
    done
}

# A folder for downloads and a log; none of them in a dry run.
open_console() {
    if [ "$dry_run" = yes ]; then
        scratch="${TMPDIR:-/tmp}/$program"
        return
    fi
    mkdir -p .dev
    log_file=".dev/$program.log"
    : >>"$log_file"
    if [ "$(id -u)" = 0 ]; then
        # What root makes here has to stay usable for whom the checkout belongs to.
        chown --reference=. .dev "$log_file" 2>/dev/null || true
    fi
    scratch="$(mktemp -d)"
    log "began: $(typed "$@")"
}

# One run at a time on this machine; a lock whose owner is gone is taken over.
lock=""
take_lock() {
    [ "$dry_run" = no ] || return 0
    local folder="${K3S_UP_LOCK:-/tmp/inference-router-k3s.lock}" owner
    until mkdir "$folder" 2>/dev/null; do
        owner="$(cat "$folder/pid" 2>/dev/null || true)"
        if [[ "$owner" =~ ^[0-9]+$ ]] && { kill -0 "$owner" 2>/dev/null || [ -d "/proc/$owner" ]; }; then
            die "$UNFIT" "another run is under way (process $owner); wait for it, or end it."
        fi
        [ -n "$owner" ] || sleep 1
        rm -rf "$folder" 2>/dev/null || die "$UNFIT" "cannot take the lock $folder; remove it."
    done
    lock="$folder"
    echo $$ >"$lock/pid"
}

# What runs beside this script, to be ended with it: a shell's background commands do not hear Ctrl-C.
background=""
end_background() {
    [ -n "$background" ] || return 0
    "${root[@]}" kill -TERM "$background" 2>/dev/null || true
    wait "$background" 2>/dev/null || true
    background=""
}

close_console() {
    local status=$?
    trap - EXIT INT TERM
    end_background
    [ -z "$lock" ] || rm -rf "$lock"
    [ "$dry_run" = yes ] || [ -z "$scratch" ] || rm -rf "$scratch"
    # All that is foreseen ends with 2 or more.
    [ "$status" != 1 ] || say "stopped where it should not have${log_file:+; the end of $log_file shows where}."
    [ -z "$log_file" ] || log "ended with $status"
    exit "$status"
}
interrupted() {
    say "interrupted; run it again, it goes on where it stopped."
    exit 130
}
