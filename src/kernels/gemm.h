/* The matrix product, one function per instruction set.
 *
 *   C[i,j] = end( scale * sum_p A[i,p] B[p,j] + (accumulate ? C[i,j] : 0) )
 *   end(x) = act(x + bias[j]) + residual[i,j]
 *
 * Strides count elements and are arbitrary for A and B (all transposes, views, broadcast 0),
 * types of A and B are f32, bf16 or f16 each, converted on the way. C, residual and pre_act are of
 * one such type, rounded to from f32 at the very end; bias is f32; C's columns are contiguous.
 * `batch` products run with the given batch strides. Outputs of a batch and of rows do not overlap,
 * nor do they overlap A or B.
 *
 * `compute` bf16 or f16: values of A and B are rounded to it on the way (to the nearest, ties to
 * even). Sums are f32 always. bf16 is multiplied by the processor's own instructions where it has
 * them (they take subnormal values for 0), also when A and B are bf16 already; all else in f32.
 *
 * B may be of a block type (see block_product.h for what is computed then): contiguous along p, and
 * `compute` is of no effect; scratch as block_product_scratch says.
 *
 * One order of summation: the bits of C[i,j] depend on the values of row i of A and column j of
 * B, on k, on what `end` adds to them and on the instructions; on nothing else. Not on m or on the
 * rows that share the call, not on n, strides, the batch, the number of threads or the share of
 * work that a thread gets, nor on types where they hold the same values and bf16 has no
 * instructions. So a token decoded alone equals the same token in a prompt or among other requests.
 */
#ifndef QUIPU_KERNELS_GEMM_H
#define QUIPU_KERNELS_GEMM_H

#include "quipu/op.h"
#include "core/isa.h"
#include "core/order.h"

typedef enum { QK_ACT_NONE, QK_ACT_RELU, QK_ACT_GELU, QK_ACT_GELU_TANH, QK_ACT_SILU } qk_act;

typedef struct {
    int64_t      batch, m, n, k; /* batch 0 means no work */
    const void  *a, *b;
    qp_dtype     a_type, b_type;
    int64_t      a_batch, a_row, a_col; /* A[i,p] = a[i*a_row + p*a_col] */
    int64_t      b_batch, b_row, b_col; /* B[p,j] = b[p*b_row + j*b_col] */
    void        *c;
    qp_dtype     c_type; /* of residual and pre_act too */
    int64_t      c_batch, c_row;
    qp_dtype     compute;
    float        scale;
    bool         accumulate;
    const float *bias;     /* [n] or NULL */
    const void  *residual; /* like C, or NULL; may be C itself */
    int64_t      residual_batch, residual_row;
    qk_act       act;
    qpi_region   next;    /* what will be read after B: with few rows its beginning is fetched on the way */
    bool         far;     /* C is large and not read soon: it may go past the caches */
    void        *pre_act; /* where the value before act goes (like C: c_batch, c_row), or NULL */
} qk_gemm_args;

/* Bytes of exec->scratch that qk_gemm needs for these sizes with `threads` workers; the same
 * for every instruction set. */
size_t qk_gemm_scratch(int64_t batch, int64_t m, int64_t n, int64_t k, int threads);

void QK(qk_gemm)(const qp_exec *exec, const qk_gemm_args *g);

#define QK_GEMM_MANY 3
/* Several products, at most QK_GEMM_MANY, that differ in B, C, n, bias and residual alone, of batch 1: with few rows
 * threads share them out as one product, and `next` is the first one's. */
void QK(qk_gemm_many)(const qp_exec *exec, const qk_gemm_args *g, int count);

/* The types that A, B and C may have. */
static inline bool qk_gemm_takes(qp_dtype t) { return t == QP_F32 || t == QP_BF16 || t == QP_F16; }

/* For code outside src/ops and src/kernels: the variant of an instruction set. */
typedef void qk_gemm_fn(const qp_exec *exec, const qk_gemm_args *g);

#endif
