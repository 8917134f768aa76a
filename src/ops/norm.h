/* What the norms share: arguments, shapes, definitions and the call of the gradient.
 *
 *   u = x (+ residual)    xh = (u - mean) rstd    y = xh weight + bias
 *   rstd = 1 / sqrt(mean((u - mean)^2) + eps); the root mean square norms have no mean and bias
 *
 *   g = dy weight    du = rstd (g - mean(g) - xh mean(g xh)) + dsum    dx = dresidual = du
 *   dweight = sum over rows of dy xh    dbias = sum over rows of dy
 *
 * mean(g) falls away without a mean. Mean and rstd of each row are hidden outputs.
 *
 * Arguments, P of them parameters (2: weight and bias, and then there is a mean; 1: weight):
 *
 *   x, P parameters -> y, [mean], rstd
 *   x, residual, P parameters -> sum, y, [mean], rstd
 *   dy, x, [mean], rstd, weight, dsum -> dx, dweight, [dbias] */
#ifndef QUIPU_OPS_NORM_H
#define QUIPU_OPS_NORM_H

#include "core/core.h"
#include "kernels/norm.h"
#include "ops/op.h"

typedef struct {
    double eps;
} norm_attr;

typedef struct {
    int32_t dweight, dbias; /* their types plus 1; 0: not wanted */
} norm_grad_attr;

/* Input i, NULL if it is absent. */
static inline const qp_view *norm_in(const qp_call *c, int i) {
    return i < c->nin && c->in[i].ndim >= 0 ? &c->in[i] : NULL;
}

/* of_sum: 1 for the norm of x + residual, which also gives the sum, 0 for that of x. */
static inline qk_norm norm_parts(const qp_call *c, int of_sum) {
    const qp_view *y = &c->out[of_sum];
    return (qk_norm){.x = &c->in[0],
                     .residual = of_sum ? &c->in[1] : NULL,
                     .weight = norm_in(c, 1 + of_sum),
                     .bias = norm_in(c, 2 + of_sum),
                     .sum = of_sum ? &c->out[0] : NULL,
                     .y = y,
                     .mean = c->nout - of_sum > 2 ? y + 1 : NULL,
                     .rstd = &c->out[c->nout - 1],
                     .eps = ((const norm_attr *)c->attr)->eps};
}

static inline qk_norm_grad norm_grad_parts(const qp_call *c) {
    const norm_grad_attr *a = c->attr;
    int                   parameters = c->nout - 1;
    return (qk_norm_grad){.dy = &c->in[0],
                          .x = &c->in[1],
                          .mean = parameters > 1 ? &c->in[2] : NULL,
                          .rstd = &c->in[1 + parameters],
                          .weight = norm_in(c, 2 + parameters),
                          .dsum = norm_in(c, 3 + parameters),
                          .dx = &c->out[0],
                          .dweight = a->dweight ? &c->out[1] : NULL,
                          .dbias = a->dbias ? &c->out[2] : NULL};
}

static inline void norm_run(const qp_call *c) {
    qk_norm p = norm_parts(c, 0);
    QK(qk_norm_run)(c->exec, &p);
}
static inline void norm_of_sum_run(const qp_call *c) {
    qk_norm p = norm_parts(c, 1);
    QK(qk_norm_run)(c->exec, &p);
}
static inline void norm_grad_run(const qp_call *c) {
    qk_norm_grad p = norm_grad_parts(c);
    QK(qk_norm_grad_run)(c->exec, &p);
}

/* x is floating with at least one axis; inputs from..to are absent or [D]. */
static inline bool norm_check(const qp_call *c, int from, int to) {
    const qp_view *x = &c->in[0];
    char           text[96];
    if (x->ndim < 1 || !qp_dtype_is_float(x->dtype)) {
        qpi_view_describe(x, text, sizeof text);
        qp_call_fail(c, QP_ERR_TYPE, "input 0 is %s, expected floats with at least one axis", text);
        return false;
    }
    int64_t d = x->shape[x->ndim - 1];
    for (int i = from; i <= to; i++) {
        const qp_view *w = norm_in(c, i);
        if (!w || (w->ndim == 1 && w->shape[0] == d && qp_dtype_is_float(w->dtype))) continue;
        qpi_view_describe(w, text, sizeof text);
        qp_call_fail(c, QP_ERR_SHAPE, "input %d is %s, expected floats [%lld]", i, text, (long long)d);
        return false;
    }
    return true;
}

