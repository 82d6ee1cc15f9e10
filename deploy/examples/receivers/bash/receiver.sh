#!/usr/bin/env bash
# Receive webhooks with bash and openssl: for trials and to see the scheme bare, not for production.
#
#   export WEBHOOK_SECRETS='whsec_new whsec_old'
#   socat TCP-LISTEN:9000,bind=127.0.0.1,reuseaddr,fork EXEC:./receiver.sh      one request on stdin, its answer on stdout
#   ./receiver.sh --verify schemas/vectors/cases.psv
#
# openssl takes a key only as an argument: whoever lists this machine's processes can see it for a moment.
set -u
export LC_ALL=C

tolerance_seconds=300
shortest_key=24
largest_body=1048576
# Ids of finished events, a file each. Yours belong into a table with a unique key, for 30 days.
inbox=${WEBHOOK_INBOX:-${TMPDIR:-/tmp}/webhook-inbox}

# In files: a variable of bash cannot hold every byte.
body=$(mktemp)
trap 'rm -f "$body"' EXIT

hex() { od -An -v -tx1 | tr -d ' \n'; }

# Prints the base64 of HMAC-SHA256 over standard input, with the key in hex.
mac() { openssl dgst -sha256 -mac HMAC -macopt "hexkey:$1" -binary | openssl base64 -A; }

# Compares through a random key: how long that takes tells nothing of either text.
equal() {
  local blind
  blind=$(openssl rand -hex 32)
  [[ $(printf %s "$1" | mac "$blind") == "$(printf %s "$2" | mac "$blind")" ]]
}

# verify ID TIMESTAMP SIGNATURES SECRETS NOW, over the file $body: silent when it is ours, or says why not and fails.
verify() {
  local id=$1 timestamp=$2 offered=$3 now=$5 secret key expected entry age
  local -a secrets entries
  read -ra secrets <<<"$4"
  # Patterns in variables, as bash wants them.
  local id_shape='^[!-+/-~-]{1,256}$' signature_shape='^[^ ,]+,[^ ,]+( [^ ,]+,[^ ,]+){0,9}$'
  [[ $id =~ $id_shape && ${#id} -le 256 ]] || { echo 'webhook-id is missing or malformed'; return 1; }
  [[ $timestamp =~ ^[0-9]{1,12}$ ]] || { echo 'webhook-timestamp is missing or malformed'; return 1; }
  [[ $offered =~ $signature_shape ]] || { echo 'webhook-signature is missing or malformed'; return 1; }
  # With a base, so that a leading zero is no octal number.
  age=$((now - 10#$timestamp))
  ((age <= tolerance_seconds && -age <= tolerance_seconds)) ||
    { echo 'the timestamp is more than five minutes away from now'; return 1; }
  read -ra entries <<<"$offered"
  for secret in "${secrets[@]}"; do
    key=$(printf %s "${secret#whsec_}" | openssl base64 -d -A | hex)
    # An empty key, or half of one, would let anybody sign.
    ((${#key} >= 2 * shortest_key)) || { echo 'a secret is no base64 of 24 bytes or more' >&2; exit 1; }
    expected=v1,$({ printf %s "$id.$timestamp."; cat "$body"; } | mac "$key")
    for entry in "${entries[@]}"; do
      equal "$entry" "$expected" && return 0
    done
  done
  echo 'no signature matches'
  return 1
}

answer() {
  printf 'HTTP/1.1 %s\r\nConnection: close\r\n' "$1"
  [[ $1 == 204* ]] || printf 'Content-Length: %d\r\n' "${#2}"
  printf '\r\n%s' "$2"
}

# Put the event into a queue and do the rest later: the sender waits five seconds.
work() { echo "received $1 $2" >&2; }

receive() {
  local line name value method length=0 id='' timestamp='' offered='' type='' reason
  IFS= read -r line
  method=${line%% *}
  while IFS= read -r line && line=${line%$'\r'} && [[ -n $line ]]; do
    name=${line%%:*} value=${line#*:}
    value=${value#"${value%%[! ]*}"}
    # A header that comes twice becomes a list with a comma, which no shape allows.
    case ${name,,} in
      content-length) length=$value ;;
      webhook-id) id=${id:+$id, }$value ;;
      webhook-timestamp) timestamp=${timestamp:+$timestamp, }$value ;;
      webhook-signature) offered=${offered:+$offered, }$value ;;
      x-webhook-event) type=$value ;;
    esac
  done
  [[ $method == POST ]] || { answer '405 Method Not Allowed' ''; return; }
  if [[ ! $length =~ ^[0-9]{1,7}$ ]] || ((10#$length > largest_body)); then
    answer '413 Content Too Large' ''
    return
  fi
  head -c "$length" >"$body"
  if ! reason=$(verify "$id" "$timestamp" "$offered" "${WEBHOOK_SECRETS:-${WEBHOOK_SECRET:?}}" "$(date +%s)"); then
    answer '400 Bad Request' "$reason"
    return
  fi
  mkdir -p "$inbox"
  # One at a time, so that two deliveries of one event cannot both be the first; a death frees the lock.
  exec 9>>"$inbox/$(printf %s "$id" | openssl dgst -sha256 -r | cut -c -64)"
  flock 9
  if [[ -s /dev/fd/9 ]]; then
    echo "duplicate $id" >&2
  elif work "$id" "$type" <"$body"; then
    echo 'done' >&9
  else
    answer '500 Internal Server Error' ''
    return
  fi
  answer '204 No Content' ''
}

check() {
  local name now secrets id timestamp signature encoded
  while IFS='|' read -r _ name now secrets id timestamp signature encoded; do
    printf %s "$encoded" | openssl base64 -d -A >"$body"
    if verify "$id" "$timestamp" "$signature" "$secrets" "$now" >/dev/null; then
      echo "accept|$name"
    else
      echo "refuse|$name"
    fi
  done <"$1"
}

if [[ ${1:-} == --verify ]]; then
  check "$2"
else
  receive
fi
