/* Parametrisations: five steps of an optimiser against muP's authors' package, and against factors in front of weights
 * for the tangent kernel's (tests/golden/make_parametrizations.py),
 * what is drawn, activations over widths after steps (the coordinate check), and what stays as it is. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../relative_error.h"
#include "models/model.h"
#include "quipu/quipu.h"

static qp_ctx *ctx;

static const qp_entry *entry(qp_model *m, const char *name) {
    qp_state_dict all = qp_module_state(m->module);
    for (int i = 0; i < all.count; i++)
        if (!strcmp(all.entries[i].name, name)) return &all.entries[i];
    fail_msg("no parameter %s", name);
    return NULL;
}

static double deviation(qp_tensor t) {
    return sqrt(qp_item(qp_mean(qp_square(qp_cast(t, QP_F64)), 0, NULL, false)));
}

/* ---- The authors' package -------------------------------------------------------------------------- */

static void check_golden(const char *name) {
    char path[300];
    snprintf(path, sizeof path, SOURCE_DIR "/tests/golden/parametrizations/%s.safetensors", name);
    qp_file  *f = qp_file_open(ctx, path, (qp_file_options){0});
    qp_model *m = f ? qp_model_new(ctx, "config", qp_file_meta(f, "config")) : NULL;
    if (!m) fail_msg("%s: %s", name, qp_error(ctx));
    for (int64_t i = 0; i < qp_file_count(f); i++) {
        const char *of = qp_file_at(f, i).name;
        if (strncmp(of, "std.", 4)) continue;
        double drawn = deviation(entry(m, of + 4)->tensor), theirs = qp_item(qp_file_load(ctx, f, of, true));
        if (fabs(drawn / theirs - 1) > 0.15)
            fail_msg("%s: %s is drawn with %g, expected %g", name, of + 4, drawn, theirs);
        assert_int_equal(qp_copy_to(entry(m, of + 4)->tensor, qp_file_load(ctx, f, of + 4, true)), QP_OK);
    }
    qp_copy_to(entry(m, "blocks.0.ffn.up.bias")->tensor, qp_file_load(ctx, f, "blocks.0.ffn.up.bias", true));
    qp_copy_to(entry(m, "blocks.0.ffn.down.bias")->tensor,
               qp_file_load(ctx, f, "blocks.0.ffn.down.bias", true));
    const char *norms[] = {"blocks.0.norm1.weight", "blocks.0.norm2.weight", "norm.weight"};
    for (int i = 0; i < 3; i++) qp_copy_to(entry(m, norms[i])->tensor, qp_file_load(ctx, f, norms[i], true));
    bool      adam = !strcmp(qp_file_meta(f, "optimizer"), "adamw");
    qp_optim *o =
        adam ? qp_adamw(qp_model_params(m), (qp_adamw_options){.lr = 0.02, .eps = 1e-15, .weight_decay = 0.1})
             : qp_sgd(qp_model_params(m), (qp_sgd_options){.lr = 0.05, .momentum = 0.9, .weight_decay = 0.1});
    qp_tensor ids = qp_file_load(ctx, f, "ids", true), labels = qp_file_load(ctx, f, "labels", true);
    for (int step = 0; step < 5; step++) {
        qp_scope s = qp_enter(ctx);
        qp_backward(qp_model_loss(m, ids, labels));
        qp_step(o);
        qp_leave(s);
    }
    double e = relative_error(qp_logits(m, ids), qp_file_load(ctx, f, "logits", true));
    if (!(e <= 1e-4)) fail_msg("%s: logits are off by %.2e", name, e);
    for (int64_t i = 0; i < qp_file_count(f); i++) {
        const char *of = qp_file_at(f, i).name;
        if (strncmp(of, "after.", 6)) continue;
        e = relative_error(entry(m, of + 6)->tensor, qp_file_load(ctx, f, of, true));
        if (!(e <= 1e-4)) fail_msg("%s: %s is off by %.2e", name, of + 6, e);
    }
    qp_file_close(f);
}

