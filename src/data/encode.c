/* Text to ids: added tokens are found, what lies between them is normalised and handed to the
 * kind. Long texts are cut and shared out to threads. */
#include <stdlib.h>
#include <string.h>

#include "core/core.h"
#include "data/tokenizer.h"
#include "data/unicode.h"
#include "format/os.h"

#define PIECE_BYTES ((size_t)32 << 10)

bool qpi_ids_reserve(qp_ids *ids, size_t more) {
    size_t   capacity = (size_t)ids->capacity;
    int32_t *p = qpi_grown(ids->data, &capacity, (size_t)ids->count + more, sizeof *p);
    if (!p) return false;
    ids->data = p;
    ids->capacity = (int64_t)capacity;
    return true;
}

qpi_encoder *qpi_encoder_take(const qp_tokenizer *shared, qpi_error *e) {
    qp_tokenizer *t = (qp_tokenizer *)shared; /* only the list under the lock changes */
    pthread_mutex_lock(&t->lock);
    qpi_encoder *w = t->idle;
    if (w) t->idle = w->next;
    pthread_mutex_unlock(&t->lock);
    if (!w && !(w = calloc(1, sizeof *w))) {
        qpi_fail_memory(e, "tokenizer");
        return NULL;
    }
    w->error = (qpi_error){0};
    w->split.error = w->normal.error = &w->error;
    return w;
}

void qpi_encoder_give(const qp_tokenizer *shared, qpi_encoder *w) {
    qp_tokenizer *t = (qp_tokenizer *)shared;
    if (!w) return;
    if (w->error.code) { /* its buffers know that memory was short */
        qpi_encoder_free(w);
        return;
    }
    pthread_mutex_lock(&t->lock);
    w->next = t->idle;
    t->idle = w;
    pthread_mutex_unlock(&t->lock);
}

/* ---- Added tokens --------------------------------------------------------------------- */

/* What is found in a text, in order: stretches of text (id QPI_NO_TOKEN) and tokens. */
typedef bool visit_fn(void *arg, const uint8_t *text, size_t n, int32_t id);

typedef struct {
    const uint8_t *text;
    size_t         n, done;   /* what is before done has been visited */
    size_t         blank_end; /* where white space ends that the last token stripped */
} search;

/* Widens [begin, end) as the token's flags say; false if it does not count here. */
static bool settle(const qpi_added *a, search *s, size_t *begin, size_t *end) {
    const uint8_t *text = s->text;
    if (a->single_word && (qpi_word_at_end(text, *begin) || qpi_word_at_start(text + *end, s->n - *end)))
        return false;
    if (a->strip_left)
        *begin = *begin > s->done ? *begin - qpi_spaces_at_end(text + s->done, *begin - s->done) : s->done;
    if (a->strip_right) {
        if (*end >= s->blank_end) s->blank_end = *end + qpi_spaces_at_start(text + *end, s->n - *end);
        *end = s->blank_end;
    }
    return true;
}

/* Does [begin, end) of a text touch what strangers wrote? */
static bool is_foreign(const qpi_foreign *f, const uint8_t *begin, const uint8_t *end) {
    if (!f) return false;
    size_t low = 0, high = f->count, from = (size_t)(begin - f->text), to = (size_t)(end - f->text);
    while (low < high) { /* the first span that ends behind `from` */
        size_t middle = low + (high - low) / 2;
        if (f->spans[middle].end <= from) low = middle + 1;
        else high = middle;
    }
    return low < f->count && f->spans[low].begin < to;
}

static bool find_added(const qp_tokenizer *t, bool normalized, bool literal, const qpi_foreign *f,
                       const uint8_t *text, size_t n, visit_fn *visit, void *arg) {
    const qpi_matcher *m = &t->matchers[normalized];
    search             s = {.text = text, .n = n};
    size_t             from = 0, begin, end;
    uint32_t           which;
    while (qpi_matcher_next(m, text, n, from, &begin, &end, &which)) {
        const qpi_added *a = &t->added[which];
        if (a->special && is_foreign(f, text + begin, text + end)) {
            from = begin + 1;
            continue;
        }
        from = end; /* even when more is stripped, as `tokenizers` does it */
        if ((literal && a->special) || !settle(a, &s, &begin, &end) || begin >= end) continue;
        if (s.done < begin && !visit(arg, text + s.done, begin - s.done, QPI_NO_TOKEN)) return false;
        if (!visit(arg, NULL, 0, a->id)) return false;
        s.done = end;
    }
    return s.done >= n || visit(arg, text + s.done, n - s.done, QPI_NO_TOKEN);
}

