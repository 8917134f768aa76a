/* The matrix product in the shapes that models ask for, in f32 and with operands rounded to bf16. */
#include <math.h>
#include <stdlib.h>

#include "cli/bench.h"

typedef struct {
    int64_t m, n, k;
} shape;

static const shape typical[] = {{1024, 1024, 1024}, {2048, 2048, 2048}, {256, 768, 768},   {256, 2304, 768},
                                {256, 3072, 768},   {256, 768, 3072},   {256, 50257, 768}, {8, 3072, 768},
                                {1, 768, 768},      {1, 3072, 768},     {1, 50257, 768}};

typedef struct {
    qp_tensor x, w;
    bool      linear;
} product;

static void run_product(void *arg) {
    const product *p = arg;
    qp_scope       s = qp_enter(p->x.ctx);
    if (p->linear) qp_linear(p->x, p->w, QP_NONE, QP_ACT_NONE, QP_NONE);
    else qp_matmul(p->x, p->w);
    qp_leave(s);
}

/* `reading`: bytes/s that memory can be read at. */
static void measure_type(bench *b, const char *form, product p, shape s, qp_dtype type, double reading) {
    qp_autocast(b->ctx, type);
    double seconds = bench_seconds(b, run_product, &p), flops = 2.0 * (double)s.m * (double)s.n * (double)s.k;
    double bytes = 4.0 * (double)(s.m * s.k + s.k * s.n + s.m * s.n);
    double peak = type == QP_BF16 ? b->peak_bf16 : b->peak, ideal = fmax(flops / peak, bytes / b->bandwidth);
    qp_autocast(b->ctx, QP_F32);
    bench_row(b,
              json_pack("{s:s, s:s, s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:o}", "form", form, "type",
                        qp_dtype_name(type), "m", (json_int_t)s.m, "n", (json_int_t)s.n, "k", (json_int_t)s.k,
                        "seconds", cli_json_number(seconds), "gflops", cli_json_number(flops / seconds * 1e-9),
                        "peak_share", cli_json_number(flops / seconds / peak), "roofline_share",
                        cli_json_number(ideal / seconds), "reading_share",
                        cli_json_number(bytes / seconds / reading)),
              "%-10s %-5s %6lld %6lld %6lld %12.1f %11.1f%% %11.1f%% %11.1f%%", form, qp_dtype_name(type),
              (long long)s.m, (long long)s.n, (long long)s.k, flops / seconds * 1e-9,
              100 * flops / seconds / peak, 100 * ideal / seconds, 100 * bytes / seconds / reading);
}

/* Products with a transposed operand are those of a backward pass. */
static void measure(bench *b, const char *form, product p, shape s, double reading) {
    measure_type(b, form, p, s, QP_F32, reading);
    measure_type(b, form, p, s, QP_BF16, reading);
}

static void measure_shape(bench *b, shape s, double reading) {
    qp_scope  scope = qp_enter(b->ctx);
    qp_tensor x = qp_randn(b->ctx, QP_F32, 2, (int64_t[]){s.m, s.k}),
              w = qp_randn(b->ctx, QP_F32, 2, (int64_t[]){s.n, s.k});
    measure(b, "x w^T", (product){x, w, true}, s, reading);
    if (s.m >= 64) {
        qp_tensor dy = qp_randn(b->ctx, QP_F32, 2, (int64_t[]){s.m, s.n});
        measure(b, "dy w", (product){dy, w, false}, (shape){s.m, s.k, s.n}, reading);
        measure(b, "dy^T x", (product){qp_transpose(dy, 0, 1), x, false}, (shape){s.n, s.k, s.m}, reading);
    }
    qp_leave(scope);
}

static bool read_shape(bench *b, const char *text, shape *out) {
    int64_t    *sizes[] = {&out->m, &out->n, &out->k};
    const char *p = text;
    for (int i = 0; i < 3; i++) {
        char *end;
        *sizes[i] = strtoll(p, &end, 10);
        if (end == p || *sizes[i] < 1 || *sizes[i] > 1 << 20 || *end != (i < 2 ? 'x' : 0)) {
            qp_fail(b->ctx, QP_ERR_ARGUMENT, "--shape is \"%s\", expected three sizes as 256x768x768", text);
            return false;
        }
        p = end + 1;
    }
    return true;
}

static void run(bench *b) {
    int          n;
    shape        s;
    const char **given = cli_list(b->c, "shape", &n);
    for (int i = 0; i < n; i++)
        if (!read_shape(b, given[i], &s)) return;
    bench_roofline(b);
    double reading = bench_read(b);
    bench_title(b, "peak of bf16 %.1f GFLOP/s, of int8 %.1f GOP/s; memory is read at %.1f GB/s",
                b->peak_bf16 * 1e-9, bench_peak(b, QP_U8) * 1e-9, reading * 1e-9);
    bench_title(b, "%-10s %-5s %6s %6s %6s %12s %12s %12s %12s", "form", "type", "m", "n", "k", "GFLOP/s",
                "of peak", "of roofline", "of reading");
    for (int i = 0; i < n && read_shape(b, given[i], &s); i++) measure_shape(b, s, reading);
    for (size_t i = 0; !n && i < sizeof typical / sizeof typical[0]; i++) measure_shape(b, typical[i], reading);
}

const bench_kind bench_gemm = {"gemm", run};
