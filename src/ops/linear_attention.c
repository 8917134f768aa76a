/* Causal attention without a softmax, in time linear in T (Katharopoulos et al. 2020, arXiv:2006.16236; with
 * a decay, Sun et al. 2023, arXiv:2307.08621):
 *
 *   n[b,t,h] = sum over s <= t of g^(t-s) (q[b,t,h] k[b,s,h]) v[b,s,h] + g^(t+1) q[b,t,h] S[b,h]
 *
 * with g = decay[h], or 1, and S a state carried from before, or 0. Normalised, out = n / (d + eps), where
 * d is the same sum with 1 in place of v (S has one column more, for it). end is the state behind the last
 * position. Reversed, t and s run from the last position to the first. With chunks of c positions,
 * s only runs over the chunks before t's own (c and decay exclude each other).
 *
 * Either of q and k may have one feature more in a tensor of its own (q_more, k_more [B, T, H]; where only one
 * is given, the other's are 1): so the gradients are calls of the same op. With dn = dout / (d + eps) and
 * e = -dn out, the last feature of dn where normalised:
 *   dq = op([dn e], [v 1], k), dk = reversed op([v 1], [dn e], q), dv = reversed op(k, q, dn)
 */
#include "kernels/linear_attention.h"
#include "ops/op.h"

typedef struct {
    bool    normalize, reverse, carry;
    int64_t chunk;
    double  eps;
} attr;

enum { Q, K, V, DECAY, STATE, Q_MORE, K_MORE, INPUTS };
enum { OUT, DENOMINATOR, END, OUTPUTS };

static qk_linear_attention problem(const qp_call *c) {
    static const qp_view absent = {.ndim = -1};
    const attr          *a = c->attr;
    qp_view              in[INPUTS];
    for (int i = 0; i < INPUTS; i++) in[i] = i < c->nin ? c->in[i] : absent;
    return (qk_linear_attention){.q = in[Q],
                                 .k = in[K],
                                 .v = in[V],
                                 .decay = in[DECAY],
                                 .state = in[STATE],
                                 .q_more = in[Q_MORE],
                                 .k_more = in[K_MORE],
                                 .out = c->out[OUT],
                                 .denominator = c->out[DENOMINATOR],
                                 .end = c->out[END],
                                 .normalize = a->normalize,
                                 .reverse = a->reverse,
                                 .chunk = a->chunk,
                                 .eps = (float)a->eps};
}

static void run(const qp_call *c) {
    qk_linear_attention p = problem(c);
    QK(qk_linear_attention_run)(c->exec, &p);
}

QP_KERNEL(linear_attention) = {run, QP_ROWS, NULL};

#if QP_BODY
#include "core/core.h"

static bool fits(const qp_call *c, int i, int ndim, const int64_t *shape, const char *name,
                 const char *expected) {
    char text[96];
    if (i >= c->nin || c->in[i].ndim < 0) return true;
    bool same = qp_dtype_is_float(c->in[i].dtype) && c->in[i].ndim == ndim;
    for (int axis = 0; axis < ndim && same; axis++) same = c->in[i].shape[axis] == shape[axis];
    qpi_view_describe(&c->in[i], text, sizeof text);
    if (!same) qp_call_fail(c, QP_ERR_SHAPE, "%s is %s, expected %s", name, text, expected);
    return same;
}

