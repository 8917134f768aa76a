/* How each is tuned: the same number of threads, through variables set before they load. OpenBLAS
 * and BLIS of 2022 do not know newer processors and would choose kernels for AVX2 or none: they are
 * told to use those for AVX-512 where the processor has it. f32 products of oneDNN go through
 * dnnl_sgemm, which was as fast as its matmul without packed weights; bf16 through matmul. */
#define _GNU_SOURCE
#include "gemm_peers.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

#if HAVE_DNNL
#include <oneapi/dnnl/dnnl.h>
#endif

const char *const peer_names[PEERS] = {"openblas", "blis", "onednn", "onednn_packed"};

enum { ROW_MAJOR = 101, NO_TRANS = 111, TRANS = 112 };
typedef void cblas_fn(int order, int ta, int tb, int m, int n, int k, float alpha, const float *a, int lda,
                      const float *b, int ldb, float beta, float *c, int ldc);
typedef void gemv_fn(int order, int t, int m, int n, float alpha, const float *a, int lda, const float *x,
                     int incx, float beta, float *y, int incy);
typedef int sgemm_fn(char ta, char tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
                     int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc);

static struct {
    cblas_fn *gemm[2];
    gemv_fn  *gemv[2];
    sgemm_fn *sgemm;
} peers;

static void load_blas(int who, const char *file) {
    void *lib = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (!lib) return;
    peers.gemm[who] = (cblas_fn *)dlsym(lib, "cblas_sgemm");
    peers.gemv[who] = (gemv_fn *)dlsym(lib, "cblas_sgemv");
}

void peers_load(int threads) {
    char text[16];
    snprintf(text, sizeof text, "%d", threads);
    setenv("OMP_NUM_THREADS", text, 1);
    setenv("OPENBLAS_NUM_THREADS", text, 1);
    setenv("BLIS_NUM_THREADS", text, 1);
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512vl")) {
        setenv("OPENBLAS_CORETYPE", "SKYLAKEX", 0);
        setenv("BLIS_ARCH_TYPE", "0", 0); /* skx */
    }
#endif
    load_blas(OPENBLAS, "libopenblas.so.0");
    load_blas(BLIS, "libblis.so.4");
    void *lib = dlopen("libdnnl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (!lib) lib = dlopen("libdnnl.so.3", RTLD_NOW | RTLD_LOCAL);
    if (lib) peers.sgemm = (sgemm_fn *)dlsym(lib, "dnnl_sgemm");
    /* for the OpenMP that was loaded with the program */
    void (*set_threads)(int) = (void (*)(int))dlsym(RTLD_DEFAULT, "omp_set_num_threads");
    if (set_threads) set_threads(threads);
}

/* ---- oneDNN's matmul --------------------------------------------------------------------------- */

#if HAVE_DNNL && DNNL_VERSION_MAJOR == 2

static struct {
    dnnl_engine_t    engine;
    dnnl_stream_t    stream;
    dnnl_primitive_t matmul;
    dnnl_memory_t    a, b, c;
} onednn;

static dnnl_memory_desc_t describe(int64_t rows, int64_t cols, bool turned, dnnl_data_type_t type) {
    dnnl_memory_desc_t d;
    dnnl_memory_desc_init_by_strides(&d, 2, (dnnl_dims_t){rows, cols}, type,
                                     turned ? (dnnl_dims_t){1, rows} : (dnnl_dims_t){cols, 1});
    return d;
}

/* B in the layout that the primitive wants. */
static dnnl_memory_t packed(dnnl_memory_t b, const dnnl_memory_desc_t *from, const dnnl_memory_desc_t *to) {
    dnnl_memory_t         out;
    dnnl_primitive_desc_t desc;
    dnnl_primitive_t      reorder;
    dnnl_memory_create(&out, to, onednn.engine, DNNL_MEMORY_ALLOCATE);
    dnnl_reorder_primitive_desc_create(&desc, from, onednn.engine, to, onednn.engine, NULL);
    dnnl_primitive_create(&reorder, desc);
    dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, b}, {DNNL_ARG_TO, out}};
    dnnl_primitive_execute(reorder, onednn.stream, 2, args);
    dnnl_stream_wait(onednn.stream);
    dnnl_primitive_destroy(reorder);
    dnnl_primitive_desc_destroy(desc);
    dnnl_memory_destroy(b);
    return out;
}

static bool has_matmul(void) { return true; }

