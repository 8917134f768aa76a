#define _GNU_SOURCE /* memmem, clock_gettime */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/core.h"
#include "quipu/infer.h"

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

typedef struct {
    qp_ctx              *ctx;
    qp_session          *session;
    const qp_tokenizer  *tokenizer;
    qp_generate_options *options;
    float               *logits;
    int64_t              vocabulary;
    qp_sampler          *sampler;
    qp_decoding          decoding;
    qp_text              pending; /* decoded, not yet given out: a stop text may begin in it */
    bool                 stopped;
    qp_stop_reason       reason;
} writer;

/* Feeds ids and fetches the logits of the last. */
static bool feed(writer *w, const int32_t *ids, int64_t n) {
    qp_scope  s = qp_enter(w->ctx);
    qp_tensor t = qp_session_feed(w->session, qp_from(w->ctx, QP_I32, 2, (int64_t[]){1, n}, ids));
    if (!w->logits && !qp_failed(w->ctx)) {
        w->vocabulary = qp_size(t, 1);
        w->logits = malloc((size_t)w->vocabulary * sizeof *w->logits);
        if (!w->logits) qp_fail(w->ctx, QP_ERR_MEMORY, "out of memory: logits");
    }
    if (!qp_failed(w->ctx)) qp_read(t, QP_F32, w->logits, w->vocabulary);
    qp_leave(s);
    return !qp_failed(w->ctx);
}

static void stop(writer *w, qp_stop_reason reason) {
    if (!w->stopped) w->reason = reason;
    w->stopped = true;
}

static void give(writer *w, size_t bytes) {
    if (bytes && w->options->on_text && !w->options->on_text(w->options->user, w->pending.data, bytes))
        stop(w, QP_STOP_CALLBACK);
    memmove(w->pending.data, w->pending.data + bytes, w->pending.count - bytes);
    w->pending.count -= bytes;
}

/* How many bytes at the end of the pending text might begin a stop text. */
static size_t held_back(const writer *w) {
    size_t most = 0;
    for (int i = 0; i < w->options->stop_count; i++) {
        const char *stop = w->options->stop[i];
        size_t      n = strlen(stop), longest = n ? n - 1 : 0;
        if (longest > w->pending.count) longest = w->pending.count;
        for (size_t k = longest; k > most; k--)
            if (!memcmp(w->pending.data + w->pending.count - k, stop, k)) most = k;
    }
    return most;
}

static void pass_on(writer *w, bool last) {
    char *first = NULL;
    for (int i = 0; i < w->options->stop_count; i++) {
        const char *stop = w->options->stop[i];
        char       *at =
            *stop && w->pending.count ? memmem(w->pending.data, w->pending.count, stop, strlen(stop)) : NULL;
        if (at && (!first || at < first)) first = at;
    }
    if (first) {
        stop(w, QP_STOP_TEXT);
        give(w, (size_t)(first - w->pending.data));
        w->pending.count = 0;
    } else if (w->pending.count) {
        give(w, w->pending.count - (last ? 0 : held_back(w)));
    }
}

static bool ends(const writer *w, int32_t id) {
    if (!w->options->ends) return w->tokenizer && id == qp_tokenizer_end(w->tokenizer);
    for (int i = 0; i < w->options->end_count; i++)
        if (w->options->ends[i] == id) return true;
    return false;
}

/* Models' vocabularies are often larger than their tokenizers'. */
static bool has_text(const writer *w, int32_t id) {
    return w->tokenizer && qp_tokenizer_token(w->tokenizer, id);
}

static void write_tokens(writer *w, qp_generation *result) {
    w->reason = QP_STOP_LENGTH;
    while (result->tokens < w->options->max_tokens && !w->stopped && !qp_failed(w->ctx)) {
        int32_t id = qp_sampler_draw(w->sampler, w->logits);
        if (w->ctx->cancelled) qp_fail(w->ctx, QP_ERR_CANCELLED, "cancelled");
        if (ends(w, id)) {
            w->reason = QP_STOP_END_TOKEN;
            return;
        }
        result->tokens++;
        if (w->options->on_token && !w->options->on_token(w->options->user, id)) stop(w, QP_STOP_CALLBACK);
        if (has_text(w, id)) {
            if (qp_decode_next(w->ctx, w->tokenizer, &w->decoding, id, true, &w->pending) != QP_OK) return;
            pass_on(w, false);
        }
        if (qp_session_length(w->session) == qp_session_room(w->session)) return; /* full: as at max_tokens */
        if (result->tokens < w->options->max_tokens && !w->stopped) feed(w, &id, 1);
    }
}

qp_status qp_generate(qp_session *session, const qp_tokenizer *t, const int32_t *ids, int64_t n,
                      qp_generate_options options, qp_generation *result) {
    qp_ctx *ctx = qp_session_ctx(session);
    writer  w = {.ctx = ctx, .session = session, .tokenizer = t, .options = &options};
    *result = (qp_generation){.prompt_tokens = n};
    if (qp_failed(ctx)) return qp_error_code(ctx);
    if (n < 1) return qp_fail(ctx, QP_ERR_ARGUMENT, "generate: the prompt is empty");
    double start = now();
    if (feed(&w, ids, n)) {
        w.sampler = qp_sampler_new(ctx, w.vocabulary, options.sampling, options.seed);
        for (int64_t i = 0; w.sampler && i < n; i++) qp_sampler_seen(w.sampler, ids[i]);
        result->prompt_seconds = now() - start;
        if (w.sampler) write_tokens(&w, result);
        if (t && !qp_failed(ctx) && !w.stopped && qp_decode_end(ctx, &w.decoding, &w.pending) == QP_OK)
            pass_on(&w, true);
        result->seconds = now() - start - result->prompt_seconds;
        result->reason = w.reason;
    }
    qp_sampler_close(w.sampler);
    free(w.logits);
    qp_text_free(&w.pending);
    return qp_error_code(ctx);
}
