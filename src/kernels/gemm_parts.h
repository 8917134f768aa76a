/* What the files of the matrix product share.
 *
 * The order of summation is the same in every part: k is cut into blocks (gemm_block_of, a
 * function of k alone); within a block acc = a[p] b[p] + acc, p ascending from acc = 0;
 * then total = scale * acc + total, blocks ascending.
 *
 * These files are compiled once more, with QP_PAIRS, for the instructions that multiply pairs of
 * bf16. What is packed and multiplied is then no float but a word of two values that follow each
 * other in k; wherever these files say p or k, they count such words. */
#ifndef QUIPU_KERNELS_GEMM_PARTS_H
#define QUIPU_KERNELS_GEMM_PARTS_H

#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include "core/simd.h"
#include "kernels/gemm_sizes.h"
#include "kernels/gemm_word.h"

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

/* A matrix to read: value (p, j) at p * p_step + j * j_step. */
typedef struct {
    const void *data;
    gemm_kind   kind;
    int64_t     p_step, j_step, values; /* along p: the last word may lack its second value */
} gemm_source;

static inline int64_t gemm_bytes(gemm_kind kind) { return GEMM_TYPE(kind) == QP_F32 ? 4 : 2; }
static inline const void *gemm_at(const gemm_source *s, int64_t p, int64_t j) {
    return (const char *)s->data + (p * GEMM_PAIR * s->p_step + j * s->j_step) * gemm_bytes(s->kind);
}

/* How many of `count` words from p0 on have all their values. */
static inline int64_t gemm_whole(const gemm_source *s, int64_t p0, int64_t count) {
    return gemm_min(count, s->values / GEMM_PAIR - p0);
}

/* One word. */
INLINE float gemm_word(const gemm_source *s, int64_t p, int64_t j) {
    const char *first = gemm_at(s, p, j);
    bool        whole = gemm_whole(s, p, 1) > 0;
    return gemm_words(s->kind, first, whole ? first + s->p_step * gemm_bytes(s->kind) : NULL, 1)[0];
}

/* Can words be read where they lie, a line of them for each j? */
static inline bool gemm_lines_in_place(const gemm_source *s) {
    return s->kind == GEMM_WORDS && s->p_step == 1 && s->j_step % GEMM_PAIR == 0 && s->values % GEMM_PAIR == 0;
}

/* Columns side by side, cut into panels: the first `wider` of `count` have width + 1 columns, the
 * others `width`, the last what is left of `total`. Packed panels lie `step` words apart. */
typedef struct {
    int64_t count, width, wider, total, step;
} gemm_panels;

static inline int64_t gemm_panel_start(const gemm_panels *c, int64_t panel) {
    return gemm_min(panel * c->width + gemm_min(panel, c->wider), c->total);
}

static inline int64_t gemm_panel_cols(const gemm_panels *c, int64_t panel) {
    return gemm_min(c->width + (panel < c->wider), c->total - gemm_panel_start(c, panel));
}

/* out[p * step + j] = source(p0 + p, j0 + j) for p < count and the columns j of panel `begin`, and so
 * on for the panels before `end`; what fills up the last vector of a panel may be anything. */
void QK(gemm_pack)(float *out, int64_t step, const gemm_panels *panels, int64_t begin, int64_t end,
                   const gemm_source *source, int64_t p0, int64_t count, int64_t j0);

/* A walk over memory that will be needed soon: the kernels fetch its lines into the second
 * cache on the way, `rate` of them every four p. `run` lines lie `step` bytes apart, then
 * the next run begins `wrap` further. */
typedef struct {
    const char *next;
    int64_t     step, wrap, run, left; /* left in this run */
    int         rate;
} gemm_ahead;

/* Whole lines that go past the caches, to aligned places: reading them first, as stores do, is saved. */
#if VF_LANES == 16
#define GEMM_FAR 1
INLINE void gemm_store_far(float *p, vf x) { _mm512_stream_ps(p, (__m512)x); }
static inline void gemm_far_done(void) { _mm_sfence(); } /* before others are told */
#else
#define GEMM_FAR 0
INLINE void gemm_store_far(float *p, vf x) { vf_store(p, x); }
static inline void gemm_far_done(void) {}
#endif

#define GEMM_SOON 3
/* Rows that are read or written right after a tile, fetched by the kernel towards its end. */
typedef struct {
    const char *at;         /* NULL: none, nor the following ones */
    int64_t     row, bytes; /* from one row to the next, of each */
} gemm_soon;

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
    gemm_soon    soon[GEMM_SOON];
    bool         far; /* c is written past the caches; no prev then */
} gemm_tile;
typedef void gemm_tile_fn(const gemm_tile *t);
extern gemm_tile_fn *const QK(gemm_tile_by_rows)[TILE_VECS][TILE_ROWS + 1];
extern gemm_tile_fn *const QK(gemm_tile_by_cols)[TILE_VECS][TILE_ROWS + 1];

/* One product of the batch; k may be one stretch of several. */
typedef struct {
    const qk_gemm_args *g;
    gemm_source         a, b; /* j counts the rows of A and the columns of B */
    void               *c, *pre_act;
    const void         *residual;
    int64_t             k;
    bool                from_c; /* the total starts from C */
    bool                ends;   /* the last block applies the end */
} gemm_item;

/* The place in C, or what is like it, of an element. */
static inline void *gemm_of_c(const qk_gemm_args *g, const void *c, int64_t element) {
    return (char *)c + element * (g->c_type == QP_F32 ? 4 : 2);
}

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
void QK(gemm_rows)(const qp_exec *exec, const gemm_item *items,
                   int count); /* all of one A, if there are several */
bool QK(gemm_flip_takes)(const gemm_item *item);
void QK(gemm_flip)(const qp_exec *exec, const gemm_item *item);

#endif
