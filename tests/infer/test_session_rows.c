/* Rows of a session: each by itself, whatever the others do and however it was fed. */
#define _GNU_SOURCE /* mkstemps */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "../expect.h"
#include "infer/session.h"
#include "quipu/quipu.h"

enum { T = 40, R = 4 };

static qp_model *golden(qp_ctx *ctx, const char *name) {
    char path[512];
    snprintf(path, sizeof path, "%s/tests/golden/models/%s", SOURCE_DIR, name);
    qp_model *m = qp_model_load(ctx, path, (qp_model_options){0});
    assert_non_null(m);
    qp_set_training(qp_model_module(m), false);
    return m;
}

static const char config[] =
    "{\"model_type\": \"llama\", \"vocab_size\": 257, \"hidden_size\": 128, \"intermediate_size\": 160, "
    "\"num_hidden_layers\": 2, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, "
    "\"max_position_embeddings\": 512, \"tie_word_embeddings\": true, \"initializer_range\": 0.1}";

static qp_model *fresh(qp_ctx *ctx) {
    qp_model *m = qp_model_new(ctx, "test", config);
    assert_non_null(m);
    qp_set_training(qp_model_module(m), false);
    return m;
}

static uint32_t next_random(uint32_t *x) { return *x = *x * 1664525u + 1013904223u; }
static int64_t below(uint32_t *x, int64_t n) { return (int64_t)(next_random(x) >> 8) % n; }

/* hidden [n, D] of ids fed to one row; what a session of one row gives. */
static float *hidden_of(qp_session *s, int64_t row, const int32_t *ids, int64_t n) {
    qp_ctx   *ctx = qp_session_ctx(s);
    int64_t   D = qp_model_info_of(qp_session_model(s)).width;
    float    *out = malloc((size_t)(n * D) * sizeof *out);
    qp_scope  scope = qp_enter(ctx);
    qp_tensor h =
        qp_session_hidden(s, qp_from(ctx, QP_I32, 2, (int64_t[]){1, n}, ids), (qp_feed){.rows = &row});
    if (qp_read(h, QP_F32, out, n * D) != QP_OK) fail_msg("%s", qp_error(ctx));
    qp_leave(scope);
    return out;
}

static float *alone(qp_model *m, qp_dtype kv, const int32_t *ids, int64_t n) {
    qp_session *s = qp_session_new(m, 1, T, (qp_session_options){kv});
    if (!s) fail_msg("%s", qp_error(qp_model_ctx(m)));
    float *out = hidden_of(s, 0, ids, n);
    qp_session_close(s);
    return out;
}

static void same_bits(const char *what, int64_t at, const float *got, const float *expected, int64_t n) {
    if (memcmp(got, expected, (size_t)n * sizeof *got)) fail_msg("%s %d: other bits", what, (int)at);
}

/* ---- Windows --------------------------------------------------------------------------------------- */

static void fill_nan(qp_session *s);

enum { LONG = 1700, WINDOW = 7 };

static qp_model *with_window(qp_ctx *ctx) {
    qp_model *m = qp_model_new(
        ctx, "test",
        "{\"model_type\": \"mistral\", \"vocab_size\": 50, \"hidden_size\": 64, \"intermediate_size\": 40, "
        "\"num_hidden_layers\": 2, \"num_attention_heads\": 2, \"num_key_value_heads\": 1, "
        "\"max_position_embeddings\": 2048, \"sliding_window\": 7, \"initializer_range\": 0.3}");
    if (!m) fail_msg("%s", qp_error(ctx));
    qp_set_training(qp_model_module(m), false);
    return m;
}

