/* Training states that are not what they should be: each is refused with a text that names the place,
 * and a sound one is restored afterwards. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "format/writer.h"
#include "quipu/quipu.h"
#include "train/state.h"

static const char config[] =
    "{\"model_type\": \"quipu\", \"vocab_size\": 257, \"hidden_size\": 8, \"num_hidden_layers\": 1,"
    " \"max_position_embeddings\": 16, \"position\": {\"type\": \"none\"},"
    " \"mixer\": {\"type\": \"attention\", \"heads\": 2}, \"ffn\": {\"type\": \"mlp\"},"
    " \"norm\": {\"type\": \"rms_norm\"}}";

static char            folder[64];
static qp_ctx         *ctx;
static qp_training_set set;

static const char *at(const char *name) {
    static char paths[4][256];
    static int  next;
    char       *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

static void write_text(const char *path, const char *text) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, strlen(text), f), strlen(text));
    fclose(f);
}

static int set_up(void **state) {
    (void)state;
    strcpy(folder, P_tmpdir "/quipu-test-XXXXXX");
    if (!mkdtemp(folder)) return -1;
    const char *text = at("text");
    write_text(text, "A text of some length, from which a few windows can be cut; it says nothing.");
    ctx = qp_open((qp_options){.threads = 1});
    set = (qp_training_set){.model = qp_model_new(ctx, "test", config)};
    set.data = qp_data_open(ctx, 1, &text, (qp_data_options){.length = 8, .ahead = -1});
    set.optim = qp_adamw(qp_model_params(set.model), (qp_adamw_options){0});
    return qp_state_save(set, at("out"), 1, 0);
}

static int tear_down(void **state) {
    (void)state;
    qp_close(ctx);
    qpi_folder_remove(folder);
    return 0;
}

static void sound(void) {
    int64_t step = 0;
    if (qp_state_restore(set, at("out"), &step) != QP_OK) fail_msg("%s", qp_error(ctx));
    assert_int_equal(step, 1);
}

static void refused(const char *out, qp_code code, const char *text) {
    int64_t   step = 7;
    qp_status status = qp_state_restore(set, out, &step);
    if (status != code || !strstr(qp_error(ctx), text))
        fail_msg("%d \"%s\", expected %d \"%s\"", status, qp_error(ctx), code, text);
    assert_int_equal(step, 0);
    qp_clear(ctx);
}

/* ---- The manifest ------------------------------------------------------------------------------- */

static json_t *manifest(void) {
    json_t *m = json_load_file(at("out/latest/train.json"), 0, NULL);
    assert_non_null(m);
    return m;
}

/* Restores with this manifest in place of the sound one; takes m. */
static void with_manifest(json_t *m, qp_code code, const char *text) {
    json_t *before = manifest();
    assert_int_equal(json_dump_file(m, at("out/latest/train.json"), 0), 0);
    refused(at("out"), code, text);
    assert_int_equal(json_dump_file(before, at("out/latest/train.json"), 0), 0);
    json_decref(m);
    json_decref(before);
}

/* Each member missing, and of each other kind. */
static void members(void **state) {
    (void)state;
    static const char *const names[] = {"step",  "seed", "random_position", "optimizer", "data",
                                        "files", "ema",  "precision"};
    static const char *const others[] = {"null", "true", "1.5", "[]", "-1e300"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        json_t *m = manifest();
        json_object_del(m, names[i]);
        with_manifest(m, QP_ERR_FORMAT, names[i]);
        for (size_t k = 0; k < sizeof others / sizeof others[0]; k++) {
            m = manifest();
            if (!strcmp(names[i], "ema") && k == 2) k++; /* 1.5 is a number, if too large a one */
            json_object_set_new(m, names[i], json_loads(others[k], JSON_DECODE_ANY, NULL));
            with_manifest(m, QP_ERR_FORMAT, names[i]);
        }
    }
    json_t *m = manifest();
    json_object_set_new(m, "optimizer", json_string("sgd"));
    with_manifest(m, QP_ERR_STATE, "the state is of sgd, this run uses adamw");
    m = manifest();
    json_object_set_new(json_object_get(m, "data"), "position", json_string("here"));
    with_manifest(m, QP_ERR_FORMAT, "position");
    m = manifest();
    json_object_set_new(json_object_get(m, "files"), "../text", json_object());
    with_manifest(m, QP_ERR_FORMAT, "a name with a slash");
    m = manifest();
    json_object_set_new(json_object_get(m, "files"), "absent", json_object());
    with_manifest(m, QP_ERR_IO, "absent");
    static char long_name[5000];
    memset(long_name, 'n', sizeof long_name - 1);
    m = manifest();
    json_object_set_new(json_object_get(m, "files"), long_name, json_object());
    with_manifest(m, QP_ERR_IO, "cannot open");
    write_text(at("out/latest/empty"), "");
    m = manifest();
    json_object_set_new(json_object_get(m, "files"), "empty", json_object());
    with_manifest(m, QP_ERR_FORMAT, "is damaged");
    sound();
}

