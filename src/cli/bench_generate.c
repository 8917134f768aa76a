/* Writing token by token: the time of a step is that of reading all weights once, whatever number
 * of sequences share it. */
#include <stdlib.h>
#include <string.h>

#include "cli/bench.h"
#include "cli/open.h"

enum { PROMPT, DECODE, PHASES };

typedef struct {
    bench         *b;
    qp_model      *m;
    qp_session    *session;
    qp_sampler    *sampler;
    float         *logits;
    int64_t        vocabulary, rows;
    int32_t       *ids;           /* [rows, the longest feed] */
    double        *times, *reads; /* of each step, seconds; of reading beside every few of them, bytes/s */
    bench_profile *profile;       /* NULL: none */
} writer;

/* Seconds for feeding ids [rows, n] and drawing the next, which go to ids [rows, 1]. */
static double feed(writer *w, int64_t n) {
    double    start = cli_now();
    qp_scope  s = qp_enter(w->b->ctx);
    qp_tensor ids = qp_from(w->b->ctx, QP_I32, 2, (int64_t[]){w->rows, n}, w->ids);
    qp_tensor logits = qp_session_feed(w->session, ids, (qp_feed){0});
    bool ok = !qp_failed(w->b->ctx) && qp_read(logits, QP_F32, w->logits, w->rows * w->vocabulary) == QP_OK;
    qp_leave(s);
    for (int64_t r = 0; ok && r < w->rows; r++)
        w->ids[r] = qp_sampler_draw(w->sampler, w->logits + r * w->vocabulary);
    return cli_now() - start;
}

static double feed_prompt(writer *w, int64_t length) {
    for (int64_t r = 0; r < w->rows; r++)
        if (qp_session_truncate(w->session, r, 0) != QP_OK) return 0;
    for (int64_t i = 0; i < w->rows * length; i++) w->ids[i] = (int32_t)(i * 7919 % w->vocabulary);
    return feed(w, length);
}

/* What a step reads of the weights: a table that is looked up only counts as its rows, which are few. */
static double bytes_of(const writer *w) {
    qp_state_dict dict = qp_module_state(qp_model_module(w->m));
    double        bytes = (double)qp_model_info_of(w->m).bytes, table = 0;
    bool          tied = true;
    for (int i = 0; i < dict.count; i++) {
        const qp_entry *e = &dict.entries[i];
        if (!strcmp(e->name, "head.weight")) tied = e->tied;
        if (!strcmp(e->name, "embed.weight"))
            table = (double)qp_dtype_size(qp_dtype_of(e->tensor), qp_count(e->tensor));
    }
    return tied ? bytes : bytes - table;
}

#define PROMPTS 3 /* measured; the first time gets memory */
#define APART 4   /* steps between two readings of memory, whose speed changes with what neighbours do */

static void report(writer *w, int64_t length, double prompt, int steps, uint64_t calls) {
    bench        *b = w->b;
    qp_model_info info = qp_model_info_of(w->m);
    double        bytes = bytes_of(w), tokens = (double)w->rows, step = bench_median(w->times, steps),
                  read = bench_median(w->reads, (steps + APART - 1) / APART);
    bench_row(b,
              json_pack("{s:s, s:I, s:I, s:I, s:f, s:i, s:f, s:f, s:f, s:f, s:f, s:o, s:I}", "model",
                        info.model_type, "parameters", (json_int_t)info.parameters, "rows", (json_int_t)w->rows,
                        "prompt_tokens", (json_int_t)length, "prompt_tokens_per_second",
                        tokens * (double)length / prompt, "tokens", steps, "seconds_per_step", step,
                        "tokens_per_second", tokens / step, "bytes_per_step", bytes, "gbytes",
                        bytes / step * 1e-9, "read_gbytes", read * 1e-9, "read_share",
                        cli_json_number(bytes / step / read), "system_calls", (json_int_t)calls),
              "%s, %.1fM parameters, %.1f MB a step, %lld at once: %.1f tokens/s (%.2f ms a step, weights at "
              "%.1f GB/s: "
              "%.0f%% of reading), prompt of %lld: %.1f tokens/s",
              info.model_type, (double)info.parameters * 1e-6, bytes * 1e-6, (long long)w->rows, tokens / step,
              step * 1e3, bytes / step * 1e-9, 100 * bytes / step / read, (long long)length,
              tokens * (double)length / prompt);
}

