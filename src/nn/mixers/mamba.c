/* Mamba (Gu and Dao 2023, arXiv:2312.00752): a state space whose step, input and output weights depend on the input.
 * With I inner channels, N states and rank R:
 *
 *   u, z = x w_in^T           [B, T, I] each
 *   u = silu(conv(u))         the last K inputs of each channel
 *   d, B, C = u w_x^T         [B, T, R], [B, T, N], [B, T, N]
 *   delta = softplus(d w_dt^T + b_dt)
 *   y = selective_scan(u, delta, exp(A_log), B, C) + D u
 *   (silu(z) y) w_out^T + residual
 *
 * The block has no feed-forward ("ffn": {"type": "none"}). State: the last K - 1 inputs and [N, I] numbers, whatever
 * the length.
 */
#include <math.h>
#include <stdio.h>

#include "core/core.h"
#include "nn/kept.h"
#include "nn/short_conv.h"

typedef struct {
    int64_t        inner, states, rank; /* I, N, R */
    qp_nn_linear  *in, *x, *dt, *out;
    qpi_short_conv conv;
    qp_tensor      A_log, D; /* [I, N], [I] */
    qpi_kept       rate;     /* exp(A_log), [N, I], of the step */
} mamba;

static const qp_option options[] = {
    OPTION_INT("states", 16, 1, 65536, "N, states of a channel"),
    OPTION_INT("inner", 0, 0, 1e9, "I, channels of the scan; 0: 2 D"),
    OPTION_INT("conv", 4, 2, 1024, "K, positions that the convolution sees"),
    OPTION_INT("rank", 0, 0, 1e9, "R, of what steps are made from; 0: D / 16, rounded up"),
    OPTION_BOOL("bias", 0, "the products in and out have a bias"),
    OPTION_BOOL("conv_bias", 1, "the convolution has a bias"),
    {0}};

static void init(void *self, qp_build *b) {
    mamba            *m = self;
    qp_linear_options plain = {.init = b->init}, ends = {.bias = qp_setting(b, "bias") != 0, .init = b->init},
                      out = ends, dt = {.bias = true, .bias_init = "log_step"};
    char              steps[40];
    m->inner = qp_setting_int(b, "inner");
    m->states = qp_setting_int(b, "states");
    m->rank = qp_setting_int(b, "rank");
    if (!m->inner) m->inner = 2 * b->width;
    if (!m->rank) m->rank = (b->width + 15) / 16;
    out.init = b->init_residual;
    snprintf(steps, sizeof steps, "uniform:%.9g", 1 / sqrt((double)m->rank));
    dt.init = steps;
    m->in = qp_nn_linear_new(b->module, "in", b->width, 2 * m->inner, ends);
    qpi_short_conv_init(&m->conv, b, m->inner, qp_setting_int(b, "conv"), qp_setting(b, "conv_bias") != 0);
    m->x = qp_nn_linear_new(b->module, "x", m->inner, m->rank + 2 * m->states, plain);
    m->dt = qp_nn_linear_new(b->module, "dt", m->rank, m->inner, dt);
    m->A_log = qp_param(b->module, "A_log", "log_range", 2, (int64_t[]){m->inner, m->states});
    qp_param_rates(b->module, "A_log", (qp_rates){.steady = true});
    m->D = qp_param(b->module, "D", "ones", 1, &m->inner);
    m->out = qp_nn_linear_new(b->module, "out", m->inner, b->width, out);
    qpi_kept_init(&m->rate, b, 2, (int64_t[]){m->states, m->inner});
}

static bool causal(const void *self) {
    (void)self;
    return true;
}

static qp_tensor rate(const void *self) {
    const mamba *m = self;
    return qp_transpose(qp_exp(qpi_like(m->A_log, m->rate.value)), 0, 1);
}

/* state NULL: a whole sequence */
static qp_tensor mix(mamba *m, qp_tensor x, qp_tensor residual, qp_state *state) {
    qp_tensor both[2], parts[3], last = QP_NONE;
    qp_split(qp_nn_linear_forward(m->in, x, QP_ACT_NONE, QP_NONE), -1, 2, (int64_t[]){m->inner, m->inner},
             both);
    qp_tensor u =
        state ? qpi_short_conv_step(&m->conv, both[0], state, 0) : qpi_short_conv_forward(&m->conv, both[0]);
    qp_split(qp_nn_linear_forward(m->x, u, QP_ACT_NONE, QP_NONE), -1, 3,
             (int64_t[]){m->rank, m->states, m->states}, parts);
    qp_tensor delta = qp_softplus(qp_nn_linear_forward(m->dt, parts[0], QP_ACT_NONE, QP_NONE));
    qp_tensor rates = state ? qpi_kept_value(&m->rate, rate, m) : rate(m);
    qp_tensor y = qp_selective_scan(u, delta, qpi_like(rates, u), parts[1], parts[2], qpi_like(m->D, u),
                                    state ? state->tensors[1] : QP_NONE, state ? &last : NULL);
    if (state) qp_state_set(state, 1, last);
    return qp_nn_linear_forward(m->out, qp_swiglu(both[1], y), QP_ACT_NONE, residual);
}

static qp_tensor forward(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s) {
    qpi_one_segment(s, "mamba");
    return mix(self, x, residual, NULL);
}

static void reserve(void *self, qp_ctx *ctx, int64_t rows, int64_t positions, qp_state *state) {
    mamba *m = self;
    (void)positions;
    qpi_kept_value(&m->rate, rate, m);
    qpi_short_conv_reserve(&m->conv, ctx, rows, state);
    qp_state_add(state, ctx, false, 3, (int64_t[]){rows, m->states, m->inner});
}

static qp_tensor step(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s, qp_state *state) {
    (void)s;
    return mix(self, x, residual, state);
}

QP_MIXER(mamba) = {.part = {.name = "mamba",
                            .source = "arXiv:2312.00752",
                            .help = "selective state space: a state of fixed size, cost linear in length",
                            .options = options,
                            .bytes = sizeof(mamba)},
                   .causal = causal,
                   .init = init,
                   .forward = forward,
                   .reserve = reserve,
                   .step = step};
