#include "format/checksum.h"

#include <string.h>

#define P1 UINT64_C(0x9E3779B185EBCA87)
#define P2 UINT64_C(0xC2B2AE3D27D4EB4F)
#define P3 UINT64_C(0x165667B19E3779F9)
#define P4 UINT64_C(0x85EBCA77C2B2AE63)
#define P5 UINT64_C(0x27D4EB2F165667C5)

static uint64_t rotate(uint64_t x, int by) { return x << by | x >> (64 - by); }

static uint64_t load64(const uint8_t *p) {
    uint64_t x;
    memcpy(&x, p, sizeof x);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    x = __builtin_bswap64(x);
#endif
    return x;
}

static uint64_t load32(const uint8_t *p) {
    return (uint64_t)p[0] | (uint64_t)p[1] << 8 | (uint64_t)p[2] << 16 | (uint64_t)p[3] << 24;
}

static uint64_t mix_lane(uint64_t lane, uint64_t word) { return rotate(lane + word * P2, 31) * P1; }

static void start_lanes(uint64_t lanes[4], uint64_t seed) {
    lanes[0] = seed + P1 + P2;
    lanes[1] = seed + P2;
    lanes[2] = seed;
    lanes[3] = seed - P1;
}

static void mix_stripes(uint64_t lanes[4], const uint8_t *p, size_t stripes) {
    uint64_t a = lanes[0], b = lanes[1], c = lanes[2], d = lanes[3];
    for (; stripes; stripes--, p += 32) {
        a = mix_lane(a, load64(p));
        b = mix_lane(b, load64(p + 8));
        c = mix_lane(c, load64(p + 16));
        d = mix_lane(d, load64(p + 24));
    }
    lanes[0] = a, lanes[1] = b, lanes[2] = c, lanes[3] = d;
}

static uint64_t finish(const uint64_t lanes[4], uint64_t seed, uint64_t total, const uint8_t *p, size_t n) {
    uint64_t h = seed + P5;
    if (total >= 32) {
        h = rotate(lanes[0], 1) + rotate(lanes[1], 7) + rotate(lanes[2], 12) + rotate(lanes[3], 18);
        for (int i = 0; i < 4; i++) h = (h ^ mix_lane(0, lanes[i])) * P1 + P4;
    }
    h += total;
    for (; n >= 8; n -= 8, p += 8) h = rotate(h ^ mix_lane(0, load64(p)), 27) * P1 + P4;
    if (n >= 4) {
        h = rotate(h ^ load32(p) * P1, 23) * P2 + P3;
        n -= 4, p += 4;
    }
    for (; n; n--, p++) h = rotate(h ^ *p * P5, 11) * P1;
    h = (h ^ h >> 33) * P2;
    h = (h ^ h >> 29) * P3;
    return h ^ h >> 32;
}

void qpi_checksum_begin(qpi_checksum *c, uint64_t seed) {
    *c = (qpi_checksum){.seed = seed};
    start_lanes(c->lanes, seed);
}

void qpi_checksum_add(qpi_checksum *c, const void *data, size_t n) {
    const uint8_t *p = data;
    size_t         held = c->total % 32;
    c->total += n;
    if (held + n < 32) {
        if (n) memcpy(c->tail + held, p, n);
        return;
    }
    if (held) {
        memcpy(c->tail + held, p, 32 - held);
        mix_stripes(c->lanes, c->tail, 1);
        p += 32 - held, n -= 32 - held;
    }
    mix_stripes(c->lanes, p, n / 32);
    if (n % 32) memcpy(c->tail, p + n / 32 * 32, n % 32);
}

uint64_t qpi_checksum_end(const qpi_checksum *c) {
    return finish(c->lanes, c->seed, c->total, c->tail, c->total % 32);
}

uint64_t qpi_checksum_of(uint64_t seed, const void *data, size_t n) {
    uint64_t       lanes[4];
    const uint8_t *p = data;
    start_lanes(lanes, seed);
    mix_stripes(lanes, p, n / 32);
    return finish(lanes, seed, n, p + n / 32 * 32, n % 32);
}
