"""The selective scan as PyTorch runs it without a kernel of its own: one position after another over tensors that are
unbound once, forward and backward, beside what `quipu bench ops --only selective_scan` prints.

    python scan.py [B] [T] [D]      default 1 512 768, 16 states, two threads

Needs torch. Prints the median of five in milliseconds.
"""

import statistics
import sys
import time

import torch

N = 16


def scan(u, delta, rate, b, c, skip):
    """u, delta [B, T, D], rate [D, N], b, c [B, T, N], skip [D]"""
    a = torch.exp(-delta[..., None] * rate)
    x = (delta * u)[..., None] * b[:, :, None]
    h, ys = torch.zeros_like(a[:, 0]), []
    for a_t, x_t, c_t in zip(a.unbind(1), x.unbind(1), c.unbind(1)):
        h = a_t * h + x_t
        ys.append((h @ c_t[..., None]).squeeze(-1))
    return torch.stack(ys, 1) + skip * u


def main():
    torch.set_num_threads(2)
    B, T, D = (int(x) for x in (sys.argv[1:] + ["1", "512", "768"][len(sys.argv) - 1:]))
    draw = torch.Generator().manual_seed(1)

    def normal(*shape):
        return torch.randn(*shape, generator=draw)
    inputs = [normal(B, T, D), torch.nn.functional.softplus(normal(B, T, D) - 3), 16 * torch.rand(D, N, generator=draw),
              normal(B, T, N), normal(B, T, N), normal(D)]
    for x in inputs:
        x.requires_grad_(True)
    times, seed = {"forward": [], "both": []}, normal(B, T, D)
    for i in range(6):
        start = time.perf_counter()
        with torch.no_grad():
            scan(*inputs)
        middle = time.perf_counter()
        torch.autograd.grad(scan(*inputs), inputs, seed)
        if i:
            times["forward"].append(middle - start)
            times["both"].append(time.perf_counter() - middle)
    print(f"B {B} T {T} D {D} N {N}:", ", ".join(f"{k} {1e3 * statistics.median(v):.1f} ms" for k, v in times.items()))


if __name__ == "__main__":
    main()
