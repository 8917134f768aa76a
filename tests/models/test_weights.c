/* Weights of checkpoints: what is missing, too much or of another shape is named, and nothing is changed. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "../expect.h"
#include "../format/in_turn.h"
#include "format/writer.h"
#include "models/model.h"
#include "quipu/quipu.h"

static char folder[64];

static const char *at(const char *name) {
    static char path[4][400];
    static int  turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
    return path[turn];
}

static const char head[] =
    "{\"vocab_size\": 16, \"hidden_size\": 8, \"intermediate_size\": 8, \"num_attention_heads\": 2, "
    "\"max_position_embeddings\": 32, \"num_hidden_layers\": 1, \"model_type\": ";

static qp_model *model(qp_ctx *ctx, const char *keys) {
    char text[600];
    snprintf(text, sizeof text, "%s%s}", head, keys);
    qp_model *m = qp_model_new(ctx, "test", text);
    if (!m) fail_msg("%s: %s", keys, qp_error(ctx));
    return m;
}

/* The model's tensors as a list, of which tests change some. */
static int64_t list_of(qp_model *m, qp_named *list) {
    int64_t n = 0;
    while (qp_model_weight(m, n, false, &list[n].name, &list[n].tensor)) n++;
    return n;
}

static void save(qp_ctx *ctx, int64_t n, const qp_named *list) {
    if (qp_file_save(ctx, at("model.safetensors"), n, list, (qp_save_options){0}) != QP_OK)
        fail_msg("%s", qp_error(ctx));
}

static void refused(qp_model *m, qp_code code, const char *words) {
    float       before[16 * 8], after[16 * 8];
    const char *name;
    qp_tensor   t;
    assert_true(qp_model_weight(m, 0, false, &name, &t));
    assert_int_equal(qp_read(t, QP_F32, before, qp_count(t)), QP_OK);
    assert_int_equal(qp_model_load_weights(m, at("model.safetensors")), code);
    expect_error(qp_model_ctx(m), code, words);
    assert_int_equal(qp_read(t, QP_F32, after, qp_count(t)), QP_OK);
    assert_memory_equal(before, after, (size_t)qp_count(t) * sizeof *before);
}

/* ---- What does not fit ----------------------------------------------------------------------------------- */

static void misfits(void **state) {
    (void)state;
    static uint8_t raw[600];
    qp_named       list[40];
    qp_ctx        *ctx = qp_open((qp_options){.threads = 1});
    qp_model      *m = model(ctx, "\"llama\"");
    int64_t        n = list_of(m, list), norm = 0;
    while (!strstr(list[norm].name, "input_layernorm")) norm++;
    qp_named good = list[norm];
    save(ctx, 0, NULL); /* more names than the message has room for */
    refused(m, QP_ERR_FORMAT, "12 tensors missing (model.embed_tokens.weight, ");
    save(ctx, n, list);
    assert_int_equal(qp_model_load_weights(m, at("model.safetensors")), QP_OK);
    const qp_tensor   wrong[] = {qp_zeros(ctx, QP_F32, 1, (int64_t[]){9}),
                                 qp_zeros(ctx, QP_I32, 1, (int64_t[]){8}),
                                 qp_zeros(ctx, QP_F32, 2, (int64_t[]){8, 1}), qp_zeros(ctx, QP_F32, 0, NULL)};
    const char *const words[] = {"is f32 [9], the model has f32 [8]", "is i32 [8], the model has f32 [8]",
                                 "is f32 [8, 1], the model has f32 [8]", "the model has f32 [8]"};
    for (int i = 0; i < 4; i++) {
        list[norm].tensor = wrong[i];
        save(ctx, n, list);
        refused(m, QP_ERR_SHAPE, words[i]);
    }
    list[norm] = good;
    list[n] = (qp_named){"model.layers.0.mlp.gate", good.tensor};
    save(ctx, n + 1, list);
    refused(m, QP_ERR_FORMAT, ": 1 unexpected tensors (model.layers.0.mlp.gate)");
    /* a type that is not ours, and sizes that no tensor can have */
    static const char *const odd[][2] = {
        {"\"dtype\":\"I16\",\"shape\":[8],\"data_offsets\":[0,16]", "is I16, the model has f32"},
        {"\"dtype\":\"F32\",\"shape\":[0,4611686018427387904,16],\"data_offsets\":[0,0]",
         "is F32, the model has f32"}};
    for (int i = 0; i < 2; i++) {
        qpi_error e = {0};
        uint64_t  length = (uint64_t)snprintf((char *)raw + 8, sizeof raw - 8,
                                              "{\"model.embed_tokens.weight\":{%s}}", odd[i][0]);
        memcpy(raw, &length, 8);
        memset(raw + 8 + length, 0, 16);
        assert_true(qpi_write_file(at("model.safetensors"), raw, 8 + length + (i ? 0 : 16), &e));
        refused(m, QP_ERR_SHAPE, odd[i][1]);
    }
    qp_close(ctx);
}