/* Inputs i and 0 have one shape. */
static inline bool norm_check_same(const qp_call *c, int i) {
    const qp_view *a = &c->in[0], *b = norm_in(c, i);
    bool           same = !b || a->ndim == b->ndim;
    for (int axis = 0; b && same && axis < a->ndim; axis++) same = a->shape[axis] == b->shape[axis];
    if (same) return true;
    char x[96], y[96];
    qpi_view_describe(a, x, sizeof x);
    qpi_view_describe(b, y, sizeof y);
    qp_call_fail(c, QP_ERR_SHAPE, "input 0 is %s, input %d is %s: expected one shape", x, i, y);
    return false;
}

static inline double norm_load(const qp_view *v, int64_t index) { return qp_load(v, qp_view_offset(v, index)); }
static inline void norm_store(const qp_view *v, int64_t index, double x) {
    qp_store(v, qp_view_offset(v, index), x);
}

/* The definition, one row at a time. */
static inline void norm_define(const qk_norm *f) {
    int64_t rows = qp_view_count(f->rstd), n = f->y->shape[f->y->ndim - 1];
    for (int64_t row = 0; row < rows && n; row++) {
        double mean = 0, squares = 0;
#define U(i) (norm_load(f->x, row * n + i) + (f->residual ? norm_load(f->residual, row * n + i) : 0))
        for (int64_t i = 0; i < n && f->mean; i++) mean += U(i) / (double)n;
        for (int64_t i = 0; i < n; i++) squares += (U(i) - mean) * (U(i) - mean);
        double rstd = 1 / sqrt(squares / (double)n + f->eps);
        for (int64_t i = 0; i < n; i++) {
            double y = (U(i) - mean) * rstd;
            if (f->weight) y *= norm_load(f->weight, i);
            if (f->bias) y += norm_load(f->bias, i);
            if (f->sum) norm_store(f->sum, row * n + i, U(i));
            norm_store(f->y, row * n + i, y);
        }
#undef U
        if (f->mean) norm_store(f->mean, row, mean);
        norm_store(f->rstd, row, rstd);
    }
}

static inline void norm_grad_define(const qk_norm_grad *g) {
    int64_t rows = qp_view_count(g->rstd), n = g->dx->shape[g->dx->ndim - 1];
#define DY(row, i) norm_load(g->dy, (row) * n + (i))
#define G(row, i) (DY(row, i) * (g->weight ? norm_load(g->weight, i) : 1))
#define MEAN(row) (g->mean ? norm_load(g->mean, row) : 0)
#define XH(row, i) ((norm_load(g->x, (row) * n + (i)) - MEAN(row)) * norm_load(g->rstd, row))
    for (int64_t row = 0; row < rows; row++) {
        double mean_g = 0, mean_gx = 0;
        for (int64_t i = 0; i < n; i++) {
            if (g->mean) mean_g += G(row, i) / (double)n;
            mean_gx += G(row, i) * XH(row, i) / (double)n;
        }
        for (int64_t i = 0; i < n; i++) {
            double dx = norm_load(g->rstd, row) * (G(row, i) - mean_g - XH(row, i) * mean_gx);
            norm_store(g->dx, row * n + i, dx + (g->dsum ? norm_load(g->dsum, row * n + i) : 0));
        }
    }
    for (int64_t i = 0; i < n; i++) {
        double dweight = 0, dbias = 0;
        for (int64_t row = 0; row < rows; row++) {
            dweight += DY(row, i) * XH(row, i);
            dbias += DY(row, i);
        }
        if (g->dweight) norm_store(g->dweight, i, dweight);
        if (g->dbias) norm_store(g->dbias, i, dbias);
    }
#undef DY
#undef G
#undef MEAN
#undef XH
}

static inline void norm_plain(const qp_call *c) {
    qk_norm p = norm_parts(c, 0);
    norm_define(&p);
}
static inline void norm_of_sum_plain(const qp_call *c) {
    qk_norm p = norm_parts(c, 1);
    norm_define(&p);
}
static inline void norm_grad_plain(const qp_call *c) {
    qk_norm_grad p = norm_grad_parts(c);
    norm_grad_define(&p);
}