/* A chain and a wrong guess beside it, of which the chain stays. */
static void tree_of(qp_session *s, int64_t row, const int32_t *ids, const float *expected, int64_t D) {
    qp_ctx   *ctx = qp_session_ctx(s);
    int32_t   nodes[] = {ids[0], (ids[1] + 1) % 50, ids[1], ids[2]};
    int64_t   parents[] = {-1, 0, 0, 2}, path[] = {0, 2, 3};
    float     out[4 * 64];
    qp_scope  scope = qp_enter(ctx);
    qp_tensor h = qp_session_hidden(s, qp_from(ctx, QP_I32, 2, (int64_t[]){1, 4}, nodes),
                                    (qp_feed){.rows = &row, .parents = parents});
    assert_int_equal(qp_read(h, QP_F32, out, 4 * D), QP_OK);
    qp_leave(scope);
    for (int i = 0; i < 3; i++) same_bits("node", i, out + path[i] * D, expected + i * D, D);
    assert_int_equal(qp_session_choose(s, row, 3, path), QP_OK);
}

/* However a text comes that is longer than the places of its window: whole rows of calls, trees, forks, what is
 * taken back or saved and loaded, the bits are those of a text fed in steps of 50; of which the first steps, when
 * everything has its place, and whole sequences are the reference. */
static void any_way(qp_ctx *ctx, qp_dtype kv, const char *path) {
    qp_model   *m = with_window(ctx);
    qp_session *even = qp_session_new(m, 1, LONG, (qp_session_options){kv}),
               *s = qp_session_new(m, 3, LONG, (qp_session_options){kv});
    int64_t  D = qp_model_info_of(m).width, at = 0, row = 0, furthest = 0, refused = 0;
    int32_t  ids[LONG];
    float   *expected = malloc((size_t)(LONG * D) * sizeof *expected);
    uint32_t seed = 3;
    for (int i = 0; i < LONG; i++) ids[i] = (int32_t)below(&seed, 50);
    fill_nan(even);
    fill_nan(s);
    for (int64_t i = 0; i < LONG; i += 50) {
        float *some = hidden_of(even, 0, ids + i, 50);
        memcpy(expected + i * D, some, (size_t)(50 * D) * sizeof *some);
        free(some);
    }
    assert_true(qp_size(even->states[0].tensors[0], 1) == WINDOW + QPI_WINDOW_SPARE); /* not LONG */
    qp_session *small = qp_session_new(m, 1, 500, (qp_session_options){kv});          /* all have places */
    for (int64_t i = 0; i < 500; i += 50) {
        float *some = hidden_of(small, 0, ids + i, 50);
        same_bits("first", i, some, expected + i * D, 50 * D);
        free(some);
    }
    while (at < LONG - 70) {
        int64_t n = 1 + below(&seed, 60), other = (row + 1) % 3;
        if (at > furthest) furthest = at;
        switch (below(&seed, 6)) {
        case 0:
            tree_of(s, row, ids + at, expected + at * D, D);
            at += 3;
            break;
        case 1: /* back, at most as far from where it was furthest as can always be */
            n = n * 2 + 8 < at ? n * 2 + 8 : at;
            if (at - n < furthest - QPI_WINDOW_KEEP) break;
            if (qp_session_truncate(s, row, at - n) == QP_OK) at -= n;
            else fail_msg("%d of %d: %s", (int)(at - n), (int)at, qp_error(ctx));
            break;
        case 2:
            assert_int_equal(qp_session_truncate(s, other, 0), QP_OK);
            assert_int_equal(qp_session_fork(s, row, other, at), QP_OK);
            row = other;
            break;
        case 3:
            assert_int_equal(qp_session_save(s, row, path), QP_OK);
            assert_int_equal(qp_session_truncate(s, other, 0), QP_OK);
            assert_int_equal(qp_session_load(s, other, path), QP_OK);
            if (at > WINDOW) {
                assert_int_equal(qp_session_truncate(s, other, at - 2), QP_ERR_UNSUPPORTED);
                expect_error(ctx, QP_ERR_UNSUPPORTED, "has left the window");
                refused++;
            }
            break; /* the other goes on in the next case 4 */
        case 4:
            if (qp_session_length(s, other) != at) break;
            float *copy = hidden_of(s, other, ids + at, 20);
            same_bits("loaded", at, copy, expected + at * D, 20 * D);
            free(copy);
            /* fall through */
        default: {
            float *some = hidden_of(s, row, ids + at, n);
            same_bits("step", at, some, expected + at * D, n * D);
            free(some);
            at += n;
        }
        }
    }
    assert_true(refused > 0);
    assert_int_equal(qp_session_truncate(s, row, 100), QP_ERR_UNSUPPORTED);
    expect_error(ctx, QP_ERR_UNSUPPORTED, "has left the window");
    if (kv == QP_F32) { /* one call of all: more rows share a product, so the order of sums may differ */
        assert_int_equal(qp_session_truncate(s, row, 0), QP_OK);
        float    *whole = hidden_of(s, row, ids, LONG);
        qp_scope  scope = qp_enter(ctx);
        qp_tensor h = qp_model_hidden(m, qp_from(ctx, QP_I32, 2, (int64_t[]){1, LONG}, ids));
        float    *forward = malloc((size_t)(LONG * D) * sizeof *forward);
        assert_int_equal(qp_read(h, QP_F32, forward, LONG * D), QP_OK);
        qp_leave(scope);
        for (int64_t i = 0; i < LONG * D; i++) {
            if (!(fabsf(whole[i] - expected[i]) < 1e-4f))
                fail_msg("whole: %d: %g, %g", (int)i, whole[i], expected[i]);
            if (!(fabsf(forward[i] - expected[i]) < 1e-4f))
                fail_msg("forward: %d: %g, %g", (int)i, forward[i], expected[i]);
        }
        free(forward);
        free(whole);
    }
    free(expected);
    qp_session_close(even);
    qp_session_close(small);
    qp_session_close(s);
}

