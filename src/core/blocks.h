/* Block types: the bytes of one block, and its elements as floats.
 *
 * A block holds 32 or 256 elements: a scale in half precision and small integers, whose bits are
 * packed. Where elements of 32 are split into halves or 256 into groups, the low bits of several
 * stand in one byte: element i and i + 16 of 32; i, i + 32, .. of 128 (2 bits each); i and i + 32
 * of 64 (4 bits each). Bytes and arithmetic are those of GGUF files as ggml defines them.
 */
#ifndef QUIPU_CORE_BLOCKS_H
#define QUIPU_CORE_BLOCKS_H

#include "core/half.h"
#include "quipu/core.h"

/* ---- Blocks of 32 ----------------------------------------------------------------------------- */

typedef struct {
    uint16_t d;
    int8_t   q[32];
} qpi_q8_0;

typedef struct {
    uint16_t d;
    uint8_t  q[16];
} qpi_q4_0;

typedef struct {
    uint16_t d, m;
    uint8_t  q[16];
} qpi_q4_1;

typedef struct { /* high: bit i is the fifth bit of element i */
    uint16_t d;
    uint8_t  high[4], q[16];
} qpi_q5_0;

typedef struct {
    uint16_t d, m;
    uint8_t  high[4], q[16];
} qpi_q5_1;

typedef struct { /* q: indices into qpi_iq4_nl_value */
    uint16_t d;
    uint8_t  q[16];
} qpi_iq4_nl;

static const int8_t qpi_iq4_nl_value[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                            1,    13,   25,  38,  53,  69,  89,  113};

static inline int qpi_nibble_32(const uint8_t *q, int i) { return q[i % 16] >> i / 16 * 4 & 15; }
static inline int qpi_bit(const uint8_t *high, int i) { return high[i / 8] >> i % 8 & 1; }

static inline float qpi_q8_0_at(const qpi_q8_0 *b, int i) { return qpi_f16_to_f32(b->d) * (float)b->q[i]; }

static inline float qpi_q4_0_at(const qpi_q4_0 *b, int i) {
    return qpi_f16_to_f32(b->d) * (float)(qpi_nibble_32(b->q, i) - 8);
}
static inline float qpi_q4_1_at(const qpi_q4_1 *b, int i) {
    return qpi_f16_to_f32(b->d) * (float)qpi_nibble_32(b->q, i) + qpi_f16_to_f32(b->m);
}
static inline float qpi_q5_0_at(const qpi_q5_0 *b, int i) {
    return qpi_f16_to_f32(b->d) * (float)((qpi_nibble_32(b->q, i) | qpi_bit(b->high, i) << 4) - 16);
}
static inline float qpi_q5_1_at(const qpi_q5_1 *b, int i) {
    return qpi_f16_to_f32(b->d) * (float)(qpi_nibble_32(b->q, i) | qpi_bit(b->high, i) << 4) +
           qpi_f16_to_f32(b->m);
}
static inline float qpi_iq4_nl_at(const qpi_iq4_nl *b, int i) {
    return qpi_f16_to_f32(b->d) * (float)qpi_iq4_nl_value[qpi_nibble_32(b->q, i)];
}

/* ---- Blocks of 256: groups have scales of their own, which are small integers times d ------------ */

typedef struct { /* groups of 16: the scale in the low, the offset in the high 4 bits */
    uint8_t  scale[16], q[64];
    uint16_t d, m;
} qpi_q2_k;

typedef struct { /* groups of 16, 6-bit scales; high: bit i / 32 of byte i % 32 */
    uint8_t  high[32], q[64], scale[12];
    uint16_t d;
} qpi_q3_k;

typedef struct { /* groups of 32, 6-bit scales and offsets */
    uint16_t d, m;
    uint8_t  scale[12], q[128];
} qpi_q4_k;

typedef struct {
    uint16_t d, m;
    uint8_t  scale[12], high[32], q[128];
} qpi_q5_k;

typedef struct { /* groups of 16 */
    uint8_t  low[128], high[64];
    int8_t   scale[16];
    uint16_t d;
} qpi_q6_k;

