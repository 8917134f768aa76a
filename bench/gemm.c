/* Speed of the matrix product beside OpenBLAS, BLIS and oneDNN, as JSON lines in GFLOP/s.
 *
 *     gemm [-t THREADS] [-i base|avx2|avx512] [-p f32|bf16|mixed] [-r ROUNDS] [FORM...]
 *
 * -p: f32; operands of bf16; operands of f32 that are rounded to bf16 on the way.
 *
 * Contestants run in turn, ROUNDS times, and the median of their rounds counts: so a busy
 * moment of the machine hits them alike. "peak" is what FMA instructions alone reach in the
 * same minute. Libraries that are not there are left out. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/threads.h"
#include "kernels/gemm.h"
#include "kernels/peak.h"
#include "peers/gemm_peers.h"

extern qk_gemm_fn qk_gemm_base, qk_gemm_avx2, qk_gemm_avx512;

typedef struct {
    const char *form; /* nt: y = x w^T, nn: dx = dy w, tn: dw += dy^T x; b: a batch of small ones */
    int64_t     batch, m, n, k;
    qp_dtype    b_type;
} shape;

static const shape shapes[] = {
    {"nt", 1, 1024, 1024, 1024, QP_F32},     {"nt", 1, 2048, 2048, 2048, QP_F32},
    {"nt", 1, 256, 768, 768, QP_F32},        {"nt", 1, 256, 2304, 768, QP_F32},
    {"nt", 1, 256, 3072, 768, QP_F32},       {"nt", 1, 256, 768, 3072, QP_F32},
    {"nt", 1, 1024, 3072, 768, QP_F32},      {"nt", 1, 1024, 768, 3072, QP_F32},
    {"nt", 1, 256, 50257, 768, QP_F32},      {"nn", 1, 1024, 1024, 1024, QP_F32},
    {"nn", 1, 256, 768, 768, QP_F32},        {"nn", 1, 256, 768, 2304, QP_F32},
    {"nn", 1, 256, 768, 3072, QP_F32},       {"nn", 1, 256, 3072, 768, QP_F32},
    {"nn", 1, 1024, 768, 3072, QP_F32},      {"nn", 1, 256, 768, 50257, QP_F32},
    {"tn", 1, 1024, 1024, 1024, QP_F32},     {"tn", 1, 768, 768, 256, QP_F32},
    {"tn", 1, 2304, 768, 256, QP_F32},       {"tn", 1, 3072, 768, 256, QP_F32},
    {"tn", 1, 768, 3072, 256, QP_F32},       {"tn", 1, 3072, 768, 1024, QP_F32},
    {"tn", 1, 50257, 768, 256, QP_F32},      {"bnn", 96, 64, 64, 64, QP_F32},
    {"bnt", 96, 64, 64, 64, QP_F32},         {"bnt", 48, 256, 256, 64, QP_F32},
    {"bnn", 48, 256, 64, 256, QP_F32},       {"btn", 48, 256, 64, 256, QP_F32},
    {"few-nt", 1, 1, 768, 768, QP_F32},      {"few-nt", 1, 1, 3072, 768, QP_F32},
    {"few-nt", 1, 4, 3072, 768, QP_F32},     {"few-nt", 1, 8, 3072, 768, QP_F32},
    {"few-nt", 1, 16, 3072, 768, QP_F32},    {"few-nt", 1, 64, 3072, 768, QP_F32},
    {"few-nn", 1, 1, 3072, 768, QP_F32},     {"few-nn", 1, 8, 3072, 768, QP_F32},
    {"few-nn", 1, 16, 3072, 768, QP_F32},    {"few-nt", 1, 1, 50257, 768, QP_F32},
    {"few-nn", 1, 1, 50257, 768, QP_F32},    {"few-nt", 1, 8, 50257, 768, QP_F32},
    {"half-nt", 1, 1, 50257, 768, QP_BF16},  {"half-nt", 1, 8, 3072, 768, QP_BF16},
    {"half-nt", 1, 256, 3072, 768, QP_BF16},
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef struct {
    qk_gemm_fn *gemm;
    qp_exec     exec;
    qp_dtype    type, compute; /* of A and B */
} bench;

/* ---- One product ---------------------------------------------------------------------------- */

enum { QUIPU = PEERS, CONTESTANTS };

typedef struct {
    const shape *s;
    peer_product first;          /* of the batch */
    int64_t      a_step, b_step; /* bytes from one to the next */
} problem;

static problem problem_of(const bench *b, const shape *s, float *memory) {
    const char   *form = s->form + strlen(s->form) - 2;
    problem       p = {.s = s};
    peer_product *f = &p.first;
    bool          half = b->type == QP_BF16;
    *f = (peer_product){
        .m = s->m, .n = s->n, .k = s->k, .ta = form[0] == 't', .tb = form[1] == 't', .bf16 = half};
    f->accumulate = f->ta;
    p.a_step = s->m * s->k * (half ? 2 : 4);
    p.b_step = s->k * s->n * (half || s->b_type == QP_BF16 ? 2 : 4);
    f->a = memory;
    f->b = memory + s->batch * s->m * s->k;
    f->c = memory + s->batch * (s->m * s->k + s->k * s->n);
    return p;
}

static void run_quipu(const bench *b, const problem *p) {
    const shape        *s = p->s;
    const peer_product *f = &p->first;
    qk_gemm_args        g = {.batch = s->batch,
                             .m = s->m,
                             .n = s->n,
                             .k = s->k,
                             .a = f->a,
                             .b = f->b,
                             .a_batch = s->m * s->k,
                             .b_batch = s->k * s->n,
                             .a_type = b->type,
                             .b_type = b->type == QP_F32 ? s->b_type : b->type,
                             .compute = b->compute,
                             .c = f->c,
                             .c_batch = s->m * s->n,
                             .c_row = s->n,
                             .scale = 1,
                             .accumulate = f->accumulate};
    g.a_row = f->ta ? 1 : s->k;
    g.a_col = f->ta ? s->m : 1;
    g.b_row = f->tb ? 1 : s->n;
    g.b_col = f->tb ? s->k : 1;
    b->gemm(&b->exec, &g);
}

static void run(const bench *b, const problem *p, int who) {
    peer_product one = p->first;
    if (who == QUIPU) {
        run_quipu(b, p);
        return;
    }
    for (int64_t i = 0; i < p->s->batch; i++) {
        one.a = (const char *)p->first.a + i * p->a_step;
        one.b = (const char *)p->first.b + i * p->b_step;
        one.c = p->first.c + i * one.m * one.n;
        peer_run(who, &one);
    }
}

/* oneDNN's matmul is made for one place in memory. */
static bool takes_part(const bench *b, const problem *p, int who) {
    if (who == QUIPU) return true;
    if (p->s->b_type != QP_F32 || b->compute != QP_F32 || (who == ONEDNN_PACKED && p->s->batch > 1))
        return false;
    return peer_takes(who, &p->first) && !(p->first.bf16 && p->s->batch > 1);
}

/* Seconds of one call: the best of a burst of 20 milliseconds. Peers' threads spin after a
 * call, hence the sleep. */
static double burst(const bench *b, const problem *p, int who) {
    double best = 1e9, end;
    if (who != QUIPU) peer_prepare(who, &p->first);
    usleep(30000);
    run(b, p, who);
    end = now() + 0.02;
    do {
        double t = now();
        run(b, p, who);
        t = now() - t;
        if (t < best) best = t;
    } while (now() < end);
    if (who != QUIPU) peer_finish(who, &p->first);
    return best;
}

/* ---- What the machine can do ------------------------------------------------------------------ */

extern qk_peak_fn qk_peak_base, qk_peak_avx2, qk_peak_avx512;

typedef struct {
    qk_peak_fn *fn;
    qp_dtype    type;
    double      operations;
} peak;

static void peak_piece(void *arg, int64_t begin, int64_t end, int worker) {
    peak *p = arg;
    float sink = 0.5f;
    (void)end, (void)worker;
    double operations = p->fn(p->type, 500000, &sink);
    if (begin == 0) p->operations = operations;
}

/* In the type that the products are computed in. */
static double peak_of(const bench *b) {
    bool   half = b->type == QP_BF16 || b->compute == QP_BF16;
    double best = 0;
    peak   p = {.fn = b->gemm == qk_gemm_base ? qk_peak_base : qk_peak_avx2, .type = half ? QP_BF16 : QP_F32};
    if (b->gemm == qk_gemm_avx512) p.fn = qk_peak_avx512;
    for (int i = 0; i < 8; i++) {
        double t = now();
        qp_parallel(&b->exec, b->exec.threads, 1, peak_piece, &p);
        double speed = p.operations * b->exec.threads / (now() - t) / 1e9;
        if (speed > best) best = speed;
    }
    return best;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void report(const bench *b, const shape *s, float *memory, int rounds) {
    problem p = problem_of(b, s, memory);
    double  times[CONTESTANTS][99], flops = 2.0 * (double)s->batch * (double)s->m * (double)s->n * (double)s->k;
    for (int r = 0; r < rounds; r++)
        for (int who = 0; who < CONTESTANTS; who++)
            if (takes_part(b, &p, who)) times[who][r] = burst(b, &p, who);
    printf("{\"form\": \"%s\", \"batch\": %d, \"m\": %d, \"n\": %d, \"k\": %d, \"threads\": %d, \"peak\": %.0f",
           s->form, (int)s->batch, (int)s->m, (int)s->n, (int)s->k, b->exec.threads, peak_of(b));
    for (int who = 0; who < CONTESTANTS; who++) {
        if (!takes_part(b, &p, who)) continue;
        qsort(times[who], (size_t)rounds, sizeof(double), by_value);
        printf(", \"%s\": %.1f", who == QUIPU ? "quipu" : peer_names[who],
               flops / times[who][rounds / 2] / 1e9);
        if (who == QUIPU && s->m == 1)
            printf(", \"quipu_GB/s\": %.1f", (double)(s->n * s->k) *
                                                 (s->b_type == QP_F32 && b->type == QP_F32 ? 4 : 2) /
                                                 times[who][rounds / 2] / 1e9);
    }
    printf("}\n");
    fflush(stdout);
}

static size_t floats_of(const shape *s) {
    return (size_t)(s->batch * (s->m * s->k + s->k * s->n + s->m * s->n));
}

int main(int argc, char **argv) {
    int   threads = 1, rounds = 5, option;
    bench b = {.gemm = qk_gemm_base};
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) b.gemm = qk_gemm_avx2;
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) b.gemm = qk_gemm_avx512;
#endif
    while ((option = getopt(argc, argv, "t:i:p:r:")) != -1) {
        if (option == 't') threads = atoi(optarg);
        if (option == 'r') rounds = atoi(optarg);
        if (option == 'i')
            b.gemm = !strcmp(optarg, "base")   ? qk_gemm_base
                     : !strcmp(optarg, "avx2") ? qk_gemm_avx2
                                               : qk_gemm_avx512;
        if (option == 'p' && !strcmp(optarg, "bf16")) b.type = QP_BF16;
        if (option == 'p' && !strcmp(optarg, "mixed")) b.compute = QP_BF16;
        if (option == '?') return 2;
    }
    if (threads < 1 || threads > 64 || rounds < 1 || rounds > 99) return 2;
    peers_load(threads);
    size_t floats = 0, scratch = 0;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const shape *s = &shapes[i];
        size_t       need = qk_gemm_scratch(s->batch, s->m, s->n, s->k, threads);
        if (floats_of(s) > floats) floats = floats_of(s);
        if (need > scratch) scratch = need;
    }
    float *memory = aligned_alloc(64, (floats + 16) / 16 * 64);
    b.exec = (qp_exec){qpi_pool_new(threads), threads, aligned_alloc(64, (scratch + 63) / 64 * 64)};
    if (!memory || !b.exec.pool || !b.exec.scratch) return 1;
    for (size_t i = 0; i < floats; i++) { /* in bf16 a pair of such values */
        uint32_t bits;
        memory[i] = (float)(i % 13) * 0.01f;
        memcpy(&bits, &memory[i], 4);
        bits = bits >> 16 | (bits & 0xffff0000u);
        if (b.type == QP_BF16) memcpy(&memory[i], &bits, 4);
    }
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        bool wanted = optind == argc;
        for (int a = optind; a < argc; a++) wanted |= !strcmp(argv[a], shapes[i].form);
        if (wanted) report(&b, &shapes[i], memory, rounds);
    }
    qpi_pool_free(b.exec.pool);
    free(b.exec.scratch);
    free(memory);
    return 0;
}
