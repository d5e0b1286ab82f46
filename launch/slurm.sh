#!/usr/bin/env bash
#SBATCH --job-name=loco_jax
#SBATCH --nodes=2
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@180
# One process a GPU on nodes of SLURM, which find each other by themselves.
#
#   sbatch [--nodes=2 --gpus-per-node=8 --ntasks-per-node=8 ...] launch/slurm.sh [--dry-run] arguments of loco_jax.main
#
# Three minutes before the time limit, and when SLURM preempts it, the run saves a checkpoint and stops. Then the job is
# put back into the queue, and goes on from there. --dry-run prints what would be started. PYTHON names the interpreter.
set -euo pipefail

dry=false
if [ "${1:-}" = --dry-run ]; then
  dry=true
  shift
fi
# GPUs are not bound to tasks: JAX takes the one of each task's number.
command=(srun --kill-on-bad-exit=1 --gpu-bind=none "${PYTHON:-python}" -m loco_jax.main "$@")
if $dry; then
  grep '^#SBATCH' "$0"
  printf '%q ' "${command[@]}"
  echo
  exit
fi

stopped=
# shellcheck disable=SC2317  # called by the trap
stop() {
  stopped=yes
  scancel --signal=TERM "$SLURM_JOB_ID" # the tasks, not this script
}
trap stop USR1 TERM

"${command[@]}" &
step=$!
code=0
wait "$step" || code=$?
while kill -0 "$step" 2>/dev/null; do # a signal ended the wait, not the step
  code=0
  wait "$step" || code=$?
done
if [ -n "$stopped" ] && [ "$code" -eq 0 ]; then
  echo "launch/slurm.sh: saved; back into the queue"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
