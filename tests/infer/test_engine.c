/* The engine: replies do not depend on their neighbours, requests come, go and fail alone. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <pthread.h>

#include "../heap_calls.h"
#include "quipu/quipu.h"

static const char config[] =
    "{\"model_type\": \"llama\", \"vocab_size\": 257, \"hidden_size\": 64, \"intermediate_size\": 160, "
    "\"num_hidden_layers\": 3, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, "
    "\"max_position_embeddings\": 512, \"tie_word_embeddings\": true, \"initializer_range\": 0.1}";

static qp_model *fresh(qp_ctx *ctx) {
    qp_model *m = qp_model_new(ctx, "test", config);
    assert_non_null(m);
    qp_set_training(qp_model_module(m), false);
    return m;
}

#define ROOM 600

typedef struct {
    int32_t       ids[ROOM];
    float         logprobs[ROOM];
    int           count, prompts, stop_after;
    qp_generation result;
    int           ended;
    qp_engine    *engine; /* cancels `number` at token `cancel_at` */
    uint64_t      number;
    int           cancel_at;
    char          error[256];
} reply;

static bool on_token(void *user, const qp_token *t) {
    reply *r = user;
    if (t->prompt) r->prompts++;
    r->ids[r->count] = t->id;
    r->logprobs[r->count++] = t->logprob;
    if (r->cancel_at && r->count == r->cancel_at) qp_engine_cancel(r->engine, r->number);
    return !r->stop_after || r->count < r->stop_after;
}

static void on_end(void *user, const qp_generation *g) {
    reply *r = user;
    r->result = *g;
    if (g->error) snprintf(r->error, sizeof r->error, "%s", g->error);
    r->ended++;
}

static void make_prompt(int32_t *ids, int n, int which) {
    for (int i = 0; i < n; i++) ids[i] = (int32_t)((i * i * 31 + i * 7 + which * 13 * (i > 20)) % 257);
}

static qp_request request(reply *r, const int32_t *ids, int n, int tokens, int which) {
    static const int32_t no_end = -1;
    return (qp_request){.ids = ids,
                        .count = n,
                        .on_end = on_end,
                        .options = {.max_tokens = tokens,
                                    .ends = &no_end,
                                    .end_count = 1,
                                    .seed = (uint64_t)which,
                                    .sampling = {.temperature = which % 2, .top_p = which % 3 ? 0.9 : 0},
                                    .logprobs = true,
                                    .top = 2,
                                    .on_token = on_token,
                                    .user = r}};
}

static void alone(reply *out, int n, int tokens, int which) {
    qp_ctx     *ctx = qp_open((qp_options){.threads = 2, .seed = 5});
    qp_model   *m = fresh(ctx);
    qp_session *s = qp_session_new(m, 1, 512, (qp_session_options){0});
    int32_t     ids[ROOM];
    make_prompt(ids, n, which);
    qp_request r = request(out, ids, n, tokens, which);
    assert_int_equal(qp_generate(s, NULL, ids, n, r.options, &out->result), QP_OK);
    qp_close(ctx);
}

static qp_drafter *lookup(void *user, qp_session *s) {
    (void)user;
    return qp_drafter_lookup(s, (qp_drafter_options){0});
}

/* Twelve requests over three rows, with and without reuse, drafts and small pieces. */
static void replies_stand_alone(void **state) {
    (void)state;
    enum { N = 12 };
    for (int how = 0; how < 4; how++) {
        qp_ctx      *ctx = qp_open((qp_options){.threads = 2, .seed = 5});
        qp_model    *m = fresh(ctx);
        qp_engine   *e = qp_engine_new(m, NULL,
                                       (qp_engine_options){.rows = 3,
                                                           .positions = 512,
                                                           .no_reuse = how & 1,
                                                           .chunk = how ? 17 : 0,
                                                           .drafter = how & 2 ? lookup : NULL});
        static reply replies[N];
        memset(replies, 0, sizeof replies);
        assert_non_null(e);
        int32_t ids[ROOM];
        for (int i = 0; i < N; i++) {
            int n = 5 + i * 11 % 70;
            make_prompt(ids, n, i);
            qp_request r = request(&replies[i], ids, n, 20 + i * 7 % 40, i);
            assert_int_equal(qp_engine_submit(e, &r, NULL, NULL), QP_OK);
            if (i % 3 == 0) qp_engine_step(e);
        }
        while (qp_engine_step(e)) assert_false(qp_failed(ctx));
        for (int i = 0; i < N; i++) {
            static reply one;
            memset(&one, 0, sizeof one);
            alone(&one, 5 + i * 11 % 70, 20 + i * 7 % 40, i);
            assert_int_equal(replies[i].ended, 1);
            assert_int_equal(replies[i].count, one.count);
            assert_memory_equal(replies[i].ids, one.ids, sizeof one.ids);
            assert_memory_equal(replies[i].logprobs, one.logprobs, sizeof one.logprobs);
            assert_int_equal(replies[i].result.reason, QP_STOP_LENGTH);
        }
        qp_engine_stats stats = qp_engine_stats_of(e);
        assert_int_equal(stats.requests, N);
        assert_int_equal(stats.busy, 0);
        assert_true(how & 1 ? stats.reused == 0 : stats.reused > 0);
        assert_true(how & 2 ? stats.drafted > 0 : stats.drafted == 0);
        qp_engine_close(e);
        qp_close(ctx);
    }
}

