/* Ids to text, all at once or one by one; the same steps serve both. */
#include <stdlib.h>
#include <string.h>

#include "core/core.h"
#include "data/tokenizer.h"
#include "format/os.h"
#include "format/utf8.h"

typedef struct {
    const qp_tokenizer *t;
    qp_decoding        *state;
    qp_text            *out;
    qpi_buffer          texts[2];
    qpi_error          *error;
} job;

/* What fails is stored in the job's error, and looked at once. */
static void put(job *j, const char *data, size_t n) {
    char *p = qpi_grown(j->out->data, &j->out->capacity, j->out->count + n, 1);
    if (!p) {
        qpi_fail_memory(j->error, "decode");
        return;
    }
    j->out->data = p;
    if (n) memcpy(p + j->out->count, data, n);
    j->out->count += n;
}

/* ---- Text behind the stage that joins ------------------------------------------------------- */

/* Strip, as text comes: the first characters go if they are what is stripped; such characters at the end of what
 * came so far wait in state->trailing. */
static void put_stripped(job *j, const char *text, size_t n) {
    const qpi_decoder      *d = &j->t->decoder;
    const qpi_decode_stage *s = &d->stages[d->strip];
    qp_decoding            *state = j->state;
    const char             *end = text + n;
    while (state->stripped >= 0 && text < end) {
        bool hit = state->stripped < s->start && (size_t)(end - text) >= s->text_size &&
                   memcmp(text, s->text, s->text_size) == 0;
        if (hit) text += s->text_size, state->stripped++;
        else state->stripped = -1;
    }
    const char *keep = end;
    int64_t     tail = 0;
    while (tail < s->stop && (size_t)(keep - text) >= s->text_size &&
           memcmp(keep - s->text_size, s->text, s->text_size) == 0)
        keep -= s->text_size, tail++;
    /* What waited comes out as far as more came behind it than may be stripped. */
    int64_t out = keep > text ? state->trailing : state->trailing + tail - s->stop;
    for (; out > 0; out--, state->trailing--) put(j, s->text, s->text_size);
    state->trailing += tail;
    put(j, text, (size_t)(keep - text));
}

/* Whole characters go on; what may yet become one is held. */
static void put_text(job *j, const char *text, size_t n) {
    qp_decoding *state = j->state;
    char         joint[8];
    if (j->t->decoder.strip < 0) {
        size_t before = j->out->count;
        put(j, state->held, (size_t)state->count);
        put(j, text, n);
        size_t cut = qpi_utf8_cut(j->out->data + before, j->out->count - before);
        j->out->count -= cut;
        if (cut) memcpy(state->held, j->out->data + j->out->count, cut);
        state->count = (int)cut;
        return;
    }
    while (state->count && n) { /* the character at hand, byte by byte */
        memcpy(joint, state->held, (size_t)state->count);
        joint[state->count] = *text;
        size_t size = (size_t)state->count + 1, cut = qpi_utf8_cut(joint, size);
        put_stripped(j, joint, size - cut);
        memmove(state->held, joint + size - cut, cut);
        state->count = (int)cut;
        text++, n--;
    }
    size_t cut = qpi_utf8_cut(text, n);
    if (cut) memcpy(state->held, text + n - cut, cut), state->count = (int)cut;
    put_stripped(j, text, n - cut);
}

/* ---- Tokens ------------------------------------------------------------------------------------ */

/* A token through stages [from, to); the result in *text and *n. */
static bool apply_stages(job *j, int from, int to, qpi_spoken token, const char **text, size_t *n) {
    const qpi_decoder *d = &j->t->decoder;
    for (int i = from; i < to; i++) {
        qpi_buffer *out = &j->texts[i & 1];
        out->count = 0;
        d->stages[i].type->apply(&d->stages[i], token, out, j->error);
        if (out->failed) qpi_fail_memory(j->error, "decode");
        if (j->error->code) return false;
        token.text = out->data;
        token.size = out->count;
        if (!token.size && d->stages[i].type->drops) break;
    }
    *text = token.text;
    *n = token.size;
    return true;
}

static void put_token(job *j, int32_t id, bool last) {
    const qpi_decoder *d = &j->t->decoder;
    const qpi_token   *token = &j->t->vocab.tokens[id];
    const char        *text = token->bytes;
    size_t             n = token->bytes_size;
    if (d->none && j->state->position) put_text(j, " ", 1);
    if (!d->bytes && !apply_stages(j, 0, d->joined, (qpi_spoken){text, n, j->state->position, last}, &text, &n))
        return;
    if (!d->distinct || n) j->state->position++;
    put_text(j, text, n);
}

