/* out[b,t,h] = sum over s of p[t,s] v[b,s,g], p = softmax over s of scale q[b,t,h] k[b,s,g] + bias[b,h,t,s],
 * g = h / (H / G); a query that may see no key gives 0. With a soft cap c, c tanh(scale q k / c) stands for
 * scale q k. lse [B, H, T], the logarithm of the softmax's denominator, is a second, hidden output.
 *
 * Query t stands at place = start + t, start = starts[b] or S - T. It sees key s if s < prefix, or if
 * s <= place where causal, s > place - window and s < place + window where there is a window. Always:
 * s < lengths[b], segments[b,s] = segments[b,place].
 *
 * With rows, the keys and values of batch row b are k[rows[b]] and v[rows[b]]. They may be 16-bit floats
 * or q8_0 whatever q is.
 *
 * By distance: with table c(d) of columns, where d is the key's place less the query's, clipped,
 * relative[b,h,t,c(d)] and relative_keys[b,h,s,c(d)] join the bias. A third output, where asked for, is
 * sums[b,t,h,c], the sum of p[t,s] over the keys with c(d) = c.
 *
 * Where queries form a tree, key start + i is query i's and both have place start + depth, the number
 * of ancestors. Then of the keys from start on only those of ancestors and its own are seen.
 *
 * Backward: P = e^(S - lse), D = rowsum(dout out) - dlse, dS = P (dout v^T - D), dv = P^T dout,
 * dk = scale dS^T q, dq = scale dS k, dbias = dS; with a soft cap, dS of q and k times 1 - tanh^2. Sums add
 * dsums[b,t,h,c(d)] to dout v^T and rowsum(dsums sums) to D.
 * arXiv:2205.14135, 2307.08691 */
#include "ops/attention.h"

#include "kernels/attention.h"
#include "ops/attention_plain.h"
#include "ops/op.h"

typedef struct {
    bool    causal;
    int64_t window, prefix;
    double  scale, softcap;
    int32_t sums; /* C, if they are wanted */

    qp_pattern pattern;
} attr;

enum { Q, K, V, BIAS, SEGMENTS, LENGTHS, STARTS, PARENTS, ROWS, RELATIVE, RELATIVE_KEYS, COLUMNS, INPUTS };
/* of the gradient; then the inputs above */
enum { DQ, DK, DV, DBIAS, DRELATIVE, DRELATIVE_KEYS, OUT, LSE, SUMS, DOUT, DLSE, DSUMS, FORWARD };
enum { MOST = DRELATIVE_KEYS + 1 }; /* gradients */

/* What the gradients are of. */
static const int input_of[] = {Q, K, V, BIAS, RELATIVE, RELATIVE_KEYS};

static const qp_view absent = {.ndim = -1};

static qp_view optional(const qp_call *c, int i) { return c->nin > i ? c->in[i] : absent; }

/* Input i, a bias or a table of distances, or its gradient, as [B, H, T, S], [B, H, T, C] or [B, H, S, C]. */
static qp_view expanded(qp_view given, int i, const qp_view *q, const qp_view *k) {
    if (given.ndim < 0) return given;
    qp_view v = {.data = given.data, .dtype = given.dtype, .ndim = 4};
    int64_t rows = i == RELATIVE_KEYS ? k->shape[1] : q->shape[1];
    int64_t columns = i == BIAS ? k->shape[1] : given.ndim ? given.shape[given.ndim - 1] : 1;
    int64_t shape[] = {q->shape[0], q->shape[2], rows, columns};
    for (int axis = 0; axis < 4; axis++) {
        int own = axis - (4 - given.ndim);
        v.shape[axis] = shape[axis];
        v.stride[axis] = own < 0 || given.shape[own] == 1 ? 0 : given.stride[own];
    }
    return v;
}

/* Inputs from `first` on. */
static qk_attention problem(const qp_call *c, int first) {
    const attr    *a = c->attr;
    const qp_view *in = c->in + first;
    return (qk_attention){.q = in[Q],
                          .k = in[K],
                          .v = in[V],
                          .bias = expanded(optional(c, first + BIAS), BIAS, &in[Q], &in[K]),
                          .relative = expanded(optional(c, first + RELATIVE), RELATIVE, &in[Q], &in[K]),
                          .relative_keys =
                              expanded(optional(c, first + RELATIVE_KEYS), RELATIVE_KEYS, &in[Q], &in[K]),
                          .columns = optional(c, first + COLUMNS),
                          .segments = optional(c, first + SEGMENTS),
                          .lengths = optional(c, first + LENGTHS),
                          .starts = optional(c, first + STARTS),
                          .parents = optional(c, first + PARENTS),
                          .rows = optional(c, first + ROWS),
                          .sums = absent,
                          .causal = a->causal,
                          .window = a->window,
                          .prefix = a->prefix,
                          .scale = (float)(a->scale != 0 ? a->scale : 1 / sqrt((double)in[Q].shape[3])),
                          .softcap = (float)a->softcap,
                          .pattern = a->pattern};
}

