/* A square of VF_LANES x VF_LANES floats. turn: row i on entry, column i on return. row_sums: element i of the result is
 * the sum of row i. */
#ifndef QUIPU_KERNELS_TURN_H
#define QUIPU_KERNELS_TURN_H

#include "core/simd.h"

#define TURN static inline __attribute__((always_inline)) void

#ifdef __SSE2__
#include <immintrin.h>
#if VF_LANES == 16
#define TURN_OP(op) _mm512_##op
#elif VF_LANES == 8
#define TURN_OP(op) _mm256_##op
#else
#define TURN_OP(op) _mm_##op
#endif
#define TURN_PAIRS(op, x, y) TURN_OP(castpd_ps)(TURN_OP(op)(TURN_OP(castps_pd)(x), TURN_OP(castps_pd)(y)))

/* Four rows: each 128-bit part is a 4 x 4 of its own. */
TURN turn_parts(vf r[4]) {
    vf low01 = TURN_OP(unpacklo_ps)(r[0], r[1]), high01 = TURN_OP(unpackhi_ps)(r[0], r[1]);
    vf low23 = TURN_OP(unpacklo_ps)(r[2], r[3]), high23 = TURN_OP(unpackhi_ps)(r[2], r[3]);
    r[0] = TURN_PAIRS(unpacklo_pd, low01, low23);
    r[1] = TURN_PAIRS(unpackhi_pd, low01, low23);
    r[2] = TURN_PAIRS(unpacklo_pd, high01, high23);
    r[3] = TURN_PAIRS(unpackhi_pd, high01, high23);
}
/* The sums of four rows' elements within each 128-bit part. */
static inline __attribute__((always_inline)) vf part_sums(const vf r[4]) {
    vf a = TURN_OP(unpacklo_ps)(r[0], r[1]) + TURN_OP(unpackhi_ps)(r[0], r[1]);
    vf b = TURN_OP(unpacklo_ps)(r[2], r[3]) + TURN_OP(unpackhi_ps)(r[2], r[3]);
    return TURN_PAIRS(unpacklo_pd, a, b) + TURN_PAIRS(unpackhi_pd, a, b);
}
#undef TURN_OP
#undef TURN_PAIRS
#endif

#if VF_LANES == 16
TURN turn(vf r[16]) {
    enum { even = 0x88, odd = 0xdd }; /* parts 0 and 2, 1 and 3, of both operands */
    for (int g = 0; g < 16; g += 4) turn_parts(r + g);
    for (int c = 0; c < 4; c++) {
        vf low02 = _mm512_shuffle_f32x4(r[c], r[4 + c], even);
        vf low13 = _mm512_shuffle_f32x4(r[c], r[4 + c], odd);
        vf high02 = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], even);
        vf high13 = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], odd);
        r[c] = _mm512_shuffle_f32x4(low02, high02, even);
        r[4 + c] = _mm512_shuffle_f32x4(low13, high13, even);
        r[8 + c] = _mm512_shuffle_f32x4(low02, high02, odd);
        r[12 + c] = _mm512_shuffle_f32x4(low13, high13, odd);
    }
}
static inline __attribute__((always_inline)) vf row_sums(const vf r[16]) {
    vf low = part_sums(r), next = part_sums(r + 4), half, rest;
    half = _mm512_shuffle_f32x4(low, next, 0x88) + _mm512_shuffle_f32x4(low, next, 0xdd);
    low = part_sums(r + 8), next = part_sums(r + 12);
    rest = _mm512_shuffle_f32x4(low, next, 0x88) + _mm512_shuffle_f32x4(low, next, 0xdd);
    return _mm512_shuffle_f32x4(half, rest, 0x88) + _mm512_shuffle_f32x4(half, rest, 0xdd);
}
#elif VF_LANES == 8
TURN turn(vf r[8]) {
    turn_parts(r);
    turn_parts(r + 4);
    for (int c = 0; c < 4; c++) {
        vf low = r[c], high = r[4 + c];
        r[c] = _mm256_permute2f128_ps(low, high, 0x20);
        r[4 + c] = _mm256_permute2f128_ps(low, high, 0x31);
    }
}
static inline __attribute__((always_inline)) vf row_sums(const vf r[8]) {
    vf low = part_sums(r), high = part_sums(r + 4);
    return _mm256_permute2f128_ps(low, high, 0x20) + _mm256_permute2f128_ps(low, high, 0x31);
}
#elif defined(__SSE2__)
TURN turn(vf r[4]) { turn_parts(r); }
static inline __attribute__((always_inline)) vf row_sums(const vf r[4]) { return part_sums(r); }
#else
static inline vf row_sums(const vf r[VF_LANES]) {
    vf sums;
    for (int i = 0; i < VF_LANES; i++) sums[i] = vf_sum(r[i]);
    return sums;
}
TURN turn(vf r[VF_LANES]) {
    for (int i = 0; i < VF_LANES; i++)
        for (int j = 0; j < i; j++) {
            float x = r[i][j];
            r[i][j] = r[j][i];
            r[j][i] = x;
        }
}
#endif
#undef TURN
#endif