static void prepare(const peer_product *p, bool pack) {
    dnnl_data_type_t      type = p->bf16 ? dnnl_bf16 : dnnl_f32;
    dnnl_memory_desc_t    a = describe(p->m, p->k, p->ta, type), b = describe(p->k, p->n, p->tb, type), any = b,
                          c = describe(p->m, p->n, false, dnnl_f32);
    dnnl_matmul_desc_t    matmul;
    dnnl_primitive_desc_t desc;
    dnnl_primitive_attr_t attr = NULL;
    if (!onednn.engine) {
        dnnl_engine_create(&onednn.engine, dnnl_cpu, 0);
        dnnl_stream_create(&onednn.stream, onednn.engine, dnnl_stream_default_flags);
    }
    if (pack) dnnl_memory_desc_init_by_tag(&any, 2, (dnnl_dims_t){p->k, p->n}, type, dnnl_format_tag_any);
    if (p->accumulate) {
        dnnl_post_ops_t ops;
        dnnl_primitive_attr_create(&attr);
        dnnl_post_ops_create(&ops);
        dnnl_post_ops_append_sum(ops, 1);
        dnnl_primitive_attr_set_post_ops(attr, ops);
        dnnl_post_ops_destroy(ops);
    }
    dnnl_matmul_desc_init(&matmul, &a, &any, NULL, &c);
    dnnl_primitive_desc_create(&desc, &matmul, attr, onednn.engine, NULL);
    dnnl_primitive_create(&onednn.matmul, desc);
    dnnl_memory_create(&onednn.a, &a, onednn.engine, (void *)p->a);
    dnnl_memory_create(&onednn.b, &b, onednn.engine, (void *)p->b);
    dnnl_memory_create(&onednn.c, &c, onednn.engine, p->c);
    if (pack) onednn.b = packed(onednn.b, &b, dnnl_primitive_desc_query_md(desc, dnnl_query_weights_md, 0));
    dnnl_primitive_desc_destroy(desc);
    if (attr) dnnl_primitive_attr_destroy(attr);
}

static void multiply(void) {
    dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, onednn.a}, {DNNL_ARG_WEIGHTS, onednn.b}, {DNNL_ARG_DST, onednn.c}};
    dnnl_primitive_execute(onednn.matmul, onednn.stream, 3, args);
    dnnl_stream_wait(onednn.stream);
}

static void finish(void) {
    dnnl_primitive_destroy(onednn.matmul);
    dnnl_memory_destroy(onednn.a);
    dnnl_memory_destroy(onednn.b);
    dnnl_memory_destroy(onednn.c);
}

#else

static bool has_matmul(void) { return false; }
static void prepare(const peer_product *p, bool pack) { (void)p, (void)pack; }
static void multiply(void) {}
static void finish(void) {}

#endif

/* ---- All ----------------------------------------------------------------------------------------- */

static bool by_matmul(int peer, const peer_product *p) {
    return peer == ONEDNN_PACKED || (peer == ONEDNN && p->bf16);
}

bool peer_takes(int peer, const peer_product *p) {
    if (by_matmul(peer, p)) return has_matmul();
    if (p->bf16) return false;
    return peer == ONEDNN ? peers.sgemm != NULL : peers.gemm[peer] && peers.gemv[peer];
}

void peer_prepare(int peer, const peer_product *p) {
    if (by_matmul(peer, p)) prepare(p, peer == ONEDNN_PACKED);
}

void peer_finish(int peer, const peer_product *p) {
    if (by_matmul(peer, p)) finish();
}

void peer_run(int peer, const peer_product *p) {
    int   m = (int)p->m, n = (int)p->n, k = (int)p->k, lda = p->ta ? m : k, ldb = p->tb ? k : n;
    float beta = p->accumulate;
    if (by_matmul(peer, p)) multiply();
    else if (peer == ONEDNN)
        peers.sgemm(p->ta ? 'T' : 'N', p->tb ? 'T' : 'N', m, n, k, 1, p->a, lda, p->b, ldb, beta, p->c, n);
    else if (m == 1)
        peers.gemv[peer](ROW_MAJOR, p->tb ? NO_TRANS : TRANS, p->tb ? n : k, p->tb ? k : n, 1, p->b, ldb, p->a,
                         1, beta, p->c, 1);
    else
        peers.gemm[peer](ROW_MAJOR, p->ta ? TRANS : NO_TRANS, p->tb ? TRANS : NO_TRANS, m, n, k, 1, p->a, lda,
                         p->b, ldb, beta, p->c, n);
}
