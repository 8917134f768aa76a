"""Make tests/golden/models/rwkv*-...: RWKV of versions 4 to 7 with the authors' tensor names.

Each version is defined here, position by position, in float64 from its paper (versions 5 and 6:
arXiv:2404.05892, version 7: arXiv:2503.14456, version 4: arXiv:2305.13048). Folders are as
make_models.py says. (transformers has version 4 alone, under other names: the folder "rwkv" is
made by make_models.py.)

    python make_rwkv.py                      write the folders
    python make_rwkv.py FOLDER IDS [LOGITS]  reference.safetensors into a folder that scripts/rwkv_folder.py
                                             made, of the bytes of IDS as ids; LOGITS: raw float32 of the last
                                             position, to compare with

Needs torch, safetensors and (for common.py) transformers.
"""

import json
import sys
from pathlib import Path

import numpy
import torch
from torch.nn.functional import layer_norm, group_norm, normalize, softplus

from common import HERE, loss_of, random_ids, write

torch.set_default_dtype(torch.float64)


class Layer:
    """Weights of one layer, by the rest of their names: layer.att["key.weight"]."""

    def __init__(self, weights, i):
        def under(prefix):
            return {k[len(prefix):]: v for k, v in weights.items() if k.startswith(prefix)}
        self.index, self.att, self.ffn, self.own = i, under(f"blocks.{i}.att."), under(f"blocks.{i}.ffn."), under(f"blocks.{i}.")

    def norm(self, x, name):
        return layer_norm(x, x.shape[-1:], self.own[name + ".weight"], self.own[name + ".bias"], 1e-5)


def before(x):
    """x of the position before."""
    return torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)


def wkv4(w, u, k, v):
    """k, v [B, T, D]; the sums kept as they are: float64 and small exponents."""
    a = b = torch.zeros_like(k[:, 0])
    out = []
    for t in range(k.shape[1]):
        now = torch.exp(u + k[:, t])
        out.append((a + now * v[:, t]) / (b + now))
        a = torch.exp(w) * a + torch.exp(k[:, t]) * v[:, t]
        b = torch.exp(w) * b + torch.exp(k[:, t])
    return torch.stack(out, 1)


def wkv(r, w, k, v, u=None, a=None, b=None):
    """r, w, k, a, b [B, T, H, K], v [B, T, H, V] -> [B, T, H, V]; state [B, H, K, V]."""
    state = torch.zeros(*k.shape[:1], *k.shape[2:], v.shape[-1])
    out = []
    for t in range(k.shape[1]):
        new = k[:, t, :, :, None] * v[:, t, :, None, :]
        if u is not None:
            out.append(torch.einsum("bhk,bhkv->bhv", r[:, t], state + u[:, :, None] * new))
        removed = 0
        if a is not None:
            removed = b[:, t, :, :, None] * torch.einsum("bhk,bhkv->bhv", a[:, t], state)[:, :, None, :]
        state = w[:, t, :, :, None] * state + new + removed
        if u is None:
            out.append(torch.einsum("bhk,bhkv->bhv", r[:, t], state))
    return torch.stack(out, 1)


def heads(x, K):
    return x.unflatten(-1, (-1, K))


def head_norm(p, y, eps):
    B, T, H, V = y.shape
    return group_norm(y.reshape(B * T, H * V), H, p["ln_x.weight"], p["ln_x.bias"], eps).reshape(B, T, H * V)


def time_mix4(p, x, c, carried):
    def mixed(name):
        mix = p["time_mix_" + name]
        return x * mix + before(x) * (1 - mix)
    k, v = mixed("k") @ p["key.weight"].T, mixed("v") @ p["value.weight"].T
    r = torch.sigmoid(mixed("r") @ p["receptance.weight"].T)
    return (r * wkv4(-torch.exp(p["time_decay"]), p["time_first"], k, v)) @ p["output.weight"].T


def time_mix5(p, x, c, carried):
    def mixed(name):
        mix = p["time_mix_" + name]
        return x * mix + before(x) * (1 - mix)
    K = c["head_size"]
    r, k, v = (heads(mixed(n) @ p[w + ".weight"].T, K) for n, w in (("r", "receptance"), ("k", "key"), ("v", "value")))
    w = torch.exp(-torch.exp(p["time_decay"]))
    u = p["time_faaaa"] if "time_faaaa" in p else torch.exp(p["time_first"])
    if w.ndim == 1:
        w, u = w[:, None].expand(-1, K), u[:, None].expand(-1, K)
    y = head_norm(p, wkv(r, w.expand(*k.shape), k, v, u=u), c["head_norm_epsilon"])
    if "gate.weight" in p:
        y = y * torch.nn.functional.silu(mixed("g") @ p["gate.weight"].T)
    return y @ p["output.weight"].T


