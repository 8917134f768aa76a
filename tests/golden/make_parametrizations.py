"""muP by its authors' package in float64: tests/golden/parametrizations/NAME.safetensors.

A file holds the weights of a small model before (NAME) and after (after.NAME) five steps of an optimiser, by their names here, ids
and labels [2, 8] and the logits behind; and, for each weight, the deviation that the package would draw it with
where the base's is 1 (std.NAME, measured). Metadata "config": the model; "optimizer": its kind.

    python make_parametrizations.py

Needs torch, mup and safetensors.
"""
import json

import torch
import torch.nn.functional as F
from mup import MuAdamW, MuReadout, MuSGD, MuSharedReadout, init, set_base_shapes
from safetensors.torch import save_file
from torch import nn

from common import HERE

V, BASE, D, HEADS = 11, 4, 16, 2


class Norm(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d))

    def forward(self, x):
        return self.weight * x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6)


class Model(nn.Module):
    def __init__(self, d, tied):
        super().__init__()
        self.d = d
        self.embed = nn.Embedding(V, d)
        self.q, self.k, self.v, self.out = (nn.Linear(d, d, bias=False) for _ in range(4))
        self.norm1, self.norm2, self.norm = Norm(d), Norm(d), Norm(d)
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)
        self.head = MuSharedReadout(self.embed.weight, bias=False) if tied else MuReadout(d, V, bias=False)

    def forward(self, ids):
        x = self.embed(ids)
        h, K = self.norm1(x), self.d // HEADS
        q, k, v = (f(h).view(*ids.shape, HEADS, K).transpose(1, 2) for f in (self.q, self.k, self.v))
        s = q @ k.transpose(2, 3) * (BASE // HEADS) ** 0.5 / K
        s = s.masked_fill(torch.ones(s.shape[-2:]).triu(1).bool(), -torch.inf)
        x = x + self.out((s.softmax(-1) @ v).transpose(1, 2).reshape(x.shape))
        x = x + self.down(F.relu(self.up(self.norm2(x))))
        return self.head(self.norm(x))


NAMES = {"embed": "embed", "q": "blocks.0.mixer.q", "k": "blocks.0.mixer.k", "v": "blocks.0.mixer.v", "out": "blocks.0.mixer.out",
         "norm1": "blocks.0.norm1", "norm2": "blocks.0.norm2", "norm": "norm", "up": "blocks.0.ffn.up", "down": "blocks.0.ffn.down",
         "head": "head"}


def ours(model, tied):
    """Weights by their names here; the readout's division is part of its weight."""
    out = {}
    for name, p in model.named_parameters():
        module, kind = name.split(".")
        w = p.detach().clone()
        out[f"{NAMES[module]}.{kind}"] = w / (D / BASE) if module == "head" else w
    return out


for tied in (False, True):
    for kind in ("adamw", "sgd"):
        torch.manual_seed(3)
        torch.set_default_dtype(torch.float64)
        model = Model(D, tied)
        set_base_shapes(model, Model(BASE, tied), delta=Model(2 * BASE, tied))
        tensors = {}
        for p in model.parameters():
            if p.dim() > 1:
                init.normal_(p, std=1)
        tensors.update({f"std.{k}": w.std() for k, w in ours(model, tied).items() if w.dim() > 1})
        for name, p in model.named_parameters():
            p.data = (torch.randn(p.shape) * (0.3 if p.dim() > 1 else 0.1) + (1.0 if "norm" in name else 0)).float().double()
        tensors.update(ours(model, tied))
        ids, labels = torch.randint(V, (2, 8)), torch.randint(V, (2, 8))
        decay = [p for p in model.parameters() if p.dim() > 1]
        rest = [p for p in model.parameters() if p.dim() < 2]
        groups = [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
        step = MuAdamW(groups, lr=0.02, eps=1e-15) if kind == "adamw" else MuSGD(groups, lr=0.05, momentum=0.9)
        for _ in range(5):
            step.zero_grad()
            F.cross_entropy(model(ids).view(-1, V), labels.view(-1)).backward()
            step.step()
        tensors.update({f"after.{k}": w for k, w in ours(model, tied).items()})
        tensors.update({"ids": ids, "labels": labels, "logits": model(ids).detach()})
        config = {"model_type": "quipu", "vocab_size": V, "hidden_size": D, "num_hidden_layers": 1, "max_position_embeddings": 8,
                  "tie_word_embeddings": tied, "initializer_range": 1, "position": {"type": "none"},
                  "mixer": {"type": "attention", "heads": HEADS}, "ffn": {"type": "mlp", "act": "relu"},
                  "norm": {"type": "rms_norm"}, "parametrization": {"type": "mup", "base": BASE}}
        folder = HERE / "parametrizations"
        folder.mkdir(exist_ok=True)
        save_file({k: v.contiguous() for k, v in tensors.items()}, folder / f"mup-{kind}{'-tied' * tied}.safetensors",
                  {"config": json.dumps(config), "optimizer": kind})
