# shellcheck shell=bash
# Downloads, and the checksums that they have to match.

curl_secure=(curl --fail --silent --show-error --location --proto "=https" --retry 3)

# The publisher's checksum of a file: a line "SUM  NAME" or "SUM *NAME" of a published list.
published_sum() {
    local line sum name
    while read -r sum name; do
        line="${name#\*}"
        if [ "$line" = "$2" ] || [ -z "$line" ]; then
            echo "$sum"
            return
        fi
    done <"$1"
}

# Compares a file with its checksum: `check_sum FILE PIN VARIABLE [PUBLISHED]`. The pin wins.
check_sum() {
    local file="$1" pin="$2" variable="$3" published="${4:-}" expected found
    expected="${pin:-$published}"
    if [ -z "$expected" ]; then
        [ "$dry_run" = yes ] || log "$(sha256sum "$file") is neither pinned ($variable) nor published"
        return 0
    fi
    if [ "$dry_run" = yes ]; then
        show "sha256sum --check <<<'$expected  $file'"
        return 0
    fi
    found="$(sha256sum "$file")"
    found="${found%% *}"
    log "sha256 $found $(basename "$file")"
    [ "$found" != "$expected" ] || return 0
    say "the checksum of $(basename "$file") is $found, and should be $expected" \
        "($variable of scripts/k3s/versions.sh). Nothing of it was run."
    return 1
}

# Downloads a file and checks it: `fetch URL FILE PIN VARIABLE [URL_OF_SUMS NAME_IN_SUMS]`.
fetch() {
    local url="$1" file="$2" pin="$3" variable="$4" sums="${5:-}" name="${6:-}" published=""
    change "${curl_secure[@]}" --output "$file" "$url" || {
        say "could not download $url"
        return 1
    }
    if [ -z "$pin" ] && [ -n "$sums" ]; then
        change "${curl_secure[@]}" --output "$file.sums" "$sums" || {
            say "could not download $sums"
            return 1
        }
        published="the checksum in $file.sums"
        if [ "$dry_run" = no ]; then
            published="$(published_sum "$file.sums" "$name")"
            [ -n "$published" ] || {
                say "$sums does not name $name"
                return 1
            }
        fi
    fi
    check_sum "$file" "$pin" "$variable" "$published"
}
