/* Modules, host parts and models through the public headers alone: what a program builds on. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../expect.h"
#include "quipu/quipu.h"

enum { B = 2, T = 5, V = 11 };

static qp_ctx *open_ctx(void) { return qp_open((qp_options){.threads = 1, .seed = 7}); }

/* ---- Linears ---------------------------------------------------------------------------------------- */

static qp_tensor doubled(void *self, const qp_nn_linear *inner, qp_tensor x, qp_act act, qp_tensor residual) {
    ++*(int *)self;
    qp_tensor y = qp_affine(qp_nn_linear_forward(inner, x, act, QP_NONE), 2, 0);
    return qp_is_none(residual) ? y : qp_add(y, residual);
}

static void wrap_one(void *user, qp_nn_linear *l, const char *name) {
    assert_true(strstr(name, ".up") || strstr(name, ".down"));
    qp_nn_linear_wrap(l, doubled, user);
}

static const char *const stack_config =
    "{\"model_type\": \"quipu\", \"vocab_size\": 11, \"hidden_size\": 8, \"num_hidden_layers\": 3,"
    " \"max_position_embeddings\": 16, \"tie_word_embeddings\": true, \"initializer_range\": 0.4,"
    " \"position\": {\"type\": \"rope\"}, \"mixer\": {\"type\": \"attention\", \"heads\": 2},"
    " \"ffn\": {\"type\": \"mlp\", \"width\": 5, \"act\": \"relu\", \"bias\": false}, \"norm\": {\"type\": "
    "\"rms_norm\"}%s}";

static qp_model *make_model(qp_ctx *ctx, const char *more) {
    char text[2048];
    snprintf(text, sizeof text, stack_config, more);
    return qp_model_new(ctx, "test", text);
}

static qp_tensor some_ids(qp_ctx *ctx, int from, int to) {
    int64_t ids[B * T];
    for (int b = 0; b < B; b++)
        for (int t = from; t < to; t++) ids[b * (to - from) + t - from] = (b * 5 + t * t * 3 + t) % V;
    return qp_from(ctx, QP_I64, 2, (int64_t[]){B, to - from}, ids);
}

static void read_f32(qp_tensor t, float *out, int64_t n) {
    if (qp_read(t, QP_F32, out, n) != QP_OK) fail_msg("%s", qp_error(t.ctx));
}

/* relu(2 up x) = 2 relu(up x), and down doubles again. */
static void linears_are_wrapped(void **state) {
    (void)state;
    qp_ctx   *ctx = open_ctx();
    qp_model *m = make_model(ctx, "");
    int       calls = 0;
    expect_ok(ctx);
    assert_int_equal(qp_nn_linear_each(qp_model_module(m), "*", NULL, NULL), 3 * 6 + 1);
    assert_int_equal(qp_nn_linear_each(qp_model_module(m), "blocks.1.mixer.[qkv]", NULL, NULL), 3);
    assert_int_equal(qp_nn_linear_each(qp_model_module(m), "blocks.*.ffn.*", wrap_one, &calls), 6);
    float wrapped[B * T * V], plain[B * T * V];
    qp_no_grad(ctx, true);
    read_f32(qp_logits(m, some_ids(ctx, 0, T)), wrapped, B * T * V);
    assert_int_equal(calls, 6);
    for (int i = 0; i < 3; i++) { /* the same by weights four times as large */
        char          name[64];
        qp_state_dict dict = qp_module_state(qp_model_module(m));
        snprintf(name, sizeof name, "blocks.%d.ffn.down.weight", i);
        for (int k = 0; k < dict.count; k++)
            if (!strcmp(dict.entries[k].name, name))
                assert_int_equal(qp_copy_to(dict.entries[k].tensor, qp_affine(dict.entries[k].tensor, 0.25, 0)),
                                 QP_OK);
    }
    read_f32(qp_logits(m, some_ids(ctx, 0, T)), plain, B * T * V);
    bool differs = false;
    for (int i = 0; i < B * T * V; i++) differs |= wrapped[i] != plain[i];
    assert_true(differs);
    qp_ctx   *other = open_ctx();
    qp_model *same = make_model(other, "");
    qp_no_grad(other, true);
    read_f32(qp_logits(same, some_ids(other, 0, T)), wrapped, B * T * V);
    for (int i = 0; i < B * T * V; i++) assert_float_equal(wrapped[i], plain[i], 1e-5);
    qp_close(other);
    qp_close(ctx);
}

