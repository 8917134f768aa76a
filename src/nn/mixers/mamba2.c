/* Mamba-2 (Dao and Gu 2024, arXiv:2405.21060): the state space of Mamba with one rate for a whole head, so that its
 * work is products of matrices. With I inner channels, H heads of P of them, G groups of heads, N states:
 *
 *   z, u, B, C, d = x w_in^T          [B, T, I], then I + 2 G N channels that pass silu(conv(.)), [B, T, H]
 *   delta = softplus(d + dt_bias), a_t = exp(-delta_t exp(A_log)) for each head
 *   h_t = a_t h_(t-1) + B_t (delta_t u_t)^T   [N, P],   y_t = C_t h_t + D u_t
 *   (norm(silu(z) y) weight) w_out^T + residual, the norm of each group by itself
 *
 * in chunks of Q positions (listing 1, state space duality): with L_ts what is left of s at t,
 *
 *   y = (L * C B^T) (delta u) + L_t0 a_0 C h,   h becomes a_0 L_(Q-1)0 h + (L_(Q-1)s B)^T (delta u)
 *
 * State: the last K - 1 inputs of the convolution and h. A step of T positions is a chunk, of one position linear attention
 * whose heads forget by a_t.
 */
#include <math.h>

#include "core/core.h"
#include "nn/short_conv.h"

typedef struct {
    int64_t        inner, states, heads, width, groups, chunk; /* I, N, H, P, G, Q */
    double         low, high;                                  /* of delta; high 0: none */
    double         eps;
    qp_nn_linear  *in, *out;
    qpi_short_conv conv;
    qp_tensor      dt_bias, A_log, D, norm; /* [H], [H], [H], [I] */
} mamba2;

static const qp_option options[] = {
    OPTION_INT("states", 128, 1, 65536, "N, states of a channel"),
    OPTION_INT("inner", 0, 0, 1e9, "I, channels of the heads; 0: 2 D"),
    OPTION_INT("channels", 0, 0, 65536, "P, of a head, a divisor of I; 0: 64, or half of I where that is less"),
    OPTION_INT("groups", 1, 1, 65536, "G, of heads that share B and C"),
    OPTION_INT("conv", 4, 2, 1024, "K, positions that the convolution sees"),
    OPTION_INT("chunk", 64, 1, 1024, "Q, positions that are worked on as matrices; changes no result"),
    OPTION_NUMBER("step_low", 0, 0, 1e9, "steps are at least this"),
    OPTION_NUMBER("step_high", 0, 0, 1e9, "and at most this; 0: any"),
    OPTION_NUMBER("eps", 1e-5, 0, 1, "of the norm, added to the mean square"),
    OPTION_BOOL("bias", 0, "the products in and out have a bias"),
    OPTION_BOOL("conv_bias", 1, "the convolution has a bias"),
    {0}};

static bool read_sizes(mamba2 *m, qp_build *b) {
    m->inner = qp_setting_int(b, "inner");
    m->width = qp_setting_int(b, "channels");
    m->groups = qp_setting_int(b, "groups");
    m->states = qp_setting_int(b, "states");
    m->chunk = qp_setting_int(b, "chunk");
    if (!m->inner) m->inner = 2 * b->width;
    if (!m->width) m->width = m->inner < 128 ? (m->inner + 1) / 2 : 64;
    m->heads = m->inner / m->width;
    if (m->inner % m->width == 0 && m->heads % m->groups == 0) return true;
    return !qp_fail(b->ctx, QP_ERR_ARGUMENT,
                    "mamba2: channels %lld must divide inner %lld, and groups %lld the heads",
                    (long long)m->width, (long long)m->inner, (long long)m->groups);
}

static void init(void *self, qp_build *b) {
    mamba2           *m = self;
    qp_linear_options in = {.bias = qp_setting(b, "bias") != 0, .init = b->init}, out = in;
    if (!read_sizes(m, b)) return;
    m->low = qp_setting(b, "step_low");
    m->high = qp_setting(b, "step_high");
    m->eps = qp_setting(b, "eps");
    out.init = b->init_residual;
    int64_t convolved = m->inner + 2 * m->groups * m->states;
    m->in = qp_nn_linear_new(b->module, "in", b->width, m->inner + convolved + m->heads, in);
    qpi_short_conv_init(&m->conv, b, convolved, qp_setting_int(b, "conv"), qp_setting(b, "conv_bias") != 0);
    m->dt_bias = qp_param(b->module, "dt_bias", "log_step", 1, &m->heads);
    m->A_log = qp_param(b->module, "A_log", "log_range", 1, &m->heads);
    m->D = qp_param(b->module, "D", "ones", 1, &m->heads);
    qp_module *norm = qp_module_new(b->ctx, b->module, "norm");
    if (norm) m->norm = qp_param(norm, "weight", "ones", 1, &m->inner);
    m->out = qp_nn_linear_new(b->module, "out", m->inner, b->width, out);
}

static bool causal(const void *self) {
    (void)self;
    return true;
}

