/* Philox4x32-10 (Salmon et al. 2011) for whole blocks of elements: 64 elements take 16 counters.
 * Element e of a random call takes word e % 64 / 16 of counter e / 64 * 16 + e % 16, so that
 * words come out in the order of elements, whatever the vector length. */
#ifndef QUIPU_KERNELS_PHILOX_H
#define QUIPU_KERNELS_PHILOX_H

#include "core/core.h"
#include "core/isa.h"
#include "core/simd.h"

#define QK_RANDOM_BLOCK 64

/* One element's word: the definition. key: {seed, position} of the call. */
static inline uint32_t qk_random_word(const int64_t *key, int64_t element) {
    uint32_t word[4];
    qpi_philox((uint64_t)key[0], (uint64_t)key[1], (uint64_t)(element / 64 * 16 + element % 16), word);
    return word[element % 64 / 16];
}

/* The words of elements 64 block .. 64 block + 63. */
static inline void qk_random_block(const int64_t *key, int64_t block, uint32_t *words) {
    uint64_t first = (uint64_t)block * 16;
    for (int lane = 0; lane < 16; lane += VF_LANES) {
        vu       c0 = (vu)vi_iota() + (uint32_t)(first + (uint32_t)lane), c1 = vu_set1((uint32_t)(first >> 32));
        vu       c2 = vu_set1((uint32_t)key[1]), c3 = vu_set1((uint32_t)((uint64_t)key[1] >> 32));
        uint32_t k0 = (uint32_t)key[0], k1 = (uint32_t)((uint64_t)key[0] >> 32);
        for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
            vu h0, l0, h1, l1;
            vu_mul_wide(c0, 0xD2511F53u, &h0, &l0);
            vu_mul_wide(c2, 0xCD9E8D57u, &h1, &l1);
            c0 = h1 ^ c1 ^ k0;
            c1 = l1;
            c2 = h0 ^ c3 ^ k1;
            c3 = l0;
        }
        vi_store((int32_t *)words + lane, (vi)c0);
        vi_store((int32_t *)words + lane + 16, (vi)c1);
        vi_store((int32_t *)words + lane + 32, (vi)c2);
        vi_store((int32_t *)words + lane + 48, (vi)c3);
    }
}

/* The key as an input: i64 [2]. */
static inline void qk_read_key(const qp_view *v, int64_t *key) {
    for (int i = 0; i < 2; i++) key[i] = ((const int64_t *)v->data)[i * v->stride[0]];
}
static inline bool qk_check_key(const qp_call *c, int input) {
    const qp_view *v = &c->in[input];
    if (v->dtype == QP_I64 && v->ndim == 1 && v->shape[0] == 2) return true;
    qp_call_fail(c, QP_ERR_ARGUMENT, "input %d is no key: expected i64 [2]", input);
    return false;
}

#endif