/* A model that is closed gives all its memory back. */
static void models_are_closed(void **state) {
    (void)state;
    qp_ctx *ctx = open_ctx();
    size_t  bytes = 0;
    for (int i = 0; i < 4; i++) {
        qp_scope    scope = qp_enter(ctx);
        qp_model   *m = make_model(ctx, "");
        qp_session *s = qp_session_new(m, B, T, (qp_session_options){0});
        qp_session_feed(s, some_ids(ctx, 0, 2), (qp_feed){0});
        qp_backward(qp_model_loss(m, some_ids(ctx, 0, T), some_ids(ctx, 0, T)));
        expect_ok(ctx);
        qp_leave(scope);
        qp_session_close(s);
        qp_model_close(m);
        if (i == 1) bytes = qp_stats_of(ctx).bytes;
    }
    assert_int_equal(qp_stats_of(ctx).bytes, bytes);
    qp_session_close(NULL);
    qp_model_close(NULL);
    qp_module_close(NULL);
    qp_close(ctx);
}

/* ---- A host program's mixer: a running mean, its state of fixed size ----------------------------------- */

typedef struct {
    qp_nn_linear *out;
} mean;

static bool mean_fails; /* in the last layer */

static void mean_init(void *self, qp_build *b) {
    mean *m = self;
    m->out =
        qp_nn_linear_new(b->module, "out", b->width, b->width, (qp_linear_options){.init = b->init_residual});
}

/* h_t = (h_{t-1} + x_t) / 2, from h [B, 1, D]; the last one goes to *end. */
static qp_tensor mean_over(const mean *m, qp_tensor x, qp_tensor residual, qp_tensor h, qp_tensor *end) {
    qp_tensor hs[T];
    int       n = (int)qp_size(x, 1);
    for (int t = 0; t < n && t < T; t++) hs[t] = h = qp_affine(qp_add(h, qp_slice(x, 1, t, t + 1, 1)), 0.5, 0);
    *end = h;
    return qp_nn_linear_forward(m->out, qp_concat(n, hs, 1), QP_ACT_NONE, residual);
}

static qp_tensor mean_forward(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s) {
    qp_tensor end, zero = qp_zeros(x.ctx, qp_dtype_of(x), 3, (int64_t[]){qp_size(x, 0), 1, qp_size(x, 2)});
    qp_tensor y = mean_over(self, x, residual, zero, &end);
    qp_tensor aux = qp_mean(qp_square(end), 0, NULL, false), more = qp_sequence_get(s, "mean_bias");
    qp_sequence_add(s, "aux.mean", qp_is_none(more) ? aux : qp_add(aux, more));
    qp_sequence_add(s, "stat.mean", end);
    return y;
}

static void mean_reserve(void *self, qp_ctx *ctx, int64_t rows, int64_t positions, qp_state *state) {
    (void)self;
    (void)positions;
    qp_state_add(state, ctx, false, 3, (int64_t[]){rows, 1, 8});
}

static qp_tensor mean_step(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s, qp_state *state) {
    qp_tensor end, y = mean_over(self, x, residual, state->tensors[0], &end);
    qp_state_set(state, 0, end);
    if (mean_fails && s->layer == 2) qp_fail(x.ctx, QP_ERR_ARGUMENT, "mean: as asked");
    return y;
}

static bool mean_causal(const void *self) {
    (void)self;
    return true;
}

static const qp_branch_type mean_type = {.part = {.name = "mean", .source = "a test", .bytes = sizeof(mean)},
                                         .causal = mean_causal,
                                         .init = mean_init,
                                         .forward = mean_forward,
                                         .reserve = mean_reserve,
                                         .step = mean_step};

static const char hybrid[] = ", \"layers\": [{\"mixer\": {\"type\": \"mean\"}},"
                             " {\"position\": {\"type\": \"none\"}, \"block\": {\"type\": \"parallel\"}},"
                             " {\"mixer\": {\"type\": \"mean\"}, \"ffn\": {\"type\": \"none\"}}]";

