/* Sessions against whole sequences, and what a token costs the heap. */
#define _GNU_SOURCE /* memmem */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../expect.h"
#include "../heap_calls.h"
#include "quipu/quipu.h"

/* ---- Models ------------------------------------------------------------------------------------ */

static qp_ctx *open_context(int threads) {
    qp_ctx *ctx = qp_open((qp_options){.threads = threads, .seed = 5});
    assert_non_null(ctx);
    return ctx;
}

static qp_model *golden(qp_ctx *ctx, const char *name) {
    char path[512];
    snprintf(path, sizeof path, "%s/tests/golden/models/%s", SOURCE_DIR, name);
    qp_model *m = qp_model_load(ctx, path, (qp_model_options){0});
    expect_ok(ctx);
    qp_set_training(qp_model_module(m), false);
    return m;
}

static const char config[] =
    "{\"model_type\": \"llama\", \"vocab_size\": 257, \"hidden_size\": 64, \"intermediate_size\": 160, "
    "\"num_hidden_layers\": 3, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, "
    "\"max_position_embeddings\": 512, \"tie_word_embeddings\": true, \"initializer_range\": 0.1}";

static qp_model *fresh(qp_ctx *ctx) {
    qp_model *m = qp_model_new(ctx, "test", config);
    expect_ok(ctx);
    qp_set_training(qp_model_module(m), false);
    return m;
}

/* [B, T] ids below the vocabulary. */
static void make_ids(int32_t *out, int64_t n, int64_t vocabulary) {
    for (int64_t i = 0; i < n; i++) out[i] = (int32_t)((i * i * 31 + i * 7 + 3) % vocabulary);
}

static float *read_all(qp_tensor t, int64_t count) {
    float *out = malloc((size_t)count * sizeof *out);
    assert_non_null(out);
    assert_int_equal(qp_read(t, QP_F32, out, count), QP_OK);
    return out;
}

/* logits [B, T, V] of whole sequences */
static float *whole(qp_model *m, const int32_t *ids, int64_t B, int64_t T) {
    qp_ctx  *ctx = qp_model_ctx(m);
    qp_scope s = qp_enter(ctx);
    bool     before = qp_no_grad(ctx, true);
    float   *out = read_all(qp_logits(m, qp_from(ctx, QP_I32, 2, (int64_t[]){B, T}, ids)),
                            B * T * qp_model_info_of(m).vocabulary);
    qp_no_grad(ctx, before);
    qp_leave(s);
    return out;
}

/* Feeds columns from .. from + n - 1 of ids [B, T]; the last one's logits [B, V]. */
static float *feed(qp_session *session, const int32_t *ids, int64_t B, int64_t T, int64_t from, int64_t n,
                   int64_t V) {
    qp_ctx  *ctx = qp_session_ctx(session);
    qp_scope s = qp_enter(ctx);
    int32_t *part = malloc((size_t)(B * n) * sizeof *part);
    for (int64_t b = 0; b < B; b++) memcpy(part + b * n, ids + b * T + from, (size_t)n * sizeof *part);
    float *out = read_all(
        qp_session_feed(session, qp_from(ctx, QP_I32, 2, (int64_t[]){B, n}, part), (qp_feed){0}), B * V);
    free(part);
    qp_leave(s);
    expect_ok(ctx);
    return out;
}

/* Rows of a session's logits against those of whole sequences; tolerance 0: the same bits. */
static void compare(const float *ours, const float *whole_logits, int64_t B, int64_t T, int64_t at, int64_t V,
                    double tolerance) {
    double worst = 0, scale = 0;
    for (int64_t b = 0; b < B; b++)
        for (int64_t v = 0; v < V; v++) {
            double x = ours[b * V + v], y = whole_logits[(b * T + at) * V + v];
            worst = fmax(worst, fabs(x - y));
            scale = fmax(scale, fabs(y));
        }
    if (!(worst <= tolerance * scale)) fail_msg("position %d: relative error %.3g", (int)at, worst / scale);
}

