/* Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1): keys and values of all heads come
 * from one short vector for each position.
 *
 *   c = norm(x w_c^T) [C],   k_R = rotate(x w_R^T) [R], the same for all heads
 *   k_h = [c w_kh^T, k_R],   v_h = c w_vh^T,   q_h = [q_N, rotate(q_R)],   q = x w_q^T or norm(x w_qa^T) w_qb^T
 *   o_h = softmax(scale q_h k_h^T) v_h -> o w_o^T + residual
 *
 * State: c and k_R of all positions. Steps never make keys of it: q_N k_N = (q_N w_kh) c, and what is summed
 * over positions is c, then made a value. */
#include <math.h>

#include "nn/heads.h"

typedef struct {
    int64_t            heads, plain, turned, rank, value; /* H; q_N; R; C; v_h */
    double             scale;
    bool               causal;
    const qp_position *position;
    qp_nn_linear      *q, *q_a, *q_b, *kv_a, *kv_b, *out; /* q, or q_a and q_b */
    qp_tensor          q_norm, kv_norm;
} mla;

#define EPS 1e-6

static const qp_option options[] = {
    OPTION_INT("heads", 8, 1, 65536, "H"),
    OPTION_INT("head_width", 0, 0, 65536, "R, features of a head that turn; 0: D / H"),
    OPTION_INT("plain_width", 0, 0, 65536, "features of a head that do not; 0: R"),
    OPTION_INT("value_width", 0, 0, 65536, "of a head's values; 0: as plain_width"),
    OPTION_INT("rank", 0, 0, 65536, "C, of what is kept for each position; 0: 4 R"),
    OPTION_INT("q_rank", 0, 0, 65536, "queries pass a vector of this width, too; 0: they do not"),
    OPTION_BOOL("causal", 1, "a position sees itself and earlier ones only"),
    OPTION_BOOL("bias", 0, "bias of the products from x and of the output's"),
    OPTION_NUMBER("scale", 0, 0, 1e9, "of scores; 0: 1 / sqrt(R + plain_width)"),
    {0}};

static int64_t given(const qp_build *b, const char *name, int64_t fallback) {
    int64_t x = qp_setting_int(b, name);
    return x ? x : fallback;
}

static qp_tensor norm_weight(qp_build *b, const char *name, int64_t width) {
    qp_module *m = qp_module_new(b->ctx, b->module, name);
    return qp_param(m, "weight", "ones", 1, &width);
}

static void init(void *self, qp_build *b) {
    mla              *a = self;
    qp_linear_options own = {.init = b->init}, with = own, out = {.init = b->init_residual};
    int64_t           q_rank = qp_setting_int(b, "q_rank");
    with.bias = out.bias = qp_setting(b, "bias") != 0;
    a->heads = b->heads;
    a->turned = b->head_width;
    a->plain = given(b, "plain_width", a->turned);
    a->value = given(b, "value_width", a->plain);
    a->rank = given(b, "rank", 4 * a->turned);
    a->scale = qp_setting(b, "scale");
    if (a->scale == 0) a->scale = (b->scores != 0 ? b->scores : 1) / sqrt((double)(a->plain + a->turned));
    a->causal = qp_setting(b, "causal") != 0;
    a->position = b->position;
    int64_t q = a->heads * (a->plain + a->turned);
    if (q_rank) {
        a->q_a = qp_nn_linear_new(b->module, "q_a", b->width, q_rank, with);
        a->q_norm = norm_weight(b, "q_norm", q_rank);
        a->q_b = qp_nn_linear_new(b->module, "q_b", q_rank, q, own);
    } else a->q = qp_nn_linear_new(b->module, "q", b->width, q, own);
    a->kv_a = qp_nn_linear_new(b->module, "kv_a", b->width, a->rank + a->turned, with);
    a->kv_norm = norm_weight(b, "kv_norm", a->rank);
    a->kv_b = qp_nn_linear_new(b->module, "kv_b", a->rank, a->heads * (a->plain + a->value), own);
    a->out = qp_nn_linear_new(b->module, "out", a->heads * a->value, b->width, out);
}

static bool causal(const void *self) { return ((const mla *)self)->causal; }

static qp_tensor product(const qp_nn_linear *l, qp_tensor x) {
    return qp_nn_linear_forward(l, x, QP_ACT_NONE, QP_NONE);
}
static qp_tensor features(qp_tensor x, int64_t from, int64_t to) { return qp_slice(x, -1, from, to, 1); }
static qp_tensor joined(qp_tensor a, qp_tensor b) { return qp_concat(2, (qp_tensor[]){a, b}, -1); }

static qp_tensor rotate(const mla *a, qp_tensor x, const qp_sequence *s) {
    return a->position && a->position->type->rotate ? a->position->type->rotate(a->position->self, x, s) : x;
}

/* x's queries, [B, T, H, q_N] and [B, T, H, R], and what is kept of it: [B, T, 1, C + R]. */
typedef struct {
    qp_tensor plain, turned, kept;
} parts;

