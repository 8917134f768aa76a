#define _GNU_SOURCE /* memmem */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "infer/reply.h"

/* Models' vocabularies are often larger than their tokenizers'. */
static bool has_text(const qpi_reply *r, int32_t id) {
    return r->tokenizer && qp_tokenizer_token(r->tokenizer, id);
}

/* What is written goes on where the echoed prompt ends: a space at its beginning stays. */
static void decode_prompt(qpi_reply *r, const int32_t *prompt, int64_t n) {
    for (int64_t i = 0; i < n && !qp_failed(r->ctx); i++)
        if (has_text(r, prompt[i]) &&
            qp_decode_next(r->ctx, r->tokenizer, &r->decoding, prompt[i], true, &r->pending) != QP_OK)
            return;
    /* a decoder that sees the end of a text has seen it */
    if ((r->decoding.ids.count || r->decoding.last) &&
        qp_decode_end(r->ctx, &r->decoding, &r->pending) != QP_OK)
        return;
    r->pending.count = 0;
}

bool qpi_reply_open(qpi_reply *r, qp_ctx *ctx, const qp_tokenizer *t, const qp_generate_options *options,
                    int64_t vocabulary, const int32_t *prompt, int64_t n) {
    *r = (qpi_reply){
        .ctx = ctx, .tokenizer = t, .options = options, .vocabulary = vocabulary, .mark = qpi_now()};
    r->result.prompt_tokens = n;
    if (options->top < 0 || options->top > vocabulary)
        qp_fail(ctx, QP_ERR_ARGUMENT, "generate: logprobs of the %d likeliest of %lld tokens", options->top,
                (long long)vocabulary);
    r->sampler = qp_sampler_new(ctx, vocabulary, options->sampling, options->seed);
    for (int64_t i = 0; r->sampler && i < n; i++) qp_sampler_seen(r->sampler, prompt[i]);
    r->acceptance = qpi_acceptance_of(options->accept);
    if (!r->acceptance)
        qp_fail(ctx, QP_ERR_ARGUMENT,
                "generate: no rule \"%.40s\" that accepts drafts (match, rejection, typical)", options->accept);
    if (!qp_failed(ctx) && r->acceptance->room &&
        !(r->chances = malloc(2 * (size_t)vocabulary * sizeof *r->chances)))
        qp_fail(ctx, QP_ERR_MEMORY, "out of memory: chances");
    if (!qp_failed(ctx) && options->logprobs) {
        r->logprobs = malloc((size_t)(options->top + 1) * sizeof *r->logprobs);
        r->logits = malloc((size_t)vocabulary * sizeof *r->logits);
        if (!r->logprobs || !r->logits) qp_fail(ctx, QP_ERR_MEMORY, "out of memory: logprobs");
    }
    if (options->echo) decode_prompt(r, prompt, n);
    return !qp_failed(ctx);
}

void qpi_reply_close(qpi_reply *r) {
    qp_sampler_close(r->sampler);
    free(r->logprobs);
    free(r->logits);
    free(r->chances);
    qp_text_free(&r->pending);
}

void qpi_reply_stop(qpi_reply *r, qp_stop_reason reason) {
    if (!r->stopped) r->result.reason = reason;
    r->stopped = true;
}

/* ---- Text ----------------------------------------------------------------------------------------- */

static void give(qpi_reply *r, size_t bytes) {
    if (bytes && r->options->on_text && !r->options->on_text(r->options->user, r->pending.data, bytes))
        qpi_reply_stop(r, QP_STOP_CALLBACK);
    memmove(r->pending.data, r->pending.data + bytes, r->pending.count - bytes);
    r->pending.count -= bytes;
}

/* How many bytes at the end of the pending text might begin a stop text. */
static size_t held_back(const qpi_reply *r) {
    size_t most = 0;
    for (int i = 0; i < r->options->stop_count; i++) {
        const char *stop = r->options->stop[i];
        size_t      n = strlen(stop), longest = n ? n - 1 : 0;
        if (longest > r->pending.count) longest = r->pending.count;
        for (size_t k = longest; k > most; k--)
            if (!memcmp(r->pending.data + r->pending.count - k, stop, k)) most = k;
    }
    return most;
}

