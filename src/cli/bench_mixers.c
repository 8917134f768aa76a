/* One mixer, forward and as in training, at a length and at twice that: what its cost grows by. */
#include <stdlib.h>

#include "cli/bench.h"
#include "models/model.h"

typedef struct {
    bench      *b;
    qp_model   *m;
    qp_tensor   x, seed;
    qp_sequence s;
    bool        backward;
} mixer_bench;

static qp_model *model_of(bench *b, const char *name, int64_t positions) {
    json_t   *config = json_pack("{s:s, s:i, s:i, s:i, s:I, s:{s:s}, s:{s:s}, s:{s:s}, s:{s:s}}", "model_type",
                                 "quipu", "vocab_size", 4, "hidden_size", 512, "num_hidden_layers", 1,
                                 "max_position_embeddings", (json_int_t)positions, "position", "type", "none",
                                 "mixer", "type", name, "ffn", "type", "none", "norm", "type", "rms_norm");
    char     *text = json_dumps(config, 0);
    qp_model *m = text ? qp_model_new(b->ctx, "bench", text) : NULL;
    free(text);
    json_decref(config);
    return m;
}

static void once(void *arg) {
    mixer_bench     *t = arg;
    const qp_branch *mixer = &t->m->blocks[0].block.mixer;
    qp_ctx          *ctx = t->b->ctx;
    qp_state_dict    params = qp_model_params(t->m);
    qp_scope         scope = qp_enter(ctx);
    qp_no_grad(ctx, !t->backward);
    qp_tensor y = mixer->type->forward(mixer->self, t->x, QP_NONE, &t->s);
    if (t->backward) qp_backward(qp_sum(qp_mul(y, t->seed), 0, NULL, false));
    qp_leave(scope);
    for (int i = 0; i < params.count; i++) qp_zero_grad(params.entries[i].tensor);
    qp_zero_grad(t->x);
}

/* Forward, and with backward, of a length. */
static void measure_length(bench *b, const char *name, int64_t length, double seconds[2]) {
    qp_ctx     *ctx = b->ctx;
    qp_scope    scope = qp_enter(ctx);
    int64_t     shape[] = {cli_int(b->c, "batch"), length, 512};
    mixer_bench t = {.b = b, .m = model_of(b, name, length)};
    if (t.m) {
        t.x = qp_randn(ctx, QP_F32, 3, shape);
        t.seed = qp_randn(ctx, QP_F32, 3, shape);
        t.s = (qp_sequence){.positions = qp_reshape(qp_arange(ctx, QP_I64, length), 2, (int64_t[]){1, length}),
                            .length = length};
        qp_require_grad(t.x, true);
        for (int i = 0; i < 2 && !qp_failed(ctx); i++) {
            t.backward = i;
            seconds[i] = bench_seconds(b, once, &t);
        }
        qp_leave(scope);
        qp_model_close(t.m);
    } else qp_leave(scope);
}

static void run_mixer(bench *b, const char *name) {
    int64_t T = cli_int(b->c, "length");
    double  one[2] = {0}, two[2] = {0};
    measure_length(b, name, T, one);
    if (!qp_failed(b->ctx)) measure_length(b, name, 2 * T, two);
    if (qp_failed(b->ctx)) return;
    bench_row(b,
              json_pack("{s:s, s:I, s:I, s:[f,f], s:[f,f]}", "mixer", name, "batch",
                        (json_int_t)cli_int(b->c, "batch"), "length", (json_int_t)T, "forward_seconds", one[0],
                        two[0], "both_seconds", one[1], two[1]),
              "%-10s %8.2f %8.2f ms forward (x%.2f) %9.2f %9.2f ms with backward (x%.2f)", name, one[0] * 1e3,
              two[0] * 1e3, two[0] / one[0], one[1] * 1e3, two[1] * 1e3, two[1] / one[1]);
}

static void run(bench *b) {
    const qp_part *part;
    int            asked;
    const char   **only = cli_list(b->c, "only", &asked);
    for (int i = 0; i < asked && !qp_failed(b->ctx); i++) run_mixer(b, only[i]);
    for (int i = 0; !asked && (part = qp_part_at(b->ctx, QP_PART_MIXER, i)) && !qp_failed(b->ctx); i++)
        run_mixer(b, part->name);
}

const bench_kind bench_mixers = {"mixers", run};
