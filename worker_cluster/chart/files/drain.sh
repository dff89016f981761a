#!/usr/bin/env bash
# Envoy's preStop hook: tells callers to connect elsewhere, and holds the pod until the answers under way are told, or
# until the seconds in $1 are over. Bash alone, as Envoy's image has no curl.
set -euo pipefail

admin() {
  local reply
  exec 3<>"/dev/tcp/127.0.0.1/${ADMIN_PORT:-19000}"
  printf '%s %s HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n' "$1" "$2" >&3
  reply=$(cat <&3)
  exec 3>&-
  printf '%s\n' "$reply"
}

running() {
  admin GET '/stats?filter=^http\.entrance\.downstream_rq_active$' |
    sed -n 's/^http\.entrance\.downstream_rq_active: \([0-9]*\).*/\1/p'
}

# Not ready any more, and `connection: close` on every answer from now on.
admin POST /healthcheck/fail >/dev/null
# Time for Kubernetes to take the pod out of the Service.
sleep "${SETTLE_SECONDS:-5}"
while ((SECONDS < $1)); do
  left=$(running)
  if [[ $left == 0 ]]; then break; fi
  sleep 1
done
