/* Block types as the product reads them: lines of a file's blocks become words and scales, a lane
 * for each line. What the bytes are stands in core/blocks.h. */
#include <stddef.h>

#include "core/blocks.h"
#include "kernels/block_dot.h"
#include "kernels/turn.h"

#define AT(type, field) ((int64_t)offsetof(qpi_##type, field))

/* ---- 16 bytes of every line ------------------------------------------------------------------------ */

typedef uint32_t part __attribute__((vector_size(16)));

INLINE part load_part(const char *p) {
    part x;
    memcpy(&x, p, sizeof x);
    return x;
}

/* Where lines are read, and what will be read next: fetched on the way as fast. */
typedef struct {
    const line_steps *steps;
    const char       *ahead;
} reader;

/* Into the second cache: few requests of the first can be on their way. Each line twice: of many some are dropped. */
INLINE void fetch(reader *r, int lines) {
    for (int i = 0; i < lines; i++) {
        __builtin_prefetch(r->ahead + 64 * i, 0, 2);
        __builtin_prefetch(r->ahead + 64 * i + 64, 0, 2);
    }
    r->ahead += 64 * lines;
}

/* Not by loads of 512 bits, be they broadcasts of 128: of these there are few in a cycle. */
INLINE vf vector_of(const part x[VF_LANES / 4]) {
#if VF_LANES == 16
    __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256((__m128i)x[0]), (__m128i)x[1], 1);
    __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256((__m128i)x[2]), (__m128i)x[3], 1);
    return (vf)_mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
#elif VF_LANES == 8
    return (vf)_mm256_inserti128_si256(_mm256_castsi128_si256((__m128i)x[0]), (__m128i)x[1], 1);
#else
    return (vf)x[0];
#endif
}

/* r[i] holds lines i, i + 4, .. in its parts of 128 bits. */
INLINE void load_lines(vf r[4], const char *data, const line_steps *s) {
    UNROLL for (int i = 0; i < 4; i++) {
        part x[VF_LANES / 4];
        UNROLL for (int g = 0; g < VF_LANES / 4; g++) x[g] = load_part(line_at(data, s, i + 4 * g));
        r[i] = vector_of(x);
    }
}

/* word[i]: bytes 4 i .. of 16 of each line */
INLINE void words_16(vu word[4], const char *data, reader *r) {
    fetch(r, VF_LANES / 4);
#ifdef __SSE2__
    vf x[4];
    load_lines(x, data, r->steps);
    turn_parts(x);
    for (int i = 0; i < 4; i++) word[i] = (vu)x[i];
#else
    for (int lane = 0; lane < VF_LANES; lane++) {
        part x = load_part(line_at(data, r->steps, lane));
        for (int i = 0; i < 4; i++) word[i][lane] = x[i];
    }
#endif
}

INLINE uint16_t load_2(const char *p) {
    uint16_t x;
    memcpy(&x, p, sizeof x);
    return x;
}

INLINE uint32_t load_4(const char *p) {
    uint32_t x;
    memcpy(&x, p, sizeof x);
    return x;
}

/* Four bytes of each line. */
INLINE vu word_of_lines(const char *data, reader *r) {
    part all[VF_LANES / 4];
    fetch(r, 1);
    UNROLL for (int g = 0; g < VF_LANES / 4; g++) {
        part x = {0};
        UNROLL for (int i = 0; i < 4; i++) x[i] = load_4(line_at(data, r->steps, 4 * g + i));
        all[g] = x;
    }
    return (vu)vector_of(all);
}

/* Two bytes of each line, numbers in half precision. */
INLINE vf half_of_lines(const char *data, reader *r) {
    fetch(r, 1);
#if VF_LANES == 16
    typedef uint16_t halves __attribute__((vector_size(16)));
    halves           low = {0}, high = {0};
    UNROLL for (int i = 0; i < 8; i++) {
        low[i] = load_2(line_at(data, r->steps, i));
        high[i] = load_2(line_at(data, r->steps, 8 + i));
    }
    vh x = (vh)_mm256_inserti128_si256(_mm256_castsi128_si256((__m128i)low), (__m128i)high, 1);
#else
    vh x = {0};
    UNROLL for (int i = 0; i < VF_LANES; i++) x[i] = load_2(line_at(data, r->steps, i));
#endif
    return vf_from_f16(x);
}

/* The half precision number in the low or high 16 bits of each word. */
INLINE vf half_low(vu x) { return vf_from_f16(vh_from_vu(x & 0xffffu)); }
INLINE vf half_high(vu x) { return vf_from_f16(vh_from_vu(x >> 16)); }

INLINE void put(vf *out, int word, vu bytes) { out[word] = (vf)bytes; }

#define NIBBLES 0x0f0f0f0fu
#define CRUMBS 0x03030303u
#define BITS 0x01010101u