static qk_attention forward_problem(const qp_call *c) {
    qk_attention p = problem(c, 0);
    p.out = c->out[0];
    p.lse = c->out[1];
    if (((const attr *)c->attr)->sums) p.sums = c->out[2];
    return p;
}

/* An empty view stands for a gradient that is not wanted. */
static qp_view gradient(const qp_call *c, int i) { return qp_view_count(&c->in[i]) ? c->in[i] : absent; }

static qk_attention_grad grad_problem(const qp_call *c) {
    qk_attention_grad g = {.of = problem(c, FORWARD)};
    g.of.out = c->in[OUT];
    g.of.lse = c->in[LSE];
    g.dout = c->in[DOUT];
    g.dlse = c->in[DLSE];
    g.dsums = c->in[DSUMS];
    if (g.dsums.ndim >= 0) g.of.sums = c->in[SUMS];
    qp_view *to[] = {&g.dq, &g.dk, &g.dv, &g.dbias, &g.drelative, &g.drelative_keys};
    for (int i = 0; i < MOST; i++) {
        *to[i] = c->in[i].ndim < 0 ? absent : gradient(c, i);
        if (i >= DBIAS) *to[i] = expanded(*to[i], input_of[i], &g.of.q, &g.of.k);
    }
    return g;
}

static bool refuse(const qp_call *c, const char *what, int64_t value, int64_t row, int64_t low, int64_t high) {
    qp_call_fail(c, QP_ERR_ARGUMENT, "%s %lld of row %lld, expected %lld to %lld", what, (long long)value,
                 (long long)row, (long long)low, (long long)high);
    return false;
}

/* Is what the mask says of a batch row within its keys and queries? Stores an error if not. */
static bool row_fits(const qp_call *c, const qk_attention *p, int64_t b) {
    int64_t T = p->q.shape[1], S = p->k.shape[1], start = qk_attention_start(p, b), far = INT32_MAX / 2;
    int64_t row = qk_attention_row(p, b), rows = p->k.shape[0];
    if (row < 0 || row >= rows) return refuse(c, "row", row, b, 0, rows - 1);
    if (p->lengths.ndim >= 0) {
        int64_t n = qk_integer(&p->lengths, b, 0);
        if (n < 0 || n > S) return refuse(c, "length", n, b, 0, S);
    }
    if (p->segments.ndim >= 0 && (start < 0 || start > S - T)) return refuse(c, "start", start, b, 0, S - T);
    if (p->parents.ndim >= 0 && (start < 0 || start > S)) return refuse(c, "start", start, b, 0, S);
    if (start < -far || start > far) return refuse(c, "start", start, b, -far, far);
    for (int64_t t = 0; p->parents.ndim >= 0 && t < T; t++) {
        int64_t parent = qk_integer(&p->parents, b, t);
        if (parent < -1 || parent >= t) return refuse(c, "parent", parent, b, -1, t - 1);
    }
    return true;
}

static int64_t least(int64_t a, const qp_view *v) { return v->ndim < 0 || v->shape[3] > a ? a : v->shape[3]; }

static bool columns_fit(const qp_call *c, const qk_attention *p) {
    if (p->columns.ndim < 0) return true;
    int64_t sums = ((const attr *)c->attr)->sums;
    int64_t columns = least(least(sums ? sums : INT32_MAX, &p->relative), &p->relative_keys);
    for (int64_t i = 0; i < p->columns.shape[0]; i++) {
        int64_t column = qk_integer(&p->columns, i, 0);
        if (column < 0 || column >= columns) return refuse(c, "column", column, i, 0, columns - 1);
    }
    return true;
}

static bool mask_fits(const qp_call *c, const qk_attention *p) {
    if (!columns_fit(c, p)) return false;
    for (int64_t b = 0; b < p->q.shape[0]; b++)
        if (!row_fits(c, p, b)) return false;
    return true;
}

static void run(const qp_call *c) {
    qk_attention p = forward_problem(c);
    if (mask_fits(c, &p)) QK(qk_attention_run)(c->exec, &p);
}

static void run_grad(const qp_call *c) {
    qk_attention_grad g = grad_problem(c);
    if (mask_fits(c, &g.of)) QK(qk_attention_grad_run)(c->exec, &g);
}

static bool is_index(int i) { return (i >= SEGMENTS && i <= ROWS) || i == COLUMNS; }

