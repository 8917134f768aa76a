/* Rows of blocks to floats and back.
 *
 * Rounding. Blocks of 32 take their scale from the largest element or the range. Blocks of 256 look
 * for the scale (and offset) of each group that minimises a weighted error: candidates around the
 * plain one, each followed by least squares for the integers that it gave; then the groups' scales
 * are rounded themselves and the integers formed anew with what they have become. Sums are f32 in
 * order of the elements: files come out byte for byte as ggml writes them.
 */
#include "core/blocks.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum {
#define X(name, text, block, bytes) QPI_BLOCK_##name = block, QPI_BYTES_##name = bytes,
    QP_BLOCK_DTYPES(X)
#undef X
};
#define CHECK(T, name) _Static_assert(sizeof(qpi_##name) == QPI_BYTES_##T, "bytes of the table");
QPI_EACH_BLOCK_TYPE(CHECK)
#undef CHECK

/* ---- To floats ---------------------------------------------------------------------------------- */

float qpi_blocks_at(qp_dtype t, const void *blocks, int64_t i) {
    switch (t) {
#define CASE(T, name) \
    case QP_##T: \
        return qpi_##name##_at((const qpi_##name *)blocks + i / QPI_BLOCK_##T, (int)(i % QPI_BLOCK_##T));
        QPI_EACH_BLOCK_TYPE(CASE)
#undef CASE
    default: return 0;
    }
}

