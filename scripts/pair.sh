# shellcheck shell=bash
# An owner and a guest on this machine, for scripts that work in the guest's mount. Source lib.sh before it, and set
# TWINSHARE_BIN and `room`, a folder of the script's own.

twinshare=$TWINSHARE_BIN/twinshare
lab=$room/m/o/lab

at_owner() { TWINSHARE_HOME=$room/owner "$twinshare" "$@"; }
at_guest() { TWINSHARE_HOME=$room/guest "$twinshare" "$@"; }

# Starts both and shares a folder as `lab`; then `$lab` is its place in the guest's mount. Further options are the guest's.
start_pair() {
  local folder=$1 port
  shift
  port=$(free_port)
  at_owner up --name o --port "$port" >/dev/null
  at_owner share "$folder" --name lab --access public --wait >/dev/null
  start_guest --peer "127.0.0.1:$port" "$@"
}

start_guest() {
  at_guest up --name guest --port "$(free_port)" --mount "$room/m" "$@" >/dev/null
  wait_for_path "$lab/workspace.yaml"
}

# Until it's there.
wait_for_path() {
  for _ in $(seq 100); do
    [ -e "$1" ] && return
    sleep 0.1
  done
  die "$1 doesn't appear in the guest's mount"
}

# Stops both and removes the room.
stop_pair() {
  cd /
  at_guest down >/dev/null 2>&1 || true
  at_owner down >/dev/null 2>&1 || true
  rm -rf "$room"
}

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'; }
