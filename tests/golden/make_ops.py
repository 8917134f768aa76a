"""Make tests/golden/ops/OP.safetensors: what PyTorch says each operation is, in float64.

A file holds several cases, each tensor prefixed with "caseN.":

    inI       inputs: float64 (every value is also a float32) or int64; truth values are int64 0 or 1
    outI      outputs, likewise
    gradI     for each float input I: the gradient of the sum over all float outputs of
              out * cos(arange(out.numel())), arange running in C order
    metadata  "attrs": JSON {"case0": {...}, ...}, the arguments that are no tensors

Axes count as in PyTorch, negative ones from the end; reductions take a list of them. What the
inputs are is said beside each operation below.

    python make_ops.py

Needs torch and safetensors.
"""

import math
import shutil

import torch
import torch.nn.functional as F

from common import HERE, write

OPS = HERE / "ops"
files = {}
draw = torch.Generator().manual_seed(1)


def randn(*shape, scale=1.0, shift=0.0):
    return (torch.randn(shape, generator=draw) * scale + shift).to(torch.float32).double()


def positive(*shape, scale=1.0):
    return (torch.randn(shape, generator=draw) * scale).exp().to(torch.float32).double()


def ints(high, *shape, low=0):
    return torch.randint(low, high, shape, generator=draw)


def line(low, high, count):
    return torch.linspace(low, high, count).double()


def stored(x):
    return x.detach().clone().double() if x.is_floating_point() else x.long().clone()


def case(name, function, *inputs, **attrs):
    """One case of `name`: function(*inputs) and its gradients."""
    tensors, settings = files.setdefault(name, ({}, {}))
    tag = f"case{len(settings)}"
    settings[tag] = attrs
    inputs = [x.clone().requires_grad_(x.is_floating_point()) for x in inputs]
    outputs = function(*inputs)
    outputs = list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]
    total = sum((o * torch.arange(o.numel()).double().cos().view(o.shape)).sum() for o in outputs if o.requires_grad)
    for i, x in enumerate(inputs):
        tensors[f"{tag}.in{i}"] = stored(x)
        if x.requires_grad and torch.is_tensor(total):
            (grad,) = torch.autograd.grad(total, x, retain_graph=True)
            tensors[f"{tag}.grad{i}"] = stored(grad)
    for i, o in enumerate(outputs):
        tensors[f"{tag}.out{i}"] = stored(o)


# ---- elementwise, one input ----
UNARY = dict(
    exp=torch.exp, tanh=torch.tanh, sigmoid=torch.sigmoid, relu=torch.relu, gelu=F.gelu,
    gelu_tanh=lambda x: F.gelu(x, approximate="tanh"), silu=F.silu,
    softplus=lambda x: torch.logaddexp(x, torch.zeros_like(x)), abs=torch.abs, neg=torch.neg, square=torch.square)
for name, f in UNARY.items():
    case(name, f, randn(3, 5))
    case(name, f, line(-8, 8, 17))          # zero is among them: relu' and abs' are 0 there
    case(name, f, randn(2, 3, 7, scale=4))
    case(name, f, randn(1, scale=10))
for name, f in dict(log=torch.log, sqrt=torch.sqrt, rsqrt=torch.rsqrt).items():
    case(name, f, positive(3, 5))
    case(name, f, positive(17, scale=4))
    case(name, f, positive(2, 3, 7))

# ---- elementwise, two inputs that broadcast ----
PAIRS = [((2, 3, 5), (2, 3, 5)), ((2, 3, 5), (5,)), ((4, 1, 3), (7, 1)), ((3, 7), ()), ((1,), (13,))]
BINARY = dict(add=torch.add, sub=torch.sub, mul=torch.mul, div=torch.div, maximum=torch.maximum, minimum=torch.minimum)
for a, b in PAIRS:
    for name, f in BINARY.items():
        case(name, f, randn(*a), positive(*b) * (1 - 2 * ints(2, *b)) if name == "div" else randn(*b))
    case("pow", torch.pow, positive(*a), randn(*b))
    for name in ["eq", "ne", "lt", "le", "gt", "ge"]:
        case(name, getattr(torch, name), ints(3, *a).double(), ints(3, *b).double())
for a, b in [((3, 5), (3, 5)), ((2, 1, 3), (5, 1))]:            # condition, then, else
    case("where", lambda c, x, y: torch.where(c != 0, x, y), ints(2, *b), randn(*a), randn(*b))

