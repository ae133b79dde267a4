"""Joins mosu's figures with PyTorch's of the same run: one row a measurement, each a ratio.

    python table.py DIR     reads DIR/reference.*.jsonl and DIR/mosu.*.jsonl, writes table.md, prints goals

Passes are numbered and alternate (reference.1, mosu.1, reference.2, mosu.2): a figure is the median of its
passes, and a ratio that moves less than the passes do is no difference.
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
            try:
                line = json.loads(text)
            except json.JSONDecodeError:  # A part that was ended in the middle of it.
                continue
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


def speed(reference, name, unit):
    """Bytes or operations a microsecond of a ceiling; None if it was not measured."""
    lines = reference.get(name, [])
    us = median(lines)
    return next(line[unit] for line in lines if unit in line) / us if us else None


def row(name, lines, reference):
    us = median(lines)
    if us is None:
        return {"name": name, "error": lines[0].get("error", "no figure")}
    lines = [line for line in lines if "us" in line]
    passes = [line["us"] for line in lines]
    spread = max([(max(passes) - min(passes)) / us, *(line["spread"] for line in lines)])
    cells = {"name": name, "us": us, "spread": spread}
    size, flops = lines[0]["bytes"], lines[0]["flops"]
    for ceiling in ["copy", "read"]:
        if size and (limit := speed(reference, ceiling, "bytes")):
            cells[ceiling] = size / us / limit
    if flops and (limit := speed(reference, "gemm 8192", "flops")):
        cells["peak"] = flops / us / limit
    peer, peer_name = best_peer(name, reference)
    if peer:
        cells |= {"peer": peer / us, "peer_name": peer_name}
    return cells


def goals(cells):
    """The goals of a row: ratio, what it is, the least value."""
    asked = [goal[1:] for goal in GOALS if re.match(goal[0], cells["name"])]
    return [(cells[ratio], ratio, least) for ratio, least in asked if ratio in cells]


def verdict(cells):
    """Which goals a row meets or misses."""
    found = [f"{ratio} {'>=' if value >= least else '< '} {least}" for value, ratio, least in goals(cells)]
    return ", ".join(found)


def summary(rows):
    """The rows that have goals, and those that failed, a line each."""
    for cells in rows:
        if "error" in cells:
            yield f"{cells['name']:36} failed: {cells['error'][:60]}"
        for value, ratio, least in goals(cells):
            met = "met" if value >= least else "missed"
            figures = f"{cells['us']:10.1f} us  {value:5.2f} of {ratio:5} goal {least:.2f}"
            yield f"{cells['name']:36} {figures} {met}"


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
        sys.exit(f"table.py: {folder} has no figures of mosu")
    rows = [row(name, lines, reference) for name, lines in mosu.items()]
    (folder / "table.md").write_text(ceilings(reference) + "\n\n" + table(rows) + "\n")
    print(ceilings(reference), *summary(rows), sep="\n")


if __name__ == "__main__":
    main()