/* Unexpected tensors are so for every model type; which are passed over is a matter of it. */
static void passed_over(void **state) {
    (void)state;
    qp_named  list[80];
    qp_ctx   *ctx = qp_open((qp_options){.threads = 1});
    qp_model *plain = qp_model_new(
        ctx, "test",
        "{\"model_type\": \"quipu\", \"vocab_size\": 11, \"hidden_size\": 8, \"num_hidden_layers\": 1,"
        " \"max_position_embeddings\": 8, \"position\": {\"type\": \"none\"}, \"mixer\":"
        " {\"type\": \"attention\", \"heads\": 2}, \"ffn\": {\"type\": \"mlp\"}, \"norm\": {\"type\": "
        "\"rms_norm\"}}");
    assert_non_null(plain);
    int64_t n = list_of(plain, list);
    list[n] = (qp_named){"more", list[0].tensor};
    save(ctx, n + 1, list);
    refused(plain, QP_ERR_FORMAT, "1 unexpected tensors (more)");
    save(ctx, n - 1, list);
    refused(plain, QP_ERR_FORMAT, "1 tensors missing (");
    /* a tensor that is tied may be there */
    qp_model *tied = model(ctx, "\"llama\", \"tie_word_embeddings\": true"), *own = model(ctx, "\"llama\"");
    n = list_of(own, list);
    save(ctx, n, list);
    assert_int_equal(qp_model_load_weights(tied, at("model.safetensors")), QP_OK);
    n = list_of(tied, list);
    save(ctx, n, list);
    assert_int_equal(qp_model_load_weights(tied, at("model.safetensors")), QP_OK);
    refused(own, QP_ERR_FORMAT, "1 tensors missing (lm_head.weight)");
    /* modules that predict further tokens hold copies, others do not */
    qp_model *further = model(ctx, "\"llama\", \"num_nextn_predict_layers\": 1");
    n = list_of(further, list);
    list[n++] = (qp_named){"model.layers.1.embed_tokens.weight", list[0].tensor};
    list[n++] = (qp_named){"model.layers.1.shared_head.head.weight", list[0].tensor};
    save(ctx, n, list);
    assert_int_equal(qp_model_load_weights(further, at("model.safetensors")), QP_OK);
    list[n++] = (qp_named){"model.layers.1.head.weight", list[0].tensor};
    save(ctx, n, list);
    refused(further, QP_ERR_FORMAT, "1 unexpected tensors (model.layers.1.head.weight)");
    qp_close(ctx);
}

/* ---- Names ----------------------------------------------------------------------------------------------- */

