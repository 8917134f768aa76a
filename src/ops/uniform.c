/* In place: every element the upper 24 bits of its random word times 2^-24, in [0, 1); fewer bits
 * in types that would round them to 1. No gradient: it is how memory is filled. */
#include "kernels/philox.h"
#include "ops/op.h"

static void piece(void *arg, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const qp_call *c = arg;
    float         *y = c->out[0].data;
    int64_t        key[2];
    uint32_t       words[QK_RANDOM_BLOCK];
    qk_read_key(&c->in[1], key);
    for (int64_t i = begin; i < end; i += QK_RANDOM_BLOCK) {
        int64_t n = end - i < QK_RANDOM_BLOCK ? end - i : QK_RANDOM_BLOCK;
        qk_random_block(key, i / QK_RANDOM_BLOCK, words);
        for (int64_t j = 0; j < n; j++) y[i + j] = (float)(int32_t)(words[j] >> 8) * 0x1p-24f;
    }
}

static void run(const qp_call *c) {
    qp_parallel(c->exec, qp_view_count(&c->out[0]), 256 * QK_RANDOM_BLOCK, piece, (void *)c);
}

QP_KERNEL(uniform) = {run, QP_FLAT, NULL};

#if QP_BODY
static void shape(qp_call *c) {
    c->out[0] = c->in[0];
    qk_check_key(c, 1);
}

static void plain(const qp_call *c) {
    int64_t key[2], n = qp_view_count(&c->out[0]);
    int     bits = c->out[0].dtype == QP_BF16 ? 8 : c->out[0].dtype == QP_F16 ? 11 : 24;
    qk_read_key(&c->in[1], key);
    for (int64_t i = 0; i < n; i++)
        qp_store(&c->out[0], qp_view_offset(&c->out[0], i),
                 ldexp(qk_random_word(key, i) >> (32 - bits), -bits));
}

static const qp_sample samples[] = {
    {.in = "x[3,5] i9[2]"}, {.in = "x[] i9[2]"}, {.in = "x[0] i9[2]"}, {.in = "x[20,67] i9[2]"}, {0}};

QP_OP(uniform) = {.name = "uniform",
                  .source = "torch.rand",
                  .min_in = 2,
                  .max_in = 2,
                  .nout = 1,
                  .shape = shape,
                  .plain = plain,
                  .mutates = QP_SAVE_IN(0),
                  .samples = samples};

qp_tensor qp_rand(qp_ctx *ctx, qp_dtype dtype, int ndim, const int64_t *size) {
    qp_tensor y = qp_empty(ctx, dtype, ndim, size);
    if (!ctx || qp_failed(ctx)) return y;
    qp_tensor key = qpi_random_key(ctx);
    QP_CALL(uniform, NULL, y, key);
    qp_drop(key);
    return y;
}
#endif
