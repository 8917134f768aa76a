/* The harness of parts: every input, norm, position encoding, mixer, feed-forward, block and output of
 * the registry, with its default options and with each switch, choice and number in turn, inside a small
 * stack.
 *
 *   gradients   f64, every parameter, against central differences: relative error below 1e-6
 *   causality   ids from t on do not change logits before t, bit for bit (where claimed)
 *   step        feeding position by position gives the logits of the whole sequence
 *   state       grows with the positions or stays, as declared
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "models/model.h"
#include "parts.h"

enum { B = 2, T = 6, V = 7 };

static qp_tensor ids_of(qp_ctx *ctx, int from, int to) {
    int64_t ids[B * T];
    for (int b = 0; b < B; b++)
        for (int t = from; t < to; t++) ids[b * (to - from) + t - from] = (b * 5 + t * t * 3 + t) % V;
    return qp_from(ctx, QP_I64, 2, (int64_t[]){B, to - from}, ids);
}

/* The model's loss or, where an output is under test, the squares of what it gives, each weighed. */
static double loss_of(qp_model *m) {
    qp_scope  s = qp_enter(m->ctx);
    int64_t   labels[B * T];
    qp_tensor loss;
    for (int i = 0; i < B * T; i++) labels[i] = i % 5 == 4 ? -100 : i * 3 % V;
    if (m->output_count) {
        qp_record in = {0};
        qp_record_set(&in, "input_ids", ids_of(m->ctx, 0, T));
        qp_record out = qp_forward(m, in);
        qp_tensor y = qp_reshape(qp_record_get(&out, "extra"), 1, (int64_t[]){-1});
        loss = qp_sum(qp_mul(qp_square(y), qp_cos(qp_cast(qp_arange(m->ctx, QP_I64, qp_count(y)), QP_F64))), 0,
                      NULL, false);
    } else {
        loss = qp_model_loss(m, ids_of(m->ctx, 0, T), qp_from(m->ctx, QP_I64, 2, (int64_t[]){B, T}, labels));
    }
    double value = qp_item(loss);
    if (!m->ctx->mode.no_grad) qp_backward(loss);
    qp_leave(s);
    return value;
}

/* Fourth-order central difference, near enough that few kinks (relu) come between. */
static double difference(qp_model *m, double *x) {
    double h = 2e-5, at = *x, f[4];
    int    steps[] = {-2, -1, 1, 2};
    for (int i = 0; i < 4; i++) {
        *x = at + steps[i] * h;
        f[i] = loss_of(m);
    }
    *x = at;
    return (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * h);
}

static void check_gradients(qp_model *m, const char *what) {
    qp_state_dict params = qp_model_params(m);
    loss_of(m);
    bool   before = qp_no_grad(m->ctx, true);
    double largest = 0;
    for (int pass = 0; pass < 2; pass++) /* first the scale of all, for tensors whose gradient is 0 */
        for (int i = 0; i < params.count; i++) {
            int64_t n = qp_count(params.entries[i].tensor);
            double *x = qp_data_write(params.entries[i].tensor), *g = calloc((size_t)n, sizeof *g), worst = 0,
                   scale = 0;
            qp_tensor grad = qp_grad_of(params.entries[i].tensor);
            if (!qp_is_none(grad)) assert_int_equal(qp_read(grad, QP_F64, g, n), QP_OK);
            for (int64_t j = 0; j < n; j++) {
                scale = fmax(scale, fabs(g[j]));
                if (pass) worst = fmax(worst, fabs(g[j] - difference(m, &x[j])));
            }
            largest = fmax(largest, scale);
            if (pass && !(worst <= 1e-6 * fmax(scale, 1e-3 * largest)))
                fail_msg("%s: gradient of %s: error %.2e of %.2e", what, params.entries[i].name, worst, scale);
            qp_drop(grad);
            free(g);
        }
    qp_no_grad(m->ctx, before);
}

static void read_logits(qp_tensor t, float *out) {
    if (qp_read(t, QP_F32, out, qp_count(t)) != QP_OK) fail_msg("%s", qp_error(t.ctx));
}

static void check_causality(qp_model *m, const char *what) {
    float a[B * T * V], b[B * T * V];
    read_logits(qp_logits(m, ids_of(m->ctx, 0, T)), a);
    for (int cut = 1; cut < T; cut++) {
        int64_t   ids[B * T];
        qp_tensor changed = ids_of(m->ctx, 0, T);
        assert_int_equal(qp_read(changed, QP_I64, ids, B * T), QP_OK);
        for (int i = 0; i < B * T; i++)
            if (i % T >= cut) ids[i] = (ids[i] + 1) % V;
        qp_write(changed, QP_I64, ids, B * T);
        read_logits(qp_logits(m, changed), b);
        for (int i = 0; i < B * T * V; i++)
            if (i / V % T < cut && a[i] != b[i])
                fail_msg("%s: position %d sees beyond itself", what, i / V % T);
    }
}

