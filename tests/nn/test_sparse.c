/* Patterns of blocks against the same pattern written as a mask of places, and a model of the part step by step. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "quipu/quipu.h"

enum { T = 203, H = 4, G = 2, K = 8 };

/* The papers' patterns, by places: block c, query i, key j. */
static bool local(int c, int i, int j) { return abs(i / c - j / c) < 3; }
static bool dilated(int c, int i, int j) { return abs(i / c - j / c) % 2 == 0 && abs(i / c - j / c) <= 4; }
static bool strided(int c, int i, int j) {
    return i / c == j / c || abs(i / c - j / c) % 5 == 0;
} /* arXiv:1904.10509 */
static bool fixed(int c, int i, int j) { return i / c == j / c || j / c % 4 == 3; }
static bool globals(int c, int i, int j) { return local(c, i, j) || j < 2 * c; } /* Longformer, causal */

static const struct {
    const char *name;
    bool (*sees)(int c, int i, int j);
    qp_pattern pattern;
} patterns[] = {{"local", local, {.local = 3}},
                {"dilated", dilated, {.local = 3, .dilation = 2}},
                {"strided", strided, {.local = 1, .stride = 5}},
                {"fixed", fixed, {.local = 1, .section = 4, .summary = 1}},
                {"globals", globals, {.local = 3, .globals = 2}}};
enum { PATTERNS = sizeof patterns / sizeof *patterns };

static qp_tensor random_heads(qp_ctx *ctx, int64_t heads) {
    qp_tensor x = qp_randn(ctx, QP_F32, 4, (int64_t[]){1, T, heads, K});
    qp_require_grad(x, true);
    return x;
}

/* -inf where nobody looks. */
static qp_tensor hidden(qp_ctx *ctx, int which, int block, bool causal) {
    float *at = malloc(T * T * sizeof *at);
    for (int i = 0; i < T; i++)
        for (int j = 0; j < T; j++) {
            bool seen = patterns[which].sees(block, i, j);
            if (which == PATTERNS - 1 && !causal && i < 2 * block) seen = true;
            at[i * T + j] = seen ? 0 : -INFINITY;
        }
    qp_tensor t = qp_from(ctx, QP_F32, 2, (int64_t[]){T, T}, at);
    free(at);
    return t;
}

static double apart(qp_tensor a, qp_tensor b) {
    double  worst = 0, largest = 0;
    int64_t n = qp_count(a);
    float  *x = malloc((size_t)n * sizeof *x), *y = malloc((size_t)n * sizeof *y);
    assert_int_equal(qp_read(a, QP_F32, x, n), QP_OK);
    assert_int_equal(qp_read(b, QP_F32, y, n), QP_OK);
    for (int64_t i = 0; i < n; i++) {
        worst = fmax(worst, fabs(x[i] - y[i]));
        largest = fmax(largest, fabs(y[i]));
    }
    free(x);
    free(y);
    return worst / largest;
}

static void patterns_are_masks(void **state) {
    (void)state;
    qp_ctx *ctx = qp_open((qp_options){.threads = 2, .seed = 3});
    for (int which = 0; which < PATTERNS; which++)
        for (int block = 7; block <= 64; block += 57)
            for (int causal = 0; causal < 2; causal++) {
                qp_scope  s = qp_enter(ctx);
                qp_tensor x[] = {random_heads(ctx, H), random_heads(ctx, G), random_heads(ctx, G)}, dx[3],
                          dy[3];
                qp_tensor seed = qp_randn(ctx, QP_F32, 4, (int64_t[]){1, T, H, K});
                qp_mask   one = {.causal = causal, .pattern = patterns[which].pattern};
                one.pattern.block = block;
                qp_tensor a = qp_attention(x[0], x[1], x[2], one, 0);
                qp_tensor b =
                    qp_attention(x[0], x[1], x[2],
                                 (qp_mask){.causal = causal, .bias = hidden(ctx, which, block, causal)}, 0);
                qp_grad(1, &a, 3, x, dx, (qp_grad_options){.seeds = &seed});
                qp_grad(1, &b, 3, x, dy, (qp_grad_options){.seeds = &seed});
                double worst = apart(a, b);
                for (int i = 0; i < 3; i++) worst = fmax(worst, apart(dx[i], dy[i]));
                if (qp_failed(ctx)) fail_msg("%s", qp_error(ctx));
                if (!(worst < 2e-6))
                    fail_msg("%s, blocks of %d, causal %d: %.1e apart", patterns[which].name, block, causal,
                             worst);
                qp_leave(s);
            }
    qp_close(ctx);
}

