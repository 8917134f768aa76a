/* Products of rows that lie sorted by group, each with its group's weight: for offsets[e] <= m < offsets[e + 1]
 *
 *   y[m] = x[m] w[e]^T,   dx[m] = dy[m] w[e],   dw[e] = sum_m dy[m]^T x[m]
 *
 * Rows behind offsets[E] belong to no group: they give 0. Groups without rows are not touched, their
 * gradient is 0. dw is grouped_outer, or grouped_outer_into where it is added to what is there. */
#include "kernels/block_product.h"
#include "ops/index.h"
#include "ops/op.h"

enum { X, W, OFFSETS }; /* of grouped_outer: dy, x, offsets */
#define LARGE 5e7       /* flops from which one product is worth all threads */

static bool check(const qp_call *c, const qp_view *offsets, int64_t rows) {
    int64_t last = 0;
    for (int64_t e = 0; e < offsets->shape[0]; e++) {
        int64_t at = index_at(offsets, e * offsets->stride[0]);
        if (at < last || at > rows || (e == 0 && at)) {
            qp_call_fail(c, QP_ERR_ARGUMENT,
                         "offset %lld is %lld after %lld: expected a row from 0 on of %lld in order",
                         (long long)e, (long long)at, (long long)last, (long long)rows);
            return false;
        }
        last = at;
    }
    return true;
}

/* Rows of group e. */
typedef struct {
    int64_t first, count;
} range;
static range range_of(const qp_view *offsets, int64_t e, int64_t rows) {
    int64_t a = gemm_max(0, gemm_min(index_at(offsets, e * offsets->stride[0]), rows));
    int64_t b = gemm_max(a, gemm_min(index_at(offsets, (e + 1) * offsets->stride[0]), rows));
    return (range){a, b - a};
}

static void *at(const qp_view *v, int64_t index) {
    return v->data ? (char *)v->data + qp_dtype_size(v->dtype, index * v->stride[0]) : NULL;
}

/* The product of a group; false if there is none. */
typedef bool product_of(const qp_call *c, int64_t e, qk_gemm_args *g);

static bool linear_of(const qp_call *c, int64_t e, qk_gemm_args *g) {
    const qp_view *x = &c->in[X], *w = &c->in[W], *y = &c->out[0];
    range          r = range_of(&c->in[OFFSETS], e, x->shape[0]);
    *g = (qk_gemm_args){.batch = 1,
                        .m = r.count,
                        .n = w->shape[1],
                        .k = w->shape[2],
                        .a = at(x, r.first),
                        .b = at(w, e),
                        .c = at(y, r.first),
                        .a_type = x->dtype,
                        .b_type = w->dtype,
                        .c_type = y->dtype,
                        .a_row = x->stride[0],
                        .a_col = x->stride[1],
                        .b_row = w->stride[2],
                        .b_col = w->stride[1],
                        .c_row = y->stride[0],
                        .compute = c->compute,
                        .scale = 1};
    return r.count && g->n;
}

static bool outer_of(const qp_call *c, const qp_view *dy, const qp_view *x, const qp_view *offsets, int64_t e,
                     qk_gemm_args *g) {
    const qp_view *dw = &c->out[0];
    range          r = range_of(offsets, e, x->shape[0]);
    *g = (qk_gemm_args){.batch = 1,
                        .m = dw->shape[1],
                        .n = dw->shape[2],
                        .k = r.count,
                        .a = at(dy, r.first),
                        .b = at(x, r.first),
                        .c = at(dw, e),
                        .a_type = dy->dtype,
                        .b_type = x->dtype,
                        .c_type = dw->dtype,
                        .a_row = dy->stride[1],
                        .a_col = dy->stride[0],
                        .b_row = x->stride[0],
                        .b_col = x->stride[1],
                        .c_row = dw->stride[1],
                        .compute = c->compute,
                        .scale = 1};
    return g->m && g->n;
}
static bool fresh_outer_of(const qp_call *c, int64_t e, qk_gemm_args *g) {
    bool some = outer_of(c, &c->in[0], &c->in[1], &c->in[2], e, g);
    g->far = true;
    return some;
}
static bool added_outer_of(const qp_call *c, int64_t e, qk_gemm_args *g) {
    bool some = outer_of(c, &c->in[1], &c->in[2], &c->in[3], e, g);
    g->accumulate = true;
    return some && g->k;
}

static bool is_large(const qk_gemm_args *g) {
    return 2.0 * (double)g->m * (double)g->n * (double)g->k >= LARGE;
}

static size_t bytes_of(const qk_gemm_args *g, int threads) {
    size_t n = qp_dtype_block(g->b_type) > 1 ? block_product_scratch(g->m, g->k, threads)
                                             : qk_gemm_scratch(1, g->m, g->n, g->k, threads);
    return (n + 63) / 64 * 64;
}

