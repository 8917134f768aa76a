/* Optimiser steps: one large parameter, and all parameters of a preset's model. A step reads
 * gradients twice (first for their norm) and everything else once. */
#include <math.h>

#include "cli/bench.h"

typedef struct {
    const char *name;
    double      bytes; /* for each parameter, the norm's pass included */
} form;

static const form forms[] = {{"adamw", 32}, {"sgd", 24}};

static qp_optim *make(int form, qp_state_dict params) {
    if (form == 0) return qp_adamw(params, (qp_adamw_options){.lr = 1e-4, .weight_decay = 0.1, .clip = 1});
    return qp_sgd(params, (qp_sgd_options){.lr = 1e-4, .momentum = 0.9, .weight_decay = 0.1, .clip = 1});
}

static void make_gradients(qp_state_dict params) {
    for (int i = 0; i < params.count; i++) {
        qp_tensor w = params.entries[i].tensor;
        qp_scope  s = qp_enter(w.ctx);
        qp_backward(qp_mean(qp_square(w), 0, NULL, false));
        qp_leave(s);
    }
}

static double seconds_of(bench *b, qp_optim *o, qp_state_dict params) {
    double times[BENCH_MAX_REPEATS];
    for (int r = -1; r < b->repeats && !qp_failed(b->ctx); r++) {
        if (cli_interrupted()) qp_fail(b->ctx, QP_ERR_CANCELLED, "cancelled");
        make_gradients(params);
        double start = cli_now();
        qp_step(o);
        if (r >= 0) times[r] = cli_now() - start;
    }
    return qp_failed(b->ctx) ? NAN : bench_median(times, b->repeats);
}

static void measure(bench *b, const char *what, qp_state_dict params) {
    double count = 0;
    for (int i = 0; i < params.count; i++) count += (double)qp_count(params.entries[i].tensor);
    for (int f = 0; f < 2 && !qp_failed(b->ctx); f++) {
        qp_optim *o = make(f, params);
        double    seconds = o ? seconds_of(b, o, params) : NAN, speed = count * forms[f].bytes / seconds;
        bench_row(b,
                  json_pack("{s:s, s:s, s:i, s:I, s:o, s:o}", "optimiser", forms[f].name, "parameters_of", what,
                            "tensors", params.count, "parameters", (json_int_t)count, "seconds",
                            cli_json_number(seconds), "gbytes", cli_json_number(speed * 1e-9)),
                  "%-8s %-10s %7d %12.0f %10.2f %8.1f", forms[f].name, what, params.count, count, seconds * 1e3,
                  speed * 1e-9);
    }
}

static void run(bench *b) {
    qp_module *one = qp_module_new(b->ctx, NULL, "one");
    bench_title(b, "%d threads\n%-8s %-10s %7s %12s %10s %8s", qp_stats_of(b->ctx).threads, "", "of", "tensors",
                "parameters", "ms", "GB/s");
    qp_param(one, "weight", "normal:0.02", 2, (int64_t[]){50257, 768});
    qp_module_fill(one);
    measure(b, "one", qp_module_params(one));
    qp_model *m = qp_failed(b->ctx) ? NULL : bench_model(b, false);
    if (m) measure(b, qp_model_info_of(m).model_type, qp_model_params(m));
}

const bench_kind bench_optim = {"optim", run};
