#!/usr/bin/env bash
# shellcheck disable=SC2016  # ${...} in single quotes are for the manifest
# Starts launch/jobset.yaml: several processes of loco_jax.main on Kubernetes, one a node.
#
#   IMAGE=IMAGE NODES=2 GPUS=8 [NAME=loco-jax] launch/jobset.sh [--dry-run] arguments of loco_jax.main
#
# --dry-run prints the manifest. IMAGE has python with loco_jax installed; --workdir must be a place that all nodes see.
set -euo pipefail

dry=false
if [ "${1:-}" = --dry-run ]; then
  dry=true
  shift
fi
: "${IMAGE:?launch/jobset.sh: IMAGE= with loco_jax installed is missing}"
: "${NODES:?launch/jobset.sh: NODES= is missing}" "${GPUS:?launch/jobset.sh: GPUS= of a node is missing}"
name=${NAME:-loco-jax}
if [ $# -eq 0 ]; then
  echo "launch/jobset.sh: want arguments of loco_jax.main, --config=... at least" >&2
  exit 2
fi

render() {
  local line indent argument
  while IFS= read -r line; do
    if [[ $line == *'${ARGUMENTS}' ]]; then
      indent=${line%%\$*}
      for argument in "$@"; do # as YAML's single-quoted strings
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