static void feed_in_pieces(qp_model *m, int64_t B, int64_t T, const int64_t *pieces, double tolerance) {
    int64_t     V = qp_model_info_of(m).vocabulary, at = 0;
    int32_t    *ids = malloc((size_t)(B * T) * sizeof *ids);
    qp_session *session = qp_session_new(m, B, T, (qp_session_options){0});
    make_ids(ids, B * T, V);
    float *expected = whole(m, ids, B, T);
    for (int i = 0; at < T; i++) {
        int64_t n = pieces[i] && pieces[i] < T - at ? pieces[i] : T - at;
        float  *logits = feed(session, ids, B, T, at, n, V);
        at += n;
        assert_int_equal(qp_session_length(session, 0), at);
        compare(logits, expected, B, T, at - 1, V, tolerance);
        free(logits);
    }
    free(expected);
    free(ids);
}

static const int64_t one_by_one[256] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                        1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

/* ---- The same as whole sequences ------------------------------------------------------------------- */

/* Up to 64 rows a product's row has the same bits however many share the call. */
static void same_bits(void **state) {
    static const char *const names[] = {
        "gpt2",       "gpt2-inverse-layer", "gpt2-odd", "llama-gqa-tied", "llama-mqa-headdim",
        "llama-yarn", "llama-llama3",       "mistral",  "qwen2"};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        for (qp_isa isa = QP_ISA_BASE; isa <= QP_ISA_AVX512; isa++) {
            qp_ctx   *ctx = qp_open((qp_options){.threads = 2, .isa = isa});
            qp_model *m = golden(ctx, names[i]);
            feed_in_pieces(m, 1, 24, (int64_t[]){0}, 0);
            feed_in_pieces(m, 1, 24, one_by_one, 0);
            feed_in_pieces(m, 1, 24, (int64_t[]){5, 1, 7, 0}, 0);
            feed_in_pieces(m, 2, 20, (int64_t[]){3, 1, 1, 0}, 0);
            expect_ok(ctx);
            qp_close(ctx);
        }
}

static void window(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context(1);
    qp_model *m = qp_model_new(
        ctx, "test",
        "{\"model_type\": \"mistral\", \"vocab_size\": 50, \"hidden_size\": 24, \"intermediate_size\": 40, "
        "\"num_hidden_layers\": 2, \"num_attention_heads\": 2, \"num_key_value_heads\": 1, "
        "\"max_position_embeddings\": 64, \"sliding_window\": 5, \"initializer_range\": 0.3}");
    expect_ok(ctx);
    feed_in_pieces(m, 1, 40, one_by_one, 0);
    feed_in_pieces(m, 1, 40, (int64_t[]){9, 1, 0}, 0);
    expect_ok(ctx);
    qp_close(ctx);
}

/* Longer: more rows share a product of the whole sequence, so the order of sums may differ. */
static void long_sequences(void **state) {
    static const int64_t pieces[] = {100, 1, 1, 1, 97, 1, 1, 150, 0};
    (void)state;
    qp_ctx   *ctx = open_context(2);
    qp_model *m = fresh(ctx);
    feed_in_pieces(m, 1, 400, pieces, 1e-5);
    feed_in_pieces(m, 3, 130, pieces, 1e-5);
    expect_ok(ctx);
    qp_close(ctx);
}

/* A row of a batch does not depend on its neighbours. */
static void rows_alone(void **state) {
    enum { B = 5, T = 12 };
    (void)state;
    qp_ctx   *ctx = open_context(2);
    qp_model *m = fresh(ctx);
    int64_t   V = qp_model_info_of(m).vocabulary;
    int32_t   ids[B * T];
    make_ids(ids, B * T, V);
    qp_session *together = qp_session_new(m, B, T, (qp_session_options){0});
    qp_session *alone[B];
    for (int b = 0; b < B; b++) alone[b] = qp_session_new(m, 1, T, (qp_session_options){0});
    for (int64_t t = 0; t < T; t++) {
        float *all = feed(together, ids, B, T, t, 1, V);
        for (int b = 0; b < B; b++) {
            float *one = feed(alone[b], ids + b * T, 1, T, t, 1, V);
            assert_memory_equal(one, all + b * V, (size_t)V * sizeof *one);
            free(one);
        }
        free(all);
    }
    qp_close(ctx);
}

/* ---- Truncation and refusals ----------------------------------------------------------------------- */

