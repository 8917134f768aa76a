/* Speed of the single-precision matrix product in OpenBLAS, BLIS and oneDNN, for comparison with ours.

       gemm_peers [--threads N] [--repeats R] [--library NAME] M N K transA transB [M N K transA transB ...]

   computes C [M, N] = op(A) op(B), row-major and dense, where A is stored [K, M] if transA is 1 and
   B is stored [N, K] if transB is 1. Prints one line of JSON per library and product: the median and
   the best of R samples in GFLOP/s, each sample long enough (20 ms) to be measured.

   How each is tuned: the packaged builds choose their kernel for the CPU at run time; all get the
   same number of threads through their own variables, set before they load; warm-up calls come
   first; buffers lie on pages of their own. oneDNN is called through dnnl_sgemm, which was as fast
   as its matmul primitive without reordered weights. Each library runs in a process of its own, so
   that no idle thread of another disturbs it. A library that is not installed is left out; a wrong
   product ends the run. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

typedef void cblas_fn(int order, int ta, int tb, int m, int n, int k, float alpha, const float *a, int lda,
                      const float *b, int ldb, float beta, float *c, int ldc);
typedef int dnnl_fn(char ta, char tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t lda,
                    const float *b, int64_t ldb, float beta, float *c, int64_t ldc);

static const struct peer { const char *name, *file, *symbol; } peers[] = {
    {"openblas", "libopenblas.so.0", "cblas_sgemm"},
    {"blis",     "libblis.so.4",     "cblas_sgemm"},
    {"onednn",   "libdnnl.so.3",     "dnnl_sgemm"},
    {"onednn",   "libdnnl.so.2",     "dnnl_sgemm"},
};

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static float *matrix(size_t count, unsigned seed)
{
    void *p = NULL;
    if (posix_memalign(&p, 4096, count * sizeof(float)))
        exit(2);
    float *x = p;
    for (size_t i = 0; i < count; i++) {
        seed = seed * 1664525u + 1013904223u;
        x[i] = (float)(seed >> 8) / 8388608.0f - 1.0f;
    }
    return x;
}

struct product { int m, n, k, ta, tb; };

static void call(void *f, int cblas, struct product p, const float *a, const float *b, float *c)
{
    int lda = p.ta ? p.m : p.k, ldb = p.tb ? p.k : p.n;
    if (cblas)
        ((cblas_fn *)f)(101, p.ta ? 112 : 111, p.tb ? 112 : 111, p.m, p.n, p.k, 1, a, lda, b, ldb, 0, c, p.n);
    else
        ((dnnl_fn *)f)(p.ta ? 'T' : 'N', p.tb ? 'T' : 'N', p.m, p.n, p.k, 1, a, lda, b, ldb, 0, c, p.n);
}

static int right(struct product p, const float *a, const float *b, const float *c)
{
    for (int s = 0; s < 64; s++) {
        size_t i = (size_t)s * 7919 % (size_t)p.m, j = (size_t)s * 104729 % (size_t)p.n;
        double sum = 0, size = 1;
        for (size_t k = 0; k < (size_t)p.k; k++) {
            double x = (double)a[p.ta ? k * (size_t)p.m + i : i * (size_t)p.k + k] *
                       (double)b[p.tb ? j * (size_t)p.k + k : k * (size_t)p.n + j];
            sum += x;
            size += fabs(x);
        }
        if (!(fabs(sum - c[i * (size_t)p.n + j]) <= 1e-5 * size))
            return 0;
    }
    return 1;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int measure(const struct peer *peer, void *f, struct product p, int threads, int repeats)
{
    int cblas = strcmp(peer->symbol, "cblas_sgemm") == 0;
    float *a = matrix((size_t)p.m * (size_t)p.k, 1), *b = matrix((size_t)p.k * (size_t)p.n, 2);
    float *c = matrix((size_t)p.m * (size_t)p.n, 3);
    double *speed = calloc((size_t)repeats, sizeof *speed), flops = 2.0 * p.m * p.n * p.k, once;
    if (!speed)
        return 2;
    call(f, cblas, p, a, b, c);
    if (!right(p, a, b, c)) {
        fprintf(stderr, "%s: wrong product\n", peer->name);
        return 1;
    }
    once = seconds();
    call(f, cblas, p, a, b, c);
    once = seconds() - once;
    int calls = once > 0.02 ? 1 : (int)(0.02 / (once + 1e-7)) + 1;
    for (int r = 0; r < repeats; r++) {
        double t = seconds();
        for (int i = 0; i < calls; i++)
            call(f, cblas, p, a, b, c);
        speed[r] = flops * calls / (seconds() - t) / 1e9;
    }
    qsort(speed, (size_t)repeats, sizeof *speed, ascending);
    printf("{\"library\": \"%s\", \"threads\": %d, \"m\": %d, \"n\": %d, \"k\": %d, \"transA\": %d, \"transB\": %d, "
           "\"gflops\": %.2f, \"best\": %.2f}\n", peer->name, threads, p.m, p.n, p.k, p.ta, p.tb,
           speed[repeats / 2], speed[repeats - 1]);
    free(a), free(b), free(c), free(speed);
    return 0;
}

static int usage(void)
{
    fputs("usage: gemm_peers [--threads N] [--repeats R] [--library openblas|blis|onednn] "
          "M N K transA transB [...]\n", stderr);
    return 2;
}

int main(int argc, char **argv)
{
    int threads = 1, repeats = 9, at = 1, failed = 0;
    const char *only = NULL;
    for (; at + 1 < argc && strncmp(argv[at], "--", 2) == 0; at += 2) {
        if (strcmp(argv[at], "--threads") == 0) threads = atoi(argv[at + 1]);
        else if (strcmp(argv[at], "--repeats") == 0) repeats = atoi(argv[at + 1]);
        else if (strcmp(argv[at], "--library") == 0) only = argv[at + 1];
        else return usage();
    }
    if (threads < 1 || repeats < 1 || at >= argc || (argc - at) % 5)
        return usage();

    char text[16];
    snprintf(text, sizeof text, "%d", threads);
    setenv("OPENBLAS_NUM_THREADS", text, 1);
    setenv("BLIS_NUM_THREADS", text, 1);
    setenv("OMP_NUM_THREADS", text, 1);

    for (size_t i = 0; i < sizeof peers / sizeof *peers; i++) {
        if (only && strcmp(only, peers[i].name))
            continue;
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            void *library = dlopen(peers[i].file, RTLD_NOW | RTLD_LOCAL);
            void *f = library ? dlsym(library, peers[i].symbol) : NULL;
            int status = 0;
            for (int j = at; f && status == 0 && j < argc; j += 5) {
                struct product p = {atoi(argv[j]), atoi(argv[j + 1]), atoi(argv[j + 2]), atoi(argv[j + 3]),
                                    atoi(argv[j + 4])};
                status = p.m > 0 && p.n > 0 && p.k > 0 ? measure(&peers[i], f, p, threads, repeats) : usage();
            }
            fflush(stdout);
            _exit(status);
        }
        int status = 0;
        if (child < 0 || waitpid(child, &status, 0) < 0 || status)
            failed = 1;
    }
    return failed;
}
