/* y = act(u) + residual, u = x w^T + bias.   With du = dy act'(u):
 * dx = du w, dw = du^T x, dbias = the column sums of du, dresidual = dy.
 * u is a second, hidden output where backward will want it.
 * w may be of a block type: rows of x are rounded to 8 bits (kernels/block_product.h), or, where a
 * gradient is recorded, w's rows are made floats strip by strip and x stays as it is. */
#include "core/blocks.h"
#include "kernels/copy.h"
#include "ops/linear.h"

typedef struct {
    qp_act act;
    bool   exact; /* rows of x are not rounded */
} attr;

enum { X, W, BIAS, RESIDUAL };
enum { Y, U }; /* U: where backward will want it */

static bool takes(const qp_call *c) { return linear_takes(&c->in[X], &c->in[W], &c->out[Y]); }

/* Are weights made floats first? */
static bool in_strips(const qp_call *c) {
    return qp_dtype_block(c->in[W].dtype) > 1 && ((const attr *)c->attr)->exact;
}

static qk_product plan(const qp_call *c, const qp_view *residual) {
    qk_product p = linear_product(c, &c->in[X], &c->in[W], &c->out[Y]);
    if (in_strips(c)) p.gemm.b_type = QP_F32;
    p.gemm.residual = residual ? residual->data : NULL;
    p.gemm.act = (qk_act)((const attr *)c->attr)->act;
    p.gemm.pre_act = c->nout > U ? c->out[U].data : NULL;
    if (residual) qk_product_axes(&p, QK_R, residual, p.axes);
    QK(qk_product_plan)(&p);
    return p;
}

/* Where the product finds the residual: the columns must lie side by side, otherwise it is
 * copied into y first. */
static const qp_view *residual_at(const qp_call *c) {
    const qp_view *r = linear_optional(c, RESIDUAL);
    if (!r || r->shape[r->ndim - 1] <= 1 || r->stride[r->ndim - 1] == 1) return r;
    return &c->out[Y];
}

/* ---- Weights of block types --------------------------------------------------------------------- */

#define STRIP 262144 /* floats at once: few enough to stay in a cache */

static int64_t strip_rows(const qp_view *w) {
    int64_t rows = STRIP / (w->shape[1] + 1) / 16 * 16;
    rows = rows < 16 ? 16 : rows;
    return rows < w->shape[0] ? rows : w->shape[0];
}

typedef struct {
    const qp_view *w;
    int64_t        first;
    float         *rows;
} strip;

static void decode_rows(void *arg, int64_t begin, int64_t end, int worker) {
    const strip   *s = arg;
    const qp_view *w = s->w;
    (void)worker;
    for (int64_t i = begin; i < end; i++)
        qpi_blocks_decode(w->dtype, (char *)w->data + qp_dtype_size(w->dtype, (s->first + i) * w->stride[0]),
                          w->shape[1], s->rows + i * w->shape[1]);
}

static void *forward_by(void *p, qp_dtype t, int64_t n) { return p ? (char *)p + qp_dtype_size(t, n) : NULL; }

static void run_strips(const qp_exec *exec, const qk_product *all, const qp_view *w) {
    int64_t n = strip_rows(w), k = w->shape[1];
    qp_exec rest = *exec;
    rest.scratch = (float *)exec->scratch + (n * k + 15) / 16 * 16;
    for (int64_t first = 0; first < w->shape[0]; first += n) {
        qk_product    p = *all;
        qk_gemm_args *g = &p.gemm;
        strip         s = {w, first, exec->scratch};
        g->n = w->shape[0] - first < n ? w->shape[0] - first : n;
        qp_parallel(exec, g->n, 16384 / (k + 1) + 1, decode_rows, &s);
        g->b = s.rows;
        g->b_col = k;
        g->c = forward_by(g->c, g->c_type, first);
        g->residual = forward_by((void *)g->residual, g->c_type, first);
        g->pre_act = forward_by(g->pre_act, g->c_type, first);
        if (g->bias) g->bias += first;
        QK(qk_product_run)(&rest, &p);
    }
}

static void run(const qp_call *c) {
    const qp_view *bias = linear_optional(c, BIAS), *residual = residual_at(c);
    qk_product     p = plan(c, residual);
    qp_exec        exec = *c->exec;
    if (residual == &c->out[Y]) qk_copy(&exec, c->out[Y], c->in[RESIDUAL]);
    p.gemm.next = linear_next(c->ctx, &p.gemm, 1);
    p.gemm.bias = linear_bias(bias, &exec);
    if (in_strips(c)) run_strips(&exec, &p, &c->in[W]);
    else QK(qk_product_run)(&exec, &p);
}

