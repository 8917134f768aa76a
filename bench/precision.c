/* What 16-bit products do to gradients: how far those of one batch are from the gradients in f32, for
 * the parts of a trained model.
 *
 *     bench_precision MODEL TEXT BATCH LENGTH */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quipu/quipu.h"

typedef struct {
    const char *name;
    qp_dtype    type;
    double      scale; /* of the loss */
} form;

static const form forms[] = {{"fp32", QP_F32, 1},
                             {"bf16", QP_BF16, 1},
                             {"fp16", QP_F16, 1},
                             {"fp16 x 256", QP_F16, 256},
                             {"fp16 x 65536", QP_F16, 65536}};
enum { FORMS = sizeof forms / sizeof forms[0] };

/* All gradients one after another, divided by the scale again. */
static double *gradients(qp_model *m, const qp_record *batch, form f, int64_t *count) {
    qp_ctx       *ctx = qp_model_ctx(m);
    qp_state_dict params = qp_model_params(m);
    qp_scope      s = qp_enter(ctx);
    *count = 0;
    for (int i = 0; i < params.count; i++) *count += qp_count(params.entries[i].tensor);
    double *all = malloc((size_t)*count * sizeof *all), *at = all;
    qp_autocast(ctx, f.type);
    qp_backward(qp_affine(qp_model_loss(m, qp_record_get(batch, "input_ids"), qp_record_get(batch, "labels")),
                          f.scale, 0));
    for (int i = 0; all && i < params.count; i++) {
        int64_t   n = qp_count(params.entries[i].tensor);
        qp_tensor g = qp_grad_of(params.entries[i].tensor);
        if (qp_read(g, QP_F64, at, n) != QP_OK) break;
        qp_zero_grad(params.entries[i].tensor);
        at += n;
    }
    for (int64_t i = 0; all && i < *count; i++) all[i] /= f.scale;
    qp_leave(s);
    return all;
}

/* Over parts of the model: those whose name holds the text. */
static void report(qp_state_dict params, double *const g[FORMS], const char *part) {
    printf("%-10s", *part ? part : "all");
    for (int f = 1; f < FORMS; f++) {
        double  difference = 0, norm = 0;
        int64_t at = 0;
        for (int i = 0; i < params.count; i++) {
            int64_t n = qp_count(params.entries[i].tensor);
            for (int64_t k = at; k < at + n && strstr(params.entries[i].name, part); k++) {
                difference += (g[f][k] - g[0][k]) * (g[f][k] - g[0][k]);
                norm += g[0][k] * g[0][k];
            }
            at += n;
        }
        printf("  %12.1e", sqrt(difference / norm));
    }
    putchar('\n');
}

int main(int argc, char **argv) {
    static const char *const parts[] = {"",        "embed",     "mixer.q", "mixer.k",
                                        "mixer.v", "mixer.out", "ffn",     "norm"};
    if (argc != 5) return fprintf(stderr, "usage: bench_precision MODEL TEXT BATCH LENGTH\n"), 2;
    qp_ctx   *ctx = qp_open((qp_options){.threads = 2});
    qp_model *m = ctx ? qp_model_load(ctx, argv[1], (qp_model_options){0}) : NULL;
    qp_data  *data = NULL;
    double   *g[FORMS] = {0};
    int64_t   count;
    if (m)
        data = qp_data_open(ctx, 1, (const char *[]){argv[2]},
                            (qp_data_options){.batch = atoll(argv[3]),
                                              .length = atoll(argv[4]),
                                              .tokenizer = qp_tokenizer_load(ctx, argv[1])});
    if (data) {
        qp_record batch = qp_data_next(data);
        printf("%-10s", "");
        for (int f = 1; f < FORMS; f++) printf("  %12s", forms[f].name);
        putchar('\n');
        for (int f = 0; f < FORMS; f++) g[f] = gradients(m, &batch, forms[f], &count);
        for (size_t i = 0; i < sizeof parts / sizeof parts[0] && !qp_failed(ctx); i++)
            report(qp_model_params(m), g, parts[i]);
    }
    if (ctx && qp_failed(ctx)) fprintf(stderr, "%s\n", qp_error(ctx));
    for (int f = 0; f < FORMS; f++) free(g[f]);
    qp_close(ctx);
    return 0;
}
