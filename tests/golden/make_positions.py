"""Golden stacks with each position encoding: tests/golden/models/position-NAME.

    python3 tests/golden/make_positions.py [NAME...]

Each is a folder that quipu loads ("model_type": "quipu": tied table, pre-norm attention, no feed-forward), its
weights, ids, logits and the gradients of the next token's cross-entropy. The stack is a few lines of PyTorch;
the encoding is that of transformers where it has one, the paper's formula otherwise. All in float64.
"""
import json
import math
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from common import HERE, exact, loss_of, random_ids, write
from safetensors.torch import save_file
from transformers import DebertaV2Config
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb
from transformers.models.t5.modeling_t5 import T5Attention
from transformers.models.wav2vec2_bert.modeling_wav2vec2_bert import _apply_relative_key_position_encoding
from transformers.models.xlnet.modeling_xlnet import XLNetModel, XLNetRelativeAttention

V, D, LAYERS, T, B = 31, 12, 2, 19, 2


def softmax_of(scores, v, causal):
    """scores [B, H, T, T], v [B, T, H, K]: the weights and what they give."""
    if causal:
        ahead = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(ahead, -math.inf)
    p = scores.softmax(-1)
    return p, torch.einsum("bhts,bshk->bthk", p, v)


def dots(q, k):
    return torch.einsum("bthk,bshk->bhts", q, k)


class Plain:
    """The base: no position. Parameters are a dict of names and tensors, `p` those of the encoding."""

    def __init__(self, options, heads, causal):
        self.o, self.H, self.K, self.causal = options, heads, D // heads, causal

    def shapes(self):
        return {}

    def embed(self, x, p):
        return x

    def attend(self, q, k, v, p, layer, scale):
        return softmax_of(dots(q, k) * scale + self.bias(q, p), v, self.causal)[1]

    def bias(self, q, p):
        return 0


class Alibi(Plain):
    def bias(self, q, p):
        if not self.causal:  # the same slopes, of distances both ways
            d = torch.arange(T)
            slopes = build_alibi_tensor(torch.ones(1, 2, dtype=torch.long), self.H, torch.float64)[:, 0, 1]
            return -slopes[:, None, None] * (d[:, None] - d).abs()
        return build_alibi_tensor(torch.ones(B, T, dtype=torch.long), self.H, q.dtype).view(B, self.H, 1, T)


class T5(Plain):
    def shapes(self):
        return {"position.weight": (self.o["buckets"], self.H)}

    def bias(self, q, p):
        d = torch.arange(T)
        with_single = T5Attention._relative_position_bucket(
            d[None, :] - d[:, None], not self.causal, self.o["buckets"], self.o["max_distance"])
        return p["position.weight"][with_single].permute(2, 0, 1)


class Shaw(Plain):
    def shapes(self):
        tables = {"keys": (2 * self.o["clip"] + 1, self.K), "values": (2 * self.o["clip"] + 1, self.K)}
        return {f"blocks.{i}.position.{k}": v for i in range(LAYERS) for k, v in tables.items()}

    def attend(self, q, k, v, p, layer, scale):
        clip, d = self.o["clip"], torch.arange(T)
        keys, values = (p[f"blocks.{layer}.position.{n}"] for n in ("keys", "values"))
        module = SimpleNamespace(left_max_position_embeddings=clip, right_max_position_embeddings=clip, scaling=scale,
                                 distance_embedding=lambda i: keys[i])
        _, bias = _apply_relative_key_position_encoding(module, q.transpose(1, 2), k.transpose(1, 2))
        weights, out = softmax_of(dots(q, k) * scale + bias, v, self.causal)
        of = values[(d[None, :] - d[:, None]).clamp(-clip, clip) + clip]  # [t, s, K]
        return out + torch.einsum("bhts,tsk->bthk", weights, of)