/* Each block of queries has as many random blocks as asked for (some may be the same), and other seeds give others. */
static void random_blocks(void **state) {
    (void)state;
    enum { N = 64 };
    qp_ctx *ctx = qp_open((qp_options){.threads = 1});
    float   seen[2][N * N] = {0};
    for (int seed = 0; seed < 2; seed++) {
        /* scores are equal, and values say which key they are of: a row of the result is 1/n where it looks */
        qp_tensor q = qp_zeros(ctx, QP_F32, 4, (int64_t[]){1, N, 1, 1}),
                  v = qp_reshape(qp_one_hot(qp_arange(ctx, QP_I64, N), N, QP_F32), 4, (int64_t[]){1, N, 1, N});
        qp_mask   mask = {.causal = true, .pattern = {.block = 1, .local = 1, .random = 3, .seed = seed}};
        assert_int_equal(qp_read(qp_attention(q, q, v, mask, 0), QP_F32, seen[seed], N * N), QP_OK);
    }
    int differ = 0;
    for (int i = 0; i < N; i++) {
        int count = 0;
        for (int j = 0; j < N; j++) {
            count += seen[0][i * N + j] > 0;
            differ += (seen[0][i * N + j] > 0) != (seen[1][i * N + j] > 0);
            if (j > i) assert_true(seen[0][i * N + j] == 0);
        }
        assert_in_range(count, 1, 4);
        if (i > 40) assert_in_range(count, 2, 4);
    }
    assert_true(differ > 2 * N);
    qp_close(ctx);
}

static void steps_are_the_whole(void **state) {
    (void)state;
    enum { N = 61, V = 11 };
    static const char *const config = "{\"model_type\": \"quipu\", \"vocab_size\": 11, \"hidden_size\": 16, "
                                      "\"num_hidden_layers\": 2, \"max_position_embeddings\": 64, "
                                      "\"position\": {\"type\": \"rope\"}, \"mixer\": {\"type\": \"sparse\", "
                                      "\"heads\": 2, \"block\": 5, \"local\": 2, \"window\": 8, "
                                      "\"stride\": 4, \"globals\": 1, \"random\": 1}, \"ffn\": {\"type\": "
                                      "\"mlp\", \"width\": 16}, \"norm\": {\"type\": \"rms_norm\"}}";
    qp_ctx   *ctx = qp_open((qp_options){.threads = 2, .seed = 5});
    qp_model *m = qp_model_new(ctx, "config", config);
    if (!m) fail_msg("%s", qp_error(ctx));
    qp_no_grad(ctx, true);
    int64_t ids[N];
    float   whole[N * V], last[V];
    for (int i = 0; i < N; i++) ids[i] = (i * i + 3) % V;
    assert_int_equal(
        qp_read(qp_logits(m, qp_from(ctx, QP_I64, 2, (int64_t[]){1, N}, ids)), QP_F32, whole, N * V), QP_OK);
    qp_session *s = qp_session_new(m, 1, N, (qp_session_options){0});
    for (int t = 0, n; t < N; t += n) {
        n = t ? 1 : 13; /* a prompt, then tokens */
        assert_int_equal(
            qp_read(qp_session_feed(s, qp_from(ctx, QP_I64, 2, (int64_t[]){1, n}, ids + t), (qp_feed){0}),
                    QP_F32, last, V),
            QP_OK);
        for (int i = 0; i < V; i++)
            if (!(fabsf(last[i] - whole[(t + n - 1) * V + i]) < 1e-5f))
                fail_msg("step %d: %g, %g", t, last[i], whole[(t + n - 1) * V + i]);
    }
    if (qp_failed(ctx)) fail_msg("%s", qp_error(ctx));
    qp_close(ctx);
}

static void refusals(void **state) {
    (void)state;
    qp_ctx          *ctx = qp_open((qp_options){.threads = 1});
    const qp_pattern wrong[] = {{.block = -1},
                                {.block = 1, .local = -1},
                                {.block = 1, .random = 65},
                                {.block = 1, .summary = 2, .section = 1},
                                {.block = 1, .seed = -1}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        qp_tensor q = qp_zeros(ctx, QP_F32, 4, (int64_t[]){1, 4, 1, 2});
        qp_attention(q, q, q, (qp_mask){.pattern = wrong[i]}, 0);
        assert_int_equal(qp_error_code(ctx), QP_ERR_ARGUMENT);
        assert_non_null(strstr(qp_error(ctx), "pattern: expected"));
        qp_clear(ctx);
    }
    qp_close(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(patterns_are_masks), cmocka_unit_test(random_blocks),
                                       cmocka_unit_test(steps_are_the_whole), cmocka_unit_test(refusals)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