# ---- reductions ----
REDUCE = dict(sum=torch.sum, mean=torch.mean, max=torch.amax, logsumexp=torch.logsumexp)
for name, f in REDUCE.items():
    for shape, axis, keep in [((3, 5), [-1], False), ((3, 5), [0], True), ((2, 3, 7), [0, 2], False),
                              ((2, 3, 7), [1], False), ((2, 3, 4), [0, 1, 2], False), ((33,), [0], True)]:
        case(name, lambda x: f(x, dim=axis, keepdim=keep), randn(*shape, scale=2), axis=axis, keepdim=keep)
case("logsumexp", lambda x: torch.logsumexp(x, dim=[1], keepdim=False), randn(2, 5, scale=100), axis=[1], keepdim=False)
for shape, axis, keep in [((3, 5), -1, False), ((2, 3, 7), 1, True), ((17,), 0, False)]:
    case("argmax", lambda x: torch.argmax(x, dim=axis, keepdim=keep), randn(*shape), axis=[axis], keepdim=keep)

# ---- along an axis ----
for shape, axis in [((3, 5), -1), ((3, 5), 0), ((2, 7, 3), 1), ((1,), 0)]:
    case("cumsum", lambda x: torch.cumsum(x, dim=axis), randn(*shape), axis=axis)
for shape, axis, k, largest in [((3, 7), -1, 3, True), ((5, 4), 0, 2, False), ((2, 3, 5), 1, 3, True),
                                ((31,), 0, 1, True)]:
    case("topk", lambda x: torch.topk(x, k, dim=axis, largest=largest, sorted=True), randn(*shape),
         axis=axis, k=k, largest=largest)               # values best first, indices
for shape, axis, down in [((3, 7), -1, False), ((5, 4), 0, True), ((2, 3, 5), 1, False)]:
    case("sort", lambda x: torch.sort(x, dim=axis, descending=down, stable=True), randn(*shape),
         axis=axis, descending=down)                    # values, indices
for down in [False, True]:                              # equal values keep their order
    case("sort", lambda x: torch.sort(x, dim=-1, descending=down, stable=True), ints(4, 19).double(),
         axis=-1, descending=down)

# ---- products ----
for a, b in [((3, 5), (5, 7)), ((2, 3, 4), (2, 4, 5)), ((2, 1, 3, 4), (5, 4, 3)), ((1, 17), (17, 1)),
             ((13, 9), (9, 11))]:
    case("matmul", torch.matmul, randn(*a), randn(*b))
for x, out, bias in [((3, 5), 4, True), ((2, 3, 7), 5, False), ((2, 2, 3, 4), 1, True), ((1, 9), 13, True)]:
    case("linear", F.linear, randn(*x), randn(out, x[-1]), *([randn(out)] if bias else []))   # x, weight, bias

# ---- softmax and norms ----
for name, f in dict(softmax=torch.softmax, log_softmax=torch.log_softmax).items():
    for shape, axis, scale in [((3, 5), -1, 1), ((2, 5, 3), 1, 3), ((4, 1), -1, 1), ((2, 17), -1, 100)]:
        case(name, lambda x: f(x, dim=axis), randn(*shape, scale=scale), axis=axis)
masked = torch.where(torch.ones(5, 5).tril().bool(), randn(5, 5), -math.inf)
case("softmax", lambda x: torch.softmax(x, dim=-1), masked, axis=-1)
for shape, eps, shift in [((3, 8), 1e-5, 0), ((2, 3, 7), 1e-6, 3), ((5, 1), 1e-5, 0), ((2, 33), 1e-2, 0)]:
    size = shape[-1]                                    # x, gain, offset; over the last axis
    case("layer_norm", lambda x, *wb: F.layer_norm(x, (size,), *wb, eps=eps), randn(*shape, shift=shift),
         randn(size, shift=1, scale=0.3), randn(size), eps=eps)
    case("rms_norm", lambda x, *w: F.rms_norm(x, (size,), *w, eps=eps), randn(*shape, shift=shift),
         randn(size, shift=1, scale=0.3), eps=eps)      # x, gain
case("layer_norm", lambda x: F.layer_norm(x, (6,), eps=1e-5), randn(3, 6), eps=1e-5)
case("rms_norm", lambda x: F.rms_norm(x, (6,), eps=1e-5), randn(3, 6), eps=1e-5)

# ---- tokens and positions ----
for rows, width, shape in [(11, 4, (2, 7)), (5, 3, (9,)), (3, 1, (1, 1))]:      # table, ids
    case("embedding", lambda table, ids: F.embedding(ids, table), randn(rows, width), ints(rows, *shape))
for shape, classes in [((2, 3), 5), ((7,), 4)]:
    case("one_hot", lambda ids: F.one_hot(ids, classes), ints(classes, *shape), classes=classes)


