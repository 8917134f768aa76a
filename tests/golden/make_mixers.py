"""Make tests/golden/mixers/NAME.safetensors: what PyTorch says mixers of quipu compute, in float64.

Each mixer is written out below as its paper states it, all pairs of positions at once and no state: nothing
of how quipu computes it. A file holds several cases, each tensor prefixed with "caseN.":

    x         input [B, T, D]; every value is also a float32
    p.NAME    parameter (or buffer) NAME of the mixer, likewise
    y         output
    gx        gradient of the sum of y * cos(arange(y.numel())) with respect to x
    g.NAME    the same for parameter NAME; a buffer has none
    metadata  "attrs": JSON {"case0": {"mixer": the mixer's config}, ...}

    python make_mixers.py [NAME]

Needs torch, safetensors and transformers.
"""

import sys

import torch
import torch.nn.functional as F

from common import HERE, write

MIXERS = {}
B, D = 2, 16


def mixer(f):
    MIXERS[f.__name__] = f
    return f


class Case:
    """Draws parameters on demand, in order of asking."""

    def __init__(self, seed):
        self.draw = torch.Generator().manual_seed(seed)
        self.tensors, self.buffers = {}, set()

    def randn(self, *shape, scale=1.0):
        return (torch.randn(shape, generator=self.draw) * scale).float().double()

    def weight(self, name, *shape, scale=None, buffer=False):
        if name not in self.tensors:
            scale = shape[-1] ** -0.5 if scale is None else scale
            self.tensors[name] = self.randn(*shape, scale=scale).requires_grad_(not buffer)
            if buffer:
                self.buffers.add(name)
        return self.tensors[name]

    def linear(self, x, name, out):
        return x @ self.weight(f"{name}.weight", out, x.shape[-1]).T

    def heads(self, x, name, H, K):
        return self.linear(x, name, H * K).view(*x.shape[:2], H, K)


def within(scores, causal):
    """Scores [.., T, S] of keys that a query may see, 0 elsewhere."""
    return scores.tril() if causal else scores


# ---- linear attention -------------------------------------------------------------------------------

def direction(x):
    return x / x.norm(dim=-1, keepdim=True)


SCORES = dict(
    elu=lambda q, k: torch.einsum("bthk,bshk->bhts", F.elu(q) + 1, F.elu(k) + 1),
    relu=lambda q, k: torch.einsum("bthk,bshk->bhts", F.relu(q), F.relu(k)),
    taylor=lambda q, k: 1 + torch.einsum("bthk,bshk->bhts", direction(q), direction(k)))


def efficient(q, k, v, causal):
    """Softmax of q over features, of k over the positions that are seen; no denominator."""
    k = k.exp()
    sums = k.cumsum(1) if causal else k.sum(1, keepdim=True)
    return torch.einsum("bhts,bshv->bthv", within(torch.einsum("bthk,bshk->bhts", q.softmax(-1) / sums, k), causal), v)


@mixer
def linear(c, x, heads=2, features="elu", causal=True, head_width=8):
    q, k, v = (c.heads(x, n, heads, head_width) for n in "qkv")
    if features == "softmax":
        o = efficient(q, k, v, causal)
    else:
        a = within(SCORES[features](q, k), causal)
        o = torch.einsum("bhts,bshv->bthv", a / (a.sum(-1, keepdim=True) + 1e-6), v)
    return c.linear(o.flatten(2), "out", D)


linear.cases = [(T, dict(features=f, causal=causal)) for f in ("elu", "relu", "taylor", "softmax")
                for T, causal in ((70, True), (5, True), (21, False))] + [(520, dict())]


# ---- retention ---------------------------------------------------------------------------------------

