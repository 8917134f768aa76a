/* quipu bench: the engine's own speed, beside what the machine can do. */
#define _GNU_SOURCE /* isatty */
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "cli/bench.h"
#include "core/core.h"
#include "kernels/peak.h"

#define BURST 0.02           /* seconds, at least, of one measurement */
#define FAR_FLOATS (1 << 25) /* 128 MiB: copying passes twice as many */
#define FAR_READ (1 << 26)   /* a cache of 32 MiB still holds a part of 128 MiB that are read again and again */

static const bench_kind *const kinds[] = {&bench_gemm,  &bench_memory,   &bench_ops,    &bench_step,
                                          &bench_optim, &bench_generate, &bench_embed,  &bench_tokenize,
                                          &bench_load,  &bench_mixers,   &bench_experts};
#define KINDS (sizeof kinds / sizeof kinds[0])

/* ---- Time --------------------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_median(double *values, int n) {
    qsort(values, (size_t)n, sizeof *values, by_value);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

/* Fills times; false after a failure. */
static bool measure(bench *b, void (*fn)(void *arg), void *arg, double *times) {
    int64_t calls = 1;
    if (cli_interrupted()) qp_fail(b->ctx, QP_ERR_CANCELLED, "cancelled");
    if (qp_failed(b->ctx)) return false;
    fn(arg); /* memory and caches warm up */
    double start = cli_now();
    fn(arg);
    double once = cli_now() - start;
    if (once < BURST) calls = (int64_t)(BURST / (once > 1e-7 ? once : 1e-7)) + 1;
    for (int r = 0; r < b->repeats; r++) {
        start = cli_now();
        for (int64_t i = 0; i < calls; i++) fn(arg);
        times[r] = (cli_now() - start) / (double)calls;
    }
    return !qp_failed(b->ctx);
}

double bench_seconds(bench *b, void (*fn)(void *arg), void *arg) {
    double times[BENCH_MAX_REPEATS];
    return measure(b, fn, arg, times) ? bench_median(times, b->repeats) : NAN;
}

double bench_best(bench *b, void (*fn)(void *arg), void *arg) {
    double times[BENCH_MAX_REPEATS];
    if (!measure(b, fn, arg, times)) return NAN;
    bench_median(times, b->repeats); /* sorts */
    return times[0];
}

/* ---- What the machine can do ----------------------------------------------------------------------- */

extern qk_peak_fn qk_peak_base, qk_peak_avx2, qk_peak_avx512;

typedef struct {
    bench      *b;
    qk_peak_fn *fn;
    qp_dtype    type;
    double      flops; /* of one thread */
} peak;

static void peak_piece(void *arg, int64_t begin, int64_t end, int worker) {
    peak *p = arg;
    float sink = 0.5f;
    (void)end;
    (void)worker;
    double flops = p->fn(p->type, 200000, &sink);
    if (begin == 0) p->flops = sink >= 0 ? flops : 0;
}

static void peak_all(void *arg) {
    peak *p = arg;
    qp_parallel(&p->b->ctx->exec, p->b->ctx->exec.threads, 1, peak_piece, p);
}

double bench_peak(bench *b, qp_dtype type) {
    peak p = {.b = b, .fn = qk_peak_base, .type = type};
#if defined(__x86_64__)
    qp_isa isa = qp_stats_of(b->ctx).isa;
    p.fn = isa == QP_ISA_AVX512 ? qk_peak_avx512 : isa == QP_ISA_AVX2 ? qk_peak_avx2 : qk_peak_base;
#endif
    double seconds = bench_best(b, peak_all, &p);
    return p.flops * b->ctx->exec.threads / seconds;
}

static void copy(void *arg) {
    qp_tensor *t = arg;
    if (qp_copy_to(t[0], t[1])) return; /* the failure is stored */
}