static void shape(qp_call *c) {
    const attr    *a = c->attr;
    const qp_view *q = &c->in[Q], *v = &c->in[V];
    bool more = (c->nin > Q_MORE && c->in[Q_MORE].ndim >= 0) || (c->nin > K_MORE && c->in[K_MORE].ndim >= 0);
    if (q->ndim != 4 || v->ndim != 4 || !qp_dtype_is_float(q->dtype) || c->in[K].dtype != q->dtype ||
        v->dtype != q->dtype) {
        qp_call_fail(c, QP_ERR_SHAPE, "q, k and v: expected [B, T, H, ..] of one type of floats");
        return;
    }
    int64_t B = q->shape[0], T = q->shape[1], H = q->shape[2];
    int64_t columns = v->shape[3] + a->normalize, state[] = {B, H, q->shape[3] + more, columns},
            nothing[] = {0};
    if (a->chunk < 0 || a->chunk > 1 << 20 || (a->chunk && c->nin > DECAY && c->in[DECAY].ndim >= 0))
        qp_call_fail(c, QP_ERR_ARGUMENT, "chunks of %lld positions, expected 0 to 2^20, and no decay with them",
                     (long long)a->chunk);
    if (!fits(c, K, 4, q->shape, "k", "q's shape") ||
        !fits(c, V, 4, (int64_t[]){B, T, H, v->shape[3]}, "v", "[B, T, H, V] as q's") ||
        !fits(c, DECAY, 1, &H, "decay", "[H]") ||
        !fits(c, STATE, 4, state, "state", "[B, H, K, V] and one more if normalised") ||
        !fits(c, Q_MORE, 3, q->shape, "q_more", "[B, T, H]") ||
        !fits(c, K_MORE, 3, q->shape, "k_more", "[B, T, H]"))
        return;
    qpi_view_init(&c->out[OUT], q->dtype, 4, v->shape);
    qpi_view_init(&c->out[DENOMINATOR], q->dtype, a->normalize ? 3 : 1, a->normalize ? q->shape : nothing);
    if (!qpi_view_init(&c->out[END], q->dtype, a->carry ? 4 : 1, a->carry ? state : nothing))
        qp_call_fail(c, QP_ERR_ARGUMENT, "a state of %lld x %lld is too large", (long long)q->shape[3],
                     (long long)columns);
}

/* ---- The definition --------------------------------------------------------------------------------- */

static double at(const qp_view *v, int64_t a, int64_t b, int64_t c, int64_t d) {
    return qp_load(v, a * v->stride[0] + b * v->stride[1] + c * v->stride[2] +
                          (v->ndim > 3 ? d * v->stride[3] : 0));
}

/* Feature i of q or k; behind the last stands the one of `more`. */
static double feature(const qp_view *v, const qp_view *more, int64_t b, int64_t t, int64_t h, int64_t i) {
    if (i < v->shape[3]) return at(v, b, t, h, i);
    return more->ndim < 0 ? 1 : at(more, b, t, h, 0);
}

static int64_t features(const qk_linear_attention *p) {
    return p->q.shape[3] + (p->q_more.ndim >= 0 || p->k_more.ndim >= 0);
}

static double decay(const qk_linear_attention *p, int64_t h, int64_t steps) {
    return p->decay.ndim < 0 ? 1 : pow(qp_load(&p->decay, h * p->decay.stride[0]), (double)steps);
}

static bool sees(const qk_linear_attention *p, int64_t t, int64_t s) {
    int64_t one = p->reverse ? s : t, two = p->reverse ? t : s;
    return p->chunk ? one / p->chunk > two / p->chunk : one >= two;
}

/* Column i of n at (b, t, h); i = V: of d. */
static double column(const qk_linear_attention *p, int64_t b, int64_t t, int64_t h, int64_t i) {
    double  sum = 0;
    int64_t T = p->q.shape[1], n = features(p);
    for (int64_t s = 0; s < T; s++) {
        double dot = 0;
        if (!sees(p, t, s)) continue;
        for (int64_t f = 0; f < n; f++)
            dot += feature(&p->q, &p->q_more, b, t, h, f) * feature(&p->k, &p->k_more, b, s, h, f);
        sum += dot * decay(p, h, t > s ? t - s : s - t) * (i < p->v.shape[3] ? at(&p->v, b, s, h, i) : 1);
    }
    for (int64_t f = 0; p->state.ndim >= 0 && f < n; f++)
        sum += feature(&p->q, &p->q_more, b, t, h, f) * at(&p->state, b, h, f, i) *
               decay(p, h, p->reverse ? T - t : t + 1);
    return sum;
}