static void truncated(void **state) {
    enum { T = 20 };
    (void)state;
    qp_ctx   *ctx = open_context(1);
    qp_model *m = fresh(ctx);
    int64_t   V = qp_model_info_of(m).vocabulary;
    int32_t   ids[T], others[T];
    make_ids(ids, T, V);
    for (int i = 0; i < T; i++) others[i] = i < 8 ? ids[i] : (ids[i] + 100) % (int32_t)V;
    qp_session *session = qp_session_new(m, 1, T, (qp_session_options){0}),
               *clean = qp_session_new(m, 1, T, (qp_session_options){0});
    free(feed(session, ids, 1, T, 0, T, V));
    assert_int_equal(qp_session_truncate(session, 0, 8), QP_OK);
    assert_int_equal(qp_session_length(session, 0), 8);
    float *a = feed(session, others, 1, T, 8, T - 8, V), *b = feed(clean, others, 1, T, 0, T, V);
    assert_memory_equal(a, b, (size_t)V * sizeof *a);
    free(a);
    assert_int_equal(qp_session_truncate(session, 0, 0), QP_OK);
    a = feed(session, others, 1, T, 0, T, V);
    assert_memory_equal(a, b, (size_t)V * sizeof *a);
    free(a);
    free(b);
    assert_int_equal(qp_session_truncate(session, 0, T + 1), QP_ERR_ARGUMENT);
    expect_error(ctx, QP_ERR_ARGUMENT, "");
    assert_int_equal(qp_session_truncate(session, 0, -1), QP_ERR_ARGUMENT);
    expect_error(ctx, QP_ERR_ARGUMENT, "");
    assert_int_equal(qp_session_length(session, 0), T);
    qp_close(ctx);
}

/* A feed that runs out of memory, wherever that is, leaves the session where it was. */
static void failed_feeds(void **state) {
    enum { T = 150, FIRST = 3, CAPS = 24 };
    (void)state;
    int32_t ids[T];
    size_t  held = 0, peak = 0;
    float  *expected = NULL;
    for (int i = 0; i <= CAPS; i++) { /* the first one measures */
        size_t      cap = held + (peak - held) * (size_t)i / (CAPS + 1);
        qp_ctx     *ctx = qp_open((qp_options){.threads = 1, .seed = 5, .memory_cap = cap});
        qp_model   *m = fresh(ctx);
        qp_session *session = qp_session_new(m, 1, T, (qp_session_options){0});
        int64_t     V = qp_model_info_of(m).vocabulary;
        make_ids(ids, T, V);
        if (!i) expected = whole(m, ids, 1, T);
        free(feed(session, ids, 1, T, 0, FIRST, V));
        if (!i) held = qp_stats_of(ctx).bytes;
        qp_scope s = qp_enter(ctx);
        if (!i) qp_reset_peak(ctx);
        qp_session_feed(session, qp_from(ctx, QP_I32, 2, (int64_t[]){1, T - FIRST}, ids + FIRST), (qp_feed){0});
        qp_leave(s);
        if (!i) peak = qp_stats_of(ctx).peak_bytes;
        for (int64_t at = FIRST; i && at < T; at++) {
            if (at == FIRST) expect_error(ctx, QP_ERR_MEMORY, "");
            assert_int_equal(qp_session_length(session, 0), at);
            float *logits = feed(session, ids, 1, T, at, 1, V);
            compare(logits, expected, 1, T, at, V, 1e-5);
            free(logits);
        }
        qp_close(ctx);
    }
    free(expected);
}

/* A recurrent row that was not emptied, or copied, to the end is not fed before it is. */
static void half_done(void **state) {
    enum { T = 20 };
    (void)state;
    qp_ctx     *ctx = open_context(1);
    qp_model   *m = golden(ctx, "mamba");
    qp_session *session = qp_session_new(m, 2, T + 1, (qp_session_options){0});
    int64_t     V = qp_model_info_of(m).vocabulary;
    int32_t     ids[2 * T];
    make_ids(ids, 2 * T, V);
    float *first = feed(session, ids, 2, T, 0, T, V);
    for (int fork = 0; fork < 2; fork++) {
        qp_cancel(ctx);
        assert_int_equal(fork ? qp_session_fork(session, 1, 0, T) : qp_session_truncate(session, 0, 0),
                         QP_ERR_CANCELLED);
        qp_clear(ctx);
        qp_scope s = qp_enter(ctx);
        qp_session_feed(session, qp_from(ctx, QP_I32, 2, (int64_t[]){1, 1}, ids),
                        (qp_feed){.rows = &(int64_t){0}});
        qp_leave(s);
        expect_error(ctx, QP_ERR_STATE, "row 0 was left half done");
        for (int64_t row = 0; row < 2; row++) assert_int_equal(qp_session_truncate(session, row, 0), QP_OK);
        float *again = feed(session, ids, 2, T, 0, T, V);
        assert_memory_equal(again, first, (size_t)(2 * V) * sizeof *first);
        free(again);
    }
    free(first);
    qp_close(ctx);
}