static void names(void **state) {
    (void)state;
    const char *name;
    qp_tensor   t;
    qp_named    list[60];
    qp_ctx     *ctx = qp_open((qp_options){.threads = 1});
    qp_model   *m = model(ctx, "\"phi3\""); /* whose tensors hold several parameters */
    int64_t     n = list_of(m, list);
    bool        joined = false;
    for (int64_t i = 0; i < n; i++)
        joined |= strstr(list[i].name, "qkv_proj") && qp_size(list[i].tensor, 0) == 24;
    assert_true(joined);
    assert_false(qp_model_weight(m, n, false, &name, &t) || qp_model_weight(m, n + 5, false, &name, &t));
    /* gradients: none before backward, none of what is frozen, of the joined ones all parts */
    assert_true(qp_model_weight(m, 0, true, &name, &t) && qp_is_none(t));
    qp_tensor ids = qp_from(ctx, QP_I64, 2, (int64_t[]){1, 4}, (int64_t[]){1, 2, 3, 4});
    qp_freeze(qp_model_module(m), "embed*", true);
    qp_backward(qp_model_loss(m, ids, ids));
    int with = 0;
    for (int64_t i = 0; qp_model_weight(m, i, true, &name, &t); i++) {
        bool frozen = strstr(name, "embed_tokens") != NULL;
        assert_int_equal(qp_is_none(t), frozen);
        if (!frozen) assert_true(qp_size(t, 0) == qp_size(list[i].tensor, 0));
        with += !frozen;
    }
    assert_int_equal(with, n - 1);
    /* entries that come later have names, too */
    qp_module *module = qp_module_new(ctx, qp_model_module(m), "more");
    qp_param(module, "p", "ones", 1, (int64_t[]){2});
    qp_module_fill(module);
    assert_int_equal(list_of(m, list), n + 1);
    assert_string_equal(list[n].name, "more.p");
    qp_close(ctx);
}

/* ---- Places ------------------------------------------------------------------------------------------------ */

static void places(void **state) {
    (void)state;
    static char long_path[5000];
    memset(long_path, 'p', sizeof long_path - 1);
    qp_ctx   *ctx = qp_open((qp_options){.threads = 1});
    qp_model *m = model(ctx, "\"roformer\"");
    char      gguf[500];
    snprintf(gguf, sizeof gguf, SOURCE_DIR "/tests/golden/gguf/gpt2.gguf");
    assert_int_equal(qp_model_load_weights(m, gguf), QP_ERR_UNSUPPORTED);
    expect_error(ctx, QP_ERR_UNSUPPORTED, "quipu knows no names of roformer in GGUF files");
    assert_int_equal(qp_model_save(m, long_path), QP_ERR_ARGUMENT);
    expect_error(ctx, QP_ERR_ARGUMENT, "the path is too long");
    assert_int_equal(mkdir(at("taken"), 0700), 0);
    assert_int_equal(mkdir(at("taken/config.json"), 0700), 0);
    assert_int_equal(qp_model_save(m, at("taken")), QP_ERR_IO);
    expect_error(ctx, QP_ERR_IO, "taken/config.json: expected a regular file or none, found a folder");
    assert_int_equal(qp_model_save(m, at("no/where")), QP_ERR_IO);
    expect_error(ctx, QP_ERR_IO, "no/where: cannot make the folder");
    assert_int_equal(qp_model_save(m, at("twice")), QP_OK);
    assert_int_equal(qp_model_save(m, at("twice")), QP_OK);
    qp_fail(ctx, QP_ERR_STATE, "as it was");
    assert_int_equal(qp_model_save(m, at("never")), QP_ERR_STATE);
    assert_int_equal(qp_model_load_weights(m, at("twice")), QP_ERR_STATE);
    expect_error(ctx, QP_ERR_STATE, "as it was");
    assert_int_equal(access(at("never"), F_OK), -1);
    qp_close(ctx);
}

