/* A matrix product over batch axes as few calls of qk_gemm: C (+)= A B for every place along
 * the batch axes. Axes that fit are folded into the rows or, where C is summed along them
 * (stride 0), into the inner size.
 */
#ifndef QUIPU_KERNELS_PRODUCT_H
#define QUIPU_KERNELS_PRODUCT_H

#include "kernels/gemm.h"

enum { QK_A, QK_B, QK_C, QK_R, QK_OPERANDS }; /* R: the residual */

typedef struct {
    qk_gemm_args gemm; /* sizes, types, pointers, row and column strides, options; the batch
                          fields are qk_product_plan's */
    int          axes; /* batch axes */
    int64_t      size[QP_MAX_DIMS];
    int64_t      stride[QP_MAX_DIMS][QK_OPERANDS];
} qk_product;

/* Merges and folds the batch axes. */
void QK(qk_product_plan)(qk_product *p);

/* Bytes of exec->scratch of a planned product. */
size_t QK(qk_product_scratch)(const qk_product *p, int threads);

/* Runs a planned product. */
void QK(qk_product_run)(const qp_exec *exec, const qk_product *p);

/* The batch strides of an operand whose first `axes` axes, of ndim, broadcast to p's. */
static inline void qk_product_axes(qk_product *p, int operand, const qp_view *v, int axes) {
    for (int i = 0; i < p->axes; i++) {
        int own = i - (p->axes - axes);
        p->stride[i][operand] = own < 0 || v->shape[own] == 1 ? 0 : v->stride[own];
    }
}

#endif