static void write_tokens(writer *w, int64_t length, int steps) {
    bench      *b = w->b;
    double      prompt[PROMPTS + 1];
    uint64_t    calls = 0;
    qp_scope    s = qp_enter(b->ctx);
    const void *far = bench_far(b);
    for (int i = 0; i <= PROMPTS && !qp_failed(b->ctx); i++) prompt[i] = feed_prompt(w, length);
    b->progress = cli_progress_start(b->c, steps);
    for (int i = 0; i < steps && !qp_failed(b->ctx); i++) {
        if (cli_interrupted()) qp_fail(b->ctx, QP_ERR_CANCELLED, "cancelled");
        if (i % APART == 0) w->reads[i / APART] = bench_read_once(b, far);
        w->times[i] = feed(w, 1);
        if (i == 0) calls = qp_stats_of(b->ctx).system_calls;
        cli_progress_show(&b->progress, i + 1, "%.4f s", w->times[i]);
    }
    qp_leave(s);
    if (qp_failed(b->ctx)) return;
    calls = qp_stats_of(b->ctx).system_calls - calls;
    report(w, length, bench_median(prompt + 1, PROMPTS), steps, calls);
}

/* Once more, watched: the prompt's ops beside those of a step. */
static void profile(writer *w, int64_t length, int steps) {
    static const char *const names[PHASES] = {"prompt", "token"};
    double                   seconds[PHASES] = {0};
    w->profile = bench_profile_new(w->b, names, PHASES);
    seconds[PROMPT] = feed_prompt(w, length);
    bench_profile_phase(w->profile, DECODE);
    for (int i = 0; i < steps && !qp_failed(w->b->ctx); i++) seconds[DECODE] += feed(w, 1) / steps;
    bench_profile_repeats(w->profile, DECODE, steps);
    if (!qp_failed(w->b->ctx)) bench_profile_report(w->b, w->profile, seconds);
    else bench_profile_free(w->b, w->profile);
}

static void run(bench *b) {
    int64_t length = cli_int(b->c, "length");
    int     steps = (int)cli_int(b->c, "steps");
    writer  w = {.b = b, .m = bench_model(b, true), .rows = cli_int(b->c, "rows")};
    if (!w.m) return;
    bench_roofline(b);
    qp_set_training(qp_model_module(w.m), false);
    cli_round_products(b->ctx, w.m);
    w.vocabulary = qp_model_info_of(w.m).vocabulary;
    qp_session_options options;
    if (cli_kv_type(b->ctx, cli_text(b->c, "kv"), &options))
        w.session = qp_session_new(w.m, w.rows, length + steps, options);
    w.sampler = qp_sampler_new(b->ctx, w.vocabulary, (qp_sampling){.temperature = 0}, 0);
    w.logits = calloc((size_t)(w.rows * w.vocabulary), sizeof *w.logits);
    w.ids = calloc((size_t)(w.rows * length), sizeof *w.ids);
    w.times = calloc((size_t)steps, sizeof *w.times);
    w.reads = calloc((size_t)steps, sizeof *w.reads);
    if (!w.logits || !w.ids || !w.times || !w.reads) qp_fail(b->ctx, QP_ERR_MEMORY, "out of memory: bench");
    if (w.session && w.sampler && !qp_failed(b->ctx)) write_tokens(&w, length, steps);
    if (cli_flag(b->c, "profile") && !qp_failed(b->ctx)) profile(&w, length, steps);
    free(w.logits);
    free(w.ids);
    free(w.times);
    free(w.reads);
}

const bench_kind bench_generate = {"generate", run};
