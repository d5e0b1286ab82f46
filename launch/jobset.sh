#!/usr/bin/env bash
# shellcheck disable=SC2016  # ${...} in single quotes are for the manifest
# Starts launch/jobset.yaml: several processes of loco_jax.main on Kubernetes, one a node. What happens there at
# preemption and after failures stands in that file.
#
#   IMAGE=IMAGE NODES=2 GPUS=8 [NAME=loco-jax] launch/jobset.sh [--dry-run] arguments of loco_jax.main
#
# IMAGE starts in a checkout, has loco_jax installed in its python, and gcsfs or s3fs for buckets. --workdir is
# wanted, in a bucket or in a volume that you mount in launch/jobset.yaml: a pod's own files go with it. --dry-run
# prints the manifest. Stop a run, with a checkpoint, and make room for another of that name, with
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
      "launch/jobset.yaml mounts in all pods: a pod's own files go with it" >&2
    exit 2
    ;;
esac

render() {
  local line indent argument
  while IFS= read -r line; do
    if [[ $line == *'${ARGUMENTS}' ]]; then
      indent=${line%%\$*}
      for argument in "$@"; do # as YAML's single-quoted strings, in which Kubernetes would replace $(NAME)
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
