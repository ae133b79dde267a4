#!/usr/bin/env bash
# Builds what run.sh runs, into target/gpu-suite: the binary with CUDA kernels, the sheet, the device's tests and the
# conformance kernels, each self-contained. Needs Rust and nvcc (kernels/cuda-toolchain.sh installs one); the machine
# with the GPU needs neither.
set -euo pipefail
cd "$(dirname "$0")/../.."
suite=target/gpu-suite
mkdir -p "$suite/tests" "$suite/fatbins"
rm -f "$suite"/tests/*

# Prints the path of every executable that cargo built, test binaries included.
executables() {
  python3 -c '
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable"):
        print(message["target"]["name"], message["executable"])'
}

cargo build --release --locked --features cuda --bin mosu --message-format json | executables |
  while read -r _ path; do cp "$path" "$suite/mosu"; done
cargo build --release --locked -p mosu-benches --features cuda --example gpu_sheet --message-format json |
  executables | while read -r _ path; do cp "$path" "$suite/gpu_sheet"; done
cargo test --release --locked -p mosu-kernels --features cuda --lib --no-run --message-format json | executables |
  while read -r name path; do cp "$path" "$suite/tests/$name"; done
cargo test --release --locked -p mosu-models --features cuda --test cuda --no-run --message-format json | executables |
  while read -r name path; do cp "$path" "$suite/tests/models-$name"; done

cargo test --release --locked -p cusim --test conformance --no-run --message-format json | executables |
  while read -r _ path; do cp "$path" "$suite/conformance"; done
nvcc=${NVCC:-$(command -v nvcc || echo target/cuda-toolchain/nvidia/cu13/bin/nvcc)}
for code in 80:sm_80,compute_80 90:sm_90,compute_90 90a:sm_90a; do
  name=sm${code%%:*}
  PATH=$(dirname "$nvcc"):$PATH "$nvcc" -fatbin -O3 -std=c++17 -diag-suppress 1556 \
    "-gencode=arch=compute_${code%%:*},code=[${code#*:}]" "kernels/cusim/conformance/$name.cu" \
    -o "$suite/fatbins/$name.fatbin"
done
strip "$suite"/mosu "$suite"/gpu_sheet "$suite"/conformance "$suite"/tests/* 2>/dev/null || true
du -sh "$suite"
