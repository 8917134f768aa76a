/* Encoding: within a word, of all adjacent pairs that merge the one of lowest rank (and of
 * those the leftmost) becomes one token, until none is left. Short words are scanned for it,
 * long ones keep a heap, and short words are remembered. */
#include "data/bpe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/tokenizer.h"
#include "format/json.h"
#include "format/os.h"
#include "format/utf8.h"

#define NONE UINT64_MAX
#define SHORT 48 /* bytes up to which scanning beats the heap */
#define CACHE_BITS 15
#define CACHE_WORD 16     /* most bytes of a word that is remembered */
#define CACHE_IDS 3       /* and most of its tokens */
#define LONGEST INT32_MAX /* bytes of a word */

typedef struct {
    uint64_t key;   /* a << 32 | b */
    uint64_t value; /* rank << 32 | id, NONE: the slot is empty */
} slot;

struct qpi_bpe {
    slot         *slots;
    size_t        slot_count, count;
    int           shift;
    uint64_t      multiplier; /* odd, and different each time: no file can make pairs collide */
    int32_t       byte_id[256];
    qpi_bpe_flags flags;
};

typedef struct {
    uint64_t head, tail; /* the word's bytes */
    int32_t  ids[CACHE_IDS];
    uint8_t  size, count; /* size 0: empty */
} memory;

typedef struct { /* a symbol of a long word */
    int32_t id;  /* QPI_NO_TOKEN: merged into the one before */
    int32_t prev, next;
} symbol;

struct qpi_bpe_work {
    memory    cache[1 << CACHE_BITS];
    symbol   *symbols;
    uint64_t *heap; /* rank << 32 | place */
    size_t    symbol_capacity, heap_capacity, heap_count;
};

/* ---- The table of merges -------------------------------------------------------------- */

static inline size_t home_of(const qpi_bpe *m, uint64_t key) {
    return (size_t)(key * m->multiplier >> m->shift);
}

static inline uint64_t find(const qpi_bpe *m, int32_t a, int32_t b) {
    uint64_t key = (uint64_t)(uint32_t)a << 32 | (uint32_t)b;
    size_t   mask = m->slot_count - 1;
    for (size_t i = home_of(m, key);; i = (i + 1) & mask) {
        if (m->slots[i].key == key || m->slots[i].value == NONE) return m->slots[i].value;
    }
}

static bool resize(qpi_bpe *m, size_t slot_count) {
    slot  *old = m->slots, *fresh = malloc(slot_count * sizeof *fresh);
    size_t old_count = m->slot_count;
    if (!fresh) return false;
    for (size_t i = 0; i < slot_count; i++) fresh[i] = (slot){NONE, NONE};
    m->slots = fresh;
    m->slot_count = slot_count;
    m->shift = 64 - __builtin_ctzll((unsigned long long)slot_count);
    for (size_t i = 0; i < old_count; i++) {
        if (old[i].value == NONE) continue;
        size_t at = home_of(m, old[i].key);
        while (fresh[at].value != NONE) at = (at + 1) & (slot_count - 1);
        fresh[at] = old[i];
    }
    free(old);
    return true;
}

qpi_bpe *qpi_bpe_new(qpi_error *e) {
    qpi_bpe *m = calloc(1, sizeof *m);
    if (m) m->multiplier = qpi_hash_seed(m) | 1;
    if (!m || !resize(m, 1024)) {
        free(m);
        qpi_fail_memory(e, "tokenizer");
        return NULL;
    }
    return m;
}

bool qpi_bpe_merge(qpi_bpe *m, int32_t a, int32_t b, uint32_t rank, int32_t id, qpi_error *e) {
    if (2 * (m->count + 1) > m->slot_count && !resize(m, 2 * m->slot_count))
        return qpi_fail_memory(e, "tokenizer") == QP_OK;
    uint64_t key = (uint64_t)(uint32_t)a << 32 | (uint32_t)b;
    size_t   at = home_of(m, key);
    while (m->slots[at].value != NONE && m->slots[at].key != key) at = (at + 1) & (m->slot_count - 1);
    m->count += m->slots[at].value == NONE;
    m->slots[at] = (slot){key, (uint64_t)rank << 32 | (uint32_t)id};
    return true;
}

void qpi_bpe_finish(qpi_bpe *m, const qp_tokenizer *t, qpi_bpe_flags flags) {
    m->flags = flags;
    for (int i = 0; i < 256; i++) {
        char             text[4];
        size_t           n = qpi_utf8_encode(qpi_byte_to_code((uint8_t)i), text);
        const qpi_token *token = qpi_vocab_at(&t->vocab, qpi_vocab_find(&t->vocab, text, n));
        m->byte_id[i] =
            token && (token->flags & QPI_TOKEN_MODEL) ? (int32_t)(token - t->vocab.tokens) : QPI_NO_TOKEN;
    }
}

