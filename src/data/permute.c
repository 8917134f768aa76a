/* A permutation of the smallest power of two that is not below n, applied again until the
 * result falls below n ("cycle walking", Black & Rogaway 2002). Its rounds are invertible on
 * the low bits: an odd multiple plus a number, then a shift by which high bits reach low ones. */
#include "data/permute.h"

#include "core/core.h"

#define ROUNDS 5
#define STREAM_ORDER UINT64_C(0x6f72646572) /* apart from all other uses of the seed */
#define STREAM_DRAW UINT64_C(0x64726177)

typedef struct {
    uint64_t factor, addend;
} round_key;

static void make_keys(uint64_t seed, uint64_t epoch, round_key keys[ROUNDS]) {
    for (int r = 0; r < ROUNDS; r++) {
        uint32_t words[4];
        qpi_philox(seed, STREAM_ORDER + (uint64_t)r, epoch, words);
        keys[r].factor = ((uint64_t)words[0] << 32 | words[1]) | 1;
        keys[r].addend = (uint64_t)words[2] << 32 | words[3];
    }
}

static uint64_t scramble(uint64_t x, int bits, const round_key keys[ROUNDS]) {
    uint64_t mask = bits == 64 ? UINT64_MAX : (UINT64_C(1) << bits) - 1;
    for (int r = 0; r < ROUNDS; r++) {
        x = (x * keys[r].factor + keys[r].addend) & mask;
        x ^= x >> ((bits + 1) / 2 + (r & 1));
    }
    return x;
}

uint64_t qpi_permute(uint64_t n, uint64_t seed, uint64_t epoch, uint64_t i) {
    if (n < 2) return 0;
    round_key keys[ROUNDS];
    make_keys(seed, epoch, keys);
    int bits = 64 - __builtin_clzll((unsigned long long)(n - 1));
    do i = scramble(i, bits, keys);
    while (i >= n);
    return i;
}

uint64_t qpi_draw(uint64_t n, uint64_t seed, uint64_t epoch) {
    uint32_t words[4];
    qpi_philox(seed, STREAM_DRAW, epoch, words);
    return ((uint64_t)words[0] << 32 | words[1]) % n;
}
