#!/usr/bin/env bash
# Trains PatchVHA(2) and the compact LoCO(2) on one device in a given time; exports and scores them.
#
#   launch/one_gpu.sh --minutes=N [--scale=full|demo] [--workdir=FOLDER] [--dry-run] [--config.FIELD=VALUE ...]
#
# Up to five of the N minutes are for compiling, exporting and scoring. Of the rest the autoencoder and the Code
# Predictor's trunk train a quarter each, the Code Predictor a half: these are their config.budget_minutes. The same
# command goes on after a stop; another N needs another folder. Further --config flags are for the LoCO. FOLDER
# (runs/one_gpu_SCALE) then has vha2/, trunk/, loco2/, loco2.safetensors and table.md. The LoCO's scores are those of
# that file, which includes the settings that suit its network. --dry-run prints the commands.
#
# The exit status is 75 if a signal stopped training (everything is saved), and else that of the command that failed.
#
# Environment: PYTHON, the interpreter (python); DTYPE of the arithmetic, including Muon's (bfloat16 with an NVIDIA
# driver, else float32).
set -euo pipefail

usage() { # the comment at the top
  awk 'NR > 1 { if (/^#SBATCH|^# shellcheck/) next; if (!sub(/^# ?/, "")) exit; print }' "$0"
  exit "$1"
}

minutes='' scale=full workdir='' dry=false further=()
for argument; do
  case "$argument" in
    --minutes=*) minutes=${argument#*=} ;;
    --scale=full | --scale=demo) scale=${argument#*=} ;;
    --workdir=*) workdir=${argument#*=} ;;
    --dry-run) dry=true ;;
    -h | --help) usage 0 ;;
    --config.*=*) further+=("$argument") ;;
    *) echo "launch/one_gpu.sh: unknown argument: $argument" >&2 && usage 2 >&2 ;;
  esac
done
if ! [[ $minutes =~ ^[0-9]+(\.[0-9]+)?$ && $minutes =~ [1-9] ]]; then
  echo "launch/one_gpu.sh: --minutes=N, the total time, is missing or wrong: ${minutes:-nothing}" >&2
  usage 2 >&2
fi
workdir=${workdir:-runs/one_gpu_$scale}

calculate() { awk -v n="$minutes" "BEGIN { print $1 }"; }
kept=$(calculate '(n < 10) ? n / 2 : 5') # minutes for everything except training
dtype=${DTYPE:-$(nvidia-smi >/dev/null 2>&1 && echo bfloat16 || echo float32)}
main=("${PYTHON:-python}" -m loco_jax.main)
common=("--config.model.dtype=$dtype" "--config.optimizer.orthogonalise_dtype=$dtype" --config.steps=1000000000
  --config.eval_every=0 --config.eval_frames=16)
[ "$scale" = demo ] || common+=(--config.test_frames=128)
[ -t 2 ] || common+=(--config.quiet=true)
vha=("--config=configs/vha2.py:variant=patch,scale=$scale" "--workdir=$workdir/vha2" "${common[@]}"
  "--config.budget_minutes=$(calculate "(n - $kept) / 4")")
trunk=("--config=configs/trunk.py:scale=$scale" "--workdir=$workdir/trunk" "${common[@]}"
  "--config.budget_minutes=$(calculate "(n - $kept) / 4")")
loco=("--config=configs/loco2.py:variant=patch,trunk=compact,scale=$scale" "--workdir=$workdir/loco2" "${common[@]}"
  "--config.budget_minutes=$(calculate "(n - $kept) / 2")" "--config.vha=$workdir/vha2"
  "--config.predictor.trunk_weights=$workdir/trunk"
  ${further[@]+"${further[@]}"})

child=
# shellcheck disable=SC2317  # called by the traps
pass_on() {
  if [ -n "$child" ]; then kill "-$1" "$child" 2>/dev/null || true; else exit 1; fi
}
trap 'pass_on TERM' TERM
trap 'pass_on INT' INT

# Runs a command in its own process group, passes signals on to it, and exits with its status if it fails.
run() {
  if $dry; then
    printf '%q ' "$@"
    echo
    return
  fi
  set -m
  "$@" </dev/null &
  child=$!
  set +m
  local status
  while
    status=0
    wait "$child" || status=$?
    kill -0 "$child" 2>/dev/null # a signal ended the wait, but not the command
  do :; done
  child=
  if [ "$status" -ne 0 ]; then
    echo "launch/one_gpu.sh: ended with status $status; the same command goes on from what is saved" >&2
    exit "$status"
  fi
}

$dry || echo "launch/one_gpu.sh: $minutes minutes, $kept of them for compiling, exporting and scoring"
export PYTHONUNBUFFERED=1
run "${main[@]}" "${vha[@]}"
run "${main[@]}" "${vha[@]}" --mode=eval
run "${main[@]}" "${trunk[@]}"
# If the first steps took too long, the LoCO stops early, so that there is time to export and score it.
left=$(calculate "n - $kept / 3 - $SECONDS / 60")
run "${main[@]}" "${loco[@]}" "--config.max_minutes=$(calculate "($left > 0.1) ? $left : 0.1")"
run "${PYTHON:-python}" -m loco_jax.export "--workdir=$workdir/loco2" "--output=$workdir/loco2.safetensors" --tune=64
run "${main[@]}" "${loco[@]}" --mode=eval "--weights=$workdir/loco2.safetensors"
if ! $dry; then
  for name in vha2 loco2; do
    cat "$workdir/$name/eval/table.md"
    echo
  done >"$workdir/table.md"
  echo "Tables: $workdir/table.md. Weights: $workdir/loco2.safetensors."
  echo "This start took $((SECONDS / 60)) min $((SECONDS % 60)) s."
fi
