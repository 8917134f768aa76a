/* A GGUF file on the way, from a file and from folders: whatever fails, an error or the whole file; odd
 * tensors; cancelling. */
#include "support.h"

#include <sys/stat.h>
#include <unistd.h>

#include "../format/in_turn.h"
#include "cli/gguf_target.h"
#include "quipu/ops.h"

/* What the command has besides. */
static bool    interrupted;
static int64_t shown;
bool cli_interrupted(void) { return interrupted; }
void cli_progress_show(cli_progress *p, int64_t done, const char *format, ...) {
    assert_non_null(p);
    assert_non_null(format);
    shown = done;
}

static const char *source; /* of save_as */
static int64_t     layers, heads, kv_heads;

/* Matrices in blocks where their rows are whole ones, otherwise in f16. */
static bool save_as(qp_ctx *ctx) {
    gguf_target  t;
    cli_progress progress = {0};
    if (!gguf_check_out(ctx, in_folder("out.gguf"))) return false;
    bool ok = gguf_target_open(&t, ctx, source);
    for (int64_t i = 0; ok && i < t.count; i++)
        if (t.items[i].as.ndim == 2) t.items[i].as.dtype = t.items[i].as.shape[1] % 32 ? QP_F16 : QP_Q8_0;
    t.progress = &progress;
    layers = t.layers, heads = t.heads, kv_heads = t.kv_heads;
    ok = ok && gguf_target_save(&t, in_folder("out.gguf"), 7);
    gguf_target_close(&t);
    return ok;
}

static const char *golden(const char *name) {
    static char path[300];
    snprintf(path, sizeof path, SOURCE_DIR "/tests/golden/%s", name);
    return path;
}

static qp_ctx *open_ctx(void) { return qp_open((qp_options){.threads = 1}); }

static void expect_error(qp_ctx *ctx, const char *words) {
    if (!strstr(qp_error(ctx), words)) fail_msg("\"%s\" does not say %s", qp_error(ctx), words);
    qp_clear(ctx);
}

/* ---- Tensors and pairs that are odd ------------------------------------------------------------------ */

/* Writes a file of these tensors, and of an architecture where one is given. */
static void write_gguf(const char *name, const char *architecture, int64_t n, const qpi_gguf_tensor *tensors,
                       const void *(*data)(void *, int64_t)) {
    qpi_gguf_pairs pairs = {0};
    qpi_error      e = {0};
    if (architecture) qpi_gguf_put_text(&pairs, "general.architecture", architecture, strlen(architecture));
    qpi_gguf_put_integer(&pairs, ".block_count", QPI_GGUF_U32, 3);
    assert_true(qpi_gguf_save(in_folder(name), &pairs, n, tensors, data, NULL, &e));
    qpi_gguf_pairs_free(&pairs);
}

static float values[64];
static const void *values_of(void *user, int64_t i) { return (void)user, (void)i, values; }

/* Zeros lose nothing by rounding, and there is nothing to lose where there are no elements. */
static void no_error(void **state) {
    (void)state;
    static const qpi_gguf_tensor tensors[] = {
        {.name = "zeros", .dtype = QP_F32, .ndim = 2, .shape = {2, 32}},
        {.name = "none", .dtype = QP_F32, .ndim = 2, .shape = {0, 32}},
        {.name = "output.weight", .dtype = QP_F32, .ndim = 1, .shape = {3}}};
    qp_ctx     *ctx = open_ctx();
    gguf_target t;
    write_gguf("odd.gguf", NULL, 3, tensors, values_of);
    assert_true(gguf_target_open(&t, ctx, in_folder("odd.gguf")));
    assert_false(t.tied);
    assert_int_equal(t.layers, 3);
    t.items[0].as.dtype = t.items[1].as.dtype = QP_Q8_0;
    if (!gguf_target_save(&t, in_folder("out.gguf"), 7)) fail_msg("%s", qp_error(ctx));
    assert_true(t.items[0].error == 0 && t.items[0].largest == 0 && t.items[1].error == 0 &&
                t.items[1].largest == 0);
    assert_true(isnan(t.items[2].error));
    gguf_target_close(&t);
    qp_close(ctx);
}

