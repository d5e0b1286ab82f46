#!/usr/bin/env bash
# Measures training steps on this GPU, with the options of docs/performance.md off and on, in at most 9 minutes.
#
#   launch/gpu_check.sh [NAME ...] [--scale=full|demo] [--batch=N] [--repeats=N] [--json=FILE]
#
# Prints a line of a Markdown table for each program as soon as it is measured, so that a run out of time leaves the
# lines before. --scale=demo --repeats=2 tries it out on a CPU. Ends with 0 if all was measured, 124 if the time was
# over, else 1. PYTHON names the interpreter, SECONDS_LEFT the time limit (540).
set -euo pipefail

usage() { # the comment at the top
  awk 'NR > 1 { if (/^#SBATCH|^# shellcheck/) next; if (!sub(/^# ?/, "")) exit; print }' "$0"
  exit "$1"
}

for argument; do
  case "$argument" in -h | --help) usage 0 ;; esac
done
exec timeout --foreground --kill-after=10 "${SECONDS_LEFT:-540}" "${PYTHON:-python}" -m loco_jax.benchmark --steps "$@"