static inline int qpi_crumb_256(const uint8_t *q, int i) {
    return q[i / 128 * 32 + i % 32] >> i % 128 / 32 * 2 & 3;
}
static inline int qpi_nibble_256(const uint8_t *q, int i) {
    return q[i / 64 * 32 + i % 32] >> i / 32 % 2 * 4 & 15;
}

/* Scale of group g in 0..15, -32..31: 4 low bits, then 2 bits each in the last 4 bytes. */
static inline int qpi_q3_k_scale(const uint8_t *scale, int g) {
    return ((scale[g % 8] >> g / 8 * 4 & 15) | (scale[8 + g % 4] >> g / 4 * 2 & 3) << 4) - 32;
}
/* Scale and offset of group g in 0..7: six bits of a byte each, or, from 4 on, 4 bits each of a byte
 * and the two highest bits of the bytes of group g - 4. */
static inline int qpi_q4_k_scale(const uint8_t *scale, int g) {
    return g < 4 ? scale[g] & 63 : (scale[g + 4] & 15) | scale[g - 4] >> 6 << 4;
}
static inline int qpi_q4_k_offset(const uint8_t *scale, int g) {
    return g < 4 ? scale[g + 4] & 63 : scale[g + 4] >> 4 | scale[g] >> 6 << 4;
}

static inline float qpi_q2_k_at(const qpi_q2_k *b, int i) {
    int scale = b->scale[i / 16];
    return qpi_f16_to_f32(b->d) * (float)(scale & 15) * (float)qpi_crumb_256(b->q, i) -
           qpi_f16_to_f32(b->m) * (float)(scale >> 4);
}
static inline float qpi_q3_k_at(const qpi_q3_k *b, int i) {
    int q = qpi_crumb_256(b->q, i) - (b->high[i % 32] >> i / 32 & 1 ? 0 : 4);
    return qpi_f16_to_f32(b->d) * (float)qpi_q3_k_scale(b->scale, i / 16) * (float)q;
}
static inline float qpi_q4_k_at(const qpi_q4_k *b, int i) {
    return qpi_f16_to_f32(b->d) * (float)qpi_q4_k_scale(b->scale, i / 32) * (float)qpi_nibble_256(b->q, i) -
           qpi_f16_to_f32(b->m) * (float)qpi_q4_k_offset(b->scale, i / 32);
}
static inline float qpi_q5_k_at(const qpi_q5_k *b, int i) {
    int q = qpi_nibble_256(b->q, i) | (b->high[i % 32] >> i / 32 & 1) << 4;
    return qpi_f16_to_f32(b->d) * (float)qpi_q4_k_scale(b->scale, i / 32) * (float)q -
           qpi_f16_to_f32(b->m) * (float)qpi_q4_k_offset(b->scale, i / 32);
}
static inline float qpi_q6_k_at(const qpi_q6_k *b, int i) {
    int quarter = i % 128 / 32;
    int low = b->low[i / 128 * 64 + quarter % 2 * 32 + i % 32] >> quarter / 2 * 4 & 15;
    int high = b->high[i / 128 * 32 + i % 32] >> quarter * 2 & 3;
    return qpi_f16_to_f32(b->d) * (float)b->scale[i / 16] * (float)((low | high << 4) - 32);
}

#define QPI_EACH_BLOCK_TYPE(X) \
    X(Q8_0, q8_0) \
    X(Q4_0, q4_0) X(Q4_1, q4_1) X(Q5_0, q5_0) X(Q5_1, q5_1) X(Q2_K, q2_k) X(Q3_K, q3_k) X(Q4_K, q4_k) \
        X(Q5_K, q5_k) X(Q6_K, q6_k) X(IQ4_NL, iq4_nl)

/* ---- Rows of blocks of type t; n is a multiple of its block -------------------------------------- */

float qpi_blocks_at(qp_dtype t, const void *blocks, int64_t i);
void qpi_blocks_decode(qp_dtype t, const void *blocks, int64_t n, float *x);
/* Rounded as ggml rounds where no statistics of activations are given. Values that are not finite
 * give blocks of no use. */
void qpi_blocks_encode(qp_dtype t, const float *x, int64_t n, void *blocks);

#endif