/* A config cannot make the library allocate what its weights do not hold. */
static void bounds(void **state) {
    (void)state;
    static const struct {
        const char *layers, *width, *words;
        qp_code     code;
    } cases[] = {
        {"60000", "8", "60000 layers, but its weights are", QP_ERR_FORMAT},
        {"3", "8000000", "embed.weight is f32 [11, 8], the model has f32 [11, 8000000]", QP_ERR_SHAPE}};
    static const char config[] =
        "{\"model_type\": \"quipu\", \"vocab_size\": 11, \"hidden_size\": %s, \"num_hidden_layers\": %s, "
        "\"max_position_embeddings\": 16, \"position\": {\"type\": \"rope\"}, \"mixer\": {\"type\": "
        "\"attention\", "
        "\"heads\": 2}, \"ffn\": {\"type\": \"mlp\"}, \"norm\": {\"type\": \"rms_norm\"}}";
    char    text[600];
    qp_ctx *ctx = qp_open((qp_options){.threads = 1});
    snprintf(text, sizeof text, config, "8", "3");
    assert_int_equal(qp_model_save(qp_model_new(ctx, "test", text), at("bounded")), QP_OK);
    size_t before = qp_stats_of(ctx).bytes;
    for (int i = 0; i < 2; i++) {
        qpi_error e = {0};
        int       n = snprintf(text, sizeof text, config, cases[i].width, cases[i].layers);
        assert_true(qpi_write_file(at("bounded/config.json"), text, (size_t)n, &e));
        assert_null(qp_model_load(ctx, at("bounded"), (qp_model_options){0}));
        expect_error(ctx, cases[i].code, cases[i].words);
        assert_true(qp_stats_of(ctx).bytes - before < 65536);
    }
    qp_close(ctx);
}

/* Under each cap of memory: the model, or an error that says so. */
static void caps(void **state) {
    (void)state;
    static const char *const types[] = {"phi3", "mixtral"};
    for (int i = 0; i < 4; i++) {
        char    text[400];
        qp_ctx *ctx = qp_open((qp_options){.threads = 1});
        snprintf(text, sizeof text,
                 "{\"model_type\": \"%s\", \"vocab_size\": 16, \"hidden_size\": 128, \"intermediate_size\": 32,"
                 " \"num_attention_heads\": 2, \"max_position_embeddings\": 32, \"num_hidden_layers\": 1}",
                 types[i / 2]);
        qp_model *m = qp_model_new(ctx, "test", text);
        assert_int_equal(qp_model_save(m, at("capped")), QP_OK);
        qp_close(ctx);
        bool loaded = false;
        int  refusals = 0;
        for (size_t cap = 8192; cap < 1 << 22 && !loaded; cap += 8192) {
            ctx = qp_open((qp_options){.threads = 1, .memory_cap = cap});
            loaded = qp_model_load(ctx, at("capped"), (qp_model_options){.as_stored = i % 2}) != NULL;
            if (!loaded) expect_error(ctx, QP_ERR_MEMORY, "memory");
            refusals += !loaded;
            qp_close(ctx);
        }
        if (!loaded || refusals < (i % 2 ? 1 : 9)) fail_msg("%s: %d refusals", text, refusals);
    }
}

/* Names of experts are made only where a file can have them. */
static void experts(void **state) {
    (void)state;
    qp_ctx *ctx = qp_open((qp_options){.threads = 1});
    save(ctx, 0, NULL);
    qp_model *m = model(ctx, "\"mixtral\", \"num_local_experts\": 9000");
    refused(m, QP_ERR_FORMAT, "0 tensors, the config has many more experts");
    m = model(ctx, "\"mixtral\", \"num_local_experts\": 3");
    refused(m, QP_ERR_FORMAT, "19 tensors missing (");
    qp_named list[40];
    save(ctx, list_of(m, list), list);
    assert_int_equal(qp_model_load_weights(m, at("model.safetensors")), QP_OK); /* into what it has */
    qp_close(ctx);
}

