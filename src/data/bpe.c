/* Encoding: within a word, of all adjacent pairs that merge the one of lowest rank (and of
 * those the leftmost) becomes one token, until none is left. Short words are scanned for it,
 * long ones keep a heap. */
#define _POSIX_C_SOURCE 200809L
#include "data/bpe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/characters.h"
#include "data/tokenizer.h"
#include "format/json.h"
#include "format/os.h"
#include "format/utf8.h"

#define NONE UINT64_MAX
#define SHORT 48 /* bytes up to which scanning beats the heap */

typedef struct {
    uint64_t key;   /* a << 32 | b */
    uint64_t value; /* rank << 32 | id, NONE: the slot is empty */
} slot;

struct qpi_bpe {
    slot    *slots;
    size_t   slot_count, count;
    int      shift;
    uint64_t multiplier;   /* odd, and different each time: no file can make pairs collide */
    bool     bytes;        /* words stand for their bytes; otherwise for characters */
    int32_t  byte_id[256]; /* of bytes; of characters without a token: <0x00> to <0xFF> */
    bool     ignore_merges, fuse_unknown, byte_fallback;
    char    *unknown; /* the token of what has none; NULL: that is left out */
    int32_t  unknown_id;
    /* Of characters alone. */
    qpi_characters characters;
    char          *prefix, *suffix; /* of characters behind the first, of the last; NULL: none */
    bool           spaced;          /* no pair merges across the beginning of a word that U+2581 marks */
    size_t         longest;         /* bytes of a word: symbols are numbered in 31 bits */
};

typedef struct { /* a symbol of a long word */
    int32_t id;  /* QPI_NO_TOKEN: merged into the one before */
    int32_t prev, next;
} symbol;