static void refusals(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context(1);
    qp_model *m = golden(ctx, "gpt2"); /* 40 positions */
    int64_t   V = qp_model_info_of(m).vocabulary;
    assert_null(qp_session_new(m, 0, 10, (qp_session_options){0}));
    expect_error(ctx, QP_ERR_ARGUMENT, "");
    assert_null(qp_session_new(m, 1, 0, (qp_session_options){0}));
    expect_error(ctx, QP_ERR_ARGUMENT, "");
    qp_session *session = qp_session_new(m, 1, 8, (qp_session_options){0});
    int32_t     ids[50];
    make_ids(ids, 50, V);
    free(feed(session, ids, 1, 50, 0, 6, V));
    qp_session_feed(session, qp_from(ctx, QP_I32, 2, (int64_t[]){1, 3}, ids), (qp_feed){0});
    expect_error(ctx, QP_ERR_ARGUMENT, "");
    qp_session_feed(session, qp_from(ctx, QP_I32, 2, (int64_t[]){2, 1}, ids), (qp_feed){0});
    expect_error(ctx, QP_ERR_SHAPE, "");
    qp_session_feed(session, qp_from(ctx, QP_I32, 1, (int64_t[]){1}, ids), (qp_feed){0});
    expect_error(ctx, QP_ERR_SHAPE, "");
    qp_session_feed(session, qp_from(ctx, QP_I32, 2, (int64_t[]){1, 1}, (int32_t[]){(int32_t)V}), (qp_feed){0});
    if (!qp_failed(ctx)) fail_msg("an id beyond the vocabulary was taken");
    qp_clear(ctx);
    /* a refused feed leaves the session as it was */
    assert_int_equal(qp_session_length(session, 0), 6);
    float *a = feed(session, ids, 1, 50, 6, 2, V), *b = whole(m, ids, 1, 8);
    compare(a, b, 1, 8, 7, V, 0);
    free(a);
    free(b);
    session = qp_session_new(m, 1, 50, (qp_session_options){0}); /* beyond GPT-2's table of positions */
    qp_session_feed(session, qp_from(ctx, QP_I32, 2, (int64_t[]){1, 50}, ids), (qp_feed){0});
    expect_error(ctx, QP_ERR_ARGUMENT, "");
    qp_close(ctx);
}

/* ---- Generation --------------------------------------------------------------------------------------- */

typedef struct {
    int64_t  tokens;
    int32_t  ids[512];
    char     text[4096];
    size_t   bytes;
    int      first_heap, calls_at_end;
    uint64_t first_system, system_at_end;
    qp_ctx  *ctx;
    int64_t  stop_after;
} taken;

static bool on_token(void *user, const qp_token *token) {
    taken *t = user;
    t->ids[t->tokens++] = token->id;
    t->calls_at_end = atomic_load(&heap_calls);
    t->system_at_end = qp_stats_of(t->ctx).system_calls;
    if (t->tokens == 2) { /* the first token's feed has been made */
        t->first_heap = t->calls_at_end;
        t->first_system = t->system_at_end;
    }
    return !t->stop_after || t->tokens < t->stop_after;
}

static bool on_text(void *user, const char *text, size_t bytes) {
    taken *t = user;
    assert_true(t->bytes + bytes < sizeof t->text);
    memcpy(t->text + t->bytes, text, bytes);
    t->bytes += bytes;
    return true;
}

static const int32_t no_ends[] = {-1};

