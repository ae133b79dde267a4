"""Whole decode steps of mosu as lines of the sheet: runs `mosu bench` on random weights in the shapes of cases.json.

    python decode.py cases.json path/to/mosu > mosu.jsonl

The bytes of a step are counted as reference.py counts them: the layers' matrices, the output projection, and the keys
and values of the context in the middle of the run.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path


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
    """Feed-forward networks of a layer that a step meets: of experts the expected number when all are as likely."""
    if "experts" not in model:
        return 1
    return round(model["experts"] * (1 - (1 - model["chosen"] / model["experts"]) ** sequences))


def step_bytes(model, sequences, context):
    q, kv = model["heads"] * model["head_dim"], model["kv_heads"] * model["head_dim"]
    h = model["hidden"]
    layer = (q + 2 * kv) * h + h * q + networks(model, sequences) * 3 * h * model["intermediate"]
    cache = sequences * context * 2 * kv
    return 2 * (model["layers"] * (layer + cache) + model["vocab"] * h)


def bench(mosu, folder, device, sequences, context, output):
    prompt = context - output // 2
    command = [
        mosu, "bench", "--model", folder, "--load-format", "dummy", "--device", device, "--json",
        "--prompt-tokens", str(prompt), "--output-tokens", str(output), "--batch", str(sequences),
        "--max-model-len", str(prompt + output),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no output")
    return json.loads(done.stdout)["runs"][0]


def line(name, run, sequences, size):
    """A step gives every sequence a token: its time is the sequences over the tokens per second."""
    rates = run["decode_tokens_per_second"]
    spread = (rates["max"] - rates["min"]) / rates["median"]
    return {"name": name, "us": 1e6 * sequences / rates["median"], "spread": spread, "bytes": size, "flops": 0}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases")
    parser.add_argument("mosu")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--output-tokens", type=int, default=128)
    args = parser.parse_args()
    cases = json.loads(Path(args.cases).read_text())
    for case in cases["decode"]:
        model = cases["models"][case["model"]]
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "config.json").write_text(json.dumps(config(model)))
            for sequences in case["sequences"]:
                name = f"decode {case['model']} x{sequences}"
                try:
                    run = bench(args.mosu, folder, args.device, sequences, case["context"], args.output_tokens)
                    found = line(name, run, sequences, step_bytes(model, sequences, case["context"]))
                except (RuntimeError, OSError) as error:
                    found = {"name": name, "error": str(error)[:300]}
                print(json.dumps(found), flush=True)


if __name__ == "__main__":
    sys.exit(main())