static qp_model *make_hybrid(qp_ctx *ctx) {
    assert_int_equal(qp_register_part(ctx, QP_PART_MIXER, &mean_type.part), QP_OK);
    qp_model *m = make_model(ctx, hybrid);
    expect_ok(ctx);
    return m;
}

static void parts_are_registered(void **state) {
    (void)state;
    static const qp_branch_type nothing = {.part = {.name = "nothing"}};
    qp_ctx                     *ctx = open_ctx();
    assert_null(make_model(ctx, hybrid));
    expect_error(ctx, QP_ERR_UNSUPPORTED, "no part named \"mean\"");
    make_hybrid(ctx);
    assert_ptr_equal(qp_part_find(ctx, QP_PART_MIXER, "mean"), &mean_type.part);
    assert_null(qp_part_find(NULL, QP_PART_MIXER, "mean"));
    assert_null(qp_part_find(ctx, QP_PART_FFN, "mean"));
    assert_int_equal(qp_register_part(ctx, QP_PART_MIXER, &mean_type.part), QP_ERR_ARGUMENT);
    expect_error(ctx, QP_ERR_ARGUMENT, "there is a mean already");
    assert_int_equal(qp_register_part(ctx, QP_PART_MIXER, &nothing.part), QP_ERR_ARGUMENT);
    expect_error(ctx, QP_ERR_ARGUMENT, "lacks a function");
    qp_close(ctx);
}

static void records_go_through(void **state) {
    (void)state;
    qp_ctx   *ctx = open_ctx();
    qp_model *m = make_hybrid(ctx);
    qp_record in = {0}, out;
    qp_record_set(&in, "input_ids", some_ids(ctx, 0, T));
    out = qp_forward(m, in);
    expect_ok(ctx);
    assert_int_equal(qp_size(qp_record_get(&out, "logits"), 2), V);
    assert_int_equal(qp_size(qp_record_get(&out, "hidden"), 2), 8);
    assert_int_equal(qp_size(qp_record_get(&out, "stat.mean"), 0), B);
    assert_true(qp_is_none(qp_record_get(&out, "loss")));
    double aux = qp_item(qp_record_get(&out, "aux.mean"));
    assert_true(aux > 0);
    qp_record_set(&in, "labels", some_ids(ctx, 0, T));
    qp_record with = qp_forward(m, in);
    double    plain =
        qp_item(qp_cross_entropy(qp_record_get(&out, "logits"), some_ids(ctx, 0, T), (qp_loss_options){0}));
    assert_float_equal(qp_item(qp_record_get(&with, "loss")), plain + aux, 1e-4);
    qp_backward(qp_record_get(&with, "loss"));
    /* positions and segments reach the parts */
    qp_record_set(&in, "labels", QP_NONE);
    qp_record_set(&in, "segments", qp_zeros(ctx, QP_I64, 2, (int64_t[]){B, T}));
    qp_record_set(&in, "positions", qp_reshape(qp_arange(ctx, QP_I64, T), 2, (int64_t[]){1, T}));
    out = qp_forward(m, in);
    expect_ok(ctx);
    qp_record_set(&in, "segment", qp_zeros(ctx, QP_I64, 2, (int64_t[]){B, T}));
    for (int again = 0; again < 2; again++) { /* nobody asks for that */
        qp_set_grad_checkpoint(m, again);
        assert_int_equal(qp_forward(m, in).count, 0);
        expect_error(ctx, QP_ERR_ARGUMENT, "asks for the field \"segment\"");
    }
    qp_record_set(&in, "segment", QP_NONE);
    for (int again = 0; again < 2; again++) { /* but mean does for this */
        qp_set_grad_checkpoint(m, again);
        qp_record_set(&in, "mean_bias", qp_full(ctx, QP_F32, 0, NULL, 3));
        qp_record other = qp_forward(m, in);
        expect_ok(ctx);
        assert_true(qp_item(qp_sub(qp_record_get(&other, "aux.mean"), qp_record_get(&out, "aux.mean"))) > 2);
        qp_record_set(&in, "mean_bias", QP_NONE);
    }
    qp_record_set(&in, "input_ids", qp_arange(ctx, QP_I64, T));
    assert_int_equal(qp_forward(m, in).count, 0);
    expect_error(ctx, QP_ERR_SHAPE, "expected [B, T]");
    qp_close(ctx);
}