static double end_of(const qk_linear_attention *p, int64_t b, int64_t h, int64_t f, int64_t i) {
    int64_t T = p->q.shape[1];
    double  sum = p->state.ndim < 0 ? 0 : at(&p->state, b, h, f, i) * decay(p, h, T);
    for (int64_t s = 0; s < T; s++)
        sum += feature(&p->k, &p->k_more, b, s, h, f) * (i < p->v.shape[3] ? at(&p->v, b, s, h, i) : 1) *
               decay(p, h, p->reverse ? s : T - 1 - s);
    return sum;
}

static void plain(const qp_call *c) {
    qk_linear_attention p = problem(c);
    double              eps = ((const attr *)c->attr)->eps;
    int64_t             T = p.q.shape[1], H = p.q.shape[2], width = p.v.shape[3], rows = p.q.shape[0] * T * H;
    for (int64_t r = 0; r < rows; r++) {
        int64_t h = r % H, t = r / H % T, b = r / (H * T);
        double  d = p.normalize ? column(&p, b, t, h, width) + eps : 1;
        if (p.normalize) qp_store(&p.denominator, r, d);
        for (int64_t i = 0; i < width; i++) qp_store(&p.out, r * width + i, column(&p, b, t, h, i) / d);
    }
    int64_t n = features(&p), columns = width + p.normalize, count = qp_view_count(&p.end);
    for (int64_t r = 0; r < count; r++)
        qp_store(&p.end, r, end_of(&p, r / columns / n / H, r / columns / n % H, r / columns % n, r % columns));
}

/* ---- The op ------------------------------------------------------------------------------------------ */

extern const qp_op qp_op_linear_attention;

static qp_tensor last_as(qp_tensor like, qp_tensor x) {
    return qp_reshape(x, 4, (int64_t[]){qp_size(like, 0), qp_size(like, 1), qp_size(like, 2), 1});
}

static qp_tensor call(const attr *a, qp_tensor q, qp_tensor k, qp_tensor v, qp_tensor decay, qp_tensor state,
                      qp_tensor q_more, qp_tensor k_more) {
    qp_tensor y[OUTPUTS];
    QP_CALL_MANY(linear_attention, a, y, q, k, v, decay, state, q_more, k_more);
    return y[OUT];
}

static void backward(qp_rule *r) {
    qp_tensor in[INPUTS], dn = r->dout[OUT], e = QP_NONE, state = QP_NONE;
    attr      a = *(const attr *)r->attr;
    for (int i = 0; i < INPUTS; i++) in[i] = i < r->nin ? r->in[i] : QP_NONE;
    if (!qp_is_none(in[Q_MORE]) || !qp_is_none(in[K_MORE])) {
        qp_fail(r->ctx, QP_ERR_UNSUPPORTED, "linear_attention: no gradient where q or k have one feature more");
        return;
    }
    if (a.normalize) {
        dn = qp_div(dn, last_as(dn, r->out[DENOMINATOR]));
        e = qp_neg(qp_sum(qp_mul(dn, r->out[OUT]), 1, (int[]){3}, false));
    }
    if (!qp_is_none(in[STATE])) state = qp_transpose(in[STATE], 2, 3);
    a.normalize = a.carry = false;
    if (r->need[Q]) r->din[Q] = call(&a, dn, in[V], in[K], in[DECAY], state, e, QP_NONE);
    a.reverse = !a.reverse;
    if (r->need[K]) r->din[K] = call(&a, in[V], dn, in[Q], in[DECAY], QP_NONE, QP_NONE, e);
    if (r->need[V]) r->din[V] = call(&a, in[K], in[Q], dn, in[DECAY], QP_NONE, QP_NONE, QP_NONE);
}

static double flops(const qp_call *c) {
    const qp_view *q = &c->in[Q];
    return 4 * (double)qp_view_count(q) * (double)c->in[V].shape[3];
}

static size_t scratch(const qp_call *c, int threads) {
    qk_linear_attention p = problem(c);
    return QK(qk_linear_attention_scratch)(&p, threads);
}