def rope(x, positions, theta, style, rotary):
    """Pair p turns by position * theta^(-2p / rotary); its members lie half of `rotary` apart ("half")
    or side by side ("interleaved"); the axes from `rotary` on stay."""
    pairs = rotary // 2
    angle = positions.double()[..., None, None] * theta ** (-torch.arange(pairs).double() / pairs)
    turn = torch.polar(torch.ones_like(angle), angle)
    head, rest = x[..., :rotary], x[..., rotary:]
    if style == "half":
        a, b = head.chunk(2, dim=-1)
    else:
        a, b = head[..., 0::2], head[..., 1::2]
    turned = torch.view_as_real(torch.complex(a, b) * turn)
    head = turned.transpose(-1, -2).flatten(-2) if style == "half" else turned.flatten(-2)
    return torch.cat([head, rest], dim=-1)


for style in ["half", "interleaved"]:                   # x [B, T, H, K], positions [B, T]
    for shape, rotary, first, theta in [((2, 5, 2, 8), 8, 0, 10000.0), ((1, 7, 3, 10), 10, 3, 100.0),
                                        ((2, 3, 1, 12), 6, 1, 10000.0), ((1, 4, 1, 2), 2, 0, 10000.0),
                                        ((1, 3, 2, 8), 8, 2000, 500000.0)]:
        positions = torch.arange(first, first + shape[1]).repeat(shape[0], 1) + torch.arange(shape[0])[:, None]
        case("rope", lambda x, p: rope(x, p, theta, style, rotary), randn(*shape), positions,
             style=style, rotary=rotary, theta=theta)


# ---- attention: q [B, T, H, K], k and v [B, S, KV, K], bias that broadcasts to [B, H, T, S] ----
def attention(q, k, v, bias=None, causal=False, window=0, scale=None):
    """Query t stands at S - T + t. Causal: it sees keys up to there; window: only the last `window` of these.
    Query head h reads key head h // (H / KV)."""
    T, S, group = q.shape[1], k.shape[1], q.shape[2] // k.shape[2]
    place, key = torch.arange(S - T, S)[:, None], torch.arange(S)[None]
    seen = (key <= place) if causal else torch.ones(T, S, dtype=torch.bool)
    if window:
        seen &= key > place - window
    mask = torch.zeros(T, S, dtype=q.dtype).masked_fill(~seen, -math.inf)
    mask = mask if bias is None else mask + bias
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale).transpose(1, 2)


for (B, T, S, H, KV, K), bias, causal, window, scale in [
        ((2, 5, 5, 2, 2, 4), None, True, 0, None),
        ((2, 5, 5, 2, 2, 4), None, False, 0, None),
        ((1, 3, 7, 2, 2, 5), None, True, 0, None),          # three new tokens after four
        ((1, 1, 6, 4, 2, 3), None, True, 0, None),          # one
        ((1, 4, 6, 4, 2, 3), None, True, 0, None),          # grouped heads
        ((1, 5, 5, 6, 1, 3), None, True, 0, None),          # one key head for all
        ((1, 9, 9, 2, 1, 4), None, True, 3, None),          # window
        ((1, 4, 9, 1, 1, 4), None, True, 4, None),
        ((2, 4, 4, 2, 2, 3), (2, 2, 4, 4), False, 0, None), # bias
        ((2, 4, 6, 2, 1, 3), (2, 4, 6), True, 0, None),
        ((1, 3, 5, 2, 2, 7), None, False, 0, 0.7)]:
    settings = dict(causal=causal, window=window, scale=scale if scale else 1 / math.sqrt(K))
    case("attention", lambda *x: attention(*x, **settings), randn(B, T, H, K, scale=2), randn(B, S, KV, K),
         randn(B, S, KV, K), *([randn(*bias, scale=2)] if bias else []), **settings)

# ---- feed-forward and loss ----
for shape in [(3, 8), (2, 3, 14), (1, 2)]:
    case("swiglu", lambda gate, up: F.silu(gate) * up,
         *(half.contiguous() for half in randn(*shape, scale=2).chunk(2, dim=-1)))
for rows, classes, skipped, how in [(5, 7, 0, "mean"), (7, 13, 3, "mean"), (4, 5, 1, "sum"), (6, 3, 2, "none"),
                                    (1, 2, 0, "mean")]:
    target = ints(classes, rows)                        # logits [N, V], targets [N]
    target[1::2][:skipped] = -100
    case("cross_entropy", lambda x, t: F.cross_entropy(x, t, ignore_index=-100, reduction=how),
         randn(rows, classes, scale=3), target, ignore_index=-100, reduction=how)

