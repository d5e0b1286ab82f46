#!/usr/bin/env bash
# shellcheck disable=SC2016  # ${...} in single quotes are for the manifest
# Finds people with loco_jax.predict on Kubernetes: an indexed Job, launch/predict_job.yaml, in which each index is a
# shard of the inputs. That file says what happens at preemption and after failures.
#
#   IMAGE=IMAGE CLAIM=CLAIM SHARDS=8 [GPUS=1] [NAME=loco-predict] launch/predict_job.sh [--dry-run] \
#     arguments of loco_jax.predict
#
# IMAGE must have a python with loco_jax. CLAIM is a PersistentVolumeClaim that all pods can write to (ReadWriteMany).
# It is /data in the pods, and has the inputs and --output=/data/... --dry-run prints the manifest. This makes one table
# of what is done so far, where the volume is mounted:
#   python -m loco_jax.predict.merge /data/...
# This stops it, and frees its name; the same command then goes on with the inputs that are not done:
#   kubectl delete job NAME
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
: "${IMAGE:?launch/predict_job.sh: IMAGE= with loco_jax installed is missing}"
: "${CLAIM:?launch/predict_job.sh: CLAIM= with the inputs is missing}"
: "${SHARDS:?launch/predict_job.sh: SHARDS= is missing}"
GPUS=${GPUS:-1} NAME=${NAME:-loco-predict}
case " $* " in
  *" --output=/data/"*) ;;
  *)
    echo "launch/predict_job.sh: want --output=/data/..., in the volume: a pod's own files disappear with it" >&2
    exit 2
    ;;
esac

render() {
  local line indent argument name
  while IFS= read -r line; do
    if [[ $line == *'${ARGUMENTS}' ]]; then
      indent=${line%%\$*}
      for argument in "$@"; do # as single-quoted YAML strings; $$( keeps Kubernetes from replacing $(NAME)
        argument=${argument//'$('/'$$('}
        printf "%s- '%s'\n" "$indent" "${argument//\'/\'\'}"
      done
      continue
    fi
    for name in NAME IMAGE CLAIM SHARDS GPUS; do line=${line//"\${$name}"/"${!name}"}; done
    printf '%s\n' "$line"
  done <"$(dirname "$0")/predict_job.yaml"
}

if $dry; then
  render "$@"
else
  render "$@" | kubectl apply -f -
fi
