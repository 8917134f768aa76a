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
    size_t id = m->t->vocab.size;
    bool   utf8 = true;
    for (size_t i = 0, step; utf8 && i < n; i += step) utf8 = (step = qpi_utf8_valid(text + i, n - i)) != 0;
    if (!utf8 || n == 0)
        return qpi_fail(m->error, QP_ERR_FORMAT, "%s: token %zu: expected a text in UTF-8", m->name, id) ==
               QP_OK;
    if (m->type_capacity <= id) {
        size_t   capacity = 2 * id + 1024;
        uint8_t *types = realloc(m->types, capacity);
        if (!types) return out_of_memory(m);
        m->types = types;
        double *scores = realloc(m->options.scores, capacity * sizeof *scores);
        if (!scores) return out_of_memory(m);
        m->options.scores = scores;
        m->type_capacity = capacity;
    }
    m->types[id] = (uint8_t)type;
    m->options.scores[id] = score;
    if (!qpi_vocab_add(&m->t->vocab, m->name, text, n, (int64_t)id, QPI_TOKEN_MODEL, m->error)) return false;
    if ((type != QPI_SPECIAL && type != QPI_USER) || n > QPI_ADDED_LONGEST) return true;
    const qpi_token *token = &m->t->vocab.tokens[id];
    return qpi_tokenizer_add(
        m->t, (qpi_added){.text = token->text, .size = n, .id = (int32_t)id, .special = type == QPI_SPECIAL},
        m->error);
}

/* The part whose JSON has been put together; a lack of memory on the way is noticed here. */
static bool read_part(qpi_made *m, qpi_part part) {
    if (m->json.failed) return out_of_memory(m);
    return qpi_tokenizer_part(m->t, part, m->name, m->json.data, m->json.count, m->error);
}

bool qpi_made_part(qpi_made *m, qpi_part part, const char *json, ...) {
    va_list args;
    m->json.count = 0;
    va_start(args, json);
    for (const char *piece = json; piece; piece = va_arg(args, const char *)) qpi_put_text(&m->json, piece);
    va_end(args);
    return read_part(m, part);
}

/* ---- Templates ------------------------------------------------------------------------------- */

static void put_token(qpi_made *m, int64_t id) {
    const qpi_token *token = qpi_vocab_at(&m->t->vocab, id);
    qpi_json_print_string(&m->json, token->text, token->text_size);
}

/* An id of -1 is no token. */
static void put_special(qpi_made *m, const char *before, int64_t id, int type, const char *behind) {
    if (id < 0) return;
    qpi_put_text(&m->json, before);
    qpi_put_text(&m->json, "{\"SpecialToken\":{\"id\":");
    put_token(m, id);
    qpi_put_text(&m->json, type ? ",\"type_id\":1}}" : ",\"type_id\":0}}");
    qpi_put_text(&m->json, behind);
}

static void put_items(qpi_made *m, int64_t begin, int64_t end, bool two, bool apart) {
    put_special(m, "", begin, 0, ",");
    qpi_put_text(&m->json, "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}");
    put_special(m, ",", end, 0, "");
    if (!two) return;
    put_special(m, ",", apart ? -1 : begin, 1, "");
    qpi_put_text(&m->json, ",{\"Sequence\":{\"id\":\"B\",\"type_id\":1}}");
    put_special(m, ",", end, 1, "");
}

static void put_entry(qpi_made *m, int64_t id) {
    char number[40];
    snprintf(number, sizeof number, ",\"ids\":[%d],\"tokens\":[", (int)id);
    put_token(m, id);
    qpi_put_text(&m->json, ":{\"id\":");
    put_token(m, id);
    qpi_put_text(&m->json, number);
    put_token(m, id);
    qpi_put_text(&m->json, "]}");
}

bool qpi_made_around(qpi_made *m, int64_t begin, int64_t end, bool apart) {
    if (!qpi_vocab_at(&m->t->vocab, begin)) begin = -1;
    if (!qpi_vocab_at(&m->t->vocab, end)) end = -1;
    if (begin < 0 && end < 0) return true;
    m->json.count = 0;
    qpi_put_text(&m->json, "{\"type\":\"TemplateProcessing\",\"single\":[");
    put_items(m, begin, end, false, apart);
    qpi_put_text(&m->json, "],\"pair\":[");
    put_items(m, begin, end, true, apart);
    qpi_put_text(&m->json, "],\"special_tokens\":{");
    put_entry(m, begin < 0 ? end : begin);
    if (begin >= 0 && end >= 0 && end != begin) {
        qpi_put_text(&m->json, ",");
        put_entry(m, end);
    }
    qpi_put_text(&m->json, "}}");
    return read_part(m, QPI_PART_POST);
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
    size_t n = m->t->vocab.size;
    if (!(m->t->model = qpi_bpe_new(m->error))) return false;
    scored *order = malloc((n + 1) * sizeof *order);
    if (!order) return out_of_memory(m);
    for (size_t i = 0; i < n; i++) order[i] = (scored){m->options.scores[i], (int32_t)i};
    qsort(order, n, sizeof *order, by_score);
    bool     ok = true;
    uint32_t rank = 0;
    for (size_t i = 0; ok && i < n; i++) {
        if (i && order[i].score != order[i - 1].score) rank++;
        if (merges(m, order[i].id)) ok = merge_token(m, order[i].id, rank);
    }
    free(order);
    return ok;
}

/* RFC 4648. */
static void put_base64(qpi_buffer *out, const uint8_t *p, size_t n) {
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    if (!qpi_buffer_reserve(out, n / 3 * 4 + 4)) return;
    for (size_t i = 0; i < n; i += 3) {
        size_t   left = n - i;
        uint32_t bits =
            (uint32_t)p[i] << 16 | (left > 1 ? (uint32_t)p[i + 1] << 8 : 0) | (left > 2 ? p[i + 2] : 0);
        for (size_t k = 0; k < 4; k++)
            out->data[out->count++] = k <= left ? alphabet[bits >> (18 - 6 * k) & 63] : '=';
    }
}

static bool normalizer(qpi_made *m, const char *rest) {
    m->json.count = 0;
    qpi_put_text(&m->json, "{\"type\":\"Sequence\",\"normalizers\":[");
    if (m->charsmap_size) {
        qpi_put_text(&m->json, "{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"");
        put_base64(&m->json, m->charsmap, m->charsmap_size);
        qpi_put_text(&m->json, *rest ? "\"}," : "\"}");
    }
    qpi_put_text(&m->json, rest);
    qpi_put_text(&m->json, "]}");
    return read_part(m, QPI_PART_NORMALIZER);
}

#define MARK "\xE2\x96\x81"
#define SQUEEZE \
    "{\"type\":\"Strip\",\"strip_left\":true,\"strip_right\":true},{\"type\":\"Replace\",\"pattern\":{" \
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
    static const char metaspace[] =
        "{\"type\":\"Metaspace\",\"replacement\":\"" MARK "\",\"prepend_scheme\":\"";
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
    static const char *const rests[2][2] = {{ESCAPE, SQUEEZE "," ESCAPE}, /* prefix_space, single_spaces */
                                            {PREPEND "," ESCAPE, SQUEEZE "," PREPEND "," ESCAPE}};
    return normalizer(m, rests[m->prefix_space][m->single_spaces]) && merge_by_score(m);
}

qp_tokenizer *qpi_made_finish(qpi_made *m, bool ok) {
    if (qpi_vocab_at(&m->t->vocab, m->begin)) m->t->begin = (int32_t)m->begin;
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
