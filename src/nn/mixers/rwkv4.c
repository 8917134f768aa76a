/* RWKV 4 (Peng et al. 2023, arXiv:2305.13048): attention without scores. Each channel keeps two sums that
 * decay, of values weighed by e^key and of the weights.
 *
 *   x_k = token_shift(x, 1 - time_mix_k), and so for v and r
 *   k = key(x_k), v = value(x_v), r = receptance(x_r)
 *   output(sigmoid(r) wkv4(-exp(time_decay), time_first, k, v)) + residual
 *
 * State: x of the position before and the sums. Names of parameters are the authors'.
 */
#include "nn/rwkv.h"

typedef struct {
    qp_tensor     decay, first, mix_k, mix_v, mix_r;
    qp_nn_linear *key, *value, *receptance, *output;
} rwkv4;

static void init(void *self, qp_build *b) {
    rwkv4            *m = self;
    int64_t           D = b->width, row[3] = {1, 1, D};
    qp_linear_options in = {.init = b->init}, value = {.init = b->init_value}, out = {.init = b->init_residual};
    m->decay = rwkv_param(b, "time_decay", "rwkv_decay", 1, &D);
    m->first = rwkv_param(b, "time_first", "rwkv_first", 1, &D);
    m->mix_k = rwkv_param(b, "time_mix_k", "rwkv_share", 3, row);
    m->mix_v = rwkv_param(b, "time_mix_v", "rwkv_share", 3, row);
    m->mix_r = rwkv_param(b, "time_mix_r", "rwkv_share", 3, row);
    m->key = qp_nn_linear_new(b->module, "key", D, D, in);
    m->value = qp_nn_linear_new(b->module, "value", D, D, value);
    m->receptance = qp_nn_linear_new(b->module, "receptance", D, D, in);
    m->output = qp_nn_linear_new(b->module, "output", D, D, out);
}

static bool causal(const void *self) {
    (void)self;
    return true;
}

static qp_tensor mix(const qp_nn_linear *l, const rwkv_shift *s, qp_tensor share) {
    return qp_nn_linear_forward(l, rwkv_mixed_by_share(s, share), QP_ACT_NONE, QP_NONE);
}

static qp_tensor step(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s, qp_state *state) {
    rwkv4     *m = self;
    rwkv_shift shift = rwkv_shift_open(x, state, 0);
    qp_tensor  k = mix(m->key, &shift, m->mix_k), v = mix(m->value, &shift, m->mix_v),
               r = mix(m->receptance, &shift, m->mix_r);
    qp_tensor  last, w = qp_neg(qp_exp(qpi_like(m->decay, x)));
    (void)s;
    qp_tensor y = qp_wkv4(w, qpi_like(m->first, x), k, v, state ? state->tensors[1] : QP_NONE, &last);
    if (state) qp_state_set(state, 1, last);
    return qp_nn_linear_forward(m->output, qp_mul(qp_sigmoid(r), y), QP_ACT_NONE, residual);
}

static qp_tensor forward(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s) {
    qpi_one_segment(s, "rwkv4");
    return step(self, x, residual, s, NULL);
}

static void reserve(void *self, qp_ctx *ctx, int64_t rows, int64_t positions, qp_state *state) {
    int64_t D = qp_count(((rwkv4 *)self)->decay);
    (void)positions;
    qp_state_add(state, ctx, false, 2, (int64_t[]){rows, D});
    qp_state_add(state, ctx, false, 3, (int64_t[]){rows, 3, D});
}

QP_MIXER(rwkv4) = {.part = {.name = "rwkv4",
                            .source = "arXiv:2305.13048",
                            .help = "RWKV 4: two decaying sums for each channel",
                            .bytes = sizeof(rwkv4)},
                   .causal = causal,
                   .init = init,
                   .forward = forward,
                   .reserve = reserve,
                   .step = step};