/* f32; k and v also as 16-bit floats and blocks. */
static bool takes(const qp_call *c) {
    for (int i = 0; i < c->nin; i++) {
        qp_dtype type = c->in[i].dtype;
        bool     small = (i == K || i == V) && (type == QP_BF16 || type == QP_F16 || type == QP_Q8_0);
        if (c->in[i].ndim >= 0 && type != (is_index(i) ? QP_I64 : QP_F32) && !small) return false;
    }
    return true;
}

QP_KERNEL(attention) = {run, QP_ANY, takes};
QP_KERNEL(attention_grad) = {run_grad, QP_ANY, NULL};

#if QP_BODY
#include "core/core.h"

static bool same(const qp_view *v, qp_dtype type, int ndim, const int64_t *shape) {
    bool same = v->dtype == type && v->ndim == ndim;
    for (int i = 0; i < ndim && same; i++) same = v->shape[i] == shape[i];
    return same;
}

static bool pattern_fits(const qp_pattern *p) {
    const int32_t counts[] = {p->block,   p->local,   p->dilation, p->stride,
                              p->summary, p->section, p->globals,  p->random};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        if (counts[i] < 0 || counts[i] > 1 << 30) return false;
    return p->random <= 64 && p->summary <= p->section && p->seed >= 0 && p->seed < 1 << 30;
}

static bool check_table(const qp_call *c, int first, int i) {
    const qp_view *q = &c->in[first + Q], *k = &c->in[first + K];
    qp_view        v = optional(c, first + i), full = v;
    if (v.ndim < 0) return true;
    int64_t columns = v.ndim ? v.shape[v.ndim - 1] : 0, rows = i == RELATIVE ? q->shape[1] : k->shape[1];
    int64_t shape[] = {q->shape[0], q->shape[2], rows, columns};
    bool    odd = optional(c, first + COLUMNS).ndim >= 0 || columns % 2;
    if (qp_dtype_is_float(v.dtype) && columns > 0 && columns < INT32_MAX && odd &&
        qpi_view_expand(&full, 4, shape))
        return true;
    qpi_call_misfit(c, QP_ERR_SHAPE, "q", q, i == RELATIVE ? "relative" : "relative_keys", &v,
                    i == RELATIVE ? "floats that broadcast to [B, H, T, C], C odd or with columns"
                                  : "floats that broadcast to [B, H, S, C], C odd or with columns");
    return false;
}

static bool check_columns(const qp_call *c, int first) {
    const attr *a = c->attr;
    qp_view     columns = optional(c, first + COLUMNS);
    bool        given = columns.ndim >= 0;
    if (given ? columns.dtype == QP_I64 && columns.ndim == 1 && columns.shape[0] % 2
              : a->sums == 0 || a->sums % 2)
        return true;
    qp_call_fail(c, QP_ERR_SHAPE,
                 "columns for the distances -m to m: expected i64 [2 m + 1] or an odd number, found %lld",
                 (long long)(given && columns.ndim ? columns.shape[0] : a->sums));
    return false;
}

static bool check_mask(const qp_call *c, int first) {
    const attr    *a = c->attr;
    const qp_view *q = &c->in[first + Q], *k = &c->in[first + K];
    qp_view        bias = optional(c, first + BIAS), segments = optional(c, first + SEGMENTS),
                   lengths = optional(c, first + LENGTHS), starts = optional(c, first + STARTS),
                   parents = optional(c, first + PARENTS), rows = optional(c, first + ROWS), full = bias;
    int64_t        scores[] = {q->shape[0], q->shape[2], q->shape[1], k->shape[1]};
    if (!check_table(c, first, RELATIVE) || !check_table(c, first, RELATIVE_KEYS) || !check_columns(c, first))
        return false;
    if (a->window < 0 || a->prefix < 0)
        qp_call_fail(c, QP_ERR_ARGUMENT, "window %lld and prefix %lld, expected 0 or more",
                     (long long)a->window, (long long)a->prefix);
    else if (bias.ndim >= 0 && (!qp_dtype_is_float(bias.dtype) || !qpi_view_expand(&full, 4, scores)))
        qpi_call_misfit(c, QP_ERR_SHAPE, "q", q, "bias", &bias, "a float bias that broadcasts to [B, H, T, S]");
    else if (segments.ndim >= 0 && !same(&segments, QP_I64, 2, k->shape))
        qpi_call_misfit(c, QP_ERR_SHAPE, "k", k, "segments", &segments, "i64 [B, S]");
    else if (segments.ndim >= 0 && q->shape[1] > k->shape[1])
        qpi_call_misfit(c, QP_ERR_SHAPE, "q", q, "k", k, "no more queries than keys with segments");
    else if (rows.ndim >= 0 && (segments.ndim >= 0 || !same(&rows, QP_I64, 1, q->shape)))
        qpi_call_misfit(c, QP_ERR_SHAPE, "q", q, "rows", &rows, "i64 [B], without segments");
    else if (lengths.ndim >= 0 && !same(&lengths, QP_I64, 1, q->shape))
        qpi_call_misfit(c, QP_ERR_SHAPE, "q", q, "lengths", &lengths, "i64 [B]");
    else if (starts.ndim >= 0 && !same(&starts, QP_I64, 1, q->shape))
        qpi_call_misfit(c, QP_ERR_SHAPE, "q", q, "starts", &starts, "i64 [B]");
    else if (parents.ndim >= 0 && !same(&parents, QP_I64, 2, q->shape))
        qpi_call_misfit(c, QP_ERR_SHAPE, "q", q, "parents", &parents, "i64 [B, T]");
    else if (parents.ndim >= 0 && (q->shape[1] > QK_ATTENTION_TREE || q->shape[1] > k->shape[1]))
        qpi_call_misfit(c, QP_ERR_SHAPE, "q", q, "k", k, "at most 64 queries with parents, each with a key");
    else if (parents.ndim >= 0 && (!a->causal || a->pattern.block))
        qp_call_fail(c, a->causal ? QP_ERR_UNSUPPORTED : QP_ERR_ARGUMENT,
                     a->causal ? "a pattern of blocks takes no parents (drafts)" : "parents without causal");
    else if (!pattern_fits(&a->pattern))
        qp_call_fail(c, QP_ERR_ARGUMENT,
                     "pattern: expected a block of 1 to 2^30 places, counts of 0 to 2^30, random at most 64, "
                     "summary at most section");
    else return true;
    return false;
}

