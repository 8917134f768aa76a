/* Multi-head attention with grouped queries (Vaswani et al. 2017, arXiv:1706.03762; Ainslie et
 * al. 2023, arXiv:2305.13245).
 *
 *   x [B, T, D] -> q [B, T, H, K], k and v [B, T, G, K]
 *   o = attention(rotate(norm(q)), rotate(norm(k)), v) [B, T, H K] -> o w_o^T + residual
 *
 * norm: RMS norm of each head (Qwen3, arXiv:2505.09388) or of all heads together (OLMo 2,
 * arXiv:2501.00656), where asked for (Henry et al. 2020, arXiv:2010.04245).
 *
 * State: keys (rotated) and values of all positions so far, or of those within the window.
 */
#include <math.h>

#include "core/core.h"
#include "nn/mixers/attention.h"

static const qp_option options[] = {QPI_ATTENTION_OPTIONS, {0}};

static qp_tensor norm_weight(const qpi_attention *a, qp_build *b, const char *name, int64_t width) {
    qp_module *m = a->norm ? qp_module_new(b->ctx, b->module, name) : NULL;
    return m ? qp_param(m, "weight", a->unit_offset ? "zeros" : "ones", 1, &width) : QP_NONE;
}

static void init_norms(qpi_attention *a, qp_build *b) {
    bool all = a->norm == QPI_QK_NORM_OF_ALL;
    a->norm_eps = qp_setting(b, "qk_norm_eps");
    a->unit_offset = qp_setting(b, "qk_norm_unit_offset") != 0;
    a->q_norm = norm_weight(a, b, "q_norm", all ? a->heads * a->width : a->width);
    a->k_norm = norm_weight(a, b, "k_norm", all ? a->groups * a->width : a->width);
}

void qpi_attention_init(void *self, qp_build *b) {
    qpi_attention *a = self;
    a->norm = (qpi_qk_norm)qp_setting_int(b, "qk_norm");
    a->softcap = qp_setting(b, "softcap");
    a->rotate_values = qp_setting(b, "rotate_values") != 0;
    a->log_n = qp_setting(b, "log_n");
    a->heads = b->heads;
    a->groups = qp_setting_int(b, "kv_heads");
    a->width = b->head_width;
    a->causal = qp_setting(b, "causal") != 0;
    a->window = qp_setting_int(b, "window");
    a->position = b->position;
    if (!a->groups) a->groups = a->heads;
    if (a->heads % a->groups) {
        qp_fail(b->ctx, QP_ERR_ARGUMENT, "attention: kv_heads %lld do not divide heads %lld",
                (long long)a->groups, (long long)a->heads);
        return;
    }
    a->scale = qp_setting(b, "scale");
    if (a->scale == 0 && qp_setting(b, "unscaled")) a->scale = 1;
    if (a->scale == 0) a->scale = (b->scores != 0 ? b->scores : 1) / sqrt((double)a->width);
    if (qp_setting(b, "scale_by_layer")) a->scale /= b->layer + 1;
    int64_t           q = a->heads * a->width, kv = a->groups * a->width;
    qp_linear_options in = {.bias = qp_setting(b, "bias") != 0, .init = b->init}, value = in, query = in;
    qp_linear_options out = {.bias = qp_setting(b, "out_bias") != 0, .init = b->init_residual};
    value.init = b->init_value;
    if (qp_setting(b, "unscaled")) query.gain = 1 / sqrt((double)a->width);
    a->q = qp_nn_linear_new(b->module, "q", b->width, q, query);
    a->k = qp_nn_linear_new(b->module, "k", b->width, kv, in);
    a->v = qp_nn_linear_new(b->module, "v", b->width, kv, value);
    a->out = qp_nn_linear_new(b->module, "out", q, b->width, out);
    init_norms(a, b);
}

bool qpi_attention_causal(const void *self) { return ((const qpi_attention *)self)->causal; }

typedef struct {
    qp_tensor q, k, v;
} triple;

static qp_tensor normed(const qpi_attention *a, qp_tensor x, qp_tensor weight) {
    return qp_rms_norm(x, a->unit_offset ? qp_affine(weight, 1, 1) : weight, a->norm_eps);
}

/* A product as [B, T, heads, K]; norm QP_NONE: none. */
static qp_tensor by_heads(const qpi_attention *a, qp_tensor y, int64_t heads, qp_tensor norm) {
    bool some = !qp_is_none(norm);
    if (some && a->norm == QPI_QK_NORM_OF_ALL) y = normed(a, y, norm);
    y = qp_reshape(y, 4, (int64_t[]){qp_size(y, 0), qp_size(y, 1), heads, a->width});
    return some && a->norm == QPI_QK_NORM_OF_HEAD ? normed(a, y, norm) : y;
}

