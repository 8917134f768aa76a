/* Models in GGUF files (tests/golden/make_gguf.py) compute what the same models compute that transformers
 * wrote, mapped or as parameters that train, and are saved as those. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "../expect.h"
#include "../relative_error.h"
#include "../format/in_turn.h"
#include "models/model.h"
#include "quipu/quipu.h"

static const char *const names[] = {"llama-gqa-tied", "llama-mqa-headdim",
                                    "llama-bias",     "llama-llama3",
                                    "llama-yarn",     "llama-linear",
                                    "mistral-window", "qwen2",
                                    "gpt2",           "gpt2-odd",
                                    "qwen3",          "smollm3-four",
                                    "olmo2",          "granite",
                                    "phi3",           "phi3-partial",
                                    "gemma",          "gemma2",
                                    "gemma3-six",     "bert-poolerless",
                                    "mixtral"};
enum { NAMES = sizeof names / sizeof *names };

static const char *path_of(const char *folder, const char *name, const char *end) {
    static char path[4][400];
    static int  turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], SOURCE_DIR "/tests/golden/%s/%s%s", folder, name, end);
    return path[turn];
}

static float *read_all(qp_tensor t) {
    float *x = malloc((size_t)qp_count(t) * sizeof *x);
    assert_int_equal(qp_read(t, QP_F32, x, qp_count(t)), QP_OK);
    return x;
}

/* The fields that the reference has, and of encoders its first row (the second is padded). */
static void check_logits(qp_ctx *ctx, qp_model *m, const char *name) {
    static const char *const fields[] = {"input_ids", "token_type_ids", "lengths"};
    qp_file    *f = qp_file_open(ctx, path_of("models", name, "/reference.safetensors"), (qp_file_options){0});
    const char *what = qp_file_find(f, "logits") >= 0 ? "logits" : "hidden";
    qp_record   in = {0}, out;
    qp_set_training(qp_model_module(m), false);
    for (int i = 0; i < 3; i++)
        if (qp_file_find(f, fields[i]) >= 0)
            qp_record_set(&in, fields[i], qp_file_load(ctx, f, fields[i], false));
    out = qp_forward(m, in);
    expect_ok(ctx);
    qp_tensor found = qp_record_get(&out, what), golden = qp_file_load(ctx, f, what, false);
    double    e = relative_error(qp_slice(found, 0, 0, 1, 1), qp_slice(golden, 0, 0, 1, 1));
    if (*what == 'l') e = fmax(e, relative_error(found, golden));
    if (!(e < 2e-5)) fail_msg("%s: %s differ by %g", name, what, e);
    qp_file_close(f);
}

static void logits(void **state) {
    (void)state;
    for (int i = 0; i < NAMES; i++)
        for (int as_stored = 0; as_stored < 2; as_stored++) {
            qp_ctx   *ctx = qp_open((qp_options){.threads = 1});
            qp_model *m = qp_model_load(ctx, path_of("gguf", names[i], ".gguf"),
                                        (qp_model_options){.as_stored = as_stored});
            if (!m) fail_msg("%s: %s", names[i], qp_error(ctx));
            check_logits(ctx, m, names[i]);
            qp_close(ctx);
        }
}

/* A model in two files, as llama-gguf-split wrote them. */
static void split(void **state) {
    (void)state;
    qp_ctx   *ctx = qp_open((qp_options){.threads = 1});
    qp_model *m = qp_model_load(ctx, path_of("gguf", "split/qwen2-00001-of-00002", ".gguf"),
                                (qp_model_options){.as_stored = true});
    if (!m) fail_msg("%s", qp_error(ctx));
    check_logits(ctx, m, "qwen2");
    qp_close(ctx);
}

/* The weights alone, into a model made from the Hugging Face config. */
static void weights(void **state) {
    (void)state;
    for (int i = 0; i < NAMES; i++) {
        qp_ctx   *ctx = qp_open((qp_options){.threads = 1});
        qp_model *m = qp_model_load(ctx, path_of("models", names[i], "/config.json"), (qp_model_options){0});
        expect_ok(ctx);
        qp_status status = qp_model_load_weights(m, path_of("gguf", names[i], ".gguf"));
        if (strcmp(names[i], "bert-poolerless")) {
            assert_int_equal(status, QP_OK);
            check_logits(ctx, m, names[i]);
        } else { /* the config alone speaks of a pooler */
            assert_int_equal(status, QP_ERR_FORMAT);
            assert_non_null(strstr(qp_error(ctx), "1 tensors missing (pooled.dense."));
        }
        qp_close(ctx);
    }
}