static void golden(void **state) {
    static const char *const names[] = {"mup-adamw", "mup-sgd", "mup-adamw-tied", "mup-sgd-tied",
                                        "ntk-adamw", "ntk-sgd", "ntk-adamw-tied", "ntk-sgd-tied"};
    (void)state;
    for (int i = 0; i < 8; i++) {
        ctx = qp_open((qp_options){.threads = 2, .seed = 5});
        ctx->param_dtype = QP_F64;
        check_golden(names[i]);
        qp_close(ctx);
    }
}

/* ---- The coordinate check ---------------------------------------------------------------------------- */

static qp_model *make(int width, const char *parametrization, const char *rest) {
    char config[800];
    snprintf(config, sizeof config,
             "{\"model_type\": \"quipu\", \"vocab_size\": 61, \"hidden_size\": %d, \"num_hidden_layers\": 2,"
             " \"max_position_embeddings\": 32, \"position\": {\"type\": \"rope\"}, %s"
             " \"mixer\": {\"type\": \"attention\", \"heads\": 4}, \"ffn\": {\"type\": \"mlp\"},"
             " \"norm\": {\"type\": \"rms_norm\"}%s%s}",
             width, rest, parametrization ? ", \"parametrization\": " : "",
             parametrization ? parametrization : "");
    return qp_model_new(ctx, "config", config);
}

/* Root mean squares of how far logits and the last block's outputs have moved after some steps of Adam. */
static void moved(int width, const char *parametrization, const char *rest, double out[2]) {
    int64_t ids[4 * 32], labels[4 * 32];
    ctx = qp_open((qp_options){.threads = 2, .seed = 5});
    qp_model *m = make(width, parametrization, rest);
    if (!m) fail_msg("%s", qp_error(ctx));
    for (int i = 0; i < 4 * 32; i++) ids[i] = (i * i + 3 * i) % 61, labels[i] = (7 * i + i / 5) % 61;
    qp_tensor x = qp_from(ctx, QP_I64, 2, (int64_t[]){4, 32}, ids),
              y = qp_from(ctx, QP_I64, 2, (int64_t[]){4, 32}, labels);
    bool      before = qp_no_grad(ctx, true);
    qp_tensor hidden = qp_model_hidden(m, x), logits = qp_logits(m, x);
    qp_no_grad(ctx, before);
    qp_optim *o = qp_adamw(qp_model_params(m), (qp_adamw_options){.lr = 0.01});
    for (int step = 0; step < 4; step++) {
        qp_scope s = qp_enter(ctx);
        qp_backward(qp_model_loss(m, x, y));
        qp_step(o);
        qp_leave(s);
    }
    qp_no_grad(ctx, true);
    out[0] = deviation(qp_sub(qp_logits(m, x), logits));
    out[1] = deviation(qp_sub(qp_model_hidden(m, x), hidden));
    if (qp_failed(ctx)) fail_msg("%s", qp_error(ctx));
    qp_close(ctx);
}

/* The largest of these over the smallest, widths 32 to 256. */
static void growth(const char *parametrization, const char *rest, double out[2]) {
    double at[2] = {0}, least[2] = {INFINITY, INFINITY}, most[2] = {0};
    for (int width = 32; width <= 256; width *= 2) {
        moved(width, parametrization, rest, at);
        for (int i = 0; i < 2; i++) {
            least[i] = fmin(least[i], at[i]);
            most[i] = fmax(most[i], at[i]);
        }
    }
    for (int i = 0; i < 2; i++) out[i] = most[i] / least[i];
}

static const char mup[] = "{\"type\": \"mup\", \"base\": 32}", ntk[] = "{\"type\": \"ntk\", \"base\": 32}";

