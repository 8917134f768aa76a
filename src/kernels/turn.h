/* A square of VF_LANES x VF_LANES floats. turn: row i on entry, column i on return. row_sums, row_maxima: element i of
 * the result is the sum of row i, its largest element. */
#ifndef QUIPU_KERNELS_TURN_H
#define QUIPU_KERNELS_TURN_H

#include "core/simd.h"

#define TURN static inline __attribute__((always_inline)) void
#define FOLD static inline __attribute__((always_inline)) vf
#define FOLD_SUM(a, b) ((a) + (b))

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
/* What four rows' elements fold to within each 128-bit part. */
#define PART_FOLD(name, fold) \
    FOLD part_##name(const vf r[4]) { \
        vf a = fold(TURN_OP(unpacklo_ps)(r[0], r[1]), TURN_OP(unpackhi_ps)(r[0], r[1])); \
        vf b = fold(TURN_OP(unpacklo_ps)(r[2], r[3]), TURN_OP(unpackhi_ps)(r[2], r[3])); \
        return fold(TURN_PAIRS(unpacklo_pd, a, b), TURN_PAIRS(unpackhi_pd, a, b)); \
    }
PART_FOLD(sums, FOLD_SUM)
PART_FOLD(maxima, vf_max)
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
#define HALF_FOLD(fold, x, y) fold(_mm512_shuffle_f32x4(x, y, 0x88), _mm512_shuffle_f32x4(x, y, 0xdd))
#define ROW_FOLD(name, fold, all) \
    FOLD row_##name(const vf r[16]) { \
        vf first = HALF_FOLD(fold, part_##name(r), part_##name(r + 4)); \
        vf last = HALF_FOLD(fold, part_##name(r + 8), part_##name(r + 12)); \
        return HALF_FOLD(fold, first, last); \
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
#define ROW_FOLD(name, fold, all) \
    FOLD row_##name(const vf r[8]) { \
        vf low = part_##name(r), high = part_##name(r + 4); \
        return fold(_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31)); \
    }
#elif defined(__SSE2__)
TURN turn(vf r[4]) { turn_parts(r); }
#define ROW_FOLD(name, fold, all) \
    FOLD row_##name(const vf r[4]) { return part_##name(r); }
#else
#define ROW_FOLD(name, fold, all) \
    FOLD row_##name(const vf r[VF_LANES]) { \
        vf each; \
        for (int i = 0; i < VF_LANES; i++) each[i] = all(r[i]); \
        return each; \
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
/* name, of two, of all lanes */
ROW_FOLD(sums, FOLD_SUM, vf_sum)
ROW_FOLD(maxima, vf_max, vf_hmax)
#undef TURN
#undef FOLD
#undef FOLD_SUM
#undef PART_FOLD
#undef HALF_FOLD
#undef ROW_FOLD
#undef TURN_OP
#undef TURN_PAIRS
#endif
