/* Learning the merges: the most frequent adjacent pair of all words becomes a token, again and
 * again. What a merge changes is known from the words it changed, so a queue of pairs by count
 * is kept up to date; a pair whose count has changed since it was queued goes back with the
 * new one. Order and counts follow the trainer of `tokenizers` to the letter: a pair that
 * comes up anew is queued apart from older places of the same pair, and counts of a merged
 * pair are left as they were. */
#include <stdlib.h>
#include <string.h>

#include "core/core.h"
#include "data/bpe.h"
#include "data/tokenizer.h"
#include "data/words.h"
#include "format/json.h"
#include "format/os.h"
#include "format/utf8.h"

#define NIL UINT32_MAX

typedef struct { /* a word's symbols lie at symbols + start */
    size_t   start;
    uint32_t size;
    int64_t  count;
} word;

typedef struct { /* how often a pair occurs, and what is being queued for it */
    uint64_t key;
    int64_t  count;
    uint32_t entry, step; /* entry is valid in this step */
    bool     used;
} tally;

typedef struct { /* one place of a pair: a word; in a list */
    uint32_t word, next;
} place;

typedef struct { /* a pair with places that wait to be merged */
    uint32_t first, last;
} entry;

typedef struct {
    int64_t  count;
    uint64_t key;
    uint32_t entry;
} queued;

typedef struct {
    qp_ctx       *ctx;
    qp_tokenizer *t;
    qpi_error    *error;
    int64_t       size, min_count;
    qpi_words     words;
    uint32_t     *symbols;
    word         *items;
    tally        *tallies;
    size_t        tally_count, tally_slots;
    uint64_t      multiplier;
    place        *places;
    size_t        place_count, place_capacity;
    uint32_t      free_place;
    entry        *entries;
    size_t        entry_count, entry_capacity;
    uint32_t      free_entry;
    queued       *heap;
    size_t        heap_count, heap_capacity;
    uint64_t     *fresh; /* pairs of this step */
    size_t        fresh_count, fresh_capacity;
    uint32_t      step;
    qpi_buffer    text;
} trainer;

static bool out_of_memory(trainer *r) { return qpi_fail_memory(r->error, "tokenizer") == QP_OK; }

/* ---- Counts of pairs ------------------------------------------------------------------ */

static tally *find_tally(const trainer *r, uint64_t key) {
    size_t mask = r->tally_slots - 1, i = (size_t)(key * r->multiplier >> 32) & mask;
    while (r->tallies[i].used && r->tallies[i].key != key) i = (i + 1) & mask;
    return &r->tallies[i];
}

static bool grow_tallies(trainer *r) {
    tally *old = r->tallies;
    size_t n = r->tally_slots, slots = n ? 2 * n : 4096;
    tally *fresh = calloc(slots, sizeof *fresh);
    if (!fresh) return out_of_memory(r);
    r->tallies = fresh;
    r->tally_slots = slots;
    for (size_t i = 0; i < n; i++)
        if (old[i].used) *find_tally(r, old[i].key) = old[i];
    free(old);
    return true;
}

static tally *tally_of(trainer *r, uint64_t key) {
    if (2 * (r->tally_count + 1) > r->tally_slots && !grow_tallies(r)) return NULL;
    tally *t = find_tally(r, key);
    if (!t->used) {
        *t = (tally){.key = key, .used = true};
        r->tally_count++;
    }
    return t;
}

/* ---- Places and entries --------------------------------------------------------------- */

static uint32_t new_entry(trainer *r) {
    uint32_t i = r->free_entry;
    if (i != NIL) {
        r->free_entry = r->entries[i].first;
    } else {
        entry *p = qpi_grown(r->entries, &r->entry_capacity, r->entry_count + 1, sizeof *p);
        if (!p) return NIL;
        r->entries = p;
        i = (uint32_t)r->entry_count++;
    }
    r->entries[i] = (entry){NIL, NIL};
    return i;
}

static bool append_place(trainer *r, uint32_t to, uint32_t where) {
    entry *e = &r->entries[to];
    if (e->last != NIL && r->places[e->last].word == where) return true;
    uint32_t i = r->free_place;
    if (i != NIL) {
        r->free_place = r->places[i].next;
    } else {
        place *p = qpi_grown(r->places, &r->place_capacity, r->place_count + 1, sizeof *p);
        if (!p) return false;
        r->places = p;
        i = (uint32_t)r->place_count++;
    }
    r->places[i] = (place){where, NIL};
    if (e->last == NIL) e->first = i;
    else r->places[e->last].next = i;
    e->last = i;
    return true;
}

