/* What the files of the product with block types share.
 *
 * VF_LANES rows of W are unpacked at a time, a lane for each, into a panel in the first cache,
 * which all rows of A then pass. A panel has for each 32 values: eight vectors of words (the four
 * bytes u of four values that follow each other, word i values 4 i ..), then the vectors d and low of
 * the parts. */
#ifndef QUIPU_KERNELS_BLOCK_PARTS_H
#define QUIPU_KERNELS_BLOCK_PARTS_H

#include "core/simd.h"
#include "kernels/block_product.h"
#include "kernels/lines.h"

#define BLOCK_VALUES 32
#define BLOCK_WORDS 8
#define BLOCK_AT_ONCE 16 /* 32s in a panel: a multiple of 8, which the longer types have */

/* How sums of whole numbers are made: VNNI multiplies bytes, u as they are; all else pairs of 16
 * bits, even and odd bytes of words apart. */
#if VF_LANES == 16
#define BLOCK_BYTES 1
#define BLOCK_ROWS 6 /* of a tile in registers, */
#define BLOCK_PANELS 2
#else
#define BLOCK_BYTES 0
#define BLOCK_ROWS 4
#define BLOCK_PANELS 1
#endif

/* 32 values of a row of A, a scale for each half. start: - zero sum q, of each half; sum: s sum q, of each
 * part. Where words of the second half come `second` times as large, its start is as many times as large, its s smaller:
 * a power of two, so the numbers are the same. */
typedef struct {
#if BLOCK_BYTES
    int8_t q[BLOCK_VALUES];
#else
    int16_t q[2 * BLOCK_WORDS][2]; /* for each word its even, then its odd bytes */
#endif
    float   s[2], sum[2];
    int32_t start[2];
} block_row;

/* A type: 32 or 256 values in so many bytes; parts of 32 that have a d of their own. second: how many times too large the
 * words of values 16..31 are (high halves of bytes, which are not shifted). */
typedef struct {
    int  values, bytes, parts, zero, second;
    bool low;
    /* `count` blocks of VF_LANES lines; as many bytes from `ahead` on are fetched. */
    void (*unpack)(vf *out, const char *data, const line_steps *s, int64_t count, const char *ahead);
    /* acc[VF_LANES] = what they add up to with a single row of A. */
    void (*one)(float *acc, const block_row *x, const char *data, const line_steps *s, int64_t count,
                const char *ahead);
} block_type;

const block_type *QK(block_type_of)(qp_dtype type);

static inline int block_step(const block_type *t) { return BLOCK_WORDS + t->parts * (t->low ? 2 : 1); }

/* acc[i][j] += for `rows` rows of A, `panels` panels and `count` 32s. */
typedef struct {
    const block_row *rows;
    int64_t          row_step; /* in block_row */
    const vf        *panel;
    int64_t          panel_step; /* in vf */
    int64_t          count;
    float           *acc; /* rows of BLOCK_PANELS vectors */
} block_tile;

void QK(block_multiply)(const block_type *type, int rows, int panels, const block_tile *t);

#endif