static void not_json(void **state) {
    (void)state;
    json_t *before = manifest();
    write_text(at("out/latest/train.json"), "{\"step\": 1");
    refused(at("out"), QP_ERR_FORMAT, "train.json");
    unlink(at("out/latest/train.json"));
    refused(at("out"), QP_ERR_IO, "train.json");
    json_dump_file(before, at("out/latest/train.json"), 0);
    json_decref(before);
    sound();
}

/* ---- Files of the state ------------------------------------------------------------------------------ */

static void config_differs(void **state) {
    (void)state;
    json_t *before = json_load_file(at("out/latest/config.json"), 0, NULL), *other = json_deep_copy(before);
    json_object_set_new(other, "hidden_size", json_integer(16));
    json_dump_file(other, at("out/latest/config.json"), 0);
    refused(at("out"), QP_ERR_STATE, "hidden_size was 16 when the state was saved and is 8 now");
    json_object_del(other, "hidden_size");
    json_dump_file(other, at("out/latest/config.json"), 0);
    refused(at("out"), QP_ERR_STATE, "hidden_size was not there when");
    json_object_set(other, "hidden_size", json_object_get(before, "hidden_size"));
    json_object_set_new(other, "rope_theta", json_real(7)); /* the first that differs is named */
    json_object_set_new(other, "rope_type", json_string("linear"));
    json_dump_file(other, at("out/latest/config.json"), 0);
    refused(at("out"), QP_ERR_STATE, "rope_theta was 7.0 when the state was saved and is not there now");
    write_text(at("out/latest/config.json"), "]");
    refused(at("out"), QP_ERR_FORMAT, "config.json");
    unlink(at("out/latest/config.json"));
    refused(at("out"), QP_ERR_IO, "config.json");
    assert_int_equal(qp_model_save(set.model, at("out/latest")), QP_OK);
    json_decref(before);
    json_decref(other);
    sound();
}

/* An optimiser's file that lacks a tensor, or is none; the manifest does not list it. */
static void optimizer_lacks(void **state) {
    (void)state;
    json_t *m = manifest();
    rename(at("out/latest/optimizer.safetensors"), at("kept"));
    json_object_del(json_object_get(m, "files"), "optimizer.safetensors");
    with_manifest(json_incref(m), QP_ERR_IO, "optimizer.safetensors");
    assert_int_equal(qp_file_save(ctx, at("out/latest/optimizer.safetensors"), 0, NULL, (qp_save_options){0}),
                     QP_OK);
    with_manifest(json_incref(m), QP_ERR_ARGUMENT, "no tensor \"m.");
    char      name[256]; /* one number is not taken for all */
    qp_tensor t;
    assert_true(qp_optim_state(set.optim, 0, name, &t));
    qp_named one = {name, qp_zeros(ctx, QP_F32, 1, (int64_t[]){1})};
    assert_int_equal(qp_file_save(ctx, at("out/latest/optimizer.safetensors"), 1, &one, (qp_save_options){0}),
                     QP_OK);
    with_manifest(json_incref(m), QP_ERR_FORMAT, "is f32 [1], expected f32 [");
    write_text(at("out/latest/optimizer.safetensors"), "no tensors");
    with_manifest(m, QP_ERR_FORMAT, "optimizer.safetensors");
    rename(at("kept"), at("out/latest/optimizer.safetensors"));
    sound();
}

/* Weights that the manifest does not list and that are none. */
static void weights_lack(void **state) {
    (void)state;
    json_t *m = manifest();
    json_object_del(json_object_get(m, "files"), "model.safetensors");
    assert_int_equal(rename(at("out/latest/model.safetensors"), at("kept")), 0);
    write_text(at("out/latest/model.safetensors"), "no tensors");
    with_manifest(json_incref(m), QP_ERR_FORMAT, "model.safetensors");
    unlink(at("out/latest/model.safetensors"));
    with_manifest(m, QP_ERR_IO, "model.safetensors");
    assert_int_equal(rename(at("kept"), at("out/latest/model.safetensors")), 0);
    sound();
}

/* ---- Means and bests ------------------------------------------------------------------------------------ */

