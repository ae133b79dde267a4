#!/usr/bin/env python3
"""Looks into the fatbins that `--features cuda` embeds and refuses what a GPU would only show as slow or missing.

For every architecture: the functions are those of src/cuda/table.rs; none spills or keeps anything in local memory;
each stays within its registers and shared memory; those that are to use the tensor cores do. And every kernel has run
in the tests, whose simulated device logs the names of kernels where CUSIM_LAUNCH_LOG says.

    export CUSIM_LAUNCH_LOG="$PWD/target/launched" && rm -f "$CUSIM_LAUNCH_LOG" && cargo test --workspace
    kernels/cuda-toolchain.sh && python3 kernels/gates.py --launched "$CUSIM_LAUNCH_LOG"
"""

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
TOOLCHAIN = ROOT.parent / "target/cuda-toolchain/nvidia/cu13/bin"
ARCHITECTURES = [80, 89, 90, 100, 120]

# (pattern of a kernel's name, most registers of a thread, most bytes of static shared memory); the first one counts.
BUDGETS = [
    (r"^(linear|gated_linear|moe|paged_attention|latent_attention|limits_wgmma)_", 255, 48 << 10),
    (r"", 128, 48 << 10),
]
# (pattern of a kernel's name, instruction that its machine code must contain)
INSTRUCTIONS = [
    (r"^(gated_)?linear_wgmma_", r"(?s)^(?=.*UTMALDG).*HGMMA"),
    (r"^limits_wgmma_", r"HGMMA"),
    (r"^limits_mma_", r"HMMA"),
    (r"_simt_|^paged_attention_(plain|combine)_", r"FFMA"),
    (r"^(linear|gated_linear|moe_gate_up|moe_down)_.*bf16$", r"HMMA|HGMMA"),
    (r"^(paged_attention|latent_attention|absorb_w_uk|up_project_w_uv)_.*bf16$", r"HMMA|HGMMA"),
]


def table():
    """{file: (lowest architecture, only that one, [kernels])} of src/cuda/table.rs."""
    text = (ROOT / "src/cuda/table.rs").read_text()
    entry = r'name: "([^"]+)",\s*runs_on: RunsOn::(From|Only)\((\d+)\),\s*kernels: &\[([^\]]*)\]'
    files = {}
    for name, kind, version, kernels in re.findall(entry, text):
        files[name] = (int(version), kind == "Only", re.findall(r'"([^"]+)"', kernels))
    assert files and len(files) == text.count("runs_on: RunsOn::"), "table.rs does not look as expected"
    return files


def build():
    """The folder of the fatbins, made if need be."""
    command = ["cargo", "check", "--package", "mosu-kernels", "--features", "cuda", "--message-format", "json"]
    output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    messages = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    scripts = [m for m in messages if m["reason"] == "build-script-executed"]
    dirs = [m["out_dir"] for m in scripts if "mosu-kernels@" in m["package_id"]]
    return Path(dirs[-1])


def cuobjdump(option, fatbin):
    path = os.pathsep.join([str(TOOLCHAIN), os.environ.get("PATH", "")])
    command = ["cuobjdump", option, str(fatbin)]
    environment = {**os.environ, "PATH": path}
    return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


def resources(fatbin):
    """{architecture: {kernel: {REG, STACK, SHARED, LOCAL}}}"""
    found, arch, kernel = {}, None, None
    for line in cuobjdump("-res-usage", fatbin).splitlines():
        if match := re.match(r"arch = sm_(\d+)", line):
            arch = int(match[1])
        elif match := re.match(r"\s*Function (\w+):", line):
            kernel = match[1]
        elif kernel and "REG:" in line:
            usage = {key: int(value) for key, value in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", line)}
            found.setdefault(arch, {})[kernel] = usage
            kernel = None
    return found


def machine_code(fatbin):
    """{(architecture, kernel): its instructions as text}"""
    found, arch = {}, None
    parts = re.split(r"(code for sm_\d+\w*|Function : \w+)", cuobjdump("-sass", fatbin))
    for head, body in zip(parts[1::2], parts[2::2]):
        if match := re.match(r"code for sm_(\d+)", head):
            arch = int(match[1])
        else:
            found[arch, head.removeprefix("Function : ")] = body
    return found


def first(rules, kernel):
    return next((rule[1:] for rule in rules if re.search(rule[0], kernel)), None)


def faults_of(name, fatbin, lowest, only, kernels, verbose):
    usages, code = resources(fatbin), machine_code(fatbin)
    wanted = [a for a in ARCHITECTURES if (a == lowest if only else a >= lowest)]
    if sorted(usages) != wanted:
        yield f"{name}: has code for {sorted(usages)}, expected {wanted}"
    for arch, functions in sorted(usages.items()):
        if sorted(functions) != sorted(kernels):
            missing, extra = set(kernels) - set(functions), set(functions) - set(kernels)
            yield f"{name} sm_{arch}: not compiled {sorted(missing)}, not in table.rs {sorted(extra)}"
        for kernel, usage in sorted(functions.items()):
            where = f"{name} sm_{arch} {kernel}"
            if verbose:
                print(f"{where}: {usage}")
            registers, shared = first(BUDGETS, kernel)
            if usage["REG"] > registers:
                yield f"{where}: {usage['REG']} registers, budget {registers}"
            if usage["SHARED"] > shared:
                yield f"{where}: {usage['SHARED']} bytes of shared memory, budget {shared}"
            if usage["STACK"] or usage["LOCAL"]:
                yield f"{where}: {usage['STACK']} bytes of stack, {usage['LOCAL']} of local memory"
            if spill := re.search(r"\b(LDL|STL)\b.*", code[arch, kernel]):
                yield f"{where}: reaches local memory: {spill[0].strip()}"
            needed = first(INSTRUCTIONS, kernel)
            if needed and not re.search(needed[0], code[arch, kernel]):
                yield f"{where}: no {needed[0]} in its machine code"


def never_launched(files, log):
    """Kernels of the table that no test has run."""
    launched = set(Path(log).read_text().split())
    for name, (_, _, kernels) in files.items():
        yield from (f"{name}: no test runs {kernel}" for kernel in kernels if kernel not in launched)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verbose", action="store_true", help="print what every kernel uses")
    parser.add_argument("--launched", metavar="LOG", help="names of the kernels that the tests have run")
    arguments = parser.parse_args()
    files, fatbins = table(), build()
    faults = list(never_launched(files, arguments.launched)) if arguments.launched else []
    for name, (lowest, only, kernels) in files.items():
        fatbin = (fatbins / name).with_suffix(".fatbin")
        faults += faults_of(name, fatbin, lowest, only, kernels, arguments.verbose)
    for fault in faults:
        print(fault, file=sys.stderr)
    count = sum(len(kernels) for _, _, kernels in files.values())
    print(f"{count} kernels in {len(files)} files: {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