/* softplus(d + dt_bias), within the limits */
static qp_tensor steps(const mamba2 *m, qp_tensor d) {
    qp_tensor delta = qp_softplus(qp_add(d, qpi_like(m->dt_bias, d)));
    qp_dtype  type = d.ctx->param_dtype;
    if (m->low > 0) delta = qp_maximum(delta, qp_full(d.ctx, type, 0, NULL, m->low));
    return m->high > 0 ? qp_minimum(delta, qp_full(d.ctx, type, 0, NULL, m->high)) : delta;
}

/* [B, c Q, ..] -> [B, c, Q, F, E], then the axes F and Q change places. What is added at the end is 0. */
static qp_tensor chunked(qp_tensor x, int64_t c, int64_t Q, int64_t F, int64_t E) {
    int64_t   T = qp_size(x, 1);
    qp_tensor all = c * Q == T ? x : qp_pad(x, 1, 0, c * Q - T, 0);
    return qp_transpose(qp_reshape(all, 5, (int64_t[]){qp_size(x, 0), c, Q, F, E}), 2, 3);
}

/* A view [B, c, H, A, E] as [B, c, G, H / G, A, E]. */
static qp_tensor grouped(const mamba2 *m, qp_tensor x, int64_t groups) {
    return qp_reshape(
        x, 6,
        (int64_t[]){qp_size(x, 0), qp_size(x, 1), m->groups, groups / m->groups, qp_size(x, 3), qp_size(x, 4)});
}

/* What chunks do to the state, [B, c, H, N P] and how much of the one before they leave, [B, c, H]. Gives the states
 * before each chunk [B, c, G, H / G, N, P], and *last. */
static qp_tensor states(const mamba2 *m, qp_tensor added, qp_tensor left, qp_tensor state, qp_tensor *last) {
    int64_t   B = qp_size(added, 0), c = qp_size(added, 1), E = m->states * m->width;
    int64_t   shape[] = {B, 1, m->heads, E};
    qp_tensor first =
        qp_is_none(state) ? qp_zeros(added.ctx, qp_dtype_of(added), 4, shape) : qp_reshape(state, 4, shape);
    qp_tensor behind = qp_decay_scan(added, left, qp_reshape(first, 3, (int64_t[]){B, m->heads, E}));
    if (last)
        *last = qp_reshape(qp_slice(behind, 1, c - 1, c, 1), 4, (int64_t[]){B, m->heads, m->states, m->width});
    qp_tensor before = c == 1 ? first : qp_concat(2, (qp_tensor[]){first, qp_slice(behind, 1, 0, c - 1, 1)}, 1);
    return qp_reshape(before, 6, (int64_t[]){B, c, m->groups, m->heads / m->groups, m->states, m->width});
}

/* u [B, T, I], delta [B, T, H], B and C [B, T, G N] -> y [B, T, I] without D u */
static qp_tensor dual(const mamba2 *m, qp_tensor u, qp_tensor delta, qp_tensor Bs, qp_tensor Cs,
                      qp_tensor state, qp_tensor *last) {
    int64_t   B = qp_size(u, 0), T = qp_size(u, 1), H = m->heads, G = m->groups, N = m->states, P = m->width;
    int64_t   Q = T < 1 ? 1 : T < m->chunk ? T : m->chunk, c = T < 1 ? 1 : (T + Q - 1) / Q;
    qp_tensor rate = qp_exp(qpi_like(m->A_log, delta)), heads = qp_reshape(delta, 4, (int64_t[]){B, T, H, 1});
    qp_tensor logs = qp_reshape(chunked(qp_neg(qp_mul(delta, rate)), c, Q, H, 1), 4, (int64_t[]){B, c, H, Q});
    qp_tensor x = qp_mul(qp_reshape(u, 4, (int64_t[]){B, T, H, P}), heads);
    x = grouped(m, qp_contiguous(chunked(qp_reshape(x, 3, (int64_t[]){B, T, H * P}), c, Q, H, P)), H);
    qp_tensor b = grouped(m, qp_contiguous(chunked(Bs, c, Q, G, N)), G),
              C = grouped(m, qp_contiguous(chunked(Cs, c, Q, G, N)), G);

    qp_tensor L = grouped(m, qp_decays(logs), H),
              rest = qp_slice(L, 4, Q - 1, Q, 1); /* [.., Q, Q], of the last [.., 1, Q] */
    qp_tensor since = qp_exp(
        qp_reshape(qp_cumsum(logs, -1), 6, (int64_t[]){B, c, G, H / G, Q, 1})); /* from before the chunk */
    qp_tensor y = qp_matmul(qp_mul(qp_matmul(C, qp_transpose(b, 4, 5)), L), x);
    qp_tensor added = qp_matmul(qp_transpose(b, 4, 5), qp_mul(x, qp_transpose(rest, 4, 5)));
    qp_tensor left = qp_reshape(qp_slice(since, 4, Q - 1, Q, 1), 3, (int64_t[]){B, c, H});
    qp_tensor before = states(m, qp_reshape(added, 4, (int64_t[]){B, c, H, N * P}), left, state, last);
    y = qp_add(y, qp_mul(qp_matmul(C, before), since));
    y = qp_transpose(qp_reshape(y, 5, (int64_t[]){B, c, H, Q, P}), 2, 3);
    return qp_slice(qp_reshape(y, 3, (int64_t[]){B, c * Q, H * P}), 1, 0, T, 1);
}