class XL(Plain):
    def shapes(self):
        own = {"r.weight": (self.H * self.K, D), "u": (self.H, self.K), "v": (self.H, self.K)}
        return {f"blocks.{i}.position.{k}": v for i in range(LAYERS) for k, v in own.items()}

    def attend(self, q, k, v, p, layer, scale):
        mine = {n: p[f"blocks.{layer}.position.{n}"] for n in ("r.weight", "u", "v")}
        model = SimpleNamespace(d_model=D, attn_type="bi", bi_data=False, clamp_len=self.o.get("clamp", -1),
                                positional_embedding=XLNetModel.positional_embedding)
        r = XLNetModel.relative_positional_encoding(model, T, T, bsz=B) @ mine["r.weight"].T
        core = SimpleNamespace(scale=scale, r_w_bias=mine["u"], r_r_bias=mine["v"], dropout=lambda x: x,
                               rel_shift_bnij=XLNetRelativeAttention.rel_shift_bnij)
        mask = torch.ones(T, T).triu(1)[:, :, None, None].expand(T, T, B, self.H) if self.causal else None
        out = XLNetRelativeAttention.rel_attn_core(core, *(x.transpose(0, 1) for x in (q, k, v)),
                                                   r.view(-1, B, self.H, self.K), attn_mask=mask)
        return out.transpose(0, 1)


class Deberta(Plain):
    def shapes(self):
        span = self.o.get("buckets") or self.o["max_distance"]
        all = {"position.weight": (2 * span, D)}
        for i in range(LAYERS):
            for n in ("keys", "queries"):
                all |= {f"position.{n}.{i}.weight": (self.H * self.K, D), f"position.{n}.{i}.bias": (self.H * self.K,)}
        return all

    def attend(self, q, k, v, p, layer, scale):
        c = DebertaV2Config(hidden_size=D, num_attention_heads=self.H, relative_attention=True, pos_att_type=["p2c", "c2p"],
                            position_buckets=self.o.get("buckets", -1), max_relative_positions=self.o["max_distance"],
                            hidden_dropout_prob=0, attention_probs_dropout_prob=0)
        core = DisentangledSelfAttention(c).eval()
        for name in ("query_proj", "key_proj", "value_proj", "pos_key_proj", "pos_query_proj"):
            delattr(core, name)
        core.pos_key_proj, core.pos_query_proj = (
            lambda x, n=n: x @ p[f"position.{n}.{layer}.weight"].T + p[f"position.{n}.{layer}.bias"]
            for n in ("keys", "queries"))
        core.query_proj, core.key_proj, core.value_proj = (lambda _, y=y: y.reshape(B, T, D) for y in (q, k, v))
        mask = torch.ones(T, T, dtype=torch.bool).tril() if self.causal else torch.ones(T, T, dtype=torch.bool)
        out, _ = core(torch.zeros(B, T, D), mask[None, None], rel_embeddings=p["position.weight"])
        return out.view(B, T, self.H, self.K)


class Rope(Plain):
    """Rotations by apply_rotary_pos_emb of transformers, which pairs features i and i + K/2."""

    name = "rope"

    def angles(self, p):  # [T, K / 2]
        base = 10000 * self.o["factor"] ** (self.K / (self.K - 2))  # "NTK-aware"
        return torch.arange(T)[:, None] * base ** (-torch.arange(0, self.K, 2) / self.K)

    def turn(self, q, k, p):
        emb = torch.cat([self.angles(p)] * 2, -1)[None]
        return apply_rotary_pos_emb(q, k, emb.cos(), emb.sin(), unsqueeze_dim=2)

    def attend(self, q, k, v, p, layer, scale):
        q, k = self.turn(q, k, p)
        if self.o.get("log_n"):  # as QWenAttention.logn_list
            n = self.o["log_n"]
            q = q * torch.tensor([max(1, math.log(i, n)) for i in range(1, T + 1)])[:, None, None]
        return softmax_of(dots(q, k) * scale, v, self.causal)[1]


