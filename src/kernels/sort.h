/* Sorting f32 by keys: a key is a 32-bit pattern that orders like the float, above the element's
 * index, so that any order of keys is stable and ties stand in order of index. */
#ifndef QUIPU_KERNELS_SORT_H
#define QUIPU_KERNELS_SORT_H

#include <stdint.h>
#include <string.h>

/* Ascending: negative numbers reversed, -0 equal to 0, every NaN last; otherwise the complement. */
static inline uint32_t qk_sort_bits(float x, bool descending) {
    uint32_t u;
    x += 0.0f; /* -0 becomes 0 */
    memcpy(&u, &x, sizeof u);
    u = x != x ? UINT32_MAX : u >> 31 ? ~u : u | 0x80000000u;
    return descending ? ~u : u;
}

static inline uint64_t qk_sort_key(float x, int64_t index, bool descending) {
    return (uint64_t)qk_sort_bits(x, descending) << 32 | (uint32_t)index;
}

static inline void qk_sort_keys_small(uint64_t *keys, int64_t n) {
    for (int64_t i = 1; i < n; i++) {
        uint64_t key = keys[i];
        int64_t  j = i;
        for (; j > 0 && keys[j - 1] > key; j--) keys[j] = keys[j - 1];
        keys[j] = key;
    }
}

/* Keys by their upper halves, least significant byte first; gives the sorted array, which is keys
 * or spare. */
static inline uint64_t *qk_sort_keys(uint64_t *keys, uint64_t *spare, int64_t n) {
    int64_t counts[4][256] = {{0}};
    if (n <= 48) {
        qk_sort_keys_small(keys, n);
        return keys;
    }
    for (int64_t i = 0; i < n; i++)
        for (int b = 0; b < 4; b++) counts[b][keys[i] >> (32 + 8 * b) & 255]++;
    for (int b = 0; b < 4; b++) {
        int shift = 32 + 8 * b;
        if (counts[b][keys[0] >> shift & 255] == n) continue; /* all alike */
        int64_t at = 0;
        for (int v = 0; v < 256; v++) {
            int64_t count = counts[b][v];
            counts[b][v] = at;
            at += count;
        }
        for (int64_t i = 0; i < n; i++) spare[counts[b][keys[i] >> shift & 255]++] = keys[i];
        uint64_t *sorted = spare;
        spare = keys;
        keys = sorted;
    }
    return keys;
}

#endif