static void check_steps(qp_model *m, const char *what) {
    float       whole[B * T * V], last[B * V];
    qp_session *s = qp_session_new(m, B, T, (qp_session_options){0});
    if (!s) fail_msg("%s: %s", what, qp_error(m->ctx));
    read_logits(qp_logits(m, ids_of(m->ctx, 0, T)), whole);
    for (int t = 0; t < T; t++) {
        read_logits(qp_session_feed(s, ids_of(m->ctx, t, t + 1), (qp_feed){0}), last);
        for (int i = 0; i < B * V; i++) {
            float expected = whole[(i / V * T + t) * V + i % V];
            if (fabsf(last[i] - expected) > 1e-5f * fmaxf(1, fabsf(expected)))
                fail_msg("%s: step %d differs from the whole sequence: %g, %g", what, t, last[i], expected);
        }
    }
}

static void check_state(qp_model *m, const char *what) {
    for (int64_t positions = 4; positions <= 8; positions += 4) {
        qp_state         state = {0};
        const qp_branch *mixer = &m->blocks[0].block.mixer;
        mixer->type->reserve(mixer->self, m->ctx, B, positions, &state);
        for (int i = 0; i < state.count; i++) {
            assert_int_equal(qp_size(state.tensors[i], 0), B);
            if (state.grows[i] && qp_size(state.tensors[i], 1) != positions)
                fail_msg("%s: state %d has %d positions, %d were asked for", what, i,
                         (int)qp_size(state.tensors[i], 1), (int)positions);
        }
    }
}

static qp_model *build(qp_ctx *ctx, json_t *config) {
    char     *text = json_dumps(config, 0);
    qp_model *m = qp_model_new(ctx, "config", text);
    free(text);
    return m;
}

static void check_stack(json_t *config, const char *what) {
    qp_ctx *ctx = qp_open((qp_options){.threads = 1, .seed = 4});
    ctx->param_dtype = QP_F64;
    qp_model *m = build(ctx, config);
    if (!m) fail_msg("%s: %s", what, qp_error(ctx));
    check_gradients(m, what);
    if (qp_failed(ctx)) fail_msg("%s: %s", what, qp_error(ctx));
    qp_close(ctx);

    ctx = qp_open((qp_options){.threads = 2, .seed = 4});
    m = build(ctx, config);
    qp_no_grad(ctx, true);
    qp_set_training(m->module, false); /* what serves: an expert's capacity lets positions see each other */
    const qp_branch *mixer = &m->blocks[0].block.mixer;
    bool             claimed = qp_model_info_of(m).causal;
    if (claimed) check_causality(m, what);
    if (claimed && mixer->type->step) check_steps(m, what);
    if (mixer->type->reserve) check_state(m, what);
    if (qp_failed(ctx)) fail_msg("%s: %s", what, qp_error(ctx));
    qp_close(ctx);
}

static void walk(qp_part_kind kind, const char *role) { parts_walk(kind, role, check_stack); }

static void norms(void **state) {
    (void)state;
    walk(QP_PART_NORM, "norm");
}
static void positions(void **state) {
    (void)state;
    walk(QP_PART_POSITION, "position");
}
static void mixers(void **state) {
    (void)state;
    walk(QP_PART_MIXER, "mixer");
}
static void ffns(void **state) {
    (void)state;
    walk(QP_PART_FFN, "ffn");
}
static void blocks(void **state) {
    (void)state;
    walk(QP_PART_BLOCK, "block");
}

static void inputs(void **state) {
    (void)state;
    walk(QP_PART_INPUT, "input");
}
static void outputs(void **state) {
    (void)state;
    const qp_part *part;
    for (int i = 0; (part = qp_part_at(NULL, QP_PART_OUTPUT, i)); i++) {
        if (!((const qp_output_type *)(const void *)part)->whole) parts_walk_one("output", part, check_stack);
        parts_walk_one("outputs", part, check_stack);
    }
}

/* Every initialisation leaves finite values, and those that claim a spread have it. */
static void inits(void **state) {
    (void)state;
    qp_ctx        *ctx = qp_open((qp_options){.threads = 1});
    const qp_part *init;
    int            checked = 0;
    for (; (init = qp_part_at(NULL, QP_PART_INIT, checked)); checked++) {
        static float x[64 * 48];
        char         spec[64];
        qp_tensor    t = qp_full(ctx, QP_F32, 2, (int64_t[]){64, 48}, NAN);
        snprintf(spec, sizeof spec, "%s:0.5", init->name);
        qp_init(t, spec);
        assert_int_equal(qp_read(t, QP_F32, x, 64 * 48), QP_OK);
        for (int j = 0; j < 64 * 48; j++) assert_true(isfinite(x[j]));
    }
    assert_false(qp_failed(ctx));
    qp_close(ctx);
    assert_true(checked > 8);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(norms),   cmocka_unit_test(positions),
                                       cmocka_unit_test(mixers),  cmocka_unit_test(ffns),
                                       cmocka_unit_test(blocks),  cmocka_unit_test(inputs),
                                       cmocka_unit_test(outputs), cmocka_unit_test(inits)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
