#!/usr/bin/env python3
"""Write what transformers 5 makes of the configs of this directory: their other dialect and their parameters.

    python make.py

Needs torch and transformers 5.23; the models are built without memory. README.md describes the files.
"""

import json
import sys
from pathlib import Path

import torch
import transformers

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "fixtures"))

from recipes.weights import weights_of  # noqa: E402
from reference import grok1, grok2, step3  # noqa: E402

REFERENCES = {"grok-1": grok1, "grok-2": grok2, "step-3": step3}


def config_of(facts):
    """The config that transformers reads from the hub's facts."""
    return transformers.AutoConfig.for_model(**facts)


def parameters_of(config):
    """How many numbers the text part of a model has, tied matrices counted once."""
    text = config.get_text_config()
    text.dtype = torch.bfloat16
    text.quantization_config = None
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(text)
    return sum(weight.numel() for _, weight in weights_of(model))


def main():
    transformers.logging.set_verbosity_error()
    counts = {}
    for file in sorted(HERE.glob("*.json")):
        name, facts = file.stem, json.loads(file.read_text())
        if name == "parameters":
            continue
        if name in REFERENCES:
            shapes = REFERENCES[name].shapes(facts).values()
            counts[name] = sum(torch.Size(shape).numel() for shape in shapes)
        else:
            config = config_of(facts)
            (HERE / "transformers5").mkdir(exist_ok=True)
            (HERE / "transformers5" / file.name).write_text(config.to_json_string())
            counts[name] = parameters_of(config)
        print(f"| {name} | {counts[name]} |", flush=True)
    (HERE / "parameters.json").write_text(json.dumps(counts, indent=2) + "\n")


if __name__ == "__main__":
    main()
