/* How a product is cut, and the scratch that takes: the same for every instruction set. */
#ifndef QUIPU_KERNELS_GEMM_SIZES_H
#define QUIPU_KERNELS_GEMM_SIZES_H

#include "kernels/gemm.h"

#define MAX_BLOCK 768        /* of k */
#define MAX_ROWS 512         /* rows of a block of A */
#define MAX_PACKED (1 << 18) /* elements of a block of A */
#define MAX_TILE_COLS 32     /* the widest instruction set's panel of B */
#define MAX_LANES 16         /* its floats in a vector */
#define MAX_PANELS 4         /* that are packed together */
#define PACK_GAP 4           /* p between packed tiles, lest they compete for the same places of a cache */
#define PACK_PIECE (1 << 15) /* elements of A packed by one piece of work */
#define FEW_WIDE_ROWS 64     /* rows that need no packed B where its columns are contiguous */
#define FLIP_ROWS 64         /* rows for which A and B exchange their roles */
#define MANY_COLS 256        /* columns from which it pays to pack A for these */
#define WIDE_SUMS 4096       /* sums kept in the first cache for that, */
#define WIDE_UNIT 96         /* a multiple of so many columns */
#define SHARE_FLOATS 16      /* of a share (share.h) */

static inline int64_t gemm_min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t gemm_max(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t gemm_parts(int64_t n, int64_t size) { return (n + size - 1) / size; }

/* Length of the blocks of k; the last may be shorter. */
static inline int64_t gemm_block_of(int64_t k) {
    int64_t blocks = gemm_parts(gemm_max(k, 1), MAX_BLOCK);
    return gemm_parts(gemm_parts(gemm_max(k, 1), blocks), 16) * 16;
}

/* A block of A: so many rows by so much of k. */
typedef struct {
    int64_t rows, depth;
} gemm_cut;

/* `whole`: k is not cut. */
static inline gemm_cut gemm_cut_of(int64_t m, int64_t k, bool whole) {
    int64_t  block = gemm_block_of(k), most = MAX_ROWS;
    gemm_cut c = {.depth = gemm_max(k, 1)};
    if (whole) most = gemm_max(gemm_min(most, MAX_PACKED / c.depth), 16);
    c.rows = gemm_parts(m, gemm_parts(m, most));
    if (!whole && c.rows * c.depth > MAX_PACKED) c.depth = gemm_max(MAX_PACKED / c.rows / block, 1) * block;
    return c;
}

/* A worker's part of B and the running totals of its strip. */
static inline int64_t gemm_worker_floats(const gemm_cut *c, int64_t k, int64_t cols) {
    int64_t block = gemm_block_of(k);
    return (block + (c->depth > block ? c->rows : 0)) * cols;
}

static inline int64_t gemm_packed_floats(const gemm_cut *c, int64_t k) {
    int64_t   block = gemm_block_of(k), depth = gemm_parts(c->depth, block) * (block + PACK_GAP), most = 0;
    const int tiles[][2] = {{14, 16}, {6, 8}, {4, 4}}; /* rows and packed rows of a tile */
    for (int i = 0; i < 3; i++) most = gemm_max(most, gemm_parts(c->rows, tiles[i][0]) * tiles[i][1] * depth);
    return most;
}

static inline int64_t gemm_strips_floats(int64_t m, int64_t k, int threads) {
    int64_t floats = 0;
    for (int whole = 0; whole < 2; whole++) {
        gemm_cut c = gemm_cut_of(m, k, whole);
        int64_t  workers = threads * gemm_worker_floats(&c, k, MAX_PANELS * MAX_TILE_COLS);
        floats = gemm_max(floats, workers + gemm_packed_floats(&c, k));
    }
    return floats;
}

static inline int64_t gemm_wide_cols(int64_t m) {
    return gemm_max(1, gemm_min(WIDE_SUMS / m, 512) / WIDE_UNIT) * WIDE_UNIT;
}

/* Rows of A as floats; a share (share.h), sums and totals of each worker. */
static inline int64_t gemm_rows_floats(int64_t m, int64_t k, int threads) {
    return m * (gemm_max(k, 1) + 16) + threads * (SHARE_FLOATS + 2 * m * gemm_wide_cols(m));
}

/* A packed whole, in panels. */
static inline int64_t gemm_flip_floats(int64_t m, int64_t k) {
    int64_t block = gemm_block_of(k);
    return gemm_parts(m, MAX_TILE_COLS) * MAX_TILE_COLS * gemm_parts(gemm_max(k, 1), block) * block;
}

static inline size_t gemm_item_bytes(int64_t m, int64_t k, int threads) {
    int64_t floats = gemm_strips_floats(m, k, threads);
    if (m <= FEW_WIDE_ROWS) floats = gemm_max(floats, gemm_rows_floats(m, k, threads));
    if (m <= FLIP_ROWS) floats = gemm_max(floats, gemm_flip_floats(m, k));
    return (size_t)gemm_parts(floats, 16) * 64;
}

#endif