static qp_generation run(qp_model *m, const qp_tokenizer *tokenizer, qp_generate_options options, taken *t) {
    qp_ctx       *ctx = qp_model_ctx(m);
    int32_t       prompt[10];
    qp_generation result;
    make_ids(prompt, 10, qp_model_info_of(m).vocabulary);
    *t = (taken){.ctx = ctx, .stop_after = t->stop_after};
    options.on_token = on_token;
    options.on_text = on_text;
    options.user = t;
    if (!options.ends) options.ends = no_ends;
    qp_session *session = qp_session_new(m, 1, 10 + options.max_tokens, (qp_session_options){0});
    assert_int_equal(qp_generate(session, tokenizer, prompt, 10, options, &result), QP_OK);
    expect_ok(ctx);
    assert_int_equal(result.tokens, t->tokens);
    return result;
}

static void greedy_is_argmax(void **state) {
    enum { N = 30 };
    (void)state;
    for (int i = 0; i < 2; i++) {
        qp_ctx   *ctx = open_context(2);
        qp_model *m = i ? fresh(ctx) : golden(ctx, "llama-gqa-tied");
        int64_t   V = qp_model_info_of(m).vocabulary;
        taken     t = {0};
        int32_t   ids[10 + N];
        run(m, NULL, (qp_generate_options){.max_tokens = N}, &t);
        assert_int_equal(t.tokens, N);
        make_ids(ids, 10, V);
        memcpy(ids + 10, t.ids, N * sizeof *ids);
        float *logits = whole(m, ids, 1, 10 + N);
        for (int k = 0; k < N; k++) {
            const float *row = logits + (9 + k) * V;
            int64_t      best = 0;
            for (int64_t v = 1; v < V; v++)
                if (row[v] > row[best]) best = v;
            assert_int_equal(t.ids[k], best);
        }
        free(logits);
        qp_close(ctx);
    }
}

static void token_loop_allocates_nothing(void **state) {
    (void)state;
    for (int threads = 1; threads <= 2; threads++) {
        qp_ctx       *ctx = open_context(threads);
        qp_model     *m = fresh(ctx);
        qp_tokenizer *tokenizer = qp_tokenizer_bytes(ctx);
        taken         t = {0};
        qp_sampling   sampling = {
            .temperature = 0.9, .top_k = 40, .top_p = 0.95, .min_p = 0.01, .repetition_penalty = 1.1};
        atomic_store(&counting, true);
        run(m, tokenizer, (qp_generate_options){.max_tokens = 400, .sampling = sampling, .seed = 1}, &t);
        atomic_store(&counting, false);
        assert_int_equal(t.tokens, 400);
        assert_int_equal(t.system_at_end, t.first_system);
        if (COUNTS_HEAP) assert_int_equal(t.calls_at_end, t.first_heap);
        qp_close(ctx);
    }
}

static void seeds(void **state) {
    (void)state;
    qp_ctx             *ctx = open_context(1);
    qp_model           *m = fresh(ctx);
    taken               a = {0}, b = {0}, c = {0};
    qp_generate_options o = {.max_tokens = 50, .sampling = {.temperature = 1}, .seed = 3};
    run(m, NULL, o, &a);
    run(m, NULL, o, &b);
    o.seed = 4;
    run(m, NULL, o, &c);
    assert_memory_equal(a.ids, b.ids, 50 * sizeof a.ids[0]);
    assert_memory_not_equal(a.ids, c.ids, 50 * sizeof a.ids[0]);
    qp_close(ctx);
}

/* Where generation ends, with a model whose text is known from a first run. */
/* Errors are the result's, too, and ids are looked at before anything reads logits by them. */
static void errors_are_told(void **state) {
    (void)state;
    qp_ctx     *ctx = open_context(1);
    qp_session *s = qp_session_new(fresh(ctx), 1, 300, (qp_session_options){0});
    int32_t     ids[290] = {0};
    ids[256] = 100000; /* behind a chunk, whose last logits tell its chance */
    static const struct {
        int64_t     n, top;
        const char *words;
    } wrong[] = {{0, 0, "the prompt is empty"},
                 {290, 0, "token 100000, expected 0 to"},
                 {301, 0, "room for 300"},
                 {3, -1, "likeliest"}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        static int32_t      zeros[301];
        qp_generation       g;
        qp_generate_options o = {.max_tokens = 3, .echo = true, .logprobs = true, .top = (int)wrong[i].top};
        assert_int_equal(qp_generate(s, NULL, wrong[i].n == 290 ? ids : zeros, wrong[i].n, o, &g),
                         QP_ERR_ARGUMENT);
        assert_int_equal(g.reason, QP_STOP_ERROR);
        assert_string_equal(g.error, qp_error(ctx));
        expect_error(ctx, QP_ERR_ARGUMENT, wrong[i].words);
        assert_int_equal(qp_session_length(s, 0), 0);
    }
    qp_close(ctx);
}

