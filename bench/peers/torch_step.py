"""Seconds per training step of GPT-2 in PyTorch, with random weights, on the CPU.

    python torch_step.py --batch 4 --length 1024 --threads 2
    python torch_step.py --layers 6 --width 384 --batch 8 --length 256 --dtype bf16

Without --layers and --width it is the 124M model: 12 layers, width 768, vocabulary 50257, tied head.
A step is forward with loss, backward, AdamW with decay on matrices; no dropout, no clipping. Prints
one JSON: medians of the whole step and of its three parts, the model's parameters, the peak resident
memory and what of it the import of torch alone took.

How PyTorch is tuned: linear layers for the products (MKL or oneDNN beneath), fused causal
scaled_dot_product_attention, fused layer norm and tanh gelu, gradients set to none, fused AdamW,
flushed denormals, as many threads as asked for inside operations and one between them. Further,
where they help on the machine at hand (try all and take the best):

    --model transformers   the model of transformers with the same attention, for the plain one here
    --compile              torch.compile, which needs a C++ compiler
    --keep-memory          tell malloc to keep freed pages, so that large tensors do not fault anew

bf16 is autocast over float32 weights.
"""

import argparse
import contextlib
import ctypes
import json
import resource
import statistics
import time

import torch
import torch.nn as nn
import torch.nn.functional as F


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
                   for part in self.qkv(self.norm1(x)).chunk(3, dim=-1))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.project(mixed.transpose(1, 2).flatten(2))
        return x + self.narrow(F.gelu(self.widen(self.norm2(x)), approximate="tanh"))


class GPT2(nn.Module):
    def __init__(self, vocab, length, layers, width, heads):
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocab, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.tokens.weight, std=0.02)

    def forward(self, ids):
        x = self.tokens(ids) + self.places.weight[:ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.tokens.weight)


def published(vocab, length, layers, width, heads):
    from transformers import GPT2Config, GPT2LMHeadModel
    model = GPT2LMHeadModel(GPT2Config(vocab_size=vocab, n_positions=length, n_layer=layers, n_embd=width, n_head=heads,
                                       resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, attn_implementation="sdpa"))
    forward = model.forward
    model.forward = lambda ids: forward(ids, use_cache=False).logits
    return model


def keep_memory():
    """No mapping per allocation (M_MMAP_MAX), no return of the heap's top (M_TRIM_THRESHOLD)."""
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(-4, 0)
    mallopt(-1, 2**31 - 1)


def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, default in dict(batch=4, length=1024, threads=1, steps=10, warmup=2,
                              layers=12, width=768, vocab=50257).items():
        options.add_argument(f"--{name}", type=int, default=default)
    options.add_argument("--heads", type=int, help="one for every 64 of the width if not given")
    options.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    options.add_argument("--model", choices=["plain", "transformers"], default="plain")
    options.add_argument("--compile", action="store_true")
    options.add_argument("--keep-memory", action="store_true")
    o = options.parse_args()
    o.heads = o.heads or max(1, o.width // 64)

    imported = peak_mb()
    torch.set_num_threads(o.threads)
    torch.set_num_interop_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(1)
    if o.keep_memory:
        keep_memory()

    make = GPT2 if o.model == "plain" else published
    model = make(o.vocab, o.length, o.layers, o.width, o.heads).train()
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW([dict(params=matrices, weight_decay=0.1), dict(params=vectors, weight_decay=0.0)],
                                  lr=1e-4, betas=(0.9, 0.95), fused=True)
    autocast = torch.autocast("cpu", torch.bfloat16) if o.dtype == "bf16" else contextlib.nullcontext()

    def loss_of(ids, targets):
        with autocast:
            return F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())

    if o.compile:
        loss_of = torch.compile(loss_of)

    times = []
    for _ in range(o.warmup + o.steps):
        tokens = torch.randint(o.vocab, (o.batch, o.length + 1))
        marks = [time.perf_counter()]
        loss = loss_of(tokens[:, :-1], tokens[:, 1:])
        marks.append(time.perf_counter())
        loss.backward()
        marks.append(time.perf_counter())
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        marks.append(time.perf_counter())
        times.append([b - a for a, b in zip(marks, marks[1:])] + [marks[-1] - marks[0]])

    forward, backward, update, step = (round(statistics.median(t), 6) for t in zip(*times[o.warmup:]))
    print(json.dumps(dict(
        peer=f"torch {torch.__version__}", **vars(o), parameters=sum(p.numel() for p in model.parameters()),
        seconds_per_step=step, forward=forward, backward=backward, optimizer=update,
        tokens_per_second=round(o.batch * o.length / step, 1), loss=round(loss.item(), 4),
        peak_rss_mb=round(peak_mb(), 1), import_rss_mb=round(imported, 1))))


if __name__ == "__main__":
    main()
