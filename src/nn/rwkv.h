/* What the mixers and the feed-forward of RWKV share: token shift with its state, ramps over channels,
 * the group norm of heads, products of low rank. */
#ifndef QUIPU_NN_RWKV_H
#define QUIPU_NN_RWKV_H

#include <math.h>
#include <stdio.h>

#include "nn/heads.h"

/* The position before a call's first: tensor `i` of the state, [B, D]. */
typedef struct {
    qp_tensor last, x; /* last QP_NONE: a whole sequence, which begins with zeros */
} rwkv_shift;

static inline rwkv_shift rwkv_shift_open(qp_tensor x, qp_state *state, int i) {
    if (!state) return (rwkv_shift){QP_NONE, x};
    int64_t T = qp_size(x, 1), shape[2] = {qp_size(x, 0), qp_size(x, 2)};
    qp_state_set(state, i, qp_reshape(qp_contiguous(qp_slice(x, 1, T - 1, T, 1)), 2, shape));
    return (rwkv_shift){state->tensors[i], x};
}

/* x_t + m (x_{t-1} - x_t), m [1, 1, D] or [B, T, D] */
static inline qp_tensor rwkv_mixed(const rwkv_shift *s, qp_tensor m) {
    return qp_token_shift(s->x, qpi_like(m, s->x), s->last);
}

/* The same of versions 4 and 5, whose m is the share of x_t. */
static inline qp_tensor rwkv_mixed_by_share(const rwkv_shift *s, qp_tensor share) {
    return rwkv_mixed(s, qp_affine(qpi_like(share, s->x), -1, 1));
}

/* A parameter that begins as an initialisation of nn/init/rwkv.c says of this layer. */
static inline qp_tensor rwkv_param(qp_build *b, const char *name, const char *init, int ndim,
                                   const int64_t *shape) {
    char   spec[48];
    double depth = b->layers > 1 ? (double)b->layer / (b->layers - 1) : 0;
    snprintf(spec, sizeof spec, "%s:%.9g", init,
             depth < 1 ? depth : 1); /* modules stand behind the last layer */
    return qp_param(b->module, name, spec, ndim, shape);
}

/* ---- Heads (versions 5 to 7) ---------------------------------------------------------------------- */

#define RWKV_HEAD_OPTIONS \
    OPTION_INT("head_width", 64, 1, 65536, "K, a divisor of D; D where D is smaller"), \
        OPTION_NUMBER("head_norm_eps", 64e-5, 0, 1, "of the norm of each head's output")

typedef struct {
    int64_t   heads, width; /* H, K */
    double    eps;
    qp_tensor weight, bias; /* of the norm, [D] */
} rwkv_heads;

/* False after storing an error. */
static inline bool rwkv_heads_init(rwkv_heads *h, qp_build *b) {
    int64_t K = qp_setting_int(b, "head_width");
    h->width = K < b->width ? K : b->width;
    h->heads = b->width / h->width;
    h->eps = qp_setting(b, "head_norm_eps");
    if (h->heads * h->width == b->width) return true;
    return !qp_fail(b->ctx, QP_ERR_ARGUMENT, "rwkv: head_width %lld does not divide the width %lld",
                    (long long)h->width, (long long)b->width);
}

static inline void rwkv_heads_norm(rwkv_heads *h, qp_build *b) {
    qp_module *m = qp_module_new(b->ctx, b->module, "ln_x");
    h->weight = qp_param(m, "weight", "ones", 1, &b->width);
    h->bias = qp_param(m, "bias", "zeros", 1, &b->width);
}

/* [B, T, H, K], each head normalised, -> [B, T, D] */
static inline qp_tensor rwkv_normed(const rwkv_heads *h, qp_tensor y) {
    qp_tensor n = qpi_join_heads(qp_layer_norm(y, QP_NONE, QP_NONE, h->eps));
    return qp_add(qp_mul(n, qpi_like(h->weight, n)), qpi_like(h->bias, n));
}

/* State: the position before [B, D] and S [B, H, K, V]. */
static inline void rwkv_heads_reserve(const rwkv_heads *h, qp_ctx *ctx, int64_t rows, qp_state *state) {
    qp_state_add(state, ctx, false, 2, (int64_t[]){rows, h->heads * h->width});
    qp_state_add(state, ctx, false, 4, (int64_t[]){rows, h->heads, h->width, h->width});
}

/* qp_wkv with S from the state and back. */
static inline qp_tensor rwkv_run(qp_wkv_inputs in, qp_state *state) {
    qp_tensor last;
    if (!state) return qp_wkv(in, NULL);
    in.state = state->tensors[1];
    qp_tensor y = qp_wkv(in, &last);
    qp_state_set(state, 1, last);
    return y;
}

/* ---- Low rank ------------------------------------------------------------------------------------- */

/* x down up, with weights stored [in, out] */
typedef struct {
    qp_tensor down, up;
} rwkv_low;

static inline rwkv_low rwkv_low_new(qp_build *b, const char *down, const char *up, int64_t rank) {
    return (rwkv_low){qp_param(b->module, down, b->init, 2, (int64_t[]){b->width, rank}),
                      qp_param(b->module, up, b->init, 2, (int64_t[]){rank, b->width})};
}

static inline qp_tensor rwkv_low_rank(const rwkv_low *l, qp_tensor x, qp_tensor (*act)(qp_tensor x)) {
    qp_tensor inner = qp_matmul(x, qpi_like(l->down, x));
    return qp_matmul(act ? act(inner) : inner, qpi_like(l->up, x));
}

/* exp(-exp(p)), the decay of a raw parameter */
static inline qp_tensor rwkv_decay_of(qp_tensor p) { return qp_exp(qp_neg(qp_exp(p))); }

#endif
