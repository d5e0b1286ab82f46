#!/usr/bin/env bash
# Runs loco_jax.main on every worker of a Cloud TPU pod. The workers find each other.
#
#   TPU=NAME ZONE=ZONE [PROJECT=PROJECT] launch/tpu_pod.sh [--dry-run] arguments of loco_jax.main
#
# Copies the last commit of this checkout, installs it with JAX for TPUs and its own Python (that of the machines is too
# old), trains, and shows the output. --workdir and --config.data.dir must be in a bucket, gs://BUCKET/... Ctrl-C ends
# only the connection; the run goes on, and writes to loco_jax/run.log on each worker. This stops it with a checkpoint:
#   gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=all --command='kill $(cat loco_jax/run.pid)'
# A preempted pod is lost, perhaps before it has saved, and nothing restarts it. The same command on a new pod goes on
# from the last checkpoint. --dry-run prints the commands.
set -euo pipefail

usage() { # the comment at the top
  awk 'NR > 1 { if (/^#SBATCH|^# shellcheck/) next; if (!sub(/^# ?/, "")) exit; print }' "$0"
  exit "$1"
}

case "${1:-}" in -h | --help) usage 0 ;; esac

cd "$(dirname "$0")/.."
dry=false
if [ "${1:-}" = --dry-run ]; then
  dry=true
  shift
fi
: "${TPU:?launch/tpu_pod.sh: TPU=NAME of the pod is missing}" "${ZONE:?launch/tpu_pod.sh: ZONE= of the pod is missing}"
case " $* " in
  *" --workdir=gs://"*) ;;
  *) echo "launch/tpu_pod.sh: want --workdir=gs://BUCKET/..., which remains when the pod is lost" >&2 && exit 2 ;;
esac
place=(--zone="$ZONE" --worker=all)
if [ -n "${PROJECT:-}" ]; then place+=(--project="$PROJECT"); fi

run() {
  if $dry; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

printf -v arguments ' %q' "$@"
archive=loco_jax.tar.gz
here=${TMPDIR:-/tmp}/$archive
run git archive --format=tar.gz --output="$here" HEAD
run gcloud compute tpus tpu-vm scp "$here" "$TPU:$archive" "${place[@]}"
run gcloud compute tpus tpu-vm ssh "$TPU" "${place[@]}" --command="set -e
mkdir -p loco_jax; tar -xzf $archive -C loco_jax; cd loco_jax
if [ ! -x ~/.local/bin/uv ]; then curl -LsSf https://astral.sh/uv/install.sh | sh; fi
~/.local/bin/uv venv -q --python=3.12 --allow-existing .venv
~/.local/bin/uv pip install -q -r requirements.txt -e . 'jax[tpu]' gcsfs
: >run.log # it must exist before tail starts
nohup .venv/bin/python -u -m loco_jax.main --coordinator=auto$arguments </dev/null >run.log 2>&1 &
echo \$! >run.pid
tail -n +1 -f --pid=\$! run.log
wait \$!"
