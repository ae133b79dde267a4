#!/usr/bin/env bash
# Builds target/gpu-suite, a folder that proves and measures this version on a GPU: run.sh and all that it
# runs. It can be carried to a machine that has neither Rust nor nvcc. Here both are needed;
# kernels/cuda-toolchain.sh installs nvcc.
set -euo pipefail
cd "$(dirname "$0")/../.."
suite=target/gpu-suite
rm -rf "$suite"
mkdir -p "$suite"/{tests,fatbins,models/tests,engine/tests}

# install TO ARGUMENTS...: copies the executable that cargo makes of the arguments, a test binary included.
install() {
  local to=$suite/$1 made
  shift
  made=$(cargo "$@" --release --locked --message-format json | python3 -c '
import json, sys
made = [json.loads(line).get("executable") for line in sys.stdin]
print(*filter(None, made))')
  cp "$made" "$to"
  strip "$to"
}

install mosu build --features cuda --bin mosu
install gpu_sheet build -p mosu-benches --features cuda --example gpu_sheet
install tests/kernels test -p mosu-kernels --features cuda --lib --no-run
install tests/models test -p mosu-models --features cuda --test cuda --no-run
install tests/steps test -p mosu-models --features cuda --test cuda_steps --no-run
install tests/engine test -p mosu --features cuda --test exactness --no-run
install conformance test -p cusim --test conformance --no-run

nvcc=${NVCC:-$(command -v nvcc || echo target/cuda-toolchain/nvidia/cu13/bin/nvcc)}
for code in 80:sm_80,compute_80 90:sm_90,compute_90 90a:sm_90a; do
  name=sm${code%%:*}
  PATH=$(dirname "$nvcc"):$PATH "$nvcc" -fatbin -O3 -std=c++17 -diag-suppress 1556 \
    "-gencode=arch=compute_${code%%:*},code=[${code#*:}]" "kernels/cusim/conformance/$name.cu" \
    -o "$suite/fatbins/$name.fatbin"
done

cp benches/gpu/{*.py,cases.json,conformance.sh,run.sh} "$suite"
cp -r models/tests/fixtures "$suite/models/tests"
cp -r engine/tests/small "$suite/engine/tests"
[ ! -d kernels/cusim/conformance/goldens ] || cp -r kernels/cusim/conformance/goldens "$suite"
git describe --always --dirty --tags >"$suite/version.txt" 2>/dev/null || echo unknown >"$suite/version.txt"
du -sh "$suite"
