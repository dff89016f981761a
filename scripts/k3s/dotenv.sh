# shellcheck shell=bash
# LLMD_ENDPOINT in .env, which the make targets read; all other lines stay as they are.

readonly OTHERS='^(export )?LLMD_ENDPOINT='

stored_endpoint() { sed -nE "s/${OTHERS}//p" .env 2>/dev/null | tail -n 1; }

# Puts other text into .env, whose owner and mode stay; it holds keys, so that nothing less will do.
rewrite_dotenv() {
    local file=.env
    [ ! -L .env ] || file="$(readlink -f .env)"
    (
        umask 077
        [ ! -e "$file" ] || cp -p "$file" "$file.k3s-up"
        cat >"$file.k3s-up"
        [ "$(id -u)" != 0 ] || [ -e "$file" ] || chown --reference=. "$file.k3s-up"
        mv "$file.k3s-up" "$file"
    )
}

store_endpoint() {
    local endpoint="$1"
    [ "$(stored_endpoint)" != "$endpoint" ] || return 0
    show "LLMD_ENDPOINT=$endpoint >> .env"
    [ "$dry_run" = no ] || return 0
    echo "$endpoint" >.dev/k3s-endpoint
    {
        [ ! -e .env ] || grep -vE "$OTHERS" .env || true
        printf 'LLMD_ENDPOINT=%s\n' "$endpoint"
    } | rewrite_dotenv
}

# Takes the line away if k3s-up wrote it; another cluster's stays.
forget_endpoint() {
    local ours
    ours="$(cat .dev/k3s-endpoint 2>/dev/null || true)"
    [ -n "$(stored_endpoint)" ] || return 0
    if [ "$(stored_endpoint)" != "$ours" ]; then
        say "LLMD_ENDPOINT in .env is not of k3s-up; it stays"
        return
    fi
    show "LLMD_ENDPOINT=$ours taken out of .env"
    [ "$dry_run" = no ] || return 0
    { grep -vE "$OTHERS" .env || true; } | rewrite_dotenv
    rm -f .dev/k3s-endpoint
    [ -s .env ] || rm -f .env
}