void qpi_blocks_decode(qp_dtype t, const void *blocks, int64_t n, float *restrict x) {
    switch (t) {
#define CASE(T, name) \
    case QP_##T: \
        for (const qpi_##name *restrict b = blocks; n > 0; b++, n -= QPI_BLOCK_##T) \
            for (int i = 0; i < QPI_BLOCK_##T; i++) *x++ = qpi_##name##_at(b, i); \
        break;
        QPI_EACH_BLOCK_TYPE(CASE)
#undef CASE
    default: break;
    }
}

/* ---- Rounding ----------------------------------------------------------------------------------- */

#define TINY 1e-15f /* groups below it are zero */

static inline int clamp(int x, int low, int high) { return x < low ? low : x > high ? high : x; }

/* To the nearest integer, ties to even; any bits for what is beyond 2^22. */
static inline int nearest(float x) {
    float   y = x + 0x1.8p23f;
    int32_t bits;
    memcpy(&bits, &y, sizeof bits);
    return (bits & 0x7fffff) - 0x400000;
}

/* Cut off behind the point. */
static inline int whole(float x, int low, int high) {
    return x >= (float)high ? high : x > (float)low ? (int)x : low;
}

static inline float inverse(float x) { return x != 0 ? 1.0f / x : 0.0f; }

/* The element that is largest without its sign. */
static float largest(const float *x, int n) {
    float most = 0;
    for (int i = 0; i < n; i++)
        if (fabsf(x[i]) > fabsf(most)) most = x[i];
    return most;
}

static void range(const float *x, int n, float *low, float *high) {
    *low = FLT_MAX;
    *high = -FLT_MAX;
    for (int i = 0; i < n; i++) {
        if (x[i] < *low) *low = x[i];
        if (x[i] > *high) *high = x[i];
    }
}

/* ---- Blocks of 32 -------------------------------------------------------------------------------- */

static void pack_32(const int *q, uint8_t *low, uint8_t *high) {
    for (int i = 0; i < 16; i++) low[i] = (uint8_t)((q[i] & 15) | (q[i + 16] & 15) << 4);
    for (int i = 0; high && i < 32; i++)
        high[i / 8] = (uint8_t)((i % 8 ? high[i / 8] : 0) | q[i] >> 4 << i % 8);
}

/* x = d (q - half), q in 0 .. 2 half - 1 */
static uint16_t round_signed(const float *x, int half, int *q) {
    float d = largest(x, 32) / (float)-half, id = inverse(d);
    for (int i = 0; i < 32; i++) q[i] = whole(x[i] * id + ((float)half + 0.5f), 0, 2 * half - 1);
    return qpi_f32_to_f16(d);
}

/* x = d q + m, q in 0 .. most */
static uint16_t round_range(const float *x, int most, int *q, uint16_t *m) {
    float low, high;
    range(x, 32, &low, &high);
    float d = (high - low) / (float)most, id = inverse(d);
    for (int i = 0; i < 32; i++) q[i] = whole((x[i] - low) * id + 0.5f, 0, most);
    *m = qpi_f32_to_f16(low);
    return qpi_f32_to_f16(d);
}

static void encode_q8_0(const float *x, qpi_q8_0 *b) {
    float d = fabsf(largest(x, 32)) / 127, id = inverse(d);
    b->d = qpi_f32_to_f16(d);
    for (int i = 0; i < 32; i++) b->q[i] = (int8_t)whole(roundf(x[i] * id), -127, 127);
}
static void encode_q4_0(const float *x, qpi_q4_0 *b) {
    int q[32];
    b->d = round_signed(x, 8, q);
    pack_32(q, b->q, NULL);
}
static void encode_q4_1(const float *x, qpi_q4_1 *b) {
    int q[32];
    b->d = round_range(x, 15, q, &b->m);
    pack_32(q, b->q, NULL);
}
static void encode_q5_0(const float *x, qpi_q5_0 *b) {
    int q[32];
    b->d = round_signed(x, 16, q);
    pack_32(q, b->q, b->high);
}
static void encode_q5_1(const float *x, qpi_q5_1 *b) {
    int q[32];
    b->d = round_range(x, 31, q, &b->m);
    pack_32(q, b->q, b->high);
}

/* The index of the value next to x; of two the upper one. */
static int next_value(float x) {
    const int8_t *v = qpi_iq4_nl_value;
    int           i = 1;
    if (x <= v[0]) return 0;
    while (i < 15 && x >= v[i]) i++;
    return x - v[i - 1] < v[i] - x ? i - 1 : i;
}

/* Sums for least squares of x = d value, weighted by x^2, with integers from x times id. */
static void fit_values(const float *x, float id, float *sum_qx, float *sum_qq) {
    *sum_qx = *sum_qq = 0;
    for (int i = 0; i < 32; i++) {
        float q = qpi_iq4_nl_value[next_value(id * x[i])], w = x[i] * x[i];
        *sum_qx += w * q * x[i];
        *sum_qq += w * q * q;
    }
}

static void encode_iq4_nl(const float *x, qpi_iq4_nl *b) {
    float most = largest(x, 32), d = 0, best = 0, qx, qq;
    int   q[32];
    if (fabsf(most) >= TINY) {
        fit_values(x, 1 / (-most / (float)qpi_iq4_nl_value[0]), &qx, &qq);
        d = qq > 0 ? qx / qq : 0;
        best = d * qx;
        for (int step = -7; step <= 7; step++) {
            fit_values(x, (float)(step + qpi_iq4_nl_value[0]) / most, &qx, &qq);
            if (qq > 0 && qx * qx > best * qq) {
                d = qx / qq;
                best = d * qx;
            }
        }
    }
    b->d = qpi_f32_to_f16(d);
    for (int i = 0; i < 32; i++) q[i] = next_value(inverse(d) * x[i]);
    pack_32(q, b->q, NULL);
}

/* ---- Groups of blocks of 256: scales alone --------------------------------------------------------- */

/* x = scale (q - half) of 16 elements, weighted by x^2: the best of 19 candidates. */
static float fit_scale(const float *x, int half, int *q) {
    float most = largest(x, 16), scale = 0, best = 0;
    if (fabsf(most) < TINY) {
        memset(q, 0, 16 * sizeof *q);
        return 0;
    }
    for (int k = 0; k < 19; k++) { /* 0, then -9 .. 9 without 0 */
        int   step = k == 0 ? 0 : k <= 9 ? k - 10 : k - 9, try[16];
        float id = -((float)half + 0.1f * (float)step) / most, lx = 0, ll = 0;
        for (int i = 0; i < 16; i++) {
            int   l = clamp(nearest(id * x[i]), -half, half - 1);
            float w = x[i] * x[i];
            lx += w * x[i] * (float)l;
            ll += w * (float)l * (float)l;
            try[i] = l + half;
        }
        if (k > 0 && !(ll > 0 && lx * lx > best * ll)) continue;
        scale = ll != 0 ? lx / ll : 0;
        best = scale * lx;
        memcpy(q, try, sizeof try);
    }
    return scale;
}

/* The same for few integers: they are changed one by one as long as that helps, at most 5 rounds. */
static float fit_scale_stepwise(const float *x, int half, int *q) {
    float most = largest(x, 16), lx = 0, ll = 0;
    if (fabsf(most) < TINY) {
        memset(q, 0, 16 * sizeof *q);
        return 0;
    }
    float id = (float)-half / most;
    for (int i = 0; i < 16; i++) {
        float w = x[i] * x[i];
        q[i] = clamp(nearest(id * x[i]), -half, half - 1);
        lx += w * x[i] * (float)q[i];
        ll += w * (float)q[i] * (float)q[i];
    }
    bool changed = true;
    for (int round = 0; round < 5 && changed; round++) {
        changed = false;
        for (int i = 0; i < 16; i++) {
            float w = x[i] * x[i], rest = lx - w * x[i] * (float)q[i];
            if (!(rest > 0)) continue;
            float squares = ll - w * (float)q[i] * (float)q[i];
            int   l = clamp(nearest(x[i] * squares / rest), -half, half - 1);
            if (l == q[i]) continue;
            rest += w * x[i] * (float)l;
            squares += w * (float)l * (float)l;
            if (!(squares > 0 && rest * rest * ll > lx * lx * squares)) continue;
            q[i] = l;
            lx = rest;
            ll = squares;
            changed = true;
        }
    }
    for (int i = 0; i < 16; i++) q[i] += half;
    return ll > 0 ? lx / ll : 0;
}

/* ---- Groups of blocks of 256: scales and offsets ------------------------------------------------------ */

typedef struct {
    int   n, most;     /* elements; integers are 0 .. most */
    float first, step; /* candidates: ranges that stretch over most + first + step i integers */
    int   steps;
    bool  absolute; /* the error is |difference|, not its square */
} fit;

static float error_of(const fit *f, const float *x, const float *w, const int *q, float scale, float low) {
    float sum = 0;
    for (int i = 0; i < f->n; i++) {
        float difference = scale * (float)q[i] + low - x[i];
        sum += w[i] * (f->absolute ? fabsf(difference) : difference * difference);
    }
    return sum;
}

/* Least squares for scale and low, low <= 0, with the integers q; false if they say nothing. */
static bool solve(const fit *f, const float *x, const float *w, const int *q, float sum_w, float sum_x,
                  float *scale, float *low) {
    float l = 0, ll = 0, lx = 0;
    for (int i = 0; i < f->n; i++) {
        l += w[i] * (float)q[i];
        ll += w[i] * (float)q[i] * (float)q[i];
        lx += w[i] * (float)q[i] * x[i];
    }
    float determinant = sum_w * ll - l * l;
    if (!(determinant > 0)) return false;
    *scale = (sum_w * lx - sum_x * l) / determinant;
    *low = (ll * sum_x - l * lx) / determinant;
    if (*low > 0) {
        *low = 0;
        *scale = lx / ll;
    }
    return true;
}

/* x = scale q - offset with weights w; returns scale, offset >= 0. */
static float fit_affine(const fit *f, const float *x, const float *w, int *q, float *offset) {
    float low = x[0], high = x[0], sum_w = w[0], sum_x = w[0] * x[0];
    int   try[32];
    for (int i = 1; i < f->n; i++) {
        if (x[i] < low) low = x[i];
        if (x[i] > high) high = x[i];
        sum_w += w[i];
        sum_x += w[i] * x[i];
    }
    if (low > 0) low = 0;
    *offset = -low;
    if (high == low) {
        memset(q, 0, (size_t)f->n * sizeof *q);
        return 0;
    }
    float id = (float)f->most / (high - low), scale = 1 / id, best = 0;
    for (int k = -1; k <= f->steps; k++) { /* -1: the range itself */
        float s = scale, b = low;
        if (k >= 0) id = (f->first + f->step * (float)k + (float)f->most) / (high - low);
        for (int i = 0; i < f->n; i++) try[i] = clamp(nearest(id * (x[i] - low)), 0, f->most);
        if (k >= 0 && !solve(f, x, w, try, sum_w, sum_x, &s, &b)) continue;
        float error = error_of(f, x, w, try, s, b);
        if (k >= 0 && !(error < best)) continue;
        best = error;
        scale = s;
        low = b;
        memcpy(q, try, (size_t)f->n * sizeof *q);
    }
    *offset = -low;
    return scale;
}

/* ---- Blocks of 256 ---------------------------------------------------------------------------------- */

static void pack_crumbs(const int *q, uint8_t *to) {
    memset(to, 0, 64);
    for (int i = 0; i < 256; i++) to[i / 128 * 32 + i % 32] |= (uint8_t)((q[i] & 3) << i % 128 / 32 * 2);
}
static void pack_nibbles(const int *q, uint8_t *to) {
    memset(to, 0, 128);
    for (int i = 0; i < 256; i++) to[i / 64 * 32 + i % 32] |= (uint8_t)((q[i] & 15) << i / 32 % 2 * 4);
}
static void pack_high_bits(const int *q, int bit, uint8_t *to) {
    memset(to, 0, 32);
    for (int i = 0; i < 256; i++) to[i % 32] |= (uint8_t)((q[i] >> bit & 1) << i / 32);
}

/* q = x / d to the nearest, for a group whose scale is not 0; otherwise q stays. */
static void round_group(const float *x, int n, float d, float offset, int low, int high, int *q) {
    for (int i = 0; d != 0 && i < n; i++) q[i] = clamp(nearest((x[i] + offset) / d), low, high) - low;
}

static float most_of(const float *x, int n) {
    float most = 0;
    for (int i = 0; i < n; i++)
        if (x[i] > most) most = x[i];
    return most;
}

static void encode_q2_k(const float *x, qpi_q2_k *b) {
    static const fit f = {16, 3, -0.5f, 0.1f, 15, true};
    float            w[16], scale[16], offset[16];
    int              q[256];
    for (int g = 0; g < 16; g++) {
        for (int i = 0; i < 16; i++) w[i] = fabsf(x[16 * g + i]);
        scale[g] = fit_affine(&f, x + 16 * g, w, q + 16 * g, &offset[g]);
    }
    float s = most_of(scale, 16), m = most_of(offset, 16), is = s > 0 ? 15 / s : 0, im = m > 0 ? 15 / m : 0;
    b->d = qpi_f32_to_f16(s / 15);
    b->m = qpi_f32_to_f16(m / 15);
    for (int g = 0; g < 16; g++) {
        b->scale[g] = (uint8_t)(nearest(is * scale[g]) | nearest(im * offset[g]) << 4);
        round_group(x + 16 * g, 16, qpi_f16_to_f32(b->d) * (float)(b->scale[g] & 15),
                    qpi_f16_to_f32(b->m) * (float)(b->scale[g] >> 4), 0, 3, q + 16 * g);
    }
    pack_crumbs(q, b->q);
}

static void encode_q3_k(const float *x, qpi_q3_k *b) {
    float scale[16];
    int   q[256];
    for (int g = 0; g < 16; g++) scale[g] = fit_scale_stepwise(x + 16 * g, 4, q + 16 * g);
    float most = largest(scale, 16), id = most != 0 ? -32 / most : 0;
    b->d = qpi_f32_to_f16(inverse(id));
    memset(b->scale, 0, sizeof b->scale);
    for (int g = 0; g < 16 && most != 0; g++) {
        int l = clamp(nearest(id * scale[g]), -32, 31) + 32;
        b->scale[g % 8] |= (uint8_t)((l & 15) << g / 8 * 4);
        b->scale[8 + g % 4] |= (uint8_t)(l >> 4 << g / 4 * 2);
    }
    for (int g = 0; g < 16; g++)
        round_group(x + 16 * g, 16, qpi_f16_to_f32(b->d) * (float)qpi_q3_k_scale(b->scale, g), 0, -4, 3,
                    q + 16 * g);
    pack_crumbs(q, b->q);
    pack_high_bits(q, 2, b->high);
}

/* The groups' scales and offsets of Q4_K and Q5_K, and the integers. */
static void round_groups_32(const fit *f, const float *x, uint16_t *d, uint16_t *m, uint8_t *packed, int *q) {
    float w[32], scale[8], offset[8];
    for (int g = 0; g < 8; g++) {
        const float *y = x + 32 * g;
        float        squares = 0;
        for (int i = 0; i < 32; i++) squares += y[i] * y[i];
        for (int i = 0; i < 32; i++) w[i] = sqrtf(squares / 32) + fabsf(y[i]);
        scale[g] = fit_affine(f, y, w, q + 32 * g, &offset[g]);
    }
    float s = most_of(scale, 8), o = most_of(offset, 8), is = s > 0 ? 63 / s : 0, io = o > 0 ? 63 / o : 0;
    *d = qpi_f32_to_f16(s / 63);
    *m = qpi_f32_to_f16(o / 63);
    memset(packed, 0, 12);
    for (int g = 0; g < 8; g++) {
        int ls = nearest(is * scale[g]) & 255, lo = nearest(io * offset[g]) & 255;
        ls = ls > 63 ? 63 : ls;
        lo = lo > 63 ? 63 : lo;
        if (g < 4) {
            packed[g] = (uint8_t)ls;
            packed[g + 4] = (uint8_t)lo;
        } else {
            packed[g + 4] = (uint8_t)((ls & 15) | (lo & 15) << 4);
            packed[g - 4] |= (uint8_t)(ls >> 4 << 6);
            packed[g] |= (uint8_t)(lo >> 4 << 6);
        }
    }
    for (int g = 0; g < 8; g++)
        round_group(x + 32 * g, 32, qpi_f16_to_f32(*d) * (float)qpi_q4_k_scale(packed, g),
                    qpi_f16_to_f32(*m) * (float)qpi_q4_k_offset(packed, g), 0, f->most, q + 32 * g);
}

static void encode_q4_k(const float *x, qpi_q4_k *b) {
    static const fit f = {32, 15, -1, 0.1f, 20, false};
    int              q[256];
    round_groups_32(&f, x, &b->d, &b->m, b->scale, q);
    pack_nibbles(q, b->q);
}

static void encode_q5_k(const float *x, qpi_q5_k *b) {
    static const fit f = {32, 31, -0.5f, 0.1f, 15, false};
    int              q[256];
    round_groups_32(&f, x, &b->d, &b->m, b->scale, q);
    pack_nibbles(q, b->q);
    pack_high_bits(q, 4, b->high);
}

static void encode_q6_k(const float *x, qpi_q6_k *b) {
    float scale[16];
    int   q[256];
    for (int g = 0; g < 16; g++) scale[g] = fit_scale(x + 16 * g, 32, q + 16 * g);
    float most = largest(scale, 16), id = -128 / most;
    memset(b, 0, sizeof *b);
    if (fabsf(most) < TINY) return;
    b->d = qpi_f32_to_f16(1 / id);
    for (int g = 0; g < 16; g++) {
        int l = nearest(id * scale[g]);
        b->scale[g] = (int8_t)(l > 127 ? 127 : l);
        round_group(x + 16 * g, 16, qpi_f16_to_f32(b->d) * (float)b->scale[g], 0, -32, 31, q + 16 * g);
    }
    for (int i = 0; i < 256; i++) {
        int quarter = i % 128 / 32;
        b->low[i / 128 * 64 + quarter % 2 * 32 + i % 32] |= (uint8_t)((q[i] & 15) << quarter / 2 * 4);
        b->high[i / 128 * 32 + i % 32] |= (uint8_t)(q[i] >> 4 << quarter * 2);
    }
}

void qpi_blocks_encode(qp_dtype t, const float *x, int64_t n, void *blocks) {
    switch (t) {
#define CASE(T, name) \
    case QP_##T: \
        for (qpi_##name *b = blocks; n > 0; n -= QPI_BLOCK_##T, x += QPI_BLOCK_##T) encode_##name(x, b++); \
        break;
        QPI_EACH_BLOCK_TYPE(CASE)
#undef CASE
    default: break;
    }
}