# ---- moving data ----
for shapes, axis in [([(2, 3), (2, 5)], -1), ([(1, 3), (2, 3), (4, 3)], 0), ([(2, 1, 3), (2, 4, 3)], 1)]:
    case("concat", lambda *x: torch.cat(x, dim=axis), *[randn(*s) for s in shapes], axis=axis)
for shape, sizes, axis in [((3, 9), [2, 3, 4], -1), ((7, 2), [1, 6], 0)]:
    case("split", lambda x: torch.split(x, sizes, dim=axis), randn(*shape), sizes=sizes, axis=axis)
for shape, start, stop, step in [((4, 7), [1, 0], [3, 7], [1, 1]), ((4, 7), [0, 1], [4, 7], [1, 2]),
                                 ((3, 5, 4), [0, 4, 1], [3, 5, 4], [2, 1, 1])]:
    case("slice", lambda x: x[tuple(map(slice, start, stop, step))], randn(*shape), start=start, stop=stop, step=step)
for shape, axes in [((3, 5), [1, 0]), ((2, 3, 4), [2, 0, 1]), ((2, 3, 1, 5), [0, 2, 1, 3])]:
    case("permute", lambda x: x.permute(axes), randn(*shape), axes=axes)
for shape, shifts, axes in [((3, 5), [2], [-1]), ((3, 5), [-1, 7], [0, 1]), ((7,), [0], [0])]:
    case("roll", lambda x: torch.roll(x, shifts, axes), randn(*shape), shifts=shifts, axes=axes)
for shape, pads, value in [((3, 5), [[0, 0], [1, 2]], 0.0), ((2, 3, 3), [[1, 0], [0, 2], [3, 0]], -1.5)]:
    flat = [n for pair in reversed(pads) for n in pair]         # pads: [before, after] for each axis
    case("pad", lambda x: F.pad(x, flat, value=value), randn(*shape), pads=pads, value=value)
for shape, index, axis in [((3, 7), (3, 4), -1), ((5, 3), (8, 3), 0), ((2, 5, 3), (2, 2, 3), 1)]:
    case("gather", lambda x, i: torch.gather(x, axis, i), randn(*shape), ints(shape[axis], *index), axis=axis)
    case("scatter_add", lambda x, i, s: torch.scatter_add(x, axis, i, s),       # x, index, source
         randn(*shape), ints(shape[axis], *index), randn(*index), axis=axis)



# ---- attention of rows that begin at places of their own: q, k, v, starts [B], parents [B, T] ----
def rows_attention(q, k, v, starts, parents=None, window=0, scale=1.0):
    """Causal; masks are written out. With parents there is no gradient to compare."""
    B, T, S, group = q.shape[0], q.shape[1], k.shape[1], q.shape[2] // k.shape[2]
    seen = torch.zeros(B, 1, T, S, dtype=torch.bool)
    for b in range(B):
        start = int(starts[b])
        for t in range(T):
            path, node = [], t
            while node >= 0:
                path.insert(0, start + node)
                node = node - 1 if parents is None else int(parents[b, node])
            keys = list(range(start)) + path
            for key in keys[-window:] if window else keys:
                if 0 <= key < S:
                    seen[b, 0, t, key] = True
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale).transpose(1, 2)
    return out if parents is None else out.detach()


def tree(*parents):
    return torch.tensor(parents)


for (B, T, S, H, KV, K), starts, parents, window in [
        ((3, 2, 7, 2, 2, 4), (0, 5, 3), None, 0),
        ((2, 4, 9, 4, 2, 3), (1, 5), None, 3),
        ((4, 1, 6, 2, 1, 4), (0, 1, 5, 3), None, 0),
        ((2, 3, 4, 1, 1, 3), (0, 3), None, 0),              # queries behind the last key
        ((2, 5, 8, 2, 2, 3), (0, 3), tree((-1, 0, 0, 1, -1), (-1, 0, 1, 2, 3)), 0),
        ((1, 6, 11, 4, 1, 4), (4,), tree((-1, -1, 0, 1, 2, 2)), 3)]:
    settings = dict(causal=True, window=window, scale=1 / math.sqrt(K), starts=True, parents=parents is not None)
    case("attention", lambda *x: rows_attention(*x, **{k: settings[k] for k in ("window", "scale")}),
         randn(B, T, H, K, scale=2), randn(B, S, KV, K), randn(B, S, KV, K), torch.tensor(starts),
         *([] if parents is None else [parents]), **settings)

