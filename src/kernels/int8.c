/* y[r, o] = s_r scale[o] sum_j q[r, j] w[o, j] + bias[o], q = round(x / s_r), s_r = max |x[r]| / 127.
 *
 * The sums are whole numbers, so neither the order of summation nor the instruction set changes
 * them. VNNI multiplies unsigned by signed bytes, four to a lane: w goes in as w + 128 (its top bit
 * flipped), and 128 sum_j q[r, j] is taken off again. Tiles of 4 rows by 4 weights. */
#include "kernels/int8.h"

#include <string.h>

#include "core/simd.h"
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#define WIDE 64 /* bytes; rows of q are padded with zeros */
#define TILE 4
#define OUTS 64           /* weights of one piece */
#define BLOCK_BYTES 24576 /* of rows */

typedef struct {
    const qk_int8_args *a;
    int64_t             padded;
    int8_t             *q;   /* [m, padded] */
    float              *s;   /* [m] */
    int32_t            *sum; /* [m], of q's rows */
} job;

static int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

size_t QK(qk_int8_scratch)(int64_t m, int64_t k) {
    return (size_t)(m * round_up(k, WIDE) + round_up(m * 4, WIDE) * 2);
}

/* ---- Rows as 8-bit numbers -------------------------------------------------------------------- */

static float most_of(const float *x, int64_t k) {
    vf      most = vf_set1(0);
    int64_t j = 0;
    for (; j + VF_LANES <= k; j += VF_LANES) most = vf_max(most, vf_abs(vf_load(x + j)));
    int tail = (int)(k - j);
    if (tail) most = vf_max(most, vf_abs(vf_load_n(x + j, tail)));
    return vf_hmax(most);
}

static void quantize(void *arg, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const job *t = arg;
    int64_t    k = t->a->k;
    for (int64_t r = begin; r < end; r++) {
        const float *x = t->a->x + r * t->a->x_row;
        int8_t      *q = t->q + r * t->padded;
        float        most = most_of(x, k), inverse = qk_int8_inverse(most);
        int32_t      sum = 0, bad = 0; /* not finite: neither is the result */
        for (int64_t j = 0; j < k; j++) {
            float v = qk_int8_round(x[j], inverse);
            bad |= v != v;
            sum += q[j] = (int8_t)(v == v ? v : 0);
        }
        memset(q + k, 0, (size_t)(t->padded - k));
        t->s[r] = bad ? NAN : qk_int8_scale(most);
        t->sum[r] = sum;
    }
}

/* ---- Sums of a tile ----------------------------------------------------------------------------- */

/* sums[i][o] = q_i w_o for `rows` rows and `outs` weights, both at most TILE. */
typedef void sums_fn(const job *t, int64_t row, int rows, int64_t out, int outs, int32_t sums[TILE][TILE]);

static void sums_plain(const job *t, int64_t row, int rows, int64_t out, int outs, int32_t sums[TILE][TILE]) {
    for (int i = 0; i < rows; i++)
        for (int o = 0; o < outs; o++) {
            const int8_t *q = t->q + (row + i) * t->padded, *w = t->a->w + (out + o) * t->a->w_row;
            int32_t       sum = 0;
            for (int64_t j = 0; j < t->a->k; j++) sum += (int16_t)q[j] * (int16_t)w[j];
            sums[i][o] = sum;
        }
}

#if defined(__AVX512F__)
#define VNNI __attribute__((target("avx512f,avx512bw,avx512vnni")))

/* One chunk of up to WIDE bytes for all of the tile. */
VNNI static inline void chunk(__m512i acc[TILE][TILE], const int8_t *const *q, const int8_t *const *w,
                              int64_t j, __mmask64 mask) {
    const __m512i flip = _mm512_set1_epi8((char)0x80);
    __m512i       b[TILE];
    for (int o = 0; o < TILE; o++) b[o] = _mm512_xor_si512(_mm512_maskz_loadu_epi8(mask, w[o] + j), flip);
#pragma GCC unroll 4
    for (int i = 0; i < TILE; i++) {
        __m512i a = _mm512_loadu_si512(q[i] + j);
        for (int o = 0; o < TILE; o++) acc[i][o] = _mm512_dpbusd_epi32(acc[i][o], b[o], a);
    }
}