def time_mix6(p, x, c, carried):
    K, xx = c["head_size"], before(x) - x
    low = torch.tanh((x + xx * p["time_maa_x"]) @ p["time_maa_w1"]).unflatten(-1, (5, -1))
    added = torch.einsum("btmr,mrd->mbtd", low, p["time_maa_w2"])
    xw, xk, xv, xr, xg = (x + xx * (p["time_maa_" + n] + m) for n, m in zip("wkvrg", added))
    r, k, v = (heads(a @ p[n + ".weight"].T, K) for a, n in ((xr, "receptance"), (xk, "key"), (xv, "value")))
    w = p["time_decay"] + torch.tanh(xw @ p["time_decay_w1"]) @ p["time_decay_w2"]
    y = wkv(r, heads(torch.exp(-torch.exp(w)), K), k, v, u=p["time_faaaa"])
    y = head_norm(p, y, c["head_norm_epsilon"])
    return (y * torch.nn.functional.silu(xg @ p["gate.weight"].T)) @ p["output.weight"].T


def time_mix7(p, x, c, carried):
    K, xx = c["head_size"], before(x) - x
    xr, xw, xk, xv, xa, xg = (x + xx * p["x_" + n] for n in "rwkvag")
    r, k, v = xr @ p["receptance.weight"].T, xk @ p["key.weight"].T, xv @ p["value.weight"].T
    w = -softplus(-(p["w0"] + torch.tanh(xw @ p["w1"]) @ p["w2"])) - 0.5
    if "v0" in p:
        v = v + (carried["v_first"] - v) * torch.sigmoid(p["v0"] + (xv @ p["v1"]) @ p["v2"])
    else:
        carried["v_first"] = v
    a = torch.sigmoid(p["a0"] + (xa @ p["a1"]) @ p["a2"])
    g = torch.sigmoid(xg @ p["g1"]) @ p["g2"]
    kk = normalize(heads(k * p["k_k"], K), dim=-1, p=2.0)
    k = k * (1 + (a - 1) * p["k_a"])
    r, w, k, v, a = (heads(t, K) for t in (r, torch.exp(-torch.exp(w)), k, v, a))
    y = head_norm(p, wkv(r, w, k, v, a=-kk, b=kk * a), c["head_norm_epsilon"])
    y = y + ((r * k * p["r_k"]).sum(-1, keepdim=True) * v).flatten(2)
    return (y * g) @ p["output.weight"].T


def channel_mix(p, x, version):
    def mixed(name):
        if version < 6:
            mix = p["time_mix_" + name]
            return x * mix + before(x) * (1 - mix)
        return x + (before(x) - x) * p[("time_maa_" if version == 6 else "x_") + name]
    y = torch.relu(mixed("k") @ p["key.weight"].T) ** 2 @ p["value.weight"].T
    return y if version == 7 else torch.sigmoid(mixed("r") @ p["receptance.weight"].T) * y


TIME_MIX = {4: time_mix4, 5: time_mix5, 6: time_mix6, 7: time_mix7}


def logits_of(weights, c, ids):
    version, carried = int(c["model_type"][4:]), {}
    x = Layer(weights, 0).norm(weights["emb.weight"][ids], "ln0")
    for i in range(c["num_hidden_layers"]):
        layer = Layer(weights, i)
        x = x + TIME_MIX[version](layer.att, layer.norm(x, "ln1"), c, carried)
        x = x + channel_mix(layer.ffn, layer.norm(x, "ln2"), version)
    x = layer_norm(x, x.shape[-1:], weights["ln_out.weight"], weights["ln_out.bias"], 1e-5)
    return x @ weights["head.weight"].T


# ---- Random weights --------------------------------------------------------------------------------


def att_shapes(c, i):
    """name: (shape, spread, centre)"""
    version, D, K = int(c["model_type"][4:]), c["hidden_size"], c["head_size"]
    H, row = D // K, (1, 1, D)
    shapes = {n + ".weight": ((D, D), 0.5, 0) for n in ("receptance", "key", "value", "output")}
    if version < 6:
        names = "kvrg" if c.get("gate") else "kvr"
        shapes |= {"time_mix_" + n: (row, 0.3, 0.5) for n in names}
    if version == 4:
        shapes |= {"time_decay": ((D,), 1, -1), "time_first": ((D,), 1, 0)}
    if version == 5:
        per = (H,) if c["scalar_decay"] else (H, K)
        shapes |= {"time_decay": (per, 1, -1), "time_first" if c["scalar_decay"] else "time_faaaa": (per, 0.5, 0)}
    if version == 5 and c["gate"] or version == 6:
        shapes["gate.weight"] = ((D, D), 0.5, 0)
    if version == 6:
        shapes |= {"time_maa_" + n: (row, 0.3, 0.5) for n in "xwkvrg"}
        shapes |= {"time_maa_w1": ((D, 5 * c["mix_rank"]), 0.3, 0), "time_maa_w2": ((5, c["mix_rank"], D), 0.3, 0),
                   "time_decay": (row, 1, -1), "time_decay_w1": ((D, c["decay_rank"]), 0.3, 0),
                   "time_decay_w2": ((c["decay_rank"], D), 0.3, 0), "time_faaaa": ((H, K), 0.5, 0)}
    if version == 7:
        shapes |= {"x_" + n: (row, 0.3, 0.5) for n in "rwkvag"}
        for n, rank in (("w", "decay"), ("a", "a"), ("v", "v")):
            if n != "v" or i:
                shapes |= {n + "0": (row, 1, -1 if n == "w" else 0), n + "1": ((D, c[rank + "_rank"]), 0.4, 0),
                           n + "2": ((c[rank + "_rank"], D), 0.4, 0)}
        shapes |= {"g1": ((D, c["gate_rank"]), 0.4, 0), "g2": ((c["gate_rank"], D), 0.6, 0), "k_k": (row, 0.3, 0.8),
                   "k_a": (row, 0.3, 1), "r_k": ((H, K), 0.3, 0)}
    if version > 4:
        shapes |= {"ln_x.weight": ((D,), 0.2, 1), "ln_x.bias": ((D,), 0.2, 0)}
    return shapes


