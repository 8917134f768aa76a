/* Mixers that stand for attention against attention itself. Performer (Choromanski et al. 2021, figure 4): the error
 * of the output falls with the number of random features, and orthogonal rows err less than independent ones.
 * Nystroemformer (Xiong et al. 2021, section 4): it falls with the number of landmarks. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "models/model.h"
#include "quipu/quipu.h"

enum { T = 64, D = 32 };

/* What the mixer makes of x, of which `smooth` says how much each position shares with the one before; weights are the same for a seed, as they are drawn last. */
static void mixed(const char *mixer, uint64_t seed, double smooth, double out[T * D]) {
    char    config[600];
    qp_ctx *ctx = qp_open((qp_options){.threads = 1, .seed = seed});
    snprintf(
        config, sizeof config,
        "{\"model_type\": \"quipu\", \"vocab_size\": 3, \"hidden_size\": %d, \"num_hidden_layers\": 1, "
        "\"max_position_embeddings\": %d, \"position\": {\"type\": \"none\"}, \"mixer\": {\"heads\": 2, %s}, "
        "\"ffn\": {\"type\": \"none\"}, \"norm\": {\"type\": \"rms_norm\"}}",
        D, T, mixer);
    qp_model *m = qp_model_new(ctx, "test", config);
    if (!m) fail_msg("%s", qp_error(ctx));
    qp_state_dict dict = qp_model_params(m);
    qp_set_random(ctx, 1, 0);
    for (int i = 0; i < dict.count; i++)
        if (strstr(dict.entries[i].name, ".mixer.")) qp_init(dict.entries[i].tensor, "normal:0.1");
    qp_no_grad(ctx, true);
    float x_of[T * D];
    if (qp_read(qp_randn(ctx, QP_F32, 1, (int64_t[]){T * D}), QP_F32, x_of, T * D) != QP_OK)
        fail_msg("%s", qp_error(ctx));
    for (int i = D; i < T * D; i++)
        x_of[i] = (float)(smooth * x_of[i - D] + sqrt(1 - smooth * smooth) * x_of[i]);
    qp_tensor        x = qp_from(ctx, QP_F32, 3, (int64_t[]){1, T, D}, x_of);
    const qp_branch *b = &m->blocks[0].block.mixer;
    qp_sequence s = {.positions = qp_reshape(qp_arange(ctx, QP_I64, T), 2, (int64_t[]){1, T}), .length = T};
    if (qp_read(b->type->forward(b->self, x, QP_NONE, &s), QP_F64, out, T * D) != QP_OK)
        fail_msg("%s", qp_error(ctx));
    qp_close(ctx);
}

/* Mean square error beside attention's, relative to it, over draws of the matrix. */
static double error_of(int features, bool orthogonal) {
    static double exact[T * D], got[T * D];
    char          mixer[160];
    double        error = 0, size = 0;
    mixed("\"type\": \"attention\", \"causal\": false", 5, 0, exact);
    snprintf(mixer, sizeof mixer,
             "\"type\": \"performer\", \"causal\": false, \"features\": %d, \"orthogonal\": %s", features,
             orthogonal ? "true" : "false");
    for (uint64_t seed = 10; seed < 50; seed++) {
        mixed(mixer, seed, 0, got);
        for (int i = 0; i < T * D; i++) {
            error += pow(got[i] - exact[i], 2);
            size += pow(exact[i], 2);
        }
    }
    return error / size;
}

static void features(void **state) {
    (void)state;
    double last = INFINITY, first = 0, gain = 1;
    for (int features = 16; features <= 1024; features *= 4) {
        double independent = error_of(features, false), orthogonal = error_of(features, true);
        print_message("%5d features: %.5f, orthogonal %.5f\n", features, independent, orthogonal);
        assert_true(orthogonal < 0.6 * last);
        gain *= independent / orthogonal;
        if (!first) first = orthogonal;
        last = orthogonal;
    }
    assert_true(last < first / 10); /* 64 times as many */
    assert_true(gain > 1.1);
}

