/* Every folder of tests/golden/models, whatever its model type: what holds for all. (Logits and gradients
 * against transformers: `quipu verify` over the same folders, test_verbs.)
 *
 *   steps     position by position gives the logits of the whole sequence, where the model is causal
 *   bf16      weights rounded to bf16 and kept as stored give the logits of the same weights in f32
 *   saved     a model that is saved has the names and bits that it was loaded with
 */
#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../relative_error.h"
#include "quipu/quipu.h"

static const char golden[] = SOURCE_DIR "/tests/golden/models";
static char       scratch[64] = P_tmpdir "/quipu-models-XXXXXX";

static void each(void (*check)(const char *name, const char *folder)) {
    struct dirent *e;
    int            count = 0;
    DIR           *d = opendir(golden);
    assert_non_null(d);
    while ((e = readdir(d))) {
        char folder[600];
        if (e->d_name[0] == '.') continue;
        snprintf(folder, sizeof folder, "%s/%s", golden, e->d_name);
        check(e->d_name, folder);
        count++;
    }
    closedir(d);
    assert_true(count >= 82); /* none is missing */
}

static qp_ctx *open_ctx(void) {
    qp_ctx *ctx = qp_open((qp_options){.threads = 1, .seed = 5});
    qp_no_grad(ctx, true);
    return ctx;
}

static qp_model *load(qp_ctx *ctx, const char *folder, bool as_stored) {
    qp_model *m = qp_model_load(ctx, folder, (qp_model_options){.as_stored = as_stored});
    if (!m) fail_msg("%s: %s", folder, qp_error(ctx));
    qp_set_training(qp_model_module(m), false);
    return m;
}

static qp_tensor reference_ids(qp_ctx *ctx, const char *folder) {
    char path[700];
    snprintf(path, sizeof path, "%s/reference.safetensors", folder);
    qp_file  *file = qp_file_open(ctx, path, (qp_file_options){0});
    qp_tensor ids = qp_file_load(ctx, file, "input_ids", true);
    qp_file_close(file);
    if (qp_failed(ctx)) fail_msg("%s", qp_error(ctx));
    return ids;
}

/* The logits or, of a model without an output, what the last block gives. */
static qp_tensor given_by(qp_model *m, qp_tensor ids) {
    qp_record in = {0};
    qp_record_set(&in, "input_ids", ids);
    qp_record out = qp_forward(m, in);
    qp_tensor y = qp_record_get(&out, "logits");
    return qp_is_none(y) ? qp_record_get(&out, "hidden") : y;
}

static void check_steps(const char *name, const char *folder) {
    if (strstr(name, "dynamic")) return; /* its angles depend on how long the sequence has become */
    qp_ctx     *ctx = open_ctx();
    qp_model   *m = load(ctx, folder, false);
    qp_tensor   ids = reference_ids(ctx, folder), whole = given_by(m, ids);
    int64_t     length = qp_size(ids, 1), first = length / 3;
    qp_session *s = qp_session_new(m, qp_size(ids, 0), length, (qp_session_options){0});
    if (!s && qp_error_code(ctx) == QP_ERR_UNSUPPORTED && strstr(qp_error(ctx), "causal")) {
        qp_close(ctx);
        return;
    }
    for (int64_t t = first; t <= length && s; t++) { /* a few at once, then one by one */
        qp_tensor last = qp_session_feed(s, qp_slice(ids, 1, t == first ? 0 : t - 1, t, 1), (qp_feed){0});
        double    off = relative_error(last, qp_slice(whole, 1, t - 1, t, 1));
        if (!(off <= 2e-5)) fail_msg("%s: after %d positions logits are off by %g", name, (int)t, off);
    }
    if (qp_failed(ctx)) fail_msg("%s: %s", name, qp_error(ctx));
    qp_close(ctx);
}

static void steps(void **state) {
    (void)state;
    each(check_steps);
}

/* Writes the folder's config and its weights as bf16, both here and, exactly these, as f32. */
static void write_rounded(const char *folder, char out[2][128]) {
    qp_ctx     *ctx = open_ctx();
    qp_model   *m = load(ctx, folder, false);
    qp_named    named[2][256];
    int         n = 0;
    const char *name;
    qp_tensor   t;
    for (; qp_model_weight(m, n, false, &name, &t) && n < 256; n++) {
        named[0][n] = (qp_named){name, qp_cast(t, QP_BF16)};
        named[1][n] = (qp_named){name, qp_cast(named[0][n].tensor, QP_F32)};
    }
    for (int k = 0; k < 2; k++) {
        char path[256];
        snprintf(out[k], 128, "%s/%s", scratch, k ? "f32" : "bf16");
        assert_int_equal(qp_model_save(m, out[k]), QP_OK);
        snprintf(path, sizeof path, "%s/model.safetensors", out[k]);
        if (qp_file_save(ctx, path, n, named[k], (qp_save_options){0}) != QP_OK) fail_msg("%s", qp_error(ctx));
    }
    qp_close(ctx);
}

static void check_bf16(const char *name, const char *folder) {
    char folders[2][128];
    write_rounded(folder, folders);
    qp_ctx   *ctx = open_ctx();
    qp_tensor ids = reference_ids(ctx, folder);
    qp_tensor stored = given_by(load(ctx, folders[0], true), ids),
              exact = given_by(load(ctx, folders[1], false), ids);
    double    off = relative_error(stored, exact);
    if (!(off <= 1e-2)) fail_msg("%s: bf16 logits are off by %g", name, off);
    qp_close(ctx);
}

static void bf16(void **state) {
    (void)state;
    each(check_bf16);
}

static void check_saved(const char *name, const char *folder) {
    char        again[128];
    const char *ours;
    qp_tensor   t;
    qp_ctx     *ctx = open_ctx();
    qp_model   *m = load(ctx, folder, true);
    snprintf(again, sizeof again, "%s/saved", scratch);
    if (qp_model_save(m, again) != QP_OK) fail_msg("%s: %s", name, qp_error(ctx));
    qp_file *before = qp_file_open(ctx, folder, (qp_file_options){0}),
            *after = qp_file_open(ctx, again, (qp_file_options){0});
    for (int64_t i = 0; qp_model_weight(m, i, false, &ours, &t); i++) {
        qp_tensor saved = qp_file_load(ctx, after, ours, true);
        if (qp_file_find(before, ours) < 0) continue; /* published GPT-2 lacks the prefix */
        qp_tensor given = qp_file_load(ctx, before, ours, true);
        if (qp_failed(ctx)) fail_msg("%s: %s", name, qp_error(ctx));
        if (relative_error(saved, given) != 0) fail_msg("%s: %s is saved as something else", name, ours);
    }
    qp_file_close(before);
    qp_file_close(after);
    qp_tensor ids = reference_ids(ctx, folder);
    assert_true(relative_error(given_by(load(ctx, again, true), ids), given_by(m, ids)) == 0);
    qp_close(ctx);
}

static void saved(void **state) {
    (void)state;
    each(check_saved);
}

static int make_folder(void **state) {
    (void)state;
    return mkdtemp(scratch) ? 0 : -1;
}

static int remove_folder(void **state) {
    static const char *const names[] = {"bf16", "f32", "saved"}, *const files[] = {"/config.json",
                                                                                   "/model.safetensors", ""};
    (void)state;
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < 3; k++) {
            char path[256];
            snprintf(path, sizeof path, "%s/%s%s", scratch, names[i], files[k]);
            remove(path);
        }
    return remove(scratch);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(steps), cmocka_unit_test(bf16),
                                       cmocka_unit_test(saved)};
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
