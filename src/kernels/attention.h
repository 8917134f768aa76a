/* Attention in tiles: FlashAttention-2 (arXiv:2307.08691) for CPUs.
 *
 * A tile is up to 64 rows that read the same keys: row r of key head g is query r / group of
 * head g * group + r % group. Rows lie along the lanes of vectors, so scores, masks, maxima
 * and sums need no shuffles, and keys and values are read where they are, element by element.
 *
 * Keys are taken in blocks of 128 counted from key 0. A block gives each row a maximum m, a
 * sum l and an output o of its own, which are then folded into the row's (M, L, O), blocks
 * ascending. A key that a row may not see adds exact zeros. So a row's bits depend on the
 * query and the visible keys alone, not on how many rows share the call, nor on whether
 * blocks were computed one after the other or in parallel.
 *
 * The nodes of a tree of queries belong to the block of the position that their depth gives them,
 * wherever their keys lie: so a node's bits are those that its path alone would get.
 */
#ifndef QUIPU_KERNELS_ATTENTION_H
#define QUIPU_KERNELS_ATTENTION_H

#include "core/isa.h"
#include "quipu/op.h"
#include "quipu/ops.h"

#define QK_ATTENTION_TREE 64 /* queries of a tree at most */

/* Views as the op's inputs and outputs, f32 and i64, any strides; absent ones have ndim -1.
 * bias is expanded to [B, H, T, S], relative to [B, H, T, C], relative_keys to [B, H, S, C]. k and v may be
 * bf16, f16 or q8_0 (not for gradients). */
typedef struct {
    qp_view q, k, v, bias, segments, lengths, starts, parents, rows, relative, relative_keys, columns;
    qp_view out, lse, sums; /* contiguous; sums [B, T, H, C]: of the weights of a column's keys, or absent */
    bool    causal;
    int64_t window, prefix;
    float   scale, softcap; /* softcap 0: none */

    qp_pattern pattern;
} qk_attention;

/* The i-th block that the seed chooses for block qb of queries. */
static inline int64_t qk_pattern_random(const qp_pattern *p, bool causal, int64_t qb, int64_t i) {
    uint64_t x = (uint64_t)p->seed * UINT64_C(0x9E3779B97F4A7C15) + (uint64_t)(qb * p->random + i);
    x = (x ^ x >> 30) * UINT64_C(0xBF58476D1CE4E5B9); /* SplitMix64 (Steele et al. 2014) */
    x = (x ^ x >> 27) * UINT64_C(0x94D049BB133111EB);
    return (int64_t)((x ^ x >> 31) % (uint64_t)(causal ? qb + 1 : 2 * qb + 2));
}

/* Does block qb of queries see block kb of keys? */
static inline bool qk_pattern_sees(const qp_pattern *p, bool causal, int64_t qb, int64_t kb) {
    int64_t back = qb - kb, away = back < 0 ? -back : back, dilation = p->dilation ? p->dilation : 1;
    if (causal && back < 0) return false;
    if (away % dilation == 0 && away / dilation < p->local) return true;
    if (p->stride && away % p->stride == 0) return true;
    if (p->section && kb % p->section >= p->section - p->summary) return true;
    if (kb < p->globals || (!causal && qb < p->globals)) return true;
    for (int64_t i = 0; i < p->random; i++)
        if (qk_pattern_random(p, causal, qb, i) == kb) return true;
    return false;
}

static inline int64_t qk_integer(const qp_view *v, int64_t i, int64_t j) {
    return ((const int64_t *)v->data)[i * v->stride[0] + (v->ndim > 1 ? j * v->stride[1] : 0)];
}

/* The key position of query 0 of a batch row. */
static inline int64_t qk_attention_start(const qk_attention *a, int64_t batch) {
    return a->starts.ndim < 0 ? a->k.shape[1] - a->q.shape[1] : qk_integer(&a->starts, batch, 0);
}

/* Where the keys of a batch row are. */
static inline int64_t qk_attention_row(const qk_attention *a, int64_t batch) {
    return a->rows.ndim < 0 ? batch : qk_integer(&a->rows, batch, 0);
}

size_t QK(qk_attention_scratch)(const qk_attention *a, int threads);
void   QK(qk_attention_run)(const qp_exec *exec, const qk_attention *a);

/* The gradients are added to dq, .. drelative_keys (the last three expanded like what they belong to), where
 * present. */
typedef struct {
    qk_attention of; /* with out, lse and sums of the forward pass, any strides */
    qp_view      dout, dlse, dsums, dq, dk, dv, dbias, drelative, drelative_keys;
} qk_attention_grad;

size_t QK(qk_attention_grad_scratch)(const qk_attention_grad *a, int threads);
void   QK(qk_attention_grad_run)(const qp_exec *exec, const qk_attention_grad *a);

#endif
