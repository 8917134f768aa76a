/* Writing token by token with a preset's model: the time of a token is that of reading all
 * weights once. */
#include <stdlib.h>

#include "cli/bench.h"

typedef struct {
    bench      *b;
    qp_model   *m;
    qp_session *session;
    qp_sampler *sampler;
    float      *logits;
    int64_t     vocabulary;
} writer;

/* Seconds for feeding n ids and drawing the next, which goes to *next. */
static double feed(writer *w, const int32_t *ids, int64_t n, int32_t *next) {
    double    start = cli_now();
    qp_scope  s = qp_enter(w->b->ctx);
    qp_tensor logits = qp_session_feed(w->session, qp_from(w->b->ctx, QP_I32, 2, (int64_t[]){1, n}, ids), (qp_feed){0});
    bool      ok = !qp_failed(w->b->ctx) && qp_read(logits, QP_F32, w->logits, w->vocabulary) == QP_OK;
    qp_leave(s);
    if (ok) *next = qp_sampler_draw(w->sampler, w->logits);
    return cli_now() - start;
}

static void write_tokens(writer *w, int64_t length, int steps, int32_t *prompt, double *times) {
    bench   *b = w->b;
    int32_t  id = 0;
    double   first[2];
    uint64_t calls = 0;
    for (int64_t i = 0; i < length; i++) prompt[i] = (int32_t)(i * 7919 % w->vocabulary);
    for (int i = 0; i < 2 && !qp_failed(b->ctx); i++) { /* the first time gets memory */
        if (qp_session_truncate(w->session, 0, 0) != QP_OK) return;
        first[i] = feed(w, prompt, length, &id);
    }
    b->progress = cli_progress_start(b->c, steps);
    for (int i = 0; i < steps && !qp_failed(b->ctx); i++) {
        if (cli_interrupted()) qp_fail(b->ctx, QP_ERR_CANCELLED, "cancelled");
        times[i] = feed(w, &id, 1, &id);
        if (i == 0) calls = qp_stats_of(b->ctx).system_calls;
        cli_progress_show(&b->progress, i + 1, "%.4f s", times[i]);
    }
    if (qp_failed(b->ctx)) return;
    qp_model_info info = qp_model_info_of(w->m);
    double        seconds = bench_median(times, steps), bytes = (double)info.bytes;
    calls = qp_stats_of(b->ctx).system_calls - calls;
    bench_row(b,
              json_pack("{s:s, s:I, s:I, s:f, s:i, s:f, s:f, s:f, s:o, s:I}", "model", info.model_type,
                        "parameters", (json_int_t)info.parameters, "prompt_tokens", (json_int_t)length,
                        "prompt_tokens_per_second", (double)length / first[1], "tokens", steps,
                        "seconds_per_token", seconds, "tokens_per_second", 1 / seconds, "gbytes",
                        bytes / seconds * 1e-9, "memory_share", cli_json_number(bytes / seconds / b->bandwidth),
                        "system_calls", (json_int_t)calls),
              "%s, %.1fM parameters: %.1f tokens/s (%.2f ms each, weights at %.1f GB/s), prompt of %lld: %.1f "
              "tokens/s",
              info.model_type, (double)info.parameters * 1e-6, 1 / seconds, seconds * 1e3,
              bytes / seconds * 1e-9, (long long)length, (double)length / first[1]);
}

static void run(bench *b) {
    int64_t length = cli_int(b->c, "length");
    int     steps = (int)cli_int(b->c, "steps");
    writer  w = {.b = b, .m = bench_model(b, true)};
    if (!w.m) return;
    bench_roofline(b);
    qp_set_training(qp_model_module(w.m), false);
    w.vocabulary = qp_model_info_of(w.m).vocabulary;
    w.session = qp_session_new(w.m, 1, length + steps, (qp_session_options){0});
    w.sampler = qp_sampler_new(b->ctx, w.vocabulary, (qp_sampling){.temperature = 0}, 0);
    w.logits = calloc((size_t)w.vocabulary, sizeof *w.logits);
    int32_t *prompt = calloc((size_t)length, sizeof *prompt);
    double  *times = calloc((size_t)steps, sizeof *times);
    if (!w.logits || !prompt || !times) qp_fail(b->ctx, QP_ERR_MEMORY, "out of memory: bench");
    if (w.session && w.sampler && !qp_failed(b->ctx)) write_tokens(&w, length, steps, prompt, times);
    free(w.logits);
    free(prompt);
    free(times);
}

const bench_kind bench_generate = {"generate", run};