static void windows(void **state) {
    (void)state;
    char path[] = P_tmpdir "/quipu-row-XXXXXX.safetensors";
    int  file = mkstemps(path, 12);
    assert_true(file >= 0);
    close(file);
    for (int k = 0; k < 3; k++) {
        qp_ctx *ctx = qp_open((qp_options){.threads = 2, .seed = 5});
        any_way(ctx, (qp_dtype[]){QP_F32, QP_BF16, QP_Q8_0}[k], path);
        assert_false(qp_failed(ctx));
        qp_close(ctx);
    }
    unlink(path);
}

/* ---- Chunks ------------------------------------------------------------------------------------------ */

static qp_model *with_chunks(qp_ctx *ctx) {
    qp_model *m = qp_model_new(ctx, "test",
                               "{\"model_type\": \"quipu\", \"vocab_size\": 50, \"hidden_size\": 64, "
                               "\"num_hidden_layers\": 2, \"max_position_embeddings\": 2048, "
                               "\"mixer\": {\"type\": \"flash\", \"chunk\": 24, \"head_width\": 32}, "
                               "\"ffn\": {\"type\": \"none\"}, \"norm\": {\"type\": \"rms_norm\"}, "
                               "\"position\": {\"type\": \"rope\"}}");
    if (!m) fail_msg("%s", qp_error(ctx));
    qp_set_training(qp_model_module(m), false);
    return m;
}

/* n more positions of some rows, each behind what it has of the text. */
static void feed_rows(qp_session *s, int64_t B, const int64_t *rows, int64_t n, const int32_t *ids,
                      const float *expected) {
    qp_ctx  *ctx = qp_session_ctx(s);
    int64_t  at[2], D = qp_model_info_of(qp_session_model(s)).width;
    int32_t  some[2 * 30];
    float   *out = malloc((size_t)(B * n * D) * sizeof *out);
    qp_scope scope = qp_enter(ctx);
    for (int64_t b = 0; b < B; b++) {
        at[b] = qp_session_length(s, rows[b]);
        memcpy(some + b * n, ids + at[b], (size_t)n * sizeof *some);
    }
    qp_tensor h =
        qp_session_hidden(s, qp_from(ctx, QP_I32, 2, (int64_t[]){B, n}, some), (qp_feed){.rows = rows});
    if (qp_read(h, QP_F32, out, B * n * D) != QP_OK) fail_msg("%s", qp_error(ctx));
    qp_leave(scope);
    for (int64_t b = 0; b < B; b++) same_bits("rows", at[b], out + b * n * D, expected + at[b] * D, n * D);
    free(out);
}

