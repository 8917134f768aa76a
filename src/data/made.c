#define _POSIX_C_SOURCE 200809L
#include "data/made.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/bpe.h"
#include "format/os.h"
#include "format/utf8.h"

/* Bytes of a token that pairs are looked for in: bounds the time for each. */
#define LONGEST_MERGED 1024

static bool out_of_memory(qpi_made *m) { return qpi_fail_memory(m->error, m->name) == QP_OK; }

bool qpi_made_start(qpi_made *m, const char *name, const qpi_tokenizer_kind *kind, size_t count, qpi_error *e) {
    *m = (qpi_made){.name = name, .error = e, .begin = -1, .end = -1};
    m->options.longest = m->options.unknown_id = -1;
    m->t = qpi_tokenizer_new(kind, (int64_t)count, e);
    return m->t != NULL;
}

bool qpi_made_token(qpi_made *m, const char *text, size_t n, double score, qpi_piece_type type) {
    size_t  id = m->t->vocab.size;
    bool    utf8 = true;
    double *scores = m->options.scores;
    for (size_t i = 0, step; utf8 && i < n; i += step) utf8 = (step = qpi_utf8_valid(text + i, n - i)) != 0;
    if (!utf8 || n == 0)
        return qpi_fail(m->error, QP_ERR_FORMAT, "%s: token %zu: expected a text in UTF-8", m->name, id) == QP_OK;
    if (m->type_capacity <= id) {
        size_t   capacity = 2 * id + 1024;
        uint8_t *types = realloc(m->types, capacity);
        if (types) m->types = types;
        scores = realloc(m->options.scores, capacity * sizeof *scores);
        if (scores) m->options.scores = scores;
        if (!types || !scores) return out_of_memory(m);
        m->type_capacity = capacity;
    }
    m->types[id] = (uint8_t)type;
    scores[id] = score;
    if (!qpi_vocab_add(&m->t->vocab, m->name, text, n, (int64_t)id, QPI_TOKEN_MODEL, m->error)) return false;
    if ((type != QPI_SPECIAL && type != QPI_USER) || n > QPI_ADDED_LONGEST) return true;
    const qpi_token *token = &m->t->vocab.tokens[id];
    return qpi_tokenizer_add(
        m->t,
        (qpi_added){.text = token->text, .size = n, .id = (int32_t)id, .special = type == QPI_SPECIAL}, m->error);
}

bool qpi_made_part(qpi_made *m, qpi_part part, const char *json, ...) {
    va_list args;
    bool    ok = true;
    m->json.count = 0;
    va_start(args, json);
    for (const char *piece = json; ok && piece; piece = va_arg(args, const char *)) ok = qpi_put_text(&m->json, piece);
    va_end(args);
    return ok ? qpi_tokenizer_part(m->t, part, m->name, m->json.data, m->json.count, m->error) : out_of_memory(m);
}

/* ---- Templates ------------------------------------------------------------------------------- */

static bool put_special(qpi_made *m, int64_t id, int type, bool more) {
    const qpi_token *token = qpi_vocab_at(&m->t->vocab, id);
    return qpi_put_text(&m->json, "{\"SpecialToken\":{\"id\":") &&
           qpi_json_print_string(&m->json, token->text, token->text_size) &&
           qpi_put_text(&m->json, type ? ",\"type_id\":1}}" : ",\"type_id\":0}}") &&
           (!more || qpi_put_text(&m->json, ","));
}

static bool put_items(qpi_made *m, int64_t begin, int64_t end, bool two, bool apart) {
    return (begin < 0 || put_special(m, begin, 0, true)) &&
           qpi_put_text(&m->json, "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}") &&
           (end < 0 || (qpi_put_text(&m->json, ",") && put_special(m, end, 0, false))) &&
           (!two || ((apart || begin < 0 || (qpi_put_text(&m->json, ",") && put_special(m, begin, 1, false))) &&
                     qpi_put_text(&m->json, ",{\"Sequence\":{\"id\":\"B\",\"type_id\":1}}") &&
                     (end < 0 || (qpi_put_text(&m->json, ",") && put_special(m, end, 1, false)))));
}