/* Of the largest product that all threads share, or that each has for itself. */
static size_t most_bytes(const qp_call *c, int64_t groups, product_of *of, bool large, int threads) {
    size_t       most = 0;
    qk_gemm_args g;
    for (int64_t e = 0; e < groups; e++)
        if (of(c, e, &g) && is_large(&g) == large)
            most = bytes_of(&g, threads) > most ? bytes_of(&g, threads) : most;
    return most;
}

typedef struct {
    const qp_call *c;
    product_of    *of;
    size_t         bytes;
} job;

static void small_ones(void *arg, int64_t begin, int64_t end, int worker) {
    const job   *j = arg;
    qp_exec      alone = {.threads = 1, .scratch = (char *)j->c->exec->scratch + (size_t)worker * j->bytes};
    qk_gemm_args g;
    for (int64_t e = begin; e < end; e++)
        if (j->of(j->c, e, &g) && !is_large(&g)) QK(qk_gemm)(&alone, &g);
}

/* Large products one after another with all threads, the small ones each with one. */
static void run_groups(const qp_call *c, int64_t groups, product_of *of) {
    qk_gemm_args g;
    job          j = {c, of, most_bytes(c, groups, of, false, 1)};
    int64_t      small = 0;
    for (int64_t e = 0; e < groups; e++) {
        if (!of(c, e, &g)) continue;
        if (is_large(&g)) QK(qk_gemm)(c->exec, &g);
        else small++;
    }
    if (small) qp_parallel(c->exec, groups, 1, small_ones, &j);
}

static void run(const qp_call *c) {
    const qp_view *offsets = &c->in[OFFSETS], *y = &c->out[0];
    int64_t        rows = c->in[X].shape[0], E = offsets->shape[0] - 1;
    if (!check(c, offsets, rows)) return;
    int64_t end = index_at(offsets, E * offsets->stride[0]);
    memset(at(y, end), 0, qp_dtype_size(y->dtype, (rows - end) * y->shape[1]));
    run_groups(c, E, linear_of);
}

static void outer_run(const qp_call *c) {
    if (check(c, &c->in[2], c->in[0].shape[0])) run_groups(c, c->out[0].shape[0], fresh_outer_of);
}
static void outer_into_run(const qp_call *c) {
    if (check(c, &c->in[3], c->in[1].shape[0])) run_groups(c, c->out[0].shape[0], added_outer_of);
}

static bool takes(const qp_call *c) {
    const qp_view *w = &c->in[W];
    bool           blocks = qp_dtype_block(w->dtype) > 1;
    return qk_gemm_takes(c->in[X].dtype) && (qk_gemm_takes(w->dtype) || (blocks && w->stride[2] == 1)) &&
           qk_gemm_takes(c->out[0].dtype);
}
static bool outer_takes(const qp_call *c) {
    const qp_view *dw = &c->out[0];
    bool           ok = qk_gemm_takes(dw->dtype) && (dw->shape[2] <= 1 || dw->stride[2] == 1);
    for (int i = 0; i < c->nin - 1; i++) ok &= qk_gemm_takes(c->in[i].dtype);
    return ok;
}

QP_KERNEL(grouped_linear) = {run, QP_ANY, takes};
QP_KERNEL(grouped_outer) = {outer_run, QP_ANY, outer_takes};
QP_KERNEL(grouped_outer_into) = {outer_into_run, QP_ANY, outer_takes};

#if QP_BODY
#include "ops/recording.h"
#include "ops/shape.h"

extern const qp_op qp_op_grouped_outer, qp_op_grouped_outer_into;

static bool misfit(const qp_call *c, int first, const char *expected) {
    char text[3][96];
    for (int i = 0; i < 3; i++) qpi_view_describe(&c->in[first + i], text[i], sizeof text[i]);
    qp_call_fail(c, QP_ERR_SHAPE, "inputs are %s, %s, %s: expected %s", text[0], text[1], text[2], expected);
    return false;
}

static void shape(qp_call *c) {
    const qp_view *x = &c->in[X], *w = &c->in[W], *offsets = &c->in[OFFSETS];
    bool floats = qp_dtype_is_float(x->dtype) && (qp_dtype_is_float(w->dtype) || qp_dtype_block(w->dtype) > 1);
    if (!index_check_type(c, OFFSETS)) return;
    if (!floats || x->ndim != 2 || w->ndim != 3 || offsets->ndim != 1 || w->shape[2] != x->shape[1] ||
        offsets->shape[0] != w->shape[0] + 1)
        misfit(c, 0, "floats [M, I], [E, O, I] and integers [E + 1]");
    else shape_set(c, 0, x->dtype, 2, (int64_t[]){x->shape[0], w->shape[1]});
}