/* Four bits of x become a bit of each byte, at `place`. */
INLINE vu spread(vu x, int place) { return ((x & 15) * 0x204081u & BITS) << place; }

INLINE vf byte_of(vu x, int i) { return vf_from_int((vi)(x >> 8 * i & 255)); }
INLINE vf signed_byte_of(vu x, int i) { return vf_from_int((vi)(x << (24 - 8 * i)) >> 24); }

/* ---- Blocks of 32 ------------------------------------------------------------------------------------ */

INLINE void unpack_q8_0(vf *out, const char *b, reader *r) {
    for (int half = 0; half < 2; half++) {
        vu w[4];
        words_16(w, b + AT(q8_0, q) + 16 * half, r);
        for (int i = 0; i < 4; i++) put(out, 4 * half + i, w[i] ^ 0x80808080u);
    }
    out[BLOCK_WORDS] = half_of_lines(b + AT(q8_0, d), r);
}

INLINE void unpack_q4_0(vf *out, const char *b, reader *r) {
    vu w[4];
    words_16(w, b + AT(q4_0, q), r);
    for (int i = 0; i < 4; i++) {
        put(out, i, w[i] & NIBBLES);
        put(out, 4 + i, w[i] & ~NIBBLES);
    }
    out[BLOCK_WORDS] = half_of_lines(b + AT(q4_0, d), r);
}

INLINE void scale_and_low(vf *out, const char *b, reader *r) {
    vu x = word_of_lines(b, r);
    out[BLOCK_WORDS] = half_low(x);
    out[BLOCK_WORDS + 1] = half_high(x);
}

INLINE void unpack_q4_1(vf *out, const char *b, reader *r) {
    vu w[4];
    words_16(w, b + AT(q4_1, q), r);
    for (int i = 0; i < 4; i++) {
        put(out, i, w[i] & NIBBLES);
        put(out, 4 + i, w[i] & ~NIBBLES);
    }
    scale_and_low(out, b + AT(q4_1, d), r);
}

INLINE void five_bits(vf *out, const char *q, const char *high, reader *r) {
    vu w[4], h = word_of_lines(high, r);
    words_16(w, q, r);
    for (int i = 0; i < 4; i++) {
        put(out, i, (w[i] & NIBBLES) | spread(h >> 4 * i, 4));
        put(out, 4 + i, (w[i] >> 4 & NIBBLES) | spread(h >> (16 + 4 * i), 4));
    }
}

INLINE void unpack_q5_0(vf *out, const char *b, reader *r) {
    five_bits(out, b + AT(q5_0, q), b + AT(q5_0, high), r);
    out[BLOCK_WORDS] = half_of_lines(b + AT(q5_0, d), r);
}

INLINE void unpack_q5_1(vf *out, const char *b, reader *r) {
    five_bits(out, b + AT(q5_1, q), b + AT(q5_1, high), r);
    scale_and_low(out, b + AT(q5_1, d), r);
}

/* 128 + the value that each nibble stands for. */
INLINE vu nl_values(vu nibbles) {
#if VF_LANES == 16
    const __m512i values = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)qpi_iq4_nl_value)) ^
                           _mm512_set1_epi8((char)128);
    return (vu)_mm512_shuffle_epi8(values, (__m512i)nibbles);
#elif VF_LANES == 8
    const __m256i values = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)qpi_iq4_nl_value)) ^
                           _mm256_set1_epi8((char)128);
    return (vu)_mm256_shuffle_epi8(values, (__m256i)nibbles);
#else
    uint8_t bytes[4 * VF_LANES];
    memcpy(bytes, &nibbles, sizeof bytes);
    for (int i = 0; i < 4 * VF_LANES; i++) bytes[i] = (uint8_t)(128 + qpi_iq4_nl_value[bytes[i] & 15]);
    memcpy(&nibbles, bytes, sizeof bytes);
    return nibbles;
#endif
}

INLINE void unpack_iq4_nl(vf *out, const char *b, reader *r) {
    vu w[4];
    words_16(w, b + AT(iq4_nl, q), r);
    for (int i = 0; i < 4; i++) {
        put(out, i, nl_values(w[i] & NIBBLES));
        put(out, 4 + i, nl_values(w[i] >> 4 & NIBBLES));
    }
    out[BLOCK_WORDS] = half_of_lines(b + AT(iq4_nl, d), r);
}

/* ---- Blocks of 256 ----------------------------------------------------------------------------------- */

/* Where there are parts, the first makes the scales of all. */

/* Of each 32: its scale, for words `odd` times as large in every second, and its low (Q4_K and Q5_K; see
 * qpi_q4_k_scale). */