static parts project(const mla *a, qp_tensor x, const qp_sequence *s) {
    qp_tensor q = a->q ? product(a->q, x) : product(a->q_b, qp_rms_norm(product(a->q_a, x), a->q_norm, EPS));
    qp_tensor kv = qpi_split_heads(product(a->kv_a, x), 1);
    q = qpi_split_heads(q, a->heads);
    return (parts){.plain = features(q, 0, a->plain),
                   .turned = rotate(a, features(q, a->plain, a->plain + a->turned), s),
                   .kept = joined(qp_rms_norm(features(kv, 0, a->rank), a->kv_norm, EPS),
                                  rotate(a, features(kv, a->rank, a->rank + a->turned), s))};
}

static qp_tensor attend(const mla *a, qp_tensor q, qp_tensor k, qp_tensor v, const qp_sequence *s) {
    qp_scores scores = {.q = q, .k = k, .mask = s->mask, .scale = a->scale};
    scores.mask.causal = a->causal;
    if (a->position && a->position->type->bias) a->position->type->bias(a->position->self, &scores, s);
    return qp_attention(scores.q, k, v, scores.mask, scores.scale);
}

static qp_tensor finish(const mla *a, qp_tensor o, qp_tensor residual) {
    o = qp_reshape(o, 3, (int64_t[]){qp_size(o, 0), qp_size(o, 1), a->heads * a->value});
    return qp_nn_linear_forward(a->out, o, QP_ACT_NONE, residual);
}

/* Keys and values of every head, from what is kept. */
static qp_tensor attend_to_heads(const mla *a, parts p, qp_tensor kept, const qp_sequence *s) {
    int64_t   shape[] = {qp_size(kept, 0), qp_size(kept, 1), a->heads, a->turned};
    qp_tensor c = qp_reshape(features(kept, 0, a->rank), 3, (int64_t[]){shape[0], shape[1], a->rank});
    qp_tensor kv = qpi_split_heads(product(a->kv_b, c), a->heads);
    qp_tensor turned = qp_expand(features(kept, a->rank, a->rank + a->turned), 4, shape);
    return attend(a, joined(p.plain, p.turned), joined(features(kv, 0, a->plain), turned),
                  features(kv, a->plain, a->plain + a->value), s);
}

static qp_tensor forward(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s) {
    mla  *a = self;
    parts p = project(a, x, s);
    return finish(a, attend_to_heads(a, p, p.kept, s), residual);
}

/* ---- Step by step ------------------------------------------------------------------------------ */

static void reserve(void *self, qp_ctx *ctx, int64_t rows, int64_t positions, qp_state *state) {
    mla *a = self;
    qp_state_add(state, ctx, true, 4, (int64_t[]){rows, positions, 1, a->rank + a->turned});
}

/* x [B, T, H, I] -> [B, T, H, O], each head by its w [H, I, O]. */
static qp_tensor by_head(qp_tensor x, qp_tensor w) {
    int64_t   B = qp_size(x, 0), T = qp_size(x, 1), H = qp_size(x, 2);
    qp_tensor rows = qp_reshape(x, 3, (int64_t[]){B * T, H, qp_size(x, 3)});
    qp_tensor y = qp_transpose(qp_matmul(qp_transpose(rows, 0, 1), w), 0, 1);
    return qp_reshape(y, 4, (int64_t[]){B, T, H, qp_size(w, 2)});
}

/* The weights of keys and values are taken into queries and results. */
static qp_tensor attend_to_kept(const mla *a, parts p, qp_tensor kept, const qp_sequence *s) {
    qp_tensor w = qp_nn_linear_weight(a->kv_b);
    if (qp_dtype_block(qp_dtype_of(w)) > 1) w = qp_cast(w, QP_F32);
    w = qp_reshape(w, 3, (int64_t[]){a->heads, a->plain + a->value, a->rank});
    qp_tensor keys = qp_slice(w, 1, 0, a->plain, 1), values = qp_slice(w, 1, a->plain, a->plain + a->value, 1);
    qp_tensor q = joined(by_head(p.plain, keys), p.turned);
    return by_head(attend(a, q, kept, features(kept, 0, a->rank), s), qp_transpose(values, 1, 2));
}

static qp_tensor step(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s, qp_state *state) {
    mla  *a = self;
    parts p = project(a, x, s);
    qp_append(state->tensors[0], p.kept, s->mask.rows, s->mask.starts, s->counts);
    qp_tensor kept = qp_slice(state->tensors[0], 1, 0, s->keys, 1);
    if (!qp_nn_linear_wrapped(a->kv_b)) return finish(a, attend_to_kept(a, p, kept, s), residual);
    if (qp_dtype_of(kept) != qp_dtype_of(x)) kept = qp_cast(kept, qp_dtype_of(x));
    return finish(a, attend_to_heads(a, p, kept, s), residual);
}

QP_MIXER(mla) = {.part = {.name = "mla",
                          .source = "arXiv:2405.04434",
                          .help = "attention whose keys and values come from one short vector",
                          .options = options,
                          .bytes = sizeof(mla)},
                 .causal = causal,
                 .init = init,
                 .forward = forward,
                 .reserve = reserve,
                 .step = step};
