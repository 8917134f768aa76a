/* What patterns of blocks and windows cost attention for each pair that is seen: causal, 8 heads of 64, two threads,
 * alternating. Time should go with what is seen.
 *
 *     build/bench/bench_patterns [T [ROUNDS]]
 *
 * Prints the blocks that a pattern sees, what share of all that is (of pairs where there is no pattern), medians of
 * forward and of forward with backward, and these for what is seen as parts of what attention without any takes for it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "kernels/attention.h"
#include "quipu/quipu.h"

enum { H = 8, K = 64, MOST = 99 };

static const struct {
    const char *name;
    qp_mask     mask;
} kinds[] = {
    {"none", {.causal = true}},
    {"local 64", {.causal = true, .pattern = {.block = 64, .local = 64}}},
    {"local 32", {.causal = true, .pattern = {.block = 64, .local = 32}}},
    {"local 16", {.causal = true, .pattern = {.block = 64, .local = 16}}},
    {"local 8", {.causal = true, .pattern = {.block = 64, .local = 8}}},
    {"local 3, globals 2, random 3",
     {.causal = true, .pattern = {.block = 64, .local = 3, .globals = 2, .random = 3}}},
    {"local 2, stride 16", {.causal = true, .pattern = {.block = 64, .local = 2, .stride = 16}}},
    {"local 2, section 16",
     {.causal = true, .pattern = {.block = 64, .local = 2, .section = 16, .summary = 1}}},
    {"block 128, local 2, stride 8", {.causal = true, .pattern = {.block = 128, .local = 2, .stride = 8}}},
    {"block 128, local 2, stride 16", {.causal = true, .pattern = {.block = 128, .local = 2, .stride = 16}}},
    {"block 128, 3, globals 2, random 3",
     {.causal = true, .pattern = {.block = 128, .local = 3, .globals = 2, .random = 3}}},
    {"window 1024", {.causal = true, .window = 1024}},
    {"window 4096", {.causal = true, .window = 4096}},
};
enum { KINDS = sizeof kinds / sizeof *kinds };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void round_of(qp_ctx *ctx, const qp_tensor x[3], const qp_mask *mask, double *forward, double *both) {
    qp_scope s = qp_enter(ctx);
    bool     before = qp_no_grad(ctx, true);
    double   start = now();
    qp_attention(x[0], x[1], x[2], *mask, 0);
    *forward = now() - start;
    qp_no_grad(ctx, before);
    start = now();
    qp_backward(qp_sum(qp_attention(x[0], x[1], x[2], *mask, 0), 0, NULL, false));
    *both = now() - start;
    qp_leave(s);
}

/* Of T places the blocks that the pattern sees; without one the pairs. */
static double seen_of(const qp_mask *mask, int64_t T) {
    int64_t block = mask->pattern.block ? mask->pattern.block : 1, blocks = (T + block - 1) / block, sum = 0;
    if (!mask->pattern.block) {
        int64_t w = mask->window && mask->window < T ? mask->window : T;
        return (double)w * (double)(w + 1) / 2 + (double)(T - w) * (double)w;
    }
    for (int64_t qb = 0; qb < blocks; qb++)
        for (int64_t kb = 0; kb <= qb; kb++) sum += qk_pattern_sees(&mask->pattern, true, qb, kb);
    return (double)sum;
}

static double all_of(const qp_mask *mask, int64_t T) {
    int64_t block = mask->pattern.block ? mask->pattern.block : 1, blocks = (T + block - 1) / block;
    return (double)blocks * (double)(blocks + 1) / 2;
}

int main(int argc, char **argv) {
    int64_t       T = argc > 1 ? atoll(argv[1]) : 8192;
    int           rounds = argc > 2 ? atoi(argv[2]) : 7;
    static double times[2][KINDS][MOST];
    if (T < 1 || rounds < 1 || rounds > MOST) return fprintf(stderr, "usage: bench_patterns [T [ROUNDS]]\n"), 2;
    qp_ctx   *ctx = qp_open((qp_options){.threads = 2});
    int64_t   shape[] = {1, T, H, K};
    qp_tensor x[3];
    for (int i = 0; i < 3; i++) qp_require_grad(x[i] = qp_randn(ctx, QP_F32, 4, shape), true);
    for (int r = 0; r < rounds; r++)
        for (int kind = 0; kind < KINDS; kind++)
            round_of(ctx, x, &kinds[kind].mask, &times[0][kind][r], &times[1][kind][r]);
    for (int kind = 0; kind < KINDS; kind++) {
        const qp_mask *mask = &kinds[kind].mask;
        double         share = seen_of(mask, T) / all_of(mask, T);
        printf("%-33s %7.0f %6.2f%%", kinds[kind].name, mask->pattern.block ? seen_of(mask, T) : 0,
               100 * share);
        for (int pass = 0; pass < 2; pass++) {
            qsort(times[pass][kind], (size_t)rounds, sizeof(double), ascending);
            double t = times[pass][kind][rounds / 2];
            printf("  %s %8.1f ms, %.2f", pass ? "with backward" : "forward", 1e3 * t,
                   t / times[pass][0][rounds / 2] / share);
        }
        printf("\n");
    }
    if (qp_failed(ctx)) return fprintf(stderr, "%s\n", qp_error(ctx)), 1;
    qp_close(ctx);
    return 0;
}