/* Of dy, x and offsets, which begin at input `first`. */
static bool outer_check(const qp_call *c, int first) {
    const qp_view *dy = &c->in[first], *x = dy + 1, *offsets = dy + 2;
    if (!index_check_type(c, first + 2)) return false;
    return (qp_dtype_is_float(dy->dtype) && qp_dtype_is_float(x->dtype) && dy->ndim == 2 && x->ndim == 2 &&
            offsets->ndim == 1 && offsets->shape[0] > 0 && dy->shape[0] == x->shape[0]) ||
           misfit(c, first, "floats [M, O], [M, I] and integers [E + 1]");
}
static void outer_shape(qp_call *c) {
    const qp_view *dy = &c->in[0], *x = &c->in[1], *offsets = &c->in[2];
    if (outer_check(c, 0))
        shape_set(c, 0, dy->dtype, 3, (int64_t[]){offsets->shape[0] - 1, dy->shape[1], x->shape[1]});
}
static void outer_into_shape(qp_call *c) {
    const qp_view *dw = &c->in[0];
    c->out[0] = *dw;
    if (outer_check(c, 1) && (dw->ndim != 3 || dw->shape[0] != c->in[3].shape[0] - 1 ||
                              dw->shape[1] != c->in[1].shape[1] || dw->shape[2] != c->in[2].shape[1]))
        misfit(c, 0, "[E, O, I], [M, O], [M, I]");
}

static double load2(const qp_view *v, int64_t i, int64_t j) {
    return qp_load(v, i * v->stride[0] + j * v->stride[1]);
}

static void plain(const qp_call *c) {
    const qp_view *x = &c->in[X], *w = &c->in[W], *offsets = &c->in[OFFSETS];
    int64_t        M = x->shape[0], E = w->shape[0], O = w->shape[1];
    if (!check(c, offsets, M)) return;
    for (int64_t i = 0; i < M * O; i++) qp_store(&c->out[0], i, 0);
    for (int64_t e = 0; e < E; e++) {
        range r = range_of(offsets, e, M);
        for (int64_t i = 0; i < r.count * O; i++) {
            double sum = 0;
            for (int64_t k = 0; k < x->shape[1]; k++)
                sum += load2(x, r.first + i / O, k) *
                       qp_load(w, e * w->stride[0] + i % O * w->stride[1] + k * w->stride[2]);
            qp_store(&c->out[0], r.first * O + i, sum);
        }
    }
}

static void outer_plain_of(const qp_call *c, int first, bool add) {
    const qp_view *dy = &c->in[first], *x = dy + 1, *dw = &c->out[0];
    int64_t        O = dw->shape[1], I = dw->shape[2];
    if (!check(c, dy + 2, dy->shape[0])) return;
    for (int64_t e = 0; e < dw->shape[0]; e++) {
        range r = range_of(dy + 2, e, dy->shape[0]);
        for (int64_t i = 0; i < O * I; i++) {
            int64_t place = e * dw->stride[0] + i / I * dw->stride[1] + i % I * dw->stride[2];
            double  sum = add ? qp_load(dw, place) : 0;
            for (int64_t m = r.first; m < r.first + r.count; m++)
                sum += load2(dy, m, i / I) * load2(x, m, i % I);
            qp_store(dw, place, sum);
        }
    }
}
static void outer_plain(const qp_call *c) { outer_plain_of(c, 0, false); }
static void outer_into_plain(const qp_call *c) { outer_plain_of(c, 1, true); }

static void backward(qp_rule *r) {
    qp_tensor dy = r->dout[0], w = r->in[W], offsets = r->in[OFFSETS];
    if (r->need[X] && qp_dtype_block(qp_dtype_of(w)) > 1) w = qp_cast(w, QP_F32);
    if (r->need[X]) r->din[X] = qp_grouped_linear(dy, qp_transpose(w, 1, 2), offsets);
    if (r->need[W] && qp_grad_begun(r, W))
        r->din[W] = QP_CALL(grouped_outer_into, NULL, qp_grad_into(r, W), dy, r->in[X], offsets);
    else if (r->need[W]) r->din[W] = QP_CALL(grouped_outer, NULL, dy, r->in[X], offsets);
}

