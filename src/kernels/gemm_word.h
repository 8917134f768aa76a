/* What the register kernels multiply: floats, or pairs of bf16 (see gemm_parts.h). */
#ifndef QUIPU_KERNELS_GEMM_WORD_H
#define QUIPU_KERNELS_GEMM_WORD_H

#include "core/isa.h"
#if QP_PAIRS
#include <immintrin.h>
#endif

#include "core/simd.h"
#include "kernels/gemm_sizes.h"

#define INLINE static inline __attribute__((always_inline))

/* How values of a matrix are read: their type, and the type they are rounded to first. */
typedef enum {
    GEMM_F32 = QP_F32,
    GEMM_BF16 = QP_BF16,
    GEMM_F16 = QP_F16,
    GEMM_F32_TO_BF16 = QP_F32 | QP_BF16 << 8,
    GEMM_F16_TO_BF16 = QP_F16 | QP_BF16 << 8,
    GEMM_F32_TO_F16 = QP_F32 | QP_F16 << 8,
    GEMM_BF16_TO_F16 = QP_BF16 | QP_F16 << 8,
} gemm_kind;

#define GEMM_TYPE(kind) ((qp_dtype)((kind) & 0xff))
#define GEMM_ROUND(kind) ((qp_dtype)((kind) >> 8)) /* QP_F32, which is 0: not */

static inline gemm_kind gemm_kind_of(qp_dtype type, qp_dtype compute) {
    return (gemm_kind)(compute == QP_F32 || type == compute ? type : type | compute << 8);
}

/* n values as floats; n is the constant VF_LANES for whole vectors, so that the mask goes away. */
INLINE vf gemm_load(qp_dtype type, const void *data, int n) {
    if (type == QP_F32) return n == VF_LANES ? vf_load(data) : vf_load_n(data, n);
    if (type == QP_BF16) return n == VF_LANES ? vf_load_bf16(data) : vf_load_bf16_n(data, n);
    return n == VF_LANES ? vf_load_f16(data) : vf_load_f16_n(data, n);
}

/* gemm_words: n words, of which `first` points at the first values and `second` (NULL: zeros) at
 * the second ones of pairs. word_at: the word there, in every lane. word_fma: a b + c. */
#if QP_PAIRS

#define GEMM_PAIR 2
#define GEMM_WORDS GEMM_BF16 /* lies in memory as words do */
#define EACH_KIND(X) X(GEMM_BF16) X(GEMM_F32_TO_BF16) X(GEMM_F16_TO_BF16)

INLINE vf word_at(const void *word) {
    int32_t bits;
    memcpy(&bits, word, sizeof bits);
    return (vf)vi_set1(bits);
}

INLINE vf word_fma(vf a, vf b, vf c) { return (vf)_mm512_dpbf16_ps((__m512)c, (__m512bh)a, (__m512bh)b); }

/* 16 pairs of `first` and `second`, n values of each, rounded to bf16. */
INLINE vf word_pairs(gemm_kind kind, const void *first, const void *second, int n) {
    static const uint16_t turn[2 * VF_LANES] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    __m512i               both;
    if (kind == GEMM_BF16) {
        vh low = n == VF_LANES ? vh_load(first) : vh_load_n(first, n);
        vh high = n == VF_LANES ? vh_load(second) : vh_load_n(second, n);
        both = _mm512_inserti64x4(_mm512_castsi256_si512((__m256i)low), (__m256i)high, 1);
    } else {
        vf low = gemm_load(GEMM_TYPE(kind), first, n), high = gemm_load(GEMM_TYPE(kind), second, n);
        both = (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
    }
    return (vf)_mm512_permutexvar_epi16(_mm512_loadu_si512(turn), both);
}

INLINE vf gemm_words(gemm_kind kind, const void *first, const void *second, int n) {
    static const float none[VF_LANES];
    return word_pairs(kind, first, second ? second : none, n);
}

#else

#define GEMM_PAIR 1
#define GEMM_WORDS GEMM_F32
#define EACH_KIND(X) \
    X(GEMM_F32) \
    X(GEMM_BF16) X(GEMM_F16) X(GEMM_F32_TO_BF16) X(GEMM_F16_TO_BF16) X(GEMM_F32_TO_F16) X(GEMM_BF16_TO_F16)

INLINE vf word_at(const void *word) {
    float x;
    memcpy(&x, word, sizeof x);
    return vf_set1(x);
}

INLINE vf word_fma(vf a, vf b, vf c) { return vf_fma(a, b, c); }

INLINE vf word_round(gemm_kind kind, vf x) {
    if (GEMM_ROUND(kind) == QP_BF16) return vf_from_bf16(vf_to_bf16(x));
    if (GEMM_ROUND(kind) == QP_F16) return vf_from_f16(vf_to_f16(x));
    return x;
}

INLINE vf gemm_words(gemm_kind kind, const void *first, const void *second, int n) {
    (void)second;
    return word_round(kind, gemm_load(GEMM_TYPE(kind), first, n));
}

#endif

#endif