/* The same of one position, which the state passes once: every head of every row is one of linear attention. */
static qp_tensor next(const mamba2 *m, qp_tensor u, qp_tensor delta, qp_tensor Bs, qp_tensor Cs,
                      qp_tensor state, qp_tensor *last) {
    int64_t   B = qp_size(u, 0), H = m->heads, G = m->groups, N = m->states, P = m->width, all = B * H;
    int64_t   of_group[] = {B, G, 1, N}, of_head[] = {B, G, H / G, N}, heads[] = {1, 1, all, N};
    qp_tensor x =
        qp_mul(qp_reshape(u, 4, (int64_t[]){1, 1, all, P}), qp_reshape(delta, 2, (int64_t[]){all, 1}));
    qp_tensor                   k = qp_reshape(qp_expand(qp_reshape(Bs, 4, of_group), 4, of_head), 4, heads),
                                q = qp_reshape(qp_expand(qp_reshape(Cs, 4, of_group), 4, of_head), 4, heads);
    qp_tensor                   left = qp_exp(qp_neg(qp_mul(delta, qp_exp(qpi_like(m->A_log, delta)))));
    qp_linear_attention_options o = {.decay = qp_reshape(left, 1, &all),
                                     .state = qp_reshape(state, 4, (int64_t[]){1, all, N, P})};
    qp_tensor                   y = qp_linear_attention(q, k, x, o, last);
    *last = qp_reshape(*last, 4, (int64_t[]){B, H, N, P});
    return qp_reshape(y, 3, (int64_t[]){B, 1, H * P});
}

/* norm(silu(z) y) weight, group by group */
static qp_tensor gated_norm(const mamba2 *m, qp_tensor z, qp_tensor y) {
    qp_tensor gated = qp_swiglu(z, y), weight = qpi_like(m->norm, y);
    if (m->groups == 1) return qp_rms_norm(gated, weight, m->eps);
    int64_t   B = qp_size(y, 0), T = qp_size(y, 1);
    qp_tensor parts =
        qp_rms_norm(qp_reshape(gated, 4, (int64_t[]){B, T, m->groups, m->inner / m->groups}), QP_NONE, m->eps);
    return qp_mul(qp_reshape(parts, 3, (int64_t[]){B, T, m->inner}), weight);
}

/* state NULL: a whole sequence */
static qp_tensor mix(const mamba2 *m, qp_tensor x, qp_tensor residual, qp_state *state) {
    int64_t   I = m->inner, GN = m->groups * m->states, B = qp_size(x, 0), T = qp_size(x, 1);
    qp_tensor parts[3], of_conv[3], last;
    qp_split(qp_nn_linear_forward(m->in, x, QP_ACT_NONE, QP_NONE), -1, 3, (int64_t[]){I, I + 2 * GN, m->heads},
             parts);
    qp_split(state ? qpi_short_conv_step(&m->conv, parts[1], state, 0)
                   : qpi_short_conv_forward(&m->conv, parts[1]),
             -1, 3, (int64_t[]){I, GN, GN}, of_conv);
    qp_tensor u = qp_contiguous(of_conv[0]), delta = steps(m, parts[2]);
    qp_tensor y = state && T == 1 ? next(m, u, delta, of_conv[1], of_conv[2], state->tensors[1], &last)
                                  : dual(m, u, delta, of_conv[1], of_conv[2],
                                         state ? state->tensors[1] : QP_NONE, state ? &last : NULL);
    if (state) qp_state_set(state, 1, qp_contiguous(last));
    qp_tensor skip = qp_mul(qp_reshape(u, 4, (int64_t[]){B, T, m->heads, m->width}),
                            qp_reshape(qpi_like(m->D, u), 2, (int64_t[]){m->heads, 1}));
    y = qp_add(y, qp_reshape(skip, 3, (int64_t[]){B, T, I}));
    return qp_nn_linear_forward(m->out, gated_norm(m, parts[0], y), QP_ACT_NONE, residual);
}

static qp_tensor forward(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s) {
    qpi_one_segment(s, "mamba2");
    return mix(self, x, residual, NULL);
}

static void reserve(void *self, qp_ctx *ctx, int64_t rows, int64_t positions, qp_state *state) {
    const mamba2 *m = self;
    (void)positions;
    qpi_short_conv_reserve(&m->conv, ctx, rows, state);
    qp_state_add(state, ctx, false, 4, (int64_t[]){rows, m->heads, m->states, m->width});
}

static qp_tensor step(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s, qp_state *state) {
    (void)s;
    return mix(self, x, residual, state);
}

QP_MIXER(mamba2) = {.part = {.name = "mamba2",
                             .source = "arXiv:2405.21060",
                             .help = "state space duality: heads with one rate each, products of chunks",
                             .options = options,
                             .bytes = sizeof(mamba2)},
                    .causal = causal,
                    .init = init,
                    .forward = forward,
                    .reserve = reserve,
                    .step = step};