QP_KERNEL(linear) = {run, QP_ANY, takes};

#if QP_BODY
#include "core/core.h"
#include "ops/recording.h"

_Static_assert((int)QP_ACT_SILU == (int)QK_ACT_SILU && (int)QP_ACT_GELU == (int)QK_ACT_GELU,
               "one list of activations");

static void shape(qp_call *c) {
    const attr    *a = c->attr;
    const qp_view *x = &c->in[X], *residual = linear_optional(c, RESIDUAL);
    if (!linear_shape(c, x, &c->in[W], linear_optional(c, BIAS), &c->out[Y])) return;
    if ((int)a->act < QP_ACT_NONE || a->act > QP_ACT_SILU)
        qp_call_fail(c, QP_ERR_ARGUMENT, "activation %d is none", (int)a->act);
    else if (residual && (!qpi_view_same_shape(residual, &c->out[Y]) || residual->dtype != x->dtype))
        qpi_call_misfit(c, QP_ERR_SHAPE, "residual", residual, "the product", &c->out[Y], "the same");
    if (c->nout > U) c->out[U] = c->out[Y];
}

static double act_value(qp_act act, double x) {
    switch (act) {
    case QP_ACT_RELU: return x < 0 ? 0 : x;
    case QP_ACT_GELU: return 0.5 * x * erfc(-x * M_SQRT1_2);
    case QP_ACT_GELU_TANH: return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case QP_ACT_SILU: return x / (1 + exp(-x));
    default: return x;
    }
}

static void plain(const qp_call *c) {
    const qp_view *w = &c->in[W], *bias = linear_optional(c, BIAS), *residual = linear_optional(c, RESIDUAL);
    int64_t        n = qp_view_count(&c->out[Y]);
    for (int64_t i = 0; i < n; i++) {
        double sum = linear_sum(&c->in[X], w, bias, i);
        if (c->nout > U) qp_store(&c->out[U], i, sum);
        sum = act_value(((const attr *)c->attr)->act, sum);
        qp_store(&c->out[Y], i, sum + (residual ? qp_load(residual, qp_view_offset(residual, i)) : 0));
    }
}

extern const qp_op qp_op_matmul, qp_op_matmul_into, qp_op_relu_grad, qp_op_gelu_grad, qp_op_gelu_tanh_grad,
    qp_op_silu_grad;

static const qp_op *const act_grad[] = {[QP_ACT_RELU] = &qp_op_relu_grad,
                                        [QP_ACT_GELU] = &qp_op_gelu_grad,
                                        [QP_ACT_GELU_TANH] = &qp_op_gelu_tanh_grad,
                                        [QP_ACT_SILU] = &qp_op_silu_grad};

/* [.., D] as [rows, D] */
static qp_tensor as_rows(qp_tensor x) {
    int64_t rows = 1;
    for (int i = 0; i < qp_ndim(x) - 1; i++) rows *= qp_size(x, i);
    return qp_reshape(x, 2, (int64_t[]){rows, qp_size(x, -1)});
}

static void backward(qp_rule *r) {
    const attr *a = r->attr;
    qp_tensor   du = r->dout[0], x = r->in[X], w = r->in[W];
    if (a->act != QP_ACT_NONE) du = qp_apply(act_grad[a->act], 2, (qp_tensor[]){r->out[U], du}, NULL);
    if (r->need[X] && qp_dtype_block(qp_dtype_of(w)) > 1) w = qp_cast(w, QP_F32);
    if (r->need[X]) r->din[X] = qp_linear(du, qp_transpose(w, 0, 1), QP_NONE, QP_ACT_NONE, QP_NONE);
    if (r->need[W]) {
        qp_tensor du_columns = qp_transpose(as_rows(du), 0, 1);
        r->din[W] = qp_grad_begun(r, W) ? QP_CALL(matmul_into, NULL, qp_grad_into(r, W), du_columns, as_rows(x))
                                        : QP_CALL(matmul, &(bool){true}, du_columns, as_rows(x));
    }
    if (r->nin > BIAS && r->need[BIAS]) r->din[BIAS] = qp_sum_to(du, r->in[BIAS]);
    if (r->nin > RESIDUAL && r->need[RESIDUAL]) r->din[RESIDUAL] = r->dout[0];
}

static double flops(const qp_call *c) {
    return 2.0 * (double)qp_view_count(&c->out[0]) * (double)c->in[W].shape[1];
}

