/* Unigram (Kudo 2018, arXiv:1804.10959): of all ways to cut a word into tokens the one with the greatest sum of
 * scores, by Viterbi's algorithm. Sums are taken in the order of `tokenizers`, and the first of equals stays, so
 * that ties go the same way. A character without a token is unknown, at a score 10 below the lowest. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/tokenizer.h"
#include "format/json.h"
#include "format/os.h"
#include "format/utf8.h"

#define LONGEST 256 /* bytes of a token: bounds the time at each place */
#define PENALTY 10.0

typedef struct {
    qpi_trie trie;
    double  *scores; /* by id */
    double   unknown_score;
    int32_t  unknown, bytes[256];
    bool     byte_fallback; /* and all of the bytes' tokens can be looked for */
} unigram;

typedef struct { /* the best way to come to a place */
    double  score;
    int32_t id;
    int32_t from; /* -1: none yet */
} node;

static void free_model(void *model) {
    unigram *m = model;
    qpi_trie_free(&m->trie);
    free(m->scores);
    free(m);
}

static bool build(qp_tokenizer *t, qpi_model_options *o, qpi_error *e) {
    unigram *m = calloc(1, sizeof *m);
    double   lowest = INFINITY;
    t->model = m;
    if (!m) return qpi_fail_memory(e, "tokenizer") == QP_OK;
    m->scores = o->scores;
    o->scores = NULL;
    m->unknown = (int32_t)o->unknown_id;
    m->byte_fallback = o->byte_fallback;
    if (m->unknown >= 0 && !qpi_vocab_at(&t->vocab, m->unknown))
        return qpi_fail(e, QP_ERR_FORMAT, "model.unk_id: the vocabulary has no token %d", (int)m->unknown) ==
               QP_OK;
    for (size_t i = 0; i < t->vocab.size; i++)
        if (t->vocab.tokens[i].flags & QPI_TOKEN_MODEL && m->scores[i] < lowest) lowest = m->scores[i];
    m->unknown_score = lowest - PENALTY;
    qpi_byte_tokens(t, m->bytes);
    return qpi_model_trie(t, &m->trie, LONGEST, e);
}

/* A place reached with a token from another, if that is better than all before. */
static inline void offer(node *nodes, size_t from, size_t to, int32_t id, double score) {
    double sum = score + nodes[from].score;
    if (nodes[to].from >= 0 && !(sum > nodes[to].score)) return;
    nodes[to] = (node){sum, id, (int32_t)from};
}

static bool forward(const unigram *m, const uint8_t *text, size_t n, node *nodes) {
    for (size_t i = 0; i <= n; i++) nodes[i] = (node){0, -1, -1};
    for (size_t at = 0, step; at < n; at += step) {
        bool     single = false;
        uint32_t place = 0;
        step = qpi_utf8_valid(text + at, n - at);
        if (!step) step = 1;
        for (size_t i = at; i < n && (place = qpi_trie_step(&m->trie, place, text[i])); i++) {
            int32_t id = m->trie.value[place];
            if (id < 0) continue;
            offer(nodes, at, i + 1, id, m->scores[id]);
            single |= i + 1 - at == step;
        }
        if (single) continue;
        const node *to = &nodes[at + step];
        if (m->unknown < 0 && (to->from < 0 || m->unknown_score + nodes[at].score > to->score)) return false;
        if (m->unknown < 0) continue;
        offer(nodes, at, at + step, m->unknown, m->unknown_score);
    }
    return true;
}

/* A stretch of unknown characters: a token after all, bytes, or the unknown token. There is room for n ids. */
static void put_unknown(const qp_tokenizer *t, qpi_encoder *w, const uint8_t *text, size_t n) {
    const unigram *m = t->model;
    int32_t        id = qpi_model_token(t, (const char *)text, n);
    bool           bytes = id < 0 && m->byte_fallback;
    for (size_t i = 0; bytes && i < n; i++) bytes = m->bytes[text[i]] >= 0;
    int32_t *ids = w->out->data;
    if (!bytes) ids[w->out->count++] = id < 0 ? m->unknown : id;
    for (size_t i = 0; bytes && i < n; i++) ids[w->out->count++] = m->bytes[text[i]];
}