/* q, k, v and the mask from input `first` on; false after storing an error. */
static bool check(const qp_call *c, int first) {
    const qp_view *q = &c->in[first + Q], *k = &c->in[first + K], *v = &c->in[first + V];
    bool small = q->dtype != k->dtype && (k->dtype == QP_BF16 || k->dtype == QP_F16 || k->dtype == QP_Q8_0);
    if (!qp_dtype_is_float(q->dtype) || (q->dtype != k->dtype && !small) || k->dtype != v->dtype)
        qp_call_fail(c, QP_ERR_TYPE,
                     "q is %s, k is %s, v is %s: expected one type of floats, or k and v bf16, f16 or q8_0",
                     qp_dtype_name(q->dtype), qp_dtype_name(k->dtype), qp_dtype_name(v->dtype));
    else if (q->ndim != 4 || k->ndim != 4 ||
             (q->shape[0] != k->shape[0] && optional(c, first + ROWS).ndim < 0) || q->shape[3] != k->shape[3] ||
             (k->shape[2] ? q->shape[2] % k->shape[2] : q->shape[2]) != 0)
        qpi_call_misfit(c, QP_ERR_SHAPE, "q", q, "k", k, "[B, T, H, K] and [B, S, G, K] with G dividing H");
    else if (v->ndim != 4 || v->shape[0] != k->shape[0] || v->shape[1] != k->shape[1] ||
             v->shape[2] != k->shape[2])
        qpi_call_misfit(c, QP_ERR_SHAPE, "k", k, "v", v, "[B, S, G, K] and [B, S, G, L]");
    else if (q->shape[1] > INT32_MAX / 2 || k->shape[1] > INT32_MAX / 2)
        qpi_call_misfit(c, QP_ERR_SHAPE, "q", q, "k", k, "less than 2^30 queries and keys");
    else return check_mask(c, first);
    return false;
}

static void shape(qp_call *c) {
    const qp_view *q = &c->in[Q], *v = &c->in[V];
    if (!check(c, 0)) return;
    qpi_view_init(&c->out[0], q->dtype, 4, (int64_t[]){q->shape[0], q->shape[1], q->shape[2], v->shape[3]});
    qpi_view_init(&c->out[1], q->dtype, 3, (int64_t[]){q->shape[0], q->shape[2], q->shape[1]});
    int64_t sums = ((const attr *)c->attr)->sums;
    qpi_view_init(&c->out[2], q->dtype, 4, (int64_t[]){sums ? q->shape[0] : 0, q->shape[1], q->shape[2], sums});
}

