/* y_i = x w_i^T + bias_i for up to three w: the projections of one x in a step of decoding. Threads share them out as
 * one product, so that they wait for each other once; each y_i has the bits that qp_linear gives. Not differentiable:
 * qp_linear_many takes qp_linear where a gradient is wanted. */
#include "ops/linear.h"

enum { X };
#define W(i) (1 + 2 * (i))
#define BIAS(i) (2 + 2 * (i))
#define MANY QK_GEMM_MANY

static bool takes(const qp_call *c) {
    bool yes = true;
    for (int i = 0; i < c->nout; i++) yes = yes && linear_takes(&c->in[X], &c->in[W(i)], &c->out[i]);
    return yes;
}

static qk_product plan(const qp_call *c, int i) {
    qk_product p = linear_product(c, &c->in[X], &c->in[W(i)], &c->out[i]);
    QK(qk_product_plan)(&p);
    return p;
}

/* One type, lines alike and as many rows of x. */
static bool alike(const qk_gemm_args *g, const qk_gemm_args *h) {
    return g->b_type == h->b_type && g->b_row == h->b_row && g->b_col == h->b_col && g->m == h->m;
}

static void run(const qp_call *c) {
    qk_product   p[MANY];
    qk_gemm_args g[MANY];
    qp_exec      exec = *c->exec;
    for (int i = 0; i < c->nout; i++) {
        p[i] = plan(c, i);
        g[i] = p[i].gemm;
        p[i].gemm.bias = g[i].bias = linear_bias(linear_optional(c, BIAS(i)), &exec);
    }
    for (int i = 0, end; i < c->nout; i = end) {
        end = i + 1;
        bool whole = p[i].axes == 0 && g[i].batch == 1; /* x's rows are one matrix */
        while (whole && end < c->nout && alike(&g[i], &g[end])) end++;
        if (whole) g[i].next = linear_next(c->ctx, &g[i], end - i);
        if (whole) QK(qk_gemm_many)(&exec, &g[i], end - i);
        else QK(qk_product_run)(&exec, &p[i]);
    }
}

QP_KERNEL(linear_many) = {run, QP_ANY, takes};

#if QP_BODY
#include "ops/recording.h"

static void shape(qp_call *c) {
    if (c->nin < W(c->nout) - 1)
        qp_call_fail(c, QP_ERR_ARGUMENT, "%d inputs for %d outputs: expected x, and w and bias for each",
                     c->nin, c->nout);
    for (int i = 0; i < c->nout && !qp_failed(c->ctx); i++) {
        if (c->in[W(i)].ndim < 0) qp_call_fail(c, QP_ERR_ARGUMENT, "input %d is missing", W(i));
        else linear_shape(c, &c->in[X], &c->in[W(i)], linear_optional(c, BIAS(i)), &c->out[i]);
    }
}

static void plain(const qp_call *c) {
    for (int i = 0; i < c->nout; i++) {
        const qp_view *bias = linear_optional(c, BIAS(i));
        int64_t        n = qp_view_count(&c->out[i]);
        for (int64_t at = 0; at < n; at++)
            qp_store(&c->out[i], at, linear_sum(&c->in[X], &c->in[W(i)], bias, at));
    }
}

static double flops(const qp_call *c) {
    double sum = 0;
    for (int i = 0; i < c->nout; i++)
        sum += 2.0 * (double)qp_view_count(&c->out[i]) * (double)c->in[W(i)].shape[1];
    return sum;
}

static size_t scratch(const qp_call *c, int threads) {
    size_t biases = 0, most = 0;
    for (int i = 0; i < c->nout; i++) {
        qk_product p = plan(c, i);
        size_t     bytes = QK(qk_product_scratch)(&p, threads);
        biases += linear_bias_bytes(linear_optional(c, BIAS(i)));
        if (bytes > most) most = bytes;
    }
    return biases + most;
}

#define ROUNDED 2e-2 /* of 8 bits */

static const qp_sample samples[] = {
    {.in = "x[3,5] x[7,5] - x[2,5] - x[1,5] -", .no_grad = true},
    {.in = "x[5] x[7,5] x[7] x[9,5] - x[3,5] x[3]", .no_grad = true},
    {.in = "x[2,3,40] x[35,40] x[35] x[17,40] - x[64,40] x[64]", .no_grad = true},
    {.in = "x[1,800] x[16,800] - x[16,800] - x[33,800] x[33]", .no_grad = true},
    {.in = "x[17,6] x[37,6] - x[37,6] x[37] x[40,6] -", .no_grad = true},
    {.in = "x[0,4] x[5,4] - x[5,4] x[5] x[16,4] -", .no_grad = true},
    {.in = "x[3,0] x[20,0] - x[20,0] x[20] x[16,0] -", .no_grad = true},
    {.in = "x[1,64] wq4_0[40,64] - wq4_0[16,64] x[16] wq4_0[17,64] -", .no_grad = true, .tolerance = ROUNDED},
    {.in = "x[8,64] wq8_0[40,64] - wq8_0[19,64] x[19] x[17,64] -", .no_grad = true, .tolerance = ROUNDED},
    {.in = "x[9,64] wq8_0[40,64] - wq4_1[19,64] - wq4_1[17,64] -", .no_grad = true, .tolerance = ROUNDED},
    {.in = "x[2,256] wq4_k[48,256] - wq4_k[5,256] - wq6_k[16,256] x[16]",
     .no_grad = true,
     .tolerance = ROUNDED},
    {0}};

QP_OP(linear_many) = {.name = "linear_many",
                      .source = "torch.nn.functional.linear, for each w",
                      .min_in = 2,
                      .max_in = 1 + 2 * MANY,
                      .nout = MANY,
                      .shape = shape,
                      .plain = plain,
                      .scratch = scratch,
                      .flops = flops,
                      .blocks = QP_SAVE_IN(W(0)) | QP_SAVE_IN(W(1)) | QP_SAVE_IN(W(2)),
                      .autocast = true,
                      .samples = samples};

_Static_assert(MANY == 3, "blocks name each w");

void qp_linear_many(qp_tensor x, int n, const qp_tensor *w, const qp_tensor *bias, qp_tensor *y) {
    qp_tensor in[1 + 2 * MANY] = {x};
    bool      one = n > MANY || recording(x.ctx, 1, &x) || recording(x.ctx, n, w) || recording(x.ctx, n, bias);
    for (int i = 0; i < n && !one; i++) {
        in[W(i)] = w[i];
        in[BIAS(i)] = bias[i];
    }
    if (!one) qpi_apply_some(&qp_op_linear_many, 1 + 2 * n, in, NULL, n, y);
    for (int i = 0; i < n && one; i++) y[i] = qp_linear(x, w[i], bias[i], QP_ACT_NONE, QP_NONE);
}
#endif
