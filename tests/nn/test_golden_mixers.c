/* PyTorch's word on mixers: tests/golden/mixers/NAME.safetensors, made by tests/golden/make_mixers.py, which
 * says what the files hold. In f64 (definitions of ops), and in f32 (kernels), which are also fed through a
 * session in pieces and position by position where the mixer has a step form. */
#include <dirent.h>
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
#include "quipu/format.h"
#include "quipu/quipu.h"

typedef struct {
    const char *name, *tag;
    qp_file    *file;
    qp_ctx     *ctx;
    qp_model   *m;
    double      forward, backward; /* tolerances */
} golden;

static qp_tensor load(const golden *g, const char *what) {
    char name[160];
    snprintf(name, sizeof name, "%s.%s", g->tag, what);
    qp_tensor t = qp_cast(qp_file_load(g->ctx, g->file, name, true), g->ctx->param_dtype);
    if (qp_failed(g->ctx)) fail_msg("%s: %s", g->name, qp_error(g->ctx));
    return t;
}

static void judge(const golden *g, const char *what, qp_tensor got, qp_tensor expected, double tolerance) {
    int64_t n = qp_count(expected);
    double *a = malloc(sizeof(double) * (size_t)(2 * n + 1)), *b = a + n, worst = 0,
           scale = 0.03; /* some gradients are 0 but for rounding */
    if (qp_count(got) != n) fail_msg("%s %s: %s has another size", g->name, g->tag, what);
    if (qp_read(got, QP_F64, a, n) != QP_OK || qp_read(expected, QP_F64, b, n) != QP_OK)
        fail_msg("%s", qp_error(g->ctx));
    for (int64_t i = 0; i < n; i++) {
        worst = fmax(worst, isfinite(a[i]) ? fabs(a[i] - b[i]) : INFINITY);
        scale = fmax(scale, fabs(b[i]));
    }
    if (!(worst <= tolerance * scale))
        fail_msg("%s %s in %s: %s differs by %.3g of %.3g", g->name, g->tag, qp_dtype_name(g->ctx->param_dtype),
                 what, worst, scale);
    free(a);
}

static qp_model *model_of(qp_ctx *ctx, const json_t *attrs, int64_t width) {
    json_t *mixer = json_object_get(attrs, "mixer"), *position = json_object_get(attrs, "position");
    json_t *config =
        json_pack("{s:s, s:i, s:I, s:i, s:i, s:o, s:O, s:{s:s}, s:{s:s}}", "model_type", "quipu", "vocab_size",
                  3, "hidden_size", (json_int_t)width, "num_hidden_layers", 1, "max_position_embeddings", 640,
                  "position", position ? json_incref(position) : json_pack("{s:s}", "type", "none"), "mixer",
                  mixer, "ffn", "type", "none", "norm", "type", "rms_norm");
    char     *text = json_dumps(config, 0);
    qp_model *m = qp_model_new(ctx, "config", text);
    if (!m) fail_msg("%s: %s", text, qp_error(ctx));
    free(text);
    json_decref(config);
    return m;
}

#define MIXER "blocks.0.mixer."

static void set_params(golden *g) {
    qp_state_dict dict = qp_module_state(qp_model_module(g->m));
    for (int i = 0; i < dict.count; i++) {
        char what[160];
        if (strncmp(dict.entries[i].name, MIXER, strlen(MIXER))) continue;
        snprintf(what, sizeof what, "p.%s", dict.entries[i].name + strlen(MIXER));
        if (qp_copy_to(dict.entries[i].tensor, load(g, what)) != QP_OK)
            fail_msg("%s: %s", what, qp_error(g->ctx));
    }
}

static qp_sequence sequence_of(qp_tensor x) {
    return (qp_sequence){
        .positions = qp_reshape(qp_arange(x.ctx, QP_I64, qp_size(x, 1)), 2, (int64_t[]){1, qp_size(x, 1)}),
        .length = qp_size(x, 1)};
}

static void check_gradients(golden *g, qp_tensor x, qp_tensor y) {
    qp_tensor slope = qp_cos(qp_cast(qp_arange(g->ctx, QP_I64, qp_count(y)), QP_F64));
    slope =
        qp_cast(qp_reshape(slope, 3, (int64_t[]){qp_size(y, 0), qp_size(y, 1), qp_size(y, 2)}), qp_dtype_of(y));
    qp_backward(qp_sum(qp_mul(y, slope), 0, NULL, false));
    judge(g, "gx", qp_grad_of(x), load(g, "gx"), g->backward);
    qp_state_dict dict = qp_model_params(g->m);
    for (int i = 0; i < dict.count; i++) {
        char what[160];
        if (strncmp(dict.entries[i].name, MIXER, strlen(MIXER))) continue;
        snprintf(what, sizeof what, "g.%s", dict.entries[i].name + strlen(MIXER));
        qp_tensor grad = qp_grad_of(dict.entries[i].tensor), expected = load(g, what);
        judge(g, what, qp_is_none(grad) ? qp_affine(expected, 0, 0) : grad, expected, g->backward);
    }
}