static size_t scratch(const qp_call *c, int threads) {
    const qp_view *w = &c->in[W];
    qk_product     p = plan(c, residual_at(c)), last = p;
    if (!in_strips(c)) return linear_bias_bytes(linear_optional(c, BIAS)) + QK(qk_product_scratch)(&p, threads);
    p.gemm.n = strip_rows(w);
    last.gemm.n = p.gemm.n ? w->shape[0] % p.gemm.n : 0;
    size_t whole = QK(qk_product_scratch)(&p, threads), rest = QK(qk_product_scratch)(&last, threads);
    return linear_bias_bytes(linear_optional(c, BIAS)) + (size_t)(p.gemm.n * w->shape[1] + 15) / 16 * 64 +
           (whole > rest ? whole : rest);
}

#define ROUNDED 2e-2 /* of 8 bits */

static const qp_sample samples[] = {
    {.in = "x[3,5] x[7,5]"},
    {.in = "x[5] x[7,5] x[7]"},
    {.in = "x[2,3,4] x[5,4] - x[2,3,5]"},
    {.in = "x[1,1] x[1,1] x[1]"},
    {.in = "x[0,4] x[5,4] x[5]"},
    {.in = "x[3,0] x[5,0] x[5]"},
    {.in = "x[65,37] x[67,37] x[67] x[65,67]"},
    {.in = "x[5,6] x[7,6] x[7]", .attr = &(attr){.act = QP_ACT_RELU}},
    {.in = "x[5,6] x[7,6] x[7]", .attr = &(attr){.act = QP_ACT_GELU}},
    {.in = "x[5,6] x[37,6]", .attr = &(attr){.act = QP_ACT_GELU_TANH}},
    {.in = "x[2,2,6] x[7,6] x[7] x[2,2,7]", .attr = &(attr){.act = QP_ACT_SILU}},
    {.in = "x[5,64] wq8_0[7,64] x[7] x[5,7]", .attr = &(attr){.exact = true}},
    {.in = "x[2,3,256] wq4_k[19,256]", .attr = &(attr){.exact = true}},
    {.in = "x[3,32] wq4_1[7,32] x[7]", .attr = &(attr){.act = QP_ACT_SILU, .exact = true}},
    {.in = "x[32] wiq4_nl[67,32]", .attr = &(attr){.exact = true}},
    {.in = "x[5,64] wq8_0[7,64] x[7] x[5,7]", .tolerance = ROUNDED},
    {.in = "x[3,64] wq4_0[40,64]", .tolerance = ROUNDED},
    {.in = "x[3,32] wq4_1[7,32] x[7]", .attr = &(attr){.act = QP_ACT_SILU}, .tolerance = ROUNDED},
    {.in = "x[9,96] wq5_0[33,96]", .tolerance = ROUNDED},
    {.in = "x[2,64] wq5_1[5,64]", .tolerance = ROUNDED},
    {.in = "x[32] wiq4_nl[67,32]", .tolerance = ROUNDED},
    {.in = "x[7,256] wq2_k[19,256]", .tolerance = ROUNDED},
    {.in = "x[1,512] wq3_k[16,512]", .tolerance = ROUNDED},
    {.in = "x[2,3,256] wq4_k[19,256]", .tolerance = ROUNDED},
    {.in = "x[17,256] wq5_k[3,256]", .tolerance = ROUNDED},
    {.in = "x[2,256] wq6_k[35,256]", .tolerance = ROUNDED},
    {0}};

QP_OP(linear) = {.name = "linear",
                 .source = "torch.nn.functional.linear",
                 .min_in = 2,
                 .max_in = 4,
                 .nout = 2,
                 .attr_bytes = sizeof(attr),
                 .saves = QP_SAVE_IN(X) | QP_SAVE_IN(W) | QP_SAVE_IN(BIAS) | QP_SAVE_OUT(U),
                 .hidden = QP_SAVE_OUT(U),
                 .shape = shape,
                 .plain = plain,
                 .backward = backward,
                 .scratch = scratch,
                 .flops = flops,
                 .blocks = QP_SAVE_IN(W),
                 .autocast = true,
                 .samples = samples};

qp_tensor qp_linear(qp_tensor x, qp_tensor w, qp_tensor bias, qp_act act, qp_tensor residual) {
    bool      records = recording(x.ctx, 3, (qp_tensor[]){x, w, bias});
    attr      a = {act, records};
    qp_tensor y[2] = {QP_NONE, QP_NONE};
    qpi_apply_some(&qp_op_linear, 4, (qp_tensor[]){x, w, bias, residual}, &a,
                   act != QP_ACT_NONE && records ? 2 : 1, y);
    qp_drop(y[U]);
    return y[Y];
}
#endif