/* ---- One text in one thread ----------------------------------------------------------- */

typedef struct {
    const qp_tokenizer *t;
    qpi_encoder        *w;
    bool                literal;
    const qpi_foreign  *foreign;
    const uint8_t      *begin; /* where what is encoded now begins, if that is the beginning of all; or NULL */
} job;

static bool put_id(qpi_encoder *w, int32_t id) { return qpi_put_ids(w, &id, 1); }

static bool encode_normal(void *arg, const uint8_t *text, size_t n, int32_t id) {
    const job *j = arg;
    return text ? j->t->kind->encode(j->t, j->w, text, n, text == j->begin) : put_id(j->w, id);
}

static bool encode_gap(job *j, const uint8_t *text, size_t n) {
    bool first = text == j->begin;
    /* behind normalisation nobody knows who wrote what */
    bool literal = j->literal || is_foreign(j->foreign, text, text + n);
    if (!qpi_normalize(&j->t->normalizer, &j->w->normal, &text, &n, &first)) return false;
    job inner = *j;
    inner.begin = first ? text : NULL;
    return find_added(j->t, true, literal, NULL, text, n, encode_normal, &inner);
}

static bool visit_gap(void *arg, const uint8_t *text, size_t n, int32_t id) {
    job *j = arg;
    return text ? encode_gap(j, text, n) : put_id(j->w, id);
}

static bool encode_piece(job *j, const qpi_piece *p) {
    if (!p->text) return put_id(j->w, p->id);
    j->begin = p->first ? p->text : NULL;
    if (p->whole) return find_added(j->t, false, j->literal, j->foreign, p->text, p->size, visit_gap, j);
    const uint8_t *text = p->text;
    size_t         n = p->size;
    bool           first = p->first;
    if (!qpi_normalize(&j->t->normalizer, &j->w->normal, &text, &n, &first)) return false;
    return j->t->kind->encode(j->t, j->w, text, n, first);
}

/* ---- Pieces --------------------------------------------------------------------------- */

typedef struct {
    const qp_tokenizer *t;
    qpi_pieces         *pieces;
    bool                literal;
    const uint8_t      *begin;
    qpi_error          *error;
} cutting;

size_t qpi_tokenizer_cut(const qp_tokenizer *t, const uint8_t *text, size_t n, size_t from) {
    if (t->kind == &qpi_tokenizer_byte) return from < n ? from : n;
    return t->normalizer.count && !t->normalizer.local ? n
                                                       : qpi_pretokenizer_cut(&t->pretokenizer, text, n, from);
}

static bool add_piece(qpi_pieces *p, qpi_piece piece, qpi_error *e) {
    qpi_piece *items = qpi_grown(p->items, &p->capacity, p->count + 1, sizeof *items);
    if (!items) return qpi_fail_memory(e, "tokenizer") == QP_OK;
    p->items = items;
    items[p->count++] = piece;
    return true;
}

bool qpi_pieces_add_token(qpi_pieces *p, int32_t id, qpi_error *e) {
    return add_piece(p, (qpi_piece){.id = id}, e);
}

/* Text without added tokens. */
static bool cut_gap(void *arg, const uint8_t *text, size_t n, int32_t id) {
    const cutting *c = arg;
    if (!text) return qpi_pieces_add_token(c->pieces, id, c->error);
    while (n) {
        size_t size = n <= PIECE_BYTES + PIECE_BYTES / 2 ? n : qpi_tokenizer_cut(c->t, text, n, PIECE_BYTES);
        if (!add_piece(c->pieces, (qpi_piece){.text = text, .size = size, .first = text == c->begin}, c->error))
            return false;
        text += size;
        n -= size;
    }
    return true;
}