double bench_copy(bench *b, int64_t floats) {
    qp_scope  s = qp_enter(b->ctx);
    qp_tensor t[2] = {qp_zeros(b->ctx, QP_F32, 1, &floats), qp_zeros(b->ctx, QP_F32, 1, &floats)};
    double    seconds = bench_best(b, copy, t);
    qp_leave(s);
    return 8 * (double)floats / seconds;
}

typedef uint64_t line __attribute__((vector_size(64)));

typedef struct {
    const line *lines;
    line        sum;
} reading;

/* Four places at once: one alone leaves half of what memory can give. */
static void read_piece(void *arg, int64_t begin, int64_t end, int worker) {
    reading    *r = arg;
    line        sum = {0};
    int64_t     part = (end - begin) / 4;
    const line *at = r->lines + begin;
    (void)worker;
    for (int64_t i = 0; i < part; i++) sum |= at[i] | at[part + i] | at[2 * part + i] | at[3 * part + i];
    if (begin == 0) r->sum = sum; /* lest the loop be left out */
}

const void *bench_far(bench *b) { return qp_data_of(qp_zeros(b->ctx, QP_F32, 1, &(int64_t){FAR_READ})); }

double bench_read_once(bench *b, const void *far) {
    reading r = {.lines = far};
    double  start = cli_now();
    if (!far) return NAN;
    qp_parallel(&b->ctx->exec, FAR_READ / 16, 1 << 14, read_piece, &r);
    return 4 * (double)FAR_READ / (cli_now() - start);
}

double bench_read(bench *b) {
    double      speeds[BENCH_MAX_REPEATS];
    qp_scope    s = qp_enter(b->ctx);
    const void *far = bench_far(b);
    for (int r = 0; r < b->repeats; r++) speeds[r] = bench_read_once(b, far);
    qp_leave(s);
    return bench_median(speeds, b->repeats);
}

void bench_roofline(bench *b) {
    if (b->peak > 0) return;
    b->peak = bench_peak(b, QP_F32);
    b->peak_bf16 = fmax(b->peak, bench_peak(b, QP_BF16));
    b->bandwidth = bench_copy(b, FAR_FLOATS);
    bench_title(b, "%d threads: peak %.1f GFLOP/s, memory %.1f GB/s", b->ctx->exec.threads, b->peak * 1e-9,
                b->bandwidth * 1e-9);
}

/* ---- Rows --------------------------------------------------------------------------------------------- */

static void print(const bench *b, const char *format, va_list args) {
    if (b->json || qp_failed(b->ctx)) return;
    vprintf(format, args);
    putchar('\n');
    fflush(stdout);
}

void bench_row(bench *b, json_t *row, const char *format, ...) {
    va_list args;
    va_start(args, format);
    print(b, format, args);
    va_end(args);
    json_array_append_new(b->rows, row);
    if (b->json) cli_progress_show(&b->progress, ++b->done, "measured");
}

void bench_title(bench *b, const char *format, ...) {
    va_list args;
    va_start(args, format);
    print(b, format, args);
    va_end(args);
}

/* ---- The verb ------------------------------------------------------------------------------------------- */

static int report(const bench *b, const char *kind) {
    static const char *const isas[] = {
        [QP_ISA_BEST] = "best", [QP_ISA_BASE] = "base", [QP_ISA_AVX2] = "avx2", [QP_ISA_AVX512] = "avx512"};
    if (!b->json) return 0;
    json_t *all = json_pack("{s:s, s:i, s:s, s:i}", "kind", kind, "threads", b->ctx->exec.threads, "isa",
                            isas[qp_stats_of(b->ctx).isa], "repeats", b->repeats);
    if (all && b->peak > 0) {
        json_object_set_new(all, "peak_gflops", cli_json_number(b->peak * 1e-9));
        json_object_set_new(all, "peak_bf16_gflops", cli_json_number(b->peak_bf16 * 1e-9));
        json_object_set_new(all, "memory_gbytes", cli_json_number(b->bandwidth * 1e-9));
    }
    json_object_set(all, "rows", b->rows);
    return cli_json_print(all);
}

