/* What rows of A and unpacked weights add up to. */
#ifndef QUIPU_KERNELS_BLOCK_DOT_H
#define QUIPU_KERNELS_BLOCK_DOT_H

#include "kernels/block_parts.h"

#ifdef __SSE2__
#include <immintrin.h>
#endif

#if VF_LANES == 16
#define TARGET __attribute__((target("avx512vnni")))
#else
#define TARGET
#endif
#define TILED TARGET static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")

/* ---- Four products of whole numbers in every lane, added to acc ------------------------------------- */

#if BLOCK_BYTES
typedef struct {
    vi bytes;
} word;
TILED word word_of(vf panel) { return (word){(vi)panel}; }
TILED vi add_products(vi acc, word w, const block_row *x, int i) {
    int32_t four;
    memcpy(&four, x->q + 4 * i, sizeof four);
    return (vi)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)w.bytes, _mm512_set1_epi32(four));
}
#else
typedef struct {
    vi even, odd;
} word;
TILED word word_of(vf panel) {
    return (word){(vi)((vu)panel & 0x00ff00ffu), (vi)((vu)panel >> 8 & 0x00ff00ffu)};
}
TILED vi products_of_pairs(vi w, const int16_t pair[2]) {
#ifdef __SSE2__
    int32_t both;
    memcpy(&both, pair, sizeof both);
#if VF_LANES == 8
    return (vi)_mm256_madd_epi16((__m256i)w, _mm256_set1_epi32(both));
#else
    return (vi)_mm_madd_epi16((__m128i)w, _mm_set1_epi32(both));
#endif
#else
    return (w & 255) * pair[0] + (w >> 16) * pair[1];
#endif
}
TILED vi add_products(vi acc, word w, const block_row *x, int i) {
    return acc + products_of_pairs(w.even, x->q[2 * i]) + products_of_pairs(w.odd, x->q[2 * i + 1]);
}
#endif

/* ---- 32 values ------------------------------------------------------------------------------------------ */

/* acc[i][j] += so many rows of A, row_step apart, by so many panels, panel_step apart. */
TILED void add_32(const int rows, const int panels, const int parts, const bool zero, const bool low,
                  const block_row *x, int64_t row_step, const vf *w, int64_t panel_step,
                  vf acc[BLOCK_ROWS][BLOCK_PANELS]) {
    const int words = BLOCK_WORDS / 2;
    vf        sum[BLOCK_ROWS][BLOCK_PANELS];
    UNROLL for (int half = 0; half < 2; half++) {
        vi whole[BLOCK_ROWS][BLOCK_PANELS];
        UNROLL for (int i = 0; i < rows; i++) UNROLL for (int j = 0; j < panels; j++) whole[i][j] =
            zero ? vi_set1(x[i * row_step].start[half]) : (vi){0};
        UNROLL for (int u = half * words; u < (half + 1) * words; u++) {
            word y[BLOCK_PANELS];
            UNROLL for (int j = 0; j < panels; j++) y[j] = word_of(w[j * panel_step + u]);
            UNROLL for (int i = 0; i < rows; i++) UNROLL for (int j = 0; j < panels; j++) whole[i][j] =
                add_products(whole[i][j], y[j], &x[i * row_step], u);
        }
        UNROLL for (int i = 0; i < rows; i++) {
            vf s = vf_set1(x[i * row_step].s[half]);
            UNROLL for (int j = 0; j < panels; j++) {
                vf y = vf_from_int(whole[i][j]);
                if (parts == 2) y *= w[j * panel_step + BLOCK_WORDS + half];
                sum[i][j] = half ? vf_fma(y, s, sum[i][j]) : y * s;
            }
        }
    }
    UNROLL for (int i = 0; i < rows; i++) UNROLL for (int j = 0; j < panels; j++) {
        acc[i][j] =
            parts == 2 ? acc[i][j] + sum[i][j] : vf_fma(sum[i][j], w[j * panel_step + BLOCK_WORDS], acc[i][j]);
        UNROLL for (int part = 0; low && part < parts; part++) acc[i][j] = vf_fma(
            w[j * panel_step + BLOCK_WORDS + parts + part], vf_set1(x[i * row_step].sum[part]), acc[i][j]);
    }
}

#endif