bool qpi_bpe_is_bytes(const qpi_bpe *m) {
    for (int i = 0; i < 256; i++)
        if (m->byte_id[i] != i) return false;
    return true;
}

static void free_model(void *model) {
    qpi_bpe *m = model;
    free(m->slots);
    free(m);
}

void qpi_bpe_work_free(struct qpi_bpe_work *w) {
    if (!w) return;
    free(w->symbols);
    free(w->heap);
    free(w);
}

/* ---- Merging -------------------------------------------------------------------------- */

/* The symbols of n bytes, before any merge. */
static size_t start(const qpi_bpe *m, const uint8_t *text, size_t n, int32_t *ids) {
    size_t count = 0;
    bool   unknown = false;
    for (size_t i = 0; i < n; i++) {
        int32_t id = m->byte_id[text[i]];
        bool    known = id != QPI_NO_TOKEN;
        if (!known) id = unknown && m->flags.fuse_unknown ? QPI_NO_TOKEN : m->flags.unknown;
        if (id != QPI_NO_TOKEN) ids[count++] = id;
        unknown = !known;
    }
    return count;
}

static size_t merge_short(const qpi_bpe *m, int32_t *ids, size_t n) {
    uint64_t pairs[SHORT];
    for (size_t i = 0; i + 1 < n; i++) pairs[i] = find(m, ids[i], ids[i + 1]);
    while (n > 1) {
        size_t   best = 0;
        uint64_t low = pairs[0];
        for (size_t i = 1; i + 1 < n; i++)
            if (pairs[i] >> 32 < low >> 32) low = pairs[i], best = i;
        if (low == NONE) break;
        ids[best] = (int32_t)(uint32_t)low;
        n--;
        for (size_t i = best + 1; i < n; i++) ids[i] = ids[i + 1];
        for (size_t i = best + 1; i + 1 < n; i++) pairs[i] = pairs[i + 1];
        if (best > 0) pairs[best - 1] = find(m, ids[best - 1], ids[best]);
        if (best + 1 < n) pairs[best] = find(m, ids[best], ids[best + 1]);
    }
    return n;
}

static bool heap_push(struct qpi_bpe_work *w, uint64_t x) {
    uint64_t *h = qpi_grown(w->heap, &w->heap_capacity, w->heap_count + 1, sizeof *h);
    if (!h) return false;
    w->heap = h;
    size_t i = w->heap_count++;
    for (size_t up; i > 0 && h[up = (i - 1) / 2] > x; i = up) h[i] = h[up];
    h[i] = x;
    return true;
}

static uint64_t heap_pop(struct qpi_bpe_work *w) {
    uint64_t *h = w->heap, top = h[0], last = h[--w->heap_count];
    size_t    n = w->heap_count, i = 0;
    for (size_t down; (down = 2 * i + 1) < n; i = down) {
        if (down + 1 < n && h[down + 1] < h[down]) down++;
        if (h[down] >= last) break;
        h[i] = h[down];
    }
    h[i] = last;
    return top;
}

/* Queues the pair that starts at place i, if it merges. */
static bool offer(const qpi_bpe *m, struct qpi_bpe_work *w, int32_t i) {
    if (i < 0 || w->symbols[i].next < 0) return true;
    uint64_t pair = find(m, w->symbols[i].id, w->symbols[w->symbols[i].next].id);
    return pair == NONE || heap_push(w, (pair >> 32 << 32) | (uint32_t)i);
}

static bool merge_long(const qpi_bpe *m, struct qpi_bpe_work *w, int32_t *ids, size_t *count) {
    size_t  n = *count;
    symbol *s = qpi_grown(w->symbols, &w->symbol_capacity, n, sizeof *s);
    if (!s) return false;
    w->symbols = s;
    w->heap_count = 0;
    for (size_t i = 0; i < n; i++) s[i] = (symbol){ids[i], (int32_t)i - 1, i + 1 < n ? (int32_t)i + 1 : -1};
    for (size_t i = 0; i + 1 < n; i++)
        if (!offer(m, w, (int32_t)i)) return false;
    while (w->heap_count) {
        uint64_t top = heap_pop(w);
        int32_t  i = (int32_t)(uint32_t)top, j = s[i].next;
        if (s[i].id == QPI_NO_TOKEN || j < 0) continue;
        uint64_t pair = find(m, s[i].id, s[j].id);
        if (pair == NONE || pair >> 32 != top >> 32) continue; /* another pair by now */
        s[i].id = (int32_t)(uint32_t)pair;
        s[i].next = s[j].next;
        s[j].id = QPI_NO_TOKEN;
        if (s[i].next >= 0) s[s[i].next].prev = i;
        if (!offer(m, w, s[i].prev) || !offer(m, w, i)) return false;
    }
    *count = 0;
    for (int32_t i = 0; i >= 0; i = s[i].next) ids[(*count)++] = s[i].id;
    return true;
}

