#!/usr/bin/env bash
# The same command on every worker of a Cloud TPU pod, which find each other by themselves.
#
#   TPU=NAME ZONE=ZONE [PROJECT=PROJECT] launch/tpu_pod.sh [--dry-run] arguments of loco_jax.main
#
# Sends this checkout, installs it with JAX for TPUs, and trains. --workdir and --config.data.dir must be places that all
# workers see: gs://BUCKET/... --dry-run prints what would be done. Ctrl-C ends only the connection; stop a run with
#   gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=all --command='pkill -TERM -f loco_jax.main'
set -euo pipefail
cd "$(dirname "$0")/.."

dry=false
if [ "${1:-}" = --dry-run ]; then
  dry=true
  shift
fi
: "${TPU:?launch/tpu_pod.sh: TPU=NAME of the pod is missing}" "${ZONE:?launch/tpu_pod.sh: ZONE= of the pod is missing}"
case " $* " in
  *" --workdir=gs://"*) ;;
  *) echo "launch/tpu_pod.sh: want --workdir=gs://BUCKET/..., which all workers see" >&2 && exit 2 ;;
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
run git archive --format=tar.gz --output="/tmp/$archive" HEAD
run gcloud compute tpus tpu-vm scp "/tmp/$archive" "$TPU:$archive" "${place[@]}"
run gcloud compute tpus tpu-vm ssh "$TPU" "${place[@]}" --command="\
mkdir -p loco_jax && tar -xzf $archive -C loco_jax && cd loco_jax && \
python3 -m venv .venv && .venv/bin/pip install -q -e . 'jax[tpu]' gcsfs && \
.venv/bin/python -m loco_jax.main --coordinator=auto$arguments"