/* A state of fixed size beside a window, both in chunks: whatever pieces a text comes in, whichever rows share a
 * call, behind forks and files, the bits are those of a text in steps of 50. */
static void chunked(qp_ctx *ctx, qp_dtype kv, const char *path) {
    qp_model   *m = with_chunks(ctx);
    qp_session *even = qp_session_new(m, 1, LONG, (qp_session_options){kv}),
               *s = qp_session_new(m, 3, LONG, (qp_session_options){kv});
    int64_t  D = qp_model_info_of(m).width, furthest = 0;
    int32_t  ids[LONG];
    float   *expected = malloc((size_t)(LONG * D) * sizeof *expected);
    uint32_t seed = 8;
    for (int i = 0; i < LONG; i++) ids[i] = (int32_t)below(&seed, 50);
    fill_nan(even);
    fill_nan(s);
    for (int64_t i = 0; i < LONG; i += 50) {
        float *some = hidden_of(even, 0, ids + i, 50);
        memcpy(expected + i * D, some, (size_t)(50 * D) * sizeof *some);
        free(some);
    }
    while (furthest < LONG - 60) {
        int64_t row = below(&seed, 3), other = (row + 1) % 3, n = 1 + below(&seed, 30), B = 1 + below(&seed, 2);
        int64_t length = qp_session_length(s, row), turn = below(&seed, 24);
        if (turn < 2) {
            assert_int_equal(qp_session_truncate(s, other, 0), QP_OK);
            if (turn) assert_int_equal(qp_session_fork(s, row, other, length), QP_OK);
            else {
                assert_int_equal(qp_session_save(s, row, path), QP_OK);
                assert_int_equal(qp_session_load(s, other, path), QP_OK);
            }
        }
        feed_rows(s, B, (int64_t[]){row, other}, n, ids, expected);
        if (length > furthest) furthest = length;
    }
    if (kv == QP_F32) {
        qp_scope  scope = qp_enter(ctx);
        qp_tensor h = qp_model_hidden(m, qp_from(ctx, QP_I32, 2, (int64_t[]){1, LONG}, ids));
        float    *forward = malloc((size_t)(LONG * D) * sizeof *forward);
        assert_int_equal(qp_read(h, QP_F32, forward, LONG * D), QP_OK);
        qp_leave(scope);
        for (int64_t i = 0; i < LONG * D; i++)
            if (!(fabsf(forward[i] - expected[i]) < 1e-4f * fmaxf(1, fabsf(forward[i]))))
                fail_msg("forward: %d: %g, %g", (int)i, forward[i], expected[i]);
        free(forward);
    }
    free(expected);
    qp_session_close(even);
    qp_session_close(s);
}

static void chunks(void **state) {
    (void)state;
    char path[] = P_tmpdir "/quipu-row-XXXXXX.safetensors";
    int  file = mkstemps(path, 12);
    assert_true(file >= 0);
    close(file);
    for (int k = 0; k < 3; k++) {
        qp_ctx *ctx = qp_open((qp_options){.threads = 2, .seed = 5});
        chunked(ctx, (qp_dtype[]){QP_F32, QP_BF16, QP_Q8_0}[k], path);
        assert_false(qp_failed(ctx));
        qp_close(ctx);
    }
    unlink(path);
}

/* ---- Any schedule ------------------------------------------------------------------------------------ */

static void fill_nan(qp_session *s) {
    for (int64_t i = 0; i < qpi_state_count(s); i++)
        for (int j = 0; j < s->states[i].count; j++) {
            qp_tensor t = s->states[i].tensors[j];
            if (!s->states[i].grows[j]) continue;
            memset(qp_data_write(t), 0xff, qp_dtype_size(qp_dtype_of(t), qp_count(t))); /* NaN in each type */
        }
}

/* Calls with any rows and counts, rows cut and copied between; each position's hidden state has the bits of
 * the row's text alone. What stands behind a row's length is never looked at. */
