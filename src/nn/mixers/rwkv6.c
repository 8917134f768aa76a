/* RWKV 6, "Finch" (Peng et al. 2024, arXiv:2404.05892): as version 5, but how much of the position before joins
 * and how fast rows decay depends on the input, through products of low rank.
 *
 *   m = tanh(token_shift(x, time_maa_x) time_maa_w1), in five parts
 *   x_w = token_shift(x, time_maa_w + m_1 time_maa_w2[1]), and so for k, v, r, g
 *   w = exp(-exp(time_decay + tanh(x_w time_decay_w1) time_decay_w2))
 *   output(norm of each head(wkv(receptance(x_r), w, key(x_k), value(x_v), time_faaaa)) silu(gate(x_g))) + residual
 *
 * State: x of the position before and the matrices. Names of parameters are the authors'.
 */
#include "nn/rwkv.h"

enum { W, KEY, VALUE, R, G, PARTS };

typedef struct {
    rwkv_heads    heads;
    qp_tensor     maa_x, maa[PARTS], maa_down, maa_up, decay, bonus;
    rwkv_low      decay_low;
    int64_t       rank;
    qp_nn_linear *key, *value, *receptance, *gate, *output;
} rwkv6;

static const qp_option options[] = {RWKV_HEAD_OPTIONS,
                                    {.name = "mix_rank",
                                     .kind = QP_OPTION_INT,
                                     .fallback = 32,
                                     .low = 1,
                                     .high = 65536,
                                     .help = "rank of each of the five mixtures"},
                                    {.name = "decay_rank",
                                     .kind = QP_OPTION_INT,
                                     .fallback = 64,
                                     .low = 1,
                                     .high = 65536,
                                     .help = "rank of the decay"},
                                    {0}};

static void init(void *self, qp_build *b) {
    rwkv6            *m = self;
    int64_t           D = b->width, row[3] = {1, 1, D};
    qp_linear_options in = {.init = b->init}, value = {.init = b->init_value}, out = {.init = b->init_residual};
    if (!rwkv_heads_init(&m->heads, b)) return;
    m->rank = qp_setting_int(b, "mix_rank");
    m->maa_x = rwkv_param(b, "time_maa_x", "rwkv_back", 3, row);
    for (int i = 0; i < PARTS; i++) {
        char name[16];
        snprintf(name, sizeof name, "time_maa_%c", "wkvrg"[i]);
        m->maa[i] = rwkv_param(b, name, "rwkv_back", 3, row);
    }
    m->maa_down = qp_param(b->module, "time_maa_w1", b->init, 2, (int64_t[]){D, PARTS * m->rank});
    m->maa_up = qp_param(b->module, "time_maa_w2", b->init, 3, (int64_t[]){PARTS, m->rank, D});
    m->decay = rwkv_param(b, "time_decay", "rwkv_decay", 3, row);
    m->decay_low = rwkv_low_new(b, "time_decay_w1", "time_decay_w2", qp_setting_int(b, "decay_rank"));
    m->bonus = rwkv_param(b, "time_faaaa", "rwkv_bonus", 2, (int64_t[]){m->heads.heads, m->heads.width});
    m->receptance = qp_nn_linear_new(b->module, "receptance", D, D, in);
    m->key = qp_nn_linear_new(b->module, "key", D, D, in);
    m->value = qp_nn_linear_new(b->module, "value", D, D, value);
    m->gate = qp_nn_linear_new(b->module, "gate", D, D, in);
    m->output = qp_nn_linear_new(b->module, "output", D, D, out);
    rwkv_heads_norm(&m->heads, b);
}

static bool causal(const void *self) {
    (void)self;
    return true;
}

/* x_w, x_k, x_v, x_r or x_g; low: tanh(..) [B, T, 5 rank] */
static qp_tensor mixed(const rwkv6 *m, const rwkv_shift *s, qp_tensor low, int part) {
    qp_tensor down = qp_slice(low, 2, part * m->rank, (part + 1) * m->rank, 1);
    qp_tensor up =
        qp_reshape(qp_slice(m->maa_up, 0, part, part + 1, 1), 2, (int64_t[]){m->rank, qp_size(s->x, 2)});
    return rwkv_mixed(s, qp_add(qp_matmul(down, qpi_like(up, down)), qpi_like(m->maa[part], down)));
}

static qp_tensor step(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s, qp_state *state) {
    rwkv6     *m = self;
    rwkv_shift shift = rwkv_shift_open(x, state, 0);
    qp_tensor  low = qp_tanh(qp_matmul(rwkv_mixed(&shift, m->maa_x), qpi_like(m->maa_down, x))), part[PARTS];
    (void)s;
    for (int i = 0; i < PARTS; i++) part[i] = mixed(m, &shift, low, i);
    qp_tensor     w = qp_add(rwkv_low_rank(&m->decay_low, part[W], qp_tanh), qpi_like(m->decay, x));
    qp_tensor     r = qp_nn_linear_forward(m->receptance, part[R], QP_ACT_NONE, QP_NONE);
    qp_tensor     k = qp_nn_linear_forward(m->key, part[KEY], QP_ACT_NONE, QP_NONE);
    qp_tensor     v = qp_nn_linear_forward(m->value, part[VALUE], QP_ACT_NONE, QP_NONE);
    qp_tensor     g = qp_nn_linear_forward(m->gate, part[G], QP_ACT_SILU, QP_NONE);
    qp_wkv_inputs in = {.r = qpi_split_heads(r, m->heads.heads),
                        .w = qpi_split_heads(rwkv_decay_of(w), m->heads.heads),
                        .k = qpi_split_heads(k, m->heads.heads),
                        .v = qpi_split_heads(v, m->heads.heads),
                        .u = qpi_like(m->bonus, x)};
    qp_tensor     y = rwkv_normed(&m->heads, rwkv_run(in, state));
    return qp_nn_linear_forward(m->output, qp_mul(y, g), QP_ACT_NONE, residual);
}

static qp_tensor forward(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s) {
    qpi_one_segment(s, "rwkv6");
    return step(self, x, residual, s, NULL);
}

static void reserve(void *self, qp_ctx *ctx, int64_t rows, int64_t positions, qp_state *state) {
    (void)positions;
    rwkv_heads_reserve(&((rwkv6 *)self)->heads, ctx, rows, state);
}

QP_MIXER(rwkv6) = {.part = {.name = "rwkv6",
                            .source = "arXiv:2404.05892",
                            .help = "RWKV 6: a matrix for each head, whose decay depends on the input",
                            .options = options,
                            .bytes = sizeof(rwkv6)},
                   .causal = causal,
                   .init = init,
                   .forward = forward,
                   .reserve = reserve,
                   .step = step};