/* ---- Words ---------------------------------------------------------------------------- */

typedef struct {
    const qp_tokenizer *t;
    qpi_encoder        *w;
} job;

static inline uint64_t load(const uint8_t *p, size_t bytes) {
    uint64_t x = 0;
    memcpy(&x, p, bytes);
    return x;
}

/* The bytes of a word of 1 to 16, as two numbers that with its size determine it. */
static inline void pack(const uint8_t *p, size_t n, uint64_t *head, uint64_t *tail) {
    if (n >= 8)
        *head = load(p, 8), *tail = load(p + n - 8, 8);
    else if (n >= 4)
        *head = load(p, 4), *tail = load(p + n - 4, 4);
    else
        *head = (uint64_t)p[0] | (uint64_t)p[n / 2] << 8, *tail = p[n - 1];
}

static inline memory *remembered(struct qpi_bpe_work *b, uint64_t head, uint64_t tail, size_t n) {
    uint64_t hash = (head ^ (tail << 29 | tail >> 35) ^ (uint64_t)n << 59) * UINT64_C(0x9E3779B97F4A7C15);
    hash = (hash ^ hash >> 29) * UINT64_C(0xBF58476D1CE4E5B9);
    return &b->cache[hash >> (64 - CACHE_BITS)];
}

static bool put_ids(qpi_encoder *w, const int32_t *ids, size_t n) {
    if (w->out->capacity - w->out->count < (int64_t)n && !qpi_ids_reserve(w->out, n)) return false;
    if (n) memcpy(w->out->data + w->out->count, ids, n * sizeof *ids);
    w->out->count += (int64_t)n;
    return true;
}

/* The token that the whole word is, with ignore_merges. */
static bool whole_word(const job *j, const uint8_t *text, size_t n, int32_t *id) {
    qpi_buffer *b = &j->w->scratch;
    b->count = 0;
    if (!qpi_byte_level(b, text, n)) return false;
    int32_t found = qpi_vocab_find(&j->t->vocab, b->data, b->count);
    *id = found >= 0 && (j->t->vocab.tokens[found].flags & QPI_TOKEN_MODEL) ? found : QPI_NO_TOKEN;
    return true;
}

/* A word that was not remembered: appends its ids. */
static bool encode_new(const job *j, const uint8_t *text, size_t n) {
    const qpi_bpe *m = j->t->model;
    int32_t        id;
    if (m->flags.ignore_merges) {
        if (!whole_word(j, text, n, &id)) return false;
        if (id != QPI_NO_TOKEN) return put_ids(j->w, &id, 1);
    }
    if (!qpi_ids_reserve(j->w->out, n)) return false;
    int32_t *ids = j->w->out->data + j->w->out->count;
    size_t   count = start(m, text, n, ids);
    if (count <= SHORT)
        count = merge_short(m, ids, count);
    else if (!merge_long(m, j->w->bpe, ids, &count))
        return false;
    j->w->out->count += (int64_t)count;
    return true;
}

static bool encode_word(void *arg, const uint8_t *text, size_t n) {
    const job *j = arg;
    uint64_t   head, tail;
    if (n > CACHE_WORD) {
        if (n > LONGEST)
            return qpi_fail(&j->w->error, QP_ERR_UNSUPPORTED, "tokenizer: a word of %zu bytes is too long",
                            n) == QP_OK;
        return encode_new(j, text, n) || qpi_fail_memory(&j->w->error, "tokenizer") == QP_OK;
    }
    pack(text, n, &head, &tail);
    memory *known = remembered(j->w->bpe, head, tail, n);
    bool    ok;
    if (known->size == n && known->head == head && known->tail == tail) {
        ok = put_ids(j->w, known->ids, known->count);
    } else {
        int64_t before = j->w->out->count;
        ok = encode_new(j, text, n);
        int64_t count = j->w->out->count - before;
        if (ok && count <= CACHE_IDS) {
            *known = (memory){.head = head, .tail = tail, .size = (uint8_t)n, .count = (uint8_t)count};
            if (count) memcpy(known->ids, j->w->out->data + before, (size_t)count * sizeof *known->ids);
        }
    }
    return ok || qpi_fail_memory(&j->w->error, "tokenizer") == QP_OK;
}

