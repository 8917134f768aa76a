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

#include "quipu/quipu.h"

static const char *const names[] = {"llama-gqa-tied", "llama-mqa-headdim", "llama-bias", "llama-llama3", "llama-yarn",
                                    "llama-linear",   "mistral-window",    "qwen2",      "gpt2",         "gpt2-odd",
                                    "qwen3",          "smollm3-four",      "olmo2",      "granite",      "phi3",
                                    "phi3-partial",   "gemma",             "gemma2",     "gemma3-six",   "bert-poolerless"};
enum { NAMES = sizeof names / sizeof *names };

static const char *path_of(const char *folder, const char *name, const char *end) {
    static char path[4][400];
    static int  turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], SOURCE_DIR "/tests/golden/%s/%s%s", folder, name, end);
    return path[turn];
}

static void expect_ok(qp_ctx *ctx) {
    if (qp_failed(ctx)) fail_msg("%s", qp_error(ctx));
}

static float *read_all(qp_tensor t) {
    float *x = malloc((size_t)qp_count(t) * sizeof *x);
    assert_int_equal(qp_read(t, QP_F32, x, qp_count(t)), QP_OK);
    return x;
}

static double difference(qp_tensor a, qp_tensor b) {
    double most = 0, scale = 0;
    float *x = read_all(a), *y = read_all(b);
    assert_int_equal(qp_count(a), qp_count(b));
    for (int64_t i = 0; i < qp_count(a); i++) {
        most = fmax(most, fabs((double)x[i] - (double)y[i]));
        scale = fmax(scale, fabs((double)y[i]));
    }
    free(x);
    free(y);
    return most / scale;
}

/* The fields that the reference has, and of encoders its first row (the second is padded). */
static void check_logits(qp_ctx *ctx, qp_model *m, const char *name) {
    static const char *const fields[] = {"input_ids", "token_type_ids", "lengths"};
    qp_file                 *f = qp_file_open(ctx, path_of("models", name, "/reference.safetensors"), (qp_file_options){0});
    const char              *what = qp_file_find(f, "logits") >= 0 ? "logits" : "hidden";
    qp_record                in = {0}, out;
    qp_set_training(qp_model_module(m), false);
    for (int i = 0; i < 3; i++)
        if (qp_file_find(f, fields[i]) >= 0) qp_record_set(&in, fields[i], qp_file_load(ctx, f, fields[i], false));
    out = qp_forward(m, in);
    expect_ok(ctx);
    qp_tensor found = qp_record_get(&out, what), golden = qp_file_load(ctx, f, what, false);
    double    e = difference(qp_slice(found, 0, 0, 1, 1), qp_slice(golden, 0, 0, 1, 1));
    if (*what == 'l') e = fmax(e, difference(found, golden));
    if (!(e < 2e-5)) fail_msg("%s: %s differ by %g", name, what, e);
    qp_file_close(f);
}

static void logits(void **state) {
    (void)state;
    for (int i = 0; i < NAMES; i++)
        for (int as_stored = 0; as_stored < 2; as_stored++) {
            qp_ctx   *ctx = qp_open((qp_options){.threads = 1});
            qp_model *m = qp_model_load(ctx, path_of("gguf", names[i], ".gguf"), (qp_model_options){.as_stored = as_stored});
            if (!m) fail_msg("%s: %s", names[i], qp_error(ctx));
            check_logits(ctx, m, names[i]);
            qp_close(ctx);
        }
}

/* A model in two files, as llama-gguf-split wrote them. */
static void split(void **state) {
    (void)state;
    qp_ctx   *ctx = qp_open((qp_options){.threads = 1});
    qp_model *m = qp_model_load(ctx, path_of("gguf", "split/qwen2-00001-of-00002", ".gguf"), (qp_model_options){.as_stored = true});
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
            qp_ctx     *ctx = qp_open((qp_options){.threads = 1});
            qp_model   *m = qp_model_load(ctx, path_of("gguf", names[i], ".gguf"), (qp_model_options){.as_stored = as_stored});
            qp_file    *f = qp_file_open(ctx, path_of("models", names[i], "/model.safetensors"), (qp_file_options){0});
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
        qp_model *m = qp_model_load(ctx, path_of("gguf", "llama-gqa-tied", ".gguf"), (qp_model_options){.as_stored = as_stored});
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
static void refused(const char *name, const char *from, const char *to, size_t n, qp_code code, const char *words) {
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
    refused("llama-bias", "rope.dimension_count", "rope.dimension_bount", 20, QP_ERR_UNSUPPORTED, "rope.dimension_bount: unknown key");
    refused("gemma3-six", "attention.sliding_window", "attention.sliding_windoh", 24, QP_ERR_UNSUPPORTED, "unknown key");
    refused("gemma2", "final_logit_softcapping", "final_logit_softcopping", 23, QP_ERR_UNSUPPORTED, "unknown key");
    refused("bert-poolerless", "bert.attention.causal\7\0\0\0\0", "bert.attention.causal\7\0\0\0\1", 26, QP_ERR_UNSUPPORTED,
            "bert.attention.causal: unknown key");
    refused("phi3-partial", "rope.dimension_count\4\0\0\0\6", "rope.dimension_count\4\0\0\0\x36", 25, QP_ERR_UNSUPPORTED,
            "rope.dimension_count: only a part");
    refused("llama-yarn", "yarn", "yorn", 4, QP_ERR_UNSUPPORTED, "expected none, linear or yarn");
    refused("llama-bias", "blk.1.attn_q.weight", "blk.7.attn_q.weight", 19, QP_ERR_FORMAT, "1 tensors missing (blk.1.attn_q.weight)");
    refused("llama-bias", "token_embd.weight", "token_ambd.weight", 17, QP_ERR_FORMAT, "token_embd.weight: expected a matrix");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits),    cmocka_unit_test(split),     cmocka_unit_test(weights),  cmocka_unit_test(saved),
        cmocka_unit_test(gradients), cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
