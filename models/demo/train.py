"""Trains mosu's demonstration model from scratch on a CPU and writes a Hugging Face model directory.

    python models/demo/train.py            # trains, evaluates and overwrites the files beside this script

The network is Qwen3-MoE. It is written out here, small and fast, because training through the general
implementation is several times slower; golden.py checks that transformers computes the same from the saved files.
"""

import argparse
import json
import math
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn

from corpus import END_OF_TEXT, HERE, IM_END, IM_START, LANGS, Corpus

SPECIAL_TOKENS = [END_OF_TEXT, IM_START, IM_END]
# Letters other than Chinese with a leading space; runs of Chinese; single digits; punctuation; white space.
WORDS = r" ?(?:(?!\p{Han})\p{L})+|\p{Han}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{%- if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{- raise_exception('Unknown role: ' + message['role']) }}"
    "{%- endif %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
IGNORED = -100  # a target that has no loss
OPENING, OPENING_WEIGHT = 6, 4.0  # an answer's first tokens choose its topic, so they weigh more


def model_config(vocab_size):
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "vocab_size": vocab_size,
        "hidden_size": 192,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "intermediate_size": 512,
        "moe_intermediate_size": 128,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "router_aux_loss_coef": 0.001,
        "output_router_logits": False,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "max_position_embeddings": 2048,
        "sliding_window": None,
        "use_sliding_window": False,
        "max_window_layers": 4,
        "tie_word_embeddings": True,
        "initializer_range": 0.02,
        "use_cache": True,
        "bos_token_id": None,
        "pad_token_id": SPECIAL_TOKENS.index(END_OF_TEXT),
        "eos_token_id": SPECIAL_TOKENS.index(IM_END),
        "torch_dtype": "bfloat16",
    }


# ---- tokenizer


def train_tokenizer(corpus, vocab_size, rng):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(tokenizer_text(corpus, rng), trainer)
    return tokenizer


def tokenizer_text(corpus, rng, questions=60_000):
    """Mostly questions: the answers are few, and repeated often they would become tokens of a sentence each."""
    yield from ["system\n", "user\n", "assistant\n"] * 1000
    for topic in corpus.topics.values():
        for lang in LANGS:
            yield from [topic[lang]] * 40
    for _ in range(questions):
        yield corpus.question(corpus.draw_topic(rng), rng.choice(LANGS), rng)[0]


# ---- examples


class Examples:
    """Conversations as token ids with targets and weights; the questions and system messages have no loss.

    Each answer also has its topic as a class, set at the token before the answer.
    """

    def __init__(self, corpus, tokenizer, max_length):
        self.corpus, self.tokenizer, self.max_length = corpus, tokenizer, max_length
        self.topics = [(topic, lang) for topic in corpus.ids for lang in LANGS]
        self.im_end = tokenizer.token_to_id(IM_END)
        self.end_of_text = tokenizer.token_to_id(END_OF_TEXT)

    def encode(self, text):
        return self.tokenizer.encode(text).ids

    def chat(self, messages):
        """-> (ids, targets, weights, topics), each (length,); targets[t] is the token after ids[t], or IGNORED."""
        ids, weights, topics = [], [], []
        for role, content, topic in messages:
            head = self.encode(f"{IM_START}{role}\n")
            body = self.encode(content) + [self.im_end]
            tail = self.encode("\n")
            ids += head + body + tail
            learned = [OPENING_WEIGHT] * OPENING + [1.0] * len(body) if role == "assistant" else [0.0] * len(body)
            weights += [0.0] * len(head) + learned[: len(body)] + [0.0] * len(tail)
            topics += [IGNORED] * len(head + body + tail)
            if topic:
                topics[-len(body + tail) - 1] = self.topics.index(topic)
        return ids[:-1], [i if weight else IGNORED for i, weight in zip(ids[1:], weights[1:])], weights[1:], topics[:-1]

    def plain(self, text):
        ids = self.encode(text) + [self.end_of_text]
        return ids[:-1], ids[1:], [1.0] * (len(ids) - 1), [IGNORED] * (len(ids) - 1)

    def opening(self, rng):
        """A question and only the beginning of its answer: choosing a topic takes the most examples to learn."""
        example = self.chat(self.corpus.conversation(rng, max_turns=1))
        start = next(t for t, target in enumerate(example[1]) if target != IGNORED)
        length = start + rng.randint(6, 16)
        return [column[:length] for column in example]

    def draw(self, rng):
        kind = rng.random()
        if kind < 0.04:
            return self.plain(self.corpus.topics[rng.choice(self.corpus.ids)][rng.choice(LANGS)])
        if kind < 0.78:
            return self.opening(rng)
        while True:
            example = self.chat(self.corpus.conversation(rng))
            if len(example[0]) <= self.max_length:
                return example

    def batches(self, rng, batch_tokens, pool=16):
        """Endless batches of at most `batch_tokens` tokens with padding, each of examples of like length."""
        while True:
            examples, total = [], 0
            while total < pool * batch_tokens:
                examples.append(self.draw(rng))
                total += len(examples[-1][0])
            examples.sort(key=lambda example: len(example[0]))
            batches, batch = [], []
            for example in examples:
                if len(example[0]) * (len(batch) + 1) > batch_tokens:
                    batches.append(batch)
                    batch = []
                batch.append(example)
            rng.shuffle(batches)  # the last, unfinished batch is dropped
            yield from map(self.collate, batches)

    def collate(self, batch):
        """-> ids, targets, weights, topics, each (batch, length)."""
        length = max(len(example[0]) for example in batch)
        fills = [self.end_of_text, IGNORED, 0.0, IGNORED]
        return [
            torch.tensor([example[column] + [fill] * (length - len(example[column])) for example in batch])
            for column, fill in enumerate(fills)
        ]


