#!/usr/bin/env bash
# Runs the conformance kernel of every PTX wrapper on the GPU of this machine, compares what comes out with
# plain Rust and with the recordings in kernels/cusim/conformance/goldens, and records it into OUT. Needs what
# build.sh made.
#
#     conformance.sh OUT
set -euo pipefail
suite=$(cd "$(dirname "$0")" && pwd)
[ -x "$suite/conformance" ] || suite=$(cd "$suite/../.." && pwd)/target/gpu-suite
mkdir -p "$1"
MOSU_TEST_CUDA=real MOSU_TEST_FATBINS=$suite/fatbins MOSU_CONFORMANCE_RECORD=$1 \
  MOSU_CONFORMANCE_GOLDENS=$suite/goldens "$suite/conformance" --nocapture 2>&1
