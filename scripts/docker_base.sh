#!/usr/bin/env bash
# Makes a base image for the Dockerfiles from Debian's packages, for a Debian or Ubuntu machine that
# reaches an archive of Debian and no image registry. Needs root, debootstrap and Docker.
#
#   scripts/docker_base.sh [TAG]                 TAG is inference-router/base:bookworm by default
#   BASE_IMAGE=inference-router/base:bookworm make docker-dev
#
# DEBIAN_SUITE and DEBIAN_MIRROR choose another release (bookworm) or archive (http://deb.debian.org/debian).
# An image that is there already is kept.
set -euo pipefail

say() { printf 'docker-base: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

suite="${DEBIAN_SUITE:-bookworm}"
mirror="${DEBIAN_MIRROR:-http://deb.debian.org/debian}"
case "${1:-}" in
    -h | --help) sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    -*) say "unknown option $1 (see --help)"; exit 2 ;;
esac
tag="${1:-inference-router/base:$suite}"

command -v docker >/dev/null || die "docker is not installed (Debian: apt install docker.io)."
docker info >/dev/null 2>&1 || die "the Docker daemon does not answer; start it and run this again."
if docker image inspect "$tag" >/dev/null 2>&1; then
    say "$tag is there already (docker image rm $tag to make it anew)"
    exit 0
fi
command -v debootstrap >/dev/null || die "debootstrap is not installed (apt install debootstrap)."
[ "$(id -u)" = 0 ] || die "debootstrap needs root: run this with sudo."

# Not in /tmp, which is often mounted so that nothing there may be a device or a program.
folder="$(mktemp -d "${TMPDIR:-/var/tmp}/docker-base.XXXXXX")"
trap 'rm -rf --one-file-system "$folder"' EXIT

say "fetching Debian $suite from $mirror (a minute or two)"
debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv "$suite" "$folder/root" "$mirror" \
    >"$folder/log" 2>&1 || {
    tail -n 20 "$folder/log" >&2
    die "debootstrap failed; its last lines are above."
}
# What apt fetches again, and what nobody reads in a container.
tar --directory "$folder/root" --create --exclude='./var/cache/apt/*' --exclude='./var/lib/apt/lists/*' \
    --exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' --exclude='./usr/share/locale/*' . |
    docker import --change 'CMD ["python3"]' - "$tag" >/dev/null || die "Docker could not import the image; see above."
say "made $tag"
