"""Median times of single operations in PyTorch on the CPU, as JSON.

    python torch_ops.py --threads 2
    python torch_ops.py --threads 2 --only softmax attention --compile

Every operation is timed forward, and forward with backward (gradients of all float inputs, a ready
gradient of the output); AdamW is one step, without and with clipping by the norm. Each sample runs an
operation once or for at least 20 ms.

How PyTorch is tuned: its fused kernel where it has one (layer_norm, gelu, softmax, cross_entropy,
scaled_dot_product_attention with is_causal, fused AdamW); swiglu and rope have none and are written
with the fewest passes (--compile lets inductor fuse them, which needs a C++ compiler); gradients are
returned, not accumulated; denormals are flushed; --keep-memory tells malloc to keep freed pages.
Sizes and names are those of `quipu bench ops`.
"""

import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F

from torch_step import keep_memory

TIMED = {}
USUAL = [(1024, 768), (1024, 3072)]


def timed(*sizes):
    def enter(f):
        TIMED[f.__name__] = f, sizes
        return f
    return enter


def leaf(*shape):
    return torch.randn(shape, requires_grad=True)


@timed(*USUAL)
def layer_norm(R, C):
    x, w, b = leaf(R, C), leaf(C), leaf(C)
    return lambda: F.layer_norm(x, (C,), w, b), [x, w, b]


@timed((4096, 256), (16384, 256))
def long_conv(R, C):
    x, k = leaf(1, C, R), leaf(C, R)
    return lambda: torch.fft.irfft(torch.fft.rfft(x, n=2 * R) * torch.fft.rfft(k, n=2 * R), n=2 * R)[..., :R], [x, k]


@timed(*USUAL)
def rms_norm(R, C):
    x, w = leaf(R, C), leaf(C)
    return lambda: F.rms_norm(x, (C,), w, 1e-5), [x, w]


@timed(*USUAL)
def gelu(R, C):
    x = leaf(R, C)
    return lambda: F.gelu(x), [x]


@timed(*USUAL)
def gelu_tanh(R, C):
    x = leaf(R, C)
    return lambda: F.gelu(x, approximate="tanh"), [x]


@timed(*USUAL)
def softmax(R, C):
    x = leaf(R, C)
    return lambda: torch.softmax(x, dim=-1), [x]


def gated(gate, up):
    return F.silu(gate) * up


@timed(*USUAL)
def swiglu(R, C):
    gate, up = leaf(R, C), leaf(R, C)
    return lambda: gated(gate, up), [gate, up]


def rotated(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


@timed(*USUAL)
def rope(R, C):
    x = leaf(4, R // 4, C // 64, 64)
    angle = torch.arange(x.shape[1])[:, None, None] * 10000.0 ** (-torch.arange(32) / 32)
    cos, sin = angle.cos(), angle.sin()
    return lambda: rotated(x, cos, sin), [x]


@timed((1024, 50257))
def cross_entropy(R, C):
    x = leaf(R, C)
    target = torch.randint(C, (R,))
    return lambda: F.cross_entropy(x, target), [x]


@timed((1024, 768))
def linear_cross_entropy(R, C):
    x, w = leaf(R, C), leaf(50257, C)
    target = torch.randint(50257, (R,))
    return lambda: F.cross_entropy(F.linear(x, w), target), [x, w]


@timed((4096, 512), (16384, 512))
def attention(R, C):
    q, k, v = (leaf(1, C // 64, R, 64) for _ in range(3))
    return lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True), [q, k, v]


def median(call, repeats):
    call()
    start = time.perf_counter()
    call()
    calls = max(1, int(0.02 / (time.perf_counter() - start + 1e-9)))
    samples = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(calls):
            call()
        samples.append((time.perf_counter() - start) / calls)
    return statistics.median(samples)


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--repeats", type=int, default=9)
    options.add_argument("--only", nargs="+", help="names of operations")
    options.add_argument("--compile", action="store_true")
    options.add_argument("--keep-memory", action="store_true")
    o = options.parse_args()
    torch.set_num_threads(o.threads)
    torch.set_num_interop_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(1)
    if o.keep_memory:
        keep_memory()
    if o.compile:
        global gated, rotated
        gated, rotated = torch.compile(gated), torch.compile(rotated)
    wanted = o.only or [*TIMED, "adamw"]

    results = []
    for name in wanted:
        if name == "adamw":
            p = torch.randn(38597376, requires_grad=True)      # 50257 x 768
            p.grad = torch.randn_like(p)
            step = torch.optim.AdamW([p], lr=1e-4, weight_decay=0.1, fused=True).step
            clip = lambda: torch.nn.utils.clip_grad_norm_([p], 1.0, foreach=True)
            results.append(dict(op=name, size=[p.numel()], step=median(step, o.repeats),
                                clip_and_step=median(lambda: (clip(), step()), o.repeats)))
            continue
        make, sizes = TIMED[name]
        for size in sizes:
            f, inputs = make(*size)
            out = f().detach()
            ready = torch.ones_like(out) if out.ndim == 0 else torch.randn_like(out)
            with torch.no_grad():
                forward = median(f, o.repeats)
            both = median(lambda: torch.autograd.grad(f(), inputs, ready), o.repeats)
            results.append(dict(op=name, size=list(size), forward=forward, both=both))
    print(json.dumps(dict(peer=f"torch {torch.__version__}", threads=o.threads, repeats=o.repeats, compile=o.compile,
                          keep_memory=o.keep_memory, seconds=results), indent=1))


if __name__ == "__main__":
    main()