/* What rounding makes of elements that are no numbers, or too large, is an error; f32 takes them all. */
static void rounded(void **state) {
    (void)state;
    const float x[] = {1, 70000, NAN, -INFINITY};
    qp_ctx     *ctx = open_ctx();
    qp_tensor   all = qp_from(ctx, QP_F32, 1, (int64_t[]){4}, x), half = qp_cast(all, QP_F16);
    assert_int_equal(gguf_count_odd(all), 2);
    assert_int_equal(gguf_count_odd(half), 3);
    assert_int_equal(qp_dtype_of(gguf_round("m", "w", half, QP_F32)), QP_F32);
    assert_int_equal(qp_dtype_of(gguf_round("m", "w", half, QP_F16)), QP_F16);
    assert_int_equal(qp_error_code(ctx), QP_OK);
    gguf_round("m", "w", all, QP_BF16);
    expect_error(ctx, "m: w: 2 of its elements are no finite numbers");
    gguf_round("m", "w", qp_slice(all, 0, 0, 2, 1), QP_F16);
    expect_error(ctx, "m: w: 1 of its elements are beyond what f16 holds");
    gguf_round("m", "w", qp_slice(all, 0, 0, 1, 1), QP_F16);
    assert_int_equal(qp_error_code(ctx), QP_OK);
    qp_close(ctx);
}

/* Memory for the numbers, but not for looking at them. */
static void rounded_memory(void **state) {
    (void)state;
    int64_t n = 1 << 20;
    qp_ctx *ctx = qp_open((qp_options){.threads = 1, .memory_cap = 3u << 20});
    gguf_count_odd(qp_zeros(ctx, QP_F16, 1, &n));
    assert_int_equal(qp_error_code(ctx), QP_ERR_MEMORY);
    qp_close(ctx);
}

/* Widening changes nothing, and is not measured. */
static void widened(void **state) {
    (void)state;
    static const qpi_gguf_tensor tensors[] = {{.name = "half", .dtype = QP_F16, .ndim = 2, .shape = {2, 32}}};
    qp_ctx                      *ctx = open_ctx();
    gguf_target                  t;
    write_gguf("half.gguf", NULL, 1, tensors, values_of);
    assert_true(gguf_target_open(&t, ctx, in_folder("half.gguf")));
    t.items[0].as.dtype = QP_F32;
    assert_true(gguf_target_save(&t, in_folder("out.gguf"), 0));
    assert_true(isnan(t.items[0].error));
    gguf_target_close(&t);
    qp_close(ctx);
}

static void outputs(void **state) {
    (void)state;
    static const char *const odd[] = {"", "new/", "/", "/nowhere/out.gguf"};
    qp_ctx                  *ctx = open_ctx();
    for (int i = 0; i < 4; i++) {
        assert_false(gguf_check_out(ctx, odd[i]));
        expect_error(ctx, i < 3 ? "expected a file's name" : "there is no folder /nowhere");
    }
    assert_false(gguf_check_out(ctx, in_folder("bytes")));
    expect_error(ctx, "expected a file's name");
    assert_true(gguf_check_out(ctx, "out.gguf"));
    qp_close(ctx);
}