# ---- the network


class RMSNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, x):
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_dim = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        hidden, q_size, kv_size = c["hidden_size"], self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        self.q_proj = nn.Linear(hidden, q_size, bias=False)
        self.k_proj = nn.Linear(hidden, kv_size, bias=False)
        self.v_proj = nn.Linear(hidden, kv_size, bias=False)
        self.o_proj = nn.Linear(q_size, hidden, bias=False)
        self.q_norm = RMSNorm(self.head_dim, c["rms_norm_eps"])
        self.k_norm = RMSNorm(self.head_dim, c["rms_norm_eps"])

    def forward(self, x, cos, sin):
        """x (batch, length, hidden); cos, sin (length, head_dim)."""
        batch, length, _ = x.shape
        q = self.q_norm(self.q_proj(x).view(batch, length, self.num_heads, -1)).transpose(1, 2)
        k = self.k_norm(self.k_proj(x).view(batch, length, self.num_kv_heads, -1)).transpose(1, 2)
        v = self.v_proj(x).view(batch, length, self.num_kv_heads, -1).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        group = self.num_heads // self.num_kv_heads
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        # Padding stands on the right, so a causal mask hides it.
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # (batch, num_heads, length, head_dim)
        return self.o_proj(out.transpose(1, 2).reshape(batch, length, -1))


def rotate(x, cos, sin):
    """x (batch, heads, length, head_dim), with the halves of head_dim as pairs."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def rope_tables(length, head_dim, theta):
    """-> cos, sin (length, head_dim)."""
    inverse = theta ** -(torch.arange(0, head_dim, 2).float() / head_dim)
    angles = torch.outer(torch.arange(length).float(), inverse)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


class Experts(nn.Module):
    """The router and the experts; each expert computes only the tokens sent to it."""

    def __init__(self, c):
        super().__init__()
        self.num_experts, self.top_k = c["num_experts"], c["num_experts_per_tok"]
        hidden, inner = c["hidden_size"], c["moe_intermediate_size"]
        self.gate = nn.Linear(hidden, self.num_experts, bias=False)
        self.gate_proj = nn.Parameter(torch.empty(self.num_experts, inner, hidden))
        self.up_proj = nn.Parameter(torch.empty(self.num_experts, inner, hidden))
        self.down_proj = nn.Parameter(torch.empty(self.num_experts, hidden, inner))

    def forward(self, x):
        """x (tokens, hidden) -> the experts' sum (tokens, hidden), and the load-balancing loss ()."""
        probs = self.gate(x).softmax(dim=-1)  # (tokens, num_experts)
        weights, chosen = probs.topk(self.top_k, dim=-1)  # (tokens, top_k)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        order = chosen.flatten().argsort(stable=True)  # (tokens * top_k,), grouped by expert
        counts = torch.bincount(chosen.flatten(), minlength=self.num_experts)
        out = torch.zeros_like(x)
        for expert, slots in enumerate(order.split(counts.tolist())):
            tokens = slots // self.top_k
            part = x[tokens]
            inner = F.silu(part @ self.gate_proj[expert].T) * (part @ self.up_proj[expert].T)
            part = (inner @ self.down_proj[expert].T) * weights.flatten()[slots, None]
            out = out.index_add(0, tokens, part)
        share = counts / counts.sum()
        return out, self.num_experts * (share * probs.mean(dim=0)).sum()