/* More keys make attention flatter: the logarithm keeps it as sharp as it was at n (Su 2021,
 * kexue.fm/archives/8823). */
static qp_tensor sharpened(const qpi_attention *a, qp_tensor q, const qp_sequence *s) {
    qp_tensor place = qp_affine(qp_cast(s->positions, QP_F64), 1, 1);
    qp_tensor grown =
        qp_maximum(qp_affine(qp_log(place), 1 / log(a->log_n), 0), qp_full(q.ctx, QP_F64, 0, NULL, 1));
    int64_t shape[] = {qp_size(place, 0), qp_size(place, 1), 1, 1};
    return qp_mul(q, qp_cast(qp_reshape(grown, 4, shape), qp_dtype_of(q)));
}

static triple project_all(const qpi_attention *a, qp_tensor x, const qp_sequence *s) {
    qp_tensor y[3];
    qp_nn_linear_forward_many(3, (const qp_nn_linear *[]){a->q, a->k, a->v}, x, y);
    triple t = {by_heads(a, y[0], a->heads, a->q_norm), by_heads(a, y[1], a->groups, a->k_norm),
                by_heads(a, y[2], a->groups, QP_NONE)};
    if (a->position && a->position->type->rotate) {
        t.q = a->position->type->rotate(a->position->self, t.q, s);
        t.k = a->position->type->rotate(a->position->self, t.k, s);
        if (a->rotate_values) t.v = a->position->type->rotate(a->position->self, t.v, s);
    }
    if (a->log_n > 1) t.q = sharpened(a, t.q, s);
    return t;
}

static qp_tensor attend(const qpi_attention *a, triple t, qp_tensor residual, const qp_sequence *s) {
    qp_scores scores = {.q = t.q, .k = t.k, .mask = s->mask, .scale = a->scale};
    scores.mask.causal = a->causal;
    scores.mask.window = a->window;
    scores.mask.softcap = a->softcap;
    scores.mask.pattern = a->pattern;
    if (a->position && a->position->type->bias) a->position->type->bias(a->position->self, &scores, s);
    qp_tensor o = qp_attention(scores.q, t.k, t.v, scores.mask, scores.scale);
    o = qp_reshape(o, 3, (int64_t[]){qp_size(t.q, 0), qp_size(t.q, 1), a->heads * a->width});
    return qp_nn_linear_forward(a->out, o, QP_ACT_NONE, residual);
}

qp_tensor qpi_attention_forward(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s) {
    qpi_attention *a = self;
    return attend(a, project_all(a, x, s), residual, s);
}

void qpi_attention_reserve(void *self, qp_ctx *ctx, int64_t rows, int64_t positions, qp_state *state) {
    qpi_attention *a = self;
    /* blocks of a pattern are counted from the first place */
    if (!a->pattern.block) state->window = a->window;
    for (int i = 0; i < 2; i++)
        qp_state_add(state, ctx, true, 4, (int64_t[]){rows, positions, a->groups, a->width});
}

qp_tensor qpi_attention_step(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s,
                             qp_state *state) {
    qpi_attention *a = self;
    triple         t = project_all(a, x, s);
    qp_sequence    own = *s;
    if (!qp_is_none(state->starts)) {
        own.mask.starts = state->starts;
        own.mask.lengths = state->lengths;
        own.keys = state->keys;
    }
    qp_append(state->tensors[0], t.k, own.mask.rows, own.mask.starts, own.counts);
    qp_append(state->tensors[1], t.v, own.mask.rows, own.mask.starts, own.counts);
    t.k = qp_slice(state->tensors[0], 1, 0, own.keys, 1);
    t.v = qp_slice(state->tensors[1], 1, 0, own.keys, 1);
    return attend(a, t, residual, &own);
}

QP_MIXER(attention) = {.part = {.name = "attention",
                                .source = "arXiv:1706.03762, arXiv:2305.13245",
                                .help = "multi-head attention, grouped queries, window",
                                .options = options,
                                .bytes = sizeof(qpi_attention)},
                       .causal = qpi_attention_causal,
                       .init = qpi_attention_init,
                       .forward = qpi_attention_forward,
                       .reserve = qpi_attention_reserve,
                       .step = qpi_attention_step};
