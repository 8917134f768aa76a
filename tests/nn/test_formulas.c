/* Every block of the registry against its formula, put together from its own norms and branches; against theirs, the
 * activations of `mlp` and the mixer `average`, of which there was no other implementation at hand. Weights of norms and
 * of `rezero` are drawn, so that none stands in for another. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "models/model.h"
#include "../relative_error.h"

enum { T = 7, D = 12, LAYERS = 3 };

static qp_ctx   *ctx;
static qp_block *block;
static qp_tensor a; /* of rezero [2] */

static qp_tensor norm(int i, qp_tensor x) { return block->norms[i].type->forward(block->norms[i].self, x); }
static qp_tensor run(const qp_branch *b, qp_tensor x) {
    qp_sequence s = {.positions = qp_reshape(qp_arange(ctx, QP_I64, T), 2, (int64_t[]){1, T}), .length = T};
    return b->type->forward(b->self, x, QP_NONE, &s);
}
static qp_tensor mix(qp_tensor x) { return run(&block->mixer, x); }
static qp_tensor ffn(qp_tensor x) { return run(&block->ffn, x); }
static qp_tensor times(qp_tensor x, double by) { return qp_affine(x, by, 0); }

static qp_tensor pre_norm(qp_tensor x) {
    qp_tensor h = qp_add(x, times(mix(norm(0, x)), 0.25));
    return qp_add(h, times(ffn(norm(1, h)), 0.25));
}
static qp_tensor plain_pre_norm(qp_tensor x) {
    qp_tensor h = qp_add(x, mix(norm(0, x)));
    return qp_add(h, ffn(norm(1, h)));
}
static qp_tensor post_norm(qp_tensor x) {
    qp_tensor h = norm(0, qp_add(x, mix(x)));
    return norm(1, qp_add(h, ffn(h)));
}
static qp_tensor res_post_norm(qp_tensor x) {
    qp_tensor h = qp_add(x, norm(0, mix(x)));
    return qp_add(h, norm(1, ffn(h)));
}
static qp_tensor sandwich(qp_tensor x) {
    qp_tensor h = qp_add(x, norm(1, mix(norm(0, x))));
    return qp_add(h, norm(3, ffn(norm(2, h))));
}
static qp_tensor parallel(qp_tensor x) {
    qp_tensor n = norm(0, x);
    return qp_add(qp_add(x, mix(n)), ffn(n));
}
static qp_tensor deep_norm(qp_tensor x) {
    double    by = 1.5650845800732873; /* (2 LAYERS)^(1/4) */
    qp_tensor h = norm(0, qp_add(times(x, by), mix(x)));
    return norm(1, qp_add(times(h, by), ffn(h)));
}
static qp_tensor rezero(qp_tensor x) {
    qp_tensor h = qp_add(x, qp_mul(mix(x), qp_slice(a, 0, 0, 1, 1)));
    return qp_add(h, qp_mul(ffn(h), qp_slice(a, 0, 1, 2, 1)));
}

static const struct {
    const char *name, *config;
    qp_tensor (*formula)(qp_tensor x);
} cases[] = {{"pre_norm", "\"type\": \"pre_norm\"", plain_pre_norm},
             {"pre_norm", "\"type\": \"pre_norm\", \"residual_scale\": 0.25", pre_norm},
             {"post_norm", "\"type\": \"post_norm\"", post_norm},
             {"res_post_norm", "\"type\": \"res_post_norm\"", res_post_norm},
             {"sandwich", "\"type\": \"sandwich\"", sandwich},
             {"parallel", "\"type\": \"parallel\"", parallel},
             {"deep_norm", "\"type\": \"deep_norm\"", deep_norm},
             {"rezero", "\"type\": \"rezero\"", rezero}};

static const char attention[] = "\"type\": \"attention\", \"heads\": 2";

static qp_model *make(const char *mixer, const char *block_config, const char *ffn_config) {
    char config[700];
    ctx = qp_open((qp_options){.threads = 1, .seed = 5});
    snprintf(config, sizeof config,
             "{\"model_type\": \"quipu\", \"vocab_size\": 9, \"hidden_size\": %d, \"num_hidden_layers\": %d,"
             " \"max_position_embeddings\": %d, \"position\": {\"type\": \"rope\"}, \"norm\": {\"type\": "
             "\"layer_norm\"},"
             " \"mixer\": {%s}, \"block\": {%s}, \"ffn\": {\"type\": \"mlp\", %s}}",
             D, LAYERS, T, mixer, block_config, ffn_config);
    qp_model *m = qp_model_new(ctx, "test", config);
    if (!m) fail_msg("%s", qp_error(ctx));
    qp_state_dict all = qp_model_params(m);
    for (int i = 0; i < all.count; i++) qp_init(all.entries[i].tensor, "normal:0.4");
    qp_no_grad(ctx, true);
    return m;
}

static qp_tensor parameter(qp_model *m, const char *name) {
    qp_state_dict all = qp_model_params(m);
    for (int i = 0; i < all.count; i++)
        if (!strcmp(all.entries[i].name, name)) return all.entries[i].tensor;
    return QP_NONE;
}