static void shape_grad(qp_call *c) {
    const qp_view *q = &c->in[FORWARD + Q], *v = &c->in[FORWARD + V];
    c->out[0] = c->in[0];
    if (c->nin <= FORWARD + V) {
        qp_call_fail(c, QP_ERR_ARGUMENT, "%d inputs, expected %d at least", c->nin, FORWARD + V + 1);
        return;
    }
    if (!check(c, FORWARD)) return;
    int64_t out[] = {q->shape[0], q->shape[1], q->shape[2], v->shape[3]};
    int64_t lse[] = {q->shape[0], q->shape[2], q->shape[1]};
    for (int i = 0; i < MOST; i++) {
        qp_view of = optional(c, FORWARD + input_of[i]);
        if (c->in[i].ndim >= 0 && qp_view_count(&c->in[i]) && !same(&c->in[i], of.dtype, of.ndim, of.shape))
            qpi_call_misfit(c, QP_ERR_SHAPE, "gradient", &c->in[i], "input", &of, "the same");
    }
    if (!same(&c->in[OUT], q->dtype, 4, out) || !same(&c->in[DOUT], q->dtype, 4, out))
        qpi_call_misfit(c, QP_ERR_SHAPE, "out", &c->in[OUT], "dout", &c->in[DOUT], "[B, T, H, L]");
    if (!same(&c->in[LSE], q->dtype, 3, lse) ||
        (c->in[DLSE].ndim >= 0 && !same(&c->in[DLSE], q->dtype, 3, lse)))
        qpi_call_misfit(c, QP_ERR_SHAPE, "q", q, "lse", &c->in[LSE], "lse [B, H, T]");
    int64_t sums[] = {q->shape[0], q->shape[1], q->shape[2], ((const attr *)c->attr)->sums};
    if (c->in[DSUMS].ndim >= 0 &&
        (!same(&c->in[SUMS], q->dtype, 4, sums) || !same(&c->in[DSUMS], q->dtype, 4, sums)))
        qpi_call_misfit(c, QP_ERR_SHAPE, "sums", &c->in[SUMS], "dsums", &c->in[DSUMS], "[B, T, H, C]");
}

/* ---- The definition (ops/attention_plain.c) ------------------------------------------------- */

static double scale_of(const qp_call *c, const qk_attention *p) {
    double scale = ((const attr *)c->attr)->scale;
    return scale != 0 ? scale : 1 / sqrt((double)p->q.shape[3]);
}
static double softcap_of(const qp_call *c) { return ((const attr *)c->attr)->softcap; }

static void plain(const qp_call *c) {
    qk_attention p = forward_problem(c);
    if (mask_fits(c, &p)) qpo_attention_plain(&p, scale_of(c, &p), softcap_of(c), c->exec->scratch);
}

static void plain_grad(const qp_call *c) {
    qk_attention_grad d = grad_problem(c);
    if (mask_fits(c, &d.of)) qpo_attention_plain_grad(&d, scale_of(c, &d.of), softcap_of(c), c->exec->scratch);
}

/* ---- The ops ------------------------------------------------------------------------------ */

extern const qp_op qp_op_attention_grad;

static void backward(qp_rule *r) {
    static const int64_t nothing[] = {0};
    for (int i = PARENTS; i <= ROWS && i < r->nin; i++)
        if (!qp_is_none(r->in[i])) {
            qp_fail(r->ctx, QP_ERR_UNSUPPORTED, "attention: no gradient where queries have %s",
                    i == ROWS ? "rows" : "parents");
            return;
        }
    qp_tensor in[FORWARD + INPUTS];
    for (int i = 0; i < INPUTS; i++) in[FORWARD + i] = i < r->nin ? r->in[i] : QP_NONE;
    for (int i = Q; i <= V; i++)
        in[DQ + i] = r->need[i] ? qp_grad_into(r, i) : qp_empty(r->ctx, qp_dtype_of(r->in[i]), 1, nothing);
    for (int i = DBIAS; i < MOST; i++)
        in[i] = r->nin > input_of[i] && r->need[input_of[i]] ? qp_grad_into(r, input_of[i]) : QP_NONE;
    bool sums = ((const attr *)r->attr)->sums != 0;
    in[OUT] = r->out[0];
    in[LSE] = r->out[1];
    in[SUMS] = sums ? r->out[2] : QP_NONE;
    in[DOUT] = r->dout[0];
    in[DLSE] = r->dout[1];
    in[DSUMS] = sums ? r->dout[2] : QP_NONE;
    if (qp_is_none(in[DOUT]))
        in[DOUT] = qp_zeros(r->ctx, qp_dtype_of(r->out[0]), 4,
                            (int64_t[]){qp_size(r->out[0], 0), qp_size(r->out[0], 1), qp_size(r->out[0], 2),
                                        qp_size(r->out[0], 3)});
    qp_apply(&qp_op_attention_grad, FORWARD + INPUTS, in, r->attr);
    for (int i = 0; i < MOST; i++)
        if (input_of[i] < r->nin && r->need[input_of[i]]) r->din[input_of[i]] = in[i];
}

/* Of the keys low..high-1 those that the pattern lets the query at `place` see. */
static int64_t seen_keys(const qk_attention *p, int64_t place, int64_t low, int64_t high) {
    int64_t block = p->pattern.block, sum = 0;
    if (low >= high) return 0;
    if (!block) return high - low;
    for (int64_t kb = low / block; kb * block < high && place >= 0; kb++) {
        int64_t from = kb * block < low ? low : kb * block,
                to = (kb + 1) * block < high ? (kb + 1) * block : high;
        if (qk_pattern_sees(&p->pattern, p->causal, place / block, kb)) sum += to - from;
    }
    return sum;
}