class Rope2D(Rope):
    name = "rope2d"

    def angles(self, p):  # as PixtralRotaryEmbedding, or Qwen2-VL's VisionRotaryEmbedding
        row, column = torch.arange(T) // self.o["grid_width"], torch.arange(T) % self.o["grid_width"]
        if self.o["frequencies"] == "shared":
            f = 1 / 10000 ** (torch.arange(0, self.K, 2) / self.K)
            return torch.cat([row[:, None] * f[::2], column[:, None] * f[1::2]], -1)
        f = 1 / 10000 ** (torch.arange(0, self.K // 2, 2) / (self.K // 2))
        return torch.cat([row[:, None] * f, column[:, None] * f], -1)


class General(Rope):
    """Queries and keys times torch.matrix_exp of the generators, position by position."""

    name = "rope_general"

    def shapes(self):
        own = {"basis": (self.K, self.K), "frequencies": (2 if "grid_width" in self.o else 1, self.K // 2)}
        return {f"blocks.{i}.position.{k}": v for i in range(LAYERS) for k, v in own.items()}

    def attend(self, q, k, v, p, layer, scale):
        a, change = (p[f"blocks.{layer}.position.{n}"] for n in ("basis", "frequencies"))
        half, axes, w = self.K // 2, len(change), self.o.get("grid_width", T)
        basis = torch.matrix_exp(a - a.T)
        J = torch.zeros(half, self.K, self.K)  # the turn of each pair
        for i in range(half):
            J[i, i, half + i], J[i, half + i, i] = -1, 1
        first = torch.stack([10000 ** (-2 * torch.arange(half) / self.K) * (torch.arange(half) % axes == n) for n in range(axes)])
        B = [basis @ torch.einsum("i,ijk->jk", f, J) @ basis.T for f in first + change]
        places = [[t] if axes == 1 else [t // w, t % w] for t in range(T)]
        R = torch.stack([torch.matrix_exp(sum(m * b for m, b in zip(at, B))) for at in places])
        q, k = (torch.einsum("tjk,bthk->bthj", R, x) for x in (q, k))
        return softmax_of(dots(q, k) * scale, v, self.causal)[1]


class Complex(Plain):
    def shapes(self):
        return {"position.frequencies": (D,), "position.phases": (D,)}

    def embed(self, x, p):
        wave = torch.polar(torch.ones(T, D), torch.arange(T)[:, None] * p["position.frequencies"] + p["position.phases"])
        z = x * wave
        return z.real + z.imag


class Floater(Plain):
    def shapes(self):
        return {f"position.{k}": v for k, v in {"start": (1, D), "time": (self.o["width"],), "in.weight": (self.o["width"], D),
                "in.bias": (self.o["width"],), "out.weight": (D, self.o["width"]), "out.bias": (D,)}.items()}

    def embed(self, x, p):
        w, h = {k.removeprefix("position."): v for k, v in p.items()}, self.o["dt"]
        f = lambda t, y: torch.tanh(y @ w["in.weight"].T + w["in.bias"] + t * w["time"]) @ w["out.weight"].T + w["out.bias"]
        at = [w["start"][0]]
        for i in range(T - 1):  # the classical Runge-Kutta method
            t, y = i * h, at[-1]
            a = f(t, y)
            b = f(t + h / 2, y + h / 2 * a)
            c = f(t + h / 2, y + h / 2 * b)
            at.append(y + h / 6 * (a + 2 * b + 2 * c + f(t + h, y + h * c)))
        return x + torch.stack(at)


class Convolutional(Plain):
    def shapes(self):
        return {"position.conv.weight": (D, 1, self.o["kernel"]), "position.conv.bias": (D,)}

    def embed(self, x, p):
        w, bias, n = p["position.conv.weight"], p["position.conv.bias"], self.o["kernel"]
        y = x.transpose(1, 2)
        if self.o.get("causal", True):
            y = torch.nn.functional.conv1d(torch.nn.functional.pad(y, (n - 1, 0)), w, bias, groups=D)
        else:
            y = torch.nn.functional.conv1d(y, w, bias, groups=D, padding="same")
        y = y.transpose(1, 2)
        return x + (torch.nn.functional.gelu(y) if "act" in self.o else y)


#           reference, options of the position, heads, causal
FOLDERS = {
    "alibi": (Alibi, {}, 6, True),
    "alibi-both": (Alibi, {}, 3, False),
    "t5": (T5, {"buckets": 8, "max_distance": 14}, 4, True),
    "t5-both": (T5, {"buckets": 12, "max_distance": 11}, 4, False),
    "shaw": (Shaw, {"clip": 3}, 3, True),
    "shaw-both": (Shaw, {"clip": 5}, 2, False),
    "xl": (XL, {}, 3, True),
    "xl-both": (XL, {"clamp": 7}, 2, False),
    "deberta": (Deberta, {"max_distance": 6}, 3, True),
    "rope-ntk": (Rope, {"scaling": "ntk", "factor": 4.0}, 3, True),
    "rope-log-n": (Rope, {"scaling": "ntk", "factor": 2.0, "log_n": 5}, 2, True),
    "rope2d": (Rope2D, {"grid_width": 5, "frequencies": "own"}, 3, False),
    "rope2d-shared": (Rope2D, {"grid_width": 4, "frequencies": "shared"}, 3, False),
    "rope-general": (General, {}, 2, True),
    "rope-general-grid": (General, {"grid_width": 5}, 3, False),
    "floater": (Floater, {"width": 10, "dt": 0.2}, 2, True),
    "complex": (Complex, {}, 2, True),
    "deberta-both": (Deberta, {"max_distance": 16, "buckets": 4}, 2, False),
    "convolutional": (Convolutional, {"kernel": 5, "act": "gelu"}, 2, True),
    "convolutional-both": (Convolutional, {"kernel": 4, "causal": False}, 2, False),
}


def rms_norm(x, weight):
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def logits_of(encoding, p, ids):
    x = encoding.embed(p["embed.weight"][ids], p)
    for i in range(LAYERS):
        y = rms_norm(x, p[f"blocks.{i}.norm1.weight"])
        q, k, v = ((y @ p[f"blocks.{i}.mixer.{n}.weight"].T).view(B, T, encoding.H, encoding.K) for n in "qkv")
        out = encoding.attend(q, k, v, p, i, encoding.K ** -0.5)
        x = x + out.reshape(B, T, D) @ p[f"blocks.{i}.mixer.out.weight"].T
    return rms_norm(x, p["norm.weight"]) @ p["embed.weight"].T


def make(name, seed):
    kind, options, heads, causal = FOLDERS[name]
    folder = HERE / "models" / f"position-{name}"
    encoding = kind(options, heads, causal)
    shapes = {"embed.weight": (V, D), "norm.weight": (D,)} | encoding.shapes()
    for i in range(LAYERS):
        shapes |= {f"blocks.{i}.norm1.weight": (D,)} | {f"blocks.{i}.mixer.{n}.weight": (D, D) for n in ("q", "k", "v", "out")}
    g = torch.Generator().manual_seed(seed)
    weights = {k: torch.randn(s, generator=g) * 0.5 + (1 if "norm" in k else 0) for k, s in shapes.items()}
    ids = random_ids(V, B, T, seed=seed + 1)
    with exact():
        p = {k: v.double().requires_grad_() for k, v in weights.items()}
        logits = logits_of(encoding, p, ids)
        loss_of(logits, ids).backward()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = {"model_type": "quipu", "vocab_size": V, "hidden_size": D, "num_hidden_layers": LAYERS,
              "max_position_embeddings": T, "tie_word_embeddings": True,
              "position": {"type": getattr(kind, "name", kind.__name__.lower())} | {k: v for k, v in options.items() if k != "log_n"},
              "mixer": {"type": "attention", "heads": heads, "causal": causal} | {k: v for k, v in options.items() if k == "log_n"},
              "ffn": {"type": "none"}, "norm": {"type": "rms_norm"}}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tensors = {"input_ids": ids, "logits": logits.float()}
    tensors |= {f"grad.{k}": v.grad.float() for k, v in p.items() if v.grad is not None and v.grad.abs().max() > 1e-9}
    write(folder / "reference.safetensors", tensors)
    print(name, f"{sum(f.stat().st_size for f in folder.iterdir()) / 1024:.0f} KiB")


if __name__ == "__main__":
    for seed, name in enumerate(FOLDERS):
        if name in sys.argv[1:] or len(sys.argv) == 1:
            make(name, 1000 + 100 * seed)
