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

static bool put(job *j, const char *data, size_t n) {
    char *p = qpi_grown(j->out->data, &j->out->capacity, j->out->count + n, 1);
    if (!p) return qpi_fail_memory(j->error, "decode") == QP_OK;
    j->out->data = p;
    if (n) memcpy(p + j->out->count, data, n);
    j->out->count += n;
    return true;
}

/* ---- Text behind the stage that joins ------------------------------------------------------- */

/* Strip, as text comes: the first characters go if they are what is stripped; such characters at the end of what
 * came so far wait in state->trailing. */
static bool put_stripped(job *j, const char *text, size_t n) {
    const qpi_decoder      *d = &j->t->decoder;
    const qpi_decode_stage *s = &d->stages[d->strip];
    qp_decoding            *state = j->state;
    const char             *end = text + n;
    while (state->stripped >= 0 && text < end) {
        bool hit = state->stripped < s->start && (size_t)(end - text) >= s->text_size &&
                   memcmp(text, s->text, s->text_size) == 0;
        if (hit)
            text += s->text_size, state->stripped++;
        else
            state->stripped = -1;
    }
    const char *keep = end;
    int64_t     tail = 0;
    while (tail < s->stop && (size_t)(keep - text) >= s->text_size &&
           memcmp(keep - s->text_size, s->text, s->text_size) == 0)
        keep -= s->text_size, tail++;
    /* What waited comes out as far as more came behind it than may be stripped. */
    int64_t out = keep > text ? state->trailing : state->trailing + tail - s->stop;
    for (; out > 0 && state->trailing > 0; out--, state->trailing--)
        if (!put(j, s->text, s->text_size)) return false;
    state->trailing += tail;
    return put(j, text, (size_t)(keep - text));
}

/* Whole characters go on; what may yet become one is held. */
static bool put_text(job *j, const char *text, size_t n) {
    qp_decoding *state = j->state;
    char         joint[8];
    if (j->t->decoder.strip < 0) {
        size_t before = j->out->count;
        if (!put(j, state->held, (size_t)state->count) || !put(j, text, n)) return false;
        size_t cut = qpi_utf8_cut(j->out->data + before, j->out->count - before);
        j->out->count -= cut;
        if (cut) memcpy(state->held, j->out->data + j->out->count, cut);
        state->count = (int)cut;
        return true;
    }
    while (state->count && n) { /* the character at hand, byte by byte */
        memcpy(joint, state->held, (size_t)state->count);
        joint[state->count] = *text;
        size_t size = (size_t)state->count + 1, cut = qpi_utf8_cut(joint, size);
        if (!put_stripped(j, joint, size - cut)) return false;
        memmove(state->held, joint + size - cut, cut);
        state->count = (int)cut;
        text++, n--;
    }
    size_t cut = qpi_utf8_cut(text, n);
    if (cut) memcpy(state->held, text + n - cut, cut), state->count = (int)cut;
    return put_stripped(j, text, n - cut);
}

/* ---- Tokens ------------------------------------------------------------------------------------ */

/* A token through stages [from, to); the result in *text and *n. */
static bool apply_stages(job *j, int from, int to, qpi_spoken token, const char **text, size_t *n) {
    const qpi_decoder *d = &j->t->decoder;
    for (int i = from; i < to; i++) {
        qpi_buffer *out = &j->texts[i & 1];
        out->count = 0;
        if (!d->stages[i].type->apply(&d->stages[i], token, out, j->error))
            return j->error->code ? false : qpi_fail_memory(j->error, "decode") == QP_OK;
        token.text = out->data;
        token.size = out->count;
        if (!token.size && d->stages[i].type->drops) break;
    }
    *text = token.text;
    *n = token.size;
    return true;
}

static bool put_token(job *j, int32_t id, bool last) {
    const qpi_decoder *d = &j->t->decoder;
    const qpi_token   *token = &j->t->vocab.tokens[id];
    const char        *text = token->bytes;
    size_t             n = token->bytes_size;
    if (d->none && j->state->position && !put_text(j, " ", 1)) return false;
    if (!d->bytes && !apply_stages(j, 0, d->joined, (qpi_spoken){text, n, j->state->position, last}, &text, &n))
        return false;
    if (!d->distinct || n) j->state->position++;
    return put_text(j, text, n);
}