struct qpi_bpe_work {
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

/* ---- Making the model ----------------------------------------------------------------- */

#define LONGEST_AFFIX 64 /* bytes of prefix and suffix: bounds what a character may become */

/* Takes a text over; NULL for an empty one. */
static char *take(char **from) {
    char *text = *from;
    *from = NULL;
    if (!text || *text) return text;
    free(text);
    return NULL;
}

static size_t length(const char *text) { return text ? strlen(text) : 0; }

static bool is_space_mark(const char *p, size_t n) { return n >= 3 && memcmp(p, "\xE2\x96\x81", 3) == 0; }

/* U+2581 stands behind another character. */
static bool holds_word_start(const qpi_token *t) {
    bool other = false;
    for (size_t i = 0, step; i < t->text_size; i += step) {
        bool mark = is_space_mark(t->text + i, t->text_size - i);
        step = mark ? 3 : 1;
        if (mark && other) return true;
        other = !mark;
    }
    return false;
}

/* The byte-level characters' tokens; false if one is missing. */
static bool find_bytes(qpi_bpe *m, const qp_tokenizer *t) {
    bool all = true;
    for (int i = 0; i < 256; i++) {
        char text[4];
        m->byte_id[i] = qpi_model_token(t, text, qpi_utf8_encode(qpi_byte_to_code((uint8_t)i), text));
        all &= m->byte_id[i] >= 0;
    }
    return all;
}

static bool is_identity(const qpi_bpe *m) {
    for (int i = 0; i < 256; i++)
        if (m->byte_id[i] != i) return false;
    return true;
}

static bool find_characters(qpi_bpe *m, const qp_tokenizer *t) {
    m->spaced = !m->prefix && !m->suffix;
    for (size_t i = 0; i < m->slot_count && m->spaced; i++)
        if (m->slots[i].value != NONE)
            m->spaced = !holds_word_start(&t->vocab.tokens[(uint32_t)m->slots[i].value]);
    qpi_byte_tokens(t, m->byte_id);
    for (size_t id = 0; id < t->vocab.size; id++) {
        const qpi_token *token = &t->vocab.tokens[id];
        uint32_t         code;
        if ((token->flags & QPI_TOKEN_MODEL) && token->text_size &&
            qpi_utf8_decode(token->text, token->text_size, &code) == token->text_size &&
            !qpi_characters_set(&m->characters, code, (int32_t)id))
            return false;
    }
    return true;
}

static bool build(qp_tokenizer *t, qpi_model_options *o, qpi_error *e) {
    qpi_bpe *m = t->model;
    m->unknown = take(&o->unknown);
    m->prefix = take(&o->prefix);
    m->suffix = take(&o->suffix);
    m->longest = (INT32_MAX - LONGEST_AFFIX - 1) / (1 + length(m->prefix));
    m->ignore_merges = o->ignore_merges;
    m->fuse_unknown = o->fuse_unknown;
    m->byte_fallback = o->byte_fallback;
    m->unknown_id = m->unknown ? qpi_model_token(t, m->unknown, strlen(m->unknown)) : QPI_NO_TOKEN;
    if (length(m->prefix) > LONGEST_AFFIX || length(m->suffix) > LONGEST_AFFIX)
        return qpi_fail(e, QP_ERR_UNSUPPORTED,
                        "model: a prefix or suffix of more than %d bytes is not supported",
                        LONGEST_AFFIX) == QP_OK;
    bool all = find_bytes(m, t);
    m->bytes = t->pretokenizer.byte_level && !m->prefix && !m->suffix && (all || !m->byte_fallback);
    if (m->bytes && m->count == 0 && t->pretokenizer.count == 0 && is_identity(m)) {
        t->kind->free(m);
        t->model = NULL;
        t->kind = &qpi_tokenizer_byte;
        return true;
    }
    if (m->bytes) return true;
    qpi_json at = qpi_json_root("pre_tokenizer", NULL, e);
    if (!qpi_pretokenizer_unfold(&t->pretokenizer, &at)) return false;
    if (find_characters(m, t)) return true;
    return qpi_fail_memory(e, "tokenizer") == QP_OK;
}

static void free_model(void *model) {
    qpi_bpe *m = model;
    qpi_characters_free(&m->characters);
    free(m->unknown);
    free(m->prefix);
    free(m->suffix);
    free(m->slots);
    free(m);
}

void qpi_bpe_work_free(struct qpi_bpe_work *w) {
    if (!w) return;
    free(w->symbols);
    free(w->heap);
    free(w);
}

/* ---- Symbols -------------------------------------------------------------------------- */

/* The symbols of n bytes, before any merge. */
static bool start_bytes(const qpi_bpe *m, qpi_encoder *w, const uint8_t *text, size_t n, size_t *count) {
    if (!qpi_ids_reserve(w->out, n)) return qpi_fail_memory(&w->error, "tokenizer") == QP_OK;
    int32_t *ids = w->out->data + w->out->count;
    bool     unknown = false;
    for (size_t i = 0; i < n; i++) {
        int32_t id = m->byte_id[text[i]];
        bool    known = id != QPI_NO_TOKEN;
        if (!known && m->unknown) {
            if (m->unknown_id < 0) return qpi_no_unknown(w, m->unknown);
            id = unknown && m->fuse_unknown ? QPI_NO_TOKEN : m->unknown_id;
        }
        if (id != QPI_NO_TOKEN) ids[(*count)++] = id;
        unknown = !known;
    }
    return true;
}

/* A character with what its place in the word adds to it; the size. */
static size_t with_affixes(const qpi_bpe *m, const uint8_t *text, size_t n, bool first, bool last, char *out) {
    size_t size = 0, k;
    if (!first && m->prefix) memcpy(out, m->prefix, size = strlen(m->prefix));
    memcpy(out + size, text, n);
    size += n;
    if (last && m->suffix) memcpy(out + size, m->suffix, k = strlen(m->suffix)), size += k;
    return size;
}

/* The symbols of n bytes' characters. An unknown one waits for the next that has a token, as in `tokenizers`: bytes
 * that stand for a character come before it. */
static bool start_characters(const qpi_bpe *m, const qp_tokenizer *t, qpi_encoder *w, const uint8_t *text,
                             size_t n, size_t *count) {
    size_t most = n * (1 + length(m->prefix)) + LONGEST_AFFIX + 1;
    char   whole[2 * LONGEST_AFFIX + 4];
    bool   waits = false;
    if (!qpi_ids_reserve(w->out, most)) return qpi_fail_memory(&w->error, "tokenizer") == QP_OK;
    int32_t *ids = w->out->data + w->out->count;
    for (size_t at = 0, step; at < n; at += step) {
        uint32_t    code = UINT32_MAX;
        int32_t     id;
        const char *s = (const char *)text + at;
        step = qpi_utf8_decode(s, n - at, &code);
        if (!step) step = 1;
        size_t size = step;
        if (m->prefix || m->suffix) {
            size = with_affixes(m, text + at, step, at == 0, at + step == n, whole);
            s = whole;
            id = qpi_model_token(t, s, size);
        } else {
            id = qpi_characters_get(&m->characters, code);
        }
        if (id >= 0) {
            if (waits) ids[(*count)++] = m->unknown_id;
            waits = false;
            ids[(*count)++] = id;
            continue;
        }
        bool bytes = m->byte_fallback;
        for (size_t i = 0; bytes && i < size; i++) bytes = m->byte_id[(uint8_t)s[i]] >= 0;
        if (bytes) {
            for (size_t i = 0; i < size; i++) ids[(*count)++] = m->byte_id[(uint8_t)s[i]];
        } else if (m->unknown) {
            if (m->unknown_id < 0) return qpi_no_unknown(w, m->unknown);
            if (waits && !m->fuse_unknown) ids[(*count)++] = m->unknown_id;
            waits = true;
        }
    }
    if (waits) ids[(*count)++] = m->unknown_id;
    return true;
}

/* ---- Merging -------------------------------------------------------------------------- */

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

static void heap_push(struct qpi_bpe_work *w, uint64_t x) {
    uint64_t *h = w->heap;
    size_t    i = w->heap_count++;
    for (size_t up; i > 0 && h[up = (i - 1) / 2] > x; i = up) h[i] = h[up];
    h[i] = x;
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
static void offer(const qpi_bpe *m, struct qpi_bpe_work *w, int32_t i) {
    if (i < 0 || w->symbols[i].next < 0) return;
    uint64_t pair = find(m, w->symbols[i].id, w->symbols[w->symbols[i].next].id);
    if (pair != NONE) heap_push(w, (pair >> 32 << 32) | (uint32_t)i);
}

static bool merge_long(const qpi_bpe *m, struct qpi_bpe_work *w, int32_t *ids, size_t *count) {
    size_t  n = *count;
    symbol *s = qpi_grown(w->symbols, &w->symbol_capacity, n, sizeof *s);
    if (!s) return false;
    w->symbols = s;
    /* One for each pair, and one more for each merge: it takes one and offers two. */
    uint64_t *heap = qpi_grown(w->heap, &w->heap_capacity, 2 * n, sizeof *heap);
    if (!heap) return false;
    w->heap = heap;
    w->heap_count = 0;
    for (size_t i = 0; i < n; i++) s[i] = (symbol){ids[i], (int32_t)i - 1, i + 1 < n ? (int32_t)i + 1 : -1};
    for (size_t i = 0; i + 1 < n; i++) offer(m, w, (int32_t)i);
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
        offer(m, w, s[i].prev);
        offer(m, w, i);
    }
    *count = 0;
    for (int32_t i = 0; i >= 0; i = s[i].next) ids[(*count)++] = s[i].id;
    return true;
}

/* ---- Words ---------------------------------------------------------------------------- */

/* Appends the ids of a word, or of a part of one that nothing merges across. */
static bool encode_part(const qp_tokenizer *t, qpi_encoder *w, const uint8_t *text, size_t n) {
    const qpi_bpe *m = t->model;
    size_t         count = 0;
    if (n > m->longest)
        return qpi_fail(&w->error, QP_ERR_UNSUPPORTED, "tokenizer: a word of %zu bytes is too long", n) ==
               QP_OK;
    if (!(m->bytes ? start_bytes(m, w, text, n, &count) : start_characters(m, t, w, text, n, &count)))
        return false;
    int32_t *ids = w->out->data + w->out->count;
    if (count <= SHORT) count = merge_short(m, ids, count);
    else if (!merge_long(m, w->bpe, ids, &count)) return qpi_fail_memory(&w->error, "tokenizer") == QP_OK;
    w->out->count += (int64_t)count;
    return true;
}

/* The end of the part that starts with the text: where a word begins behind something else. */
static size_t part_end(const uint8_t *text, size_t n) {
    size_t at = 0;
    while (is_space_mark((const char *)text + at, n - at)) at += 3;
    while (at < n) {
        const uint8_t *p = memchr(text + at, 0xE2, n - at);
        if (!p) return n;
        at = (size_t)(p - text);
        if (is_space_mark((const char *)p, n - at)) return at;
        at++;
    }
    return n;
}

static bool encode_parts(const qp_tokenizer *t, qpi_encoder *w, const uint8_t *text, size_t n) {
    for (size_t size; n; text += size, n -= size) {
        size = part_end(text, n);
        if (!qpi_encode_cached(t, w, text, size, encode_part)) return false;
    }
    return true;
}

/* The token that the whole word is, with ignore_merges. */
static bool whole_word(const qp_tokenizer *t, qpi_encoder *w, const uint8_t *text, size_t n, int32_t *id) {
    const qpi_bpe *m = t->model;
    w->scratch.count = 0;
    if (m->bytes && !qpi_byte_level(&w->scratch, text, n))
        return qpi_fail_memory(&w->error, "tokenizer") == QP_OK;
    *id = m->bytes ? qpi_model_token(t, w->scratch.data, w->scratch.count)
                   : qpi_model_token(t, (const char *)text, n);
    return true;
}

static bool encode_word(const qp_tokenizer *t, qpi_encoder *w, const uint8_t *text, size_t n) {
    const qpi_bpe *m = t->model;
    int32_t        id;
    if (m->ignore_merges) {
        if (!whole_word(t, w, text, n, &id)) return false;
        if (id != QPI_NO_TOKEN) return qpi_put_ids(w, &id, 1);
        return encode_part(t, w, text, n);
    }
    return m->spaced ? encode_parts(t, w, text, n) : encode_part(t, w, text, n);
}

static bool encode(const qp_tokenizer *t, qpi_encoder *w, const uint8_t *text, size_t n, bool first) {
    if (!w->bpe && !(w->bpe = calloc(1, sizeof *w->bpe)))
        return qpi_fail_memory(&w->error, "tokenizer") == QP_OK;
    return qpi_encode_words(t, w, text, n, first, encode_word);
}

/* ---- Writing -------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b) {
    const slot *x = a, *y = b;
    return (x->value > y->value) - (x->value < y->value);
}

static bool has_space(const qpi_token *t) { return memchr(t->text, ' ', t->text_size) != NULL; }

/* As "a b", which every version of `tokenizers` reads; as ["a", "b"] where a token has a
 * space. */
static void print_merge(const qpi_token *a, const qpi_token *b, qpi_buffer *scratch, qpi_buffer *out) {
    if (has_space(a) || has_space(b)) {
        qpi_put_text(out, "[");
        qpi_json_print_string(out, a->text, a->text_size);
        qpi_put_text(out, ",");
        qpi_json_print_string(out, b->text, b->text_size);
        qpi_put_text(out, "]");
        return;
    }
    scratch->count = 0;
    qpi_buffer_put(scratch, a->text, a->text_size);
    qpi_put_text(scratch, " ");
    qpi_buffer_put(scratch, b->text, b->text_size);
    qpi_json_print_string(out, scratch->data, scratch->count);
    out->failed |= scratch->failed;
}

static void print_merges(const qp_tokenizer *t, const qpi_bpe *m, qpi_buffer *out) {
    qpi_buffer scratch = {0};
    size_t     n = 0;
    slot      *sorted = malloc((m->count + 1) * sizeof *sorted);
    if (!sorted) {
        out->failed = true;
        return;
    }
    for (size_t i = 0; i < m->slot_count; i++)
        if (m->slots[i].value != NONE) sorted[n++] = m->slots[i];
    qsort(sorted, n, sizeof *sorted, by_value);
    for (size_t i = 0; i < n; i++) {
        const qpi_token *a = &t->vocab.tokens[sorted[i].key >> 32],
                        *b = &t->vocab.tokens[(uint32_t)sorted[i].key];
        qpi_put_text(out, i ? ",\n" : "\n");
        print_merge(a, b, &scratch, out);
    }
    qpi_buffer_free(&scratch);
    free(sorted);
}

static void print_option(qpi_buffer *out, const char *key, const char *text) {
    qpi_put_text(out, key);
    if (text) qpi_json_print_string(out, text, strlen(text));
    else qpi_put_text(out, "null");
}

static void print_flag(qpi_buffer *out, const char *key, bool value) {
    qpi_put_text(out, key);
    qpi_put_text(out, value ? "true" : "false");
}

void qpi_bpe_print(const qp_tokenizer *t, const qpi_bpe *m, qpi_buffer *out) {
    static const qpi_bpe none;
    const qpi_bpe       *o = m ? m : &none;
    qpi_put_text(out, "{\"type\":\"BPE\",\"dropout\":null");
    print_option(out, ",\"unk_token\":", o->unknown);
    print_option(out, ",\"continuing_subword_prefix\":", o->prefix);
    print_option(out, ",\"end_of_word_suffix\":", o->suffix);
    print_flag(out, ",\"fuse_unk\":", o->fuse_unknown);
    print_flag(out, ",\"byte_fallback\":", o->byte_fallback);
    print_flag(out, ",\"ignore_merges\":", o->ignore_merges);
    qpi_put_text(out, ",");
    qpi_print_vocab(t, out);
    qpi_put_text(out, ",\"merges\":[");
    if (m) print_merges(t, m, out);
    qpi_put_text(out, "]}");
}

static void save(const qp_tokenizer *t, qpi_buffer *out) { qpi_bpe_print(t, t->model, out); }

const qpi_tokenizer_kind qpi_tokenizer_bpe = {"bpe", "BPE", build, encode, save, free_model};