static void check_schedule(qp_model *m, qp_dtype kv, uint32_t seed) {
    qp_ctx     *ctx = qp_model_ctx(m);
    int64_t     V = qp_model_info_of(m).vocabulary, D = qp_model_info_of(m).width;
    qp_session *s = qp_session_new(m, R, T, (qp_session_options){kv});
    if (!s) fail_msg("%s", qp_error(ctx));
    fill_nan(s);
    for (int call = 0; call < 40; call++) {
        int64_t rows[R], counts[R], B = 1 + below(&seed, R), n = 1 + below(&seed, 6), total = 0;
        int32_t ids[R * 6] = {0};
        for (int64_t b = 0; b < B; b++) {
            rows[b] = (b * 3 + call) % R;
            int64_t room = T - qp_session_length(s, rows[b]);
            counts[b] = below(&seed, n + 1);
            if (counts[b] > room) counts[b] = room;
            total += counts[b];
            for (int64_t t = 0; t < n; t++) ids[b * n + t] = (int32_t)below(&seed, V);
        }
        if (!total) continue;
        qp_scope     scope = qp_enter(ctx);
        qp_tensor    h = qp_session_hidden(s, qp_from(ctx, QP_I32, 2, (int64_t[]){B, n}, ids),
                                           (qp_feed){rows, counts, NULL});
        static float all[R * 6 * 512];
        if (qp_read(h, QP_F32, all, B * n * D) != QP_OK) fail_msg("%s", qp_error(ctx));
        qp_leave(scope);
        for (int64_t b = 0; b < B; b++) {
            int64_t length = qp_session_length(s, rows[b]);
            if (!counts[b]) continue;
            float *one = alone(m, kv, qp_session_tokens(s, rows[b]), length);
            same_bits("call", call, all + b * n * D, one + (length - counts[b]) * D, counts[b] * D);
            free(one);
        }
        int64_t row = below(&seed, R), other = below(&seed, R), length = qp_session_length(s, row);
        if (call % 7 == 6) assert_int_equal(qp_session_truncate(s, row, below(&seed, length + 1)), QP_OK);
        if (call % 5 == 4)
            assert_int_equal(qp_session_fork(s, row, other, below(&seed, qp_session_length(s, row) + 1)),
                             QP_OK);
    }
    qp_session_close(s);
}

static void any_schedule(void **state) {
    static const char *const names[] = {"gpt2", "llama-gqa-tied", "mistral-window", "qwen2-window"};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        for (qp_isa isa = QP_ISA_BASE; isa <= QP_ISA_AVX512; isa++) {
            qp_ctx *ctx = qp_open((qp_options){.threads = 2, .isa = isa});
            check_schedule(golden(ctx, names[i]), (qp_dtype[]){QP_F32, QP_BF16, QP_F16}[isa % 3], (uint32_t)i);
            qp_close(ctx);
        }
    qp_ctx *ctx = qp_open((qp_options){.threads = 2, .seed = 5});
    check_schedule(fresh(ctx), QP_Q8_0, 9);
    qp_close(ctx);
}

/* ---- Drafts --------------------------------------------------------------------------------------------- */

/* A tree behind a prefix, in two rows at once with different counts: each node has the bits of its path
 * alone; a chosen path goes on like plain text. */
