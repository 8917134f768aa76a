"""Median times of mixers in PyTorch on the CPU, beside `quipu bench mixers`.

    python torch_mixers.py --threads 2 --batch 1 --length 8192 [--only linear performer ...]

A mixer of width 512, 8 heads of 64, with its products in and out; forward without gradients, and forward with
backward (gradients of the input and of all weights). Linear attention, Performer, retention and FLASH are written
in chunks, as their authors' fast forms are: within a chunk all pairs, between chunks a cumulative sum of k^T v
(chunks of 128; FLASH 256). That is the fastest form found with PyTorch's own operations: a cumulative sum of every
position's k v^T, which fast-transformers and performer-pytorch use without their CUDA kernels, takes 64 times the
memory. Nyström and Mamba-2 are transformers' classes; Linformer and GAU are written with
scaled_dot_product_attention and products. S4 and S4D make their kernels in one product and convolve by FFT, as the
authors' code does where it has no CUDA. The LRU, Mamba (scan.py) and RWKV-4 (torch_rwkv.py) are loops over positions
that are unbound once, which transformers' classes are not: those take longer.
--length is measured, and twice that.
"""

import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F

from scan import scan
from torch_rwkv import wkv4
from torch_step import keep_memory

D, H, K = 512, 8, 64


class Mixer(torch.nn.Module):
    values = D

    def __init__(self, T):
        super().__init__()
        self.q, self.k = (torch.nn.Linear(D, D, bias=False) for _ in range(2))
        self.v, self.out = torch.nn.Linear(D, self.values, bias=False), torch.nn.Linear(self.values, D, bias=False)

    def forward(self, x):
        B, T = x.shape[:2]
        q, k, v = (w(x).view(B, T, H, -1).transpose(1, 2) for w in (self.q, self.k, self.v))
        return self.end(x, self.mix(q, k, v).transpose(1, 2).reshape(B, T, -1))

    def end(self, x, y):
        return self.out(y)