/* Running layers again gives the same bits, losses of parts and dropout included. */
static void checkpoints_change_nothing(void **state) {
    (void)state;
    double loss[2];
    float  grads[2][4096];
    size_t n = 0;
    for (int again = 0; again < 2; again++) {
        char    more[512];
        qp_ctx *ctx = open_ctx();
        assert_int_equal(qp_register_part(ctx, QP_PART_MIXER, &mean_type.part), QP_OK);
        snprintf(more, sizeof more, "%s, \"dropout\": 0.2", hybrid);
        qp_model *m = make_model(ctx, more);
        expect_ok(ctx);
        qp_set_grad_checkpoint(m, again);
        qp_scope  s = qp_enter(ctx);
        qp_record in = {0};
        qp_record_set(&in, "input_ids", some_ids(ctx, 0, T));
        qp_record_set(&in, "labels", some_ids(ctx, 0, T));
        qp_record_set(&in, "segments", qp_zeros(ctx, QP_I64, 2, (int64_t[]){B, T}));
        qp_record out = qp_forward(m, in);
        loss[again] = qp_item(qp_record_get(&out, "loss"));
        assert_false(qp_is_none(qp_record_get(&out, "stat.mean")));
        qp_backward(qp_record_get(&out, "loss"));
        qp_leave(s);
        expect_ok(ctx);
        qp_state_dict params = qp_model_params(m);
        n = 0;
        for (int i = 0; i < params.count; i++) {
            qp_tensor g = qp_grad_of(params.entries[i].tensor);
            read_f32(g, &grads[again][n], qp_count(g));
            n += (size_t)qp_count(g);
        }
        qp_close(ctx);
    }
    assert_true(loss[0] == loss[1]);
    assert_memory_equal(grads[0], grads[1], n * sizeof(float));
}

/* Weights that change between a forward pass and its backward are noticed, checkpoints or not; and
 * only a parameter itself takes new elements. */
static void changes_are_noticed(void **state) {
    (void)state;
    for (int again = 0; again < 2; again++)
        for (int set = 0; set < 2; set++) {
            qp_ctx   *ctx = open_ctx();
            qp_model *m = make_model(ctx, "");
            qp_set_grad_checkpoint(m, again);
            qp_state_dict dict = qp_module_state(qp_model_module(m));
            qp_tensor     w = QP_NONE;
            for (int i = 0; i < dict.count; i++)
                if (!strcmp(dict.entries[i].name, "blocks.1.ffn.up.weight")) w = dict.entries[i].tensor;
            qp_tensor loss = qp_model_loss(m, some_ids(ctx, 0, T), some_ids(ctx, 0, T));
            bool      before = qp_no_grad(ctx, true);
            qp_tensor other = qp_affine(w, 2, 0);
            assert_int_equal(qp_param_set(qp_alias(w), other), QP_ERR_STATE);
            expect_error(ctx, QP_ERR_STATE, "no parameter");
            assert_int_equal(qp_param_set(qp_detach(w), other), QP_ERR_STATE);
            expect_error(ctx, QP_ERR_STATE, "no parameter");
            qp_status status = set ? qp_param_set(w, other) : qp_copy_to(w, other);
            assert_int_equal(status, set && !again ? QP_ERR_STATE : QP_OK);
            qp_no_grad(ctx, before);
            qp_backward(loss);
            expect_error(ctx, QP_ERR_STATE, "");
            qp_close(ctx);
        }
}

/* Steps give what the whole sequence gives; a call that fails in the last layer changes nothing;
 * a state of fixed size goes back to its beginning only. */