static void check_tree(qp_model *m, qp_dtype kv, uint32_t seed) {
    enum { N = 12 };
    qp_ctx     *ctx = qp_model_ctx(m);
    int64_t     V = qp_model_info_of(m).vocabulary, D = qp_model_info_of(m).width;
    qp_session *s = qp_session_new(m, 2, T, (qp_session_options){kv});
    for (int round = 0; round < 3; round++) {
        int32_t prefix[2][4], ids[2 * N];
        int64_t parents[2 * N], counts[2] = {N, 7}, rows[2] = {1, 0};
        for (int b = 0; b < 2; b++) {
            for (int t = 0; t < 4; t++) prefix[b][t] = (int32_t)below(&seed, V);
            free(hidden_of(s, rows[b], prefix[b], 4));
            for (int t = 0; t < N; t++) {
                ids[b * N + t] = (int32_t)below(&seed, V);
                parents[b * N + t] = below(&seed, t + 1) - 1;
            }
        }
        qp_scope     scope = qp_enter(ctx);
        qp_tensor    h = qp_session_hidden(s, qp_from(ctx, QP_I32, 2, (int64_t[]){2, N}, ids),
                                           (qp_feed){rows, counts, parents});
        static float all[2 * N * 512];
        if (qp_read(h, QP_F32, all, 2 * N * D) != QP_OK) fail_msg("%s", qp_error(ctx));
        qp_leave(scope);
        for (int b = 0; b < 2; b++) {
            int64_t row = rows[b], length = qp_session_length(s, row), path[N], n = 0;
            int32_t text[T];
            memcpy(text, qp_session_tokens(s, row), (size_t)length * sizeof *text);
            for (int64_t node = 0; node < counts[b]; node++) {
                n = 0;
                for (int64_t k = node; k >= 0; k = parents[b * N + k]) n++;
                for (int64_t k = node, i = n; k >= 0; k = parents[b * N + k]) path[--i] = k;
                for (int64_t i = 0; i < n; i++) text[length + i] = ids[b * N + path[i]];
                float *one = alone(m, kv, text, length + n);
                same_bits("node", node, all + (b * N + node) * D, one + (length + n - 1) * D, D);
                free(one);
            }
            qp_session_feed(s, qp_from(ctx, QP_I32, 2, (int64_t[]){1, 1}, ids), (qp_feed){.rows = &row});
            expect_error(ctx, QP_ERR_STATE, "has drafts to be chosen from");
            assert_int_equal(qp_session_choose(s, row, 1, (int64_t[]){counts[b]}), QP_ERR_ARGUMENT);
            expect_error(ctx, QP_ERR_ARGUMENT, "no path");
            if (round == 2) n = 0;
            assert_int_equal(qp_session_choose(s, row, n, path), QP_OK);
            assert_int_equal(qp_session_length(s, row), length + n);
            assert_memory_equal(qp_session_tokens(s, row), text, (size_t)(length + n) * sizeof *text);
            text[length + n] = 3;
            float *got = hidden_of(s, row, text + length + n, 1), *one = alone(m, kv, text, length + n + 1);
            same_bits("behind", n, got, one + (length + n) * D, D);
            free(got);
            free(one);
        }
    }
    qp_session_close(s);
}

static void trees(void **state) {
    static const char *const names[] = {"gpt2", "llama-mqa-headdim", "mistral-window"};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        for (qp_isa isa = QP_ISA_BASE; isa <= QP_ISA_AVX512; isa++) {
            qp_ctx *ctx = qp_open((qp_options){.threads = 2, .isa = isa});
            check_tree(golden(ctx, names[i]), (qp_dtype[]){QP_F16, QP_F32, QP_BF16}[isa % 3], 77);
            qp_close(ctx);
        }
    qp_ctx *ctx = qp_open((qp_options){.threads = 2, .seed = 5});
    check_tree(fresh(ctx), QP_Q8_0, 9);
    qp_close(ctx);
}

/* ---- Types, memory, errors ---------------------------------------------------------------------------------- */

/* How far each type is from f32, and that it is not f32 itself. */
static void types(void **state) {
    static const qp_dtype kinds[] = {QP_BF16, QP_F16, QP_Q8_0};
    static const double   most[] = {2e-2, 2e-3, 2e-2};
    (void)state;
    qp_ctx   *ctx = qp_open((qp_options){.threads = 2, .seed = 5});
    qp_model *m = fresh(ctx);
    int32_t   ids[T];
    for (int i = 0; i < T; i++) ids[i] = i * 37 % 257;
    float *exact = alone(m, QP_F32, ids, T);
    for (int k = 0; k < 3; k++) {
        float *x = alone(m, kinds[k], ids, T);
        double worst = 0, scale = 0;
        for (int i = 0; i < T * 128; i++) {
            worst = fmax(worst, fabs(x[i] - exact[i]));
            scale = fmax(scale, fabs(exact[i]));
        }
        if (!(worst > 0 && worst < most[k] * scale))
            fail_msg("%s: error %g", qp_dtype_name(kinds[k]), worst / scale);
        free(x);
    }
    free(exact);
    assert_null(qp_session_new(m, 1, 8, (qp_session_options){QP_Q4_0}));
    expect_error(ctx, QP_ERR_TYPE, "q4_0");
    assert_null(qp_session_new(golden(ctx, "llama-mqa-headdim"), 1, 8, (qp_session_options){QP_Q8_0}));
    expect_error(ctx, QP_ERR_ARGUMENT, "no whole blocks of q8_0");
    qp_close(ctx);
}