static bool cut_normal(void *arg, const uint8_t *text, size_t n, int32_t id) {
    const cutting *c = arg;
    return text ? find_added(c->t, true, c->literal, c->pieces->foreign, text, n, cut_gap, arg)
                : cut_gap(arg, text, n, id);
}

/* Tokens that are found after normalisation are found here only if there is none. Where words
 * are cut, before a space, normalisation does not look across either. */
bool qpi_pieces_add(const qp_tokenizer *t, qpi_pieces *p, const uint8_t *text, size_t n, bool literal,
                    qpi_error *e) {
    cutting c = {t, p, literal, text, e};
    if (n == 0) return true;
    if (t->normalizer.count && t->matchers[1].any)
        return add_piece(p, (qpi_piece){.text = text, .size = n, .whole = true, .first = true}, e);
    return find_added(t, false, literal, p->foreign, text, n, cut_normal, &c);
}

void qpi_pieces_free(qpi_pieces *p) {
    free(p->items);
    *p = (qpi_pieces){0};
}

typedef struct {
    const qp_tokenizer *t;
    const qpi_pieces   *pieces;
    bool                literal;
    qpi_encoder       **encoders; /* by worker */
    qp_ids             *results;  /* by group of pieces */
    size_t              group;
} sharing;

/* Encodes a group of pieces; begin counts groups. */
static void encode_group(void *arg, int64_t begin, int64_t end, int worker) {
    const sharing *s = arg;
    qpi_encoder   *w = s->encoders[worker];
    job            j = {.t = s->t, .w = w, .literal = s->literal, .foreign = s->pieces->foreign};
    for (int64_t g = begin; g < end && !w->error.code; g++) {
        size_t first = (size_t)g * s->group, last = first + s->group;
        w->out = &s->results[g];
        for (size_t i = first; i < last && i < s->pieces->count; i++)
            if (!encode_piece(&j, &s->pieces->items[i])) return;
    }
}

static bool gather(const sharing *s, size_t groups, qp_ids *out) {
    size_t total = 0;
    for (size_t g = 0; g < groups; g++) total += (size_t)s->results[g].count;
    if (!qpi_ids_reserve(out, total)) return false;
    for (size_t g = 0; g < groups; g++) {
        if (!s->results[g].count) continue;
        memcpy(out->data + out->count, s->results[g].data, (size_t)s->results[g].count * sizeof *out->data);
        out->count += s->results[g].count;
    }
    return true;
}

static bool encode_shared(sharing *s, const qp_exec *exec, int threads, qp_ids *out, qpi_error *e) {
    size_t groups = s->pieces->count;
    bool   ok = true;
    s->group = 1;
    while (groups > 4096) s->group *= 2, groups = (s->pieces->count - 1) / s->group + 1;
    s->encoders = calloc((size_t)threads, sizeof *s->encoders);
    s->results = calloc(groups, sizeof *s->results);
    if (!s->encoders || !s->results) ok = qpi_fail_memory(e, "tokenizer") == QP_OK;
    for (int i = 0; ok && i < threads; i++) ok = (s->encoders[i] = qpi_encoder_take(s->t, e)) != NULL;
    if (ok) qp_parallel(exec, (int64_t)groups, 1, encode_group, s);
    for (int i = 0; s->encoders && i < threads; i++) {
        qpi_encoder *w = s->encoders[i];
        if (w && w->error.code) ok = qpi_fail(e, w->error.code, "%s", w->error.text) == QP_OK;
        qpi_encoder_give(s->t, w);
    }
    if (ok && !gather(s, groups, out)) ok = qpi_fail_memory(e, "tokenizer") == QP_OK;
    for (size_t g = 0; s->results && g < groups; g++) qp_ids_free(&s->results[g]);
    free(s->encoders);
    free(s->results);
    return ok;
}

/* Straight into out. */
static bool encode_alone(const qp_tokenizer *t, const qpi_pieces *p, bool literal, qp_ids *out, qpi_error *e) {
    qpi_encoder *w = qpi_encoder_take(t, e);
    job          j = {.t = t, .w = w, .literal = literal, .foreign = p->foreign};
    bool         ok = w != NULL;
    int64_t      before = out->count;
    if (ok) w->out = out;
    for (size_t i = 0; ok && i < p->count; i++) ok = encode_piece(&j, &p->items[i]);
    if (!ok) out->count = before;
    if (!ok && w) qpi_fail(e, w->error.code, "%s", w->error.text);
    qpi_encoder_give(t, w);
    return ok;
}

