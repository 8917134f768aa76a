#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infer/request.h"

#define MAX_STOPS 64
#define MAX_STOP_BYTES 4096 /* of one text: it is looked for after each token */

static bool wrong(char error[256], const char *format, int64_t a, int64_t b) {
    snprintf(error, 256, format, (long long)a, (long long)b);
    return true;
}

bool qpi_prompt_wrong(const int32_t *ids, int64_t n, int64_t vocabulary, char error[256]) {
    if (n < 1 || !ids) return wrong(error, "the prompt is empty", 0, 0);
    for (int64_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= vocabulary)
            return wrong(error, "the prompt has token %lld, expected 0 to %lld", ids[i], vocabulary - 1);
    return false;
}

bool qpi_request_wrong(const qp_request *r, const qp_model *m, int64_t positions, char error[256]) {
    const qp_generate_options *o = &r->options;
    int64_t                    V = m->vocabulary;
    if (r->count > positions)
        return wrong(error, "the prompt has %lld tokens, there is room for %lld", r->count, positions);
    if (qpi_prompt_wrong(r->ids, r->count, V, error)) return true;
    if (o->max_tokens < 0) return wrong(error, "max_tokens is %lld, expected 0 or more", o->max_tokens, 0);
    if (o->top < 0 || o->top > V) return wrong(error, "logprobs of %lld of %lld tokens", o->top, V);
    if (o->stop_count < 0 || o->stop_count > MAX_STOPS)
        return wrong(error, "%lld stop texts, at most %lld", o->stop_count, MAX_STOPS);
    for (int i = 0; i < o->stop_count; i++)
        if (!o->stop[i] || strlen(o->stop[i]) > MAX_STOP_BYTES)
            return wrong(error, "stop text %lld has more than %lld bytes", i, MAX_STOP_BYTES);
    if (o->ends && o->end_count < 0) return wrong(error, "%lld end tokens", o->end_count, 0);
    if (o->drafter) return wrong(error, "a drafter is the engine's, not a request's", 0, 0);
    const qpi_acceptance *rule = qpi_acceptance_of(o->accept);
    if (!rule) return wrong(error, "no such rule that accepts drafts", 0, 0);
    const char *option = qpi_sampling_wrong(V, &o->sampling);
    if (option) snprintf(error, 256, "sampling: %s is out of range", option);
    return option;
}

/* A copy of n bytes; one byte more than nothing, so that NULL means no memory. */
static void *copy(const void *data, size_t n) {
    char *to = malloc(n + 1);
    if (to && n) memcpy(to, data, n);
    return to;
}

qpi_request *qpi_request_new(const qp_request *r) {
    qpi_request *q = calloc(1, sizeof *q);
    if (!q) return NULL;
    qp_generate_options *o = &q->of.options;
    q->of = *r;
    o->accept = qpi_acceptance_of(r->options.accept)->name;
    o->stop_count = 0;
    q->of.ids = copy(r->ids, (size_t)r->count * sizeof *r->ids);
    if (o->ends) o->ends = copy(o->ends, (size_t)o->end_count * sizeof *o->ends);
    o->sampling.bias = copy(o->sampling.bias, (size_t)o->sampling.bias_count * sizeof *o->sampling.bias);
    const char **stop = calloc((size_t)r->options.stop_count + 1, sizeof *stop);
    o->stop = stop;
    while (stop && o->stop_count < r->options.stop_count &&
           (stop[o->stop_count] = strdup(r->options.stop[o->stop_count])))
        o->stop_count++;
    if (q->of.ids && (o->ends || !r->options.ends) && o->sampling.bias && stop &&
        o->stop_count == r->options.stop_count)
        return q;
    qpi_request_free(q);
    return NULL;
}

void qpi_request_free(qpi_request *r) {
    if (!r) return;
    const qp_generate_options *o = &r->of.options;
    for (int i = 0; o->stop && i < o->stop_count; i++) free((void *)(uintptr_t)o->stop[i]);
    free((void *)(uintptr_t)o->stop);
    free((void *)(uintptr_t)o->ends);
    free((void *)(uintptr_t)o->sampling.bias);
    free((void *)(uintptr_t)r->of.ids);
    free(r);
}