/* Under the names and in the order of Hugging Face, every tensor is what transformers wrote: bit for bit, but for
 * gains to which files add 1. */
static void saved(void **state) {
    (void)state;
    for (int i = 0; i < NAMES; i++)
        for (int as_stored = 0; as_stored < 2; as_stored++) {
            qp_ctx   *ctx = qp_open((qp_options){.threads = 1});
            qp_model *m = qp_model_load(ctx, path_of("gguf", names[i], ".gguf"),
                                        (qp_model_options){.as_stored = as_stored});
            qp_file  *f =
                qp_file_open(ctx, path_of("models", names[i], "/model.safetensors"), (qp_file_options){0});
            const char *name;
            qp_tensor   t;
            int64_t     n = 0;
            expect_ok(ctx);
            for (; qp_model_weight(m, n, false, &name, &t); n++) {
                bool      bare = !strncmp(name, "bert.", 5) && qp_file_find(f, name) < 0; /* without its head */
                qp_tensor golden = qp_file_load(ctx, f, bare ? name + 5 : name, false);
                expect_ok(ctx);
                float *a = read_all(t), *b = read_all(golden);
                bool   gain = !strncmp(names[i], "gemma", 5) && strstr(name, "norm");
                for (int64_t k = 0; k < qp_count(t); k++)
                    if (gain ? !(fabsf(a[k] - b[k]) < 2e-7f) : memcmp(&a[k], &b[k], sizeof *a) != 0)
                        fail_msg("%s: %s is another", names[i], name);
                free(a);
                free(b);
            }
            assert_true(n > 8);
            qp_file_close(f);
            qp_close(ctx);
        }
}

/* Training starts from them; mapped weights take no gradient. */
static void gradients(void **state) {
    (void)state;
    for (int as_stored = 0; as_stored < 2; as_stored++) {
        qp_ctx   *ctx = qp_open((qp_options){.threads = 1});
        qp_model *m = qp_model_load(ctx, path_of("gguf", "llama-gqa-tied", ".gguf"),
                                    (qp_model_options){.as_stored = as_stored});
        int64_t   ids[] = {5, 9, 3, 7};
        qp_tensor x = qp_from(ctx, QP_I64, 2, (int64_t[]){1, 4}, ids);
        qp_tensor loss = qp_model_loss(m, x, x);
        expect_ok(ctx);
        assert_int_equal(qp_requires_grad(loss), !as_stored);
        qp_close(ctx);
    }
}

/* ---- What is refused -------------------------------------------------------------------------------- */

/* A copy of a golden file with some bytes exchanged: as many of `to` as of `from`. */
static void refused(const char *name, const char *from, const char *to, size_t n, qp_code code,
                    const char *words) {
    char  path[] = P_tmpdir "/quipu-gguf-XXXXXX";
    FILE *in = fopen(path_of("gguf", name, ".gguf"), "rb");
    assert_non_null(in);
    static char bytes[1 << 18];
    size_t      size = fread(bytes, 1, sizeof bytes, in), at = 0;
    fclose(in);
    while (at + n <= size && memcmp(bytes + at, from, n)) at++;
    assert_true(at + n <= size);
    memcpy(bytes + at, to, n);
    int fd = mkstemp(path);
    assert_true(fd >= 0 && write(fd, bytes, size) == (ssize_t)size);
    close(fd);
    qp_ctx *ctx = qp_open((qp_options){.threads = 1});
    assert_null(qp_model_load(ctx, path, (qp_model_options){0}));
    if (qp_error_code(ctx) != code || !strstr(qp_error(ctx), words)) fail_msg("%s: %s", words, qp_error(ctx));
    qp_close(ctx);
    remove(path);
}

