/* RWKV 5, "Eagle" (Peng et al. 2024, arXiv:2404.05892): for each head a matrix that decays, by a factor
 * that is learned for each of its rows (5.2) or for the head (5.0 and 5.1, which have no gate).
 *
 *   x_r = token_shift(x, 1 - time_mix_r), and so for k, v and g
 *   r = receptance(x_r), k = key(x_k), v = value(x_v), g = silu(gate(x_g))
 *   y = wkv(r, w, k, v, u), w = exp(-exp(time_decay)), u = time_faaaa, or exp(time_first)
 *   output(norm of each head(y) g) + residual
 *
 * State: x of the position before and the matrices. Names of parameters are the authors'.
 */
#include "nn/rwkv.h"

typedef struct {
    rwkv_heads    heads;
    bool          scalar;
    qp_tensor     decay, bonus, mix_k, mix_v, mix_r, mix_g;
    qp_nn_linear *key, *value, *receptance, *gate, *output; /* gate NULL: none */
} rwkv5;

static const qp_option options[] = {
    RWKV_HEAD_OPTIONS,
    {.name = "gate", .kind = QP_OPTION_BOOL, .fallback = 1, .high = 1, .help = "what heads give is gated"},
    {.name = "scalar_decay",
     .kind = QP_OPTION_BOOL,
     .fallback = 0,
     .high = 1,
     .help = "one decay for a head, as in 5.0 and 5.1"},
    {0}};

static void init(void *self, qp_build *b) {
    rwkv5            *m = self;
    int64_t           D = b->width, row[3] = {1, 1, D};
    qp_linear_options in = {.init = b->init}, value = {.init = b->init_value}, out = {.init = b->init_residual};
    if (!rwkv_heads_init(&m->heads, b)) return;
    m->scalar = qp_setting(b, "scalar_decay") != 0;
    bool    gate = qp_setting(b, "gate") != 0;
    int64_t shape[2] = {m->heads.heads, m->heads.width};
    m->decay = rwkv_param(b, "time_decay", "rwkv_decay", m->scalar ? 1 : 2, shape);
    m->bonus = rwkv_param(b, m->scalar ? "time_first" : "time_faaaa", "rwkv_bonus", m->scalar ? 1 : 2, shape);
    m->mix_k = rwkv_param(b, "time_mix_k", "rwkv_share", 3, row);
    m->mix_v = rwkv_param(b, "time_mix_v", "rwkv_share", 3, row);
    m->mix_r = rwkv_param(b, "time_mix_r", "rwkv_share", 3, row);
    if (gate) m->mix_g = rwkv_param(b, "time_mix_g", "rwkv_share", 3, row);
    m->receptance = qp_nn_linear_new(b->module, "receptance", D, D, in);
    m->key = qp_nn_linear_new(b->module, "key", D, D, in);
    m->value = qp_nn_linear_new(b->module, "value", D, D, value);
    if (gate) m->gate = qp_nn_linear_new(b->module, "gate", D, D, in);
    m->output = qp_nn_linear_new(b->module, "output", D, D, out);
    rwkv_heads_norm(&m->heads, b);
}

static bool causal(const void *self) {
    (void)self;
    return true;
}

/* One number for each head or row -> [.., H, K] of ndim axes */
static qp_tensor rows(const rwkv5 *m, qp_tensor p, int ndim, const int64_t *shape) {
    return qp_expand(m->scalar ? qp_reshape(p, 2, (int64_t[]){m->heads.heads, 1}) : p, ndim, shape);
}

static qp_tensor mix(const qp_nn_linear *l, const rwkv_shift *s, qp_tensor share, qp_act act) {
    return qp_nn_linear_forward(l, rwkv_mixed_by_share(s, share), act, QP_NONE);
}

static qp_tensor step(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s, qp_state *state) {
    rwkv5     *m = self;
    rwkv_shift shift = rwkv_shift_open(x, state, 0);
    int64_t    shape[4] = {qp_size(x, 0), qp_size(x, 1), m->heads.heads, m->heads.width};
    qp_tensor  u = qpi_like(m->bonus, x);
    (void)s;
    qp_wkv_inputs in = {.r = qpi_split_heads(mix(m->receptance, &shift, m->mix_r, QP_ACT_NONE), m->heads.heads),
                        .w = rows(m, rwkv_decay_of(qpi_like(m->decay, x)), 4, shape),
                        .k = qpi_split_heads(mix(m->key, &shift, m->mix_k, QP_ACT_NONE), m->heads.heads),
                        .v = qpi_split_heads(mix(m->value, &shift, m->mix_v, QP_ACT_NONE), m->heads.heads),
                        .u = rows(m, m->scalar ? qp_exp(u) : u, 2, shape + 2)};
    qp_tensor     y = rwkv_normed(&m->heads, rwkv_run(in, state));
    if (m->gate) y = qp_mul(y, mix(m->gate, &shift, m->mix_g, QP_ACT_SILU));
    return qp_nn_linear_forward(m->output, y, QP_ACT_NONE, residual);
}

static qp_tensor forward(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s) {
    qpi_one_segment(s, "rwkv5");
    return step(self, x, residual, s, NULL);
}

static void reserve(void *self, qp_ctx *ctx, int64_t rows_, int64_t positions, qp_state *state) {
    (void)positions;
    rwkv_heads_reserve(&((rwkv5 *)self)->heads, ctx, rows_, state);
}

QP_MIXER(rwkv5) = {.part = {.name = "rwkv5",
                            .source = "arXiv:2404.05892",
                            .help = "RWKV 5: a matrix for each head, rows decay at rates of their own",
                            .options = options,
                            .bytes = sizeof(rwkv5)},
                   .causal = causal,
                   .init = init,
                   .forward = forward,
                   .reserve = reserve,
                   .step = step};
