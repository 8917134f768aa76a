/* A training step of a preset's model: forward, backward, optimiser. */
#include <stdlib.h>
#include <string.h>

#include "cli/bench.h"

enum { FORWARD, BACKWARD, OPTIMISER, WHOLE, PARTS };

typedef struct {
    bench         *b;
    qp_model      *m;
    qp_optim      *optim;
    qp_tensor      ids, labels;
    qp_dtype       compute; /* of products */
    bench_profile *profile; /* NULL: none */
} step_bench;

static qp_tensor random_ids(qp_ctx *ctx, int64_t B, int64_t T, int64_t vocabulary) {
    qp_tensor t = qp_empty(ctx, QP_I64, 2, (int64_t[]){B, T});
    int64_t  *p = qp_data_write(t);
    uint64_t  x = 1;
    for (int64_t i = 0; p && i < B * T; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        p[i] = (int64_t)((x >> 33) % (uint64_t)vocabulary);
    }
    return t;
}

static void one_step(step_bench *s, double times[PARTS]) {
    double start = cli_now();
    bench_profile_phase(s->profile, FORWARD);
    qp_scope scope = qp_enter(s->b->ctx); /* puts autocast back, too */
    qp_autocast(s->b->ctx, s->compute);
    qp_tensor loss = qp_model_loss(s->m, s->ids, s->labels);
    double    forward = cli_now();
    bench_profile_phase(s->profile, BACKWARD);
    qp_backward(loss);
    double backward = cli_now();
    qp_leave(scope);
    bench_profile_phase(s->profile, OPTIMISER);
    qp_step(s->optim);
    double end = cli_now();
    times[FORWARD] = forward - start;
    times[BACKWARD] = backward - forward;
    times[OPTIMISER] = end - backward;
    times[WHOLE] = end - start;
}

/* Products of all parameters but tables that are only looked up, three times (forward and both
 * gradients), and causal attention. */
static double flops_of(step_bench *s, int64_t B, int64_t T) {
    qp_model_info info = qp_model_info_of(s->m);
    qp_state_dict dict = qp_model_params(s->m);
    bool          tied = true;
    double        n = 0;
    for (int i = 0; i < dict.count; i++) {
        tied = tied && strcmp(dict.entries[i].name, "head.weight") != 0;
        if (qp_ndim(dict.entries[i].tensor) == 2 && strcmp(dict.entries[i].name, "position.weight"))
            n += (double)qp_count(dict.entries[i].tensor);
    }
    if (!tied) n -= (double)(info.vocabulary * info.width);
    double tokens = (double)(B * T);
    return 6 * n * tokens + 6 * (double)(info.layers * T * info.width) * tokens;
}

static void report(step_bench *s, double *times[PARTS], int steps) {
    bench        *b = s->b;
    cli          *c = b->c;
    int64_t       B = cli_int(c, "batch"), T = cli_int(c, "length");
    qp_model_info info = qp_model_info_of(s->m);
    double        median[PARTS], tokens = (double)(B * T), flops = flops_of(s, B, T);
    qp_stats      stats = qp_stats_of(b->ctx);
    char          memory[32];
    for (int i = 0; i < PARTS; i++) median[i] = bench_median(times[i], steps);
    bench_row(
        b,
        json_pack("{s:s, s:s, s:I, s:I, s:I, s:i, s:f, s:f, s:f, s:f, s:f, s:f, s:o, s:I}", "model",
                  info.model_type, "precision", cli_text(c, "precision"), "parameters",
                  (json_int_t)info.parameters, "batch", (json_int_t)B, "length", (json_int_t)T, "steps", steps,
                  "seconds", median[WHOLE], "tokens_per_second", tokens / median[WHOLE], "forward_seconds",
                  median[FORWARD], "backward_seconds", median[BACKWARD], "optimiser_seconds", median[OPTIMISER],
                  "gflops", flops / median[WHOLE] * 1e-9, "peak_share",
                  cli_json_number(flops / median[WHOLE] / b->peak), "peak_bytes", (json_int_t)stats.peak_bytes),
        "%s, %.1fM parameters, batch %lld, length %lld: %.3f s a step (forward %.3f, backward %.3f, optimiser "
        "%.3f)\n"
        "%.1f tokens/s, %.1f GFLOP/s (%.0f%% of peak), %s at most",
        info.model_type, (double)info.parameters * 1e-6, (long long)B, (long long)T, median[WHOLE],
        median[FORWARD], median[BACKWARD], median[OPTIMISER], tokens / median[WHOLE],
        flops / median[WHOLE] * 1e-9, 100 * flops / median[WHOLE] / b->peak,
        cli_bytes((double)stats.peak_bytes, memory));
}

