#!/usr/bin/env bash
# Measures each option of docs/performance.md, off and on, on this machine's GPU, in at most 9 minutes.
#
#   launch/gpu_check.sh [OPTION ...] [--scale=full|demo] [--batch=N] [--iterations=N] [--output=FILE]
#
# Prints a Markdown table. Also writes it to FILE, line by line, so that results stay there if the time runs out.
# With --scale=demo --iterations=2 it runs on a CPU. The exit status is 0 if all was measured, 124 if the time ran out,
# and 1 after an error.
#
# Environment: PYTHON, the interpreter (python); SECONDS_LEFT, the time limit (540).
set -euo pipefail

usage() { # the comment at the top
  awk 'NR > 1 { if (/^#SBATCH|^# shellcheck/) next; if (!sub(/^# ?/, "")) exit; print }' "$0"
  exit "$1"
}

for argument; do
  case "$argument" in -h | --help) usage 0 ;; esac
done
exec timeout --foreground --kill-after=10 "${SECONDS_LEFT:-540}" "${PYTHON:-python}" -m loco_jax.benchmark.options "$@"