static void free_entry(trainer *r, uint32_t i) {
    entry *e = &r->entries[i]; /* with a place at least */
    r->places[e->last].next = r->free_place;
    r->free_place = e->first;
    e->first = r->free_entry;
    r->free_entry = i;
}

/* ---- The queue ------------------------------------------------------------------------ */

/* Higher counts first, then smaller ids. */
static bool before(const queued *a, const queued *b) {
    return a->count != b->count ? a->count > b->count : a->key < b->key;
}

static bool push(trainer *r, queued x) {
    queued *h = qpi_grown(r->heap, &r->heap_capacity, r->heap_count + 1, sizeof *h);
    if (!h) return out_of_memory(r);
    r->heap = h;
    size_t i = r->heap_count++;
    for (size_t up; i > 0 && before(&x, &h[up = (i - 1) / 2]); i = up) h[i] = h[up];
    h[i] = x;
    return true;
}

static void sink(trainer *r, size_t i, queued x) {
    queued *h = r->heap;
    for (size_t down; (down = 2 * i + 1) < r->heap_count; i = down) {
        if (down + 1 < r->heap_count && before(&h[down + 1], &h[down])) down++;
        if (!before(&h[down], &x)) break;
        h[i] = h[down];
    }
    h[i] = x;
}

/* The next pair whose count is right, or false. */
static bool pop(trainer *r, queued *top) {
    while (r->heap_count) {
        *top = r->heap[0];
        int64_t count = find_tally(r, top->key)->count;
        if (count == top->count) {
            queued last = r->heap[--r->heap_count];
            sink(r, 0, last);
            return true;
        }
        top->count = count;
        sink(r, 0, *top);
    }
    return false;
}

/* ---- Merging -------------------------------------------------------------------------- */

/* As many occurrences of (a, b), which has been counted, fewer. */
static void less(trainer *r, uint32_t a, uint32_t b, int64_t by) {
    find_tally(r, (uint64_t)a << 32 | b)->count -= by;
}

/* As many more in a word; the pair is queued at the end of the step. */
static bool more(trainer *r, uint32_t a, uint32_t b, int64_t by, uint32_t where) {
    tally *t = tally_of(r, (uint64_t)a << 32 | b);
    if (!t) return false;
    t->count += by;
    if (t->step != r->step) {
        uint64_t *fresh = qpi_grown(r->fresh, &r->fresh_capacity, r->fresh_count + 1, sizeof *fresh);
        if (!fresh) return out_of_memory(r);
        r->fresh = fresh;
        fresh[r->fresh_count++] = t->key;
        t->step = r->step;
        t->entry = new_entry(r);
        if (t->entry == NIL) return out_of_memory(r);
    }
    if (append_place(r, t->entry, where)) return true;
    return out_of_memory(r);
}

static bool merge_word(trainer *r, uint32_t where, uint32_t a, uint32_t b, uint32_t id) {
    word     *w = &r->items[where];
    uint32_t *s = r->symbols + w->start, n = w->size, out = 0;
    for (uint32_t i = 0; i < n; out++) {
        if (i + 1 == n || s[i] != a || s[i + 1] != b) {
            s[out] = s[i++];
            continue;
        }
        if (out > 0) {
            less(r, s[out - 1], a, w->count);
            if (!more(r, s[out - 1], id, w->count, where)) return false;
        }
        i += 2;
        s[out] = id;
        if (i < n) {
            less(r, b, s[i], w->count);
            if (!more(r, id, s[i], w->count, where)) return false;
        }
    }
    w->size = out;
    return true;
}

/* Queues the pairs that came up in this step. */
static bool end_step(trainer *r) {
    for (size_t i = 0; i < r->fresh_count; i++) {
        const tally *t = find_tally(r, r->fresh[i]);
        if (t->count <= 0) free_entry(r, t->entry);
        else if (!push(r, (queued){t->count, t->key, t->entry})) return false;
    }
    r->fresh_count = 0;
    r->step++;
    return true;
}