static void requests_go(void **state) {
    (void)state;
    qp_ctx    *ctx = qp_open((qp_options){.threads = 2, .seed = 5});
    qp_engine *e =
        qp_engine_new(fresh(ctx), NULL, (qp_engine_options){.rows = 2, .positions = 100, .queue = 1});
    static reply r[6];
    int32_t      ids[ROOM];
    char         error[256];
    memset(r, 0, sizeof r);
    make_prompt(ids, 101, 0);
    /* refused before they join */
    qp_request bad = request(&r[0], ids, 101, 5, 0);
    assert_int_equal(qp_engine_submit(e, &bad, NULL, error), QP_ERR_ARGUMENT);
    assert_non_null(strstr(error, "101 tokens, there is room for 100"));
    bad = request(&r[0], (int32_t[]){3, 257}, 2, 5, 0);
    assert_int_equal(qp_engine_submit(e, &bad, NULL, error), QP_ERR_ARGUMENT);
    assert_non_null(strstr(error, "token 257"));
    bad = request(&r[0], ids, 5, 5, 0);
    bad.options.sampling.top_p = 2;
    assert_int_equal(qp_engine_submit(e, &bad, NULL, error), QP_ERR_ARGUMENT);
    assert_non_null(strstr(error, "top_p"));
    /* two find rows, the third waits, the fourth is too many */
    for (int i = 0; i < 4; i++) {
        qp_request q = request(&r[i], ids, 60, i ? 1000 : 10, i);
        r[i].engine = e;
        assert_int_equal(qp_engine_submit(e, &q, &r[i].number, error), i < 3 ? QP_OK : QP_ERR_STATE);
    }
    r[0].cancel_at = 4;
    r[1].stop_after = 7;
    while (qp_engine_step(e)) {
    }
    assert_int_equal(r[0].result.reason, QP_STOP_CANCELLED);
    assert_int_equal(r[0].count, 4);
    assert_int_equal(r[1].result.reason, QP_STOP_CALLBACK);
    assert_int_equal(r[1].count, 7);
    assert_int_equal(r[2].result.reason, QP_STOP_LENGTH); /* the row is full */
    assert_int_equal(r[2].count, 41);
    assert_int_equal(r[3].ended, 0);
    /* cancelled while it waits; closed with one in hand and one in the queue */
    for (int i = 3; i < 6; i++) {
        qp_request q = request(&r[i], ids, 60, 1000, i);
        assert_int_equal(qp_engine_submit(e, &q, &r[i].number, error), QP_OK);
    }
    qp_engine_cancel(e, r[4].number);
    qp_engine_step(e);
    assert_int_equal(r[4].result.reason, QP_STOP_CANCELLED);
    assert_int_equal(r[4].count, 0);
    qp_engine_close(e);
    assert_int_equal(r[3].result.reason, QP_STOP_CANCELLED);
    assert_int_equal(r[5].result.reason, QP_STOP_CANCELLED);
    qp_close(ctx);
}

/* The prompt's tokens with their logprobs, as whole sequences give them. */
static void prompts_are_scored(void **state) {
    (void)state;
    enum { N = 150, V = 257 };
    qp_ctx      *ctx = qp_open((qp_options){.threads = 2, .seed = 5});
    qp_model    *m = fresh(ctx);
    qp_engine   *e = qp_engine_new(m, NULL, (qp_engine_options){.rows = 2, .chunk = 40});
    static reply r;
    int32_t      ids[ROOM];
    memset(&r, 0, sizeof r);
    make_prompt(ids, N, 1);
    qp_request q = request(&r, ids, N, 0, 2);
    q.options.echo = true;
    for (int round = 0; round < 2; round++) {
        r.count = r.prompts = 0;
        assert_int_equal(qp_engine_submit(e, &q, NULL, NULL), QP_OK);
        while (qp_engine_step(e)) {
        }
        assert_int_equal(r.prompts, N);
        assert_int_equal(r.result.tokens, 0);
        assert_memory_equal(r.ids, ids, N * sizeof *ids);
        assert_true(isnan(r.logprobs[0]));
        qp_scope     s = qp_enter(ctx);
        qp_tensor    all = qp_log_softmax(qp_logits(m, qp_from(ctx, QP_I32, 2, (int64_t[]){1, N}, ids)), -1);
        static float expected[N * V];
        assert_int_equal(qp_read(all, QP_F32, expected, N * V), QP_OK);
        for (int i = 1; i < N; i++) assert_float_equal(r.logprobs[i], expected[(i - 1) * V + ids[i]], 1e-4);
        qp_leave(s);
    }
    qp_close(ctx);
}

