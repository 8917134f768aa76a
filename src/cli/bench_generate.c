/* Writing token by token: the time of a step is that of reading all weights once, for one sequence or for
 * several at once, each with a row of its own. */
#include <stdlib.h>

#include "cli/bench.h"
#include "cli/open.h"

typedef struct {
    bench      *b;
    qp_model   *m;
    qp_session *session;
    qp_sampler *sampler;
    float      *logits;
    int64_t     vocabulary, rows;
} writer;

/* Seconds for feeding [rows, n] ids to the first rows and drawing the next, which go to next. */
static double feed(writer *w, int64_t rows, const int32_t *ids, int64_t n, int32_t *next) {
    static const int64_t first = 0;
    double    start = cli_now();
    qp_scope  s = qp_enter(w->b->ctx);
    qp_tensor given = qp_from(w->b->ctx, QP_I32, 2, (int64_t[]){rows, n}, ids);
    qp_tensor logits = qp_session_feed(w->session, given, (qp_feed){.rows = rows == 1 ? &first : NULL});
    bool      ok = !qp_failed(w->b->ctx) && qp_read(logits, QP_F32, w->logits, rows * w->vocabulary) == QP_OK;
    qp_leave(s);
    for (int64_t r = 0; r < rows && ok; r++) next[r] = qp_sampler_draw(w->sampler, w->logits + r * w->vocabulary);
    return cli_now() - start;
}

/* All rows begin with row 0's prompt, and go on with tokens of their own. */
static void spread(writer *w, int64_t length, int32_t *ids) {
    for (int64_t r = 1; r < w->rows; r++) {
        if (qp_session_fork(w->session, 0, r, length) != QP_OK) return;
        ids[r] = (int32_t)((ids[0] + r) % w->vocabulary);
    }
}

static void write_tokens(writer *w, int64_t length, int steps, int32_t *prompt, int32_t *ids, double *times) {
    bench   *b = w->b;
    double   first[2];
    uint64_t calls = 0;
    for (int64_t i = 0; i < length; i++) prompt[i] = (int32_t)(i * 7919 % w->vocabulary);
    for (int i = 0; i < 2 && !qp_failed(b->ctx); i++) { /* the first time gets memory */
        if (qp_session_truncate(w->session, 0, 0) != QP_OK) return;
        first[i] = feed(w, 1, prompt, length, ids);
    }
    spread(w, length, ids);
    b->progress = cli_progress_start(b->c, steps);
    for (int i = 0; i < steps && !qp_failed(b->ctx); i++) {
        if (cli_interrupted()) qp_fail(b->ctx, QP_ERR_CANCELLED, "cancelled");
        times[i] = feed(w, w->rows, ids, 1, ids);
        if (i == 0) calls = qp_stats_of(b->ctx).system_calls;
        cli_progress_show(&b->progress, i + 1, "%.4f s", times[i]);
    }
    if (qp_failed(b->ctx)) return;
    qp_model_info info = qp_model_info_of(w->m);
    double        seconds = bench_median(times, steps), bytes = (double)info.bytes, speed = (double)w->rows / seconds;
    calls = qp_stats_of(b->ctx).system_calls - calls;
    bench_row(b,
              json_pack("{s:s, s:I, s:I, s:I, s:f, s:i, s:f, s:f, s:f, s:o, s:I}", "model", info.model_type,
                        "rows", (json_int_t)w->rows,
                        "parameters", (json_int_t)info.parameters, "prompt_tokens", (json_int_t)length,
                        "prompt_tokens_per_second", (double)length / first[1], "tokens", steps,
                        "seconds_per_step", seconds, "tokens_per_second", speed, "gbytes",
                        bytes / seconds * 1e-9, "memory_share", cli_json_number(bytes / seconds / b->bandwidth),
                        "system_calls", (json_int_t)calls),
              "%s, %.1fM parameters: %.1f tokens/s (%lld at once in %.2f ms, weights at %.1f GB/s), prompt of %lld: %.1f "
              "tokens/s",
              info.model_type, (double)info.parameters * 1e-6, speed, (long long)w->rows, seconds * 1e3,
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
    qp_session_options options;
    w.rows = cli_int(b->c, "rows");
    if (cli_kv_type(b->ctx, cli_text(b->c, "kv"), &options))
        w.session = qp_session_new(w.m, w.rows, length + steps, options);
    w.sampler = qp_sampler_new(b->ctx, w.vocabulary, (qp_sampling){.temperature = 0}, 0);
    w.logits = calloc((size_t)(w.rows * w.vocabulary), sizeof *w.logits);
    int32_t *ids = calloc((size_t)w.rows, sizeof *ids);
    int32_t *prompt = calloc((size_t)length, sizeof *prompt);
    double  *times = calloc((size_t)steps, sizeof *times);
    if (!w.logits || !ids || !prompt || !times) qp_fail(b->ctx, QP_ERR_MEMORY, "out of memory: bench");
    if (w.session && w.sampler && !qp_failed(b->ctx)) write_tokens(&w, length, steps, prompt, ids, times);
    free(w.logits);
    free(ids);
    free(prompt);
    free(times);
}

const bench_kind bench_generate = {"generate", run};
