"""Whole decode steps of mosu as lines of the sheet: `mosu bench` on random weights in cases.json's shapes.

    python decode.py cases.json path/to/mosu > mosu.jsonl
    python decode.py cases.json path/to/mosu --smoke --device cpu       tiny shapes, to test the script

The bytes of a step are counted as reference.py counts them: the layers' matrices, the output projection, and
the keys and values of the context in the middle of the run.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

SMALL = {
    "hidden": 64, "intermediate": 48, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 16, "vocab": 96,
}  # fmt: skip


def config(model):
    """The config.json of a shape: all that random weights need."""
    experts = {}
    if "experts" in model:
        experts = {
            "num_experts": model["experts"], "num_experts_per_tok": model["chosen"],
            "moe_intermediate_size": model["intermediate"], "norm_topk_prob": True,
        }  # fmt: skip
    return experts | {
        "architectures": [model["architecture"]],
        "hidden_size": model["hidden"],
        "intermediate_size": model["intermediate"],
        "num_hidden_layers": model["layers"],
        "num_attention_heads": model["heads"],
        "num_key_value_heads": model["kv_heads"],
        "head_dim": model["head_dim"],
        "vocab_size": model["vocab"],
        "rope_theta": model["theta"],
        "max_position_embeddings": 8192,
        "torch_dtype": "bfloat16",
    }


def networks(model, sequences):
    """Feed-forward networks of a layer that a step meets: of experts, how many if all are as likely."""
    if "experts" not in model:
        return 1
    return round(model["experts"] * (1 - (1 - model["chosen"] / model["experts"]) ** sequences))


def step_bytes(model, sequences, context):
    q, kv = model["heads"] * model["head_dim"], model["kv_heads"] * model["head_dim"]
    h = model["hidden"]
    layer = (q + 2 * kv) * h + h * q + networks(model, sequences) * 3 * h * model["intermediate"]
    cache = sequences * context * 2 * kv
    return 2 * (model["layers"] * (layer + cache) + model["vocab"] * h)


def bench(mosu, folder, device, batches, context, output):
    """`mosu bench`'s runs, one for each number of sequences, of a model that is loaded once."""
    prompt = context - output // 2
    command = [
        mosu, "bench", "--model", folder, "--load-format", "dummy", "--device", device, "--json",
        "--prompt-tokens", str(prompt), "--output-tokens", str(output), "--repeat", "1",
        "--batch", ",".join(map(str, batches)), "--max-model-len", str(prompt + output),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no output")
    return json.loads(done.stdout)["runs"]


def runs(bench_batches, batches):
    """The run of each number of sequences, or its error. When they fail together, each has its own try."""
    try:
        return dict(zip(batches, bench_batches(batches)))
    except (RuntimeError, OSError) as error:
        if len(batches) == 1:
            return {batches[0]: error}
    found = {}
    for sequences in batches:
        found |= runs(bench_batches, [sequences])
    return found


def line(name, run, sequences, size):
    """A step gives every sequence a token: its time is the sequences over the tokens per second."""
    if isinstance(run, Exception):
        return {"name": name, "error": str(run)[:300]}
    us = 1e6 * sequences / run["decode_tokens_per_second"]["median"]
    return {"name": name, "us": us, "spread": 0, "bytes": size, "flops": 0}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases")
    parser.add_argument("mosu")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--model", help="only this one of the cases")
    parser.add_argument("--output-tokens", type=int, default=128)
    parser.add_argument("--smoke", action="store_true", help="tiny shapes")
    args = parser.parse_args()
    cases = json.loads(Path(args.cases).read_text())
    failed = False
    for case in cases["decode"]:
        if args.model not in (None, case["model"]):
            continue
        model, batches = cases["models"][case["model"]], case["sequences"]
        context, output = case["context"], args.output_tokens
        if args.smoke:
            model, batches, context, output = model | SMALL, [1, 2], 12, 8
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "config.json").write_text(json.dumps(config(model)))
            found = runs(lambda some: bench(args.mosu, folder, args.device, some, context, output), batches)
        for sequences, run in found.items():
            name = f"decode {case['model']} x{sequences}"
            failed |= isinstance(run, Exception)
            size = step_bytes(model, sequences, context)
            print(json.dumps(line(name, run, sequences, size)), flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
