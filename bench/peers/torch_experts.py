"""Milliseconds of transformers' MixtralSparseMoeBlock, forward and both ways, on the CPU: beside `quipu bench experts`.

    python torch_experts.py --threads 2 --repeats 7

The sizes are those of the bench. `eager` takes experts one after another, `grouped_mm` all at once. dense is a SwiGLU
of as many active products. malloc keeps freed pages, which helps all of them.
"""

import argparse
import json
import statistics
import time

import torch
from torch_step import keep_memory
from transformers import MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

args = argparse.ArgumentParser()
args.add_argument("--threads", type=int, default=2)
args.add_argument("--repeats", type=int, default=7)
args.add_argument("--tokens", type=int, nargs="*", default=[4096, 1024, 1])
args.add_argument("--ways", nargs="*", default=["eager", "grouped_mm"])
args = args.parse_args()
torch.set_num_threads(args.threads)
torch.set_flush_denormal(True)
keep_memory()
D, F = 512, 1408


class Dense(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.up, self.down = (torch.nn.Linear(*s, bias=False) for s in [(D, 2 * F), (D, 2 * F), (2 * F, D)])

    def forward(self, x):
        return self.down(torch.nn.functional.silu(self.gate(x)) * self.up(x))


def mixture(way):
    config = MixtralConfig(hidden_size=D, intermediate_size=F, num_local_experts=8, num_experts_per_tok=2)
    config._experts_implementation = way
    layer = MixtralSparseMoeBlock(config)
    for p in layer.parameters():
        torch.nn.init.normal_(p, std=0.04)
    return layer


def once(layer, x, both):
    start = time.perf_counter()
    if both:
        layer(x).sum().backward()
    else:
        with torch.no_grad():
            layer(x)
    seconds = time.perf_counter() - start
    for p in [x, *layer.parameters()]:
        p.grad = None
    return seconds


layers = {"dense": Dense()} | {way: mixture(way) for way in args.ways}
for tokens in args.tokens:
    for both in [False, True] if tokens > 1 else [False]:
        x = torch.randn(1, tokens, D, requires_grad=both)
        times = {name: [] for name in layers}
        for r in range(args.repeats + 1):
            for name, layer in layers.items():
                seconds = once(layer, x, both)
                if r:
                    times[name].append(seconds)
        print(json.dumps(dict(tokens=tokens, pass_="both" if both else "forward")
                         | {name: round(1e3 * statistics.median(t), 3) for name, t in times.items()}), flush=True)