/* The token that a and b become: a new one, unless the text is one already. */
static int32_t joined(trainer *r, uint32_t a, uint32_t b) {
    qpi_vocab       *v = &r->t->vocab;
    const qpi_token *x = &v->tokens[a], *y = &v->tokens[b];
    r->text.count = 0;
    qpi_buffer_put(&r->text, x->text, x->text_size);
    qpi_buffer_put(&r->text, y->text, y->text_size);
    if (r->text.failed) {
        out_of_memory(r);
        return QPI_NO_TOKEN;
    }
    int32_t id = qpi_vocab_find(v, r->text.data, r->text.count);
    if (id != QPI_NO_TOKEN) return id;
    id = (int32_t)v->size;
    return qpi_vocab_add(v, "tokenizer", r->text.data, r->text.count, id, QPI_TOKEN_MODEL, r->error)
               ? id
               : QPI_NO_TOKEN;
}

static bool merge_all(trainer *r) {
    queued   top;
    uint32_t rank = 0;
    while ((int64_t)r->t->vocab.count < r->size && pop(r, &top) && top.count >= r->min_count) {
        uint32_t a = (uint32_t)(top.key >> 32), b = (uint32_t)top.key;
        int32_t  id = joined(r, a, b);
        if (id < 0 || !qpi_bpe_merge(r->t->model, (int32_t)a, (int32_t)b, rank++, id, r->error)) return false;
        for (uint32_t p = r->entries[top.entry].first; p != NIL; p = r->places[p].next)
            if (!merge_word(r, r->places[p].word, a, b, (uint32_t)id)) return false;
        free_entry(r, top.entry);
        if (!end_step(r)) return false;
        if (r->ctx->cancelled)
            return qpi_fail(r->error, QP_ERR_CANCELLED, "training a tokenizer: cancelled") == QP_OK;
    }
    return true;
}

/* ---- Setting up ----------------------------------------------------------------------- */

static bool add_token(trainer *r, const char *text, size_t n, uint32_t flags) {
    qpi_vocab *v = &r->t->vocab;
    if (qpi_vocab_find(v, text, n) != QPI_NO_TOKEN) return true;
    return qpi_vocab_add(v, "tokenizer", text, n, (int64_t)v->size, flags, r->error);
}

/* Special tokens first, then the byte-level alphabet by code point. */
static bool start_vocab(trainer *r, const qp_bpe_options *o) {
    static const char *const usual[] = {"<|endoftext|>"};
    const char *const       *special = o->special ? o->special : usual;
    int                      count = o->special ? o->special_count : 1;
    for (int i = 0; i < count; i++) {
        size_t n = strlen(special[i]);
        if (n == 0 || n > QPI_ADDED_LONGEST || !qpi_utf8_text(special[i]))
            return qpi_fail(r->error, QP_ERR_ARGUMENT, "special token %d: expected 1 to %d bytes of UTF-8", i,
                            QPI_ADDED_LONGEST) == QP_OK;
        if (!add_token(r, special[i], n, QPI_TOKEN_MODEL)) return false;
    }
    for (uint32_t code = 0; code <= 0x143; code++) {
        char text[4];
        if (qpi_code_to_byte(code) >= 0 && !add_token(r, text, qpi_utf8_encode(code, text), QPI_TOKEN_MODEL))
            return false;
    }
    for (int i = 0; i < count; i++) {
        int32_t          id = qpi_vocab_find(&r->t->vocab, special[i], strlen(special[i]));
        const qpi_token *token = &r->t->vocab.tokens[id];
        if (token->flags & QPI_TOKEN_ADDED) continue;
        qpi_added added = {.text = token->text, .size = token->text_size, .id = id, .special = true};
        if (!qpi_tokenizer_add(r->t, added, r->error)) return false;
    }
    return true;
}

static bool start_words(trainer *r) {
    size_t   total = 0;
    uint32_t byte_id[256];
    for (int i = 0; i < 256; i++) {
        char text[4];
        byte_id[i] =
            (uint32_t)qpi_vocab_find(&r->t->vocab, text, qpi_utf8_encode(qpi_byte_to_code((uint8_t)i), text));
    }
    for (size_t i = 0; i < r->words.count; i++) total += r->words.items[i].size;
    /* Places and entries are numbered in 32 bits: one for each pair, two for each merge, which ends a symbol. */
    if (total > NIL / 3) /* cannot: gigabytes of different words */
        return qpi_fail(r->error, QP_ERR_UNSUPPORTED, "tokenizer: the words are too many") == QP_OK;
    r->symbols = malloc((total + 1) * sizeof *r->symbols);
    r->items = malloc((r->words.count + 1) * sizeof *r->items);
    if (!r->symbols || !r->items) return out_of_memory(r);
    r->step = 1;
    size_t at = 0;
    for (size_t i = 0; i < r->words.count; i++) {
        const qpi_word *w = &r->words.items[i];
        r->items[i] = (word){at, w->size, w->count};
        for (uint32_t k = 0; k < w->size; k++) r->symbols[at + k] = byte_id[w->text[k]];
        for (uint32_t k = 0; k + 1 < w->size; k++)
            if (!more(r, r->symbols[at + k], r->symbols[at + k + 1], w->count, (uint32_t)i)) return false;
        at += w->size;
    }
    qpi_words_free(&r->words);
    return end_step(r);
}

