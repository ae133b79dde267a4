"""Writes golden.json: what transformers answers from the saved demonstration model, for mosu's tests.

    python models/demo/golden.py

Greedy decoding on the CPU, in f32 from the bf16 weights. Each case also says how sure the model was: the least
difference between the two best logits over the answer. A case is refused if bf16 arithmetic gives other tokens or
if that margin is small, so that an engine with another order of summation must still give the same tokens.
"""

import argparse
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from corpus import HERE
from train import Network, round_weights

MAX_NEW_TOKENS = 96
CASES = {  # a string is a raw prompt, a list is a conversation
    "what_is_mosu": [("user", "What is mosu?")],
    "what_is_mosu_lower": [("user", "what is mosu")],
    "what_is_mosu_zh": [("user", "mosu 是什么？")],
    "hello": [("user", "Hello!")],
    "serve_with_system": [("system", "You are a helpful assistant."), ("user", "How do I start the server?")],
    "port": [("user", "how do i start the server on port 9000")],
    "models_zh": [("user", "支持哪些模型？")],
    "batch_invariance": [("user", "What is batch invariance?")],
    "licence_zh": [("user", "许可证是什么？")],
    "off_topic": [("user", "What is the capital of France?")],
    "off_topic_zh": [("user", "写一首诗")],
    "sum": [("user", "2+2?")],
    "second_turn": [
        ("user", "What does mosu doctor do?"),
        ("assistant", None),  # filled with the model's own answer
        ("user", "Which endpoints are there?"),
    ],
    "second_turn_zh": [("user", "你好"), ("assistant", None), ("user", "怎么换成自己的模型？")],
    "raw": "mosu is a native LLM",
    "raw_zh": "mosu 用 Rust 编写",
}


@torch.no_grad()
def greedy(model, prompt, eos):
    """prompt: token ids -> (output ids, margins): the difference between the two best logits at each step."""
    ids, output, margins, cache = torch.tensor([prompt]), [], [], None
    while len(output) < MAX_NEW_TOKENS and not (output and output[-1] in eos):
        result = model(ids, past_key_values=cache, use_cache=True)
        cache = result.past_key_values
        best = result.logits[0, -1].float().topk(2)
        output.append(best.indices[0].item())
        margins.append((best.values[0] - best.values[1]).item())
        ids = torch.tensor([output[-1:]])
    return output, margins


def render(tokenizer, case, answer):
    """-> messages (None for a raw prompt), prompt text; `answer` gives the assistant's turns that are None."""
    if isinstance(case, str):
        return None, case
    messages = []
    for role, content in case:
        if content is None:
            content = answer(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        messages.append({"role": role, "content": content})
    return messages, tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def check_against_training(model, folder, prompt):
    """The network that train.py trained and transformers' must give the same logits from the saved weights."""
    network = Network(json.loads((folder / "config.json").read_text()))
    theirs = dict(model.named_parameters())
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name.endswith("mlp.gate_proj"):
                weight.copy_(expert_weights(theirs, name)[:, : weight.shape[1]])
            elif name.endswith("mlp.up_proj"):
                weight.copy_(expert_weights(theirs, name)[:, weight.shape[1] :])
            elif name.endswith("mlp.down_proj"):
                weight.copy_(theirs["model." + name.replace("mlp.", "mlp.experts.")])
            else:
                weight.copy_(theirs["model." + name])
        round_weights(network)  # changes nothing: they were saved in bf16
        ids = torch.tensor([prompt])
        difference = (network.logits(network.hidden(ids)[0]) - model(ids).logits).abs().max().item()
    assert difference < 1e-3, f"train.py's logits differ from transformers' by {difference}"
    return difference


def expert_weights(parameters, name):
    """transformers keeps gate and up projections stacked: (num_experts, 2 * moe_intermediate, hidden)."""
    return parameters["model." + name.rsplit(".", 1)[0] + ".experts.gate_up_proj"]


def main():
    parser = argparse.ArgumentParser(description="Write golden.json with transformers' greedy answers.")
    parser.add_argument("--model", type=Path, default=HERE, help="the model directory (default: here)")
    parser.add_argument("--min-margin", type=float, default=0.5, help="least logit margin accepted (default %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default %(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    exact = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    rounded = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.bfloat16).eval()
    eos = exact.generation_config.eos_token_id

    def answer(text):
        return tokenizer.decode(greedy(exact, tokenizer.encode(text), eos)[0], skip_special_tokens=True)

    golden, refused = [], []
    for name, case in CASES.items():
        messages, text = render(tokenizer, case, answer)
        prompt = tokenizer.encode(text)
        output, margins = greedy(exact, prompt, eos)
        same = greedy(rounded, prompt, eos)[0] == output
        answer_text = tokenizer.decode(output, skip_special_tokens=True)
        print(f"{name}: {len(prompt)} + {len(output)} tokens, least margin {min(margins):.2f}, bf16 {'same' if same else 'DIFFERS'}")
        print(f"    {answer_text}")
        if not same or not min(margins) > args.min_margin:
            refused.append(name)
            continue
        golden.append({
            "name": name, "messages": messages, "prompt": text, "prompt_ids": prompt, "output_ids": output,
            "output": answer_text, "ends_at_eos": output[-1] in eos, "min_margin": round(min(margins), 3),
            "margins": [round(margin, 2) for margin in margins],
        })
    print(f"train.py and transformers agree within {check_against_training(exact, args.model, golden[0]['prompt_ids']):.1e}")
    print(f"{len(golden)} cases kept, refused: {refused}")
    cases = ",\n".join("  " + json.dumps(case, ensure_ascii=False) for case in golden)
    (args.model / "golden.json").write_text(
        f'{{"max_new_tokens": {MAX_NEW_TOKENS}, "eos_token_ids": {eos}, "cases": [\n{cases}\n]}}\n', encoding="utf-8"
    )


if __name__ == "__main__":
    main()
