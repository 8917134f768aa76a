/* In place: every element a draw from the normal distribution. Words w, v of one counter make
 * u = (w + 1/2) 2^-32 and two draws sqrt(-2 log u) {cos, sin}(2 pi v 2^-32) (Box and Muller 1958).
 * No gradient: it is how memory is filled. */
#include "kernels/philox.h"
#include "ops/op.h"

static void piece(void *arg, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const qp_call *c = arg;
    float         *y = c->out[0].data;
    int64_t        key[2];
    uint32_t       words[QK_RANDOM_BLOCK];
    float          draws[QK_RANDOM_BLOCK];
    qk_read_key(&c->in[1], key);
    for (int64_t i = begin; i < end; i += QK_RANDOM_BLOCK) {
        int64_t n = end - i < QK_RANDOM_BLOCK ? end - i : QK_RANDOM_BLOCK;
        qk_random_block(key, i / QK_RANDOM_BLOCK, words);
        for (int at = 0; at < QK_RANDOM_BLOCK; at += VF_LANES) {
            if (at & 16) continue; /* the second draws of the 16 before */
            vu w = (vu)vi_load((const int32_t *)words + at), v = (vu)vi_load((const int32_t *)words + at + 16);
            vf u = vf_fma(__builtin_convertvector(w, vf), vf_set1(0x1p-32f), vf_set1(0x1p-33f)), sine, cosine;
            vf radius = vf_sqrt(-2.0f * vf_log(u));
            vf_sincos(vf_from_int((vi)v) * 1.46291808e-9f, &sine, &cosine); /* v as signed: -pi .. pi */
            vf_store(draws + at, radius * cosine);
            vf_store(draws + at + 16, radius * sine);
        }
        memcpy(y + i, draws, (size_t)n * sizeof *y);
    }
}

static void run(const qp_call *c) {
    qp_parallel(c->exec, qp_view_count(&c->out[0]), 128 * QK_RANDOM_BLOCK, piece, (void *)c);
}

QP_KERNEL(normal) = {run, QP_FLAT, NULL};

#if QP_BODY
static void shape(qp_call *c) {
    c->out[0] = c->in[0];
    qk_check_key(c, 1);
}

static void plain(const qp_call *c) {
    int64_t key[2], n = qp_view_count(&c->out[0]);
    double  pi = 4 * atan(1);
    qk_read_key(&c->in[1], key);
    for (int64_t i = 0; i < n; i++) {
        bool   odd = i % 32 >= 16;
        double u = (float)((float)qk_random_word(key, odd ? i - 16 : i) * 0x1p-32f + 0x1p-33f);
        double angle = (int32_t)qk_random_word(key, odd ? i : i + 16) * 0x1p-31 * pi;
        qp_store(&c->out[0], qp_view_offset(&c->out[0], i),
                 sqrt(-2 * log(u)) * (odd ? sin(angle) : cos(angle)));
    }
}

static const qp_sample samples[] = {
    {.in = "x[3,5] i9[2]"}, {.in = "x[] i9[2]"}, {.in = "x[0] i9[2]"}, {.in = "x[20,67] i9[2]"}, {0}};

QP_OP(normal) = {.name = "normal",
                 .source = "torch.randn",
                 .min_in = 2,
                 .max_in = 2,
                 .nout = 1,
                 .shape = shape,
                 .plain = plain,
                 .mutates = QP_SAVE_IN(0),
                 .samples = samples};

qp_tensor qp_randn(qp_ctx *ctx, qp_dtype dtype, int ndim, const int64_t *size) {
    qp_tensor y = qp_empty(ctx, dtype, ndim, size);
    if (!ctx || qp_failed(ctx)) return y;
    qp_tensor key = qpi_random_key(ctx);
    QP_CALL(normal, NULL, y, key);
    qp_drop(key);
    return y;
}
#endif
