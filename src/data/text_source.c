/* Text as a source of samples: all ids in memory, cut into windows.
 *
 * A window of T positions takes T + 1 ids, the last being only a label; the next window starts
 * with that one. Shuffled epochs shift all windows by an offset of their own, so that the cuts
 * fall elsewhere each time; in order, windows start at the first id and the last one is filled
 * up with what does not count. */
#define _POSIX_C_SOURCE 200809L
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "core/core.h"
#include "data/dataset.h"
#include "data/documents.h"
#include "data/permute.h"
#include "data/tokenizer.h"
#include "format/checksum.h"
#include "format/os.h"

#define NOT_LEARNT (-100)
#define SLICE_PIECES 512 /* encoded at once: bounds what is held twice */

typedef struct { /* ids, shared by training and validation parts */
    atomic_int    refs;
    bool          wide; /* u32, otherwise u16 */
    void         *ids;
    size_t        count, capacity;
    qp_data_file *files;
    int           file_count;
} store;

typedef struct {
    store   *store;
    size_t   begin, end;
    int64_t  length, windows, bytes;
    size_t   offsets; /* how many an epoch can choose from; 0: in order, from the first id */
    uint64_t seed;
} text;

/* ---- The ids -------------------------------------------------------------------------- */

static void release(store *s) {
    if (!s || atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1) return;
    for (int i = 0; i < s->file_count; i++) free((char *)s->files[i].path);
    free(s->files);
    free(s->ids);
    free(s);
}

static inline int64_t id_at(const store *s, size_t i) {
    return s->wide ? ((const uint32_t *)s->ids)[i] : ((const uint16_t *)s->ids)[i];
}

static bool append(store *s, const qp_ids *ids) {
    size_t n = (size_t)ids->count;
    void  *p = qpi_grown(s->ids, &s->capacity, s->count + n, s->wide ? 4 : 2);
    if (!p) return false;
    s->ids = p;
    for (size_t i = 0; i < n; i++) {
        if (s->wide) ((uint32_t *)p)[s->count + i] = (uint32_t)ids->data[i];
        else ((uint16_t *)p)[s->count + i] = (uint16_t)ids->data[i];
    }
    s->count += n;
    return true;
}

typedef struct {
    qp_ctx             *ctx;
    const qp_tokenizer *t;
    store              *s;
    qpi_pieces          pieces;
    qp_ids              ids;
    bool                literal, wrap, between; /* between: a document came before */
    qpi_error          *error;
} loading;

static bool encode_all(loading *l) {
    for (size_t at = 0; at < l->pieces.count; at += SLICE_PIECES) {
        size_t     n = l->pieces.count - at < SLICE_PIECES ? l->pieces.count - at : SLICE_PIECES;
        qpi_pieces slice = {.items = l->pieces.items + at, .count = n, .capacity = n};
        l->ids.count = 0;
        if (!qpi_pieces_encode(l->t, &l->ctx->exec, &slice, l->literal, &l->ids, l->error)) return false;
        if (!append(l->s, &l->ids)) return qpi_fail_memory(l->error, "data") == QP_OK;
        if (l->ctx->cancelled) return qpi_fail(l->error, QP_ERR_CANCELLED, "reading data: cancelled") == QP_OK;
    }
    l->pieces.count = 0;
    return true;
}

static bool load_documents(void *arg, const qpi_document *documents, size_t n) {
    loading *l = arg;
    for (size_t i = 0; i < n; i++) {
        if (l->between && l->t->end >= 0 && !qpi_pieces_add_token(&l->pieces, l->t->end, l->error))
            return false;
        l->between = true;
        const qpi_around *around = &l->t->single;
        for (size_t k = 0; k < around->count; k++) {
            const qpi_around_item *item = &around->items[k];
            if (!item->text && l->wrap && !qpi_pieces_add_token(&l->pieces, item->id, l->error)) return false;
            if (item->text &&
                !qpi_pieces_add(l->t, &l->pieces, documents[i].text, documents[i].size, l->literal, l->error))
                return false;
        }
    }
    return encode_all(l);
}

static bool load_file(loading *l, const char *path, const char *field) {
    qp_data_file *file = &l->s->files[l->s->file_count];
    file->path = strdup(path);
    if (!file->path) return qpi_fail_memory(l->error, path) == QP_OK;
    l->s->file_count++;
    return qpi_documents_read(path, field, &file->bytes, &file->checksum, load_documents, l, l->error);
}

static store *load(qp_ctx *ctx, int n, const char *const *paths, const qp_data_options *o, qpi_error *e) {
    store *s = calloc(1, sizeof *s);
    if (s) s->files = calloc((size_t)(n > 0 ? n : 0) + 1, sizeof *s->files);
    if (!s || !s->files) {
        qpi_fail_memory(e, "data");
        free(s);
        return NULL;
    }
    s->refs = 1;
    s->wide = o->tokenizer->vocab.size > 65536;
    loading l = {.ctx = ctx, .t = o->tokenizer, .s = s, .literal = !o->special, .wrap = o->wrap, .error = e};
    bool    ok = true;
    for (int i = 0; ok && i < n; i++) ok = load_file(&l, paths[i], o->field);
    qpi_pieces_free(&l.pieces);
    qp_ids_free(&l.ids);
    if (ok) return s;
    release(s);
    return NULL;
}

/* ---- Samples -------------------------------------------------------------------------- */

static int fields(void *source, qp_field *out) {
    const text *x = source;
    out[0] = (qp_field){"input_ids", QP_I64, 1, {x->length}};
    out[1] = (qp_field){"labels", QP_I64, 1, {x->length}};
    return 2;
}

static int64_t samples(void *source) { return ((const text *)source)->windows; }

