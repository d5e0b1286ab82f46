#!/usr/bin/env bash
# shellcheck disable=SC2016  # ${...} in single quotes are for the manifest
# Starts loco_jax.main on Kubernetes, one process a node, with launch/jobset.yaml. That file says what happens at
# preemption and after failures.
#
#   IMAGE=IMAGE NODES=2 GPUS=8 [NAME=loco-jax] launch/jobset.sh [--dry-run] arguments of loco_jax.main
#
# IMAGE must start in a checkout. Its python must have loco_jax, and gcsfs or s3fs for buckets. --workdir is required.
# It must be in a bucket or in a volume that you mount in launch/jobset.yaml, because a pod's own files disappear with
# it. --dry-run prints the manifest. This stops a run with a checkpoint, and frees its name:
#   kubectl delete jobset NAME
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
: "${IMAGE:?launch/jobset.sh: IMAGE= with loco_jax installed is missing}"
: "${NODES:?launch/jobset.sh: NODES= is missing}" "${GPUS:?launch/jobset.sh: GPUS= of a node is missing}"
name=${NAME:-loco-jax}
case " $* " in
  *" --workdir=gs://"* | *" --workdir=s3://"* | *" --workdir=/"*) ;;
  *)
    echo "launch/jobset.sh: want --workdir=gs://BUCKET/... or s3://BUCKET/..., or /PATH of a volume that" \
      "launch/jobset.yaml mounts in all pods: a pod's own files disappear with it" >&2
    exit 2
    ;;
esac

render() {
  local line indent argument
  while IFS= read -r line; do
    if [[ $line == *'${ARGUMENTS}' ]]; then
      indent=${line%%\$*}
      for argument in "$@"; do # as single-quoted YAML strings; $$( keeps Kubernetes from replacing $(NAME)
        argument=${argument//'$('/'$$('}
        printf "%s- '%s'\n" "$indent" "${argument//\'/\'\'}"
      done
      continue
    fi
    line=${line//'${NAME}'/$name}
    line=${line//'${NODES}'/$NODES}
    line=${line//'${IMAGE}'/$IMAGE}
    printf '%s\n' "${line//'${GPUS}'/$GPUS}"
  done <"$(dirname "$0")/jobset.yaml"
}

if $dry; then
  render "$@"
else
  render "$@" | kubectl apply -f -
fi