static void states_are_kept(void **state) {
    (void)state;
    qp_ctx   *ctx = open_ctx();
    qp_model *m = make_hybrid(ctx);
    float     whole[B * T * V], last[B * V];
    qp_no_grad(ctx, true);
    read_f32(qp_logits(m, some_ids(ctx, 0, T)), whole, B * T * V);
    qp_session *s = qp_session_new(m, B, T, (qp_session_options){0});
    for (int round = 0; round < 2; round++) {
        for (int t = 0; t < T; t++) {
            mean_fails = t == 2;
            if (mean_fails) {
                qp_session_feed(s, some_ids(ctx, t, t + 1), (qp_feed){0});
                expect_error(ctx, QP_ERR_ARGUMENT, "as asked");
                mean_fails = false;
            }
            read_f32(qp_session_feed(s, some_ids(ctx, t, t + 1), (qp_feed){0}), last, B * V);
            for (int i = 0; i < B * V; i++)
                assert_float_equal(last[i], whole[(i / V * T + t) * V + i % V], 1e-4);
        }
        assert_int_equal(qp_session_truncate(s, 0, 2), QP_ERR_UNSUPPORTED);
        expect_error(ctx, QP_ERR_UNSUPPORTED, "mean has a fixed size");
        for (int row = 0; row < B; row++) assert_int_equal(qp_session_truncate(s, row, 0), QP_OK);
    }
    qp_tensor hidden = qp_session_hidden(s, some_ids(ctx, 0, T), (qp_feed){0});
    float     all[B * T * V];
    read_f32(qp_model_head(m, hidden), all, B * T * V);
    for (int i = 0; i < B * T * V; i++) assert_float_equal(all[i], whole[i], 1e-4);
    qp_close(ctx);
}

