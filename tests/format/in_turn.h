/* Runs a job with each of its calls of the heap and of the operating system failing in turn. */
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

/* One call fails; was there such a call? The job returns whether it succeeded. */
static bool with_fault(bool (*job)(qp_ctx *ctx), int threads, long n, bool *succeeded) {
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
    bool hit = faults_end();
    if (ctx && *succeeded == failed) fail_msg("call %ld: result and error disagree: \"%s\"", n, text);
    if (failed && !text[0]) fail_msg("call %ld: no text", n);
    if (atomic_load(&faults_held) != held)
        fail_msg("call %ld: %ld blocks leaked (%s)", n, atomic_load(&faults_held) - held, text);
    if (descriptors() != open_files) fail_msg("call %ld: a descriptor leaked (%s)", n, text);
    return hit;
}

/* Every one of the first 400 calls, and then fewer and fewer. before and after (NULL is allowed) run
 * around each. */
static void in_turn(bool (*job)(qp_ctx *ctx), int threads, void (*before)(void), void (*after)(bool succeeded)) {
    bool succeeded, hit = true;
    warm(job, threads);
    for (long n = 1; hit; n += n < 400 ? 1 : 1 + n / 50) {
        if (before) before();
        hit = with_fault(job, threads, n, &succeeded);
        if (after) after(succeeded);
    }
}
#endif
#endif