/* Means are saved beside the weights, checked like these, and must be asked for as they were saved. */
static void means(void **state) {
    (void)state;
    qp_training_set with = set;
    with.ema = qp_ema_new(set.model, 0.75);
    assert_int_equal(qp_state_save(with, at("means"), 1, 0), QP_OK);
    int64_t step = 0;
    assert_int_equal(qp_state_restore(with, at("means"), &step), QP_OK);
    assert_int_equal(step, 1);
    refused(at("means"), QP_ERR_STATE, "ema: the state's is 0.75, this run's 0");
    json_t *m = json_load_file(at("means/latest/train.json"), 0, NULL);
    assert_non_null(json_object_get(json_object_get(m, "files"), "ema/model.safetensors"));
    write_text(at("means/latest/ema/model.safetensors"), "no tensors");
    assert_int_equal(qp_state_restore(with, at("means"), &step), QP_ERR_FORMAT);
    assert_non_null(strstr(qp_error(ctx), "ema/model.safetensors: is damaged"));
    qp_clear(ctx);
    json_object_del(json_object_get(m, "files"), "ema/model.safetensors");
    assert_int_equal(json_dump_file(m, at("means/latest/train.json"), 0), 0);
    assert_int_equal(qp_state_restore(with, at("means"), &step), QP_ERR_FORMAT);
    assert_non_null(strstr(qp_error(ctx), "ema/model.safetensors: offset 0"));
    qp_clear(ctx);
    json_decref(m);
    qp_ema_close(with.ema);
    sound();
}

/* What was the best so far comes back; the best state outlives `keep`; what is no best is refused. */
static void bests(void **state) {
    (void)state;
    static const struct {
        const char *json, *words;
    } cases[] = {{"7", "best: expected an object"},
                 {"{\"step\": 0, \"waited\": 0, \"loss\": 1.0}", "best.step: expected an integer from 1"},
                 {"{\"step\": 1, \"waited\": -1, \"loss\": 1.0}", "best.waited: expected an integer from 0"},
                 {"{\"step\": 1, \"waited\": 0, \"loss\": null}", "best.loss: missing"},
                 {"{\"step\": 1, \"waited\": 0}", "best.loss: missing"}};
    qpi_progress p = {.best = 1.5, .best_step = 1}, got = {0};
    int64_t      step = 0;
    for (int s = 1; s <= 3; s++, p.waited++)
        assert_int_equal(qpi_state_save(set, at("bests"), s, 1, &p), QP_OK);
    assert_int_equal(access(at("bests/step-1"), F_OK), 0);
    assert_int_equal(access(at("bests/step-2"), F_OK), -1);
    assert_int_equal(qpi_state_restore(set, at("bests"), &step, &got), QP_OK);
    assert_true(step == 3 && got.best == 1.5 && got.best_step == 1 && got.waited == 2);
    got.precision = QP_BF16;
    assert_int_equal(qpi_state_restore(set, at("bests"), &step, &got), QP_ERR_STATE);
    assert_non_null(strstr(qp_error(ctx), "precision: the state is of f32, this run uses bf16"));
    qp_clear(ctx);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *m = manifest();
        json_object_set_new(m, "best", json_loads(cases[i].json, JSON_DECODE_ANY, NULL));
        with_manifest(m, QP_ERR_FORMAT, cases[i].words);
    }
    /* a link that cannot be made: the state has no name to be resumed by */
    unlink(at("bests/best"));
    assert_int_equal(mkdir(at("bests/best"), 0777), 0);
    p.best_step = 4;
    assert_int_equal(qpi_state_save(set, at("bests"), 4, 1, &p), QP_ERR_IO);
    assert_non_null(strstr(qp_error(ctx), "bests/best"));
    qp_clear(ctx);
    assert_int_equal(qpi_state_restore(set, at("bests"), &step, &(qpi_progress){0}), QP_OK);
    assert_int_equal(step, 3);
}

/* ---- Folders ------------------------------------------------------------------------------------------ */

static void links(void **state) {
    (void)state;
    static const char *const targets[] = {"../out", ".", "..", P_tmpdir};
    mkdir(at("other"), 0777);
    for (size_t i = 0; i < sizeof targets / sizeof targets[0]; i++) {
        assert_int_equal(symlink(targets[i], at("other/latest")), 0);
        refused(at("other"), QP_ERR_FORMAT, "expected a folder beside it");
        assert_int_equal(qp_state_save(set, at("other"), 1, 0), QP_ERR_FORMAT);
        qp_clear(ctx);
        unlink(at("other/latest"));
    }
    assert_int_equal(symlink("step-4", at("other/latest")), 0);
    refused(at("other"), QP_ERR_IO, "train.json");
    unlink(at("other/latest"));
    mkdir(at("other/latest"), 0777);
    refused(at("other"), QP_ERR_IO, "read the link");
    int64_t step = 7;
    assert_int_equal(qp_state_restore(set, at("nowhere"), &step), QP_OK); /* there is none: begin */
    assert_int_equal(step, 0);
    qpi_folder_remove(at("other"));
}