/* A model's name is that of its folder, and a config may have numbers for anything. */
static void folder_names(void **state) {
    (void)state;
    static const char *const paths[] = {"m", "m/", "./m", ".//m//"};
    static const char        config[] =
        "{\"model_type\": \"gpt2\", \"vocab_size\": 4, \"n_positions\": 4, \"n_embd\": 8, \"n_layer\": 1, "
        "\"n_head\": 2, \"num_attention_heads\": null, \"tie_word_embeddings\": true}";
    char        here[1000];
    qp_ctx     *ctx = open_ctx();
    gguf_target t;
    assert_int_equal(mkdir(in_folder("m"), 0700), 0);
    write_text("m/config.json", config);
    qp_model *m = qp_model_load(ctx, in_folder("m/config.json"), (qp_model_options){0});
    if (!m) fail_msg("%s", qp_error(ctx));
    assert_int_equal(qp_model_save(m, in_folder("m")), QP_OK);
    qp_model_close(m);
    write_text("m/config.json", config);
    assert_non_null(getcwd(here, sizeof here));
    assert_int_equal(chdir(folder), 0);
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        if (!gguf_target_open(&t, ctx, paths[i])) fail_msg("%s", qp_error(ctx));
        assert_int_equal(t.heads, 2);
        assert_true(gguf_target_save(&t, "out.gguf", 0));
        gguf_target_close(&t);
        qp_file *f = qp_file_open(ctx, "out.gguf", (qp_file_options){0});
        assert_string_equal(qp_file_meta(f, "general.name"), "m");
        qp_file_close(f);
    }
    assert_int_equal(chdir(here), 0);
    qp_close(ctx);
}

/* ---- Failures ------------------------------------------------------------------------------------------ */

static void refused(void **state) {
    (void)state;
    qp_ctx     *ctx = open_ctx();
    gguf_target t;
    assert_false(gguf_target_open(&t, ctx, in_folder("nothing.gguf")));
    expect_error(ctx, "nothing.gguf");
    gguf_target_close(&t);
    assert_false(gguf_target_open(&t, ctx, in_folder("")));
    expect_error(ctx, "config.json");
    gguf_target_close(&t);
    assert_false(gguf_target_open(&t, ctx, golden("models/roformer")));
    expect_error(ctx, "roformer");
    gguf_target_close(&t);
    qp_close(ctx);
}

static void cancelled(void **state) {
    (void)state;
    qp_ctx *ctx = open_ctx();
    source = golden("gguf/qwen2.gguf");
    assert_true(save_as(ctx));
    assert_true(shown > 0);
    assert_int_equal(remove(in_folder("out.gguf")), 0);
    interrupted = true;
    assert_false(save_as(ctx));
    expect_error(ctx, "cancelled");
    assert_int_not_equal(access(in_folder("out.gguf"), F_OK), 0);
    interrupted = false;
    qp_close(ctx);
}

#if FAULTS
static char  *whole; /* the file as it should be */
static size_t whole_bytes;

static void remove_out(void) { remove(in_folder("out.gguf")); }

/* A file that is there is whole, even where its folder could not be told to last. */
static void check_out(bool succeeded) {
    size_t bytes;
    if (!succeeded && access(in_folder("out.gguf"), F_OK) != 0) return;
    char *now = read_file(in_folder("out.gguf"), &bytes);
    if (bytes != whole_bytes || memcmp(now, whole, bytes)) fail_msg("%s: another file", source);
    free(now);
}

static void memory(void **state) {
    static const char *const some[] = {"gguf/split/qwen2-00001-of-00002.gguf", "models/llama-gqa-tied",
                                       "models/bert-poolerless", "models/gpt2", "models/mixtral"};
    (void)state;
    for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
        qp_ctx *ctx = open_ctx();
        source = golden(some[i]);
        if (!save_as(ctx)) fail_msg("%s", qp_error(ctx));
        assert_true(layers > 0 && heads > 0);
        qp_close(ctx);
        whole = read_file(in_folder("out.gguf"), &whole_bytes);
        in_turn(save_as, 1, remove_out, check_out);
        free(whole);
    }
}
#endif

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_error),       cmocka_unit_test(folder_names), cmocka_unit_test(rounded),
        cmocka_unit_test(rounded_memory), cmocka_unit_test(widened),      cmocka_unit_test(outputs),
        cmocka_unit_test(refused),        cmocka_unit_test(cancelled),
#if FAULTS
        cmocka_unit_test(memory),
#endif
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
