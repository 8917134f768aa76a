/* Position encodings against their formulas. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "models/model.h"
#include "quipu/quipu.h"

enum { D = 6, N = 7 };

static const int64_t places[N] = {0, 1, 2, 63, 1000, 65535, 1000003};

/* A stack of which nothing but the encoding matters. */
static qp_model *stack(qp_ctx *ctx, const char *position, int width) {
    char config[600];
    snprintf(config, sizeof config,
             "{\"model_type\": \"quipu\", \"vocab_size\": 5, \"hidden_size\": %d, \"num_hidden_layers\": 0,"
             " \"max_position_embeddings\": 64, \"position\": %s, \"mixer\": {\"type\": \"none\"},"
             " \"ffn\": {\"type\": \"none\"}, \"norm\": {\"type\": \"rms_norm\"}}",
             width, position);
    return qp_model_new(ctx, "config", config);
}

/* What becomes of an input of `value` at n positions, as in a session or not. */
static void encoded_in(qp_model *m, bool session, double value, int n, const int64_t *positions, float *out) {
    qp_ctx     *ctx = m->ctx;
    qp_tensor   x = qp_full(ctx, QP_F32, 3, (int64_t[]){1, n, D}, value);
    qp_sequence s = {.positions = qp_from(ctx, QP_I64, 2, (int64_t[]){1, n}, positions),
                     .length = positions[n - 1] + 1};
    if (session) s.counts = qp_from(ctx, QP_I64, 1, (int64_t[]){1}, (int64_t[]){n});
    assert_int_equal(qp_read(m->position.type->embed(m->position.self, x, &s), QP_F32, out, n * D), QP_OK);
}
static void encoded(qp_model *m, double value, int n, const int64_t *positions, float *out) {
    encoded_in(m, false, value, n, positions, out);
}

static void check_sinusoidal(const char *config, double theta, bool half) {
    qp_ctx   *ctx = qp_open((qp_options){.threads = 1});
    qp_model *m = stack(ctx, config, D);
    float     found[N * D];
    if (!m) fail_msg("%s", qp_error(ctx));
    encoded(m, 0.5, N, places, found);
    for (int i = 0; i < N * D; i++) {
        int    feature = i % D, pair = half ? feature % (D / 2) : feature / 2;
        bool   cosine = half ? feature >= D / 2 : feature % 2;
        double angle = (double)places[i / D] / pow(theta, 2.0 * pair / D);
        assert_true(fabs(found[i] - 0.5 - (cosine ? cos(angle) : sin(angle))) < 1e-6);
    }
    qp_close(ctx);
}

static void sinusoidal(void **state) {
    (void)state;
    check_sinusoidal("{\"type\": \"sinusoidal\"}", 10000, false);
    check_sinusoidal("{\"type\": \"sinusoidal\", \"layout\": \"half\", \"theta\": 500}", 500, true);
    qp_ctx *ctx = qp_open((qp_options){.threads = 1});
    assert_null(stack(ctx, "{\"type\": \"sinusoidal\"}", 5));
    assert_non_null(strstr(qp_error(ctx), "the width is 5, expected an even one"));
    qp_close(ctx);
}

/* What is learned is drawn from a context of the same seed twice, for one and for the other. */
static void learned(void **state) {
    (void)state;
    float added[2 * D], times[2 * D];
    for (int i = 0; i < 2; i++) {
        qp_ctx   *ctx = qp_open((qp_options){.threads = 1, .seed = 9});
        qp_model *m = stack(ctx, i ? "{\"type\": \"multiplicative\"}" : "{\"type\": \"learned\"}", D);
        encoded(m, 3, 2, (int64_t[]){0, 63}, i ? times : added);
        encoded(m, 3, 1, (int64_t[]){63}, (float[D]){0});
        qp_clear(ctx);
        qp_sequence s = {.positions = qp_from(ctx, QP_I64, 2, (int64_t[]){1, 1}, (int64_t[]){64}),
                         .length = 65};
        m->position.type->embed(m->position.self, qp_zeros(ctx, QP_F32, 3, (int64_t[]){1, 1, D}), &s);
        assert_non_null(strstr(qp_error(ctx), "65 positions, the model has 64"));
        qp_close(ctx);
    }
    for (int i = 0; i < 2 * D; i++) {
        assert_true(added[i] != 3);
        assert_true(fabsf(times[i] - 3 * (1 + (added[i] - 3))) < 1e-5f);
    }
}