static void layers_are_checked(void **state) {
    static const char *const bad[][2] = {
        {", \"layers\": 3", "layers: expected a list"},
        {", \"layers\": [{}, {}]", "layers: 2 of them, num_hidden_layers is 3"},
        {", \"layers\": [{\"repeat\": 4}]", "layers[0]"},
        {", \"layers\": [{\"repeat\": -1}, {\"repeat\": 4}]", "layers[0]"},
        {", \"layers\": [3, {\"repeat\": 2}]", "layers[0]"},
        {", \"layers\": [{\"repeat\": 2}, {\"mixers\": {}}]", "layers[1].mixers"},
        {", \"layers\": [{\"repeat\": 2}, {\"mixer\": {}}]", "mixer: expected an object with a \"type\""},
        {", \"block\": {\"type\": \"round\"}", "no part named \"round\""},
        {", \"layers\": [{\"repeat\": 3, \"mixer\": {\"type\": \"attention\", \"heads\": 3}}]",
         "heads 3 do not divide the width 8"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        qp_ctx *ctx = open_ctx();
        assert_null(make_model(ctx, bad[i][0]));
        if (!strstr(qp_error(ctx), bad[i][1])) fail_msg("\"%s\" does not say %s", qp_error(ctx), bad[i][1]);
        qp_close(ctx);
    }
}

/* A part that asks for what is not there gets an error, and one that does nothing hands x through. */
static int nonsense;

static qp_tensor odd_forward(const qp_block *b, qp_tensor x, const qp_sequence *s, qp_state *states) {
    switch (nonsense) {
    case 1: return qp_block_norm(b, 3, x);
    case 2: return QP_NONE;
    case 3: qp_sequence_add(s, "aux.wide", x); return x;
    case 4:
        for (int i = 0; i < 20; i++) {
            char name[24];
            snprintf(name, sizeof name, "carry%d", i);
            qp_sequence_add(s, name, x);
        }
        return x;
    case 5: qp_state_set(&states[0], 1, x); return x;
    case 6: qp_state_set(&states[0], -1, x); return x;
    case 7: qp_state_set(&states[0], 0, qp_slice(x, 2, 0, 4, 1)); return x;
    default: return x;
    }
}
static const qp_block_type odd_block = {.part = {.name = "odd"}, .norms = 1, .forward = odd_forward};

static void nonsense_is_refused(void **state) {
    static const char *const texts[] = {"",
                                        "asks for norm 3",
                                        "odd gave no result",
                                        "aux.wide has",
                                        "adds more than 7",
                                        "no tensor 1 of fixed size",
                                        "no tensor -1 of",
                                        "another shape or type"};
    (void)state;
    for (nonsense = 0; nonsense < 8; nonsense++) {
        qp_ctx *ctx = open_ctx();
        qp_no_grad(ctx, true);
        assert_int_equal(qp_register_part(ctx, QP_PART_MIXER, &mean_type.part), QP_OK);
        assert_int_equal(qp_register_part(ctx, QP_PART_BLOCK, &odd_block.part), QP_OK);
        qp_model *m =
            make_model(ctx, ", \"block\": {\"type\": \"odd\"}, \"layers\": [{\"repeat\": 3, \"mixer\":"
                            " {\"type\": \"mean\"}}]");
        qp_session *s = qp_session_new(m, B, T, (qp_session_options){0});
        expect_ok(ctx);
        if (nonsense < 5) qp_logits(m, some_ids(ctx, 0, T));
        else qp_session_feed(s, some_ids(ctx, 0, 1), (qp_feed){0});
        if (nonsense) expect_error(ctx, nonsense == 2 ? QP_ERR_STATE : QP_ERR_ARGUMENT, texts[nonsense]);
        else expect_ok(ctx);
        qp_model_close(m); /* its session goes on */
        nonsense = nonsense ? -nonsense : 0;
        qp_session_feed(s, some_ids(ctx, 0, 1), (qp_feed){0});
        expect_ok(ctx);
        qp_session_close(s);
        nonsense = nonsense ? -nonsense : 0;
        qp_close(ctx);
    }
}

static void nothing(void *user, qp_tensor x) {
    (void)user;
    (void)x;
}

static void release_one(void *thing) { ++*(int *)thing; }

static void add_inside(void *user, qp_nn_linear *l, const char *name) {
    (void)user;
    assert_null(strstr(name, "lora"));
    qp_nn_linear_new(qp_nn_linear_module(l), "lora", 2, 2, (qp_linear_options){0});
}

static void misuse_is_refused(void **state) {
    (void)state;
    qp_ctx    *ctx = open_ctx(), *other = open_ctx();
    int        released = 0;
    qp_module *m = qp_module_new(ctx, NULL, "");
    qp_tensor  p = qp_param(m, "p", "ones", 1, (int64_t[]){2}), q = qp_param(m, "q", "ones", 1, (int64_t[]){2});
    qp_on_grad(p, nothing, NULL);
    assert_null(qp_module_new(other, m, "a"));
    expect_error(other, QP_ERR_ARGUMENT, "another context");
    assert_null(qp_module_new(ctx, m, "a.b"));
    expect_error(ctx, QP_ERR_ARGUMENT, "\"a.b\" is no name");
    qp_param(m, NULL, "ones", 1, (int64_t[]){2});
    expect_error(ctx, QP_ERR_ARGUMENT, "\"\" is no name");
    qp_tie(m, "r", qp_zeros(ctx, QP_F32, 1, (int64_t[]){2}));
    expect_error(ctx, QP_ERR_ARGUMENT, "tie: r");
    qp_module_fill(m);
    assert_int_equal(qp_param_set(p, q), QP_ERR_STATE);
    expect_error(ctx, QP_ERR_STATE, "qp_tie");
    const char *twice[] = {"p", "q", "p"};
    qp_tensor   x[] = {qp_detach(q), qp_detach(q), qp_detach(q)};
    assert_int_equal(qp_load_state_dict(m, 3, twice, x, true), QP_ERR_ARGUMENT);
    expect_error(ctx, QP_ERR_ARGUMENT, "p is given twice");
    x[0] = qp_arange(ctx, QP_I64, 2);
    assert_int_equal(qp_load_state_dict(m, 2, twice, x, true), QP_ERR_TYPE);
    expect_error(ctx, QP_ERR_TYPE, "p is i64");
    qp_freeze(m, "*", true);
    assert_null(qp_adamw(qp_module_params(m), (qp_adamw_options){0}));
    expect_error(ctx, QP_ERR_ARGUMENT, "no parameter to train");
    qp_model *model = make_model(ctx, "");
    assert_int_equal(qp_nn_linear_each(qp_model_module(model), "*", add_inside, NULL), 19);
    assert_int_equal(qp_nn_linear_each(qp_model_module(model), "*", NULL, NULL), 38);
    qp_module_close(qp_model_module(model)); /* the model's */
    qp_no_grad(ctx, true);
    qp_logits(model, some_ids(ctx, 0, T));
    expect_ok(ctx);
    assert_int_equal(qp_module_own(qp_model_module(model), &released, release_one), QP_OK);
    qp_model_close(model);
    assert_int_equal(released, 1);
    model = qp_model_load(ctx, SOURCE_DIR "/tests/golden/models/gpt2/config.json",
                          (qp_model_options){.empty = true});
    char folder[] = P_tmpdir "/quipu-test-XXXXXX", written[64];
    assert_non_null(mkdtemp(folder));
    assert_int_equal(qp_model_save(model, folder), QP_ERR_STATE);
    expect_error(ctx, QP_ERR_STATE, "has no elements yet");
    snprintf(written, sizeof written, "%s/config.json", folder);
    remove(written);
    assert_int_equal(remove(folder), 0);
    qp_close(other);
    qp_close(ctx);
}

/* A parameter that cannot be written stops a step before any other is. */
static void steps_are_whole(void **state) {
    (void)state;
    static float zeros[2];
    qp_ctx      *ctx = open_ctx();
    qp_module   *m = qp_module_new(ctx, NULL, "");
    qp_tensor p[2] = {qp_param(m, "p", "ones", 1, (int64_t[]){2}), qp_param(m, "q", "ones", 1, (int64_t[]){2})};
    qp_module_fill(m);
    qp_optim *o = qp_sgd(qp_module_params(m), (qp_sgd_options){.lr = 1});
    assert_int_equal(qp_param_set(p[1], qp_attach(ctx, QP_F32, 1, (int64_t[]){2}, zeros, true, NULL, NULL)),
                     QP_OK);
    for (int i = 0; i < 2; i++) qp_backward(qp_sum(p[i], 0, NULL, false));
    qp_step(o);
    expect_error(ctx, QP_ERR_STATE, "q cannot be written");
    assert_true(qp_item(qp_sum(p[0], 0, NULL, false)) == 2 && !qp_is_none(qp_grad_of(p[0])));
    qp_close(ctx);
}

/* Loaded as stored, weights keep their type and a model computes the same. */
static void weights_stay_as_stored(void **state) {
    static const char *const names[] = {"llama-bf16", "llama-sharded", "gpt2", "gpt2-published", "qwen2-tied"};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char    path[512];
        float   logits[2][B * T * 131];
        int64_t n = 0;
        snprintf(path, sizeof path, SOURCE_DIR "/tests/golden/models/%s", names[i]);
        for (int stored = 0; stored < 2; stored++) {
            qp_ctx   *ctx = open_ctx();
            qp_model *m = qp_model_load(ctx, path, (qp_model_options){.as_stored = stored});
            expect_ok(ctx);
            assert_int_equal(qp_model_params(m).count > 0, !stored);
            qp_dtype type = qp_dtype_of(qp_module_state(qp_model_module(m)).entries[0].tensor);
            assert_int_equal(type, stored && i == 0 ? QP_BF16 : QP_F32);
            qp_no_grad(ctx, true);
            qp_tensor y = qp_logits(m, some_ids(ctx, 0, T));
            n = qp_count(y);
            read_f32(y, logits[stored], n);
            qp_close(ctx);
        }
        for (int64_t k = 0; k < n; k++) assert_float_equal(logits[0][k], logits[1][k], 1e-5);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(linears_are_wrapped),
                                       cmocka_unit_test(models_are_closed),
                                       cmocka_unit_test(parts_are_registered),
                                       cmocka_unit_test(records_go_through),
                                       cmocka_unit_test(checkpoints_change_nothing),
                                       cmocka_unit_test(changes_are_noticed),
                                       cmocka_unit_test(states_are_kept),
                                       cmocka_unit_test(layers_are_checked),
                                       cmocka_unit_test(nonsense_is_refused),
                                       cmocka_unit_test(misuse_is_refused),
                                       cmocka_unit_test(steps_are_whole),
                                       cmocka_unit_test(weights_stay_as_stored)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
