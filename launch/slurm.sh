#!/usr/bin/env bash
#SBATCH --job-name=loco_jax
#SBATCH --nodes=2
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@180
# Runs loco_jax.main on SLURM, one process a GPU. The processes find each other. Submit it from the checkout.
#
#   sbatch [--nodes=2 --gpus-per-node=8 --ntasks-per-node=8 ...] launch/slurm.sh [--dry-run] arguments of loco_jax.main
#
# Three minutes before the time limit the run saves a checkpoint and stops, and the job goes back into the queue, to go
# on from there. This stops it for good, with a checkpoint:
#   scancel --signal=TERM JOB
# Plain scancel may not leave enough time, because srun kills its tasks when it gets a signal itself. Preemption leaves
# time only if the partition or QOS grants a GraceTime; SLURM itself requeues the job then. The exit status is that of
# the job step: 0 if all is done, 75 if stopped after a checkpoint; after a failure nothing is requeued. --dry-run
# prints what would be started.
#
# The poster's tables: each task of an array does one row, and the same command without an array then writes the page.
#   MODULE=loco_jax.reproduce sbatch --array=0-15 --nodes=1 --gpus-per-node=1 --ntasks-per-node=1 launch/slurm.sh \
#     --scale=full
#
# Environment: PYTHON, the interpreter (python); MODULE, the command (loco_jax.main).
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
python=${PYTHON:-python} module=${MODULE:-loco_jax.main}
if [ "$module" = loco_jax.reproduce ] && [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
  row=$("$python" -m loco_jax.reproduce --list | sed -n "$((SLURM_ARRAY_TASK_ID + 1))p")
  if [ -z "$row" ]; then
    echo "launch/slurm.sh: there is no row with the number $SLURM_ARRAY_TASK_ID; count the lines of --list from 0" >&2
    exit 2
  fi
  set -- "--only=$row" "$@"
fi
# GPUs are not bound to tasks, because JAX takes the GPU with the number of each task. When a task ends, the others
# have time to save; when one fails, JAX ends them.
command=(srun --kill-on-bad-exit=0 --wait=300 --gpu-bind=none "$python" -m "$module" "$@")
if $dry; then
  grep '^#SBATCH' "$0"
  printf '%q ' "${command[@]}"
  echo
  exit
fi

# A task's id is ARRAY_TASK. One task has the array's number as its SLURM_JOB_ID, which would address all tasks.
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
job=${job:-$SLURM_JOB_ID}
why=         # why the tasks were stopped: time or cancelled
interrupted= # a signal ended the wait, not the step
# shellcheck disable=SC2317,SC2329  # called by the traps
stop() {
  why=$1 interrupted=yes
  scancel --signal=TERM "$job" || true # signals the tasks; not this script, nor srun, which would kill them
}
trap 'stop "${why:-time}"' USR1
trap 'stop cancelled' TERM

"${command[@]}" &
step=$!
while
  interrupted=
  code=0
  wait "$step" || code=$?
  [ -n "$interrupted" ]
do :; done

if [ "$code" -eq 75 ] && [ "$why" = time ]; then
  trap '' USR1 TERM # SLURM ends this script when it requeues the job
  echo "launch/slurm.sh: saved; the job goes back into the queue"
  scontrol requeue "$job" || echo "launch/slurm.sh: not requeued; the same sbatch goes on from there" >&2
elif [ "$code" -eq 75 ] && [ -z "$why" ] && [[ $(scontrol show job "$job") == *PreemptTime=[0-9]* ]]; then
  # Before preemption SLURM signals only the tasks. Some versions do not requeue a job that ends during the grace time.
  echo "launch/slurm.sh: saved; waiting for SLURM to requeue the job"
  sleep 600 &
  wait "$!" || true
  kill "$!" 2>/dev/null || true
fi
exit "$code"