/* Takes a token; those that a stage must see the end for wait. */
static void take(job *j, int32_t id) {
    const qpi_decoder *d = &j->t->decoder;
    qp_decoding       *state = j->state;
    if (d->whole) {
        if (!qpi_ids_reserve(&state->ids, 1)) qpi_fail_memory(j->error, "decode");
        else state->ids.data[state->ids.count++] = id;
        return;
    }
    int32_t before = state->last - 1; /* zero stands for none */
    if (d->distinct || d->needs_last) {
        if (d->distinct && before == id) return;
        state->last = id + 1;
        if (d->needs_last) {
            if (before >= 0) put_token(j, before, false);
            return;
        }
    }
    put_token(j, id, false);
}

/* Joins what was held back, then applies the stages that need all of it. */
static void put_whole(job *j) {
    const qpi_decoder *d = &j->t->decoder;
    qpi_buffer         joint = {0};
    const char        *text = NULL;
    size_t             n = 0;
    int64_t            position = 0;
    for (int64_t i = 0; i < j->state->ids.count; i++) {
        int32_t          id = j->state->ids.data[i];
        const qpi_token *token = &j->t->vocab.tokens[id];
        if (d->distinct && i && j->state->ids.data[i - 1] == id) continue;
        if (!apply_stages(j, 0, d->joined,
                          (qpi_spoken){token->bytes, token->bytes_size, position, i + 1 == j->state->ids.count},
                          &text, &n))
            break;
        qpi_buffer_put(&joint, text, n);
        if (!d->distinct || n) position++;
    }
    if (joint.failed) qpi_fail_memory(j->error, "decode");
    if (!j->error->code &&
        apply_stages(j, d->joined, d->count, (qpi_spoken){joint.data, joint.count, 0, true}, &text, &n))
        put(j, text, n);
    qpi_buffer_free(&joint);
}

static void finish(job *j) {
    const qpi_decoder *d = &j->t->decoder;
    if (d->whole) put_whole(j);
    if (d->needs_last && j->state->last) put_token(j, j->state->last - 1, true);
    put(j, j->state->held, (size_t)j->state->count);
}

/* ---- Public --------------------------------------------------------------------------------------- */

static bool known(job *j, int32_t id) {
    if (qpi_vocab_at(&j->t->vocab, id)) return true;
    qpi_fail(j->error, QP_ERR_ARGUMENT, "decode: the tokenizer has no token %d", (int)id);
    return false;
}

static bool is_skipped(const qp_tokenizer *t, int32_t id, bool skip_special) {
    return skip_special && (t->vocab.tokens[id].flags & QPI_TOKEN_SPECIAL);
}

static qp_status end_job(qp_ctx *ctx, job *j, size_t before) {
    qpi_buffer_free(&j->texts[0]);
    qpi_buffer_free(&j->texts[1]);
    if (!j->error->code) return QP_OK;
    j->out->count = before;
    return qp_fail(ctx, j->error->code, "%s", j->error->text);
}

static void forget(qp_decoding *state) {
    qp_ids_free(&state->ids);
    *state = (qp_decoding){0};
}

qp_status qp_decode(qp_ctx *ctx, const qp_tokenizer *t, const int32_t *ids, int64_t n, bool skip_special,
                    qp_text *out) {
    qp_decoding state = {0};
    qpi_error   e = {0};
    job         j = {.t = t, .state = &state, .out = out, .error = &e};
    size_t      before = out->count;
    for (int64_t i = 0; i < n && !e.code; i++) {
        if (!known(&j, ids[i]) || is_skipped(t, ids[i], skip_special)) continue;
        const qpi_token *token = &t->vocab.tokens[ids[i]];
        if (t->decoder.bytes) put(&j, token->bytes, token->bytes_size);
        else take(&j, ids[i]);
    }
    if (!e.code) finish(&j);
    forget(&state);
    return end_job(ctx, &j, before);
}

qp_status qp_decode_next(qp_ctx *ctx, const qp_tokenizer *t, qp_decoding *state, int32_t id, bool skip_special,
                         qp_text *out) {
    qpi_error e = {0};
    job       j = {.t = t, .state = state, .out = out, .error = &e};
    size_t    before = out->count;
    state->tokenizer = t;
    if (known(&j, id) && !is_skipped(t, id, skip_special)) take(&j, id);
    return end_job(ctx, &j, before);
}

qp_status qp_decode_end(qp_ctx *ctx, qp_decoding *state, qp_text *out) {
    qpi_error e = {0};
    job       j = {.t = state->tokenizer, .state = state, .out = out, .error = &e};
    size_t    before = out->count;
    if (j.t) finish(&j);
    forget(state);
    return end_job(ctx, &j, before);
}