static void refusals(void **state) {
    (void)state;
    refused("gpt2", "gpt2", "gpt9", 4, QP_ERR_UNSUPPORTED, "general.architecture \"gpt9\"");
    refused("qwen2", "qwen2.rope.freq_base", "qwen2.rope.freq_bose", 20, QP_ERR_UNSUPPORTED,
            "qwen2.rope.freq_bose: unknown key: it may change the mathematics");
    refused("llama-bias", "attention.head_count\4", "attention.head_count\6", 21, QP_ERR_FORMAT,
            "llama.attention.head_count: expected a whole number");
    refused("llama-bias", "rope.dimension_count", "rope.dimension_bount", 20, QP_ERR_UNSUPPORTED,
            "rope.dimension_bount: unknown key");
    refused("gemma3-six", "attention.sliding_window", "attention.sliding_windoh", 24, QP_ERR_UNSUPPORTED,
            "unknown key");
    refused("gemma2", "final_logit_softcapping", "final_logit_softcopping", 23, QP_ERR_UNSUPPORTED,
            "unknown key");
    refused("bert-poolerless", "bert.attention.causal\7\0\0\0\0", "bert.attention.causal\7\0\0\0\1", 26,
            QP_ERR_UNSUPPORTED, "bert.attention.causal: unknown key");
    refused("phi3-partial", "rope.dimension_count\4\0\0\0\6", "rope.dimension_count\4\0\0\0\x36", 25,
            QP_ERR_UNSUPPORTED, "rope.dimension_count: only a part");
    refused("llama-yarn", "yarn", "yorn", 4, QP_ERR_UNSUPPORTED, "expected none, linear or yarn");
    refused("llama-bias", "blk.1.attn_q.weight", "blk.7.attn_q.weight", 19, QP_ERR_FORMAT,
            "1 tensors missing (blk.1.attn_q.weight)");
    refused("llama-bias", "token_embd.weight", "token_ambd.weight", 17, QP_ERR_FORMAT,
            "token_embd.weight: expected a matrix");
}

/* ---- And back ------------------------------------------------------------------------------------------ */

static const char head[] =
    "{\"vocab_size\": 16, \"hidden_size\": 8, \"intermediate_size\": 8, \"num_attention_heads\": 2, "
    "\"max_position_embeddings\": 32, \"num_hidden_layers\": 1, ";
