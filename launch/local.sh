#!/usr/bin/env bash
# Runs loco_jax.main in N processes on this machine's CPU, which compute together: a test of a run on many machines.
#
#   launch/local.sh [--dry-run] N [-- arguments of loco_jax.main]
#
# SIGTERM and Ctrl-C are passed on: all processes save a checkpoint and stop. When one fails, the others are ended. The
# exit status is 0 if all is done, 75 if stopped after a checkpoint, and else that of the first process that failed.
# --dry-run prints the commands.
#
# Environment: PYTHON, the interpreter (python); PORT of the first process (any free one); DEVICES, the number of
# devices that each process simulates (1); GRACE, the seconds that processes have to end after a failure (10).
set -euo pipefail

usage() { # the comment at the top
  awk 'NR > 1 { if (/^#SBATCH|^# shellcheck/) next; if (!sub(/^# ?/, "")) exit; print }' "$0"
  exit "$1"
}

dry=false
count=
while [ $# -gt 0 ]; do
  case "$1" in
    --dry-run) dry=true ;;
    -h | --help) usage 0 ;;
    --) shift && break ;;
    *) count=$1 ;;
  esac
  shift
done
if ! [[ $count =~ ^[1-9][0-9]*$ ]]; then
  echo "launch/local.sh: N, the number of processes, is missing or wrong: ${count:-nothing}" >&2
  usage 2 >&2
fi

python=${PYTHON:-python}
export JAX_PLATFORMS=cpu
export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=${DEVICES:-1}"
port=${PORT:-}
if $dry; then
  port=${PORT:-PORT}
elif [ -z "$port" ]; then
  port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
fi

processes=()
# shellcheck disable=SC2317  # called by the traps too
end() {
  local process
  for process in "${processes[@]}"; do kill "-$1" "$process" 2>/dev/null || true; done
}
trap 'end TERM' TERM
trap 'end INT' INT

# Each process has its own process group. Otherwise a terminal's Ctrl-C would reach them twice.
set -m
for ((id = 0; id < count; id++)); do
  command=("$python" -m loco_jax.main "--coordinator=127.0.0.1:$port" "--num_processes=$count" "--process_id=$id" "$@")
  if $dry; then
    printf 'JAX_PLATFORMS=%s XLA_FLAGS=%q' "$JAX_PLATFORMS" "$XLA_FLAGS"
    printf ' %q' "${command[@]}"
    echo ' &'
    continue
  fi
  "${command[@]}" </dev/null &
  processes+=($!)
done

set +m

code=0 # status of the first process that failed
stopped=0
deadline=
while [ "${#processes[@]}" -gt 0 ]; do
  left=()
  for process in "${processes[@]}"; do
    if kill -0 "$process" 2>/dev/null; then
      left+=("$process")
      continue
    fi
    status=0
    wait "$process" || status=$?
    if [ "$status" -eq 75 ]; then
      stopped=75 # the others stop too
    elif [ "$code" -eq 0 ]; then
      code=$status
    fi
  done
  processes=(${left[@]+"${left[@]}"})
  if [ "$code" -ne 0 ] && [ "${#processes[@]}" -gt 0 ]; then
    if [ -z "$deadline" ]; then
      echo "launch/local.sh: a process ended with status $code; the others are ended" >&2
      deadline=$((SECONDS + ${GRACE:-10})) # they may wait for the one that failed
      end TERM
    elif [ "$SECONDS" -ge "$deadline" ]; then
      end KILL
    fi
  fi
  sleep 0.2 || true
done
exit "$((code ? code : stopped))"