INLINE void six_bits(float odd, vf *out, int step, vu header, vu s0, vu s1, vu s2) {
    vu scale[2] = {s0 & 0x3f3f3f3fu, (s2 & NIBBLES) | (s0 >> 6 & CRUMBS) << 4};
    vu offset[2] = {s1 & 0x3f3f3f3fu, (s2 >> 4 & NIBBLES) | (s1 >> 6 & CRUMBS) << 4};
    vf d = half_low(header), m = half_high(header), d_odd = d * (1 / odd);
    for (int g = 0; g < 8; g++) {
        out[g * step + BLOCK_WORDS] = (g % 2 ? d_odd : d) * byte_of(scale[g / 4], g % 4);
        out[g * step + BLOCK_WORDS + 1] = -m * byte_of(offset[g / 4], g % 4);
    }
}

INLINE void unpack_q4_k(int part, vf *out, const char *b, reader *r) {
    const int step = BLOCK_WORDS + 2;
    vu        w[4];
    if (part == 0) {
        words_16(w, b, r);
        six_bits(16, out, step, w[0], w[1], w[2], w[3]);
    }
    for (int i = 0; i < 2; i++) {
        vf *at = out + 2 * part * step;
        words_16(w, b + AT(q4_k, q) + 32 * part + 16 * i, r);
        for (int u = 0; u < 4; u++) {
            put(at, i * 4 + u, w[u] & NIBBLES);
            put(at + step, i * 4 + u, w[u] & ~NIBBLES);
        }
    }
}

INLINE void unpack_q5_k(int part, vf *out, const char *b, reader *r) {
    const int step = BLOCK_WORDS + 2;
    vu        w[4], high[4];
    if (part == 0) {
        words_16(w, b, r);
        six_bits(1, out, step, w[0], w[1], w[2], w[3]);
    }
    for (int i = 0; i < 2; i++) {
        vf *at = out + 2 * part * step;
        words_16(high, b + AT(q5_k, high) + 16 * i, r);
        words_16(w, b + AT(q5_k, q) + 32 * part + 16 * i, r);
        for (int u = 0; u < 4; u++) {
            vu h = high[u] >> 2 * part;
            put(at, i * 4 + u, (w[u] & NIBBLES) | (h & BITS) << 4);
            put(at + step, i * 4 + u, (w[u] >> 4 & NIBBLES) | (h >> 1 & BITS) << 4);
        }
    }
}

INLINE void unpack_q6_k(int half, vf *out, const char *b, reader *r) {
    const int step = BLOCK_WORDS + 2;
    vu        w[4], low[4], high[4];
    if (half == 0) {
        vf d = half_of_lines(b + AT(q6_k, d), r);
        words_16(w, b + AT(q6_k, scale), r);
        for (int g = 0; g < 16; g++)
            out[g / 2 * step + BLOCK_WORDS + g % 2] = d * signed_byte_of(w[g / 4], g % 4);
    }
    for (int i = 0; i < 2; i++) { /* 16 of each 32 */
        vf *at = out + 4 * half * step;
        words_16(high, b + AT(q6_k, high) + 32 * half + 16 * i, r);
        for (int pair = 0; pair < 2; pair++) {
            words_16(low, b + AT(q6_k, low) + 64 * half + 32 * pair + 16 * i, r);
            for (int u = 0; u < 4; u++) {
                vu h = high[u] >> 2 * pair;
                put(at + pair * step, 4 * i + u, (low[u] & NIBBLES) | (h & CRUMBS) << 4);
                put(at + (pair + 2) * step, 4 * i + u, (low[u] >> 4 & NIBBLES) | (h >> 4 & CRUMBS) << 4);
            }
        }
    }
}

INLINE void unpack_q3_k(vf *out, const char *b, reader *r) {
    const int step = BLOCK_WORDS + 2;
    vu        w[4], q[4], high[8];
    words_16(w, b + AT(q3_k, scale) - 2, r); /* the 14 bytes of scales and d are the block's last */
    vu s0 = w[0] >> 16 | w[1] << 16, s1 = w[1] >> 16 | w[2] << 16, s2 = w[2] >> 16 | w[3] << 16;
    vf d = half_high(w[3]);
    for (int g = 0; g < 16; g++) {
        vu low = (g % 8 < 4 ? s0 : s1) >> (8 * (g % 4) + g / 8 * 4) & 15,
           top = s2 >> (8 * (g % 4) + g / 4 * 2) & 3;
        out[g / 2 * step + BLOCK_WORDS + g % 2] = d * vf_from_int((vi)(low | top << 4) - 32);
    }
    words_16(high, b + AT(q3_k, high), r);
    words_16(high + 4, b + AT(q3_k, high) + 16, r);
    for (int i = 0; i < 4; i++) {
        words_16(q, b + AT(q3_k, q) + 16 * i, r);
        for (int g = 0; g < 4; g++)
            for (int u = 0; u < 4; u++)
                put(out + (i / 2 * 4 + g) * step, i % 2 * 4 + u,
                    (q[u] >> 2 * g & CRUMBS) | (high[i % 2 * 4 + u] >> (i / 2 * 4 + g) & BITS) << 2);
    }
}

