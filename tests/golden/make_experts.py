"""Make tests/golden/experts/switch.safetensors: a layer of switch transformers by its formula, in float64.

    x [N, D], router [E, D], up [E, F, D], down [E, D, F], capacity (one number, tokens)
    y [N, D], loss (of balance, coefficient 1), z_loss (transformers' router_z_loss_func), grad.NAME of sum(y cos(arange)) +
    loss + z_loss / 2 for each of x, router, up, down

    python make_experts.py
"""
import torch
from transformers.models.switch_transformers.modeling_switch_transformers import router_z_loss_func

from common import HERE, write

N, D, E, F, CAPACITY = 23, 6, 4, 5, 7
draw = torch.Generator().manual_seed(3)


def randn(*shape):
    return torch.randn(shape, generator=draw).to(torch.float32).double().requires_grad_()


x, router, up, down = randn(N, D), randn(E, D), randn(E, F, D), randn(E, D, F)
p = torch.softmax(x @ router.T, -1)
best, index = p.max(-1)
taken, rows = [0] * E, []
for n in range(N):
    e = index[n].item()
    taken[e] += 1
    kept = taken[e] <= CAPACITY
    rows.append(best[n] * (down[e] @ torch.relu(up[e] @ x[n])) if kept else torch.zeros(D, dtype=torch.float64))
assert max(taken) > CAPACITY
y = torch.stack(rows)
loss = E * sum(taken[e] / N * p[:, e].mean() for e in range(E))
z_loss = router_z_loss_func((x @ router.T)[None])
((y.flatten() * torch.arange(N * D).double().cos()).sum() + loss + z_loss / 2).backward()
write(HERE / "experts" / "switch.safetensors",
      dict(capacity=torch.tensor([float(CAPACITY)]), y=y, loss=loss[None], z_loss=z_loss[None])
      | {k: v for k, v in dict(x=x, router=router, up=up, down=down).items()}
      | {f"grad.{k}": v.grad for k, v in dict(x=x, router=router, up=up, down=down).items()})
