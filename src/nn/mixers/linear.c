/* Linear attention (Katharopoulos et al. 2020, arXiv:2006.16236): features f in place of the softmax,
 *
 *   o[t] = sum over s of (f(q[t]) f(k[s])) v[s] / (sum over s of f(q[t]) f(k[s]) + eps)
 *
 * with s <= t where causal, so that sums are carried instead of keys. f(x) is
 *   elu      elu(x) + 1
 *   relu     max(x, 0)
 *   taylor   [1, x / |x|]: weights 1 + cos(q, k), the exponential's first two terms (kexue.fm 7546)
 *   softmax  of q over its features, of k over the positions (Shen et al. 2021, arXiv:1812.01243), without a
 *            denominator; causal: over positions up to the query's own
 * A position encoding turns q and k before f.
 *
 * State: the sums S [H, K, V + 1]; with softmax S [H, K, V] and the sums of exponentials [H, K].
 */
#include "nn/heads.h"

typedef enum { ELU, RELU, TAYLOR, SOFTMAX } features;

typedef struct {
    qpi_heads heads;
    features  features;
    bool      causal;
    double    eps;
} linear;

static const qp_option options[] = {
    QPI_HEADS_OPTIONS,
    OPTION_BOOL("causal", 1, "a position sees itself and earlier ones only"),
    OPTION_CHOICE("features", 3, "elu|relu|taylor|softmax", "f, what stands for the softmax"),
    OPTION_NUMBER("eps", 1e-6, 0, 1, "added to the denominator"),
    {0}};

static void init(void *self, qp_build *b) {
    linear *l = self;
    l->features = (features)qp_setting_int(b, "features");
    l->causal = qp_setting(b, "causal") != 0;
    l->eps = qp_setting(b, "eps");
    qpi_heads_init(&l->heads, b, "linear", 0);
}

static bool causal(const void *self) { return ((const linear *)self)->causal; }

static qp_tensor direction_and_one(qp_tensor x) {
    qp_tensor norm = qp_sqrt(qp_affine(qp_sum(qp_square(x), 1, (int[]){-1}, true), 1, 1e-12));
    qp_tensor one =
        qp_full(x.ctx, qp_dtype_of(x), 4, (int64_t[]){qp_size(x, 0), qp_size(x, 1), qp_size(x, 2), 1}, 1);
    return qp_concat(2, (qp_tensor[]){one, qp_div(x, norm)}, -1);
}

static qp_tensor features_of(const linear *l, qp_tensor x) {
    switch (l->features) {
    case RELU: return qp_relu(x);
    case TAYLOR: return direction_and_one(x);
    default: return qp_affine(qp_elu(x), 1, 1);
    }
}

static qp_tensor see_all(const linear *l, qpi_qkv t, const qp_sequence *s) {
    qp_tensor present = qpi_present(t.k, s);
    if (l->features == SOFTMAX)
        return qpi_sum_all(qp_softmax(t.q, -1), qp_softmax(qpi_keep(t.k, present, -1e30), 1), t.v);
    return qpi_see_all(features_of(l, t.q), qpi_keep(features_of(l, t.k), present, 0), t.v, l->eps);
}

/* The causal forms, from a state (or none) to the next (or none). */
static qp_tensor see_softmax(qpi_qkv t, qp_state *state) {
    qp_linear_attention_options o = {0};
    qp_tensor                   k = qp_exp(t.k), sums = qp_cumsum(k, 1), end;
    int64_t                     T = qp_size(k, 1);
    if (state) {
        sums = qp_add(sums, qp_reshape(state->tensors[1], 4,
                                       (int64_t[]){qp_size(k, 0), 1, qp_size(k, 2), qp_size(k, 3)}));
        o.state = state->tensors[0];
    }
    qp_tensor y = qp_linear_attention(qp_div(qp_softmax(t.q, -1), sums), k, t.v, o, state ? &end : NULL);
    if (!state) return y;
    qp_state_set(state, 0, end);
    qp_state_set(state, 1,
                 qp_reshape(qp_contiguous(qp_slice(sums, 1, T - 1, T, 1)), 3,
                            (int64_t[]){qp_size(k, 0), qp_size(k, 2), qp_size(k, 3)}));
    return y;
}

static qp_tensor see_earlier(const linear *l, qpi_qkv t, qp_state *state) {
    if (l->features == SOFTMAX) return see_softmax(t, state);
    qp_linear_attention_options o = {
        .normalize = true, .eps = l->eps, .state = state ? state->tensors[0] : QP_NONE};
    qp_tensor end,
        y = qp_linear_attention(features_of(l, t.q), features_of(l, t.k), t.v, o, state ? &end : NULL);
    if (state) qp_state_set(state, 0, end);
    return y;
}

static qp_tensor forward(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s) {
    linear *l = self;
    qpi_qkv t = qpi_heads_project(&l->heads, x, s);
    qpi_one_segment(s, "linear");
    return qpi_heads_end(&l->heads, l->causal ? see_earlier(l, t, NULL) : see_all(l, t, s), residual);
}

static void reserve(void *self, qp_ctx *ctx, int64_t rows, int64_t positions, qp_state *state) {
    linear *l = self;
    int64_t width = l->heads.width + (l->features == TAYLOR),
            columns = l->heads.values + (l->features != SOFTMAX);
    (void)positions;
    qp_state_add(state, ctx, false, 4, (int64_t[]){rows, l->heads.heads, width, columns});
    if (l->features == SOFTMAX) qp_state_add(state, ctx, false, 3, (int64_t[]){rows, l->heads.heads, width});
}

static qp_tensor step(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s, qp_state *state) {
    linear *l = self;
    return qpi_heads_end(&l->heads, see_earlier(l, qpi_heads_project(&l->heads, x, s), state), residual);
}

QP_MIXER(linear) = {.part = {.name = "linear",
                             .source = "arXiv:2006.16236, arXiv:1812.01243",
                             .help = "attention without a softmax: features of q and k, a state of fixed size",
                             .options = options,
                             .bytes = sizeof(linear)},
                    .causal = causal,
                    .init = init,
                    .forward = forward,
                    .reserve = reserve,
                    .step = step};