/* The way, turned round: nodes[i].from becomes where the token that starts at i ends. */
static bool backward(const qp_tokenizer *t, qpi_encoder *w, const uint8_t *text, size_t n, node *nodes) {
    const unigram *m = t->model;
    size_t         end = n, next = 0;
    int32_t        id = nodes[n].id, from = nodes[n].from;
    if (!qpi_ids_reserve(w->out, n)) return qpi_fail_memory(&w->error, "tokenizer") == QP_OK;
    while (true) {
        size_t  start = (size_t)from;
        int32_t before_id = nodes[start].id, before_from = nodes[start].from;
        nodes[start] = (node){0, id, (int32_t)end};
        end = start;
        if (start == 0) break;
        id = before_id;
        from = before_from;
    }
    for (size_t at = 0; at < n; at = next) {
        next = (size_t)nodes[at].from;
        if (nodes[at].id != m->unknown) {
            w->out->data[w->out->count++] = nodes[at].id;
            continue;
        }
        while (next < n && nodes[next].id == m->unknown) next = (size_t)nodes[next].from;
        put_unknown(t, w, text + at, next - at);
    }
    return true;
}

static bool encode_word(const qp_tokenizer *t, qpi_encoder *w, const uint8_t *text, size_t n) {
    w->scratch.count = 0;
    if (n >= INT32_MAX) /* cannot: a word of 2 GiB */
        return qpi_fail(&w->error, QP_ERR_UNSUPPORTED, "tokenizer: a word of %zu bytes is too long", n) ==
               QP_OK;
    if (!qpi_buffer_reserve(&w->scratch, (n + 1) * sizeof(node)))
        return qpi_fail_memory(&w->error, "tokenizer") == QP_OK;
    node *nodes = (node *)w->scratch.data;
    return forward(t->model, text, n, nodes) ? backward(t, w, text, n, nodes) : qpi_no_unknown(w, NULL);
}

static bool encode(const qp_tokenizer *t, qpi_encoder *w, const uint8_t *text, size_t n, bool first) {
    return qpi_encode_words(t, w, text, n, first, encode_word);
}

/* ---- Writing ------------------------------------------------------------------------------- */

/* As few digits as read back to the same number, by the reader of `tokenizers`; that rounds twice, so they may have to
 * be those of a neighbour. Some numbers have none, and get their own. */
static void print_score(double score, char out[40]) {
    const double near[] = {score, nextafter(score, 0), nextafter(score, copysign(DBL_MAX, score)), score};
    for (int k = 0; k < 4 * 6; k++) {
        snprintf(out, 40, "%.*g", 15 + k % 6, near[k / 6]);
        for (char *p = out; *p; p++)
            if (!strchr("+-0123456789e", *p)) *p = '.'; /* whatever the locale writes */
        if (!strpbrk(out, ".e")) strcat(out, ".0");
        if (qpi_decimal(out, strlen(out)) == score) return;
    }
}

static void save(const qp_tokenizer *t, qpi_buffer *out) {
    const unigram *m = t->model;
    char           number[60] = "null";
    const char    *comma = "";
    if (m->unknown >= 0) snprintf(number, sizeof number, "%d", (int)m->unknown);
    qpi_put_text(out, "{\"type\":\"Unigram\",\"unk_id\":");
    qpi_put_text(out, number);
    qpi_put_text(out, m->byte_fallback ? ",\"byte_fallback\":true,\"vocab\":["
                                       : ",\"byte_fallback\":false,\"vocab\":[");
    for (size_t i = 0; i < t->vocab.size; i++) {
        const qpi_token *token = &t->vocab.tokens[i];
        if (!(token->flags & QPI_TOKEN_MODEL)) continue;
        print_score(m->scores[i], number);
        qpi_put_text(out, comma);
        qpi_put_text(out, "\n[");
        qpi_json_print_string(out, token->text, token->text_size);
        qpi_put_text(out, ",");
        qpi_put_text(out, number);
        qpi_put_text(out, "]");
        comma = ",";
    }
    qpi_put_text(out, "]}");
}

const qpi_tokenizer_kind qpi_tokenizer_unigram = {"unigram", "Unigram", build, encode, save, free_model};