/* Weights of f64 are no type to compute in: kept as they are stored, they are f32. */
static void doubles(void **state) {
    (void)state;
    qp_ctx   *ctx = qp_open((qp_options){.threads = 1, .seed = 3});
    qp_model *m = qp_model_load(ctx, SOURCE_DIR "/tests/golden/models/deepseek_v3", (qp_model_options){0});
    assert_non_null(m);
    static qp_named list[400];
    int64_t         n = list_of(m, list);
    for (int64_t i = 0; i < n; i++) list[i].tensor = qp_cast(list[i].tensor, QP_F64);
    save(ctx, n, list);
    assert_int_equal(qp_model_save(m, at("f64")), QP_OK);
    char path[200], from[200];
    snprintf(path, sizeof path, "%s/model.safetensors", at("f64"));
    snprintf(from, sizeof from, "%s", at("model.safetensors"));
    assert_int_equal(rename(from, path), 0);
    qp_model *stored = qp_model_load(ctx, at("f64"), (qp_model_options){.as_stored = true});
    if (!stored) fail_msg("%s", qp_error(ctx));
    qp_no_grad(ctx, true);
    qp_tensor ids = qp_from(ctx, QP_I64, 2, (int64_t[]){1, 5}, (int64_t[]){1, 2, 3, 4, 5});
    float     a[1000], b[1000];
    qp_tensor x = qp_logits(m, ids), y = qp_logits(stored, ids);
    int64_t   count = qp_count(x);
    assert_true(count > 5 && count <= 1000);
    assert_int_equal(qp_read(x, QP_F32, a, count), QP_OK);
    assert_int_equal(qp_read(y, QP_F32, b, count), QP_OK);
    assert_memory_equal(a, b, (size_t)count * sizeof *a);
    qp_close(ctx);
}

/* ---- Memory -------------------------------------------------------------------------------------------------- */

#if FAULTS
static bool save_and_load(qp_ctx *ctx) {
    char        text[600];
    const char *name;
    qp_tensor   t;
    snprintf(text, sizeof text, "%s\"phi3\"}", head);
    qp_model *m = qp_model_new(ctx, "test", text);
    return m && qp_model_save(m, at("saved")) == QP_OK && qp_model_load_weights(m, at("saved")) == QP_OK &&
           qp_model_weight(m, 1, false, &name, &t) && !qp_failed(ctx);
}

static bool load(qp_ctx *ctx) {
    bool ok = true;
    for (int as_stored = 0; ok && as_stored < 2; as_stored++)
        ok = qp_model_load(ctx, at("saved"), (qp_model_options){.as_stored = as_stored}) != NULL;
    return ok;
}

static bool both_names(qp_ctx *ctx) {
    char        text[600];
    const char *name;
    qp_tensor   t;
    snprintf(text, sizeof text, "%s\"llama\"}", head);
    qp_model *m = qp_model_new(ctx, "test", text);
    return m && qp_model_weight(m, 1, false, &name, &t) && qpi_gguf_weight(m, 1, &name, &t) && !qp_failed(ctx);
}

static bool load_experts(qp_ctx *ctx) {
    return qp_model_load(ctx, SOURCE_DIR "/tests/golden/models/mixtral", (qp_model_options){0}) != NULL;
}

static void memory(void **state) {
    (void)state;
    in_turn(save_and_load, 1, NULL, NULL);
    warm(save_and_load, 1);
    in_turn(load, 1, NULL, NULL);
    in_turn(both_names, 1, NULL, NULL);
    in_turn(load_experts, 1, NULL, NULL);
}
#endif

static int begin(void **state) {
    (void)state;
    strcpy(folder, P_tmpdir "/quipu-weights-XXXXXX");
    return !mkdtemp(folder);
}

static int end(void **state) {
    (void)state;
    qpi_folder_remove(folder);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(misfits), cmocka_unit_test(passed_over), cmocka_unit_test(names),
        cmocka_unit_test(places),  cmocka_unit_test(caps),        cmocka_unit_test(experts),
        cmocka_unit_test(bounds),  cmocka_unit_test(doubles),
#if FAULTS
        cmocka_unit_test(memory),
#endif
    };
    return cmocka_run_group_tests(tests, begin, end);
}