#define BYTE_LEVEL "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":"

static bool set_part(trainer *r, qpi_part part, const char *json) {
    return qpi_tokenizer_part(r->t, part, "tokenizer", json, strlen(json), r->error);
}

static bool start_pattern(trainer *r, const char *pattern) {
    const char *named = pattern ? qpi_pattern_named(pattern) : NULL;
    if (!set_part(
            r, QPI_PART_DECODER,
            "{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,\"use_regex\":true}"))
        return false;
    if (!pattern || strcmp(pattern, "gpt2") == 0) return set_part(r, QPI_PART_PRETOKENIZER, BYTE_LEVEL "true}");
    if (named) pattern = named;
    r->text.count = 0;
    static const char head[] =
        "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":";
    static const char tail[] = "},\"behavior\":\"Isolated\",\"invert\":false}," BYTE_LEVEL "false}]}";
    qpi_put_text(&r->text, head);
    qpi_json_print_string(&r->text, pattern, strlen(pattern));
    qpi_buffer_put(&r->text, tail, sizeof tail); /* with the final 0 */
    return r->text.failed ? out_of_memory(r) : set_part(r, QPI_PART_PRETOKENIZER, r->text.data);
}

/* ---- Public --------------------------------------------------------------------------- */

static bool count_documents(void *arg, const qpi_document *documents, size_t n) {
    trainer *r = arg;
    if (r->ctx->cancelled)
        return qpi_fail(r->error, QP_ERR_CANCELLED, "training a tokenizer: cancelled") == QP_OK;
    return qpi_words_count(&r->words, &r->t->pretokenizer, &r->ctx->exec, documents, n, r->error);
}

static bool begin(trainer *r, const qp_bpe_options *o) {
    if (o->size < 256 || o->size > INT32_MAX / 2)
        return qpi_fail(r->error, QP_ERR_ARGUMENT, "tokenizer: size %lld: expected at least the 256 bytes",
                        (long long)o->size) == QP_OK;
    r->size = o->size;
    r->min_count = o->min_count > 1 ? o->min_count : 1;
    r->multiplier = qpi_hash_seed(r) | 1;
    r->free_place = r->free_entry = NIL;
    r->t = qpi_tokenizer_new(&qpi_tokenizer_bpe, o->size + 512 + o->special_count, r->error);
    return r->t && (r->t->model = qpi_bpe_new(r->error)) && start_pattern(r, o->pattern) && start_vocab(r, o);
}

static bool learn(trainer *r) {
    if (!start_words(r) || !merge_all(r)) return false;
    return qpi_tokenizer_finish(r->t, &(qpi_model_options){0}, r->error);
}

static qp_tokenizer *end(trainer *r, bool ok) {
    qpi_words_free(&r->words);
    qpi_buffer_free(&r->text);
    free(r->symbols);
    free(r->items);
    free(r->tallies);
    free(r->places);
    free(r->entries);
    free(r->heap);
    free(r->fresh);
    if (!ok) {
        qpi_tokenizer_free(r->t);
        r->t = NULL;
    }
    return qpi_tokenizer_give(r->ctx, r->t, r->error);
}

qp_tokenizer *qp_tokenizer_train(qp_ctx *ctx, int n, const char *const *paths, qp_bpe_options options) {
    qpi_error e = {0};
    trainer   r = {.ctx = ctx, .error = &e};
    bool      ok = begin(&r, &options);
    for (int i = 0; ok && i < n; i++)
        ok = qpi_documents_read(paths[i], options.field, NULL, NULL, count_documents, &r, &e);
    return end(&r, ok && learn(&r));
}

qp_tokenizer *qp_tokenizer_train_text(qp_ctx *ctx, const char *text, size_t bytes, qp_bpe_options options) {
    qpi_error    e = {0};
    trainer      r = {.ctx = ctx, .error = &e};
    qpi_document whole = {(const uint8_t *)text, bytes};
    bool         ok = begin(&r, &options) && count_documents(&r, &whole, 1);
    return end(&r, ok && learn(&r));
}
