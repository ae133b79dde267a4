"""Joins mosu's figures with PyTorch's of the same run: one row a measurement, each a ratio.

    python table.py DIR        reads DIR/reference.*.jsonl and DIR/mosu.*.jsonl, writes DIR/table.md, prints it

Passes are numbered and alternate (reference.1, mosu.1, reference.2, mosu.2): a figure is the median of its passes, and
a ratio that moves less than the passes do is no difference.
"""

import json
import re
import statistics
import sys
from pathlib import Path

# What is asked of a measurement: its name, the ratio, the least value.
GOALS = [
    (r"decode llama-3\.1-8b x1$", "copy", 0.85),
    (r"decode llama-3\.1-8b x1$", "peer", 1.15),
    (r"decode llama-3\.1-8b x8$", "copy", 0.80),
    (r"decode llama-3\.1-8b x64$", "copy", 0.72),
    (r"decode llama-3\.1-8b x256$", "copy", 0.68),
    (r"decode qwen3-30b-a3b x1$", "copy", 0.45),
    (r"linear 8b \w+ rows (1|8|16)$", "read", 0.88),
    (r"linear 8b \w+ rows (2048|8192)$", "peer", 0.85),
    (r"prefill attention ", "peer", 0.80),
    (r"decode attention ", "copy", 0.78),
    (r"experts rows 4096$", "peer", 0.85),
]


def read(folder, side):
    """{name: [line of each pass]} of one side."""
    lines = {}
    for path in sorted(folder.glob(f"{side}.*.jsonl")):
        for text in path.read_text().splitlines():
            line = json.loads(text)
            lines.setdefault(line["name"], []).append(line)
    return lines


def median(lines):
    times = [line["us"] for line in lines if "us" in line]
    return statistics.median(times) if times else None


def best_peer(name, reference):
    """The fastest of the reference's lines that measure the same thing, and what it is called."""
    times = [
        (median(lines), other[len(name) :].strip() or "torch")
        for other, lines in reference.items()
        if other == name or other.startswith(name + " ")
    ]
    return min((pair for pair in times if pair[0]), default=(None, ""))


def row(name, lines, reference):
    us = median(lines)
    if us is None:
        return {"name": name, "error": lines[0].get("error", "no figure")}
    cells = {"name": name, "us": us, "spread": max(line["spread"] for line in lines)}
    size, flops = lines[0]["bytes"], lines[0]["flops"]
    for ceiling in ["copy", "read"]:
        if size and ceiling in reference:
            speed = reference[ceiling][0]["bytes"] / median(reference[ceiling])
            cells[ceiling] = size / us / speed
    if flops and "gemm 8192" in reference:
        cells["peak"] = flops / us / (reference["gemm 8192"][0]["flops"] / median(reference["gemm 8192"]))
    peer, peer_name = best_peer(name, reference)
    if peer:
        cells |= {"peer": peer / us, "peer_name": peer_name}
    return cells


def verdict(cells):
    """Which goals a row meets or misses."""
    found = []
    for pattern, ratio, least in GOALS:
        if re.match(pattern, cells["name"]) and ratio in cells:
            found.append(f"{ratio} {'>=' if cells[ratio] >= least else '< '} {least}")
    return ", ".join(found)


def table(rows):
    lines = [
        "| what | us | spread | of copy | of read | of gemm | to the peer | peer | goal |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for cells in rows:
        if "error" in cells:
            lines.append(f"| {cells['name']} | {cells['error']} |||||||")
            continue
        share = lambda key: f"{cells[key]:.2f}" if key in cells else ""
        lines.append(
            f"| {cells['name']} | {cells['us']:.1f} | {cells['spread']:.0%} | {share('copy')} | {share('read')} "
            f"| {share('peak')} | {share('peer')} | {cells.get('peer_name', '')} | {verdict(cells)} |"
        )
    return "\n".join(lines)


def ceilings(reference):
    lines = []
    for name, unit in [("copy", "bytes"), ("read", "bytes"), ("gemm 8192", "flops")]:
        speeds = [line[unit] / line["us"] / 1e6 for line in reference.get(name, []) if "us" in line]
        if speeds:
            shown = " and ".join(f"{speed:.2f}" for speed in speeds)
            lines.append(f"{name}: {shown} {'TB/s' if unit == 'bytes' else 'TFLOP/s'}")
    return "; ".join(lines)


def main():
    folder = Path(sys.argv[1])
    reference, mosu = read(folder, "reference"), read(folder, "mosu")
    if not mosu:
        sys.exit(f"table.py: {folder} has no mosu.*.jsonl")
    rows = [row(name, lines, reference) for name, lines in mosu.items()]
    text = ceilings(reference) + "\n\n" + table(rows) + "\n"
    (folder / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
