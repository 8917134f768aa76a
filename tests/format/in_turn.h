/* Runs a job with its calls of the heap and of the operating system failing in turn. */
#ifndef TESTS_FORMAT_IN_TURN_H
#define TESTS_FORMAT_IN_TURN_H

#include "faults.h"

#if FAULTS
#include "quipu/core.h"

static int files_in(const char *where) {
    int  n = 0;
    DIR *d = opendir(where);
    for (struct dirent *x; d && (x = readdir(d));) n += x->d_name[0] != '.';
    if (d) closedir(d);
    return n;
}

static int descriptors(void) { return files_in("/proc/self/fd"); }

/* The job as it should go. */
static void warm(bool (*job)(qp_ctx *ctx), int threads) {
    qp_ctx *ctx = qp_open((qp_options){.threads = threads});
    if (!job(ctx)) fail_msg("%s", qp_error(ctx));
    qp_close(ctx);
}

/* One call fails. The job returns whether it succeeded. */
static void with_fault(bool (*job)(qp_ctx *ctx), int threads, long n, bool *succeeded) {
    long held = atomic_load(&faults_held);
    bool failed = false;
    int  open_files = descriptors();
    char text[600] = "";
    *succeeded = false;
    faults_begin(n);
    qp_ctx *ctx = qp_open((qp_options){.threads = threads});
    if (ctx) {
        *succeeded = job(ctx);
        failed = qp_failed(ctx);
        snprintf(text, sizeof text, "%s", qp_error(ctx));
        qp_close(ctx);
    }
    faults_end();
    if (ctx && *succeeded == failed) fail_msg("call %ld: result and error disagree: \"%s\"", n, text);
    if (failed && !text[0]) fail_msg("call %ld: no text", n);
    if (atomic_load(&faults_held) != held)
        fail_msg("call %ld: %ld blocks leaked (%s)", n, atomic_load(&faults_held) - held, text);
    if (descriptors() != open_files) fail_msg("call %ld: a descriptor leaked (%s)", n, text);
}

/* Rows of callers, by their number. */
typedef struct {
    uint64_t from;
    long     seen, last;
} caller;
enum { CALLERS = 1 << 16 };
static caller callers[CALLERS];

static caller *caller_of(long n) {
    uint64_t at = faults_from[n];
    while (callers[at % CALLERS].seen && callers[at % CALLERS].from != faults_from[n]) at++;
    callers[at % CALLERS].from = faults_from[n];
    return &callers[at % CALLERS];
}

/* Takes the calls that are worth failing out of `count`: the first two and the last of each row of
 * callers. chosen[n]: is call n one? */
static void choose(long count, bool *chosen) {
    memset(callers, 0, sizeof callers);
    for (long n = 0; n < count; n++) {
        caller *c = caller_of(n);
        chosen[n] = c->seen++ < 2;
        c->last = n;
    }
    for (int i = 0; i < CALLERS; i++)
        if (callers[i].seen) chosen[callers[i].last] = true;
}

/* Each call of the heap and of the system that the job makes, the first two times and the last that it
 * comes from the same row of callers. before and after (NULL is allowed) run around each. */
static void in_turn(bool (*job)(qp_ctx *ctx), int threads, void (*before)(void),
                    void (*after)(bool succeeded)) {
    static bool chosen[FAULTS_RECORDED];
    bool        succeeded;
    warm(job, threads);
    if (before) before();
    faults_record_begin();
    warm(job, threads);
    long count = faults_record_end();
    choose(count, chosen);
    for (long n = 0; n < count; n++) {
        if (!chosen[n]) continue;
        if (before) before();
        with_fault(job, threads, n + 1, &succeeded);
        if (after) after(succeeded);
    }
}
#endif
#endif
