/* Sums of keys and values that a query weighs by plain products, chunk by chunk: ops/linear_attention.c
 * says what is computed.
 *
 * A tile is up to 64 positions. With S the sum of g^.. k v^T of what lies before the tile, a product of
 * [q g^(i+1) | (q k^T) g^(i-j)] with [S ; v] gives the tile's outputs, then k^T v joins S. Heads go
 * side by side; where these are few, stretches of 512 positions do, too: each sums what is its own
 * first, and what lies before each is added up from these. Stretches are counted from position 0
 * whatever the batch, so a row's bits do not depend on its neighbours.
 */
#ifndef QUIPU_KERNELS_LINEAR_ATTENTION_H
#define QUIPU_KERNELS_LINEAR_ATTENTION_H

#include "core/isa.h"
#include "quipu/op.h"

/* Views as the op's inputs and outputs, f32, features contiguous; absent ones have ndim -1. */
typedef struct {
    qp_view q, k, v, decay, state, q_more, k_more;
    qp_view out, denominator, end; /* contiguous; the last two may be empty */
    bool    normalize, reverse;
    int64_t chunk;
    float   eps;
} qk_linear_attention;

size_t QK(qk_linear_attention_scratch)(const qk_linear_attention *a, int threads);
void   QK(qk_linear_attention_run)(const qp_exec *exec, const qk_linear_attention *a);

#endif