class DecoderLayer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.input_layernorm = RMSNorm(c["hidden_size"], c["rms_norm_eps"])
        self.self_attn = Attention(c)
        self.post_attention_layernorm = RMSNorm(c["hidden_size"], c["rms_norm_eps"])
        self.mlp = Experts(c)

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        out, balance = self.mlp(self.post_attention_layernorm(x).flatten(0, 1))
        return x + out.view_as(x), balance


class Network(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])  # also the output layer
        self.layers = nn.ModuleList(DecoderLayer(c) for _ in range(c["num_hidden_layers"]))
        self.norm = RMSNorm(c["hidden_size"], c["rms_norm_eps"])
        cos, sin = rope_tables(c["max_position_embeddings"], c["head_dim"], c["rope_theta"])
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        for name, weight in self.named_parameters():
            if weight.dim() > 1:
                deep = name.endswith(("o_proj.weight", "down_proj"))
                nn.init.normal_(weight, std=c["initializer_range"] / (math.sqrt(2 * len(self.layers)) if deep else 1))

    def hidden(self, ids):
        """ids (batch, length) -> hidden states and those after each layer (batch, length, hidden), load-balancing loss ()."""
        x, states, balances = self.embed_tokens(ids), [], []
        for layer in self.layers:
            x, balance = layer(x, self.cos[: ids.shape[1]], self.sin[: ids.shape[1]])
            states.append(x)
            balances.append(balance)
        return self.norm(x), states, torch.stack(balances).mean()

    def logits(self, hidden):
        return hidden @ self.embed_tokens.weight.T


class TopicClassifier(nn.Module):
    """Names the topic from the inner layers' states before an answer. Only for training: it teaches the lower layers
    to understand the question, which the answers' tokens alone teach more slowly. It is not saved."""

    def __init__(self, c, num_topics):
        super().__init__()
        self.norm = RMSNorm(c["hidden_size"], c["rms_norm_eps"])
        self.topic = nn.Linear(c["hidden_size"], num_topics)

    def loss(self, states, topics):
        """states: after each layer (batch, length, hidden); topics (batch, length)."""
        asked = topics != IGNORED
        losses = [F.cross_entropy(self.topic(self.norm(state[asked])), topics[asked]) for state in states[1:-1]]
        return torch.stack(losses).mean()


def checkpoint(network):
    """-> the tensors under their Hugging Face names, one per expert, in bf16."""
    tensors = {}
    for name, weight in network.state_dict().items():
        if name.endswith(("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")):
            prefix, kind = name.rsplit(".", 1)
            for expert, part in enumerate(weight):
                tensors[f"model.{prefix}.experts.{expert}.{kind}.weight"] = part
        else:
            tensors[f"model.{name}"] = weight
    return {name: weight.to(torch.bfloat16).contiguous().clone() for name, weight in tensors.items()}


def restore(network, path):
    """Reads what `checkpoint` wrote."""
    tensors = load_file(path)
    state = {}
    for name, weight in network.state_dict().items():
        if name.endswith(("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")):
            prefix, kind = name.rsplit(".", 1)
            state[name] = torch.stack([tensors.pop(f"model.{prefix}.experts.{e}.{kind}.weight") for e in range(len(weight))])
        else:
            state[name] = tensors.pop(f"model.{name}")
    network.load_state_dict(state)
    assert not tensors, f"{path} has tensors of another shape of network: {sorted(tensors)}"


# ---- training and evaluation


def learning_rate(step, steps, peak):
    warmup = min(200, max(1, steps // 10))
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))))


def train_step(network, classifier, optimizer, batch, args):
    ids, targets, weights, topics = batch
    hidden, states, balance = network.hidden(ids)
    learned = targets != IGNORED
    losses = F.cross_entropy(network.logits(hidden[learned]), targets[learned], reduction="none")
    loss = (losses * weights[learned]).sum() / weights.sum()
    (loss + args.topic * classifier.loss(states, topics) + args.balance * balance).backward()
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()


def make_optimizer(*modules):
    named = [pair for module in modules for pair in module.named_parameters()]
    matrices = [w for n, w in named if w.dim() > 1 and "embed" not in n]
    others = [w for n, w in named if w.dim() == 1 or "embed" in n]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-8)


@torch.no_grad()
def held_out_accuracy(network, examples):
    """-> {(topic is `other`, language): [right, asked]}, list of wrong questions.

    An answer is right when the most likely token is the canonical answer's at every position: then, and
    only then, is greedy decoding equal to it.
    """
    scores, wrong = {}, []
    for topic, lang, question, answer in examples.corpus.held_out():
        messages = [("user", question, None), ("assistant", answer, None)]
        ids, targets, _, _ = examples.collate([examples.chat(messages)])
        best = network.logits(network.hidden(ids)[0]).argmax(dim=-1)
        learned = targets != IGNORED
        right = bool((best[learned] == targets[learned]).all())
        score = scores.setdefault((topic == "other", lang), [0, 0])
        score[0] += right
        score[1] += 1
        if not right:
            wrong.append((topic, lang, question))
    return scores, wrong