bool qpi_pieces_encode(const qp_tokenizer *t, const qp_exec *exec, qpi_pieces *p, bool literal, qp_ids *out,
                       qpi_error *e) {
    sharing s = {.t = t, .pieces = p, .literal = literal};
    int     threads = exec ? exec->threads : 1;
    bool    ok = threads > 1 && p->count > 1 ? encode_shared(&s, exec, threads, out, e)
                                             : encode_alone(t, p, literal, out, e);
    p->count = 0;
    return ok;
}

/* ---- Public --------------------------------------------------------------------------- */

typedef struct {
    const char *text;
    size_t      size;
} text_of;

/* A template filled in. types may be NULL. */
static bool encode_items(qp_ctx *ctx, const qp_tokenizer *t, const qpi_around *items, const text_of texts[2],
                         qp_encode_options options, qp_ids *out, qp_ids *types, qpi_error *e) {
    qpi_pieces pieces = {0};
    bool       ok = true;
    for (size_t i = 0; ok && i < items->count; i++) {
        const qpi_around_item *item = &items->items[i];
        const text_of         *text = &texts[item->text == 2];
        if (!item->text && !options.wrap) continue;
        ok = item->text
                 ? qpi_pieces_add(t, &pieces, (const uint8_t *)text->text, text->size, options.literal, e)
                 : qpi_pieces_add_token(&pieces, item->id, e);
        if (!types && i + 1 < items->count) continue; /* all at once */
        ok = ok && qpi_pieces_encode(t, &ctx->exec, &pieces, options.literal, out, e);
        if (!ok || !types) continue;
        ok = qpi_ids_reserve(types, (size_t)(out->count - types->count));
        if (!ok) qpi_fail_memory(e, "tokenizer");
        else
            while (types->count < out->count) types->data[types->count++] = item->type;
    }
    if (ok && pieces.count) ok = qpi_pieces_encode(t, &ctx->exec, &pieces, options.literal, out, e);
    qpi_pieces_free(&pieces);
    return ok;
}

qp_status qp_encode(qp_ctx *ctx, const qp_tokenizer *t, const char *text, size_t bytes,
                    qp_encode_options options, qp_ids *out) {
    qpi_error e = {0};
    text_of   texts[2] = {{text, bytes}, {0}};
    int64_t   before = out->count;
    if (encode_items(ctx, t, &t->single, texts, options, out, NULL, &e)) return QP_OK;
    out->count = before;
    return qp_fail(ctx, e.code, "%s", e.text);
}

qp_status qp_encode_pair(qp_ctx *ctx, const qp_tokenizer *t, const char *a, size_t a_bytes, const char *b,
                         size_t b_bytes, qp_encode_options options, qp_ids *out, qp_ids *types) {
    qpi_error         e = {0};
    qp_ids            ids = {0}, kinds = {0};
    text_of           texts[2] = {{a, a_bytes}, {b, b_bytes}};
    const qpi_around *items = b ? &t->pair : &t->single;
    if (!items->count)
        return qp_fail(ctx, QP_ERR_UNSUPPORTED, "tokenizer: its template has no place for a second text");
    bool ok = encode_items(ctx, t, items, texts, options, &ids, &kinds, &e);
    if (ok &&
        (!qpi_ids_reserve(out, (size_t)ids.count) || (types && !qpi_ids_reserve(types, (size_t)ids.count))))
        ok = qpi_fail_memory(&e, "tokenizer") == QP_OK;
    if (ok && ids.count) {
        memcpy(out->data + out->count, ids.data, (size_t)ids.count * sizeof *ids.data);
        out->count += ids.count;
        if (types) memcpy(types->data + types->count, kinds.data, (size_t)ids.count * sizeof *ids.data);
        if (types) types->count += ids.count;
    }
    qp_ids_free(&ids);
    qp_ids_free(&kinds);
    return ok ? QP_OK : qp_fail(ctx, e.code, "%s", e.text);
}
