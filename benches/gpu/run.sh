#!/usr/bin/env bash
# Proves and measures this build on the GPU of this machine: the tests of every op and of the families on the device,
# the conformance of the PTX wrappers, then the performance sheet. Needs what build.sh made, an NVIDIA driver, and Python
# with PyTorch for the sheet's other half; no Rust and no network. About 8 minutes.
#
#     benches/gpu/run.sh [OUT]        default: benches/results/<date>-<GPU>
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
suite=${MOSU_GPU_SUITE:-$root/target/gpu-suite}
python=${PYTHON:-python3}

[ -x "$suite/mosu" ] || { echo "run.sh: $suite/mosu is missing; make it with benches/gpu/build.sh" >&2; exit 2; }
gpu=$(nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,memory.total --format=csv,noheader | head -1)
[ -n "$gpu" ] || { echo "run.sh: nvidia-smi finds no GPU" >&2; exit 4; }
name=$(echo "${gpu%%,*}" | tr 'A-Z ' 'a-z-')
out=${1:-$root/benches/results/$(date +%F)-$name}
mkdir -p "$out"
printf '%s\n' "$gpu" >"$out/machine.txt"
"$suite/mosu" doctor >>"$out/machine.txt" 2>&1

step() { printf '\n== %s (%s s)\n' "$*" "$SECONDS"; }

step "tests on the device"
failed=0
for test in "$suite"/tests/*; do
  log=$out/$(basename "$test").log
  # One test of the host side breaks the simulated device on purpose.
  if MOSU_TEST_CUDA=real CARGO_MANIFEST_DIR="$root/models" timeout 240 "$test" --test-threads 1 \
    --skip a_kernel_that_fails >"$log" 2>&1; then
    grep "^test result" "$log" | sed "s|^|$(basename "$test"): |"
  else
    failed=$((failed + 1))
    echo "$(basename "$test") FAILED:"
    grep -E "panicked|FAILED|error" "$log" | head -20
  fi
done

step "conformance of the PTX wrappers"
if ! "$here/conformance.sh" "$out/goldens" >"$out/conformance.log"; then
  failed=$((failed + 1))
  grep -E "word [0-9]+:|CUDA_ERROR|panicked|other inputs" "$out/conformance.log" | head -20
fi
grep "is not for this GPU" "$out/conformance.log"
echo "$(find "$out/goldens" -name '*.bin' | wc -l) wrappers recorded in $out/goldens"

for pass in 1 2; do
  step "PyTorch, pass $pass"
  sections=(ceilings linear prefill_attention decode_attention experts decode)
  [ "$pass" = 1 ] && sections+=(transformers)
  timeout 170 "$python" "$here/reference.py" "$here/cases.json" --sections "${sections[@]}" \
    >"$out/reference.$pass.jsonl" 2>"$out/reference.$pass.log" || tail -3 "$out/reference.$pass.log"
  step "mosu, pass $pass"
  timeout 100 "$suite/gpu_sheet" "$here/cases.json" >"$out/mosu.$pass.jsonl" 2>"$out/mosu.$pass.log" ||
    tail -3 "$out/mosu.$pass.log"
  timeout 100 "$python" "$here/decode.py" "$here/cases.json" "$suite/mosu" >>"$out/mosu.$pass.jsonl"
done

step "the sheet"
"$python" "$here/table.py" "$out"
echo "test binaries that failed: $failed; everything is in $out"
exit "$failed"
