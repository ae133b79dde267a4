#!/usr/bin/env bash
# Proves and measures mosu on the GPU of this machine, in at most 8 minutes: PTX wrappers, ops, families and
# the engine's exactness on the device, then the performance sheet, PyTorch and mosu in turn. The last thing
# printed is a table.
#
#     run.sh [--smoke] [OUT]      results go to OUT; default: benches/results/<date>-<GPU>
#
# In a checkout with Rust it first builds the suite (build.sh). Carried along as target/gpu-suite it needs an
# NVIDIA driver, and Python with PyTorch for the sheet's other half; its results are in results/ beside it.
# --smoke measures everything once, tiny, on whatever device cuda:0 is, to test these scripts. A part that
# fails or takes too long leaves the others as they are.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
budget=480 # seconds
reserve=10 # of them for the table

smoke=()
[ "${1:-}" = --smoke ] && smoke=(--smoke) && shift
suite=$here results=$here/results
if [ ! -x "$here/mosu" ]; then
  root=$(cd "$here/../.." && pwd)
  suite=$root/target/gpu-suite results=$root/benches/results
  if command -v cargo >/dev/null; then "$here/build.sh" || exit 2; fi
  [ ${#smoke[@]} -eq 0 ] || results=$suite/results
  [ -x "$suite/mosu" ] || { echo "run.sh: benches/gpu/build.sh has not made $suite/mosu" >&2; exit 2; }
fi

SECONDS=0
doctor=$("$suite/mosu" doctor --device cuda:0 --json) || exit 4 # which has said why
gpu=$("$python" -c '
import json, re, sys
devices = {device["name"]: device for device in json.load(sys.stdin)["devices"]}
gpu = devices["cuda:0"]["gpu"]["model"]
print(re.sub("[^a-z0-9]+", "-", gpu.lower()).strip("-"))' <<<"$doctor") || exit 2
out=${1:-$results/$(date +%F)-$gpu}
mkdir -p "$out" && rm -f "$out"/*.{jsonl,log,txt} || exit 2
{
  date -u +"%F %T UTC, mosu $(cat "$suite/version.txt")"
  nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,clocks.max.mem,memory.total --format=csv
  echo "$doctor"
} >"$out/machine.txt" 2>&1

# part NAME SECONDS FILE COMMAND...: appends what the command prints to FILE, within the time or what is left.
failed=0
part() {
  local name=$1 limit=$2 file=$out/$3 log=$out/${1//[ ,]/-}.log started=$SECONDS how
  local left=$((budget - reserve - SECONDS))
  shift 3
  [ "$limit" -le "$left" ] || limit=$left
  if [ "$limit" -lt 5 ]; then
    how="left out: no time"
  elif timeout --kill-after 5 "$limit" "$@" >>"$file" 2>"$log"; then
    how=done
  else
    how=$?
    case $how in
      124 | 137) how="ended after its $limit s" ;;
      *) how="failed with $how: $(cat "$file" "$log" | grep -E "panicked|rror|FAILED|failed" | tail -1)" ;;
    esac
  fi
  [ "$how" = done ] || failed=$((failed + 1))
  [ -s "$log" ] || rm -f "$log"
  printf '%-30s %4d s  %s\n' "$name" $((SECONDS - started)) "$how" | cut -c1-160 | tee -a "$out/parts.txt"
}

# device_test NAME SECONDS PACKAGE [FILTER...]: a test program, where its files lie, which of its tests.
device_test() {
  local name=$1 limit=$2 package=$suite/$3
  shift 3
  part "test $name" "$limit" "test-$name.txt" env MOSU_TEST_CUDA=real CARGO_MANIFEST_DIR="$package" \
    "$suite/tests/$name" --test-threads 4 "$@"
}

part conformance 30 conformance.txt "$here/conformance.sh" "$out/goldens"
device_test kernels 90 kernels
device_test models 45 models
device_test steps 20 models
device_test engine 45 engine on_gpu greedy

sheet=("$suite/gpu_sheet" "$here/cases.json")
decode=("$python" "$here/decode.py" "$here/cases.json" "$suite/mosu" "${smoke[@]}")
pytorch=("$python" "$here/reference.py" "$here/cases.json" "${smoke[@]}")
[ ${#smoke[@]} -eq 0 ] || sheet+=(--smoke cuda:0)
ops=(linear prefill_attention decode_attention experts)
for pass in 1 2; do
  part "PyTorch, pass $pass" 90 "reference.$pass.jsonl" "${pytorch[@]}" --sections ceilings "${ops[@]}" decode
  for op in "${ops[@]}"; do
    part "mosu $op, pass $pass" 30 "mosu.$pass.jsonl" "${sheet[@]}" --sections "$op"
  done
  for model in llama-3.1-8b qwen3-0.6b qwen3-30b-a3b; do
    part "mosu $model, pass $pass" 60 "mosu.$pass.jsonl" "${decode[@]}" --model "$model"
  done
done
part "PyTorch transformers" 45 reference.2.jsonl "${pytorch[@]}" --sections transformers

echo
"$python" "$here/table.py" "$out"
echo "$failed parts failed; all results are in $out ($SECONDS s)"
exit $((failed > 0))