static void coordinates(void **state) {
    static const char *const rests[] = {"", "\"tie_word_embeddings\": true,"};
    double                   by[2];
    (void)state;
    for (int i = 0; i < 2; i++) {
        growth(mup, rests[i], by);
        assert_true(by[0] < 1.5 && by[1] < 1.1);
        growth(NULL, rests[i], by);
        assert_true(by[0] > 2.3);
    }
}

/* ---- What stays ------------------------------------------------------------------------------------------ */

/* At the base's width nothing differs from no parametrisation, bit for bit. */
static void base(void **state) {
    static const char *const kinds[] = {NULL, "{\"type\": \"standard\"}", "{\"type\": \"mup\", \"base\": 64}",
                                        "{\"type\": \"ntk\"}"};
    double                   first[2], other[2];
    (void)state;
    moved(64, NULL, "", first);
    for (int i = 1; i < 4; i++) {
        moved(64, kinds[i], "", other);
        assert_true(first[0] == other[0] && first[1] == other[1]);
    }
}

static void rates(void **state) {
    (void)state;
    ctx = qp_open((qp_options){.threads = 1});
    qp_model *m = make(128, ntk, "");
    assert_true(entry(m, "blocks.0.mixer.q.weight")->rates.adam == 0.5 &&
                entry(m, "blocks.0.mixer.q.weight")->rates.sgd == 0.25);
    assert_true(entry(m, "head.weight")->rates.adam == 0.5 && entry(m, "embed.weight")->rates.adam == 1);
    assert_true(entry(m, "blocks.0.ffn.up.bias")->rates.sgd == 1);
    qp_close(ctx);
}

/* Of each initialisation the deviation is what it is at the base's width, times
 * what the parametrisation says. */
static void draws(void **state) {
    static const char *const inits[] = {"normal",         "uniform",         "xavier_uniform",
                                        "kaiming_normal", "lecun_truncated", "orthogonal"};
    (void)state;
    for (int i = 0; i < 6; i++) {
        char rest[100];
        snprintf(rest, sizeof rest, "\"init\": \"%s\",", inits[i]);
        ctx = qp_open((qp_options){.threads = 1, .seed = 2});
        double      narrow[3], wide[3];
        const char *names[] = {"embed.weight", "blocks.1.ffn.down.weight", "head.weight"};
        for (int k = 0; k < 3; k++) {
            narrow[k] = deviation(entry(make(32, mup, rest), names[k])->tensor);
            wide[k] = deviation(entry(make(128, mup, rest), names[k])->tensor);
        }
        double expected[] = {1, 0.5, 0.25};
        for (int k = 0; k < 3; k++)
            if (fabs(wide[k] / narrow[k] / expected[k] - 1) > 0.1)
                fail_msg("%s: %s %g, was %g", inits[i], names[k], wide[k], narrow[k]);
        qp_close(ctx);
    }
}

static void refusals(void **state) {
    static const struct {
        const char *parametrization, *words;
    } cases[] = {{"{\"type\": \"mup\", \"base\": 30}",
                  "config: parametrization's base: mixer: heads 4 do not divide the width 30"},
                 {"{\"type\": \"mup\", \"base\": 0}", "base of mup is 0"},
                 {"{\"type\": \"wide\"}", "parametrization: no part named \"wide\""},
                 {"{\"type\": \"standard\", \"base\": 3}", "standard has no option base"},
                 {"7", "parametrization: expected an object"}};
    (void)state;
    for (int i = 0; i < 5; i++) {
        ctx = qp_open((qp_options){.threads = 1});
        assert_null(make(64, cases[i].parametrization, ""));
        if (!strstr(qp_error(ctx), cases[i].words)) fail_msg("%s", qp_error(ctx));
        qp_close(ctx);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(golden), cmocka_unit_test(coordinates),
                                       cmocka_unit_test(base),   cmocka_unit_test(rates),
                                       cmocka_unit_test(draws),  cmocka_unit_test(refusals)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
