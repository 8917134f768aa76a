"""Make tests/golden/autocast.safetensors: one block and its loss, exactly and under torch.autocast.

    h = x + attention(x qkv^T) out^T, y = h + gelu(h up^T) down^T, the mean cross-entropy of y head^T

    x, qkv, out, up, down, head     inputs: float32; targets: int64
    exact.loss, exact.NAME          the loss and its gradients in float64, stored as float32
    bf16.loss, bf16.NAME            the same by torch.autocast("cpu", torch.bfloat16)

    python make_autocast.py

Needs torch and safetensors.
"""

import torch
import torch.nn.functional as F

from common import HERE, write

B, T, H, K, D, M, V = 2, 12, 2, 12, 24, 40, 20

draw = torch.Generator().manual_seed(7)
inputs = {
    name: torch.randn(shape, generator=draw) * scale
    for name, shape, scale in (
        ("x", (B, T, D), 1.0),
        ("qkv", (3 * D, D), 0.2),
        ("out", (D, D), 0.15),
        ("up", (M, D), 0.15),
        ("down", (D, M), 0.15),
        ("head", (V, D), 0.2),
    )
}
targets = torch.randint(V, (B, T), generator=draw)


def loss_of(x, qkv, out, up, down, head):
    q, k, v = (part.view(B, T, H, K).transpose(1, 2) for part in F.linear(x, qkv).split(D, dim=-1))
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(B, T, D)
    h = x + F.linear(mixed, out)
    y = h + F.linear(F.gelu(F.linear(h, up)), down)
    return F.cross_entropy(F.linear(y, head).flatten(0, 1), targets.flatten())


def run(dtype, autocast):
    leaves = {name: value.to(dtype).requires_grad_() for name, value in inputs.items()}
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = loss_of(**leaves)
    loss.backward()
    return {"loss": loss.float()} | {name: leaf.grad.float() for name, leaf in leaves.items()}


tensors = inputs | {"targets": targets}
for tag, found in (("exact", run(torch.float64, False)), ("bf16", run(torch.float32, True))):
    tensors |= {f"{tag}.{name}": value for name, value in found.items()}
write(HERE / "autocast.safetensors", tensors)