qp_model *bench_model(bench *b, bool as_stored) {
    const char *path = cli_text(b->c, "config"), *preset = cli_text(b->c, "preset"),
               *config = qp_preset_config(preset);
    if (path) return qp_model_load(b->ctx, path, (qp_model_options){.as_stored = as_stored});
    if (config) return qp_model_new(b->ctx, preset, config);
    qp_fail(b->ctx, QP_ERR_ARGUMENT, "no preset \"%s\" (see `quipu list presets`)", preset);
    return NULL;
}

/* Another few steps, watched. */
static void profile(step_bench *s, int steps) {
    static const char *const names[] = {"forward", "backward", "optimiser"};
    double                   sums[PARTS] = {0}, t[PARTS];
    s->profile = bench_profile_new(s->b, names, WHOLE);
    for (int i = 0; i < WHOLE; i++) bench_profile_repeats(s->profile, i, steps);
    for (int i = 0; i < steps && !qp_failed(s->b->ctx); i++) {
        if (cli_interrupted()) qp_fail(s->b->ctx, QP_ERR_CANCELLED, "cancelled");
        one_step(s, t);
        for (int k = 0; k < PARTS; k++) sums[k] += t[k] / steps;
    }
    if (!qp_failed(s->b->ctx)) bench_profile_report(s->b, s->profile, sums);
    else bench_profile_free(s->b, s->profile);
}

static void run(bench *b) {
    int64_t    B = cli_int(b->c, "batch"), T = cli_int(b->c, "length");
    int        steps = (int)cli_int(b->c, "steps");
    double    *times[PARTS], unused[PARTS];
    step_bench s = {.b = b, .m = bench_model(b, false)};
    if (!s.m) return;
    s.compute = cli_choice(b->c, "precision") == 1 ? QP_BF16 : QP_F32;
    bench_roofline(b);
    s.optim = qp_adamw(qp_model_params(s.m), (qp_adamw_options){.lr = 1e-4, .weight_decay = 0.1, .clip = 1});
    s.ids = random_ids(b->ctx, B, T, qp_model_info_of(s.m).vocabulary);
    s.labels = random_ids(b->ctx, B, T, qp_model_info_of(s.m).vocabulary);
    double *memory = calloc((size_t)steps * PARTS, sizeof *memory);
    if (!memory) qp_fail(b->ctx, QP_ERR_MEMORY, "out of memory: bench");
    for (int i = 0; i < 2 && s.optim && !qp_failed(b->ctx); i++) {
        qp_reset_peak(b->ctx);
        one_step(&s, unused); /* the first one makes buffers and gets memory */
    }
    for (int i = 0; i < PARTS; i++) times[i] = memory + (size_t)i * (size_t)steps;
    b->progress = cli_progress_start(b->c, steps);
    for (int i = 0; i < steps && !qp_failed(b->ctx); i++) {
        double t[PARTS];
        if (cli_interrupted()) qp_fail(b->ctx, QP_ERR_CANCELLED, "cancelled");
        one_step(&s, t);
        for (int k = 0; k < PARTS; k++) times[k][i] = t[k];
        cli_progress_show(&b->progress, i + 1, "%.3f s", t[WHOLE]);
    }
    if (!qp_failed(b->ctx)) report(&s, times, steps);
    if (!qp_failed(b->ctx) && cli_flag(b->c, "profile")) profile(&s, steps);
    free(memory);
}

const bench_kind bench_step = {"step", run};