/* -1: not known, or a sanitizer keeps several bytes of its own for each one touched. */
static int64_t resident(void) {
#ifdef __SANITIZE_THREAD__
    return -1;
#endif
    long long size = 0, pages = 0;
    FILE     *f = fopen("/proc/self/statm", "r");
    if (!f || fscanf(f, "%lld %lld", &size, &pages) != 2) pages = -1;
    if (f) fclose(f);
    return pages * sysconf(_SC_PAGESIZE);
}

/* 8 GB reserved, and next to none of it there. */
static void memory_grows_with_use(void **state) {
    (void)state;
    qp_ctx     *ctx = qp_open((qp_options){.threads = 1, .seed = 5});
    qp_model   *m = fresh(ctx);
    int64_t     before = resident();
    qp_session *s = qp_session_new(m, 32, 1 << 18, (qp_session_options){0});
    int32_t     ids[20] = {1, 2, 3};
    assert_non_null(s);
    assert_true(qp_stats_of(ctx).bytes > (size_t)8 << 30);
    for (int64_t row = 0; row < 32; row++) free(hidden_of(s, row, ids, 20));
    if (before >= 0) assert_true(resident() - before < 32 << 20);
    qp_session_close(s);
    assert_true(qp_stats_of(ctx).bytes < (size_t)1 << 28);
    qp_close(ctx);
    ctx = qp_open((qp_options){.threads = 1, .seed = 5, .memory_cap = 64 << 20});
    assert_null(qp_session_new(fresh(ctx), 32, 1 << 18, (qp_session_options){0}));
    expect_error(ctx, QP_ERR_MEMORY, "cap");
    qp_close(ctx);
}

