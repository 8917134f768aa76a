"""muP by its authors' package, and the neural tangent kernel's parametrisation with its factors in front of weights, in
float64: tests/golden/parametrizations/NAME.safetensors.

A file holds the weights of a small model before (NAME) and after (after.NAME) five steps of an optimiser, by their names here, ids
and labels [2, 8] and the logits behind; and, for each weight, the deviation that it is drawn with where the base's is 1
(std.NAME, measured). Metadata "config": the model; "optimizer": its kind.

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
FACTOR = (BASE / D) ** 0.5  # Jacot et al. 2018: 1 / sqrt(fan-in), beside the base's


class Norm(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d))

    def forward(self, x):
        return self.weight * x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6)


class Scaled(nn.Linear):
    def forward(self, x):
        return F.linear(x, FACTOR * self.weight, self.bias)


class Model(nn.Module):
    linear = nn.Linear

    def __init__(self, d, tied):
        super().__init__()
        self.d = d
        self.embed = nn.Embedding(V, d)
        self.q, self.k, self.v, self.out = (self.linear(d, d, bias=False) for _ in range(4))
        self.norm1, self.norm2, self.norm = Norm(d), Norm(d), Norm(d)
        self.up, self.down = self.linear(d, 4 * d), self.linear(4 * d, d)
        self.readout(d, tied)

    def readout(self, d, tied):
        self.head = MuSharedReadout(self.embed.weight, bias=False) if tied else MuReadout(d, V, bias=False)

    def scale(self, K):
        return (BASE // HEADS) ** 0.5 / K

    def forward(self, ids):
        x = self.embed(ids)
        h, K = self.norm1(x), self.d // HEADS
        q, k, v = (f(h).view(*ids.shape, HEADS, K).transpose(1, 2) for f in (self.q, self.k, self.v))
        s = q @ k.transpose(2, 3) * self.scale(K)
        s = s.masked_fill(torch.ones(s.shape[-2:]).triu(1).bool(), -torch.inf)
        x = x + self.out((s.softmax(-1) @ v).transpose(1, 2).reshape(x.shape))
        x = x + self.down(F.relu(self.up(self.norm2(x))))
        return self.head(self.norm(x))


class Kernel(Model):
    linear = Scaled

    def readout(self, d, tied):
        self.head = Scaled(d, V, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def scale(self, K):
        return K ** -0.5


NAMES = {"embed": "embed", "q": "blocks.0.mixer.q", "k": "blocks.0.mixer.k", "v": "blocks.0.mixer.v", "out": "blocks.0.mixer.out",
         "norm1": "blocks.0.norm1", "norm2": "blocks.0.norm2", "norm": "norm", "up": "blocks.0.ffn.up", "down": "blocks.0.ffn.down",
         "head": "head"}


def ours(model):
    """Weights by their names here, where factors in front of them are part of them."""
    out = {}
    for name, p in model.named_parameters():
        module, kind = name.split(".")
        factor = FACTOR if isinstance(getattr(model, module), Scaled) and kind == "weight" else 1
        out[f"{NAMES[module]}.{kind}"] = p.detach() * (BASE / D if module == "head" and factor == 1 else factor)
    return out


def optimizer(kind, mup, groups):
    if kind == "adamw":
        return (MuAdamW if mup else torch.optim.AdamW)(groups, lr=0.02, eps=1e-15)
    return (MuSGD if mup else torch.optim.SGD)(groups, lr=0.05, momentum=0.9)


for type, tied in (("mup", False), ("mup", True), ("ntk", False), ("ntk", True)):
    for kind in ("adamw", "sgd"):
        torch.manual_seed(3)
        torch.set_default_dtype(torch.float64)
        model = (Model if type == "mup" else Kernel)(D, tied)
        if type == "mup":
            set_base_shapes(model, Model(BASE, tied), delta=Model(2 * BASE, tied))
        tensors = {}
        for p in model.parameters():
            if p.dim() > 1:
                (init if type == "mup" else nn.init).normal_(p, std=1)
        tensors.update({f"std.{k}": w.std() for k, w in ours(model).items() if w.dim() > 1})
        for name, p in model.named_parameters():
            p.data = (torch.randn(p.shape) * (0.3 if p.dim() > 1 else 0.1) + (1.0 if "norm" in name else 0)).float().double()
        tensors.update(ours(model))
        ids, labels = torch.randint(V, (2, 8)), torch.randint(V, (2, 8))
        decay = [p for p in model.parameters() if p.dim() > 1]
        rest = [p for p in model.parameters() if p.dim() < 2]
        groups = [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
        step = optimizer(kind, type == "mup", groups)
        for _ in range(5):
            step.zero_grad()
            F.cross_entropy(model(ids).view(-1, V), labels.view(-1)).backward()
            step.step()
        tensors.update({f"after.{k}": w for k, w in ours(model).items()})
        tensors.update({"ids": ids, "labels": labels, "logits": model(ids).detach()})
        config = {"model_type": "quipu", "vocab_size": V, "hidden_size": D, "num_hidden_layers": 1, "max_position_embeddings": 8,
                  "tie_word_embeddings": tied, "initializer_range": 1, "position": {"type": "none"},
                  "mixer": {"type": "attention", "heads": HEADS}, "ffn": {"type": "mlp", "act": "relu"},
                  "norm": {"type": "rms_norm"}, "parametrization": {"type": type, "base": BASE}}
        folder = HERE / "parametrizations"
        folder.mkdir(exist_ok=True)
        save_file({k: v.contiguous() for k, v in tensors.items()}, folder / f"{type}-{kind}{'-tied' * tied}.safetensors",
                  {"config": json.dumps(config), "optimizer": kind})
