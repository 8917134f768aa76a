/* Mixtures of experts beside the dense feed-forward of as many active products, in turns: tokens of a training
 * step, forward and both ways, and one token as in decoding. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/bench.h"
#include "nn/part.h"

#define WIDTH 512
#define INNER 1408
#define MAX_LAYERS 5

typedef struct {
    const char *part, *label;
    struct {
        const char *name;
        double      value;
    } options[4];
    int dense; /* the place of its dense counterpart, -1: it is one */
} form;

static const form forms[MAX_LAYERS] = {
    {"swiglu", "swiglu", {{"width", 2 * INNER}}, -1},
    {"mixtral", "mixtral, 2 of 8", {{"width", INNER}, {"balance", 0}}, 0},
    {"deepseek_moe",
     "deepseek_moe, 7 of 32 and 1",
     {{"width", INNER / 4}, {"experts", 32}, {"per_token", 7}},
     0},
    {"mlp", "mlp", {{"width", INNER}, {"act", QP_ACT_RELU}, {"bias", 0}}, -1},
    {"switch", "switch, 1 of 8", {{"width", INNER}, {"balance", 0}, {"capacity", 0}}, 3}};

typedef struct {
    const qp_branch_type *type;
    qp_module            *module;
    void                 *self;
} layer;

static layer layer_of(bench *b, const form *f, int index) {
    char name[16];
    snprintf(name, sizeof name, "layer%d", index);
    layer l = {(const void *)qp_part_find(b->ctx, QP_PART_FFN, f->part), qp_module_new(b->ctx, NULL, name),
               NULL};
    qp_settings settings;
    qpi_settings_init(&settings, &l.type->part);
    for (int i = 0; i < 4 && f->options[i].name; i++)
        if (qpi_settings_set(b->ctx, &settings, "bench", f->options[i].name, f->options[i].value) != QP_OK)
            break;
    l.self = calloc(1, l.type->part.bytes);
    if (l.self && qp_module_own(l.module, l.self, free) != QP_OK) l.self = NULL;
    qp_build build = {.ctx = b->ctx,
                      .module = l.module,
                      .width = WIDTH,
                      .layers = 1,
                      .init = "normal:0.04",
                      .init_residual = "normal:0.04",
                      .settings = &settings};
    if (l.self) l.type->init(l.self, &build);
    qp_module_fill(l.module);
    return l;
}

static void run_layer(const layer *l, qp_tensor x, bool both) {
    qp_scope    s = qp_enter(x.ctx);
    qp_sequence sequence = {0};
    qp_no_grad(x.ctx, !both);
    qp_tensor y = l->type->forward(l->self, x, QP_NONE, &sequence);
    if (both) qp_backward(qp_sum(y, 0, NULL, false));
    qp_leave(s);
}

/* As in training, where an optimiser consumes gradients. */
static void drop_gradients(const layer *l, qp_tensor x) {
    qp_state_dict params = qp_module_params(l->module);
    for (int i = 0; i < params.count; i++) qp_zero_grad(params.entries[i].tensor);
    qp_zero_grad(x);
}

static void measure(bench *b, layer *layers, int64_t tokens, bool both) {
    static double times[MAX_LAYERS][BENCH_MAX_REPEATS];
    double        median[MAX_LAYERS];
    int           calls = tokens == 1 ? 50 : 1;
    qp_scope      s = qp_enter(b->ctx);
    qp_tensor     x = qp_randn(b->ctx, QP_F32, 3, (int64_t[]){1, tokens, WIDTH});
    qp_require_grad(x, both);
    for (int r = -1; r < b->repeats && !qp_failed(b->ctx); r++)
        for (int i = 0; i < MAX_LAYERS && !qp_failed(b->ctx); i++) {
            if (cli_interrupted()) qp_fail(b->ctx, QP_ERR_CANCELLED, "cancelled");
            double start = cli_now();
            for (int k = 0; k < calls; k++) run_layer(&layers[i], x, both);
            if (r >= 0) times[i][r] = (cli_now() - start) / calls;
            drop_gradients(&layers[i], x);
        }
    for (int i = 0; i < MAX_LAYERS; i++) median[i] = bench_median(times[i], b->repeats);
    for (int i = 0; i < MAX_LAYERS && !qp_failed(b->ctx); i++) {
        const char *pass = both ? "both" : "forward";
        double      flops = (both ? 3 : 1) * 2.0 * (i < 3 ? 6 : 2) * WIDTH * INNER * (double)tokens;
        double      share = median[forms[i].dense < 0 ? i : forms[i].dense] / median[i];
        bench_row(b,
                  json_pack("{s:s, s:s, s:I, s:o, s:o, s:o}", "part", forms[i].label, "pass", pass, "tokens",
                            (json_int_t)tokens, "seconds", cli_json_number(median[i]), "gflops",
                            cli_json_number(flops / median[i] * 1e-9), "of_dense", cli_json_number(share)),
                  "%-28s %-8s %6lld %10.3f %9.1f %8.0f%%", forms[i].label, pass, (long long)tokens,
                  median[i] * 1e3, flops / median[i] * 1e-9, 100 * share);
    }
    qp_leave(s);
}

static void run(bench *b) {
    static const int64_t tokens[] = {4096, 1024, 1};
    layer                layers[MAX_LAYERS];
    bench_title(b, "width %d, %d threads\n%-28s %-8s %6s %10s %9s %9s", WIDTH, qp_stats_of(b->ctx).threads, "",
                "pass", "tokens", "ms", "GFLOP/s", "of dense");
    for (int i = 0; i < MAX_LAYERS && !qp_failed(b->ctx); i++) layers[i] = layer_of(b, &forms[i], i);
    for (int i = 0; i < 3 && !qp_failed(b->ctx); i++) {
        measure(b, layers, tokens[i], false);
        if (tokens[i] > 1) measure(b, layers, tokens[i], true);
    }
}

const bench_kind bench_experts = {"experts", run};
