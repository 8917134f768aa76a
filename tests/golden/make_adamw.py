"""Make tests/golden/adamw/*.safetensors: what twenty optimiser steps do to a model.

Starting from the weights of tests/golden/models/NAME (run make_models.py first), NAME.safetensors
records a run of AdamW and sgd-NAME.safetensors one of SGD with momentum:

    input_ids      [20, B, T] int64, one batch for each step
    lr             [20] float32, the learning rate of each step
    losses         [20] float32, the mean next-token cross-entropy before each step's update
    final.PARAM    like PARAM, float32, after the last step
    metadata       "attrs": JSON with the name of the model and every setting

Gradients are scaled by min(1, clip / (norm + 1e-6)), norm over all of them. Decay reaches only
parameters of two or more axes; AdamW's is decoupled, SGD's is added to the clipped gradient. There
is no dampening and no Nesterov step; the momentum buffer starts as the first gradient. All of it is
torch.optim in float64.

A float32 engine follows closely: torch's own has every loss within 1e-6 and every value within 3e-4
(SGD: 1e-6), but for the key third of GPT-2's c_attn.bias. Its gradient is zero in truth, Adam's
quotient turns the rounding noise into steps, and it may end 1e-2 away; the loss does not feel it.

    python make_adamw.py

Needs torch, transformers and safetensors.
"""

import torch
from safetensors.torch import load_file
from transformers import AutoConfig

from common import HERE, build, exact, loss_of, random_ids, write

STEPS, BATCH, LENGTH = 20, 3, 14
ADAMW = dict(optimizer="adamw", lr=1e-2, betas=[0.9, 0.95], eps=1e-8, weight_decay=0.1, clip=1.0)
SGD = dict(optimizer="sgd", lr=5e-2, momentum=0.9, weight_decay=0.01, clip=1.0)


def groups(model, decay):
    """Parameters in two groups: matrices decay, vectors do not."""
    return [dict(params=[p for p in model.parameters() if p.ndim >= 2], weight_decay=decay),
            dict(params=[p for p in model.parameters() if p.ndim < 2], weight_decay=0.0)]


def optimiser(model, settings):
    parts = groups(model, settings["weight_decay"])
    if settings["optimizer"] == "sgd":
        return torch.optim.SGD(parts, lr=settings["lr"], momentum=settings["momentum"])
    return torch.optim.AdamW(parts, lr=settings["lr"], betas=tuple(settings["betas"]), eps=settings["eps"])


def train(model, optimizer, batches, clip):
    """The loss before each step."""
    losses = []
    for ids in batches:
        loss = loss_of(model(ids, use_cache=False).logits, ids)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        losses.append(loss.item())
    return losses


def make(file, name, settings, seed):
    folder = HERE / "models" / name
    config = AutoConfig.from_pretrained(folder)
    batches = random_ids(config.vocab_size, STEPS, BATCH, LENGTH, seed=seed)
    weights = load_file(folder / "model.safetensors")
    with exact():
        model = build(config, weights)
        losses = train(model, optimiser(model, settings), batches, settings["clip"])
    final = {f"final.{key}": p.to(torch.float32) for key, p in model.named_parameters()}
    write(HERE / "adamw" / f"{file}.safetensors",
          {"input_ids": batches, "lr": torch.full([STEPS], settings["lr"]), "losses": torch.tensor(losses), **final},
          dict(model=name, **settings))
    print(f"{file:22} loss {losses[0]:.4f} -> {losses[-1]:.4f}")


if __name__ == "__main__":
    for seed, name in enumerate(["gpt2", "llama-gqa-tied", "qwen2"]):
        make(name, name, ADAMW, 7000 + seed)
    make("sgd-llama-gqa-tied", "llama-gqa-tied", SGD, 7100)
