#!/usr/bin/env bash
#SBATCH --job-name=loco_jax
#SBATCH --nodes=2
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@180
# One process a GPU on nodes of SLURM, which find each other by themselves. Submit it in the checkout.
#
#   sbatch [--nodes=2 --gpus-per-node=8 --ntasks-per-node=8 ...] launch/slurm.sh [--dry-run] arguments of loco_jax.main
#
# Three minutes before the time limit the run saves a checkpoint and stops, and the job goes back into the queue, to go
# on from there. To stop it for good, with a checkpoint:
#   scancel --signal=TERM JOB
# Plain scancel may not leave the time: srun kills its tasks when it is signalled itself. Nor may preemption, unless
# the partition or QOS grants a GraceTime; SLURM itself puts the job back. Ends with the step's status: 0 if all is
# done, 75 if stopped after a checkpoint, else what failed, and nothing is put back. --dry-run prints what would be
# started. PYTHON names the interpreter.
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
# GPUs are not bound to tasks: JAX takes the one of each task's number. The first task that ends leaves the others
# time to save; when one fails, JAX ends them.
command=(srun --kill-on-bad-exit=0 --wait=300 --gpu-bind=none "${PYTHON:-python}" -m loco_jax.main "$@")
if $dry; then
  grep '^#SBATCH' "$0"
  printf '%q ' "${command[@]}"
  echo
  exit
fi

why=         # the tasks were stopped: time or cancelled
interrupted= # a signal ended the wait, not the step
# shellcheck disable=SC2317  # called by the traps
stop() {
  why=$1 interrupted=yes
  scancel --signal=TERM "$SLURM_JOB_ID" || true # the tasks, not this script; and not srun, which would kill them
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
  trap '' USR1 TERM # SLURM ends this script as it puts the job back
  echo "launch/slurm.sh: saved; back into the queue"
  scontrol requeue "$SLURM_JOB_ID" || echo "launch/slurm.sh: not taken back; the same sbatch goes on from there" >&2
elif [ "$code" -eq 75 ] && [ -z "$why" ] && [[ $(scontrol show job "$SLURM_JOB_ID") == *PreemptTime=[0-9]* ]]; then
  # In the grace time before preemption SLURM signals only the tasks. Not every version puts back what then ends.
  echo "launch/slurm.sh: saved; waits for SLURM to put the job back"
  sleep 600 &
  wait "$!" || true
  kill "$!" 2>/dev/null || true
fi
exit "$code"
