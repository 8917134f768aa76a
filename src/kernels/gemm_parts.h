/* What the files of the matrix product share.
 *
 * The order of summation is the same in every part: k is cut into blocks (gemm_block_of, a
 * function of k alone); within a block acc = a[p] b[p] + acc, p ascending from acc = 0;
 * then total = scale * acc + total, blocks ascending. */
#ifndef QUIPU_KERNELS_GEMM_PARTS_H
#define QUIPU_KERNELS_GEMM_PARTS_H

#include "core/simd.h"
#include "kernels/gemm_sizes.h"

/* A register tile is TILE_ROWS x TILE_COLS; packed A has A_STEP floats for each p. */
#if VF_LANES == 16
#define TILE_ROWS 14
#elif VF_LANES == 8
#define TILE_ROWS 6
#else
#define TILE_ROWS 4
#endif
#define TILE_VECS 2
#define TILE_COLS (TILE_VECS * VF_LANES)
#define A_STEP VF_LANES

#define INLINE static inline __attribute__((always_inline))

/* A matrix to read: element (p, j) at p * p_step + j * j_step. */
typedef struct {
    const void *data;
    qp_dtype    type;
    int64_t     p_step, j_step;
} gemm_source;

static inline int64_t gemm_bytes(qp_dtype type) { return type == QP_F32 ? 4 : 2; }
static inline const void *gemm_at(const gemm_source *s, int64_t p, int64_t j)
{
    return (const char *)s->data + (p * s->p_step + j * s->j_step) * gemm_bytes(s->type);
}

/* n values; n is the constant VF_LANES for whole vectors, so that the mask goes away. */
INLINE vf gemm_load(qp_dtype type, const void *data, int n)
{
    if (type == QP_F32) return n == VF_LANES ? vf_load(data) : vf_load_n(data, n);
    if (type == QP_BF16) return n == VF_LANES ? vf_load_bf16(data) : vf_load_bf16_n(data, n);
    return n == VF_LANES ? vf_load_f16(data) : vf_load_f16_n(data, n);
}

/* out[p * step + j] = source(p0 + p, j0 + j) for p < count and j < cols; the other j of the
 * vecs vectors get anything. vecs is just enough for cols. */
void QK(gemm_pack)(float *out, int64_t step, int vecs, const gemm_source *source, int64_t p0,
                   int64_t count, int64_t j0, int cols);

/* A walk over memory that will be needed soon: the kernels fetch its lines into the second
 * cache on the way, `rate` of them every four p. `run` lines lie `step` bytes apart, then
 * the next run begins `wrap` further. */
typedef struct {
    const char *next;
    int64_t     step, wrap, run, left; /* left in this run */
    int         rate;
} gemm_ahead;

/* c = scale * (A B) (+ prev), for kernel[vecs - 1][rows] of rows x vecs * VF_LANES.
 * B[p,j] = b[p * b_step + j]; A[i,p] is a[i * a_step + p] for the by_rows kernels and
 * a[p * a_step + i] for by_cols. */
typedef struct {
    int64_t      count; /* of p */
    const float *a, *b;
    int64_t      a_step, b_step;
    float       *c;
    const float *prev; /* or NULL */
    int64_t      c_row, prev_row;
    float        scale;
    gemm_ahead  *ahead_a, *ahead_b;
} gemm_tile;
typedef void gemm_tile_fn(const gemm_tile *t);
extern gemm_tile_fn *const QK(gemm_tile_by_rows)[TILE_VECS][TILE_ROWS + 1];
extern gemm_tile_fn *const QK(gemm_tile_by_cols)[TILE_VECS][TILE_ROWS + 1];

/* One product of the batch; k may be one stretch of several. */
typedef struct {
    const qk_gemm_args *g;
    gemm_source         a, b; /* j counts the rows of A and the columns of B */
    float              *c, *pre_act;
    const float        *residual;
    int64_t             k;
    bool                from_c; /* the total starts from C */
    bool                ends;   /* the last block applies the end */
} gemm_item;

/* Adds one block's sums (row stride acc_row) to the total of a piece of C at (i, j). The
 * total comes from C or nothing in the first block and goes to C in the last, otherwise it
 * is kept in `total`. */
typedef struct {
    int64_t      i, j, rows, cols;
    bool         first, last;
    const float *acc;
    float       *total;
    int64_t      acc_row, total_row;
} gemm_piece;
void QK(gemm_add)(const gemm_item *item, const gemm_piece *piece);

/* The families, and which products they take; strips take all. */
void QK(gemm_strips)(const qp_exec *exec, const gemm_item *item);
bool QK(gemm_rows_takes)(const gemm_item *item);
void QK(gemm_rows)(const qp_exec *exec, const gemm_item *item);
bool QK(gemm_flip_takes)(const gemm_item *item);
void QK(gemm_flip)(const qp_exec *exec, const gemm_item *item);

#endif