static size_t scratch_for(const qp_call *c, int64_t groups, product_of *of, int threads) {
    size_t shared = most_bytes(c, groups, of, true, threads);
    size_t alone = most_bytes(c, groups, of, false, 1) * (size_t)threads;
    return shared > alone ? shared : alone;
}
static size_t scratch(const qp_call *c, int threads) {
    return scratch_for(c, c->in[W].shape[0], linear_of, threads);
}
static size_t outer_scratch(const qp_call *c, int threads) {
    return scratch_for(c, c->out[0].shape[0], fresh_outer_of, threads);
}
static size_t outer_into_scratch(const qp_call *c, int threads) {
    return scratch_for(c, c->out[0].shape[0], added_outer_of, threads);
}

static double flops(const qp_call *c) {
    return 2.0 * (double)qp_view_count(&c->in[X]) * (double)c->in[W].shape[1];
}
static double outer_flops(const qp_call *c) {
    return 2.0 * (double)qp_view_count(&c->in[0]) * (double)c->in[1].shape[1];
}
static double outer_into_flops(const qp_call *c) {
    return 2.0 * (double)qp_view_count(&c->in[1]) * (double)c->in[2].shape[1];
}

/* Weights of groups with rows only. */
static double bytes(const qp_call *c) {
    const qp_view *x = &c->in[X], *w = &c->in[W];
    double rows = (double)x->shape[0] * (double)(x->shape[1] + w->shape[1]) * (double)qp_dtype_bytes(x->dtype);
    for (int64_t e = 0; e < w->shape[0]; e++)
        if (range_of(&c->in[OFFSETS], e, x->shape[0]).count)
            rows += (double)qp_dtype_size(w->dtype, w->shape[1] * w->shape[2]);
    return rows;
}

static const qp_sample samples[] = {{.in = "x[9,5] x[3,7,5] o9[4]"},
                                    {.in = "x[70,33] x[5,40,33] o70[6]"},
                                    {.in = "x[3,4] x[8,6,4] o2[9]"},
                                    {.in = "x[0,4] x[2,6,4] o0[3]"},
                                    {.in = "x[4,0] x[2,6,0] o4[3]"},
                                    {.in = "x[300,128] x[2,700,128] o290[3]"},
                                    {.in = "x[9,64] wq8_0[3,7,64] o9[4]", .tolerance = 2e-2},
                                    {.in = "x[4,256] wq4_k[3,20,256] o4[4]", .tolerance = 2e-2},
                                    {0}};
static const qp_sample outer_samples[] = {{.in = "x[9,7] x[9,5] o9[4]", .no_grad = true},
                                          {.in = "x[70,40] x[70,33] o60[6]", .no_grad = true},
                                          {.in = "x[0,4] x[0,6] o0[3]", .no_grad = true},
                                          {.in = "x[40,96] x[40,176] o40[3]", .no_grad = true},
                                          {0}};
static const qp_sample outer_into_samples[] = {{.in = "x[3,7,5] x[9,7] x[9,5] o9[4]", .no_grad = true},
                                               {.in = "x[2,4,6] x[0,4] x[0,6] o0[3]", .no_grad = true},
                                               {0}};

QP_OP(grouped_linear) = {.name = "grouped_linear",
                         .source = "arXiv:2211.15841",
                         .min_in = 3,
                         .max_in = 3,
                         .nout = 1,
                         .saves = QP_SAVE_IN(X) | QP_SAVE_IN(W) | QP_SAVE_IN(OFFSETS),
                         .shape = shape,
                         .plain = plain,
                         .backward = backward,
                         .scratch = scratch,
                         .flops = flops,
                         .bytes = bytes,
                         .blocks = QP_SAVE_IN(W),
                         .autocast = true,
                         .samples = samples};

QP_OP(grouped_outer) = {.name = "grouped_outer",
                        .source = "backward of grouped_linear",
                        .min_in = 3,
                        .max_in = 3,
                        .nout = 1,
                        .shape = outer_shape,
                        .plain = outer_plain,
                        .scratch = outer_scratch,
                        .flops = outer_flops,
                        .autocast = true,
                        .samples = outer_samples};

QP_OP(grouped_outer_into) = {.name = "grouped_outer_into",
                             .source = "backward of grouped_linear",
                             .min_in = 4,
                             .max_in = 4,
                             .nout = 1,
                             .shape = outer_into_shape,
                             .plain = outer_into_plain,
                             .scratch = outer_into_scratch,
                             .flops = outer_into_flops,
                             .autocast = true,
                             .mutates = QP_SAVE_IN(0),
                             .samples = outer_into_samples};

/* Rows are not rounded to 8 bits where a gradient is recorded. */
qp_tensor qp_grouped_linear(qp_tensor x, qp_tensor w, qp_tensor offsets) {
    if (qp_dtype_block(qp_dtype_of(w)) > 1 && recording(x.ctx, 2, (qp_tensor[]){x, w})) w = qp_cast(w, QP_F32);
    return QP_CALL(grouped_linear, NULL, x, w, offsets);
}
#endif
