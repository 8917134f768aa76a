/* What the kinds of `quipu bench` share. */
#ifndef QUIPU_CLI_BENCH_H
#define QUIPU_CLI_BENCH_H

#include "cli/cli.h"
#include "cli/json.h"

#define BENCH_MAX_REPEATS 1000

typedef struct {
    cli         *c;
    qp_ctx      *ctx;
    bool         json;
    int          repeats;
    json_t      *rows;      /* one for each figure */
    double       peak;      /* flop/s of multiply-adds in registers, all threads */
    double       peak_bf16; /* of multiply-adds of bf16, f32's where there are none */
    double       bandwidth; /* bytes/s of copying memory that no cache holds, read and write */
    cli_progress progress;
    int64_t      done;
} bench;

typedef struct {
    const char *name;
    void (*run)(bench *b); /* errors are stored in the context */
} bench_kind;

extern const bench_kind bench_gemm, bench_memory, bench_ops, bench_step, bench_optim, bench_generate,
    bench_embed, bench_tokenize, bench_load, bench_mixers, bench_experts;

/* Seconds of one call: the median over bursts, each long enough to be measured; NaN after a
 * failure. bench_best is the least of them: what the machine can do. */
double bench_seconds(bench *b, void (*fn)(void *arg), void *arg);
double bench_best(bench *b, void (*fn)(void *arg), void *arg);
double bench_median(double *values, int n); /* sorts them */

/* Operations/s of multiply-adds in registers, all threads: see kernels/peak.h for the types. */
double bench_peak(bench *b, qp_dtype type);

/* Measures peak and bandwidth (on first use). */
void bench_roofline(bench *b);
double bench_copy(bench *b, int64_t floats); /* bytes/s of copying so many, read and write */
double bench_read(bench *b);                 /* bytes/s of reading memory that no cache holds */
const void *bench_far(bench *b);             /* such memory, of the scope; NULL after a failure */
double bench_read_once(bench *b, const void *far);

/* What each op took, by phase. */
#define BENCH_MAX_PHASES 4
typedef struct bench_profile bench_profile;

/* Watches the context's calls from now on, as those of phase 0; NULL after an error. Names must outlive it. */
bench_profile *bench_profile_new(bench *b, const char *const *names, int phases);
void bench_profile_phase(bench_profile *p, int phase);              /* NULL is allowed */
void bench_profile_repeats(bench_profile *p, int phase, int times); /* the phase ran so often */
/* Rows for phases that took so long, one run each; ends the watching and frees p. */
void bench_profile_report(bench *b, bench_profile *p, const double *seconds);
void bench_profile_free(bench *b, bench_profile *p); /* NULL is allowed */

/* The model of --preset or --config, NULL after an error; as_stored: qp_model_options. */
qp_model *bench_model(bench *b, bool as_stored);

/* A finished figure; takes over row. The text is printed unless --json. */
void bench_row(bench *b, json_t *row, const char *format, ...) QP_PRINTF(3, 4);
void bench_title(bench *b, const char *format, ...) QP_PRINTF(2, 3);

#endif