def describe(scores):
    parts = [f"{'other' if other else 'mosu'}/{lang} {right}/{asked}" for (other, lang), (right, asked) in sorted(scores.items())]
    right, asked = (sum(column) for column in zip(*scores.values()))
    return f"{right}/{asked} = {right / asked:.1%} ({', '.join(parts)})"


def train(network, examples, args):
    batches = examples.batches(random.Random(args.seed + 1), args.batch_tokens)
    classifier = TopicClassifier(model_config(0), len(examples.topics))
    optimizer, started, recent = make_optimizer(network, classifier), time.time(), []
    for step in range(args.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps, args.lr)
        recent.append(train_step(network, classifier, optimizer, next(batches), args))
        if (step + 1) % args.log_every == 0:
            seconds = time.time() - started
            left = seconds / (step + 1) * (args.steps - step - 1)
            print(f"step {step + 1}/{args.steps}  loss {sum(recent) / len(recent):.4f}  {seconds:.0f} s, {left:.0f} s left", flush=True)
            recent = []
        if (step + 1) % args.eval_every == 0 and step + 1 < args.steps:
            print(f"step {step + 1}  held-out {describe(held_out_accuracy(network, examples)[0])}", flush=True)
            save(network, args.out)


def save(network, out):
    save_file(checkpoint(network), out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)


def round_weights(network):
    """The network as saved: every weight rounded to bf16, computed in f32."""
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(weight.to(torch.bfloat16).float())


def write_json(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def write_settings(tokenizer, config, out):
    tokenizer.save(str(out / "tokenizer.json"))
    write_json(out / "config.json", config)
    write_json(out / "generation_config.json", {
        "eos_token_id": [config["eos_token_id"], config["pad_token_id"]],
        "pad_token_id": config["pad_token_id"],
    })
    write_json(out / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": IM_END,
        "pad_token": END_OF_TEXT,
        "unk_token": None,
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": config["max_position_embeddings"],
        "chat_template": CHAT_TEMPLATE,
    })


def arguments():
    parser = argparse.ArgumentParser(description="Train mosu's demonstration model from scratch on a CPU.")
    parser.add_argument("--steps", type=int, default=3000, help="optimizer steps (default %(default)s)")
    parser.add_argument("--batch-tokens", type=int, default=2048, help="tokens per step, padding included (default %(default)s)")
    parser.add_argument("--max-length", type=int, default=768, help="longest conversation in tokens (default %(default)s)")
    parser.add_argument("--vocab-size", type=int, default=2560, help="tokens in the vocabulary (default %(default)s)")
    parser.add_argument("--lr", type=float, default=3e-3, help="highest learning rate (default %(default)s)")
    parser.add_argument("--balance", type=float, default=0.01, help="weight of the load-balancing loss (default %(default)s)")
    parser.add_argument("--topic", type=float, default=0.5, help="weight of the topic classifier's loss (default %(default)s)")
    parser.add_argument("--seed", type=int, default=2025, help="seed of everything random (default %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; two are faster only on an idle machine (default %(default)s)")
    parser.add_argument("--log-every", type=int, default=100, help="steps between progress lines (default %(default)s)")
    parser.add_argument("--eval-every", type=int, default=500, help="steps between evaluations (default %(default)s)")
    parser.add_argument("--init", type=Path, help="continue from this model directory's weights and tokenizer")
    parser.add_argument("--out", type=Path, default=HERE, help="where the model directory is written (default: here)")
    return parser.parse_args()


def main():
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    corpus = Corpus()
    if args.init:
        tokenizer = Tokenizer.from_file(str(args.init / "tokenizer.json"))
    else:
        tokenizer = train_tokenizer(corpus, args.vocab_size, random.Random(args.seed))
    config = model_config(tokenizer.get_vocab_size())
    write_settings(tokenizer, config, args.out)
    network, examples = Network(config), Examples(corpus, tokenizer, args.max_length)
    if args.init:
        restore(network, args.init / "model.safetensors")
    print(f"{sum(w.numel() for w in network.parameters()):,} parameters, vocabulary of {config['vocab_size']}", flush=True)
    train(network, examples, args)
    save(network, args.out)
    round_weights(network)
    scores, wrong = held_out_accuracy(network, examples)
    print(f"final  held-out {describe(scores)}")
    for topic, lang, question in wrong:
        print(f"  wrong: {topic}/{lang}: {question}")


if __name__ == "__main__":
    main()
