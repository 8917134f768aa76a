/* Vectors of texts: poolings against hidden states, rows against themselves alone, what folders say. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "quipu/quipu.h"

enum { B = 4, T = 9, D = 30 };
static const int64_t lengths[B] = {9, 3, 1, 6};

static qp_model *open_model(qp_ctx *ctx) {
    qp_model *m =
        qp_model_load(ctx, SOURCE_DIR "/tests/golden/models/bert-model", (qp_model_options){.as_stored = true});
    if (!m) fail_msg("%s", qp_error(ctx));
    qp_set_training(qp_model_module(m), false);
    return m;
}

/* Padding is a token like any other: nothing may depend on it. */
static qp_tensor ids_of(qp_ctx *ctx, int from, int rows, int64_t width) {
    int64_t ids[B * T] = {0};
    for (int b = 0; b < rows; b++)
        for (int64_t t = 0; t < width; t++)
            ids[b * width + t] = t < lengths[from + b] ? (from + b) * 7 + t * 3 : 5 + from;
    return qp_from(ctx, QP_I64, 2, (int64_t[]){rows, width}, ids);
}

static void read_vectors(qp_tensor t, float *out, int64_t n) {
    if (qp_read(t, QP_F32, out, n) != QP_OK) fail_msg("%s", qp_error(t.ctx));
}

static void rows_are_alone(void **state) {
    (void)state;
    qp_ctx   *ctx = qp_open((qp_options){.threads = 2});
    qp_model *m = open_model(ctx);
    for (qp_pooling how = QP_POOL_MEAN; how <= QP_POOL_LAST; how++) {
        qp_embed_options options = {.pooling = how, .normalize = how == QP_POOL_MEAN};
        float            together[B * D], alone[D];
        read_vectors(qp_embed_ids(m, ids_of(ctx, 0, B, T), lengths, options), together, B * D);
        for (int b = 0; b < B; b++) {
            read_vectors(qp_embed_ids(m, ids_of(ctx, b, 1, lengths[b]), NULL, options), alone, D);
            if (memcmp(alone, together + b * D, sizeof alone))
                fail_msg("pooling %d: row %d depends on its neighbours", how, b);
        }
    }
    qp_close(ctx);
}

static void pooled_as_said(void **state) {
    (void)state;
    qp_ctx   *ctx = qp_open((qp_options){.threads = 1});
    qp_model *m = open_model(ctx);
    float     hidden[T * D], y[D];
    qp_tensor ids = ids_of(ctx, 0, 1, T);
    read_vectors(qp_model_hidden(m, ids), hidden, T * D);
    for (int how = 0; how < 6; how++) {
        double expected[D], size = 0;
        for (int d = 0; d < D; d++) {
            double mean = 0;
            for (int t = 0; t < T; t++) mean += hidden[t * D + d] / (double)T;
            expected[d] = how / 2 == QP_POOL_MEAN ? mean : hidden[(how / 2 == QP_POOL_CLS ? 0 : T - 1) * D + d];
            size += expected[d] * expected[d];
        }
        read_vectors(qp_embed_ids(m, ids, NULL, (qp_embed_options){.pooling = how / 2, .normalize = how % 2}),
                     y, D);
        for (int d = 0; d < D; d++)
            assert_float_equal(y[d], (how % 2 ? expected[d] / sqrt(size) : expected[d]), 1e-5);
    }
    qp_embed_ids(m, ids, (int64_t[]){T + 1}, (qp_embed_options){0});
    assert_int_equal(qp_error_code(ctx), QP_ERR_ARGUMENT);
    qp_close(ctx);
}

/* ---- Folders --------------------------------------------------------------------------------------- */

static char folder[64] = P_tmpdir "/quipu-embed-XXXXXX";

