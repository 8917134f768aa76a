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

static inline gemm_kind gemm_kind_of(qp_dtype type, qp_dtype compute)
{
    return (gemm_kind)(compute == QP_F32 || type == compute ? type : type | compute << 8);
}

/* n values as floats; n is the constant VF_LANES for whole vectors, so that the mask goes away. */
INLINE vf gemm_load(qp_dtype type, const void *data, int n)
{
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

INLINE vf word_at(const void *word)
{
    int32_t bits;
    memcpy(&bits, word, sizeof bits);
    return (vf)vi_set1(bits);
}

INLINE vf word_fma(vf a, vf b, vf c)
{
    return (vf)_mm512_dpbf16_ps((__m512)c, (__m512bh)a, (__m512bh)b);
}

INLINE vh word_halves(gemm_kind kind, const void *data, int n)
{
    if (kind == GEMM_BF16) return n == VF_LANES ? vh_load(data) : vh_load_n(data, n);
    return (vh)_mm512_cvtneps_pbh((__m512)gemm_load(GEMM_TYPE(kind), data, n));
}

INLINE vf gemm_words(gemm_kind kind, const void *first, const void *second, int n)
{
    vu low = vu_from_vh(word_halves(kind, first, n));
    return (vf)(second ? low | vu_from_vh(word_halves(kind, second, n)) << 16 : low);
}

#else

#define GEMM_PAIR 1
#define GEMM_WORDS GEMM_F32
#define EACH_KIND(X) \
    X(GEMM_F32) X(GEMM_BF16) X(GEMM_F16) X(GEMM_F32_TO_BF16) X(GEMM_F16_TO_BF16) X(GEMM_F32_TO_F16) X(GEMM_BF16_TO_F16)

INLINE vf word_at(const void *word)
{
    float x;
    memcpy(&x, word, sizeof x);
    return vf_set1(x);
}

INLINE vf word_fma(vf a, vf b, vf c) { return vf_fma(a, b, c); }

INLINE vf word_round(gemm_kind kind, vf x)
{
    if (GEMM_ROUND(kind) == QP_BF16) return vf_from_bf16(vf_to_bf16(x));
    if (GEMM_ROUND(kind) == QP_F16) return vf_from_f16(vf_to_f16(x));
    return x;
}

INLINE vf gemm_words(gemm_kind kind, const void *first, const void *second, int n)
{
    (void)second;
    return word_round(kind, gemm_load(GEMM_TYPE(kind), first, n));
}

#endif

#endif