#define NORMALIZED &(attr){.normalize = true, .eps = 20}
static const qp_sample samples[] = {
    {.in = "x[2,5,2,4] x[2,5,2,4] x[2,5,2,3]"},
    {.in = "x[2,5,3,4] x[2,5,3,4] x[2,5,3,3] !u[3]"},
    {.in = "x[1,9,2,3] x[1,9,2,3] x[1,9,2,5] !u[2] !x[1,2,3,5]",
     .attr = &(attr){.carry = true},
     .no_grad = true},
    {.in = "p[1,19,2,3] p[1,19,2,3] x[1,19,2,5] - !p[1,2,3,6]", .attr = NORMALIZED},
    {.in = "p[2,3,2,3] p[2,3,2,3] x[2,3,2,5] !u[2] !p[2,2,3,6]",
     .attr = &(attr){.normalize = true, .carry = true, .eps = 20},
     .no_grad = true},
    {.in = "p[2,11,2,5] p[2,11,2,5] x[2,11,2,4] !u[2]", .attr = NORMALIZED},
    {.in = "x[1,70,2,5] x[1,70,2,5] x[1,70,2,17]", .attr = &(attr){.reverse = true}},
    {.in = "x[1,23,2,5] x[1,23,2,5] x[1,23,2,3] - - !x[1,23,2]", .no_grad = true},
    {.in = "x[1,23,2,5] x[1,23,2,5] x[1,23,2,3] !u[2] - !x[1,23,2] !x[1,23,2]",
     .attr = &(attr){.reverse = true, .carry = true},
     .no_grad = true},
    {.in = "x[2,23,1,5] x[2,23,1,5] x[2,23,1,6]", .attr = &(attr){.chunk = 7}},
    {.in = "x[2,23,1,5] x[2,23,1,5] x[2,23,1,6] - !x[2,1,5,6]",
     .attr = &(attr){.chunk = 7, .reverse = true, .carry = true},
     .no_grad = true},
    {.in = "x[1,150,1,3] x[1,150,1,3] x[1,150,1,2]", .attr = &(attr){.chunk = 100}},
    {.in = "x[1,1030,1,3] x[1,1030,1,3] x[1,1030,1,2] !u[1] !x[1,1,3,2]",
     .attr = &(attr){.carry = true},
     .no_grad = true},
    {.in = "x[1,1030,1,3] x[1,1030,1,3] x[1,1030,1,2]", .attr = &(attr){.reverse = true}, .no_grad = true},
    {.in = "x[1,0,1,3] x[1,0,1,3] x[1,0,1,2] - !x[1,1,3,2]", .attr = &(attr){.carry = true}, .no_grad = true},
    {.in = "x[0,2,1,3] x[0,2,1,3] x[0,2,1,2]"},
    {.in = "x[1,1,1,1] x[1,1,1,1] x[1,1,1,1]"},
    {0}};

QP_OP(linear_attention) = {.name = "linear_attention",
                           .source = "arXiv:2006.16236, arXiv:2307.08621",
                           .min_in = 3,
                           .max_in = INPUTS,
                           .nout = OUTPUTS,
                           .attr_bytes = sizeof(attr),
                           .saves = QP_SAVE_ALL_IN | QP_SAVE_OUT(OUT) | QP_SAVE_OUT(DENOMINATOR),
                           .hidden = QP_SAVE_OUT(DENOMINATOR) | QP_SAVE_OUT(END),
                           .shape = shape,
                           .plain = plain,
                           .backward = backward,
                           .scratch = scratch,
                           .flops = flops,
                           .samples = samples};

qp_tensor qp_linear_attention(qp_tensor q, qp_tensor k, qp_tensor v, qp_linear_attention_options o,
                              qp_tensor *end) {
    attr      a = {o.normalize, false, end != NULL, o.chunk, o.eps};
    qp_tensor y[OUTPUTS];
    QP_CALL_MANY(linear_attention, &a, y, q, k, v, o.decay, o.state);
    qp_drop(y[DENOMINATOR]);
    if (end) *end = y[END];
    else qp_drop(y[END]);
    return y[OUT];
}
#endif