static void reasons(void **state) {
    (void)state;
    qp_ctx             *ctx = open_context(1);
    qp_model           *m = fresh(ctx);
    qp_tokenizer       *tokenizer = qp_tokenizer_bytes(ctx);
    taken               all = {0}, t = {0};
    char                stop[5] = {0};
    qp_generate_options o = {.max_tokens = 60, .sampling = {.temperature = 1}, .seed = 9};
    assert_int_equal(run(m, tokenizer, o, &all).reason, QP_STOP_LENGTH);
    assert_true(all.bytes > 40);
    /* a stop text cuts what came, also where its start had to be held back */
    memcpy(stop, all.text + 30, 4);
    o.stop = (const char *const[]){"not there at all", stop};
    o.stop_count = 2;
    qp_generation g = run(m, tokenizer, o, &t);
    const char   *first = memmem(all.text, all.bytes, stop, strlen(stop));
    if (first && strlen(stop) == 4) {
        assert_int_equal(g.reason, QP_STOP_TEXT);
        assert_int_equal(t.bytes, first - all.text);
        assert_memory_equal(t.text, all.text, t.bytes);
    }
    /* a stop text that never comes changes nothing */
    o.stop_count = 1;
    assert_int_equal(run(m, tokenizer, o, &t).reason, QP_STOP_LENGTH);
    assert_int_equal(t.bytes, all.bytes);
    assert_memory_equal(t.text, all.text, all.bytes);
    o.stop_count = 0;
    /* an end token is not counted and not written */
    int32_t end = all.ids[20];
    int     at = 0;
    while (all.ids[at] != end) at++;
    o.ends = (int32_t[]){-5, end};
    o.end_count = 2;
    g = run(m, tokenizer, o, &t);
    assert_int_equal(g.reason, QP_STOP_END_TOKEN);
    assert_int_equal(g.tokens, at);
    o.end_count = 0;
    /* the caller */
    t.stop_after = 7;
    g = run(m, tokenizer, o, &t);
    assert_int_equal(g.reason, QP_STOP_CALLBACK);
    assert_int_equal(g.tokens, 7);
    t.stop_after = 0;
    /* nothing asked for */
    o.max_tokens = 0;
    g = run(m, tokenizer, o, &t);
    assert_int_equal(g.reason, QP_STOP_LENGTH);
    assert_int_equal(t.bytes, 0);
    qp_generation none;
    qp_session   *session = qp_session_new(m, 1, 10, (qp_session_options){0});
    assert_int_equal(qp_generate(session, tokenizer, NULL, 0, o, &none), QP_ERR_ARGUMENT);
    expect_error(ctx, QP_ERR_ARGUMENT, "");
    qp_close(ctx);
}

/* Many vocabularies are larger than their tokenizers: such ids have no text. */
static void ids_without_text(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context(1);
    qp_model *m = qp_model_new(
        ctx, "test",
        "{\"model_type\": \"gpt2\", \"vocab_size\": 1000, \"n_embd\": 16, \"n_layer\": 1, \"n_head\": 2, "
        "\"n_positions\": 128}");
    expect_ok(ctx);
    qp_set_training(qp_model_module(m), false);
    taken t = {0};
    run(m, qp_tokenizer_bytes(ctx),
        (qp_generate_options){.max_tokens = 100, .sampling = {.temperature = 1}, .seed = 2}, &t);
    int beyond = 0;
    for (int i = 0; i < 100; i++) beyond += t.ids[i] > 256;
    assert_true(beyond > 10);
    qp_close(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_bits),
        cmocka_unit_test(window),
        cmocka_unit_test(long_sequences),
        cmocka_unit_test(rows_alone),
        cmocka_unit_test(truncated),
        cmocka_unit_test(failed_feeds),
        cmocka_unit_test(half_done),
        cmocka_unit_test(refusals),
        cmocka_unit_test(greedy_is_argmax),
        cmocka_unit_test(token_loop_allocates_nothing),
        cmocka_unit_test(seeds),
        cmocka_unit_test(reasons),
        cmocka_unit_test(errors_are_told),
        cmocka_unit_test(ids_without_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
