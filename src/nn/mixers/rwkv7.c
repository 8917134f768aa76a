/* RWKV 7, "Goose" (Peng et al. 2025, arXiv:2503.14456): for each head a matrix that decays and forgets what it
 * had stored under the new key (a delta rule whose rate a is learned for each channel).
 *
 *   x_r = token_shift(x, x_r), and so for w, k, v, a, g
 *   w = exp(-e^(-1/2) sigmoid(w0 + tanh(x_w w1) w2))     a = sigmoid(a0 + (x_a a1) a2)
 *   v = value(x_v), moved towards that of the first such layer by sigmoid(v0 + (x_v v1) v2)
 *   q = key(x_k) k_k, each head of length 1              k = key(x_k) (1 + (a - 1) k_a)
 *   y = norm of each head(wkv(r, w, k, v, a: -q, b: q a)) + (r . k r_k) v
 *   output(y sigmoid(x_g g1) g2) + residual
 *
 * The field "rwkv7.v" has the first layer's v. State: x of the position before and the matrices. Names of
 * parameters are the authors'.
 */
#include "nn/rwkv.h"

enum { R, W, KEY, VALUE, A, G, PARTS };

typedef struct {
    rwkv_heads    heads;
    qp_tensor     mix[PARTS], w0, a0, v0, k_k, k_a, r_k; /* v0 QP_NONE: the first layer */
    rwkv_low      w, a, v, g;
    qp_nn_linear *key, *value, *receptance, *output;
} rwkv7;

#define RANK(n, h) OPTION_INT(n, 0, 0, 65536, h)

static const qp_option options[] = {RWKV_HEAD_OPTIONS,
                                    RANK("decay_rank", "rank of w; 0: the authors', which grows with D"),
                                    RANK("a_rank", "rank of a; 0: the authors'"),
                                    RANK("v_rank", "rank of v's share of the first layer's; 0: the authors'"),
                                    RANK("gate_rank", "rank of the gate; 0: the authors'"),
                                    {0}};

/* given, or factor D^power to whole 32s, as the authors train */
static int64_t rank_of(qp_build *b, const char *name, double factor, double power) {
    int64_t given = qp_setting_int(b, name),
            rank = 32 * (int64_t)round(factor * pow((double)b->width, power) / 32);
    return given ? given : rank > 32 ? rank : 32;
}

static void init(void *self, qp_build *b) {
    rwkv7            *m = self;
    int64_t           D = b->width, row[3] = {1, 1, D};
    qp_linear_options in = {.init = b->init}, value = {.init = b->init_value}, out = {.init = b->init_residual};
    if (!rwkv_heads_init(&m->heads, b)) return;
    for (int i = 0; i < PARTS; i++) {
        char name[4];
        snprintf(name, sizeof name, "x_%c", "rwkvag"[i]);
        m->mix[i] = rwkv_param(b, name, "rwkv_back", 3, row);
    }
    m->w0 = rwkv_param(b, "w0", "rwkv_decay", 3, row);
    m->w = rwkv_low_new(b, "w1", "w2", rank_of(b, "decay_rank", 1.8, 0.5));
    m->a0 = qp_param(b->module, "a0", "zeros", 3, row);
    m->a = rwkv_low_new(b, "a1", "a2", rank_of(b, "a_rank", 1.8, 0.5));
    if (b->layer) {
        m->v0 = qp_param(b->module, "v0", "ones", 3, row);
        m->v = rwkv_low_new(b, "v1", "v2", rank_of(b, "v_rank", 1.3, 0.5));
    }
    m->g = rwkv_low_new(b, "g1", "g2", rank_of(b, "gate_rank", 0.6, 0.8));
    m->k_k = qp_param(b->module, "k_k", "constant:0.85", 3, row);
    m->k_a = qp_param(b->module, "k_a", "ones", 3, row);
    m->r_k = qp_param(b->module, "r_k", "zeros", 2, (int64_t[]){m->heads.heads, m->heads.width});
    m->receptance = qp_nn_linear_new(b->module, "receptance", D, D, in);
    m->key = qp_nn_linear_new(b->module, "key", D, D, in);
    m->value = qp_nn_linear_new(b->module, "value", D, D, value);
    m->output = qp_nn_linear_new(b->module, "output", D, D, out);
    rwkv_heads_norm(&m->heads, b);
}

