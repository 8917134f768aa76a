#include "data/words.h"

#include <stdlib.h>
#include <string.h>

#include "format/checksum.h"
#include "format/names.h"
#include "format/os.h"

#define PIECE_BYTES ((size_t)256 << 10)

static bool grow_slots(qpi_words *w) {
    size_t    slots = w->slot_count ? 2 * w->slot_count : 1024;
    uint32_t *fresh = calloc(slots, sizeof *fresh);
    if (!fresh) return false;
    for (size_t i = 0; i < w->count; i++) {
        size_t at = w->items[i].hash & (slots - 1);
        while (fresh[at]) at = (at + 1) & (slots - 1);
        fresh[at] = (uint32_t)i + 1;
    }
    free(w->slots);
    w->slots = fresh;
    w->slot_count = slots;
    return true;
}

static bool add(qpi_words *w, const uint8_t *text, size_t n, int64_t count) {
    if (2 * (w->count + 1) > w->slot_count && !grow_slots(w)) return false;
    uint32_t hash = (uint32_t)(qpi_checksum_of(w->seed, text, n) >> 32);
    size_t   at = hash & (w->slot_count - 1);
    for (; w->slots[at]; at = (at + 1) & (w->slot_count - 1)) {
        qpi_word *known = &w->items[w->slots[at] - 1];
        if (known->hash != hash || known->size != n || memcmp(known->text, text, n) != 0) continue;
        known->count += count;
        return true;
    }
    if ((n | w->count) >= INT32_MAX) return false; /* cannot: 2^31 words, or a word of as many bytes */
    qpi_word *items = qpi_grown(w->items, &w->capacity, w->count + 1, sizeof *items);
    if (!items) return false;
    w->items = items;
    char *copy = qpi_arena_text(&w->arena, (const char *)text, n);
    if (!copy) return false;
    items[w->count++] = (qpi_word){(const uint8_t *)copy, (uint32_t)n, hash, count};
    w->slots[at] = (uint32_t)w->count;
    return true;
}

void qpi_words_free(qpi_words *w) {
    qpi_arena_free(&w->arena);
    free(w->items);
    free(w->slots);
    *w = (qpi_words){0};
}

/* ---- Sharing out ---------------------------------------------------------------------- */

typedef struct {
    qpi_words       words;
    qpi_split_state split;
    qpi_error       error;
} counter;

typedef struct {
    const qpi_pretokenizer *p;
    qpi_document           *pieces;
    size_t                  count, capacity;
    counter                *counters; /* by worker */
} sharing;

static bool add_piece(sharing *s, const uint8_t *text, size_t n) {
    qpi_document *pieces = qpi_grown(s->pieces, &s->capacity, s->count + 1, sizeof *pieces);
    if (!pieces) return false;
    s->pieces = pieces;
    pieces[s->count++] = (qpi_document){text, n};
    return true;
}

static bool cut(sharing *s, const qpi_document *documents, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const uint8_t *text = documents[i].text;
        size_t         left = documents[i].size;
        while (left) {
            size_t size = left < 2 * PIECE_BYTES ? left : qpi_pretokenizer_cut(s->p, text, left, PIECE_BYTES);
            if (!add_piece(s, text, size)) return false;
            text += size;
            left -= size;
        }
    }
    return true;
}

static bool count_word(void *arg, const uint8_t *text, size_t n) {
    counter *c = arg;
    if (add(&c->words, text, n, 1)) return true;
    return qpi_fail_memory(&c->error, "tokenizer") == QP_OK;
}

static void count_pieces(void *arg, int64_t begin, int64_t end, int worker) {
    const sharing *s = arg;
    counter       *c = &s->counters[worker];
    for (int64_t i = begin; i < end && !c->error.code; i++)
        qpi_pretokenize(s->p, &c->split, s->pieces[i].text, s->pieces[i].size, false, count_word, c);
}

static bool take(qpi_words *w, counter *c, qpi_error *e) {
    if (c->error.code) return qpi_fail(e, c->error.code, "%s", c->error.text) == QP_OK;
    for (size_t i = 0; i < c->words.count; i++) {
        const qpi_word *word = &c->words.items[i];
        if (!add(w, word->text, word->size, word->count)) return qpi_fail_memory(e, "tokenizer") == QP_OK;
    }
    return true;
}

bool qpi_words_count(qpi_words *w, const qpi_pretokenizer *p, const qp_exec *exec,
                     const qpi_document *documents, size_t n, qpi_error *e) {
    sharing s = {.p = p, .counters = calloc((size_t)exec->threads, sizeof *s.counters)};
    bool    ok = s.counters && cut(&s, documents, n);
    if (!w->seed) w->seed = qpi_hash_seed(w) | 1;
    for (int i = 0; ok && i < exec->threads; i++) {
        s.counters[i].words.seed = w->seed;
        s.counters[i].split.error = &s.counters[i].error;
    }
    if (ok) qp_parallel(exec, (int64_t)s.count, 1, count_pieces, &s);
    else qpi_fail_memory(e, "tokenizer");
    for (int i = 0; s.counters && i < exec->threads; i++) {
        ok = ok && take(w, &s.counters[i], e);
        qpi_words_free(&s.counters[i].words);
        qpi_split_state_free(&s.counters[i].split);
    }
    free(s.counters);
    free(s.pieces);
    return ok;
}