/* Pairs of a query and a key of a batch row that the shape of the mask lets meet. */
static double row_pairs(const qk_attention *p, int64_t start) {
    int64_t S = p->k.shape[1], T = p->q.shape[1], sum = 0;
    for (int64_t t = 0; t < T; t++) {
        int64_t place = start + t, high = S, low = 0;
        if (p->causal) high = place + 1;
        else if (p->window) high = place + p->window;
        if (p->window) low = place - p->window + 1;
        if (high > S) high = S;
        if (low < p->prefix) low = p->prefix;
        sum += (p->prefix < S ? p->prefix : S) + seen_keys(p, place, low, high);
    }
    return (double)sum;
}

static double pairs(const qp_call *c, int first) {
    qk_attention p = problem(c, first);
    int64_t      B = p.q.shape[0], H = p.q.shape[2];
    double       sum = 0;
    if (p.starts.ndim < 0 || !p.starts.data)
        return row_pairs(&p, p.k.shape[1] - p.q.shape[1]) * (double)(B * H);
    for (int64_t b = 0; b < B; b++) sum += row_pairs(&p, qk_attention_start(&p, b));
    return sum * (double)H;
}

static double flops(const qp_call *c) {
    return 2 * pairs(c, 0) * (double)(c->in[K].shape[3] + c->in[V].shape[3]);
}
static double flops_grad(const qp_call *c) {
    const qp_view *in = c->in + FORWARD;
    return 2 * pairs(c, FORWARD) * (double)(3 * in[K].shape[3] + 2 * in[V].shape[3]);
}

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

static size_t scratch(const qp_call *c, int threads) {
    qk_attention p = forward_problem(c);
    int64_t      plain = p.k.shape[1] + ((const attr *)c->attr)->sums;
    return larger(QK(qk_attention_scratch)(&p, threads), (size_t)plain * sizeof(double));
}
static size_t scratch_grad(const qp_call *c, int threads) {
    qk_attention_grad g = grad_problem(c);
    return larger(QK(qk_attention_grad_scratch)(&g, threads), (size_t)g.of.k.shape[1] * sizeof(double));
}