# ---- 8-bit weights: rows of x by their largest magnitude, in single precision ----
def linear_int8(x, w, scale, bias=None):
    x = x.detach().float()
    most = x.abs().amax(-1, keepdim=True)
    q = torch.round(x * (127.0 / most))
    y = (q.double() @ w.double().T) * (most / 127.0).double() * scale.detach()
    return y if bias is None else y + bias.detach()


for x, out, bias in [((3, 5), 4, True), ((2, 3, 70), 9, False), ((1, 300), 13, True), ((9, 64), 33, False)]:
    case("linear_int8", linear_int8, randn(*x, scale=3), ints(128, out, x[-1], low=-127), positive(out),
         *([randn(out)] if bias else []))

# ---- Long convolutions, and the kernels of state spaces from their matrices ----
def long_conv(x, k):
    T = x.shape[1]
    n = 2 * max(T, k.shape[0])
    spectrum = torch.fft.rfft(x.transpose(1, 2), n=n) * torch.fft.rfft(k.T, n=n)
    return torch.fft.irfft(spectrum, n=n)[..., :T].transpose(1, 2)


for B, T, D, L in [(2, 7, 3, 7), (1, 100, 2, 100), (2, 129, 5, 40), (1, 300, 1, 500)]:
    case("long_conv", long_conv, randn(B, T, D), randn(L, D))


# k[l, d] = 2 Re sum_n c p^l by powers of the diagonal matrix, one after another
def vandermonde(c_re, c_im, p_re, p_im, T):
    c, p, rows = torch.complex(c_re, c_im), torch.complex(p_re, p_im), []
    for _ in range(T):
        rows.append(2 * c.sum(-1).real)
        c = c * p
    return torch.stack(rows)


for T, D, N in [(9, 3, 2), (40, 2, 4), (400, 2, 3)]:
    p = torch.polar(0.9 + 0.1 * torch.rand(D, N, generator=draw), 3 * torch.rand(D, N, generator=draw))
    case("vandermonde", lambda *x, T=T: vandermonde(*x, T=T), randn(D, N), randn(D, N), p.real.float().double(), p.imag.float().double(), T=T)


# k[l] = C Abar^l Bbar by powers of the whole matrix, which is made of the planes: a pole's pair is
# [[a1, -a0], [1, 0]], of what B and P may be one is free. alpha g + beta over g^2 - a1 g + a0 is
# [alpha, beta] (g I - pair)^-1 [1, 0]'; for r0 = cb and the rest: C, Q rows and B, P columns with
# the four products as planes say, where P is [1, 0]' and B, too, so that r1 = r0 and r3 = r2.
def dplr_kernel(planes, T):
    a1, a0, alpha0, beta0, alpha1, beta1, alpha2, beta2, alpha3, beta3 = planes
    rows = []
    D, N = a1.shape
    for d in range(D):
        pairs = [torch.stack([torch.stack([a1[d, n], -a0[d, n]]), torch.tensor([1.0, 0.0]).double()]) for n in range(N)]
        A = torch.block_diag(*pairs)
        one = torch.tensor([1.0, 0.0]).double().repeat(N)
        row = lambda a, b: torch.stack([a[d], b[d]], 1).reshape(-1)
        A = A - torch.outer(one, row(alpha3, beta3))
        eye = torch.eye(2 * N).double()
        left = torch.linalg.inv(eye - A / 2)
        x, k = left @ one, []
        for _ in range(T):
            k.append(row(alpha0, beta0) @ x)
            x = left @ ((eye + A / 2) @ x)
        rows.append(torch.stack(k))
    # the planes of C P and Q B are those of C B and Q P
    return torch.stack(rows, 1) + 0 * (alpha1 + alpha2 + beta1 + beta2).sum()


for T, D, N in [(9, 2, 2), (40, 2, 3), (150, 1, 4)]:
    a = torch.complex(-0.02 - 0.1 * torch.rand(D, N, generator=draw), 0.1 + 2 * torch.rand(D, N, generator=draw))
    cb, qp = randn(2, D, N), 0.01 * randn(2, D, N)
    planes = torch.stack([2 * a.real, a.abs() ** 2, *cb, *cb, *qp, *qp]).float().double()
    case("dplr_kernel", lambda p, T=T: dplr_kernel(p, T).detach(), planes, T=T)

if __name__ == "__main__":
    shutil.rmtree(OPS, ignore_errors=True)
    for name, (tensors, settings) in files.items():
        write(OPS / f"{name}.safetensors", tensors, settings)
        print(f"{name:14} {len(settings)} cases, {(OPS / f'{name}.safetensors').stat().st_size} bytes")
