"""Mixers with a state in float64, from their definitions: tests/golden/state_spaces/NAME.safetensors.

A file holds the parameters of a mixer of width 4 by their names here, in.x [2, T, 4], out.y, and for each
parameter NAME and x grad.NAME: the gradient of the sum of y * cos(arange). Metadata "config": the part.

S4 and S4D: for each channel the whole matrix A (a pole and its conjugate for each of N), made discrete, and
powers of it one after another; nothing is diagonal that need not be, no transform, no Cauchy sum.

    python make_state_spaces.py

Needs torch, numpy and safetensors.
"""
import json

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from common import HERE

D, B, N = 4, 2, 3
draw = torch.Generator().manual_seed(5)


def randn(*shape, scale=1.0):
    return (scale * torch.randn(shape, generator=draw)).float().double()


def legs(n):
    """HiPPO-LegS as in the paper, and what S4 makes of it."""
    i = np.arange(n)
    root = np.sqrt(2 * i + 1)
    A = -np.tril(np.outer(root, root), -1) - np.diag(i + 1.0)
    P, Bv = np.sqrt(i + 0.5), root
    S = A + np.outer(P, P)
    values, V = np.linalg.eigh(-1j * (S - np.diag(np.diag(S))))
    keep = values > 0
    V = V[:, keep]
    return -0.5 + 1j * values[keep], V.conj().T @ Bv, V.conj().T @ P


def legt(n):
    """HiPPO-LegT as S4's authors have it (halved), less two columns P: of odd rows and of even ones."""
    i = np.arange(n)
    root = np.sqrt(2 * i + 1)
    sign = np.where(i[:, None] < i[None, :], (-1.0) ** (i[:, None] - i[None, :]), 1)
    A, Bv = -0.5 * np.outer(root, root) * sign, 0.5 * root
    P = np.stack([np.where(i % 2 == odd, root, 0) for odd in (1, 0)]) / np.sqrt(2)
    S = A + P.T @ P
    assert np.abs(S + S.T).max() < 1e-12
    values, V = np.linalg.eigh(-1j * S)
    keep = values > 0
    V = V[:, keep]
    return 1j * values[keep] - 1e-4, V.conj().T @ Bv, (V.conj().T @ P.T).T


def both(z):
    return torch.cat([z, z.conj()])


def parameters(matrix=legs):
    poles, b, p = (torch.tensor(x) for x in matrix(2 * N))
    repeat = lambda z: z.repeat(D, 1).float().double()
    w = {"log_dt": randn(D, scale=0.7) - 2, "log_real": repeat(torch.log(-poles.real)), "imag": repeat(poles.imag),
         "c_re": randn(D, N), "c_im": randn(D, N), "skip": randn(D), "out.weight": randn(2 * D, D), "out.bias": randn(2 * D)}
    low = {"b_re": repeat(b.real), "b_im": repeat(b.imag)}
    for i, one in enumerate(p.view(-1, N)):
        low |= {f"p{'2' * i}_re": repeat(one.real), f"p{'2' * i}_im": repeat(one.imag)}
    return w, {k: v + randn(D, N, scale=0.1) for k, v in low.items()}


def kernel(w, d, T, bilinear):
    dt = torch.exp(w["log_dt"][d])
    A = torch.diag(both(torch.complex(-torch.exp(w["log_real"][d]), w["imag"][d])))
    C = both(torch.complex(w["c_re"][d], w["c_im"][d]))
    b = torch.ones(2 * N, dtype=torch.complex128)
    if "p_re" in w:
        b = both(torch.complex(w["b_re"][d], w["b_im"][d]))
    for k in ("p", "p2"):
        if k + "_re" in w:
            P = both(torch.complex(w[k + "_re"][d], w[k + "_im"][d]))
            A = A - torch.outer(P, P.conj())
    eye = torch.eye(2 * N, dtype=torch.complex128)
    if bilinear:
        left = torch.linalg.inv(eye - dt / 2 * A)
        step, x = left @ (eye + dt / 2 * A), left @ (dt * b)
    else:
        step = torch.matrix_exp(dt * A)
        x = torch.linalg.solve(A, (step - eye) @ b)
    out = []
    for _ in range(T):
        out.append((C @ x).real)
        x = step @ x
    return torch.stack(out)


def state_space(w, x, bilinear):
    T = x.shape[1]
    k = torch.stack([kernel(w, d, T, bilinear) for d in range(D)], 1)
    y = torch.stack([(k[:t + 1].flip(0) * x[:, :t + 1]).sum(1) for t in range(T)], 1)
    y = F.linear(F.gelu(y + w["skip"] * x), w["out.weight"], w["out.bias"])
    return y[..., :D] * torch.sigmoid(y[..., D:])


def write(name, config, w, f, T):
    w = {k: v.clone().requires_grad_() for k, v in w.items()}
    x = randn(B, T, D).requires_grad_()
    y = f(w, x)
    total = (y * torch.arange(y.numel()).double().cos().view(y.shape)).sum()
    grads = torch.autograd.grad(total, [*w.values(), x])
    tensors = {"in.x": x, "out.y": y, **w, **{"grad." + k: g for k, g in zip([*w, "x"], grads)}}
    folder = HERE / "state_spaces"
    folder.mkdir(exist_ok=True)
    save_file({k: v.detach().contiguous() for k, v in tensors.items()}, folder / f"{name}.safetensors",
              {"config": json.dumps(config)})


for name, part, low_rank, bilinear in [("s4", {"type": "s4"}, True, True), ("s4d", {"type": "s4d"}, False, False),
                                       ("s4d-bilinear", {"type": "s4d", "discrete": "bilinear"}, False, True)]:
    w, low = parameters()
    write(name, {**part, "state": 2 * N}, {**w, **(low if low_rank else {})}, lambda w, x: state_space(w, x, bilinear), 90)

before_legt, draw = draw, torch.Generator().manual_seed(6)
w, low = parameters(legt)
write("s4-legt", {"type": "s4", "hippo": "legt", "state": 2 * N}, {**w, **low}, lambda w, x: state_space(w, x, True), 90)
draw = before_legt

# The LRU as published: complex states one after another.
def lru(w, x):
    size = torch.exp(-torch.exp(w["nu_log"]))
    p = torch.polar(size, torch.exp(w["theta_log"]))
    n = len(p)
    b = torch.complex(w["b.weight"][:n], w["b.weight"][n:]) * torch.exp(w["gamma_log"])[:, None]
    c = torch.complex(w["c.weight"][:, :n], -w["c.weight"][:, n:])
    h, rows = torch.zeros(x.shape[0], n, dtype=torch.complex128), []
    for t in range(x.shape[1]):
        h = p * h + x[:, t].to(torch.complex128) @ b.T
        rows.append((h @ c.T).real)
    y = F.linear(F.gelu(torch.stack(rows, 1) + w["skip"] * x), w["out.weight"], w["out.bias"])
    return y[..., :D] * torch.sigmoid(y[..., D:])


radius = 0.9 + 0.099 * torch.rand(5, generator=draw).double()
write("lru", {"type": "lru", "state": 5},
      {"nu_log": torch.log(-torch.log(radius)).float().double(), "theta_log": randn(5), "gamma_log": randn(5),
       "skip": randn(D), "b.weight": randn(10, D), "c.weight": randn(D, 10), "out.weight": randn(2 * D, D), "out.bias": randn(2 * D)},
      lru, 90)