static void existing(void **state) {
    (void)state;
    static char long_path[4000];
    memset(long_path, 'p', sizeof long_path - 1);
    assert_true(qpi_state_exists(ctx, at("out")));
    assert_false(qpi_state_exists(ctx, at("nowhere")));
    assert_int_equal(qp_error_code(ctx), QP_OK);
    assert_false(qpi_state_exists(ctx, long_path));
    assert_non_null(strstr(qp_error(ctx), "the path is too long"));
    qp_clear(ctx);
    assert_false(qpi_state_exists(ctx, at("text")));
    assert_int_equal(qp_error_code(ctx), QP_ERR_IO);
    qp_clear(ctx);
}

static void places(void **state) {
    (void)state;
    assert_int_equal(qp_state_save(set, at("text"), 1, 0), QP_ERR_IO);
    qp_clear(ctx);
    assert_int_equal(qp_state_save(set, at("no/where"), 1, 0), QP_ERR_IO);
    assert_non_null(strstr(qp_error(ctx), "no/where"));
    int64_t step = 7; /* in failure nothing is done */
    assert_int_equal(qp_state_save(set, at("out"), 2, 0), QP_ERR_IO);
    assert_int_equal(qp_state_restore(set, at("out"), &step), QP_ERR_IO);
    qp_clear(ctx);
    assert_int_equal(access(at("out/step-2"), F_OK), -1);
}

/* A path of any length is saved to, or refused with a text; whatever step of the way it is too long for. */
static void long_paths(void **state) {
    (void)state;
    static char out[4200];
    int         saved = 0, too_long = 0;
    mkdir(at("long"), 0777);
    for (int length = 3050; length <= 3150; length++) {
        int64_t step = 0;
        int     n = snprintf(out, sizeof out, "%s/long", folder);
        while (n < length) n += snprintf(out + n, sizeof out - (size_t)n, n + 2 > length ? "/" : "/.");
        bool good = qp_state_save(set, out, length, 1) == QP_OK && qp_state_restore(set, out, &step) == QP_OK;
        assert_true(good == !qp_failed(ctx) && (good || qp_error(ctx)[0]));
        if (good) assert_int_equal(step, length);
        saved += good;
        too_long += !good;
        qp_clear(ctx);
    }
    assert_true(saved > 10 && too_long > 10);
    sound();
}

/* Only states count as states, and none is newer than the one just saved. */
static void keeping(void **state) {
    (void)state;
    static const char *const foreign[] = {"step-", "step-x", "step-3x", "notes", "stepping"};
    mkdir(at("keep"), 0777);
    for (size_t i = 0; i < sizeof foreign / sizeof foreign[0]; i++) {
        char name[40];
        snprintf(name, sizeof name, "keep/%s", foreign[i]);
        mkdir(at(name), 0777);
    }
    mkdir(at("keep/step-90"), 0777);
    mkdir(at("keep/step-9.123-4.tmp"), 0777); /* a killed run's */
    for (int step = 1; step <= 4; step++) assert_int_equal(qp_state_save(set, at("keep"), step, 2), QP_OK);
    assert_int_equal(qp_state_save(set, at("keep"), 4, 2), QP_OK); /* again: it is there */
    for (size_t i = 0; i < sizeof foreign / sizeof foreign[0]; i++) {
        char name[40];
        snprintf(name, sizeof name, "keep/%s", foreign[i]);
        assert_int_equal(access(at(name), F_OK), 0);
    }
    assert_int_equal(access(at("keep/step-90"), F_OK), 0);
    assert_int_equal(access(at("keep/step-9.123-4.tmp"), F_OK), -1);
    for (int step = 1; step <= 4; step++) {
        char name[40];
        snprintf(name, sizeof name, "keep/step-%d", step);
        assert_int_equal(access(at(name), F_OK), step > 2 ? 0 : -1);
    }
}

/* A training without data or tokenizer has a state, too. */
static void model_alone(void **state) {
    (void)state;
    qp_training_set alone = {.model = set.model, .optim = set.optim};
    int64_t         step = 0;
    assert_int_equal(qp_state_save(alone, at("alone"), 3, 0), QP_OK);
    assert_int_equal(qp_state_restore(alone, at("alone"), &step), QP_OK);
    assert_int_equal(step, 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(members),         cmocka_unit_test(not_json),   cmocka_unit_test(config_differs),
        cmocka_unit_test(optimizer_lacks), cmocka_unit_test(links),      cmocka_unit_test(places),
        cmocka_unit_test(weights_lack),    cmocka_unit_test(means),      cmocka_unit_test(bests),
        cmocka_unit_test(existing),        cmocka_unit_test(long_paths), cmocka_unit_test(keeping),
        cmocka_unit_test(model_alone)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
