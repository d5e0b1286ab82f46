#!/usr/bin/env bash
# Measures the options of docs/performance.md on this machine's GPU, each off and on, in at most 9 minutes.
#
#   launch/gpu_check.sh [OPTION ...] [--scale=full|demo] [--batch=N] [--iterations=N] [--output=FILE]
#
# Prints a Markdown table, and writes it to FILE too, line by line: what was measured stays there if the time is over.
# --scale=demo --iterations=2 tries it out on a CPU. Ends with 0 if all was measured, 124 if the time was over, else 1.
# PYTHON names the interpreter, SECONDS_LEFT the time limit (540).
set -euo pipefail

usage() { # the comment at the top
  awk 'NR > 1 { if (/^#SBATCH|^# shellcheck/) next; if (!sub(/^# ?/, "")) exit; print }' "$0"
  exit "$1"
}

for argument; do
  case "$argument" in -h | --help) usage 0 ;; esac
done
exec timeout --foreground --kill-after=10 "${SECONDS_LEFT:-540}" "${PYTHON:-python}" -m loco_jax.benchmark.options "$@"