static const qp_sample samples[] = {
    {.in = "x[2,5,2,4] x[2,5,2,4] x[2,5,2,4]"},
    {.in = "x[1,3,2,5] x[1,7,2,5] x[1,7,2,3]", .attr = &(attr){.causal = true}},
    {.in = "x[2,4,6,3] x[2,6,2,3] x[2,6,2,3]", .attr = &(attr){.causal = true, .scale = 0.7}},
    {.in = "x[1,9,4,4] x[1,9,1,4] x[1,9,1,4]", .attr = &(attr){.causal = true, .window = 3}},
    {.in = "x[1,9,1,4] x[1,9,1,4] x[1,9,1,4]", .attr = &(attr){.window = 2, .prefix = 2}},
    {.in = "x[2,4,2,3] x[2,6,2,3] x[2,6,2,3] x[2,2,4,6]"},
    {.in = "x[2,4,2,3] x[2,6,1,3] x[2,6,1,3] x[4,6]", .attr = &(attr){.causal = true}},
    {.in = "x[2,3,2,3] x[2,4,2,3] x[2,4,2,3] x[1,2,1,4] i2[2,4] i5[2]"},
    {.in = "x[2,4,1,3] x[2,4,1,3] x[2,4,1,3] - i2[2,4]", .attr = &(attr){.causal = true}},
    {.in = "x[3,2,1,3] x[3,4,1,3] x[3,4,1,3] - - i5[3]", .attr = &(attr){.causal = true, .prefix = 1}},
    {.in = "x[1,5,1,2] x[1,3,1,2] x[1,3,1,2]", .attr = &(attr){.causal = true}}, /* some see nothing */
    {.in = "x[3,2,2,3] x[3,7,2,3] x[3,7,2,3] - - - i8[3]", .attr = &(attr){.causal = true}},
    {.in = "x[3,4,4,3] x[3,9,2,3] x[3,9,2,3] x[4,9] i2[3,9] i10[3] i6[3]",
     .attr = &(attr){.causal = true, .window = 3, .prefix = 1}},
    {.in = "x[2,3,1,3] x[2,5,1,3] x[2,5,1,3] - - - i5[2]", .attr = &(attr){.window = 2}},
    {.in = "x[3,6,2,3] x[3,9,2,3] x[3,9,2,3] - - - i4[3] t[3,6]",
     .attr = &(attr){.causal = true},
     .no_grad = true},
    {.in = "x[2,7,4,3] x[2,12,1,3] x[2,12,1,3] x[12] i2[2,12] i13[2] i6[2] t[2,7]",
     .attr = &(attr){.causal = true, .window = 2, .prefix = 1},
     .no_grad = true},
    {.in = "x[1,60,1,3] x[1,150,1,3] x[1,150,1,3] - - - - t[1,60]",
     .attr = &(attr){.causal = true, .window = 30},
     .no_grad = true},
    {.in = "x[1,1,4,7] x[1,300,2,7] x[1,300,2,7]", .attr = &(attr){.causal = true}},
    {.in = "x[1,70,2,5] x[1,150,1,5] x[1,150,1,3]", .attr = &(attr){.causal = true, .window = 40, .prefix = 3}},
    {.in = "x[3,2,4,3] x[4,9,2,3] x[4,9,2,3] - - i10[3] i6[3] - i4[3]",
     .attr = &(attr){.causal = true},
     .no_grad = true},
    {.in = "x[3,2,4,32] wq8_0[4,9,2,32] wq8_0[4,9,2,64] - - i10[3] i6[3] - i4[3]",
     .attr = &(attr){.causal = true},
     .no_grad = true},
    {.in = "x[2,6,2,3] x[3,9,1,3] x[3,9,1,3] - - - i4[2] t[2,6] i3[2]",
     .attr = &(attr){.causal = true, .window = 4},
     .no_grad = true},
    {.in = "x[2,5,2,4] x[2,6,1,4] x[2,6,1,3]", .attr = &(attr){.causal = true, .softcap = 0.9}},
    {.in = "x[2,4,4,3] x[2,9,2,3] x[2,9,2,3] x[2,4,4,9] - i10[2]",
     .attr = &(attr){.window = 3, .scale = 1.1, .softcap = 1.5}},
    {.in = "x[1,70,2,5] x[1,150,1,5] x[1,150,1,3]", .attr = &(attr){.causal = true, .softcap = 2}},
    {.in = "x[1,1,4,7] x[1,300,2,7] x[1,300,2,7]", .attr = &(attr){.causal = true, .softcap = 1}},
    {.in = "x[2,19,4,3] x[2,19,2,3] x[2,19,2,3]",
     .attr = &(attr){.causal = true, .pattern = {.block = 3, .local = 2, .stride = 4, .globals = 1}}},
    {.in = "x[1,9,2,3] x[1,23,1,3] x[1,23,1,3] - - i24[1] i15[1]",
     .attr = &(attr){.causal = true,
                     .prefix = 2,
                     .pattern = {.block = 4, .local = 2, .dilation = 2, .random = 1, .seed = 5}}},
    {.in = "x[1,150,1,3] x[1,150,1,3] x[1,150,1,3]",
     .attr =
         &(attr){.pattern = {.block = 16, .local = 1, .summary = 1, .section = 3, .globals = 1, .random = 1}}},
    {.in = "x[1,1,4,7] x[1,300,2,7] x[1,300,2,7]",
     .attr = &(attr){.causal = true, .window = 200, .pattern = {.block = 32, .local = 1, .stride = 3}}},
    {.in = "x[1,70,2,3] x[1,150,1,3] x[1,150,1,3] - - - - - - x[2,1,21] x[1,2,150,21]",
     .attr = &(attr){.causal = true, .pattern = {.block = 16, .local = 2, .globals = 1}, .sums = 5}},
    {.in = "x[2,5,4,4] x[2,9,4,4] x[2,9,4,3] - - - - - - x[4,1,7]", .attr = &(attr){.causal = true}},
    {.in = "x[2,70,4,3] x[2,150,2,3] x[2,150,2,3] - - - - - - x[4,1,200] - i200[301]"},
    {.in = "x[1,70,9,3] x[1,70,1,3] x[1,70,1,3] - - - - - - x[1,9,1,21]",
     .attr = &(attr){.causal = true, .window = 50}},
    {.in = "x[2,5,4,4] x[2,7,2,4] x[2,7,2,3] x[7] - - - - - x[5,9] x[2,1,7,5]",
     .attr = &(attr){.softcap = 1.5}},
    {.in = "x[2,70,2,3] x[2,150,1,3] x[2,150,1,3] - - i150[2] - - - x[2,2,70,6] x[2,150,6] i6[41]",
     .attr = &(attr){.causal = true, .prefix = 2}},
    {.in = "x[2,5,4,4] x[2,7,2,4] x[2,7,2,3]", .attr = &(attr){.causal = true, .sums = 5}},
    {.in = "x[2,70,2,3] x[2,150,1,3] x[2,150,1,3] - i2[2,150] - - - - x[2,1,6] - i6[41]",
     .attr = &(attr){.sums = 7}},
    {.in = "x[1,1,2,3] x[1,300,1,3] x[1,300,1,3] - - - - - - x[2,1,601]",
     .attr = &(attr){.causal = true, .sums = 9}},
    {.in = "x[2,7,4,3] x[2,12,1,3] x[2,12,1,3] - - i13[2] i6[2] t[2,7] - x[4,1,11] x[4,12,9]",
     .attr = &(attr){.causal = true, .sums = 5},
     .no_grad = true},
    {.in = "x[1,60,1,3] x[1,150,1,3] x[1,150,1,3] - - - - t[1,60] - x[1,60,31]",
     .attr = &(attr){.causal = true, .window = 30, .sums = 31},
     .no_grad = true},
    {.in = "x[0,2,1,3] x[0,2,1,3] x[0,2,1,3]"},
    {.in = "x[1,0,1,3] x[1,2,1,3] x[1,2,1,3]"},
    {.in = "x[1,2,1,3] x[1,0,1,3] x[1,0,1,3]"},
    {.in = "x[1,1,1,1] x[1,1,1,1] x[1,1,1,1]"},
    {0}};