static void write_file(const char *name, const char *text) {
    char path[200];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

#define MODULE(type, path) \
    "{\"idx\": 0, \"name\": \"0\", \"path\": \"" path "\", \"type\": \"sentence_transformers.models." type "\"}"

static void folders_are_read(void **state) {
    static const struct {
        const char      *modules, *pooling;
        qp_status        status;
        qp_embed_options expected;
    } cases[] = {
        {"[" MODULE("Transformer", "") "," MODULE("Pooling", "1_Pooling") "," MODULE("Normalize", "2") "]",
         "{\"pooling_mode_cls_token\": true, \"pooling_mode_mean_tokens\": false}",
         QP_OK,
         {QP_POOL_CLS, true, 77}},
        {"[" MODULE("Pooling", "1_Pooling") "]",
         "{\"pooling_mode_lasttoken\": true}",
         QP_OK,
         {QP_POOL_LAST, false, 77}},
        {"[" MODULE("Pooling", "1_Pooling") "]",
         "{\"pooling_mode_max_tokens\": true}",
         QP_ERR_UNSUPPORTED,
         {0}},
        {"[" MODULE("Pooling", "1_Pooling") "]",
         "{\"pooling_mode_cls_token\": true, \"pooling_mode_mean_tokens\": true}",
         QP_ERR_UNSUPPORTED,
         {0}},
        {"[" MODULE("Dense", "2_Dense") "]", "{}", QP_ERR_UNSUPPORTED, {0}},
        {"[" MODULE("Pooling", "../1_Pooling") "]", "{}", QP_ERR_FORMAT, {0}},
        {"[{\"path\": 3}]", "{}", QP_ERR_FORMAT, {0}}};
    (void)state;
    char path[200];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/1_Pooling", folder);
    assert_int_equal(mkdir(path, 0700), 0);
    qp_ctx          *ctx = qp_open((qp_options){.threads = 1});
    qp_model        *m = open_model(ctx);
    qp_embed_options found;
    assert_int_equal(qp_embed_options_load(m, folder, &found), QP_OK); /* nothing there: an encoder's mean */
    assert_true(found.pooling == QP_POOL_MEAN && !found.normalize && !found.max_tokens);
    write_file("sentence_bert_config.json", "{\"max_seq_length\": 77, \"do_lower_case\": false}");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        write_file("modules.json", cases[i].modules);
        write_file("1_Pooling/config.json", cases[i].pooling);
        if (qp_embed_options_load(m, folder, &found) != cases[i].status)
            fail_msg("case %zu: %s", i, qp_error(ctx));
        qp_clear(ctx);
        if (cases[i].status) continue;
        assert_true(found.pooling == cases[i].expected.pooling &&
                    found.normalize == cases[i].expected.normalize);
        assert_int_equal(found.max_tokens, cases[i].expected.max_tokens);
    }
    qp_close(ctx);
    static const char *const files[] = {"1_Pooling/config.json", "1_Pooling", "modules.json",
                                        "sentence_bert_config.json", ""};
    for (int i = 0; i < 5; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, files[i]);
        remove(path);
    }
}

/* Texts in any order and number give what each gives by itself; long ones lose their end. */
static void texts_become_vectors(void **state) {
    static const char config[] =
        "{\"model_type\": \"llama\", \"vocab_size\": 257, \"hidden_size\": 16, \"intermediate_size\": 24, "
        "\"num_hidden_layers\": 1, \"num_attention_heads\": 2, \"max_position_embeddings\": 12, "
        "\"initializer_range\": 0.4}";
    static const char *const texts[] = {
        "one", "a longer text than the model has positions", "", "a longer te", "two", "one"};
    (void)state;
    qp_ctx       *ctx = qp_open((qp_options){.threads = 1, .seed = 2});
    qp_tokenizer *t = qp_tokenizer_bytes(ctx);
    qp_model     *m = qp_model_new(ctx, "test", config);
    float         all[6][16], one[16];
    size_t        bytes[6];
    int64_t       tokens;
    qp_set_training(qp_model_module(m), false);
    for (int i = 0; i < 6; i++) bytes[i] = strlen(texts[i]);
    bytes[2] = 0;
    assert_int_equal(qp_embed(m, t, 6, texts, bytes, (qp_embed_options){0}, all[0], &tokens),
                     QP_ERR_ARGUMENT); /* empty */
    assert_non_null(strstr(qp_error(ctx), "text 2"));
    qp_clear(ctx);
    assert_int_equal(qp_embed(m, t, 2, texts, bytes, (qp_embed_options){.max_tokens = -1}, all[0], &tokens),
                     QP_ERR_ARGUMENT);
    assert_non_null(strstr(qp_error(ctx), "max_tokens is -1"));
    qp_clear(ctx);
    static const char *const some[] = {"one", "a longer text than the model has positions", "a longer tex",
                                       "two", "one"};
    for (int i = 0; i < 5; i++) bytes[i] = strlen(some[i]);
    assert_int_equal(qp_embed(m, t, 5, some, bytes, (qp_embed_options){0}, all[0], &tokens), QP_OK);
    assert_int_equal(tokens, 3 + 12 + 12 + 3 + 3);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(qp_embed(m, t, 1, &some[i], &bytes[i], (qp_embed_options){0}, one, NULL), QP_OK);
        assert_memory_equal(one, all[i], sizeof one);
    }
    assert_memory_equal(all[1], all[2], sizeof one);
    assert_memory_equal(all[0], all[4], sizeof one);
    assert_true(memcmp(all[0], all[3], sizeof one));
    assert_int_equal(qp_embed(m, t, 0, NULL, NULL, (qp_embed_options){0}, one, &tokens), QP_OK);
    assert_int_equal(tokens, 0);
    qp_close(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(rows_are_alone), cmocka_unit_test(pooled_as_said),
                                       cmocka_unit_test(folders_are_read),
                                       cmocka_unit_test(texts_become_vectors)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