/* Echoed without logprobs, the prompt is whole wherever a row held it, or its beginning, before. */
static void prompts_are_echoed(void **state) {
    (void)state;
    enum { N = 60 };
    qp_ctx      *ctx = qp_open((qp_options){.threads = 2, .seed = 5});
    qp_engine   *e = qp_engine_new(fresh(ctx), NULL, (qp_engine_options){.rows = 2, .chunk = 16});
    static reply r[4];
    int32_t      ids[ROOM];
    memset(r, 0, sizeof r);
    for (int i = 0; i < 4; i++) {
        make_prompt(ids, N, i / 3);
        qp_request q = request(&r[i], ids, N, 4, 2);
        q.options.echo = true;
        q.options.logprobs = false;
        assert_int_equal(qp_engine_submit(e, &q, NULL, NULL), QP_OK);
        while (i != 1 && qp_engine_step(e)) {
        }
        if (i == 1) continue;
        for (int k = i == 2 ? 1 : i; k <= i; k++) {
            assert_int_equal(r[k].prompts, N);
            assert_memory_equal(r[k].ids, ids, sizeof *ids * N);
            assert_true(k ? r[k].result.reused > 0 : r[k].result.reused == 0);
        }
    }
    qp_close(ctx);
}

/* Where there is no memory for the logits of all, those of each alone: no token is read twice. */
static void steps_are_not_repeated(void **state) {
    (void)state;
    enum { N = 3, PROMPT = 30, TOKENS = 12 };
    qp_ctx      *ctx = qp_open((qp_options){.threads = 2, .seed = 5});
    qp_engine   *e = qp_engine_new(fresh(ctx), NULL, (qp_engine_options){.rows = N});
    static reply r[N], one;
    int32_t      ids[ROOM];
    memset(r, 0, sizeof r);
    for (int i = 0; i < N; i++) {
        make_prompt(ids, PROMPT, i);
        qp_request q = request(&r[i], ids, PROMPT, TOKENS, i);
        assert_int_equal(qp_engine_submit(e, &q, NULL, NULL), QP_OK);
    }
    refused = N * 257 * sizeof(float);
    while (qp_engine_step(e)) {
    }
    if (COUNTS_HEAP) assert_int_equal(refused, 0);
    refused = 0;
    for (int i = 0; i < N; i++) {
        memset(&one, 0, sizeof one);
        alone(&one, PROMPT, TOKENS, i);
        assert_int_equal(r[i].result.reason, QP_STOP_LENGTH);
        assert_memory_equal(r[i].ids, one.ids, sizeof one.ids);
    }
    qp_close(ctx);
}

/* ---- Threads ------------------------------------------------------------------------------------------ */

typedef struct {
    qp_engine *engine;
    reply     *replies;
    int        first;
} client;

static void *submit_some(void *arg) {
    client *c = arg;
    for (int i = c->first; i < c->first + 10; i++) {
        int32_t ids[ROOM];
        make_prompt(ids, 30, i);
        qp_request q = request(&c->replies[i], ids, 30, 12, i);
        if (qp_engine_submit(c->engine, &q, &c->replies[i].number, NULL) != QP_OK) return NULL;
        if (i % 5 == 4) qp_engine_cancel(c->engine, c->replies[i].number);
        qp_engine_stats_of(c->engine);
    }
    return NULL;
}

static void threads_submit(void **state) {
    (void)state;
    static reply replies[40];
    memset(replies, 0, sizeof replies);
    qp_ctx    *ctx = qp_open((qp_options){.threads = 2, .seed = 5});
    qp_engine *e = qp_engine_new(fresh(ctx), NULL, (qp_engine_options){.rows = 4, .positions = 64});
    pthread_t  threads[4];
    client     clients[4];
    for (int i = 0; i < 4; i++) {
        clients[i] = (client){e, replies, 10 * i};
        assert_int_equal(pthread_create(&threads[i], NULL, submit_some, &clients[i]), 0);
    }
    while (qp_engine_stats_of(e).requests < 40) {
        qp_engine_wait(e, 1);
        qp_engine_step(e);
    }
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < 40; i++) {
        assert_int_equal(replies[i].ended, 1);
        if (i % 5 != 4) assert_int_equal(replies[i].count, 12);
    }
    qp_engine_wake(e);
    qp_engine_wait(e, -1);
    qp_engine_wait(e, 0.01);
    assert_false(qp_engine_step(e));
    qp_close(ctx); /* with the engine in it */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replies_stand_alone),    cmocka_unit_test(requests_go),
        cmocka_unit_test(prompts_are_scored),     cmocka_unit_test(prompts_are_echoed),
        cmocka_unit_test(steps_are_not_repeated), cmocka_unit_test(threads_submit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