/* Rows of the matrix [M, K] within a block of K are orthogonal, and not all as long. */
static void expect_orthogonal(const float *w, int M, int K) {
    for (int i = 0; i < M; i++)
        for (int j = i - i % K; j < i; j++) {
            double dot = 0, a = 0, b = 0;
            for (int k = 0; k < K; k++) {
                dot += (double)w[i * K + k] * w[j * K + k];
                a += (double)w[i * K + k] * w[i * K + k];
                b += (double)w[j * K + k] * w[j * K + k];
            }
            assert_true(fabs(dot) < 1e-5 * sqrt(a * b) && fabs(a / b - 1) > 1e-6);
        }
}

/* The matrix is another after every `redraw` steps that were taken; passes alone, and steps that were not, leave it. */
static void redraws(void **state) {
    enum { M = 20, K = 16 };
    float     first[M * K], now[M * K];
    qp_ctx   *ctx = qp_open((qp_options){.threads = 1, .seed = 4});
    qp_model *m = qp_model_new(
        ctx, "test",
        "{\"model_type\": \"quipu\", \"vocab_size\": 3, \"hidden_size\": 32, \"num_hidden_layers\": 1, "
        "\"max_position_embeddings\": 8, \"position\": {\"type\": \"none\"}, \"ffn\": {\"type\": \"none\"}, "
        "\"norm\": {\"type\": \"rms_norm\"}, \"mixer\": {\"type\": \"performer\", \"heads\": 2, "
        "\"features\": 20, \"redraw\": 2}}");
    (void)state;
    if (!m) fail_msg("%s", qp_error(ctx));
    qp_tensor     w = QP_NONE, ids = qp_zeros(ctx, QP_I64, 2, (int64_t[]){1, 8});
    qp_state_dict dict = qp_module_state(qp_model_module(m));
    for (int i = 0; i < dict.count; i++)
        if (strstr(dict.entries[i].name, "projection")) w = dict.entries[i].tensor;
    assert_int_equal(qp_read(w, QP_F32, first, M * K), QP_OK);
    expect_orthogonal(first, M, K);
    for (int step = 1; step <= 4; step++) {
        for (int i = 0; i < 3; i++) qp_backward(qp_model_loss(m, ids, ids));
        for (int i = 0; i < 3; i++) qp_model_stepped(m, false);
        assert_int_equal(qp_read(w, QP_F32, now, M * K), QP_OK);
        assert_memory_equal(now, first, sizeof now);
        qp_model_stepped(m, true);
        assert_int_equal(qp_read(w, QP_F32, now, M * K), QP_OK);
        if (step % 2) assert_memory_equal(now, first, sizeof now);
        else assert_memory_not_equal(now, first, sizeof now);
        expect_orthogonal(now, M, K);
        memcpy(first, now, sizeof now);
    }
    assert_false(qp_failed(ctx));
    qp_close(ctx);
}

static double landmark_error(int count, double smooth) {
    static double exact[T * D], got[T * D];
    char          mixer[160];
    double        error = 0, size = 0;
    mixed("\"type\": \"attention\", \"causal\": false", 5, smooth, exact);
    snprintf(mixer, sizeof mixer, "\"type\": \"nystrom\", \"landmarks\": %d, \"kernel\": 0", count);
    mixed(mixer, 5, smooth, got);
    for (int i = 0; i < T * D; i++) {
        error += pow(got[i] - exact[i], 2);
        size += pow(exact[i], 2);
    }
    return error / size;
}

/* Rows that resemble their neighbours, as hidden states do, need few landmarks; as many as positions are attention. */
static void landmarks(void **state) {
    (void)state;
    double last = INFINITY, first = 0;
    for (int count = 2; count <= T; count *= 2) {
        double apart = landmark_error(count, 0), alike = landmark_error(count, 0.95);
        print_message("%3d landmarks: %.6f, of smooth rows %.6f\n", count, apart, alike);
        assert_true(alike < last && alike <= apart);
        if (!first) first = alike;
        last = alike;
    }
    assert_true(last < 1e-10 && first > 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(features), cmocka_unit_test(redraws),
                                       cmocka_unit_test(landmarks)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