/* R(m) of a head of 4, from the unit vectors: result[i] is R(m) e_i. */
static void rotation(qp_model *m, int64_t place, float result[4][4]) {
    qp_ctx     *ctx = m->ctx;
    float       unit[4][4] = {{1, 0, 0, 0}, {0, 1, 0, 0}, {0, 0, 1, 0}, {0, 0, 0, 1}};
    qp_sequence s = {.positions = qp_from(ctx, QP_I64, 2, (int64_t[]){1, 1}, &place), .length = place + 1};
    qp_tensor   x = qp_from(ctx, QP_F32, 4, (int64_t[]){1, 1, 4, 4}, unit);
    const qp_position *p = &m->blocks[0].position;
    assert_int_equal(qp_read(p->type->rotate(p->self, x, &s), QP_F32, result, 16), QP_OK);
}

/* R(m)^T R(n) = R(n - m), which m = n makes orthogonality; of a grid by rows and columns. */
static void check_rotation(const char *position, int64_t m, int64_t n, int64_t difference) {
    char    config[600];
    float   a[4][4], b[4][4], c[4][4];
    qp_ctx *ctx = qp_open((qp_options){.threads = 1, .seed = 3});
    snprintf(config, sizeof config,
             "{\"model_type\": \"quipu\", \"vocab_size\": 5, \"hidden_size\": 8, \"num_hidden_layers\": 1,"
             " \"max_position_embeddings\": 64, \"initializer_range\": 0.7, \"position\": %s,"
             " \"mixer\": {\"type\": \"attention\", \"heads\": 2}, \"ffn\": {\"type\": \"none\"},"
             " \"norm\": {\"type\": \"rms_norm\"}}",
             position);
    qp_model *model = qp_model_new(ctx, "config", config);
    if (!model) fail_msg("%s", qp_error(ctx));
    rotation(model, m, a);
    rotation(model, n, b);
    rotation(model, difference, c);
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) {
            double dot = 0;
            for (int k = 0; k < 4; k++) dot += (double)a[i][k] * b[j][k];
            assert_true(fabs(dot - c[j][i]) < 1e-5);
        }
    qp_close(ctx);
}

static void rotations(void **state) {
    (void)state;
    static const char *const lines[] = {"{\"type\": \"rope\"}",
                                        "{\"type\": \"rope\", \"layout\": \"interleaved\"}",
                                        "{\"type\": \"rope_general\"}"};
    static const char *const grids[] = {"{\"type\": \"rope2d\", \"grid_width\": 9}",
                                        "{\"type\": \"rope_general\", \"grid_width\": 9}"};
    for (int i = 0; i < 3; i++) {
        check_rotation(lines[i], 17, 17, 0);
        check_rotation(lines[i], 5, 42, 37);
    }
    for (int i = 0; i < 2; i++) {
        check_rotation(grids[i], 31, 31, 0);
        check_rotation(grids[i], 2 * 9 + 1, 5 * 9 + 4, 3 * 9 + 3);
    }
}

/* The first places of floater, which sessions keep, are those that are solved anew, and follow the
 * weights when these change. */
static void flows(void **state) {
    (void)state;
    static const int64_t at[6] = {0, 1, 2, 3, 4, 5};
    float                kept[6 * D], fresh[6 * D], first[2 * D], before = 0;
    qp_ctx              *ctx = qp_open((qp_options){.threads = 1, .seed = 9});
    qp_model            *m = stack(ctx, "{\"type\": \"floater\"}", D);
    for (int turn = 0; turn < 2; turn++) {
        qp_no_grad(ctx, true);
        encoded_in(m, true, 3, 2, at, first);
        encoded_in(m, true, 3, 6, at, kept);
        qp_no_grad(ctx, false);
        encoded(m, 3, 6, at, fresh);
        assert_memory_equal(kept, fresh, sizeof kept);
        assert_memory_equal(first, fresh, sizeof first);
        assert_true(kept[5 * D] != before);
        before = kept[5 * D];
        qp_tensor start = qp_module_state(m->module).entries[1].tensor;
        assert_string_equal(qp_module_state(m->module).entries[1].name, "position.start");
        qp_no_grad(ctx, true);
        assert_int_equal(qp_write(start, QP_F32, (float[D]){1, 2, 3, 4, 5, 6}, D), QP_OK);
        qp_no_grad(ctx, false);
    }
    qp_close(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(flows), cmocka_unit_test(sinusoidal),
                                       cmocka_unit_test(learned), cmocka_unit_test(rotations)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