QP_OP(attention) = {.name = "attention",
                    .source = "torch.nn.functional.scaled_dot_product_attention, arXiv:2307.08691",
                    .min_in = 3,
                    .max_in = INPUTS,
                    .nout = 3,
                    .blocks = QP_SAVE_IN(K) | QP_SAVE_IN(V),
                    .attr_bytes = sizeof(attr),
                    .saves = QP_SAVE_ALL_IN | QP_SAVE_OUT(0) | QP_SAVE_OUT(1) | QP_SAVE_OUT(2),
                    .hidden = QP_SAVE_OUT(1),
                    .shape = shape,
                    .plain = plain,
                    .backward = backward,
                    .scratch = scratch,
                    .flops = flops,
                    .samples = samples};

static const qp_sample samples_grad[] = {
    {.in = "x[2,5,2,4] x[2,5,2,4] x[2,5,2,4] - - - x[2,5,2,4] p[2,2,5] - x[2,5,2,4] - - x[2,5,2,4] x[2,5,2,4] "
           "x[2,5,2,4]",
     .attr = &(attr){.causal = true}},
    {.in = "x[1,3,4,5] x[0] x[0] x[3,7] - - x[1,3,4,2] p[1,4,3] - x[1,3,4,2] x[1,4,3] - x[1,3,4,5] x[1,7,2,5] "
           "x[1,7,2,2] x[3,7]"},
    {.in = "x[2,3,4,5] x[0] x[2,7,2,2] - x[4,1,5] x[2,4,7,4] x[2,3,4,2] p[2,4,3] u[2,3,4,3] x[2,3,4,2] - "
           "x[2,3,4,3] x[2,3,4,5] "
           "x[2,7,2,5] x[2,7,2,2] - - - - - - x[4,1,5] x[2,4,7,4] i3[9]",
     .attr = &(attr){.causal = true, .sums = 3}},
    {0}};

QP_OP(attention_grad) = {.name = "attention_grad",
                         .source = "backward of attention, added to the gradients",
                         .min_in = 3,
                         .max_in = FORWARD + INPUTS,
                         .nout = 1,
                         .attr_bytes = sizeof(attr),
                         .shape = shape_grad,
                         .plain = plain_grad,
                         .scratch = scratch_grad,
                         .flops = flops_grad,
                         .samples = samples_grad,
                         .mutates = QP_SAVE_IN(DQ) | QP_SAVE_IN(DK) | QP_SAVE_IN(DV) | QP_SAVE_IN(DBIAS) |
                                    QP_SAVE_IN(DRELATIVE) | QP_SAVE_IN(DRELATIVE_KEYS)};

double qpi_attention_call_scale(const qp_call *call) { return problem(call, 0).scale; }
bool qpi_attention_call_causal(const qp_call *call) { return problem(call, 0).causal; }

qp_tensor qp_attention(qp_tensor q, qp_tensor k, qp_tensor v, qp_mask mask, double scale) {
    bool      values = !qp_is_none(mask.relative_values);
    attr      a = {mask.causal, mask.window,  mask.prefix,
                   scale,       mask.softcap, values ? (int32_t)qp_size(mask.relative_values, -2) : 0,
                   mask.pattern};
    qp_tensor y[3];
    QP_CALL_MANY(attention, &a, y, q, k, v, mask.bias, mask.segments, mask.lengths, mask.starts, mask.parents,
                 mask.rows, mask.relative, mask.relative_keys, mask.columns);
    qp_drop(y[1]);
    if (values) return qp_add(y[0], qp_matmul(y[2], mask.relative_values));
    qp_drop(y[2]);
    return y[0];
}
#endif