def chunked(q, k, v, C=128, decay=None):
    """sum over s <= t of decay^(t-s) (q_t k_s) v_s; q, k, v [B, H, T, .]"""
    B, H, T, _ = q.shape
    q, k, v = (y.view(B, H, T // C, C, -1) for y in (q, k, v))
    if decay is None:
        state = (k.mT @ v).cumsum(2)
        state = torch.cat([torch.zeros_like(state[:, :, :1]), state[:, :, :-1]], 2)
        return ((q @ k.mT).tril() @ v + q @ state).reshape(B, H, T, -1)
    i = torch.arange(C)
    gap = (i[:, None] - i)
    within = torch.where(gap >= 0, decay[:, None, None] ** gap.clamp(min=0), 0.)[:, None]
    sums = (k * (decay[:, None] ** (C - 1 - i))[:, None, :, None]).mT @ v
    states, state = [], torch.zeros_like(sums[:, :, 0])
    for n in range(T // C):
        states.append(state)
        state = state * (decay ** C)[:, None, None] + sums[:, :, n]
    across = (q * (decay[:, None] ** (i + 1))[:, None, :, None]) @ torch.stack(states, 2)
    return ((q @ k.mT * within) @ v + across).reshape(B, H, T, -1)


def normalized(q, k, v):
    y = chunked(q, k, F.pad(v, (0, 1), value=1.0))
    return y[..., :-1] / (y[..., -1:] + 1e-6)


class linear(Mixer):
    def mix(self, q, k, v):
        return normalized(F.elu(q) + 1, F.elu(k) + 1, v)


class performer(Mixer):
    def __init__(self, T):
        super().__init__(T)
        self.register_buffer("w", torch.randn(256, K))

    def features(self, x, query):
        x = x * K ** -0.25
        y = x @ self.w.T
        c = y.amax(-1, keepdim=True).detach() if query else 0
        return (y - x.square().sum(-1, keepdim=True) / 2 - c).exp() + 1e-6

    def mix(self, q, k, v):
        return normalized(self.features(q, True), self.features(k, False), v)


class retnet(Mixer):
    values = 2 * D

    def __init__(self, T):
        super().__init__(T)
        self.gate = torch.nn.Linear(D, 2 * D, bias=False)
        angle = torch.arange(T)[:, None] * 10000 ** -torch.linspace(0, 1, K // 2)
        self.register_buffer("sin", angle.sin().repeat_interleave(2, -1))
        self.register_buffer("cos", angle.cos().repeat_interleave(2, -1))
        self.register_buffer("decay", 1 - 2.0 ** (-5 - torch.arange(H)))

    def turned(self, x):
        return x * self.cos + torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2) * self.sin

    def mix(self, q, k, v):
        return F.rms_norm(chunked(self.turned(q) * K ** -0.5, self.turned(k), v, decay=self.decay), (2 * K,), eps=1e-6)

    def end(self, x, y):
        return self.out(F.silu(self.gate(x)) * y)


class linformer(Mixer):
    def __init__(self, T):
        super().__init__(T)
        self.e, self.f = (torch.nn.Parameter(torch.randn(256, T) * 0.02) for _ in range(2))

    def mix(self, q, k, v):
        return F.scaled_dot_product_attention(q, self.e @ k, self.f @ v)


class nystrom(Mixer):
    def __init__(self, T):
        super().__init__(T)
        from transformers import NystromformerConfig
        from transformers.models.nystromformer.modeling_nystromformer import NystromformerSelfAttention
        config = NystromformerConfig(hidden_size=D, num_attention_heads=H, num_landmarks=64, segment_means_seq_len=T)
        self.inner = NystromformerSelfAttention(config).eval()

    def forward(self, x):
        return self.out(self.inner(x)[0])


class mamba2(torch.nn.Module):
    def __init__(self, T):
        super().__init__()
        from transformers import Mamba2Config
        from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer
        config = Mamba2Config(hidden_size=D, num_heads=2 * D // K, head_dim=K, n_groups=1, state_size=128, chunk_size=256)
        self.inner = Mamba2Mixer(config, 0)

    def forward(self, x):
        return self.inner(x)


def gated_out(y, out):
    return F.glu(out(F.gelu(y)), -1)


class s4d(torch.nn.Module):
    N = 32

    def __init__(self, T):
        super().__init__()
        self.log_dt = torch.nn.Parameter(torch.rand(D) * 4.6 - 6.9)
        self.log_real = torch.nn.Parameter(torch.full((D, self.N), 0.5).log())
        self.imag = torch.nn.Parameter(torch.pi * torch.arange(float(self.N)).repeat(D, 1))
        self.c = torch.nn.Parameter(torch.randn(D, self.N, 2))
        self.skip, self.out = torch.nn.Parameter(torch.randn(D)), torch.nn.Linear(D, 2 * D)

    def kernel(self, T):
        poles = torch.complex(-self.log_real.exp(), self.imag)
        step = poles * self.log_dt.exp()[:, None]
        c = torch.view_as_complex(self.c) * (step.exp() - 1) / poles
        powers = (step[..., None] * torch.arange(T)).exp()
        return 2 * torch.einsum("dn,dnt->dt", c, powers).real

    def forward(self, x):
        T, u = x.shape[1], x.mT
        y = torch.fft.irfft(torch.fft.rfft(u, 2 * T) * torch.fft.rfft(self.kernel(T), 2 * T), 2 * T)[..., :T]
        return gated_out((y + self.skip[:, None] * u).mT, self.out)


class s4(s4d):
    """The generating function at the roots of unity by Cauchy sums, as the authors' code has it without its kernels."""

    def __init__(self, T):
        super().__init__(T)
        self.b, self.p = (torch.nn.Parameter(torch.randn(D, self.N, 2)) for _ in range(2))

    def kernel(self, T):
        dt = self.log_dt.exp()[:, None]
        poles, b, p, c = torch.complex(-self.log_real.exp(), self.imag) * dt, *map(torch.view_as_complex, (self.b, self.p, self.c))
        z = torch.polar(torch.ones(T // 2 + 1), -2 * torch.pi * torch.arange(T // 2 + 1) / T)
        at = 2 * (1 - z) / (1 + z)
        left, right = torch.stack([c, p.conj()]), torch.stack([b, p])
        v = left[:, None] * right[None] * dt
        cauchy = sum((w[..., None] / (at - pole[..., None])).sum(-2) for w, pole in ((v, poles), (v.conj(), poles.conj())))
        f = cauchy[0, 0] - cauchy[0, 1] * cauchy[1, 0] / (1 + cauchy[1, 1])
        return torch.fft.irfft(f * 2 / (1 + z), T)


class lru(torch.nn.Module):
    def __init__(self, T):
        super().__init__()
        self.nu, self.theta, self.gamma = (torch.nn.Parameter(torch.randn(D) - 2) for _ in range(3))
        self.b, self.c = (torch.nn.Linear(D, 2 * D, bias=False) for _ in range(2))
        self.skip, self.out = torch.nn.Parameter(torch.randn(D)), torch.nn.Linear(D, 2 * D)

    def forward(self, x):
        pole = torch.polar((-self.nu.exp()).exp(), self.theta.exp())
        u = torch.view_as_complex(self.b(x).unflatten(-1, (D, 2))) * self.gamma.exp()
        h, rows = torch.zeros_like(u[:, 0]), []
        for u_t in u.unbind(1):
            h = pole * h + u_t
            rows.append(h)
        y = F.linear(torch.view_as_real(torch.stack(rows, 1)).flatten(-2), self.c.weight.T)
        return gated_out(y + self.skip * x, self.out)


class mamba(torch.nn.Module):
    I, N, R = 2 * D, 16, D // 16

    def __init__(self, T):
        super().__init__()
        self.inner, self.x = torch.nn.Linear(D, 2 * self.I, bias=False), torch.nn.Linear(self.I, self.R + 2 * self.N, bias=False)
        self.conv = torch.nn.Conv1d(self.I, self.I, 4, padding=3, groups=self.I)
        self.dt, self.out = torch.nn.Linear(self.R, self.I), torch.nn.Linear(self.I, D, bias=False)
        self.rate = torch.nn.Parameter(torch.arange(1.0, self.N + 1).log().repeat(self.I, 1))
        self.skip = torch.nn.Parameter(torch.ones(self.I))

    def forward(self, x):
        u, gate = self.inner(x).chunk(2, -1)
        u = F.silu(self.conv(u.mT)[..., :x.shape[1]].mT)
        d, b, c = self.x(u).split([self.R, self.N, self.N], -1)
        return self.out(F.silu(gate) * scan(u, F.softplus(self.dt(d)), self.rate.exp(), b, c, self.skip))


class rwkv4(torch.nn.Module):
    def __init__(self, T):
        super().__init__()
        self.mix = torch.nn.Parameter(torch.rand(3, D))
        self.w, self.u = torch.nn.Parameter(torch.rand(D)), torch.nn.Parameter(torch.rand(D))
        self.r, self.k, self.v, self.out = (torch.nn.Linear(D, D, bias=False) for _ in range(4))

    def forward(self, x):
        before = F.pad(x, (0, 0, 1, -1))
        r, k, v = (w(x * m + before * (1 - m)) for w, m in zip((self.r, self.k, self.v), self.mix))
        return self.out(r.sigmoid() * wkv4(-self.w.exp(), self.u, k, v))


class gau(torch.nn.Module):
    sides = 2

    def __init__(self, T):
        super().__init__()
        self.u, self.v = (torch.nn.Linear(D, 2 * D, bias=False) for _ in range(2))
        self.z, self.out = torch.nn.Linear(D, 128, bias=False), torch.nn.Linear(2 * D, D, bias=False)
        self.scale = torch.nn.Parameter(torch.ones(self.sides, 128))
        self.offset = torch.nn.Parameter(torch.zeros(self.sides, 128))

    def forward(self, x):
        u, v, z = F.silu(self.u(x)), F.silu(self.v(x)), F.silu(self.z(x))
        return self.out(u * self.mix([z * s + o for s, o in zip(self.scale, self.offset)], v))

    def mix(self, sides, v):
        q, k = sides
        return (F.relu(q @ k.mT * 128 ** -0.5).square().tril() @ v) / torch.arange(1, v.shape[1] + 1)[:, None]


class flash(gau):
    sides = 4

    def mix(self, sides, v, C=256):
        B, T = v.shape[:2]
        q1, k1, q2, k2, v = (y.view(B, T // C, C, -1) for y in (*sides, v))
        state = (k2.mT @ v / C).cumsum(1)
        state = torch.cat([torch.zeros_like(state[:, :1]), state[:, :-1]], 1)
        return (F.relu(q1 @ k1.mT / C).square().tril() @ v + q2 @ state).reshape(B, T, -1)


MIXERS = [linear, performer, retnet, nystrom, linformer, flash, gau, mamba2, s4, s4d, lru, mamba, rwkv4]


def median(call, repeats):
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--batch", type=int, default=1)
    options.add_argument("--length", type=int, default=8192)
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--only", nargs="+", choices=[m.__name__ for m in MIXERS], metavar="MIXER", help="these alone")
    o = options.parse_args()
    torch.set_num_threads(o.threads)
    torch.set_flush_denormal(True)
    keep_memory()
    for make in MIXERS:
        if o.only and make.__name__ not in o.only:
            continue
        row = dict(mixer=make.__name__, batch=o.batch, length=o.length, forward_seconds=[], both_seconds=[])
        for T in (o.length, 2 * o.length):
            m, x, seed = make(T), torch.randn(o.batch, T, D, requires_grad=True), torch.randn(o.batch, T, D)
            inputs = [x] + [p for p in m.parameters() if p.requires_grad]
            with torch.no_grad():
                row["forward_seconds"].append(median(lambda: m(x), o.repeats))
            row["both_seconds"].append(median(lambda: torch.autograd.grad(m(x), inputs, seed, allow_unused=True), o.repeats))
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