static const char *fill(void *source, uint64_t epoch, int64_t index, void *const *rows) {
    const text *x = source;
    int64_t    *inputs = rows[0], *labels = rows[1], T = x->length, known = 0;
    if (index >= 0) {
        size_t start = x->begin + (size_t)index * (size_t)T;
        if (x->offsets) start += (size_t)qpi_draw(x->offsets, x->seed, epoch);
        size_t left = x->end - 1 - start; /* positions that have a label */
        known = left < (size_t)T ? (int64_t)left : T;
        int64_t id = id_at(x->store, start);
        for (int64_t i = 0; i < known; i++) {
            inputs[i] = id;
            labels[i] = id = id_at(x->store, start + (size_t)i + 1);
        }
    }
    for (int64_t i = known; i < T; i++) {
        inputs[i] = 0;
        labels[i] = NOT_LEARNT;
    }
    return NULL;
}

static uint64_t fingerprint(void *source) {
    const text *x = source;
    size_t      width = x->store->wide ? 4 : 2;
    uint64_t    parts[] = {
        qpi_checksum_of(0, (const char *)x->store->ids + x->begin * width, (x->end - x->begin) * width),
        (uint64_t)x->length, x->offsets, width};
    return qpi_checksum_of(0, parts, sizeof parts);
}

static bool file(void *source, int index, qp_data_file *out) {
    const store *s = ((const text *)source)->store;
    if (index >= s->file_count) return false;
    *out = s->files[index];
    return true;
}

static void close_text(void *source) {
    text *x = source;
    release(x->store);
    free(x);
}

const qp_source qpi_text_source = {"text", fields, samples, fill, fingerprint, file, close_text};

int64_t qpi_text_tokens(const void *source) {
    return (int64_t)(((const text *)source)->end - ((const text *)source)->begin);
}
int64_t qpi_text_bytes(const void *source) { return ((const text *)source)->bytes; }

/* ---- Opening -------------------------------------------------------------------------- */

static int64_t count_bytes(const text *x, const qp_tokenizer *t) {
    int64_t sum = 0;
    for (size_t i = x->begin; i < x->end; i++) {
        const qpi_token *token = &t->vocab.tokens[id_at(x->store, i)];
        if (!(token->flags & QPI_TOKEN_SPECIAL)) sum += token->bytes_size;
    }
    return sum;
}

/* Takes a reference to the store over. where begins the error's text. */
static qp_data *open_part(qp_ctx *ctx, const char *where, store *s, size_t begin, size_t end,
                          const qp_data_options *o, qpi_error *e) {
    size_t n = end - begin, T = (size_t)o->length;
    text  *x = n < 2 ? NULL : calloc(1, sizeof *x);
    if (!x) {
        release(s);
        if (n < 2)
            qpi_fail(e, QP_ERR_ARGUMENT, "%s: %zu ids are too few: an input and a label are needed at least",
                     where, n);
        else qpi_fail_memory(e, where);
        return NULL;
    }
    *x = (text){.store = s, .begin = begin, .end = end, .length = o->length, .seed = o->seed};
    x->windows = (int64_t)((n - 2) / T + 1);
    if (o->order == QP_SHUFFLED && n > T) {
        /* As many windows as fit behind every offset below T, or one with what room there is. */
        x->windows = n >= 2 * T ? (int64_t)((n - T) / T) : 1;
        x->offsets = n - (size_t)x->windows * T;
        if (x->offsets > T) x->offsets = T;
    }
    x->bytes = count_bytes(x, o->tokenizer);
    return qpi_data_new(ctx, &qpi_text_source, x, o, e);
}

/* Where the validation part begins: behind the end of a document if there are several. The share is below 1, so
 * something comes before. */
static size_t split_at(const store *s, double share, int32_t end_id) {
    size_t at = s->count - (size_t)((double)s->count * share);
    for (size_t i = at; i < s->count; i++)
        if (id_at(s, i - 1) == end_id) return i;
    return at;
}

static qp_data *open_text(qp_ctx *ctx, int n, const char *const *paths, const qp_data_options *o,
                          qpi_error *e) {
    store *s = load(ctx, n, paths, o, e), *v = NULL;
    if (!s) return NULL;
    size_t split = s->count, v_begin = 0;
    if (o->validation_paths && o->validation_count > 0) {
        v = load(ctx, o->validation_count, o->validation_paths, o, e);
        if (!v) {
            release(s);
            return NULL;
        }
    } else if (o->validation > 0) {
        split = v_begin = split_at(s, o->validation, o->tokenizer->end);
        v = s;
        atomic_fetch_add(&s->refs, 1);
    }
    qp_data *d = open_part(ctx, n == 1 ? paths[0] : "data", s, 0, split, o, e);
    if (!d || !v) {
        release(v);
        return d;
    }
    qp_data_options in_order = *o;
    in_order.order = QP_SEQUENTIAL;
    d->validation = open_part(ctx, "validation data", v, v_begin, v->count, &in_order, e);
    if (d->validation) return d;
    qpi_data_free(d);
    return NULL;
}

qp_data *qp_data_open(qp_ctx *ctx, int n, const char *const *paths, qp_data_options options) {
    qpi_error e = {0};
    qp_data  *d = NULL;
    if (options.length == 0) options.length = 256;
    if (!options.tokenizer && !(options.tokenizer = qp_tokenizer_bytes(ctx))) return NULL;
    if (n < 1 || options.length < 1 || options.length > INT32_MAX ||
        !(options.validation >= 0 && options.validation < 1))
        qpi_fail(&e, QP_ERR_ARGUMENT,
                 "data: expected files, a length of at least 1 and a validation share below 1");
    else d = open_text(ctx, n, paths, &options, &e);
    return qpi_data_give(ctx, d, &e);
}
