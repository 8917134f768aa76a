/* Loading a matrix across its lines: VF_LANES lines, TURN_STEP words of each, become
 * TURN_STEP vectors, each with one word of every line. */
#ifndef QUIPU_KERNELS_GEMM_TURN_H
#define QUIPU_KERNELS_GEMM_TURN_H

#include "kernels/gemm_parts.h"

#ifdef __SSE2__
#include <immintrin.h>
#endif

#if VF_LANES == 16
#define TURN_STEP 8
#define TURN_PART __m256
#define TURN_OP(op) _mm512_##op
#else
#define TURN_STEP 4
#define TURN_PART __m128
#if VF_LANES == 8
#define TURN_OP(op) _mm256_##op
#else
#define TURN_OP(op) _mm_##op
#endif
#endif

#ifdef __SSE2__

/* TURN_STEP words of one line, not rounded yet where they are floats. */
INLINE TURN_PART turn_load_part(gemm_kind kind, const char *data) {
    const qp_dtype type = GEMM_TYPE(kind);
#if QP_PAIRS
    if (type == QP_BF16) return _mm256_loadu_ps((const float *)data);
    vf x = gemm_load(type, data, VF_LANES);
    return (__m256)_mm512_cvtneps_pbh((__m512)x);
#elif VF_LANES == 16
    if (type == QP_F32) return _mm256_loadu_ps((const float *)data);
    __m128i h = _mm_loadu_si128((const __m128i *)data);
    if (type == QP_F16) return _mm256_cvtph_ps(h);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
#else
    if (type == QP_F32) return _mm_loadu_ps((const float *)data);
    __m128i h = _mm_loadl_epi64((const __m128i *)data);
    if (type == QP_BF16) return _mm_castsi128_ps(_mm_unpacklo_epi16(_mm_setzero_si128(), h));
#if VF_LANES == 8
    return _mm_cvtph_ps(h);
#else
    return vf_load_f16((const uint16_t *)data);
#endif
#endif
}

/* Load i holds lines i and i + 4, but lines i + 4 and i + 8 from i = 4 on. */
INLINE vf turn_load(gemm_kind kind, const char *in, const int64_t *offset, int i) {
#if VF_LANES == 16
    int line = i < 4 ? i : i + 4;
#if QP_PAIRS
    if (GEMM_TYPE(kind) != QP_BF16) {
        vf low = gemm_load(GEMM_TYPE(kind), in + offset[line], VF_LANES);
        vf high = gemm_load(GEMM_TYPE(kind), in + offset[line + 4], VF_LANES);
        return (vf)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
    }
#endif
    return _mm512_insertf32x8(_mm512_castps256_ps512(turn_load_part(kind, in + offset[line])),
                              turn_load_part(kind, in + offset[line + 4]), 1);
#elif VF_LANES == 8
    return _mm256_insertf128_ps(_mm256_castps128_ps256(turn_load_part(kind, in + offset[i])),
                                turn_load_part(kind, in + offset[i + 4]), 1);
#else
    return turn_load_part(kind, in + offset[i]);
#endif
}

#define TURN_PAIRS(op, x, y) TURN_OP(castpd_ps)(TURN_OP(op)(TURN_OP(castps_pd)(x), TURN_OP(castps_pd)(y)))

/* Each 128-bit part of the four is a 4 x 4 of its own. */
INLINE void turn_parts(vf r[4]) {
    vf low01 = TURN_OP(unpacklo_ps)(r[0], r[1]), high01 = TURN_OP(unpackhi_ps)(r[0], r[1]);
    vf low23 = TURN_OP(unpacklo_ps)(r[2], r[3]), high23 = TURN_OP(unpackhi_ps)(r[2], r[3]);
    r[0] = TURN_PAIRS(unpacklo_pd, low01, low23);
    r[1] = TURN_PAIRS(unpackhi_pd, low01, low23);
    r[2] = TURN_PAIRS(unpacklo_pd, high01, high23);
    r[3] = TURN_PAIRS(unpackhi_pd, high01, high23);
}

/* offset: bytes from `in` to each line. */
INLINE void turn(gemm_kind kind, vf r[TURN_STEP], const char *in, const int64_t *offset) {
    r[0] = turn_load(kind, in, offset, 0);
    r[1] = turn_load(kind, in, offset, 1);
    r[2] = turn_load(kind, in, offset, 2);
    r[3] = turn_load(kind, in, offset, 3);
    turn_parts(r);
#if VF_LANES == 16
    r[4] = turn_load(kind, in, offset, 4);
    r[5] = turn_load(kind, in, offset, 5);
    r[6] = turn_load(kind, in, offset, 6);
    r[7] = turn_load(kind, in, offset, 7);
    turn_parts(r + 4);
#define TURN_JOIN(c) \
    { \
        vf low = r[c], high = r[4 + c]; \
        r[c] = _mm512_shuffle_f32x4(low, high, 0x88); /* parts 0 and 2 of both */ \
        r[4 + c] = _mm512_shuffle_f32x4(low, high, 0xdd); \
    }
    TURN_JOIN(0)
    TURN_JOIN(1) TURN_JOIN(2) TURN_JOIN(3)
#undef TURN_JOIN
#endif
#if !QP_PAIRS
        for (int u = 0; u < TURN_STEP; u++) r[u] = word_round(kind, r[u]);
#endif
}

#undef TURN_PAIRS

#else

INLINE void turn(gemm_kind kind, vf r[TURN_STEP], const char *in, const int64_t *offset) {
    for (int u = 0; u < TURN_STEP; u++)
        for (int i = 0; i < VF_LANES; i++)
            r[u][i] = gemm_words(kind, in + offset[i] + u * gemm_bytes(kind), NULL, 1)[0];
}

#endif

#undef TURN_OP
#undef TURN_PART

/* The offsets of `lines` lines j_bytes apart; the others repeat the last. */
INLINE void turn_offsets(int64_t offset[VF_LANES], int64_t j_bytes, int lines) {
    for (int i = 0; i < VF_LANES; i++) offset[i] = (i < lines ? i : lines - 1) * j_bytes;
}

#endif
