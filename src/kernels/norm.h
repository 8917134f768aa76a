/* Norms over the last axis, one row at a time: layer norm (with a mean) and root mean square
 * norm (without), each optionally of a sum x + residual, and their gradients. f32, rows
 * contiguous, outputs contiguous. */
#ifndef QUIPU_KERNELS_NORM_H
#define QUIPU_KERNELS_NORM_H

#include "core/isa.h"
#include "quipu/op.h"

typedef struct {
    const qp_view *x, *residual, *weight, *bias; /* all but x may be NULL */
    const qp_view *sum, *y, *mean, *rstd;        /* sum with residual only; mean NULL: root mean square */
    double         eps;
} qk_norm;

typedef struct {
    const qp_view *dy, *x, *weight, *mean, *rstd, *dsum; /* weight, mean, dsum may be NULL */
    const qp_view *dx, *dweight, *dbias;                 /* dweight, dbias NULL: not wanted */
} qk_norm_grad;

void QK(qk_norm_run)(const qp_exec *exec, const qk_norm *n);

/* Sums over rows are kept per piece of rows in scratch and added in order of the pieces. */
void QK(qk_norm_grad_run)(const qp_exec *exec, const qk_norm_grad *n);

/* Rows of one piece of the gradient: enough work, no more than 64 pieces, whole blocks. */
#define QK_NORM_BLOCK 4
static inline int64_t qk_norm_grain(int64_t rows, int64_t width) {
    int64_t work = 16384 / (width ? width : 1) + 1, share = (rows + 63) / 64;
    return ((work > share ? work : share) + QK_NORM_BLOCK - 1) / QK_NORM_BLOCK * QK_NORM_BLOCK;
}
static inline size_t qk_norm_grad_scratch(int64_t rows, int64_t width) {
    int64_t grain = qk_norm_grain(rows, width);
    return (size_t)((rows + grain - 1) / grain * 2 * width) * sizeof(float);
}

/* Offset of a row: of the last axis' first element. */
static inline int64_t qk_row_offset(const qp_view *v, int64_t row) {
    int64_t offset = 0;
    for (int i = v->ndim - 2; i > 0; i--) {
        offset += row % v->shape[i] * v->stride[i];
        row /= v->shape[i];
    }
    return v->ndim > 1 ? offset + row * v->stride[0] : 0;
}

#endif
