/* Vectors of texts with a preset's or a config's model: whole batches of one length. */
#include <stdlib.h>

#include "cli/bench.h"

typedef struct {
    qp_model *m;
    qp_tensor ids;
} embedding;

static void once(void *arg) {
    embedding *e = arg;
    qp_scope   s = qp_enter(qp_model_ctx(e->m));
    qp_contiguous(qp_embed_ids(e->m, e->ids, NULL, (qp_embed_options){.normalize = true}));
    qp_leave(s);
}

static void run(bench *b) {
    int64_t   shape[] = {cli_int(b->c, "batch"), cli_int(b->c, "length")}, n = shape[0] * shape[1];
    embedding e = {.m = bench_model(b, true)};
    if (!e.m) return;
    qp_model_info info = qp_model_info_of(e.m);
    int32_t      *ids = calloc((size_t)n, sizeof *ids);
    if (!ids) {
        qp_fail(b->ctx, QP_ERR_MEMORY, "out of memory: bench");
        return;
    }
    for (int64_t i = 0; i < n; i++) ids[i] = (int32_t)(i * 7919 % info.vocabulary);
    e.ids = qp_from(b->ctx, QP_I32, 2, shape, ids);
    free(ids);
    bench_roofline(b);
    qp_set_training(qp_model_module(e.m), false);
    bool before = qp_no_grad(b->ctx, true);
    once(&e); /* gets memory */
    double seconds = bench_seconds(b, once, &e);
    qp_no_grad(b->ctx, before);
    if (qp_failed(b->ctx)) return;
    bench_row(b,
              json_pack("{s:s, s:I, s:I, s:I, s:f, s:f, s:f}", "model", info.model_type, "parameters",
                        (json_int_t)info.parameters, "batch", (json_int_t)shape[0], "length",
                        (json_int_t)shape[1], "seconds", seconds, "texts_per_second",
                        (double)shape[0] / seconds, "tokens_per_second", (double)n / seconds),
              "%s, %.1fM parameters: %lld texts of %lld tokens in %.3f ms, %.0f texts/s, %.0f tokens/s",
              info.model_type, (double)info.parameters * 1e-6, (long long)shape[0], (long long)shape[1],
              seconds * 1e3, (double)shape[0] / seconds, (double)n / seconds);
}

const bench_kind bench_embed = {"embed", run};
