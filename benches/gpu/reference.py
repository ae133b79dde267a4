"""What PyTorch does on this GPU: the ceilings and peers that mosu's figures are ratios to.

Every figure is one JSON line: {"name", "us", "spread", "bytes", "flops"}: the median time of one run in
microseconds, the distance between its quartiles over it, and what the run must move and compute at least. Data is
random; inputs rotate through more memory than the L2 cache holds; short runs are timed as CUDA graphs.

    python reference.py cases.json > reference.jsonl
    python reference.py cases.json --smoke     every measurement once, tiny, on the CPU: to test the script
"""

import argparse
import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F

L2_BYTES = 60 << 20
RUNS = 30


class Bench:
    def __init__(self, smoke):
        self.smoke = smoke
        self.device = "cpu" if smoke else "cuda"

    def rand(self, *shape, scale=1.0):
        return torch.randn(*shape, dtype=torch.bfloat16, device=self.device) * scale

    def rotated(self, make, size):
        """Enough copies of an input that none is in the L2 cache when its turn comes."""
        count = 1 if self.smoke else min(64, max(2, 3 * L2_BYTES // max(size, 1) + 1))
        return [make() for _ in range(count)]

    def graph(self, run):
        """`run` as one launch."""
        if self.smoke:
            return run
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            run()
            run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        return graph.replay

    def times(self, run, calls):
        """Microseconds of each of RUNS runs; `run` makes `calls` calls of what is measured."""
        if self.smoke:
            start = time.perf_counter()
            run()
            return [(time.perf_counter() - start) * 1e6 / calls]
        for _ in range(3):
            run()
        events = [torch.cuda.Event(enable_timing=True) for _ in range(RUNS + 1)]
        events[0].record()
        for event in events[1:]:
            run()
            event.record()
        torch.cuda.synchronize()
        return [1e3 * a.elapsed_time(b) / calls for a, b in zip(events, events[1:])]

    def report(self, name, run, calls=1, size=0, flops=0, graph=True):
        try:
            times = sorted(self.times(self.graph(run) if graph else run, calls))
        except Exception as error:  # A peer that cannot run is a gap in the table, not the end of the run.
            print(json.dumps({"name": name, "error": f"{type(error).__name__}: {error}"[:300]}), flush=True)
            return
        median = statistics.median(times)
        spread = (times[3 * len(times) // 4] - times[len(times) // 4]) / median
        line = {"name": name, "us": median, "spread": spread, "bytes": size, "flops": flops}
        print(json.dumps(line), flush=True)


def ceilings(bench):
    n = 1 << 10 if bench.smoke else 2 << 30
    a, b = torch.empty(n, dtype=torch.uint8, device=bench.device), torch.empty(
        n, dtype=torch.uint8, device=bench.device
    )
    bench.report("copy", lambda: b.copy_(a), size=2 * n)
    words = a.view(torch.int32)
    bench.report("read", lambda: words.sum(dtype=torch.int64), size=n, graph=False)
    del a, b, words
    n = 32 if bench.smoke else 8192
    x, w = bench.rand(n, n), bench.rand(n, n)
    bench.report("gemm 8192", lambda: F.linear(x, w), flops=2 * n**3)


def linears(bench, cases):
    for case in cases["linear"]:
        n, k = (64, 32) if bench.smoke else (case["n"], case["k"])
        weights = bench.rotated(lambda: bench.rand(n, k, scale=0.02), 2 * n * k)
        for rows in cases["linear_rows"]:
            x = bench.rand(2 if bench.smoke else rows, k)
            size = 2 * (n * k + rows * k + rows * n)
            name = f"linear {case['name']} rows {rows}"
            run = lambda: [F.linear(x, w) for w in weights]
            bench.report(name, run, len(weights), size, 2 * rows * n * k)
        del weights


def prefill_attention(bench, cases):
    from torch.nn.attention import SDPBackend, sdpa_kernel

    backends = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}
    if bench.smoke:
        backends = {"math": SDPBackend.MATH}
    for case in cases["prefill_attention"]:
        t = 8 if bench.smoke else case["tokens"]
        h, kv, d = case["heads"], case["kv_heads"], case["head_dim"]
        q = bench.rand(1, h, t, d)
        # The backends want as many key heads as query heads on some versions: repeated outside of the measurement.
        k, v = (bench.rand(1, kv, t, d).repeat_interleave(h // kv, 1) for _ in range(2))
        flops = 4 * h * d * (t * (t + 1) // 2)
        for backend, kind in backends.items():

            def run():
                with sdpa_kernel(kind):
                    F.scaled_dot_product_attention(q, k, v, is_causal=True)

            bench.report(f"prefill attention {case['tokens']} {backend}", run, flops=flops, graph=False)


def decode_attention(bench, cases):
    for case in cases["decode_attention"]:
        s, context = (2, 8) if bench.smoke else (case["sequences"], case["context"])
        h, kv, d = case["heads"], case["kv_heads"], case["head_dim"]
        q = bench.rand(s, h, 1, d)
        k, v = (bench.rand(s, kv, context, d) for _ in range(2))
        run = lambda: F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        name = f"decode attention {case['sequences']}x{case['context']}"
        bench.report(name, run, size=2 * 2 * s * kv * context * d)
        del k, v


def experts(bench, cases):
    """torch's grouped product over rows sorted by expert, gate and up, then down."""
    case = cases["moe"]
    h, i, e, chosen = case["hidden"], case["intermediate"], case["experts"], case["chosen"]
    if bench.smoke:
        h, i, e = 32, 16, 8
    gate_up = bench.rand(e, 2 * i, h, scale=0.02)
    down = bench.rand(e, h, i, scale=0.02)
    generator = torch.Generator().manual_seed(1)
    for rows in case["rows"]:
        ids = torch.stack([torch.randperm(e, generator=generator)[:chosen] for _ in range(rows)])
        counts = torch.bincount(ids.flatten(), minlength=e)
        ends = counts.cumsum(0).to(torch.int32).to(bench.device)
        hit = int((counts > 0).sum())
        visits = bench.rand(rows * chosen, h)

        def run():
            both = torch._grouped_mm(visits, gate_up.transpose(1, 2), offs=ends)
            gate, up = both.chunk(2, -1)
            torch._grouped_mm(F.silu(gate) * up, down.transpose(1, 2), offs=ends)

        flops = 2 * rows * chosen * 3 * h * i
        bench.report(f"experts rows {rows}", run, size=2 * 3 * hit * h * i, flops=flops)


class Loop:
    """A decoder's step by PyTorch's own ops over a contiguous cache: what a careful user gets from a CUDA graph."""

    def __init__(self, bench, model, sequences, context):
        self.model, self.sequences, self.context = model, sequences, context
        h, i, d = model["hidden"], model["intermediate"], model["head_dim"]
        q, kv = model["heads"] * d, model["kv_heads"] * d
        weight = lambda *shape: bench.rand(*shape, scale=0.02)
        one = lambda n: torch.ones(n, dtype=torch.bfloat16, device=bench.device)
        self.layers = [
            {
                "norm1": one(h), "qkv": weight(q + 2 * kv, h), "q_norm": one(d), "k_norm": one(d),
                "o": weight(h, q), "norm2": one(h), "gate_up": weight(2 * i, h), "down": weight(h, i),
                "k": bench.rand(sequences, model["kv_heads"], context, d),
                "v": bench.rand(sequences, model["kv_heads"], context, d),
            }
            for _ in range(model["layers"])
        ]  # fmt: skip
        self.table, self.head = weight(model["vocab"], h), weight(model["vocab"], h)
        self.norm = one(h)
        self.ids = torch.zeros(sequences, dtype=torch.int64, device=bench.device)
        angle = (context - 1) * model["theta"] ** (-torch.arange(0, d, 2, device=bench.device) / d)
        self.cos = torch.cat([angle.cos()] * 2).to(torch.bfloat16)
        self.sin = torch.cat([-angle.sin(), angle.sin()]).to(torch.bfloat16)

    def rotate(self, x):
        half = x.shape[-1] // 2
        return x * self.cos + x.roll(half, -1) * self.sin

    def step(self):
        m, s = self.model, self.sequences
        d, heads, kv_heads = m["head_dim"], m["heads"], m["kv_heads"]
        x = self.table[self.ids]
        for layer in self.layers:
            qkv = F.linear(F.rms_norm(x, x.shape[-1:], layer["norm1"]), layer["qkv"])
            q, k, v = qkv.split([heads * d, kv_heads * d, kv_heads * d], -1)
            q, k, v = q.view(s, heads, 1, d), k.view(s, kv_heads, 1, d), v.view(s, kv_heads, 1, d)
            if m["qk_norm"]:
                q, k = F.rms_norm(q, (d,), layer["q_norm"]), F.rms_norm(k, (d,), layer["k_norm"])
            layer["k"][:, :, -1:] = self.rotate(k)
            layer["v"][:, :, -1:] = v
            q = self.rotate(q)
            attended = F.scaled_dot_product_attention(q, layer["k"], layer["v"], enable_gqa=True)
            x = x + F.linear(attended.reshape(s, heads * d), layer["o"])
            gate, up = F.linear(F.rms_norm(x, x.shape[-1:], layer["norm2"]), layer["gate_up"]).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, layer["down"])
        self.ids.copy_(F.linear(F.rms_norm(x, x.shape[-1:], self.norm), self.head).argmax(-1))

    def bytes(self):
        """Weights and cache that one step must read; of the table only its rows."""
        matrices = sum(2 * layer[name].numel() for layer in self.layers for name in ["qkv", "o", "gate_up", "down"])
        cache = sum(2 * layer[name].numel() for layer in self.layers for name in ["k", "v"])
        return matrices + cache + 2 * self.head.numel()


def decode(bench, cases):
    for case in cases["decode"]:
        model = dict(cases["models"][case["model"]])
        if "experts" in model:
            continue  # PyTorch has no graphed loop for experts whose choice only the GPU knows.
        if bench.smoke:
            model |= {"hidden": 32, "intermediate": 48, "layers": 2, "vocab": 64, "head_dim": 16}
        for sequences in case["sequences"]:
            count, context = (2, 8) if bench.smoke else (sequences, case["context"])
            name = f"decode {case['model']} x{sequences}"
            try:
                loop = Loop(bench, model, count, context)
            except torch.cuda.OutOfMemoryError as error:
                print(json.dumps({"name": name, "error": str(error)[:300]}), flush=True)
                continue
            bench.report(f"{name} graphed loop", loop.step, size=loop.bytes())
            del loop
            if not bench.smoke:
                torch.cuda.empty_cache()


def transformers_loop(bench, cases):
    """transformers' own model over its StaticCache, captured as a graph."""
    from transformers import LlamaConfig, LlamaForCausalLM, StaticCache

    case = cases["models"]["llama-3.1-8b"]
    small = {"hidden": 64, "intermediate": 96, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 16, "vocab": 96}
    m = case | small if bench.smoke else case
    config = LlamaConfig(
        hidden_size=m["hidden"], intermediate_size=m["intermediate"], num_hidden_layers=m["layers"],
        num_attention_heads=m["heads"], num_key_value_heads=m["kv_heads"], head_dim=m["head_dim"],
        vocab_size=m["vocab"], max_position_embeddings=8192,
    )  # fmt: skip
    context = 16 if bench.smoke else 1024
    name = "decode llama-3.1-8b x1 transformers"
    try:
        with torch.device(bench.device):
            model = LlamaForCausalLM(config).to(torch.bfloat16).eval()
        cache = StaticCache(config=config, max_cache_len=context)
        ids = torch.zeros(1, context - 1, dtype=torch.int64, device=bench.device)
        with torch.inference_mode():
            model(ids, past_key_values=cache, use_cache=True)
        token = torch.zeros(1, 1, dtype=torch.int64, device=bench.device)
        position = torch.tensor([context - 1], device=bench.device)

        def run():
            with torch.inference_mode():
                logits = model(
                    token, past_key_values=cache, use_cache=True, cache_position=position,
                    position_ids=position[None],
                ).logits  # fmt: skip
                token.copy_(logits[:, -1:].argmax(-1))

        size = 2 * sum(p.numel() for p in model.parameters()) - 2 * m["vocab"] * m["hidden"]
        bench.report(name, run, size=size)
    except Exception as error:
        print(json.dumps({"name": name, "error": f"{type(error).__name__}: {error}"[:300]}), flush=True)


SECTIONS = {
    "ceilings": lambda bench, cases: ceilings(bench),
    "linear": linears,
    "prefill_attention": prefill_attention,
    "decode_attention": decode_attention,
    "experts": experts,
    "decode": decode,
    "transformers": transformers_loop,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(1)
    with open(args.cases) as file:
        cases = json.load(file)
    bench = Bench(args.smoke)
    if not args.smoke and not torch.cuda.is_available():
        sys.exit("reference.py: PyTorch finds no GPU here; --smoke tests the script on the CPU")
    failed = []
    for section in args.sections:
        try:
            SECTIONS[section](bench, cases)
        except Exception as error:  # The other sections may still run.
            failed.append(f"{section}: {type(error).__name__}: {error}")
    sys.exit("\n".join(failed) or None)


if __name__ == "__main__":
    main()