static bool put_entry(qpi_made *m, int64_t id, bool more) {
    const qpi_token *token = qpi_vocab_at(&m->t->vocab, id);
    char             number[40];
    snprintf(number, sizeof number, ",\"ids\":[%d],\"tokens\":[", (int)id);
    return qpi_json_print_string(&m->json, token->text, token->text_size) && qpi_put_text(&m->json, ":{\"id\":") &&
           qpi_json_print_string(&m->json, token->text, token->text_size) && qpi_put_text(&m->json, number) &&
           qpi_json_print_string(&m->json, token->text, token->text_size) &&
           qpi_put_text(&m->json, more ? "]}," : "]}");
}

bool qpi_made_around(qpi_made *m, int64_t begin, int64_t end, bool apart) {
    if (!qpi_vocab_at(&m->t->vocab, begin)) begin = -1;
    if (!qpi_vocab_at(&m->t->vocab, end)) end = -1;
    if (begin < 0 && end < 0) return true;
    m->json.count = 0;
    bool ok = qpi_put_text(&m->json, "{\"type\":\"TemplateProcessing\",\"single\":[") &&
              put_items(m, begin, end, false, apart) && qpi_put_text(&m->json, "],\"pair\":[") &&
              put_items(m, begin, end, true, apart) && qpi_put_text(&m->json, "],\"special_tokens\":{") &&
              (begin < 0 || put_entry(m, begin, end >= 0 && end != begin)) &&
              (end < 0 || end == begin || put_entry(m, end, false)) && qpi_put_text(&m->json, "}}");
    if (!ok) return out_of_memory(m);
    return qpi_tokenizer_part(m->t, QPI_PART_POST, m->name, m->json.data, m->json.count, m->error);
}

/* ---- SentencePiece ------------------------------------------------------------------------------ */

typedef struct {
    double  score;
    int32_t id;
} scored;

static int by_score(const void *a, const void *b) {
    const scored *x = a, *y = b;
    if (x->score != y->score) return x->score < y->score ? 1 : -1;
    return (x->id > y->id) - (x->id < y->id);
}

static bool merges(const qpi_made *m, int32_t id) {
    return id >= 0 && m->types[id] != QPI_UNKNOWN && m->types[id] != QPI_SPECIAL && m->types[id] != QPI_BYTE;
}

/* All pairs that a token can be made of. */
static bool merge_token(qpi_made *m, int32_t id, uint32_t rank) {
    const qpi_token *token = &m->t->vocab.tokens[id];
    size_t           n = token->text_size;
    if (n > LONGEST_MERGED) return true;
    for (size_t at = qpi_utf8_valid(token->text, n); at < n; at += qpi_utf8_valid(token->text + at, n - at)) {
        int32_t a = qpi_vocab_find(&m->t->vocab, token->text, at);
        int32_t b = merges(m, a) ? qpi_vocab_find(&m->t->vocab, token->text + at, n - at) : QPI_NO_TOKEN;
        if (merges(m, b) && !qpi_bpe_merge(m->t->model, a, b, rank, id, m->error)) return false;
    }
    return true;
}

/* The best score first; equal scores are equal ranks, and the leftmost goes first. */
static bool merge_by_score(qpi_made *m) {
    size_t  n = m->t->vocab.size;
    scored *order = malloc((n + 1) * sizeof *order);
    if (!order) return out_of_memory(m);
    for (size_t i = 0; i < n; i++) order[i] = (scored){m->options.scores[i], (int32_t)i};
    qsort(order, n, sizeof *order, by_score);
    bool     ok = (m->t->model = qpi_bpe_new(m->error)) != NULL;
    uint32_t rank = 0;
    for (size_t i = 0; ok && i < n; i++) {
        if (i && order[i].score != order[i - 1].score) rank++;
        if (merges(m, order[i].id)) ok = merge_token(m, order[i].id, rank);
    }
    free(order);
    return ok;
}