/* Takes a token; those that a stage must see the end for wait. */
static bool take(job *j, int32_t id) {
    const qpi_decoder *d = &j->t->decoder;
    qp_decoding       *state = j->state;
    if (d->whole) {
        if (!qpi_ids_reserve(&state->ids, 1)) return qpi_fail_memory(j->error, "decode") == QP_OK;
        state->ids.data[state->ids.count++] = id;
        return true;
    }
    int32_t before = state->last - 1; /* zero stands for none */
    if (d->distinct || d->needs_last) {
        if (d->distinct && before == id) return true;
        state->last = id + 1;
        if (d->needs_last) return before < 0 || put_token(j, before, false);
    }
    return put_token(j, id, false);
}

/* Joins what was held back, then applies the stages that need all of it. */
static bool put_whole(job *j) {
    const qpi_decoder *d = &j->t->decoder;
    qpi_buffer         joint = {0};
    const char        *text = NULL;
    size_t             n = 0;
    int64_t            position = 0;
    bool               ok = true;
    for (int64_t i = 0; ok && i < j->state->ids.count; i++) {
        int32_t          id = j->state->ids.data[i];
        const qpi_token *token = &j->t->vocab.tokens[id];
        if (d->distinct && i && j->state->ids.data[i - 1] == id) continue;
        ok = apply_stages(j, 0, d->joined,
                          (qpi_spoken){token->bytes, token->bytes_size, position, i + 1 == j->state->ids.count}, &text,
                          &n) &&
             (qpi_buffer_put(&joint, text, n) || qpi_fail_memory(j->error, "decode") == QP_OK);
        if (ok && (!d->distinct || n)) position++;
    }
    ok = ok && apply_stages(j, d->joined, d->count, (qpi_spoken){joint.data, joint.count, 0, true}, &text, &n) &&
         put(j, text, n);
    qpi_buffer_free(&joint);
    return ok;
}

static bool finish(job *j) {
    const qpi_decoder *d = &j->t->decoder;
    if (d->whole) return put_whole(j);
    if (d->needs_last && j->state->last && !put_token(j, j->state->last - 1, true)) return false;
    return put(j, j->state->held, (size_t)j->state->count);
}

/* ---- Public --------------------------------------------------------------------------------------- */

static bool known(job *j, int32_t id) {
    return qpi_vocab_at(&j->t->vocab, id) ||
           qpi_fail(j->error, QP_ERR_ARGUMENT, "decode: the tokenizer has no token %d", (int)id) == QP_OK;
}

static bool is_skipped(const qp_tokenizer *t, int32_t id, bool skip_special) {
    return skip_special && (t->vocab.tokens[id].flags & QPI_TOKEN_SPECIAL);
}

static qp_status end_job(qp_ctx *ctx, job *j, bool ok, size_t before) {
    qpi_buffer_free(&j->texts[0]);
    qpi_buffer_free(&j->texts[1]);
    if (ok) return QP_OK;
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
    bool        ok = true;
    for (int64_t i = 0; ok && i < n; i++) {
        ok = known(&j, ids[i]);
        if (!ok || is_skipped(t, ids[i], skip_special)) continue;
        const qpi_token *token = &t->vocab.tokens[ids[i]];
        ok = t->decoder.bytes ? put(&j, token->bytes, token->bytes_size) : take(&j, ids[i]);
    }
    ok = ok && finish(&j);
    forget(&state);
    return end_job(ctx, &j, ok, before);
}

qp_status qp_decode_next(qp_ctx *ctx, const qp_tokenizer *t, qp_decoding *state, int32_t id, bool skip_special,
                         qp_text *out) {
    qpi_error e = {0};
    job       j = {.t = t, .state = state, .out = out, .error = &e};
    size_t    before = out->count;
    bool      ok = known(&j, id);
    state->tokenizer = t;
    if (ok && !is_skipped(t, id, skip_special)) ok = take(&j, id);
    return end_job(ctx, &j, ok, before);
}

qp_status qp_decode_end(qp_ctx *ctx, qp_decoding *state, qp_text *out) {
    qpi_error e = {0};
    job       j = {.t = state->tokenizer, .state = state, .out = out, .error = &e};
    size_t    before = out->count;
    bool      ok = !j.t || finish(&j);
    forget(state);
    return end_job(ctx, &j, ok, before);
}