static void wrong_calls(void **state) {
    (void)state;
    qp_ctx     *ctx = qp_open((qp_options){.threads = 1, .seed = 5});
    qp_session *s = qp_session_new(fresh(ctx), 3, 8, (qp_session_options){0});
    int32_t     ids[30] = {0};
    qp_tensor   two = qp_from(ctx, QP_I32, 2, (int64_t[]){2, 3}, ids);
    static const struct {
        int64_t     rows[2], counts[2], parents[6];
        qp_code     code;
        const char *text;
    } bad[] = {
        {{0, 3}, {3, 3}, {-1, 0, 1, -1, 0, 1}, QP_ERR_ARGUMENT, "row 3 of 3"},
        {{-1, 0}, {3, 3}, {-1, 0, 1, -1, 0, 1}, QP_ERR_ARGUMENT, "row -1"},
        {{1, 1}, {3, 3}, {-1, 0, 1, -1, 0, 1}, QP_ERR_ARGUMENT, "row 1 twice"},
        {{0, 1}, {4, 3}, {-1, 0, 1, -1, 0, 1}, QP_ERR_ARGUMENT, "count 4 of 3"},
        {{0, 1}, {-1, 3}, {-1, 0, 1, -1, 0, 1}, QP_ERR_ARGUMENT, "count -1 of 3"},
        {{0, 1}, {3, 3}, {-1, 0, 2, -1, 0, 1}, QP_ERR_ARGUMENT, "draft 2 continues 2"},
        {{0, 1}, {3, 3}, {-1, 0, 1, -2, 0, 1}, QP_ERR_ARGUMENT, "draft 0 continues -2"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        qp_session_feed(s, two, (qp_feed){bad[i].rows, bad[i].counts, bad[i].parents});
        expect_error(ctx, bad[i].code, bad[i].text);
    }
    qp_session_feed(s, two, (qp_feed){0});
    expect_error(ctx, QP_ERR_SHAPE, "B 3");
    qp_session_feed(s, qp_zeros(ctx, QP_I32, 2, (int64_t[]){3, 9}), (qp_feed){0});
    expect_error(ctx, QP_ERR_ARGUMENT, "room for 8");
    assert_int_equal(qp_session_fork(s, 0, 3, 0), QP_ERR_ARGUMENT);
    expect_error(ctx, QP_ERR_ARGUMENT, "row 3 of 3");
    assert_int_equal(qp_session_fork(s, 0, 1, 1), QP_ERR_ARGUMENT);
    expect_error(ctx, QP_ERR_ARGUMENT, "1 positions of 0");
    assert_int_equal(qp_session_length(s, 3), -1);
    assert_null(qp_session_tokens(s, -1));
    assert_int_equal(qp_session_choose(s, 0, 0, NULL), QP_OK);
    for (int64_t row = 0; row < 3; row++) assert_int_equal(qp_session_length(s, row), 0);
    qp_close(ctx);
}

/* ---- Files -------------------------------------------------------------------------------------------------- */

static void files(void **state) {
    (void)state;
    char path[] = P_tmpdir "/quipu-row-XXXXXX.safetensors";
    int  fd = mkstemps(path, 12);
    assert_true(fd >= 0);
    close(fd);
    static const qp_dtype kinds[] = {QP_F32, QP_BF16, QP_F16, QP_Q8_0};
    for (int k = 0; k < 4; k++) {
        qp_ctx     *ctx = qp_open((qp_options){.threads = 2, .seed = 5});
        qp_model   *m = fresh(ctx);
        qp_session *s = qp_session_new(m, 2, T, (qp_session_options){kinds[k]});
        int32_t     ids[T];
        for (int i = 0; i < T; i++) ids[i] = i * 37 % 257;
        free(hidden_of(s, 1, ids, 25));
        if (qp_session_save(s, 1, path) != QP_OK) fail_msg("%s", qp_error(ctx));
        qp_session *other = qp_session_new(m, 3, T, (qp_session_options){kinds[k]});
        if (qp_session_load(other, 2, path) != QP_OK) fail_msg("%s", qp_error(ctx));
        assert_int_equal(qp_session_length(other, 2), 25);
        float *a = hidden_of(s, 1, ids + 25, 15), *b = hidden_of(other, 2, ids + 25, 15);
        same_bits("type", k, b, a, 15 * 128);
        free(a);
        free(b);
        assert_int_equal(qp_session_load(other, 2, path), QP_ERR_STATE);
        expect_error(ctx, QP_ERR_STATE, "not empty");
        qp_session *small = qp_session_new(m, 1, 24, (qp_session_options){kinds[k]});
        assert_int_equal(qp_session_load(small, 0, path), QP_ERR_ARGUMENT);
        expect_error(ctx, QP_ERR_ARGUMENT, "25 positions, the session has room for 24");
        qp_session *odd = qp_session_new(m, 1, T, (qp_session_options){kinds[(k + 1) % 4]});
        assert_int_equal(qp_session_load(odd, 0, path), QP_ERR_STATE);
        expect_error(ctx, QP_ERR_STATE, "keys and values");
        qp_close(ctx);
        ctx = qp_open((qp_options){.threads = 2, .seed = 6});
        s = qp_session_new(fresh(ctx), 1, T, (qp_session_options){kinds[k]});
        assert_int_equal(qp_session_load(s, 0, path), QP_ERR_STATE);
        expect_error(ctx, QP_ERR_STATE, "another model");
        qp_close(ctx);
    }
    unlink(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(windows),     cmocka_unit_test(chunks), cmocka_unit_test(any_schedule),
        cmocka_unit_test(trees),       cmocka_unit_test(types),  cmocka_unit_test(memory_grows_with_use),
        cmocka_unit_test(wrong_calls), cmocka_unit_test(files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