#define SCALED "\"model_type\": \"llama\", \"rope_scaling\": "
static const struct {
    const char *config; /* behind head, or whole */
    const char *words;  /* of the error; NULL: none */
    const char *key, *value;
} described[] = {
    {"\"model_type\": \"llama\"}", NULL, "llama.attention.key_length", "4"},
    {"\"model_type\": \"llama\", \"head_dim\": 6}", NULL, "llama.attention.key_length", "6"},
    {"\"model_type\": \"llama\", \"sliding_window\": null}", NULL, "llama.rope.freq_base", "10000"},
    {"\"model_type\": \"mistral\", \"sliding_window\": 8}", NULL, "llama.attention.sliding_window", "8"},
    {"\"model_type\": \"qwen2\", \"sliding_window\": 8}", NULL, "qwen2.rope.dimension_count", "4"},
    {"\"model_type\": \"qwen2\", \"use_sliding_window\": true}",
     "qwen2: GGUF has no place for use_sliding_window", NULL, NULL},
    {"\"model_type\": \"roformer\"}", "quipu knows no roformer in GGUF files", NULL, NULL},
    {SCALED "{\"type\": \"linear\", \"factor\": 2.5}}", NULL, "llama.rope.scaling.factor", "2.5"},
    {SCALED "{\"type\": \"yarn\", \"factor\": 2}}", NULL, "llama.rope.scaling.original_context_length", "32"},
    {SCALED "{\"type\": \"yarn\", \"factor\": 2, \"attention_factor\": 1.5}}", "yarn with a factor of its own",
     NULL, NULL},
    {SCALED "{\"type\": \"yarn\", \"factor\": 2, \"mscale\": 0.5}}", "yarn with a factor of its own", NULL,
     NULL},
    {SCALED "{\"type\": \"dynamic\", \"factor\": 2}}", "GGUF has no rope scaling \"dynamic\"", NULL, NULL},
    {SCALED "{\"type\": \"llama3\", \"factor\": 8, \"original_max_position_embeddings\": 16}}", NULL,
     "llama.vocab_size", "16"},
    {SCALED "{\"type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 2}}",
     "Llama 3's scaling with other factors than 1 and 4", NULL, NULL},
    {SCALED "{\"type\": \"llama3\", \"factor\": 8, \"high_freq_factor\": 5}}",
     "Llama 3's scaling with other factors", NULL, NULL},
    {"\"model_type\": \"llama\", \"partial_rotary_factor\": 0.5}",
     "llama: GGUF has no place for partial_rotary_factor", NULL, NULL},
    {"\"model_type\": \"qwen2\", \"partial_rotary_factor\": 0.5}", NULL, "qwen2.rope.dimension_count", "2"},
    {"\"model_type\": \"mistral\", \"sliding_window\": 8, \"layer_types\": [\"full_attention\"]}",
     "mistral: GGUF has no place for layer_types", NULL, NULL},
    {"\"model_type\": \"mistral\", \"sliding_window\": null, \"layer_types\": [\"full_attention\"]}", NULL,
     "llama.block_count", "1"},
    {"\"model_type\": \"gemma2\", \"query_pre_attn_scalar\": 4, \"sliding_window\": 8, \"head_dim\": 4}", NULL,
     "gemma2.attention.sliding_window", "8"},
    {"\"model_type\": \"gemma2\", \"query_pre_attn_scalar\": 4, \"sliding_window\": 8, \"head_dim\": 4, "
     "\"layer_types\": [\"full_attention\"]}",
     NULL, "gemma2.block_count", "1"},
    {"\"model_type\": \"gemma3_text\", \"query_pre_attn_scalar\": 4, \"sliding_window\": 8, \"head_dim\": 4, "
     "\"sliding_window_pattern\": 1}",
     NULL, "gemma3.block_count", "1"},
    {"\"model_type\": \"phi3\", \"original_max_position_embeddings\": 16, \"rope_scaling\": {\"type\": "
     "\"yarn\", \"factor\": 2}}",
     NULL, "phi3.rope.scaling.type", "yarn"},
    {"\"model_type\": \"bert\"}", NULL, "bert.attention.causal", "false"},
    {"{\"model_type\": \"llama\", \"num_hidden_layers\": 0, \"vocab_size\": 16, \"hidden_size\": 8}", NULL,
     "llama.block_count", "0"},
    {"{\"model_type\": \"gpt2\", \"n_layer\": 1, \"n_embd\": 8, \"n_head\": 2, \"vocab_size\": 16, "
     "\"n_positions\": 8}",
     NULL, "gpt2.feed_forward_length", "32"},
    {"{\"model_type\": \"gpt2\", \"n_layer\": 1, \"n_embd\": 8, \"n_head\": 2, \"vocab_size\": 16, "
     "\"n_positions\": 8, \"n_inner\": 24}",
     NULL, "gpt2.feed_forward_length", "24"},
};

/* All that a GGUF file of the model would hold; whether that succeeds. */
static bool describe(qp_model *m, qpi_gguf_pairs *pairs, int64_t *count) {
    const char *name;
    qp_tensor   t;
    *count = 0;
    if (!qpi_gguf_describe(m, pairs)) return false;
    while (qpi_gguf_weight(m, *count, &name, &t)) ++*count;
    return !qp_failed(qp_model_ctx(m));
}

static void descriptions(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof described / sizeof *described; i++) {
        char           text[600];
        int64_t        count;
        qpi_gguf_pairs pairs = {0};
        qpi_error      e = {0};
        bool           whole = described[i].config[0] == '{';
        qp_ctx        *ctx = qp_open((qp_options){.threads = 1});
        snprintf(text, sizeof text, "%s%s", whole ? "" : head, described[i].config);
        qp_model *m = qp_model_new(ctx, "test", text);
        if (!m) fail_msg("%s: %s", text, qp_error(ctx));
        bool ok = describe(m, &pairs, &count);
        if (ok == (described[i].words != NULL) || !strstr(qp_error(ctx), ok ? "" : described[i].words))
            fail_msg("%s: \"%s\", expected \"%s\"", text, qp_error(ctx),
                     described[i].words ? described[i].words : "no error");
        if (ok) {
            char path[100];
            snprintf(path, sizeof path, P_tmpdir "/quipu-described-%ld.gguf", (long)getpid());
            assert_true(qpi_gguf_save(path, &pairs, 0, NULL, NULL, NULL, &e));
            qp_file    *f = qp_file_open(ctx, path, (qp_file_options){0});
            const char *value = qp_file_meta(f, described[i].key);
            if (!value || strcmp(value, described[i].value))
                fail_msg("%s: %s is %s", text, described[i].key, value ? value : "absent");
            if (strstr(text, "qwen2")) assert_null(qp_file_meta(f, "qwen2.attention.sliding_window"));
            qp_file_close(f);
            remove(path);
        }
        qpi_gguf_pairs_free(&pairs);
        qp_close(ctx);
    }
}