/* The sums of the lanes of four. */
VNNI static inline __m128i fold(const __m512i v[TILE]) {
    __m512i a = _mm512_add_epi32(_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[0], v[1]));
    __m512i b = _mm512_add_epi32(_mm512_unpacklo_epi32(v[2], v[3]), _mm512_unpackhi_epi32(v[2], v[3]));
    __m512i c = _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
    __m256i d = _mm256_add_epi32(_mm512_castsi512_si256(c), _mm512_extracti64x4_epi64(c, 1));
    return _mm_add_epi32(_mm256_castsi256_si128(d), _mm256_extracti128_si256(d, 1));
}

/* The last weights and rows of a tile that is not full are taken again; what they give is not used. */
VNNI static void sums_vnni(const job *t, int64_t row, int rows, int64_t out, int outs,
                           int32_t sums[TILE][TILE]) {
    const int8_t *q[TILE], *w[TILE];
    __m512i       acc[TILE][TILE];
    int64_t       k = t->a->k, j = 0;
#pragma GCC unroll 4
    for (int i = 0; i < TILE; i++) {
        q[i] = t->q + (row + (i < rows ? i : rows - 1)) * t->padded;
        w[i] = t->a->w + (out + (i < outs ? i : outs - 1)) * t->a->w_row;
        for (int o = 0; o < TILE; o++) acc[i][o] = _mm512_setzero_si512();
    }
    for (; j + WIDE <= k; j += WIDE) chunk(acc, q, w, j, ~(__mmask64)0);
    if (j < k) chunk(acc, q, w, j, ((__mmask64)1 << (k - j)) - 1);
#pragma GCC unroll 4 /* or acc would live in memory */
    for (int i = 0; i < TILE; i++) {
        __m128i all =
            _mm_sub_epi32(fold(acc[i]), _mm_set1_epi32(128 * t->sum[row + (i < rows ? i : rows - 1)]));
        _mm_storeu_si128((__m128i *)sums[i], all);
    }
}
#endif

static sums_fn *best_sums(void) {
#if defined(__AVX512F__)
    if (qpi_cpu_vnni()) return sums_vnni;
#endif
    return sums_plain;
}

/* ---- The product ---------------------------------------------------------------------------------- */

static void finish(const job *t, int64_t row, int rows, int64_t out, int outs, int32_t sums[TILE][TILE]) {
    const qk_int8_args *a = t->a;
    for (int i = 0; i < rows; i++)
        for (int o = 0; o < outs; o++)
            a->y[(row + i) * a->n + out + o] =
                t->s[row + i] * a->scale[out + o] * (float)sums[i][o] + (a->bias ? a->bias[out + o] : 0);
}

/* Blocks of rows stay in the first cache while weights pass by. */
static void multiply(void *arg, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const job *t = arg;
    sums_fn   *sums_of = best_sums();
    int64_t    m = t->a->m, block = BLOCK_BYTES / (t->padded + 1) / TILE * TILE;
    int32_t    sums[TILE][TILE];
    if (block < TILE) block = TILE;
    for (int64_t first = 0; first < m; first += block)
        for (int64_t out = begin; out < end; out += TILE)
            for (int64_t row = first; row < first + block && row < m; row += TILE) {
                int rows = m - row < TILE ? (int)(m - row) : TILE,
                    outs = end - out < TILE ? (int)(end - out) : TILE;
                sums_of(t, row, rows, out, outs, sums);
                finish(t, row, rows, out, outs, sums);
            }
}

void QK(qk_int8_product)(const qp_exec *exec, const qk_int8_args *a) {
    job   t = {.a = a, .padded = round_up(a->k, WIDE)};
    char *at = exec->scratch;
    t.q = (int8_t *)at;
    t.s = (float *)(at + a->m * t.padded);
    t.sum = (int32_t *)((char *)t.s + round_up(a->m * 4, WIDE));
    qp_parallel(exec, a->m, 1 + 16384 / (a->k + 1), quantize, &t);
    qp_parallel(exec, a->n, OUTS, multiply, &t);
}