static int run(cli *c) {
    bench             b = {.c = c, .json = cli_flag(c, "json"), .repeats = (int)cli_int(c, "repeats")};
    const bench_kind *kind = NULL;
    for (size_t i = 0; i < KINDS; i++)
        if (!strcmp(kinds[i]->name, cli_argument(c, 0))) kind = kinds[i];
    if (!kind)
        return cli_usage(c,
                         "bench: no kind \"%s\": gemm, memory, ops, step, optim, generate, embed, load, "
                         "tokenize, mixers or experts",
                         cli_argument(c, 0));
    if (!(b.ctx = cli_open(c))) return 1;
    b.rows = json_array();
    b.progress = cli_progress_start(c, 0);
    kind->run(&b);
    cli_progress_end(&b.progress);
    int status = qp_failed(b.ctx) ? cli_failed(b.ctx) : report(&b, kind->name);
    json_decref(b.rows);
    return status;
}

static const cli_option options[] = {
    {"repeats", 'r', CLI_INT, "N", "7", "measurements, of which the median counts", 1, BENCH_MAX_REPEATS,
     false},
    {"shape", 0, CLI_LIST, "MxNxK", NULL, "gemm: these products [typical ones]", 0, 0, false},
    {"only", 0, CLI_LIST, "OP", NULL, "ops, mixers: these [all]", 0, 0, false},
    {"preset", 0, CLI_TEXT, "NAME", "gpt2", "step, optim, generate, embed: a preset's model with fresh weights",
     0, 0, false},
    {"config", 0, CLI_TEXT, "FILE", NULL,
     "step, generate, embed, load: that of a model folder or file or a config.json", 0, 0, false},
    {"batch", 'b', CLI_INT, "B", "4", "step, embed, mixers: rows of a batch", 1, 65536, false},
    {"length", 'l', CLI_INT, "T", "64",
     "step, embed: positions of a row; mixers: also twice as many; generate: of the prompt", 1, 1e6, false},
    {"steps", 'n', CLI_INT, "N", "10", "step: steps to measure; generate: tokens", 1, 1e6, false},
    {"precision", 0, CLI_CHOICE, "fp32|bf16", "fp32", "step: that products round their inputs to", 0, 0, false},
    {"rows", 0, CLI_INT, "R", "1", "generate: sequences at once", 1, 4096, false},
    {"kv", 0, CLI_CHOICE, "f32|bf16|f16|q8_0", "f32", "generate: what keys and values are kept in", 0, 0,
     false},
    {"profile", 0, CLI_FLAG, NULL, NULL, "step, generate: what each op takes of it", 0, 0, false},
    {"data", 0, CLI_LIST, "FILE", NULL, "tokenize: texts", 0, 0, false},
    {"model", 'm', CLI_TEXT, "MODEL", NULL,
     "tokenize: model folder or tokenizer.json [one learnt from the texts]", 0, 0, false},
    {"size", 0, CLI_INT, "N", "32768", "tokenize: tokens to learn", 257, 1e7, false},
    {0}};

QP_VERB(bench) = {.name = "bench",
                  .summary = "the engine's speed beside what the machine can do",
                  .arguments = "gemm|memory|ops|step|optim|generate|embed|load|tokenize|mixers|experts",
                  .min_arguments = 1,
                  .max_arguments = 1,
                  .options = options,
                  .examples = "  quipu bench gemm -t 2\n"
                              "  quipu bench ops --json\n"
                              "  quipu bench step --preset gpt2 --batch 4 --length 64 --steps 10 --profile\n"
                              "  quipu bench generate --preset gpt2 --length 16 --steps 64\n"
                              "  quipu bench embed --config all-MiniLM-L6-v2 --batch 32 --length 32\n"
                              "  quipu bench load --config model.gguf\n"
                              "  quipu bench mixers --only linear --batch 1 --length 8192\n"
                              "  quipu bench tokenize --data book.txt -t 1\n",
                  .run = run};
