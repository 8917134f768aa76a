"""Times RWKV's recurrences in PyTorch, forward and forward + backward: loops over positions, the fair baseline
of a program without a kernel of its own (inputs taken apart by unbind, states never copied).

    python torch_rwkv.py [--threads N] [--length T] [--width D] [--only wkv4|wkv6|wkv7] [--repeats R]

Prints milliseconds. Beside it: quipu bench ops --only wkv4 --only wkv -t N
"""

import argparse
import time

import torch


def wkv4(w, u, k, v):
    a = b = torch.zeros_like(k[:, 0])
    p = torch.full_like(a, -1e30)
    out = []
    for k, v in zip(k.unbind(1), v.unbind(1)):
        q = torch.maximum(p, u + k)
        old, new = torch.exp(p - q), torch.exp(u + k - q)
        out.append((old * a + new * v) / (old * b + new))
        q = torch.maximum(p + w, k)
        old, new = torch.exp(p + w - q), torch.exp(k - q)
        a, b, p = old * a + new * v, old * b + new, q
    return torch.stack(out, 1)


def wkv6(r, w, k, v, u):
    S = torch.zeros(*k.shape[:1], *k.shape[2:], v.shape[-1])
    out = []
    for r, w, k, v in zip(*(x.unbind(1) for x in (r, w, k, v))):
        new = k[..., :, None] * v[..., None, :]
        out.append((r[..., None, :] @ (S + u[:, :, None] * new)).squeeze(-2))
        S = w[..., :, None] * S + new
    return torch.stack(out, 1)


def wkv7(r, w, k, v, a, b):
    S = torch.zeros(*k.shape[:1], *k.shape[2:], v.shape[-1])
    out = []
    for r, w, k, v, a, b in zip(*(x.unbind(1) for x in (r, w, k, v, a, b))):
        S = w[..., :, None] * S + k[..., :, None] * v[..., None, :] + b[..., :, None] * (a[..., None, :] @ S)
        out.append((r[..., None, :] @ S).squeeze(-2))
    return torch.stack(out, 1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    T, D, H = args.length, args.width, args.width // 64

    def heads(scale=1.0, add=0.0):
        return (torch.randn(1, T, H, 64) * scale + add).requires_grad_()
    cases = {"wkv4": (wkv4, [torch.full((D,), -0.05, requires_grad=True), torch.randn(D, requires_grad=True),
                             torch.randn(1, T, D, requires_grad=True), torch.randn(1, T, D, requires_grad=True)]),
             "wkv6": (wkv6, [heads(), heads(0, 0.95), heads(), heads(), torch.randn(H, 64, requires_grad=True)]),
             "wkv7": (wkv7, [heads(), heads(0, 0.95), heads(), heads(), heads(0, 0.01), heads(0, 0.01)])}
    for name, (run, inputs) in cases.items():
        if args.only not in (None, name):
            continue
        forward, both = [], []
        for _ in range(args.repeats):
            with torch.no_grad():
                start = time.perf_counter()
                run(*inputs)
                forward.append(time.perf_counter() - start)
            start = time.perf_counter()
            run(*inputs).sum().backward()
            both.append(time.perf_counter() - start)
        print(f"{name} T={T} D={D}: forward {sorted(forward)[len(forward) // 2] * 1e3:.1f} ms, "
              f"forward and backward {sorted(both)[len(both) // 2] * 1e3:.1f} ms")


if __name__ == "__main__":
    main()
