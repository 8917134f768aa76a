/* The harness of parts: every input, norm, position encoding, mixer, feed-forward, block and output of
 * the registry, with its default options and with each switch, choice and number in turn, inside a small
 * stack.
 *
 *   gradients   f64, every parameter, against central differences: relative error below 1e-6
 *   causality   ids from t on do not change logits before t, bit for bit (where claimed)
 *   step        feeding position by position gives the logits of the whole sequence
 *   state       grows with the positions or stays, as declared
 */
#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "models/model.h"
#include "quipu/quipu.h"

enum { B = 2, T = 6, V = 7 };

static json_t *base_config(void) {
    json_error_t error;
    json_t      *c = json_loads("{\"model_type\": \"quipu\", \"vocab_size\": 7, \"hidden_size\": 8, \"num_hidden_layers\": 1,"
                                " \"max_position_embeddings\": 8, \"tie_word_embeddings\": false, \"initializer_range\": 0.4,"
                                " \"position\": {\"type\": \"rope\"}, \"mixer\": {\"type\": \"attention\", \"heads\": 2},"
                                " \"ffn\": {\"type\": \"swiglu\", \"width\": 5}, \"norm\": {\"type\": \"rms_norm\"}}",
                                0, &error);
    assert_non_null(c);
    return c;
}

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
        loss = qp_sum(qp_mul(qp_square(y), qp_cos(qp_cast(qp_arange(m->ctx, QP_I64, qp_count(y)), QP_F64))), 0, NULL, false);
    } else {
        loss = qp_model_loss(m, ids_of(m->ctx, 0, T), qp_from(m->ctx, QP_I64, 2, (int64_t[]){B, T}, labels));
    }
    double    value = qp_item(loss);
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
    bool before = qp_no_grad(m->ctx, true);
    double largest = 0;
    for (int pass = 0; pass < 2; pass++) /* first the scale of all, for tensors whose gradient is 0 */
        for (int i = 0; i < params.count; i++) {
            int64_t n = qp_count(params.entries[i].tensor);
            double *x = qp_data_write(params.entries[i].tensor), *g = calloc((size_t)n, sizeof *g), worst = 0, scale = 0;
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
            if (i / V % T < cut && a[i] != b[i]) fail_msg("%s: position %d sees beyond itself", what, i / V % T);
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
    bool             claimed = mixer->type->causal && mixer->type->causal(mixer->self);
    if (claimed) check_causality(m, what);
    if (claimed && mixer->type->step) check_steps(m, what);
    if (mixer->type->reserve) check_state(m, what);
    if (qp_failed(ctx)) fail_msg("%s: %s", what, qp_error(ctx));
    qp_close(ctx);
}

/* The options that the base config gives, or none may do without; as many heads as the width of 8 has room
 * for; mixers of sizes that fit 6 positions; narrow feed-forwards, since each parameter is moved by itself. */
static json_t *start_of(const char *role, const qp_part *of) {
    json_t *base = base_config(), *part = json_object_get(base, role);
    const char *type = json_string_value(json_object_get(part, "type"));
    json_t     *start = type && !strcmp(type, of->name) ? json_incref(part) : json_object();
    json_object_set_new(start, "type", json_string(of->name));
    for (const qp_option *o = of->options; o && o->name; o++)
        if (!strcmp(role, "ffn") && !strcmp(o->name, "width")) json_object_set_new(start, "width", json_integer(5));
        else if (!strcmp(o->name, "states")) json_object_set_new(start, "states", json_integer(3));
        else if (!strcmp(o->name, "heads")) json_object_set_new(start, "heads", json_integer((int)fmin(2, o->high)));
        else if (!strcmp(role, "mixer") && o->kind == QP_OPTION_INT && o->fallback > 16)
            json_object_set_new(start, o->name, json_integer(4));
    json_decref(base);
    return start;
}

/* role "outputs": a further one beside the logits. */
static void check_with(const char *role, json_t *part, const char *what) {
    json_t *config = base_config();
    if (strcmp(role, "outputs")) json_object_set(config, role, part);
    else json_object_set_new(config, role, json_pack("{s:O}", "extra", part));
    check_stack(config, what);
    json_decref(config);
}

static int checked;

/* What a number is to be instead of its fallback: 2 where that is in its range. */
static double other_number(const qp_option *o) { return fmin(fmax(2, o->low), o->high); }

/* Defaults, then each switch turned, each choice chosen, each number changed. */
static void check_part(const char *role, const qp_part *part) {
    char    what[200];
    json_t *start = start_of(role, part);
    checked++;
    check_with(role, start, part->name);
    for (const qp_option *o = part->options; o && o->name; o++) {
        bool few = o->kind == QP_OPTION_CHOICE || o->kind == QP_OPTION_BOOL;
        int  first = few ? 0 : (int)other_number(o), last = few ? (int)o->high : first;
        for (int value = first; value <= last; value++) {
            if (value == o->fallback) continue;
            json_t *changed = json_copy(start);
            json_object_set_new(changed, o->name, o->kind == QP_OPTION_NUMBER ? json_real(other_number(o)) : json_integer(value));
            if (o->kind == QP_OPTION_CHOICE) json_object_set_new(changed, "factor", json_integer(2));
            if (strcmp(part->name, "rope")) json_object_del(changed, "factor");
            if (o->kind == QP_OPTION_BOOL && !strcmp(o->name, "causal")) json_object_set_new(changed, o->name, json_false());
            snprintf(what, sizeof what, "%s with %s %d", part->name, o->name, value);
            check_with(role, changed, what);
            json_decref(changed);
        }
    }
    json_decref(start);
}

static void check_kind(qp_part_kind kind, const char *role) {
    const qp_part *part;
    for (int i = 0; (part = qp_part_at(NULL, kind, i)); i++) check_part(role, part);
}

static void norms(void **state) {
    (void)state;
    check_kind(QP_PART_NORM, "norm");
}
static void positions(void **state) {
    (void)state;
    check_kind(QP_PART_POSITION, "position");
}
static void mixers(void **state) {
    (void)state;
    check_kind(QP_PART_MIXER, "mixer");
}
static void ffns(void **state) {
    (void)state;
    check_kind(QP_PART_FFN, "ffn");
}
static void blocks(void **state) {
    (void)state;
    check_kind(QP_PART_BLOCK, "block");
}

static void inputs(void **state) {
    (void)state;
    check_kind(QP_PART_INPUT, "input");
}
static void outputs(void **state) {
    (void)state;
    const qp_part *part;
    for (int i = 0; (part = qp_part_at(NULL, QP_PART_OUTPUT, i)); i++) {
        if (!((const qp_output_type *)(const void *)part)->whole) check_part("output", part);
        check_part("outputs", part);
    }
}

/* Every initialisation leaves finite values, and those that claim a spread have it. */
static void inits(void **state) {
    (void)state;
    qp_ctx *ctx = qp_open((qp_options){.threads = 1});
    const qp_part *init;
    for (int i = 0; (init = qp_part_at(NULL, QP_PART_INIT, i)); i++, checked++) {
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
    const struct CMUnitTest tests[] = {cmocka_unit_test(norms), cmocka_unit_test(positions), cmocka_unit_test(mixers),
                                       cmocka_unit_test(ffns), cmocka_unit_test(blocks), cmocka_unit_test(inputs),
                                       cmocka_unit_test(outputs), cmocka_unit_test(inits)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