static inline void norm_shapes(qp_call *c, int of_sum) {
    const qp_view *x = &c->in[0];
    int            parameters = c->nout - 1 - of_sum;
    if (!norm_check(c, 1 + of_sum, parameters + of_sum) || (of_sum && !norm_check_same(c, 1))) return;
    for (int i = 0; i < c->nout; i++)
        if (i <= of_sum) qpi_view_init(&c->out[i], x->dtype, x->ndim, x->shape);
        else /* one value for each row */
            qpi_view_init(&c->out[i], x->dtype == QP_F64 ? QP_F64 : QP_F32, x->ndim - 1, x->shape);
}
static inline void norm_shape(qp_call *c) { norm_shapes(c, 0); }
static inline void norm_of_sum_shape(qp_call *c) { norm_shapes(c, 1); }

/* Shapes of dx, dweight and dbias; those not wanted are empty. */
static inline void norm_grad_shape(qp_call *c) {
    const norm_grad_attr *a = c->attr;
    const qp_view        *x = &c->in[1];
    int32_t               types[2] = {a->dweight, a->dbias};
    int                   weight = 1 + c->nout; /* behind dy, x and as many statistics as parameters */
    if (!norm_check(c, weight, weight) || !norm_check_same(c, 1) || !norm_check_same(c, weight + 1)) return;
    for (int i = 2; i < weight; i++) {
        bool fits = c->in[i].ndim == x->ndim - 1;
        for (int axis = 0; fits && axis < x->ndim - 1; axis++) fits = c->in[i].shape[axis] == x->shape[axis];
        if (fits) continue;
        qp_call_fail(c, QP_ERR_SHAPE, "input %d: expected one value for each row of input 1", i);
        return;
    }
    qpi_view_init(&c->out[0], x->dtype, x->ndim, x->shape);
    for (int i = 1; i < c->nout; i++) {
        int64_t n = types[i - 1] ? x->shape[x->ndim - 1] : 0;
        qpi_view_init(&c->out[i], types[i - 1] ? (qp_dtype)(types[i - 1] - 1) : x->dtype, 1, &n);
    }
}

static inline size_t norm_grad_scratch(const qp_call *c, int threads) {
    (void)threads;
    const qp_view *x = &c->in[1];
    int64_t        n = x->shape[x->ndim - 1];
    return qk_norm_grad_scratch(n ? qp_view_count(x) / n : 0, n);
}

/* The rule of u's norm with gradient dy; dsum is u's other gradient or QP_NONE. Weight and
 * bias are the inputs at `weight` and after. Returns du. */
static inline qp_tensor norm_rule(qp_rule *r, const qp_op *grad, qp_tensor u, int weight, int statistics,
                                  qp_tensor dy, qp_tensor dsum) {
    norm_grad_attr a = {0};
    qp_tensor      in[QP_MAX_OUT], out[QP_MAX_OUT];
    int            n = 0;
    if (qp_is_none(dy)) return dsum;
    if (weight < r->nin && r->need[weight]) a.dweight = (int32_t)qp_dtype_of(r->in[weight]) + 1;
    if (weight + 1 < r->nin && r->need[weight + 1]) a.dbias = (int32_t)qp_dtype_of(r->in[weight + 1]) + 1;
    in[n++] = dy;
    in[n++] = u;
    for (int i = statistics; i < r->nout; i++) in[n++] = r->out[i];
    in[n++] = weight < r->nin ? r->in[weight] : QP_NONE;
    in[n++] = dsum;
    qp_apply_many(grad, n, in, &a, out);
    if (a.dweight) r->din[weight] = out[1];
    if (a.dbias) r->din[weight + 1] = out[2];
    return out[0];
}

/* The outputs that the caller sees, without the statistics. */
static inline void norm_call(const qp_op *op, int nin, const qp_tensor *in, double eps, int visible,
                             qp_tensor *out) {
    qp_apply_many(op, nin, in, &(norm_attr){eps}, out);
    for (int i = op->nout; i-- > visible;) qp_drop(out[i]);
}

#endif