def shapes_of(c):
    version, D, V, F = int(c["model_type"][4:]), c["hidden_size"], c["vocab_size"], c["intermediate_size"]

    def norm(name):
        return {name + ".weight": ((D,), 0.2, 1), name + ".bias": ((D,), 0.2, 0)}
    shapes = {"emb.weight": ((V, D), 1, 0)} | norm("blocks.0.ln0")
    for i in range(c["num_hidden_layers"]):
        at = f"blocks.{i}."
        shapes |= norm(at + "ln1") | {at + "att." + n: s for n, s in att_shapes(c, i).items()} | norm(at + "ln2")
        mix = {4: "time_mix_", 5: "time_mix_", 6: "time_maa_", 7: "x_"}[version]
        shapes |= {at + "ffn." + mix + n: ((1, 1, D), 0.3, 0.5) for n in ("k" if version == 7 else "kr")}
        shapes |= {at + "ffn.key.weight": ((F, D), 0.4, 0), at + "ffn.value.weight": ((D, F), 0.4, 0)}
        if version < 7:
            shapes[at + "ffn.receptance.weight"] = ((D, D), 0.5, 0)
    return shapes | norm("ln_out") | {"head.weight": ((V, D), 0.6, 0)}


SIZE = dict(vocab_size=53, hidden_size=24, num_hidden_layers=2, intermediate_size=40, head_size=8, layer_norm_epsilon=1e-5)
FOLDERS = {
    "rwkv4": (dict(SIZE, model_type="rwkv4"), 15),
    "rwkv5": (dict(SIZE, model_type="rwkv5", gate=True, scalar_decay=False, head_norm_epsilon=64e-5), 14),
    "rwkv5-scalar": (dict(SIZE, model_type="rwkv5", gate=False, scalar_decay=True, head_norm_epsilon=1e-5, head_size=6), 11),
    "rwkv6": (dict(SIZE, model_type="rwkv6", mix_rank=5, decay_rank=7, head_norm_epsilon=64e-5), 14),
    "rwkv7": (dict(SIZE, model_type="rwkv7", num_hidden_layers=3, decay_rank=5, a_rank=4, v_rank=3, gate_rank=6,
                   head_norm_epsilon=64e-5), 14),
}


def golden(name, c, T):
    draw = torch.Generator().manual_seed(sum(name.encode()))
    weights = {}
    for n, (shape, spread, centre) in shapes_of(c).items():
        scale = spread / shape[-1] ** 0.5 if len(shape) == 2 and n.endswith(".weight") and not n.startswith("emb") else spread
        weights[n] = (torch.randn(*shape, generator=draw) * scale * (2 if scale < spread else 1) + centre).float()
    exact = {n: w.double().requires_grad_() for n, w in weights.items()}
    ids = random_ids(c["vocab_size"], 2, T, seed=len(name))
    logits = logits_of(exact, c, ids)
    loss_of(logits, ids).backward()
    folder = HERE / "models" / name
    folder.mkdir(parents=True, exist_ok=True)
    config = {k: v for k, v in c.items() if not (c["model_type"] == "rwkv4" and k == "head_size")}
    (folder / "config.json").write_text(json.dumps(dict(config, context_length=64, tie_word_embeddings=False), indent=2) + "\n")
    write(folder / "model.safetensors", weights)
    write(folder / "reference.safetensors", {"input_ids": ids, "logits": logits.float()} |
          {"grad." + n: w.grad.float() for n, w in exact.items()})


def reference(folder, text, published):
    from safetensors.torch import load_file
    folder = Path(folder)
    c = json.loads((folder / "config.json").read_text())
    weights = {n: w.double() for n, w in load_file(folder / "model.safetensors").items()}
    ids = torch.tensor([list(Path(text).read_bytes())])
    with torch.no_grad():
        logits = logits_of(weights, c, ids)
    if published:
        last = torch.from_numpy(numpy.fromfile(published, dtype="<f4").astype("f8"))
        print("published logits: relative error", ((logits[0, -1] - last).abs().max() / last.abs().max()).item())
    write(folder / "reference.safetensors", {"input_ids": ids, "logits": logits.float()})


if __name__ == "__main__":
    if len(sys.argv) > 1:
        reference(sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else None)
    else:
        for name, (config, T) in FOLDERS.items():
            golden(name, config, T)