/* x fed in pieces: all but nine positions at once, four more, and then one by one. */
static void check_steps(golden *g, qp_tensor x, qp_tensor y) {
    const qp_branch *mixer = &g->m->blocks[0].block.mixer;
    int64_t          B = qp_size(x, 0), T = qp_size(x, 1);
    qp_state         state = {0};
    if (!mixer->type->step || !mixer->type->causal(mixer->self)) return;
    qp_no_grad(g->ctx, true);
    state.type = g->ctx->param_dtype;
    mixer->type->reserve(mixer->self, g->ctx, B, T, &state);
    for (int64_t t = 0, end = T > 9 ? T - 9 : 1; t < T; t = end, end += t < T - 5 && T > 9 ? 4 : 1) {
        int64_t rows[8], starts[8], lengths[8], counts[8];
        for (int64_t b = 0; b < B; b++) rows[b] = b, starts[b] = t, lengths[b] = end, counts[b] = end - t;
        qp_sequence s = {.length = end, .keys = end};
        s.positions =
            qp_reshape(qp_slice(qp_arange(g->ctx, QP_I64, T), 0, t, end, 1), 2, (int64_t[]){1, end - t});
        s.mask = (qp_mask){.rows = qp_from(g->ctx, QP_I64, 1, &B, rows),
                           .starts = qp_from(g->ctx, QP_I64, 1, &B, starts),
                           .lengths = qp_from(g->ctx, QP_I64, 1, &B, lengths)};
        s.counts = qp_from(g->ctx, QP_I64, 1, &B, counts);
        qp_tensor some =
            mixer->type->step(mixer->self, qp_contiguous(qp_slice(x, 1, t, end, 1)), QP_NONE, &s, &state);
        judge(g, "step", some, qp_contiguous(qp_slice(y, 1, t, end, 1)), g->forward);
        for (int i = 0; i < state.count; i++)
            if (!qp_is_none(state.next[i])) {
                state.tensors[i] = state.next[i];
                state.next[i] = QP_NONE;
            }
    }
    qp_no_grad(g->ctx, false);
}

static void check_case(golden *g, const json_t *attrs) {
    qp_scope  s = qp_enter(g->ctx);
    qp_tensor x = load(g, "x");
    g->m = model_of(g->ctx, attrs, qp_size(x, 2));
    const qp_branch *mixer = &g->m->blocks[0].block.mixer;
    set_params(g);
    qp_require_grad(x, true);
    qp_sequence sequence = sequence_of(x);
    qp_tensor   y = mixer->type->forward(mixer->self, x, QP_NONE, &sequence), expected = load(g, "y");
    judge(g, "output", y, expected, g->forward);
    check_gradients(g, x, y);
    check_steps(g, qp_detach(x), expected);
    if (qp_failed(g->ctx)) fail_msg("%s %s: %s", g->name, g->tag, qp_error(g->ctx));
    qp_leave(s);
}

static void check_file(const char *path, const char *name) {
    for (int single = 0; single < 2; single++) {
        golden g = {.name = name, .forward = single ? 1e-5 : 1e-6, .backward = single ? 1e-4 : 1e-6};
        g.ctx = qp_open((qp_options){.threads = 2, .seed = 3});
        if (!single) g.ctx->param_dtype = QP_F64;
        g.file = qp_file_open(g.ctx, path, (qp_file_options){0});
        if (!g.file) fail_msg("%s", qp_error(g.ctx));
        json_t *cases = json_loads(qp_file_meta(g.file, "attrs"), 0, NULL), *attrs;
        assert_true(json_object_size(cases) > 0);
        json_object_foreach(cases, g.tag, attrs) check_case(&g, attrs);
        json_decref(cases);
        qp_file_close(g.file);
        qp_close(g.ctx);
    }
}

static void files(void **state) {
    (void)state;
    static const char folder[] = SOURCE_DIR "/tests/golden/mixers";
    struct dirent    *e;
    DIR              *d = opendir(folder);
    int               count = 0;
    assert_non_null(d);
    while ((e = readdir(d))) {
        char path[600];
        if (e->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        check_file(path, e->d_name);
        count++;
    }
    closedir(d);
    assert_true(count >= 7);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(files)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