def turned(x):
    """Pairs (2i, 2i + 1) by t 10000^(-i / (K/2 - 1)), as complex numbers."""
    T, K = x.shape[1], x.shape[-1]
    angle = torch.arange(T).double()[:, None] * (10000 ** -torch.linspace(0, 1, K // 2).double().float().double())
    z = torch.view_as_complex(x.unflatten(-1, (K // 2, 2)).contiguous()) * torch.polar(torch.ones_like(angle), angle)[:, None]
    return torch.view_as_real(z).flatten(-2)


@mixer
def retnet(c, x, heads=2, head_width=8, expand=2, eps=1e-6):
    T = x.shape[1]
    q, k = (turned(c.heads(x, n, heads, head_width)) for n in "qk")
    v = c.heads(x, "v", heads, expand * head_width)
    gap = torch.arange(T)[:, None] - torch.arange(T)
    gamma = 1 - 2.0 ** (-5 - torch.arange(heads).double())
    decay = torch.where(gap >= 0, gamma[:, None, None] ** gap.clamp(min=0), 0.0)
    scores = torch.einsum("bthk,bshk->bhts", q, k * head_width ** -0.5) * decay
    o = torch.einsum("bhts,bshv->bthv", scores, v)
    # torchscale divides scores by the root of a row of decay's sum, and by what the row comes to: the norm undoes both
    other = decay / decay.sum(-1, keepdim=True).sqrt() * torch.einsum("bthk,bshk->bhts", q, k * head_width ** -0.5)
    other = other / other.detach().abs().sum(-1, keepdim=True).clamp(min=1, max=5e4)
    other = torch.einsum("bhts,bshv->bthv", other, v)
    norm = lambda y: y / (y.square().mean(-1, keepdim=True) + eps).sqrt()
    assert (F.normalize(o, dim=-1) - F.normalize(other, dim=-1)).abs().max() < 1e-12
    o = F.silu(c.linear(x, "gate", heads * expand * head_width)) * norm(o).flatten(2)
    return c.linear(o, "out", D)


retnet.cases = [(70, dict()), (5, dict(expand=1)), (130, dict(heads=4, head_width=4)), (520, dict())]


# ---- Performer: the authors' softmax_kernel_transformation, given the random matrix --------------------

def random_features(x, w, query, causal, eps):
    x = x * x.shape[-1] ** -0.25
    y = torch.einsum("bthk,mk->bthm", x, w)
    c = y.amax(-1, keepdim=True) if query else 0 if causal else y.amax((1, 3), keepdim=True)
    return (y - x.square().sum(-1, keepdim=True) / 2 - c).exp() + eps


@mixer
def performer(c, x, heads=2, head_width=8, features=32, causal=True, kernel="softmax", eps=1e-6):
    q, k, v = (c.heads(x, n, heads, head_width) for n in "qkv")
    w = c.weight("projection", features, head_width, scale=1, buffer=True)
    if kernel == "relu":
        q, k = (F.relu(torch.einsum("bthk,mk->bthm", y * head_width ** -0.25, w)) + eps for y in (q, k))
    else:
        q, k = random_features(q, w, True, causal, eps), random_features(k, w, False, causal, eps)
    a = within(torch.einsum("bthm,bshm->bhts", q, k), causal)
    return c.linear(torch.einsum("bhts,bshv->bthv", a / a.sum(-1, keepdim=True), v).flatten(2), "out", D)


performer.cases = [(70, dict()), (5, dict(features=11)), (21, dict(causal=False)), (70, dict(kernel="relu")),
                   (9, dict(kernel="relu", causal=False))]


# ---- Gated attention units ------------------------------------------------------------------------------

def gated(c, x, width, head_width, sides):
    u, v = F.silu(c.linear(x, "u", width)), F.silu(c.linear(x, "v", width))
    z = F.silu(c.linear(x, "z", head_width))
    return [u, v] + [z * c.weight(f"{n}.scale", head_width, scale=1) + c.weight(f"{n}.offset", head_width, scale=0.3)
                     for n in sides]


@mixer
def gau(c, x, head_width=8, width=24, causal=True):
    u, v, q, k = gated(c, x, width, head_width, ("query", "key"))
    a = within(F.relu(q @ k.mT / head_width ** 0.5) ** 2, causal)
    seen = torch.arange(1, x.shape[1] + 1).double()[:, None] if causal else x.shape[1]
    return c.linear(u * (a @ v / seen), "out", D)


gau.cases = [(70, dict()), (5, dict()), (21, dict(causal=False)), (300, dict(width=16))]


@mixer
def flash(c, x, head_width=8, width=24, chunk=16, causal=True):
    u, v, q1, k1, q2, k2 = gated(c, x, width, head_width, ("near_query", "near_key", "far_query", "far_key"))
    of = torch.arange(x.shape[1]) // chunk
    near = within(F.relu(q1 @ k1.mT / chunk) ** 2, causal) * (of[:, None] == of)
    far = q2 @ k2.mT / chunk * (of[:, None] > of) if causal else q2 @ k2.mT / x.shape[1]
    return c.linear(u * ((near + far) @ v), "out", D)


flash.cases = [(70, dict()), (5, dict()), (48, dict()), (21, dict(causal=False)), (300, dict(chunk=70, width=16)),
               (530, dict(width=16))]


# ---- Nyström: transformers' class; Linformer -----------------------------------------------------------------

@mixer
def nystrom(c, x, heads=2, landmarks=4, kernel=5, norm="all", head_width=8, bias=True):
    from transformers import NystromformerConfig
    from transformers.models.nystromformer.modeling_nystromformer import NystromformerSelfAttention
    config = NystromformerConfig(hidden_size=D, num_attention_heads=heads, num_landmarks=landmarks, conv_kernel_size=kernel,
                                 segment_means_seq_len=x.shape[1], attention_probs_dropout_prob=0.0)
    module = NystromformerSelfAttention(config).double().eval()
    names = dict(q="query", k="key", v="value")
    given = {f"{names[n]}.weight": c.weight(f"{n}.weight", D, D) for n in names}
    given |= {f"{names[n]}.bias": c.weight(f"{n}.bias", D, scale=0.3) for n in names}
    given["conv.weight"] = c.weight("conv.weight", heads, kernel).view(heads, 1, kernel, 1)
    if norm == "head":                                  # what its own option means, but cannot be asked for
        module.init_option = "exact"
        module.iterative_inv = lambda mat: per_head_inverse(module, mat)
    torch.set_default_dtype(torch.float64)              # it asks for an identity of the default type
    y, = torch.func.functional_call(module, given, (x,))
    torch.set_default_dtype(torch.float32)
    return c.linear(y, "out", D)


def per_head_inverse(module, mat):
    flat = [[type(module).iterative_inv(original(module), m[None, None])[0, 0] for m in row] for row in mat]
    return torch.stack([torch.stack(row) for row in flat])


def original(module):
    module.init_option = "original"
    return module


nystrom.cases = [(64, dict()), (20, dict(norm="head")), (12, dict(landmarks=2, kernel=9)), (4, dict())]


@mixer
def linformer(c, x, heads=2, head_width=8, features=6):
    q, k, v = (c.heads(x, n, heads, head_width) for n in "qkv")
    k, v = (torch.einsum("ms,bshk->bmhk", c.weight(f"{n}.projection", features, 640, scale=0.2)[:, :x.shape[1]], y)
            for n, y in (("keys", k), ("values", v)))
    a = torch.einsum("bthk,bmhk->bhtm", q, k) * head_width ** -0.5
    return c.linear(torch.einsum("bhtm,bmhv->bthv", a.softmax(-1), v).flatten(2), "out", D)


linformer.cases = [(70, dict()), (5, dict())]


# ---- files ---------------------------------------------------------------------------------------------

def make(name, f):
    tensors, settings = {}, {}
    for i, (T, options) in enumerate(f.cases):
        c, tag = Case(100 + i), f"case{i}"
        x = c.randn(B if T < 500 else 1, T, D).requires_grad_()
        y = f(c, x, **options)
        total = (y * torch.arange(y.numel()).double().cos().view(y.shape)).sum()
        grads = [n for n in c.tensors if n not in c.buffers]
        values = torch.autograd.grad(total, [x] + [c.tensors[n] for n in grads])
        tensors[f"{tag}.x"], tensors[f"{tag}.y"], tensors[f"{tag}.gx"] = x.float(), y.float(), values[0].float()
        tensors.update({f"{tag}.p.{n}": p.float() for n, p in c.tensors.items()})
        tensors.update({f"{tag}.g.{n}": g.float() for n, g in zip(grads, values[1:])})
        defaults = f.__defaults__ or ()
        names = f.__code__.co_varnames[2:2 + len(defaults)]
        settings[tag] = dict(mixer=dict(zip(names, defaults), **{}) | options | dict(type=name))
    write(HERE / "mixers" / f"{name}.safetensors", tensors, settings)
    print(f"{name:12} {len(settings)} cases, {(HERE / 'mixers' / f'{name}.safetensors').stat().st_size} bytes")


if __name__ == "__main__":
    for name, f in MIXERS.items():
        if len(sys.argv) < 2 or name in sys.argv[1:]:
            make(name, f)
