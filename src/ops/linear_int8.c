/* y = x w^T + bias with weights of 8 bits: w = q_w scale (one scale for each output), and x's rows
 * are rounded to 8 bits as they come, s_r = max |x_r| / 127 (Dettmers et al. 2022, LLM.int8(),
 * arXiv:2208.07339, section 2.1: vector-wise quantisation):
 *
 *   y[r, o] = s_r scale[o] sum_j round(x[r, j] / s_r) q_w[o, j] + bias[o]
 *
 * For inference: no gradient. */
#include "kernels/int8.h"
#include "ops/op.h"

enum { X, W, SCALE, BIAS };

static const qp_view *bias_of(const qp_call *c) {
    return c->nin > BIAS && c->in[BIAS].ndim >= 0 ? &c->in[BIAS] : NULL;
}

static bool takes(const qp_call *c) { return c->in[X].dtype == QP_F32 && c->in[W].shape[1] <= QK_INT8_MAX_K; }

static void run(const qp_call *c) {
    const qp_view *x = &c->in[X], *w = &c->in[W], *bias = bias_of(c);
    int64_t        k = w->shape[1], n = w->shape[0];
    if (qp_view_count(&c->out[0]) == 0) return;
    qk_int8_args a = {.m = qp_view_count(&c->out[0]) / n,
                      .n = n,
                      .k = k,
                      .x = x->data,
                      .x_row = k,
                      .w = w->data,
                      .w_row = k,
                      .scale = c->in[SCALE].data,
                      .bias = bias ? bias->data : NULL,
                      .y = c->out[0].data};
    QK(qk_int8_product)(c->exec, &a);
}

QP_KERNEL(linear_int8) = {run, QP_FLAT, takes};

#if QP_BODY
#include "ops/shape.h"

static bool is_row(const qp_view *v, qp_dtype type, int64_t n) {
    return v->ndim == 1 && v->shape[0] == n && v->dtype == type;
}

static void shape(qp_call *c) {
    const qp_view *x = &c->in[X], *w = &c->in[W], *bias = bias_of(c);
    char           a[96], b[96];
    qpi_view_describe(x, a, sizeof a);
    qpi_view_describe(w, b, sizeof b);
    if (!qp_dtype_is_float(x->dtype) || w->dtype != QP_I8)
        qp_call_fail(c, QP_ERR_TYPE, "x is %s, w is %s: expected a float and i8", a, b);
    else if (x->ndim < 1 || w->ndim != 2 || x->shape[x->ndim - 1] != w->shape[1])
        qp_call_fail(c, QP_ERR_SHAPE, "x is %s, w is %s: expected [.., I] and [O, I]", a, b);
    else if (!is_row(&c->in[SCALE], QP_F32, w->shape[0]) || (bias && !is_row(bias, QP_F32, w->shape[0])))
        qp_call_fail(c, QP_ERR_SHAPE, "w is %s: expected an f32 scale (and bias) for each of its rows", b);
    if (qp_failed(c->ctx)) return;
    qp_view y = *x;
    y.shape[x->ndim - 1] = w->shape[0];
    shape_set(c, 0, x->dtype, x->ndim, y.shape);
}

static void plain(const qp_call *c) {
    const qp_view *x = &c->in[X], *w = &c->in[W], *scale = &c->in[SCALE], *bias = bias_of(c);
    int            last = x->ndim - 1;
    int64_t        n = w->shape[0], k = w->shape[1], count = qp_view_count(&c->out[0]);
    qp_view        rows = *x;
    rows.shape[last] = 1;
    for (int64_t i = 0; i < count; i++) {
        int64_t row = qp_view_offset(&rows, i / n), o = i % n;
        float   most = 0;
        double  sum = 0;
        for (int64_t j = 0; j < k; j++) most = fmaxf(most, fabsf((float)qp_load(x, row + j * x->stride[last])));
        float inverse = qk_int8_inverse(most);
        for (int64_t j = 0; j < k; j++)
            sum += qk_int8_round((float)qp_load(x, row + j * x->stride[last]), inverse) *
                   qp_load(w, o * w->stride[0] + j * w->stride[1]);
        sum *= (double)qk_int8_scale(most) * qp_load(scale, o * scale->stride[0]);
        qp_store(&c->out[0], i, sum + (bias ? qp_load(bias, o * bias->stride[0]) : 0));
    }
}

static double flops(const qp_call *c) {
    return 2.0 * (double)qp_view_count(&c->out[0]) * (double)c->in[W].shape[1];
}

static size_t scratch(const qp_call *c, int threads) {
    int64_t n = c->in[W].shape[0];
    (void)threads;
    return n ? QK(qk_int8_scratch)(qp_view_count(&c->out[0]) / n, c->in[W].shape[1]) : 0;
}

static const qp_sample samples[] = {{.in = "x[3,5] q[7,5] !p[7]", .no_grad = true},
                                    {.in = "x[5] q[7,5] !p[7] !x[7]", .no_grad = true},
                                    {.in = "x[2,3,130] q[9,130] !p[9] !x[9]", .no_grad = true},
                                    {.in = "x[1,1] q[1,1] !p[1]", .no_grad = true},
                                    {.in = "x[0,4] q[5,4] !p[5]", .no_grad = true},
                                    {.in = "x[3,0] q[5,0] !p[5] !x[5]", .no_grad = true},
                                    {.in = "x[37,67] q[65,67] !p[65]", .no_grad = true},
                                    {0}};

QP_OP(linear_int8) = {.name = "linear_int8",
                      .source = "arXiv:2208.07339",
                      .min_in = 3,
                      .max_in = 4,
                      .nout = 1,
                      .shape = shape,
                      .plain = plain,
                      .scratch = scratch,
                      .flops = flops,
                      .samples = samples};

qp_tensor qp_linear_int8(qp_tensor x, qp_tensor w, qp_tensor scale, qp_tensor bias) {
    return QP_CALL(linear_int8, NULL, x, w, scale, bias);
}
#endif