INLINE void unpack_q2_k(vf *out, const char *b, reader *r) {
    const int step = BLOCK_WORDS + 4;
    vu        w[4], q[4], header = word_of_lines(b + AT(q2_k, d), r);
    vf        d = half_low(header), m = half_high(header);
    words_16(w, b + AT(q2_k, scale), r);
    for (int g = 0; g < 16; g++) {
        vf *at = out + g / 2 * step + BLOCK_WORDS + g % 2;
        at[0] = d * byte_of(w[g / 4] & NIBBLES, g % 4);
        at[2] = -m * byte_of(w[g / 4] >> 4 & NIBBLES, g % 4);
    }
    for (int i = 0; i < 4; i++) {
        words_16(q, b + AT(q2_k, q) + 16 * i, r);
        for (int g = 0; g < 4; g++)
            for (int u = 0; u < 4; u++)
                put(out + (i / 2 * 4 + g) * step, i % 2 * 4 + u, q[u] >> 2 * g & CRUMBS);
    }
}

/* ---- The table ------------------------------------------------------------------------------------------ */

/* name, values, parts that are unpacked one after another, parts of 32 with a d, zero, second (see block_parts.h), low */
#define EACH_TYPE(X) \
    X(Q8_0, q8_0, 32, 1, 1, 128, 1, false) \
    X(Q4_0, q4_0, 32, 1, 1, 8, 16, false) \
    X(Q4_1, q4_1, 32, 1, 1, 0, 16, true) \
    X(Q5_0, q5_0, 32, 1, 1, 16, 1, false) \
    X(Q5_1, q5_1, 32, 1, 1, 0, 1, true) \
    X(IQ4_NL, iq4_nl, 32, 1, 1, 128, 1, false) \
    X(Q2_K, q2_k, 256, 1, 2, 0, 1, true) \
    X(Q3_K, q3_k, 256, 1, 2, 4, 1, false) \
    X(Q4_K, q4_k, 256, 4, 1, 0, 1, true) \
    X(Q5_K, q5_k, 256, 4, 1, 0, 1, true) \
    X(Q6_K, q6_k, 256, 2, 2, 32, 1, false)

#define UNPACK_1(name, part, out, data, r) unpack_##name(out, data, r)
#define UNPACK_2(name, part, out, data, r) unpack_##name(part, out, data, r)
#define UNPACK_4 UNPACK_2

#ifdef __AVX2__
#define EACH UNROLL
#else /* small before fast */
#define EACH
#endif

#define DEFINE(type, name, values, pieces, parts, zero, second, low) \
    enum { \
        step_##name = BLOCK_WORDS + parts * (low ? 2 : 1), \
        count_##name = values / BLOCK_VALUES, \
        bytes_##name = sizeof(qpi_##name) \
    }; \
    static void all_##name(vf *out, const char *data, const line_steps *s, int64_t count, const char *ahead) { \
        for (int64_t i = 0; i < count; i++, data += bytes_##name, out += count_##name * step_##name) { \
            reader r = {s, ahead + i * VF_LANES * bytes_##name}; \
            EACH for (int part = 0; part < pieces; part++) UNPACK_##pieces(name, part, out, data, &r); \
        } \
    } \
    TARGET static void one_##name(float *acc, const block_row *x, const char *data, const line_steps *s, \
                                  int64_t count, const char *ahead) { \
        vf sum[BLOCK_ROWS][BLOCK_PANELS] = {{{0}}}, w[count_##name * step_##name]; \
        for (int64_t i = 0; i < count; i++, data += bytes_##name) { \
            reader r = {s, ahead + i * VF_LANES * bytes_##name}; \
            EACH for (int part = 0; part < pieces; part++) { \
                UNPACK_##pieces(name, part, w, data, &r); \
                EACH for (int b = 0; b < count_##name / pieces; b++, x++) \
                    add_32(1, 1, parts, zero != 0, low, x, 0, \
                           w + (part * (count_##name / pieces) + b) * step_##name, 0, sum); \
            } \
        } \
        vf_store(acc, sum[0][0]); \
    }
EACH_TYPE(DEFINE)

const block_type *QK(block_type_of)(qp_dtype type) {
#define ENTRY(type, name, values, pieces, parts, zero, second, low) \
    case QP_##type: { \
        static const block_type t = {values, sizeof(qpi_##name), parts,     zero, second, \
                                     low,    all_##name,         one_##name}; \
        return &t; \
    }
    switch (type) {
        EACH_TYPE(ENTRY)
    default: return NULL;
    }
}
