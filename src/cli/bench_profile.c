/* The profile of a step: what each op took, beside what it would at the machine's limits. The
 * roofline of a call is the longer of its arithmetic at the peak and its bytes at the speed of
 * copying memory; above 100%, the bytes came from a cache. */
#include <math.h>
#include <stdlib.h>

#include "cli/bench.h"
#include "quipu/op.h"

#define MAX_LINES 256 /* ops x phases of one step */

typedef struct {
    const qp_op *op;
    int          phase;
    int64_t      calls;
    double       seconds, flops, bytes, ideal; /* sums */
} line;

struct bench_profile {
    bench             *b;
    const char *const *names; /* of phases */
    int                phases, phase, repeats[BENCH_MAX_PHASES];
    int                count;
    line               lines[MAX_LINES];
};

static line *line_of(bench_profile *p, const qp_op *op) {
    for (int i = 0; i < p->count; i++)
        if (p->lines[i].op == op && p->lines[i].phase == p->phase) return &p->lines[i];
    if (p->count == MAX_LINES) return NULL;
    p->lines[p->count] = (line){.op = op, .phase = p->phase};
    return &p->lines[p->count++];
}

static void observe(void *user, const qp_call *call, double seconds) {
    bench_profile *p = user;
    line          *l = line_of(p, call->op);
    if (!l) return; /* counts as outside */
    double flops = qp_call_flops(call), bytes = qp_call_bytes(call);
    l->calls++;
    l->seconds += seconds;
    l->flops += flops;
    l->bytes += bytes;
    l->ideal += fmax(flops / p->b->peak, bytes / p->b->bandwidth);
}

bench_profile *bench_profile_new(bench *b, const char *const *names, int phases) {
    bench_profile *p = calloc(1, sizeof *p);
    if (!p) {
        qp_fail(b->ctx, QP_ERR_MEMORY, "out of memory: profile");
        return NULL;
    }
    p->b = b;
    p->names = names;
    p->phases = phases;
    for (int i = 0; i < phases; i++) p->repeats[i] = 1;
    qp_observe(b->ctx, observe, p);
    return p;
}

void bench_profile_phase(bench_profile *p, int phase) {
    if (p) p->phase = phase;
}

void bench_profile_repeats(bench_profile *p, int phase, int times) {
    if (p) p->repeats[phase] = times;
}

void bench_profile_free(bench *b, bench_profile *p) {
    qp_observe(b->ctx, NULL, NULL);
    free(p);
}

static int slower_first(const void *a, const void *b) {
    double x = ((const line *)a)->seconds, y = ((const line *)b)->seconds;
    return (x < y) - (x > y);
}

static void row(bench *b, const line *l, const char *name, const char *phase, double whole) {
    double calls = (double)l->calls, seconds = l->seconds;
    bench_row(b,
              json_pack("{s:s, s:s, s:f, s:o, s:o, s:o, s:o, s:o}", "op", name, "phase", phase, "calls", calls,
                        "seconds", cli_json_number(seconds), "step_share", cli_json_number(seconds / whole),
                        "gflops", cli_json_number(l->flops / l->seconds * 1e-9), "gbytes",
                        cli_json_number(l->bytes / l->seconds * 1e-9), "roofline_share",
                        cli_json_number(l->ideal / l->seconds)),
              "%-26s %-9s %7.0f %10.3f %6.1f%% %9.1f %8.1f %10.0f%%", name, phase, calls, seconds * 1e3,
              100 * seconds / whole, l->flops / l->seconds * 1e-9, l->bytes / l->seconds * 1e-9,
              100 * l->ideal / l->seconds);
}

/* What a phase took besides its ops: shapes, memory, records, scopes. */
static void row_outside(bench *b, const char *phase, double seconds, double whole) {
    bench_row(b,
              json_pack("{s:s, s:s, s:o, s:o}", "op", "outside", "phase", phase, "seconds",
                        cli_json_number(seconds), "step_share", cli_json_number(seconds / whole)),
              "%-26s %-9s %7s %10.3f %6.1f%%", "outside ops", phase, "", seconds * 1e3, 100 * seconds / whole);
}

void bench_profile_report(bench *b, bench_profile *p, const double *seconds) {
    line   sums[BENCH_MAX_PHASES + 1] = {0}, *all = &sums[p->phases];
    double whole = 0;
    for (int i = 0; i < p->phases; i++) whole += seconds[i];
    for (int i = 0; i < p->count; i++) { /* of one */
        line *l = &p->lines[i];
        int   times = p->repeats[l->phase];
        l->calls /= times, l->seconds /= times, l->flops /= times, l->bytes /= times, l->ideal /= times;
    }
    qsort(p->lines, (size_t)p->count, sizeof *p->lines, slower_first);
    bench_title(b, "%-26s %-9s %7s %10s %7s %9s %8s %11s", "op", "phase", "calls", "ms", "share", "GFLOP/s",
                "GB/s", "of roofline");
    for (int i = 0; i < p->count; i++) {
        const line *l = &p->lines[i];
        line       *to[] = {&sums[l->phase], all};
        row(b, l, l->op->name, p->names[l->phase], seconds[l->phase]);
        for (int k = 0; k < 2; k++) {
            to[k]->calls += l->calls;
            to[k]->seconds += l->seconds;
            to[k]->flops += l->flops;
            to[k]->bytes += l->bytes;
            to[k]->ideal += l->ideal;
        }
    }
    for (int i = 0; i < p->phases; i++) {
        row(b, &sums[i], "all ops", p->names[i], seconds[i]);
        row_outside(b, p->names[i], seconds[i] - sums[i].seconds, seconds[i]);
    }
    row(b, all, "all ops", "all", whole);
    row_outside(b, "all", whole - all->seconds, whole);
    bench_profile_free(b, p);
}