static bool causal(const void *self) {
    (void)self;
    return true;
}

static qp_tensor mixed(const rwkv7 *m, const rwkv_shift *s, int part) { return rwkv_mixed(s, m->mix[part]); }

static qp_tensor gated(const rwkv_low *l, qp_tensor x, qp_tensor shift) {
    return qp_sigmoid(qp_add(rwkv_low_rank(l, x, NULL), qpi_like(shift, x)));
}

/* The first layer hands its v on; later ones move theirs towards it. */
static qp_tensor values(const rwkv7 *m, qp_tensor x, const qp_sequence *s) {
    qp_tensor v = qp_nn_linear_forward(m->value, x, QP_ACT_NONE, QP_NONE),
              first = qp_sequence_get(s, "rwkv7.v");
    if (qp_is_none(first)) qp_sequence_add(s, "rwkv7.v", v);
    if (qp_is_none(first) || qp_is_none(m->v0)) return v;
    return qp_add(v, qp_mul(qp_sub(first, v), gated(&m->v, x, m->v0)));
}

/* Each head of length 1. */
static qp_tensor unit(const rwkv7 *m, qp_tensor k) {
    double K = (double)m->heads.width;
    return qp_affine(qp_rms_norm(qpi_split_heads(k, m->heads.heads), QP_NONE, 1e-24 / K), 1 / sqrt(K), 0);
}

static qp_tensor step(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s, qp_state *state) {
    rwkv7            *m = self;
    const rwkv_heads *h = &m->heads;
    rwkv_shift        shift = rwkv_shift_open(x, state, 0);
    qp_tensor         r = qpi_split_heads(
        qp_nn_linear_forward(m->receptance, mixed(m, &shift, R), QP_ACT_NONE, QP_NONE), h->heads);
    qp_tensor w = qp_add(rwkv_low_rank(&m->w, mixed(m, &shift, W), qp_tanh), qpi_like(m->w0, x));
    qp_tensor k = qp_nn_linear_forward(m->key, mixed(m, &shift, KEY), QP_ACT_NONE, QP_NONE);
    qp_tensor v = qpi_split_heads(values(m, mixed(m, &shift, VALUE), s), h->heads);
    qp_tensor a = gated(&m->a, mixed(m, &shift, A), m->a0);
    qp_tensor g = rwkv_low_rank(&m->g, mixed(m, &shift, G), qp_sigmoid),
              q = unit(m, qp_mul(k, qpi_like(m->k_k, k)));
    k = qpi_split_heads(qp_mul(k, qp_affine(qp_mul(qp_affine(a, 1, -1), qpi_like(m->k_a, a)), 1, 1)), h->heads);
    w = qp_exp(qp_affine(qp_sigmoid(w), -exp(-0.5), 0));
    qp_wkv_inputs in = {.r = r,
                        .w = qpi_split_heads(w, h->heads),
                        .k = k,
                        .v = v,
                        .a = qp_neg(q),
                        .b = qp_mul(q, qpi_split_heads(a, h->heads))};
    qp_tensor     y = rwkv_normed(h, rwkv_run(in, state));
    qp_tensor     own = qp_mul(qp_sum(qp_mul(qp_mul(r, k), qpi_like(m->r_k, k)), 1, (int[]){-1}, true), v);
    y = qp_mul(qp_add(y, qpi_join_heads(own)), g);
    return qp_nn_linear_forward(m->output, y, QP_ACT_NONE, residual);
}

static qp_tensor forward(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s) {
    qpi_one_segment(s, "rwkv7");
    return step(self, x, residual, s, NULL);
}

static void reserve(void *self, qp_ctx *ctx, int64_t rows, int64_t positions, qp_state *state) {
    (void)positions;
    rwkv_heads_reserve(&((rwkv7 *)self)->heads, ctx, rows, state);
}

QP_MIXER(rwkv7) = {.part = {.name = "rwkv7",
                            .source = "arXiv:2503.14456",
                            .help = "RWKV 7: a matrix for each head that forgets what a new key replaces",
                            .options = options,
                            .bytes = sizeof(rwkv7)},
                   .causal = causal,
                   .init = init,
                   .forward = forward,
                   .reserve = reserve,
                   .step = step};
