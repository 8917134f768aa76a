/* What linear and linear_many share: products of the rows of x with weights. */
#ifndef QUIPU_OPS_LINEAR_H
#define QUIPU_OPS_LINEAR_H

#include "kernels/product.h"
#include "ops/op.h"

#define LINEAR_FEW 16 /* rows: reading weights takes longest */

static inline const qp_view *linear_optional(const qp_call *c, int i) {
    return c->nin > i && c->in[i].ndim >= 0 ? &c->in[i] : NULL;
}

static inline bool linear_takes(const qp_view *x, const qp_view *w, const qp_view *y) {
    return qk_gemm_takes(x->dtype) && (qk_gemm_takes(w->dtype) || qp_dtype_block(w->dtype) > 1) &&
           qk_gemm_takes(y->dtype);
}

/* All rows of x are the batch of a product with one row; the plan finds the long ones. */
static inline qk_product linear_product(const qp_call *c, const qp_view *x, const qp_view *w,
                                        const qp_view *y) {
    int        last = x->ndim - 1;
    qk_product p = {.axes = last};
    for (int i = 0; i < last; i++) p.size[i] = x->shape[i];
    p.gemm = (qk_gemm_args){.m = 1,
                            .n = w->shape[0],
                            .k = w->shape[1],
                            .a = x->data,
                            .b = w->data,
                            .c = y->data,
                            .a_type = x->dtype,
                            .b_type = w->dtype,
                            .c_type = y->dtype,
                            .compute = c->compute,
                            .a_col = x->stride[last],
                            .b_row = w->stride[1],
                            .b_col = w->stride[0],
                            .scale = 1};
    qk_product_axes(&p, QK_A, x, last);
    qk_product_axes(&p, QK_C, y, last);
    return p;
}

_Static_assert(QPI_SPANS >= QK_GEMM_MANY, "a region for the weights of all");

/* What is read after the weights of these products. */
static inline qpi_region linear_next(qp_ctx *ctx, const qk_gemm_args *g, int count) {
    qpi_region now = {0};
    if (g->m > LINEAR_FEW) return now;
    for (int i = 0; i < count; i++) {
        now.data[i] = g[i].b;
        now.bytes[i] = (int64_t)qp_dtype_size(g[i].b_type, g[i].n * g[i].k);
    }
    return qpi_order_next(ctx, now);
}

static inline size_t linear_bias_bytes(const qp_view *bias) {
    return bias ? ((size_t)bias->shape[0] * sizeof(float) + 63) / 64 * 64 : 0;
}

/* The bias as floats, in scratch that is taken off exec's; NULL where there is none. */
static inline const float *linear_bias(const qp_view *bias, qp_exec *exec) {
    if (!bias) return NULL;
    float *row = exec->scratch;
    for (int64_t i = 0; i < bias->shape[0]; i++) row[i] = (float)qp_load(bias, i * bias->stride[0]);
    exec->scratch = (char *)exec->scratch + linear_bias_bytes(bias);
    return row;
}

#if QP_BODY
#include "core/core.h"

/* y's shape; false after an error. */
static bool linear_shape(qp_call *c, const qp_view *x, const qp_view *w, const qp_view *bias, qp_view *y) {
    qp_view rows = *x;
    if (!qp_dtype_is_float(x->dtype) || (!qp_dtype_is_float(w->dtype) && qp_dtype_block(w->dtype) == 1))
        qpi_call_misfit(c, QP_ERR_TYPE, "x", x, "w", w, "floats");
    else if (x->ndim < 1 || w->ndim != 2 || x->shape[x->ndim - 1] != w->shape[1])
        qpi_call_misfit(c, QP_ERR_SHAPE, "x", x, "w", w, "[.., I] and [O, I]");
    else if (bias && (bias->ndim != 1 || bias->shape[0] != w->shape[0] || !qp_dtype_is_float(bias->dtype)))
        qpi_call_misfit(c, QP_ERR_SHAPE, "bias", bias, "w", w, "a float for each row of w");
    if (qp_failed(c->ctx)) return false;
    rows.shape[x->ndim - 1] = w->shape[0];
    if (!qpi_view_init(y, x->dtype, x->ndim, rows.shape))
        qpi_call_misfit(c, QP_ERR_SHAPE, "x", x, "w", w, "a smaller product");
    return !qp_failed(c->ctx);
}

/* Element i of x w^T + bias. */
static double linear_sum(const qp_view *x, const qp_view *w, const qp_view *bias, int64_t i) {
    int     last = x->ndim - 1;
    qp_view rows = *x;
    rows.shape[last] = 1;
    int64_t row = qp_view_offset(&rows, i / w->shape[0]), o = i % w->shape[0];
    double  sum = bias ? qp_load(bias, o * bias->stride[0]) : 0;
    for (int64_t j = 0; j < w->shape[1]; j++)
        sum += qp_load(x, row + j * x->stride[last]) * qp_load(w, o * w->stride[0] + j * w->stride[1]);
    return sum;
}
#endif

#endif
