/* What encodings by distance cost attention: causal, 8 heads of 64, two threads, alternating.
 *
 *     build/bench/bench_relative [T [ROUNDS]]
 *
 * Prints medians, forward and backward, and how much longer than without any.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "quipu/quipu.h"

enum { H = 8, K = 64, CLIP = 16, BUCKETS = 32, FAR = 128, MOST = 99, KINDS = 6 };

static const char *const names[] = {
    "none", "alibi", "t5, learned", "shaw, keys", "shaw, keys and values", "bias [H, T, T]"};

typedef struct {
    qp_tensor q, k, v, alibi, t5, columns, shaw, values, dense;
} inputs;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static inputs make(qp_ctx *ctx, int64_t T) {
    int64_t x[] = {1, T, H, K}, far = 2 * FAR + 1, *column = calloc((size_t)far, sizeof *column);
    for (int i = 0; column && i < FAR; i++) column[i] = (FAR - 1 - i) * BUCKETS / FAR;
    inputs    in = {.q = qp_randn(ctx, QP_F32, 4, x),
                    .k = qp_randn(ctx, QP_F32, 4, x),
                    .v = qp_randn(ctx, QP_F32, 4, x),
                    .alibi = qp_randn(ctx, QP_F32, 3, (int64_t[]){H, 1, 2 * T - 1}),
                    .t5 = qp_randn(ctx, QP_F32, 3, (int64_t[]){H, 1, BUCKETS}),
                    .columns = qp_from(ctx, QP_I64, 1, &far, column),
                    .shaw = qp_randn(ctx, QP_F32, 4, (int64_t[]){1, H, T, 2 * CLIP + 1}),
                    .values = qp_randn(ctx, QP_F32, 2, (int64_t[]){2 * CLIP + 1, K}),
                    .dense = qp_randn(ctx, QP_F32, 3, (int64_t[]){H, T, T})};
    qp_tensor learned[] = {in.q, in.k, in.v, in.t5, in.shaw, in.values};
    for (int i = 0; i < 6; i++) qp_require_grad(learned[i], true);
    free(column);
    return in;
}

static qp_mask mask_of(const inputs *in, int kind) {
    qp_mask m = {.causal = true};
    if (kind == 1) m.relative = in->alibi;
    if (kind == 2) m.relative = in->t5, m.columns = in->columns;
    if (kind == 3 || kind == 4) m.relative = in->shaw;
    if (kind == 4) m.relative_values = in->values;
    if (kind == 5) m.bias = in->dense;
    return m;
}

static void round_of(qp_ctx *ctx, const inputs *in, int kind, double *forward, double *backward) {
    qp_scope s = qp_enter(ctx);
    bool     before = qp_no_grad(ctx, true);
    qp_attention(in->q, in->k, in->v, mask_of(in, kind),
                 0); /* what the kind before left in the caches is gone */
    double start = now();
    qp_attention(in->q, in->k, in->v, mask_of(in, kind), 0);
    *forward = now() - start;
    qp_no_grad(ctx, before);
    qp_tensor loss = qp_sum(qp_attention(in->q, in->k, in->v, mask_of(in, kind), 0), 0, NULL, false);
    start = now();
    qp_backward(loss);
    *backward = now() - start;
    qp_leave(s);
}

int main(int argc, char **argv) {
    int64_t       T = argc > 1 ? atoll(argv[1]) : 1024;
    int           rounds = argc > 2 ? atoi(argv[2]) : 21;
    static double times[2][KINDS][MOST];
    if (T < 1 || rounds < 1 || rounds > MOST) return fprintf(stderr, "usage: bench_relative [T [ROUNDS]]\n"), 2;
    qp_ctx *ctx = qp_open((qp_options){.threads = 2});
    inputs  in = make(ctx, T);
    for (int r = 0; r < rounds; r++)
        for (int kind = 0; kind < KINDS; kind++)
            round_of(ctx, &in, kind, &times[0][kind][r], &times[1][kind][r]);
    for (int kind = 0; kind < KINDS; kind++) {
        printf("%-22s", names[kind]);
        for (int pass = 0; pass < 2; pass++) {
            qsort(times[pass][kind], (size_t)rounds, sizeof(double), ascending);
            double t = times[pass][kind][rounds / 2];
            printf("  %s %7.3f ms %+6.1f%%", pass ? "backward" : "forward", 1e3 * t,
                   100 * (t / times[pass][0][rounds / 2] - 1));
        }
        printf("\n");
    }
    if (qp_failed(ctx)) return fprintf(stderr, "%s\n", qp_error(ctx)), 1;
    qp_close(ctx);
    return 0;
}