static bool encode(const qp_tokenizer *t, qpi_encoder *w, const uint8_t *text, size_t n) {
    job j = {t, w};
    if (!w->bpe && !(w->bpe = calloc(1, sizeof *w->bpe)))
        return qpi_fail_memory(&w->error, "tokenizer") == QP_OK;
    return qpi_pretokenize(&t->pretokenizer, &w->split, text, n, encode_word, &j);
}

static size_t cut(const qp_tokenizer *t, const uint8_t *text, size_t n, size_t from) {
    return qpi_pretokenizer_cut(&t->pretokenizer, text, n, from);
}

/* ---- Writing -------------------------------------------------------------------------- */

static bool put(qpi_buffer *out, const char *text) { return qpi_buffer_put(out, text, strlen(text)); }

static int by_value(const void *a, const void *b) {
    const slot *x = a, *y = b;
    return (x->value > y->value) - (x->value < y->value);
}

static bool has_space(const qpi_token *t) { return memchr(t->text, ' ', t->text_size) != NULL; }

/* As "a b", which every version of `tokenizers` reads; as ["a", "b"] where a token has a
 * space. */
static bool print_merge(const qpi_token *a, const qpi_token *b, qpi_buffer *scratch, qpi_buffer *out) {
    if (has_space(a) || has_space(b))
        return put(out, "[") && qpi_json_print_string(out, a->text, a->text_size) && put(out, ",") &&
               qpi_json_print_string(out, b->text, b->text_size) && put(out, "]");
    scratch->count = 0;
    return qpi_buffer_put(scratch, a->text, a->text_size) && put(scratch, " ") &&
           qpi_buffer_put(scratch, b->text, b->text_size) &&
           qpi_json_print_string(out, scratch->data, scratch->count);
}

static bool print_merges(const qp_tokenizer *t, const qpi_bpe *m, qpi_buffer *out) {
    qpi_buffer scratch = {0};
    size_t     n = 0;
    slot      *sorted = malloc((m->count + 1) * sizeof *sorted);
    if (!sorted) return false;
    for (size_t i = 0; i < m->slot_count; i++)
        if (m->slots[i].value != NONE) sorted[n++] = m->slots[i];
    qsort(sorted, n, sizeof *sorted, by_value);
    bool ok = true;
    for (size_t i = 0; ok && i < n; i++) {
        const qpi_token *a = &t->vocab.tokens[sorted[i].key >> 32],
                        *b = &t->vocab.tokens[(uint32_t)sorted[i].key];
        ok = put(out, i ? ",\n" : "\n") && print_merge(a, b, &scratch, out);
    }
    qpi_buffer_free(&scratch);
    free(sorted);
    return ok;
}

bool qpi_bpe_print(const qp_tokenizer *t, const qpi_bpe *m, qpi_buffer *out) {
    const qpi_token *unknown = m ? qpi_vocab_at(&t->vocab, m->flags.unknown) : NULL;
    bool             ok = put(out, "{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":"), first = true;
    ok = ok && (unknown ? qpi_json_print_string(out, unknown->text, unknown->text_size) : put(out, "null")) &&
         put(out, ",\"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,\"fuse_unk\":") &&
         put(out, m && m->flags.fuse_unknown ? "true" : "false") &&
         put(out, ",\"byte_fallback\":false,\"ignore_merges\":") &&
         put(out, m && m->flags.ignore_merges ? "true" : "false") && put(out, ",\"vocab\":{");
    for (size_t i = 0; ok && i < t->vocab.size; i++) {
        const qpi_token *token = &t->vocab.tokens[i];
        char             number[24];
        if (!token->text || !(token->flags & QPI_TOKEN_MODEL)) continue;
        snprintf(number, sizeof number, ":%zu", i);
        ok = put(out, first ? "\n" : ",\n") && qpi_json_print_string(out, token->text, token->text_size) &&
             put(out, number);
        first = false;
    }
    return ok && put(out, "},\"merges\":[") && (!m || print_merges(t, m, out)) && put(out, "]}");
}

static bool save(const qp_tokenizer *t, qpi_buffer *out) { return qpi_bpe_print(t, t->model, out); }

const qpi_tokenizer_kind qpi_tokenizer_bpe = {"bpe", encode, cut, save, free_model};
