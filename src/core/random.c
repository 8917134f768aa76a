#include "core/core.h"

static void multiply(uint32_t a, uint32_t b, uint32_t *high, uint32_t *low) {
    uint64_t p = (uint64_t)a * b;
    *high = (uint32_t)(p >> 32);
    *low = (uint32_t)p;
}

void qpi_philox(uint64_t seed, uint64_t stream, uint64_t index, uint32_t out[4]) {
    uint32_t c0 = (uint32_t)index, c1 = (uint32_t)(index >> 32), c2 = (uint32_t)stream,
             c3 = (uint32_t)(stream >> 32);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint32_t h0, l0, h1, l1;
        multiply(0xD2511F53u, c0, &h0, &l0);
        multiply(0xCD9E8D57u, c2, &h1, &l1);
        c0 = h1 ^ c1 ^ k0;
        c1 = l1;
        c2 = h0 ^ c3 ^ k1;
        c3 = l0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

uint64_t qp_random_position(const qp_ctx *ctx) { return ctx ? ctx->random_position : 0; }

void qp_set_random(qp_ctx *ctx, uint64_t seed, uint64_t position) {
    if (!ctx) return;
    ctx->seed = seed;
    ctx->random_position = position;
}

qp_tensor qpi_random_key(qp_ctx *ctx) {
    int64_t key[2] = {(int64_t)ctx->seed, (int64_t)ctx->random_position++};
    return qp_from(ctx, QP_I64, 1, (int64_t[]){2}, key);
}
