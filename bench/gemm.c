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
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/threads.h"
#include "kernels/gemm.h"

extern qk_gemm_fn qk_gemm_base, qk_gemm_avx2, qk_gemm_avx512;

typedef struct {
    const char *form; /* nt: y = x w^T, nn: dx = dy w, tn: dw += dy^T x; b: a batch of small ones */
    int64_t     batch, m, n, k;
    qp_dtype    b_type;
} shape;

static const shape shapes[] = {
    {"nt", 1, 1024, 1024, 1024, QP_F32},   {"nt", 1, 2048, 2048, 2048, QP_F32},
    {"nt", 1, 256, 768, 768, QP_F32},      {"nt", 1, 256, 2304, 768, QP_F32},
    {"nt", 1, 256, 3072, 768, QP_F32},     {"nt", 1, 256, 768, 3072, QP_F32},
    {"nt", 1, 1024, 3072, 768, QP_F32},    {"nt", 1, 1024, 768, 3072, QP_F32},
    {"nt", 1, 256, 50257, 768, QP_F32},    {"nn", 1, 1024, 1024, 1024, QP_F32},
    {"nn", 1, 256, 768, 768, QP_F32},      {"nn", 1, 256, 768, 2304, QP_F32},
    {"nn", 1, 256, 768, 3072, QP_F32},     {"nn", 1, 256, 3072, 768, QP_F32},
    {"nn", 1, 1024, 768, 3072, QP_F32},    {"nn", 1, 256, 768, 50257, QP_F32},
    {"tn", 1, 1024, 1024, 1024, QP_F32},   {"tn", 1, 768, 768, 256, QP_F32},
    {"tn", 1, 2304, 768, 256, QP_F32},     {"tn", 1, 3072, 768, 256, QP_F32},
    {"tn", 1, 768, 3072, 256, QP_F32},     {"tn", 1, 3072, 768, 1024, QP_F32},
    {"tn", 1, 50257, 768, 256, QP_F32},    {"bnn", 96, 64, 64, 64, QP_F32},
    {"bnt", 96, 64, 64, 64, QP_F32},       {"bnt", 48, 256, 256, 64, QP_F32},
    {"bnn", 48, 256, 64, 256, QP_F32},     {"btn", 48, 256, 64, 256, QP_F32},
    {"few-nt", 1, 1, 768, 768, QP_F32},    {"few-nt", 1, 1, 3072, 768, QP_F32},
    {"few-nt", 1, 4, 3072, 768, QP_F32},   {"few-nt", 1, 8, 3072, 768, QP_F32},
    {"few-nt", 1, 16, 3072, 768, QP_F32},  {"few-nt", 1, 64, 3072, 768, QP_F32},
    {"few-nn", 1, 1, 3072, 768, QP_F32},   {"few-nn", 1, 8, 3072, 768, QP_F32},
    {"few-nn", 1, 16, 3072, 768, QP_F32},  {"few-nt", 1, 1, 50257, 768, QP_F32},
    {"few-nn", 1, 1, 50257, 768, QP_F32},  {"few-nt", 1, 8, 50257, 768, QP_F32},
    {"half-nt", 1, 1, 50257, 768, QP_BF16}, {"half-nt", 1, 8, 3072, 768, QP_BF16},
    {"half-nt", 1, 256, 3072, 768, QP_BF16},
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- The peers ------------------------------------------------------------------------------ */

enum { ROW_MAJOR = 101, NO_TRANS = 111, TRANS = 112 };
typedef void cblas_fn(int order, int ta, int tb, int m, int n, int k, float alpha, const float *a, int lda,
                      const float *b, int ldb, float beta, float *c, int ldc);
typedef void gemv_fn(int order, int t, int m, int n, float alpha, const float *a, int lda, const float *x, int incx,
                     float beta, float *y, int incy);
typedef int  dnnl_fn(char ta, char tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t lda,
                    const float *b, int64_t ldb, float beta, float *c, int64_t ldc);

enum { QUIPU, OPENBLAS, BLIS, ONEDNN, CONTESTANTS };
static const char *const names[] = {"quipu", "openblas", "blis", "onednn"};

typedef struct {
    qk_gemm_fn *gemm;
    qp_exec     exec;
    cblas_fn   *blas[CONTESTANTS];
    gemv_fn    *gemv[CONTESTANTS];
    dnnl_fn    *dnnl;
    qp_dtype    type, compute;
} bench;

static void load_blas(bench *b, int who, const char *file, const char *set_threads, int threads)
{
    void *lib = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (!lib) return;
    b->blas[who] = (cblas_fn *)dlsym(lib, "cblas_sgemm");
    b->gemv[who] = (gemv_fn *)dlsym(lib, "cblas_sgemv");
    void (*set)(long) = (void (*)(long))dlsym(lib, set_threads);
    if (set) set(threads);
}

static void load_peers(bench *b, int threads)
{
    char text[16];
    snprintf(text, sizeof text, "%d", threads);
    setenv("OMP_NUM_THREADS", text, 1);
    load_blas(b, OPENBLAS, "libopenblas.so.0", "openblas_set_num_threads", threads);
    load_blas(b, BLIS, "libblis.so.4", "bli_thread_set_num_threads", threads);
    void *lib = dlopen("libdnnl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (!lib) lib = dlopen("libdnnl.so.3", RTLD_NOW | RTLD_LOCAL);
    if (lib) b->dnnl = (dnnl_fn *)dlsym(lib, "dnnl_sgemm");
}

/* ---- One product ---------------------------------------------------------------------------- */

typedef struct {
    const shape *s;
    float       *a, *b, *c;
    bool         ta, tb;
    int64_t      lda, ldb;
} problem;

static problem problem_of(const shape *s, float *memory)
{
    const char *form = s->form + strlen(s->form) - 2;
    problem     p = {.s = s, .ta = form[0] == 't', .tb = form[1] == 't'};
    p.lda = p.ta ? s->m : s->k;
    p.ldb = p.tb ? s->k : s->n;
    p.a = memory;
    p.b = p.a + s->batch * s->m * s->k;
    p.c = p.b + s->batch * s->k * s->n;
    return p;
}

static void run_quipu(const bench *b, const problem *p)
{
    const shape *s = p->s;
    qk_gemm_args g = {.batch = s->batch, .m = s->m, .n = s->n, .k = s->k, .a = p->a, .b = p->b,
                      .a_batch = s->m * s->k, .b_batch = s->k * s->n, .a_type = b->type, .b_type = b->type == QP_F32 ? s->b_type : b->type, .compute = b->compute,
                      .c = p->c, .c_batch = s->m * s->n, .c_row = s->n, .scale = 1, .accumulate = p->ta};
    g.a_row = p->ta ? 1 : p->lda;
    g.a_col = p->ta ? p->lda : 1;
    g.b_row = p->tb ? 1 : p->ldb;
    g.b_col = p->tb ? p->ldb : 1;
    b->gemm(&b->exec, &g);
}

static void run_peer(const bench *b, const problem *p, int who)
{
    const shape *s = p->s;
    for (int64_t i = 0; i < s->batch; i++) {
        const float *x = p->a + i * s->m * s->k, *y = p->b + i * s->k * s->n;
        float       *c = p->c + i * s->m * s->n, beta = p->ta;
        int m = (int)s->m, n = (int)s->n, k = (int)s->k;
        if (who == ONEDNN)
            b->dnnl(p->ta ? 'T' : 'N', p->tb ? 'T' : 'N', m, n, k, 1, x, p->lda, y, p->ldb, beta, c, n);
        else if (m == 1)
            b->gemv[who](ROW_MAJOR, p->tb ? NO_TRANS : TRANS, p->tb ? n : k, p->tb ? k : n, 1, y, (int)p->ldb, x, 1,
                         beta, c, 1);
        else
            b->blas[who](ROW_MAJOR, p->ta ? TRANS : NO_TRANS, p->tb ? TRANS : NO_TRANS, m, n, k, 1, x, (int)p->lda,
                         y, (int)p->ldb, beta, c, n);
    }
}

static void run(const bench *b, const problem *p, int who)
{
    if (who == QUIPU)
        run_quipu(b, p);
    else
        run_peer(b, p, who);
}

static bool takes_part(const bench *b, const shape *s, int who)
{
    if (who == QUIPU) return true;
    if (s->b_type != QP_F32 || b->type != QP_F32 || b->compute != QP_F32) return false;
    return who == ONEDNN ? b->dnnl != NULL : b->blas[who] && b->gemv[who];
}

/* Seconds of one call: the best of a burst of 20 milliseconds. Peers' threads spin after a
 * call, hence the sleep. */
static double burst(const bench *b, const problem *p, int who)
{
    double best = 1e9, end;
    usleep(30000);
    run(b, p, who);
    end = now() + 0.02;
    do {
        double t = now();
        run(b, p, who);
        t = now() - t;
        if (t < best) best = t;
    } while (now() < end);
    return best;
}

/* ---- What the machine can do ------------------------------------------------------------------ */

#if defined(__x86_64__)
#include <immintrin.h>
/* Twelve chains of dependent FMA instructions hide their latency. */
#define CHAIN(i) __asm__ volatile("vfmadd231ps %0, %0, %0" : "+x"(x##i));
#define PEAK(name, isa, type, zero, flops) \
    __attribute__((target(isa))) static double name(int64_t steps) \
    { \
        type x0 = zero, x1 = zero, x2 = zero, x3 = zero, x4 = zero, x5 = zero; \
        type x6 = zero, x7 = zero, x8 = zero, x9 = zero, x10 = zero, x11 = zero; \
        for (int64_t s = 0; s < steps; s++) { \
            CHAIN(0) CHAIN(1) CHAIN(2) CHAIN(3) CHAIN(4) CHAIN(5) \
            CHAIN(6) CHAIN(7) CHAIN(8) CHAIN(9) CHAIN(10) CHAIN(11) \
        } \
        return (double)steps * 12 * flops; \
    }
PEAK(peak_avx2, "avx2,fma", __m256, _mm256_setzero_ps(), 16)
PEAK(peak_avx512, "avx512f", __m512, _mm512_setzero_ps(), 32)

static void peak_piece(void *arg, int64_t begin, int64_t end, int worker)
{
    (void)begin, (void)end, (void)worker;
    if (__builtin_cpu_supports("avx512f"))
        *(double *)arg = peak_avx512(2000000);
    else
        *(double *)arg = peak_avx2(2000000);
}

static double peak_of(const bench *b)
{
    double best = 0;
    for (int i = 0; i < 5; i++) {
        double flops = 0, t = now();
        peak_piece(&flops, 0, 1, 0);
        if (b->exec.threads > 1) {
            double each[64];
            t = now();
            qp_parallel(&b->exec, b->exec.threads, 1, peak_piece, each);
            flops *= b->exec.threads;
        }
        double speed = flops / (now() - t) / 1e9;
        if (speed > best) best = speed;
    }
    return best;
}
#else
static double peak_of(const bench *b)
{
    (void)b;
    return 0;
}
#endif

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void report(const bench *b, const shape *s, float *memory, int rounds)
{
    problem p = problem_of(s, memory);
    double  times[CONTESTANTS][99], flops = 2.0 * (double)s->batch * (double)s->m * (double)s->n * (double)s->k;
    for (int r = 0; r < rounds; r++)
        for (int who = 0; who < CONTESTANTS; who++)
            if (takes_part(b, s, who)) times[who][r] = burst(b, &p, who);
    printf("{\"form\": \"%s\", \"batch\": %d, \"m\": %d, \"n\": %d, \"k\": %d, \"threads\": %d, \"peak\": %.0f", s->form,
           (int)s->batch, (int)s->m, (int)s->n, (int)s->k, b->exec.threads, peak_of(b));
    for (int who = 0; who < CONTESTANTS; who++) {
        if (!takes_part(b, s, who)) continue;
        qsort(times[who], (size_t)rounds, sizeof(double), by_value);
        printf(", \"%s\": %.1f", names[who], flops / times[who][rounds / 2] / 1e9);
        if (who == QUIPU && s->m == 1)
            printf(", \"quipu_GB/s\": %.1f",
                   (double)(s->n * s->k) * (s->b_type == QP_F32 ? 4 : 2) / times[who][rounds / 2] / 1e9);
    }
    printf("}\n");
    fflush(stdout);
}

static size_t floats_of(const shape *s)
{
    return (size_t)(s->batch * (s->m * s->k + s->k * s->n + s->m * s->n));
}

int main(int argc, char **argv)
{
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
            b.gemm = !strcmp(optarg, "base") ? qk_gemm_base : !strcmp(optarg, "avx2") ? qk_gemm_avx2 : qk_gemm_avx512;
        if (option == 'p' && !strcmp(optarg, "bf16")) b.type = QP_BF16;
        if (option == 'p' && !strcmp(optarg, "mixed")) b.compute = QP_BF16;
        if (option == '?') return 2;
    }
    if (threads < 1 || threads > 64 || rounds < 1 || rounds > 99) return 2;
    load_peers(&b, threads);
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
    for (size_t i = 0; i < floats; i++) memory[i] = (float)(i % 13) * 0.01f;
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
