#!/usr/bin/env bash
#SBATCH --job-name=loco_predict
#SBATCH --array=0-7
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-node=1
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
# Finds people with loco_jax.predict on SLURM: each task of an array is a shard of the inputs. Submit it from the
# checkout.
#
#   sbatch [--array=0-7 ...] launch/predict_slurm.sh [--dry-run] arguments of loco_jax.predict
#
# The tasks need the same inputs, and the same --output on a disk that they share. Two minutes before the time limit a
# task stops and goes back into the queue, to go on with the inputs that are not done. What a video has so far is
# written if that takes less than a minute. The task goes back ten times at most, because a video that takes longer than
# the limit is never done. SLURM requeues preempted tasks itself. This repeats two of eight tasks, with the same
# results:
#   SHARDS=8 sbatch --array=3,5 launch/predict_slurm.sh ...
# This makes one table of what is done so far:
#   python -m loco_jax.predict.merge FOLDER
# The exit status is that of predict: 0 if all is done, 1 if an input failed, 130 if it was stopped. --dry-run prints
# what would be started.
#
# Environment: PYTHON, the interpreter (python); SHARDS, the number of all shards (that of the array's tasks); PATIENCE,
# seconds after which a task that does not stop is killed (60).
set -euo pipefail

usage() { # the comment at the top
  awk 'NR > 1 { if (/^#SBATCH|^# shellcheck/) next; if (!sub(/^# ?/, "")) exit; print }' "$0"
  exit "$1"
}

case "${1:-}" in -h | --help) usage 0 ;; esac

dry=false
if [ "${1:-}" = --dry-run ]; then
  dry=true
  shift
fi
shards=${SHARDS:-${SLURM_ARRAY_TASK_COUNT:-}}
if [ -z "${SLURM_ARRAY_TASK_ID:-}" ] || [ -z "$shards" ]; then
  if ! $dry; then
    echo "launch/predict_slurm.sh: this is not an array task; submit it with sbatch --array=0-7 for eight shards" >&2
    exit 2
  fi
fi
if [ -z "${SHARDS:-}" ] && [ -n "$shards" ] &&
  [ "${SLURM_ARRAY_TASK_MIN:-0}:${SLURM_ARRAY_TASK_MAX:-$((shards - 1))}" != "0:$((shards - 1))" ]; then
  echo "launch/predict_slurm.sh: want --array=0-$((shards - 1)) for $shards shards, or SHARDS=, the total number" >&2
  exit 2
fi
command=("${PYTHON:-python}" -m loco_jax.predict "--shard=${SLURM_ARRAY_TASK_ID:-0}/${shards:-8}" --resume --quiet "$@")
if $dry; then
  grep '^#SBATCH' "$0"
  printf '%q ' "${command[@]}"
  echo
  exit
fi

late=    # the time limit is near
killer=  # a process that kills predict if it takes too long to stop, as after hours of a video
stopped= # a signal ended the wait, not predict
# shellcheck disable=SC2317,SC2329  # called by the traps
stop() {
  stopped=yes
  kill -TERM "$predict" 2>/dev/null || true
}
# shellcheck disable=SC2317,SC2329
hurry() {
  late=yes
  stop
  # Its output is closed, since it may outlast this script.
  [ -n "$killer" ] || { (
    sleep "${PATIENCE:-60}" &
    trap 'kill $!' TERM
    wait $! && kill -KILL "$predict"
  ) >/dev/null 2>&1 & killer=$!; }
}
"${command[@]}" &
predict=$!
trap hurry USR1
trap stop TERM
while
  stopped=
  code=0
  wait "$predict" || code=$?
  [ -n "$stopped" ]
do :; done

[ -z "$killer" ] || kill "$killer" 2>/dev/null || true
# 137: it was killed. 143: it was stopped while it started.
if [[ $code == 130 || $code == 137 || $code == 143 ]] && [ -n "$late" ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 10 ]; then
  trap '' USR1 TERM # SLURM ends this script when it requeues the task
  echo "launch/predict_slurm.sh: the time is over; the task goes back into the queue"
  scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID" ||
    echo "launch/predict_slurm.sh: not requeued; the same sbatch goes on from there" >&2
fi
exit "$code"
