#!/usr/bin/env bash
# Installs the CUDA compiler and the tools that look into its output from PyPI under target/cuda-toolchain, where
# kernels/build.rs and kernels/gates.py find them. No GPU and no driver is needed. About 110 MB are fetched.
set -euo pipefail
cd "$(dirname "$0")/.."

dir=target/cuda-toolchain
bin=$dir/nvidia/cu13/bin
if [ ! -x "$bin/nvcc" ] || [ ! -x "$bin/cuobjdump" ] || [ ! -x "$bin/nvdisasm" ]; then
  python3 -m venv "$dir/venv"
  pip=("$dir/venv/bin/pip" install --quiet --disable-pip-version-check --upgrade --target "$dir" --no-deps)
  "${pip[@]}" nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 \
    nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85 nvidia-cuda-cuobjdump==13.2.86 \
    nvidia-cuda-nvdisasm==13.2.86
fi
"$bin/nvcc" --version | tail -n 2