/* RFC 4648. */
static bool put_base64(qpi_buffer *out, const uint8_t *p, size_t n) {
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    if (n > SIZE_MAX / 2 || !qpi_buffer_reserve(out, n / 3 * 4 + 5)) return false;
    for (size_t i = 0; i < n; i += 3) {
        size_t   left = n - i;
        uint32_t bits = (uint32_t)p[i] << 16 | (left > 1 ? (uint32_t)p[i + 1] << 8 : 0) | (left > 2 ? p[i + 2] : 0);
        for (size_t k = 0; k < 4; k++)
            out->data[out->count++] = k <= left ? alphabet[bits >> (18 - 6 * k) & 63] : '=';
    }
    out->data[out->count] = 0;
    return true;
}

static bool normalizer(qpi_made *m, const char *rest) {
    qpi_buffer map = {0};
    bool       ok = m->charsmap_size == 0 || put_base64(&map, m->charsmap, m->charsmap_size) || out_of_memory(m);
    ok = ok && qpi_made_part(m, QPI_PART_NORMALIZER, "{\"type\":\"Sequence\",\"normalizers\":[",
                             map.count ? "{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"" : "",
                             map.count ? map.data : "", map.count ? (*rest ? "\"}," : "\"}") : "", rest, "]}", NULL);
    qpi_buffer_free(&map);
    return ok;
}

#define MARK "\xE2\x96\x81"
#define SQUEEZE                                                                                            \
    "{\"type\":\"Strip\",\"strip_left\":true,\"strip_right\":true},{\"type\":\"Replace\",\"pattern\":{"    \
    "\"Regex\":\" {2,}\"},\"content\":\" \"}"
#define ESCAPE "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"" MARK "\"}"
#define PREPEND "{\"type\":\"Prepend\",\"prepend\":\"" MARK "\"}"

static bool decoder(qpi_made *m) {
    return qpi_made_part(
        m, QPI_PART_DECODER,
        "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":\"" MARK
        "\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"}",
        m->prefix_space ? ",{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}" : "", "]}", NULL);
}

bool qpi_made_sentencepiece(qpi_made *m) {
    static const char metaspace[] = "{\"type\":\"Metaspace\",\"replacement\":\"" MARK "\",\"prepend_scheme\":\"";
    qpi_model_options *o = &m->options;
    bool               unigram = m->t->kind == &qpi_tokenizer_unigram;
    for (size_t i = 0; i < m->t->vocab.size; i++)
        if (m->types[i] == QPI_UNKNOWN && o->unknown_id < 0) o->unknown_id = (int64_t)i;
    o->byte_fallback = m->byte_fallback;
    o->fuse_unknown = true;
    if (!decoder(m) || !qpi_made_around(m, m->begin, m->end, true)) return false;
    if (unigram)
        return normalizer(m, m->single_spaces ? SQUEEZE : "") &&
               qpi_made_part(m, QPI_PART_PRETOKENIZER, metaspace, m->prefix_space ? "always" : "never",
                             "\",\"split\":true}", NULL);
    const qpi_token *unknown = qpi_vocab_at(&m->t->vocab, o->unknown_id);
    if (unknown && !(o->unknown = strndup(unknown->text, unknown->text_size))) return out_of_memory(m);
    const char *rest = m->prefix_space ? (m->single_spaces ? SQUEEZE "," PREPEND "," ESCAPE : PREPEND "," ESCAPE)
                                       : (m->single_spaces ? SQUEEZE "," ESCAPE : ESCAPE);
    return normalizer(m, rest) && merge_by_score(m);
}

qp_tokenizer *qpi_made_finish(qpi_made *m, bool ok) {
    if (ok) m->t->begin = m->begin >= 0 && qpi_vocab_at(&m->t->vocab, m->begin) ? (int32_t)m->begin : m->t->begin;
    ok = ok && qpi_tokenizer_finish(m->t, &m->options, m->error);
    free(m->options.unknown);
    free(m->options.prefix);
    free(m->options.suffix);
    free(m->options.scores);
    free(m->types);
    qpi_buffer_free(&m->json);
    if (ok) return m->t;
    qpi_tokenizer_free(m->t);
    return NULL;
}