static void formulas(void **state) {
    bool tried[20] = {false};
    (void)state;
    for (size_t k = 0; k < sizeof cases / sizeof cases[0]; k++) {
        qp_model            *m = make(attention, cases[k].config, "\"width\": 20");
        const qp_block_type *type = NULL;
        for (int i = 0; qp_part_at(NULL, QP_PART_BLOCK, i); i++)
            if (!strcmp(qp_part_at(NULL, QP_PART_BLOCK, i)->name, cases[k].name)) {
                tried[i] = true;
                type = (const qp_block_type *)qp_part_at(NULL, QP_PART_BLOCK, i);
            }
        assert_non_null(type);
        block = &m->blocks[1].block;
        a = parameter(m, "blocks.1.block.weight");
        assert_int_equal(qp_is_none(a), strcmp(cases[k].name, "rezero") != 0);
        qp_tensor   x = qp_randn(ctx, QP_F32, 3, (int64_t[]){1, T, D});
        qp_sequence s = {.positions = qp_reshape(qp_arange(ctx, QP_I64, T), 2, (int64_t[]){1, T}), .length = T};
        double      error = relative_error(type->forward(block, x, &s, NULL), cases[k].formula(x));
        if (!(error < 1e-6)) fail_msg("%s: %g", cases[k].config, error);
        qp_close(ctx);
    }
    for (int i = 0; qp_part_at(NULL, QP_PART_BLOCK, i); i++)
        if (!tried[i]) fail_msg("%s: no formula", qp_part_at(NULL, QP_PART_BLOCK, i)->name);
}

static qp_tensor same(qp_tensor x) { return x; }
static qp_tensor relu2(qp_tensor x) { return qp_square(qp_relu(x)); }

/* What a branch gives passes dropout before it joins; masks follow one another in the context's stream. */
static void dropout(void **state) {
    (void)state;
    qp_model   *m = make(attention, "\"type\": \"pre_norm\"", "\"width\": 20");
    qp_tensor   x = qp_randn(ctx, QP_F32, 3, (int64_t[]){1, T, D});
    qp_sequence s = {.positions = qp_reshape(qp_arange(ctx, QP_I64, T), 2, (int64_t[]){1, T}), .length = T};
    block = &m->blocks[1].block;
    s.dropout = 0.4;
    qp_set_random(ctx, 9, 100);
    qp_tensor y = qp_block_mixer(block, x, x, &s, NULL), z = qp_block_ffn(block, y, y, &s, NULL);
    qp_set_random(ctx, 9, 100);
    qp_tensor h = qp_add(x, qp_dropout(mix(x), 0.4)), out = qp_add(h, qp_dropout(ffn(h), 0.4));
    assert_true(relative_error(y, h) < 1e-6 && relative_error(z, out) < 1e-6);
    assert_true(relative_error(y, qp_add(x, mix(x))) > 0.1);
    qp_close(ctx);
}

/* x w^T + b of a linear's parameters. */
static qp_tensor product(qp_model *m, const char *name, qp_tensor x) {
    char of[80];
    snprintf(of, sizeof of, "%s.weight", name);
    qp_tensor y = qp_matmul(x, qp_transpose(parameter(m, of), 0, 1));
    snprintf(of, sizeof of, "%s.bias", name);
    return qp_add(y, parameter(m, of));
}

/* act(x w_1^T + b_1) w_2^T + b_2 */
static void activations(void **state) {
    static const struct {
        const char *name;
        qp_tensor (*f)(qp_tensor x);
    } acts[] = {{"none", same},    {"relu", qp_relu}, {"gelu", qp_gelu}, {"gelu_tanh", qp_gelu_tanh},
                {"silu", qp_silu}, {"relu2", relu2}};
    (void)state;
    for (size_t k = 0; k < sizeof acts / sizeof acts[0]; k++) {
        char config[80];
        snprintf(config, sizeof config, "\"width\": 20, \"act\": \"%s\"", acts[k].name);
        qp_model *m = make(attention, "\"type\": \"pre_norm\"", config);
        block = &m->blocks[0].block;
        qp_tensor x = qp_randn(ctx, QP_F32, 3, (int64_t[]){1, T, D});
        qp_tensor inner = acts[k].f(product(m, "blocks.0.ffn.up", x));
        double    error = relative_error(ffn(x), product(m, "blocks.0.ffn.down", inner));
        if (!(error < 1e-5)) fail_msg("%s: %g", acts[k].name, error);
        qp_close(ctx);
    }
}

/* Average attention, each mean summed anew. */
static void average(void **state) {
    (void)state;
    qp_model *m = make("\"type\": \"average\", \"width\": 10", "\"type\": \"pre_norm\"", "\"width\": 20");
    block = &m->blocks[0].block;
    qp_tensor x = qp_randn(ctx, QP_F32, 3, (int64_t[]){1, T, D}), rows[T];
    for (int t = 0; t < T; t++) rows[t] = qp_mean(qp_slice(x, 1, 0, t + 1, 1), 1, (int[]){1}, true);
    qp_tensor g = qp_relu(product(m, "blocks.0.mixer.up", qp_concat(T, rows, 1)));
    g = product(m, "blocks.0.mixer.down", g);
    qp_tensor both = qp_concat(2, (qp_tensor[]){x, g}, -1);
    qp_tensor gates = qp_sigmoid(product(m, "blocks.0.mixer.gate", both));
    qp_tensor y = qp_add(qp_mul(qp_slice(gates, -1, 0, D, 1), x), qp_mul(qp_slice(gates, -1, D, 2 * D, 1), g));
    double    error = relative_error(mix(x), y);
    if (!(error < 1e-5)) fail_msg("%g", error);
    qp_close(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(formulas), cmocka_unit_test(activations),
                                       cmocka_unit_test(average), cmocka_unit_test(dropout)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