static void pass_on(qpi_reply *r, bool last) {
    char *first = NULL;
    for (int i = 0; i < r->options->stop_count; i++) {
        const char *stop = r->options->stop[i];
        char       *at =
            *stop && r->pending.count ? memmem(r->pending.data, r->pending.count, stop, strlen(stop)) : NULL;
        if (at && (!first || at < first)) first = at;
    }
    if (first) {
        qpi_reply_stop(r, QP_STOP_TEXT);
        give(r, (size_t)(first - r->pending.data));
        r->pending.count = 0;
    } else if (r->pending.count) {
        give(r, r->pending.count - (last ? 0 : held_back(r)));
    }
}

/* ---- Tokens --------------------------------------------------------------------------------------- */

static bool ends(const qpi_reply *r, int32_t id) {
    if (!r->options->ends) return r->tokenizer && id == qp_tokenizer_end(r->tokenizer);
    for (int i = 0; i < r->options->end_count; i++)
        if (r->options->ends[i] == id) return true;
    return false;
}

static void hand_on(qpi_reply *r, qp_token token) {
    if (r->options->on_token && !r->options->on_token(r->options->user, &token))
        qpi_reply_stop(r, QP_STOP_CALLBACK);
}

/* The token with its logprobs, which r->logprobs holds if asked for. */
static qp_token described(const qpi_reply *r, int32_t id, bool prompt) {
    qp_token t = {.id = id, .prompt = prompt};
    if (!r->logprobs) return t;
    t.logprob = r->logprobs[0].logprob;
    t.top = r->logprobs + 1;
    t.top_count = r->options->top;
    return t;
}

void qpi_reply_echo(qpi_reply *r, int32_t id, const float *logits) {
    if (!r->options->echo || r->stopped) return;
    if (r->logprobs && logits) qp_logprobs(logits, r->vocabulary, id, r->options->top, r->logprobs);
    qp_token t = described(r, id, true);
    if (!logits) {
        t.logprob = NAN;
        t.top_count = 0;
    }
    hand_on(r, t);
}

/* The drawn token counts; its text goes out. */
static void take(qpi_reply *r, int32_t id) {
    r->result.tokens++;
    hand_on(r, described(r, id, false));
    if (has_text(r, id)) {
        if (qp_decode_next(r->ctx, r->tokenizer, &r->decoding, id, true, &r->pending) != QP_OK) return;
        pass_on(r, false);
    }
    if (r->result.tokens >= r->options->max_tokens) qpi_reply_stop(r, QP_STOP_LENGTH);
}

qpi_verdict qpi_reply_verdict(qpi_reply *r, const qpi_tree *tree, float *logits) {
    static const qpi_tree root = {.count = 1, .parents = {-1}};
    return (qpi_verdict){.sampler = r->sampler,
                         .tree = tree ? tree : &root,
                         .logits = logits,
                         .p = r->chances,
                         .vocabulary = r->vocabulary};
}

bool qpi_reply_draw(qpi_reply *r, qpi_verdict *v, int node, int32_t *id) {
    if (r->logprobs)
        memcpy(r->logits, v->logits + node * r->vocabulary, (size_t)r->vocabulary * sizeof *r->logits);
    *id = r->acceptance->next(v, node);
    if (isnan(v->logits[node * r->vocabulary + *id])) {
        qp_fail(r->ctx, QP_ERR_STATE,
                "token %lld: the model's logits are no numbers (`quipu verify` looks for spoilt weights)",
                (long long)r->result.tokens);
        return false;
    }
    if (r->ctx->cancelled) qp_fail(r->ctx, QP_ERR_CANCELLED, "cancelled");
    if (ends(r, *id)) {
        qpi_reply_stop(r, QP_STOP_END_TOKEN);
    } else {
        if (r->logprobs) qp_logprobs(r->logits, r->vocabulary, *id, r->options->top, r->logprobs);
        take(r, *id);
    }
    return !r->stopped && !qp_failed(r->ctx);
}

/* ---- Beginning and end ------------------------------------------------------------------------------ */

void qpi_reply_begin(qpi_reply *r) {
    double now = qpi_now();
    r->result.prompt_seconds = now - r->mark;
    r->mark = now;
    if (r->options->max_tokens < 1) qpi_reply_stop(r, QP_STOP_LENGTH);
}

void qpi_reply_finish(qpi_reply *r) {
    bool heard = r->result.reason == QP_STOP_LENGTH || r->result.reason == QP_STOP_END_TOKEN;
    if (r->tokenizer && heard && !qp_failed(r->ctx)) {
        r->stopped = false; /* there may yet be a stop text in it */
        if (qp_decode_end(r->ctx, &r->decoding, &r->pending) == QP_OK) pass_on(r, true);
        r->stopped = true;
    }
    r->result.seconds = qpi_now() - r->mark;
}
