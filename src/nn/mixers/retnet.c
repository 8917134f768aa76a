/* Multi-scale retention (RetNet, Sun et al. 2023, arXiv:2307.08621). Heads turn q and k by their position and
 * forget at a rate of their own, g[h] = 1 - 2^(-5 - h):
 *
 *   r[t] = sum over s <= t of g^(t-s) (turn(q[t], t) turn(k[s], s) / sqrt(K)) v[s]
 *   o = (silu(x w_gate^T) norm(r)) w_out^T
 *
 * norm: of each head, root mean square; it takes out any factor of r, so the authors' divisors of scores
 * change nothing but eps. Pair i turns by t 10000^(-i / (K/2 - 1)). Values have `expand` K features a head.
 *
 * The parallel, recurrent and chunkwise forms of the paper are one op here. State: [H, K, V].
 */
#include <math.h>

#include "nn/heads.h"

typedef struct {
    qpi_heads     heads;
    qp_nn_linear *gate;
    qp_tensor     decay, frequencies; /* f32 [H], [K / 2] */
    bool          rotate;
    double        eps;
} retnet;

static const qp_option options[] = {QPI_HEADS_OPTIONS,
                                    OPTION_NUMBER("expand", 2, 1, 64, "V / K"),
                                    OPTION_BOOL("rotate", 1, "queries and keys turn by their position"),
                                    OPTION_NUMBER("eps", 1e-6, 1e-12, 1, "added to the mean square of a head"),
                                    {0}};

static qp_tensor numbers(const qp_build *b, int64_t n, double (*f)(int64_t i, int64_t n)) {
    qp_tensor t = qp_module_keep(b->module, qp_empty(b->ctx, QP_F32, 1, &n));
    float    *p = qp_data_write(t);
    for (int64_t i = 0; p && i < n; i++) p[i] = (float)f(i, n);
    return t;
}

static double decay(int64_t h, int64_t n) {
    (void)n;
    return 1 - pow(2, -5 - (double)h);
}
static double frequency(int64_t i, int64_t n) { return pow(10000, n > 1 ? -(double)i / (double)(n - 1) : 0); }

static void init(void *self, qp_build *b) {
    retnet *r = self;
    int64_t inner = b->heads * (int64_t)((double)b->head_width * qp_setting(b, "expand"));
    r->rotate = qp_setting(b, "rotate") != 0;
    r->eps = qp_setting(b, "eps");
    if (r->rotate && b->head_width % 2) {
        qp_fail(b->ctx, QP_ERR_ARGUMENT, "retnet: heads of %lld features turn, expected an even number",
                (long long)b->head_width);
        return;
    }
    qp_position none = {0};
    b->position = &none;
    qpi_heads_init(&r->heads, b, "retnet", inner / b->heads);
    r->heads.position = NULL;
    r->gate = qp_nn_linear_new(b->module, "gate", b->width, inner, (qp_linear_options){.init = b->init});
    r->decay = numbers(b, b->heads, decay);
    r->frequencies = numbers(b, b->head_width / 2, frequency);
}

static bool causal(const void *self) {
    (void)self;
    return true;
}

static qp_tensor turned(const retnet *r, qp_tensor x, const qp_sequence *s) {
    return r->rotate ? qp_rope(x, s->positions, r->frequencies, QP_ROPE_INTERLEAVED, 1) : x;
}

static qp_tensor retain(retnet *r, qp_tensor x, qp_tensor residual, const qp_sequence *s, qp_state *state) {
    qpi_qkv                     t = qpi_heads_project(&r->heads, x, s);
    qp_tensor                   q = qp_affine(turned(r, t.q, s), 1 / sqrt((double)r->heads.width), 0), end;
    qp_linear_attention_options o = {.decay = r->decay, .state = state ? state->tensors[0] : QP_NONE};
    qp_tensor                   y = qp_linear_attention(q, turned(r, t.k, s), t.v, o, state ? &end : NULL);
    if (state) qp_state_set(state, 0, end);
    y = qpi_join_heads(qp_rms_norm(y, QP_NONE, r->eps));
    y = qp_swiglu(qp_nn_linear_forward(r->gate, x, QP_ACT_NONE, QP_NONE), y);
    return qp_nn_linear_forward(r->heads.out, y, QP_ACT_NONE, residual);
}

static qp_tensor forward(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s) {
    qpi_one_segment(s, "retnet");
    return retain(self, x, residual, s, NULL);
}

static void reserve(void *self, qp_ctx *ctx, int64_t rows, int64_t positions, qp_state *state) {
    retnet *r = self;
    (void)positions;
    qp_state_add(state, ctx, false, 4, (int64_t[]){rows, r->heads.heads, r->heads.width, r->heads.values});
}

static qp_tensor step(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s, qp_state *state) {
    return retain(self, x, residual, s, state);
}

QP_MIXER(retnet) = {.part = {.name = "retnet",
                             .source = "arXiv:2307.08621",
                             .help = "multi-scale retention: linear attention with a decay for each head",
                             .options = options,
                             .bytes = sizeof(retnet)},
                    .causal = causal,
                    .init = init,
                    .forward = forward,
                    .reserve = reserve,
                    .step = step};