#if FAULTS
/* Whatever call fails: an error, or the model that the file holds and all of its description. */
static const char *name_now;
static float       expected_logits[64];
static size_t      expected_bytes;
static int64_t     expected_count;

static bool load_and_describe(qp_ctx *ctx) {
    const char    *path = path_of("gguf", name_now, ".gguf");
    int64_t        count;
    qpi_gguf_pairs pairs = {0};
    float          logits[64];
    qp_model      *m = qp_model_load(ctx, path, (qp_model_options){.as_stored = true});
    if (!m) return false;
    qp_tensor ids = qp_from(ctx, QP_I64, 2, (int64_t[]){1, 2}, (int64_t[]){3, 5});
    qp_tensor y = qp_slice(qp_logits(m, ids), 2, 0, 32, 1);
    bool      ok = !qp_failed(ctx) && qp_read(y, QP_F32, logits, 64) == QP_OK && describe(m, &pairs, &count);
    if (ok && pairs.failed) ok = !qp_fail(ctx, QP_ERR_MEMORY, "out of memory"); /* as qpi_gguf_save would say */
    if (ok && !expected_bytes) {
        memcpy(expected_logits, logits, sizeof logits);
        expected_bytes = pairs.bytes.count;
        expected_count = count;
    }
    if (ok && memcmp(logits, expected_logits, sizeof logits)) fail_msg("%s: another model", name_now);
    if (ok && (pairs.bytes.count != expected_bytes || count != expected_count))
        fail_msg("%s: another description", name_now);
    qpi_gguf_pairs_free(&pairs);
    return ok;
}

static void memory(void **state) {
    static const char *const some[] = {"llama-llama3", "llama-yarn", "gpt2", "qwen2", "gemma3-six"};
    (void)state;
    for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
        name_now = some[i];
        expected_bytes = 0;
        in_turn(load_and_describe, 1, NULL, NULL);
    }
}
#endif

/* Under each cap of memory: the divisors, or an error. */
static void capped_divisors(void **state) {
    (void)state;
    char  path[100];
    FILE *f;
    int   made = 0, refusals = 0;
    snprintf(path, sizeof path, P_tmpdir "/quipu-capped-%ld.json", (long)getpid());
    assert_non_null(f = fopen(path, "w"));
    fprintf(
        f,
        "%s" SCALED
        "{\"type\": \"llama3\", \"factor\": 8, \"original_max_position_embeddings\": 16}, \"head_dim\": 65536}",
        head);
    fclose(f);
    for (size_t cap = 1 << 16; cap < 1 << 22 && !made; cap += 1 << 16) {
        qp_ctx   *ctx = qp_open((qp_options){.threads = 1, .memory_cap = cap});
        qp_model *m = qp_model_load(ctx, path, (qp_model_options){.empty = true});
        qp_tensor t;
        if (m && qpi_gguf_divisors(m, &t)) made++;
        else refusals += m && qp_error_code(ctx) == QP_ERR_MEMORY;
        assert_int_equal(qp_failed(ctx), !made);
        qp_close(ctx);
    }
    assert_true(made && refusals);
    remove(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits),       cmocka_unit_test(split),           cmocka_unit_test(weights),
        cmocka_unit_test(saved),        cmocka_unit_test(gradients),       cmocka_unit_test(refusals),
        cmocka_unit_test(descriptions), cmocka_unit_test(capped_divisors),
#if FAULTS
        cmocka_unit_test(memory),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
