/* tokenizer.json. Its vocabulary and merges are read as a stream, the rest as small trees. */
#define _POSIX_C_SOURCE 200809L
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/bpe.h"
#include "data/made.h"
#include "format/gguf.h"
#include "format/json_stream.h"
#include "format/reader.h"

#define FREE_IDS 65536 /* ids lie below this plus the bytes of the file */

static const qpi_tokenizer_kind *const kinds[] = {&qpi_tokenizer_bpe, &qpi_tokenizer_wordpiece,
                                                  &qpi_tokenizer_unigram, &qpi_tokenizer_wordlevel};

typedef struct {
    qp_tokenizer     *t;
    qpi_stream        s;
    qpi_error        *error;
    qpi_span          raw[QPI_PARTS];
    qpi_model_options options;
    qpi_buffer        pair;                /* the joint text of a merge */
    size_t            vocab_at, merges_at; /* where they wait for what they need; 0: they do not */
    size_t            merges, prefix_size; /* how many merges there are */
    size_t            score_capacity;
    bool              has_vocab, has_merges, has_model, vocab_read, merges_read;
} loading;

static bool out_of_memory(loading *l) {
    l->s.failed = true;
    return qpi_fail_memory(l->error, l->s.name) == QP_OK;
}

/* ---- The vocabulary ------------------------------------------------------------------- */

/* {"token": id, ...} */
static bool read_table(loading *l) {
    qpi_stream *s = &l->s;
    qpi_span    key;
    int64_t     id;
    if (!qpi_stream_open(s, '{')) return false;
    while (qpi_stream_key(s, &key)) {
        /* Reading the number leaves the key's text as it is. */
        if (!qpi_stream_integer(s, &id) ||
            !qpi_vocab_add(&l->t->vocab, s->name, key.data, key.size, id, QPI_TOKEN_MODEL, l->error))
            return false;
    }
    return !s->failed;
}

/* ["token", score] */
static bool read_scored(loading *l, int64_t id) {
    qpi_stream *s = &l->s;
    qpi_span    text, raw;
    size_t      start = s->at;
    double     *scores = qpi_grown(l->options.scores, &l->score_capacity, (size_t)id + 1, sizeof *scores);
    if (!scores) return out_of_memory(l);
    l->options.scores = scores;
    if (!qpi_stream_open(s, '[') || !qpi_stream_item(s) || !qpi_stream_string(s, &text) ||
        !qpi_vocab_add(&l->t->vocab, s->name, text.data, text.size, id, QPI_TOKEN_MODEL | QPI_TOKEN_AGAIN,
                       l->error) ||
        !qpi_stream_item(s))
        return qpi_stream_fail(s, start, "expected a token and its score");
    bool number = qpi_stream_peek(s) == '0';
    if (!qpi_stream_skip(s, &raw)) return false;
    scores[id] = number ? qpi_decimal(raw.data, raw.size) : INFINITY;
    if (!isfinite(scores[id]) || qpi_stream_item(s))
        return qpi_stream_fail(s, start, "expected a token and its score");
    return !s->failed;
}

/* [["token", score], ...], ids from 0 */
static bool read_list(loading *l) {
    int64_t id = 0;
    if (!qpi_stream_open(&l->s, '[')) return false;
    while (qpi_stream_item(&l->s))
        if (!read_scored(l, id++)) return false;
    return !l->s.failed;
}

static bool read_vocab(loading *l) {
    l->vocab_read = true;
    return l->t->kind == &qpi_tokenizer_unigram ? read_list(l) : read_table(l);
}

/* ---- Merges --------------------------------------------------------------------------- */

/* Both texts of the merge at hand, joined in l->pair with the first's size in *cut. */
static bool read_pair(loading *l, size_t *cut) {
    qpi_stream *s = &l->s;
    qpi_span    text;
    size_t      start = s->at;
    l->pair.count = 0;
    if (qpi_stream_peek(s) == '"') {
        if (!qpi_stream_string(s, &text)) return false;
        const char *space = memchr(text.data, ' ', text.size);
        size_t      first = space ? (size_t)(space - text.data) : 0;
        if (!first || first + 1 == text.size || memchr(space + 1, ' ', text.size - first - 1))
            return qpi_stream_fail(s, start, "expected a merge of two tokens with a space between them");
        *cut = first;
        qpi_buffer_put(&l->pair, text.data, first);
        qpi_buffer_put(&l->pair, space + 1, text.size - first - 1);
        return true;
    }
    if (!qpi_stream_open(s, '[')) return false;
    int count = 0;
    while (qpi_stream_item(s)) {
        if (!qpi_stream_string(s, &text)) return false;
        if (count++ == 1) *cut = l->pair.count;
        qpi_buffer_put(&l->pair, text.data, text.size);
    }
    if (s->failed || count == 2) return !s->failed;
    return qpi_stream_fail(s, start, "expected a merge of two tokens, found %d", count);
}

static bool is_version_line(const loading *l) {
    static const char mark[] = "#version";
    return l->pair.count >= sizeof mark - 1 && memcmp(l->pair.data, mark, sizeof mark - 1) == 0;
}

static int32_t in_model(const loading *l, const char *text, size_t n) { return qpi_model_token(l->t, text, n); }

/* The token that the pair at hand becomes: as a rule the one after the last merge's. */
static int32_t united(const loading *l, int32_t last) {
    const qpi_token *next = qpi_vocab_at(&l->t->vocab, (int64_t)last + 1);
    if (next && next->text_size == l->pair.count && memcmp(next->text, l->pair.data, l->pair.count) == 0)
        return last + 1;
    return in_model(l, l->pair.data, l->pair.count);
}

/* Takes the prefix off the second token of the pair at hand. */
static bool take_prefix(loading *l, size_t cut) {
    size_t n = l->prefix_size;
    if (l->pair.count - cut < n) return false;
    memmove(l->pair.data + cut, l->pair.data + cut + n, l->pair.count - cut - n);
    l->pair.count -= n;
    return true;
}

static bool read_merges(loading *l) {
    qpi_stream *s = &l->s;
    int32_t     id = QPI_NO_TOKEN;
    l->merges_read = true;
    l->prefix_size = l->options.prefix ? strlen(l->options.prefix) : 0;
    if (!(l->t->model = qpi_bpe_new(l->error))) return false;
    if (!qpi_stream_open(s, '[')) return false;
    while (qpi_stream_item(s)) {
        size_t cut = 0, start = s->at;
        if (!read_pair(l, &cut)) return false;
        if (l->pair.failed) return out_of_memory(l);
        int32_t a = in_model(l, l->pair.data, cut), b = in_model(l, l->pair.data + cut, l->pair.count - cut);
        if (l->prefix_size && b >= 0 && !take_prefix(l, cut))
            return qpi_stream_fail(s, start, "merge %zu: its second token is shorter than the prefix",
                                   l->merges);
        id = united(l, id);
        if (a < 0 || b < 0 || id < 0) {
            if (l->merges == 0 && is_version_line(l)) continue;
            return qpi_stream_fail(s, start, "merge %zu: %s is not in the vocabulary", l->merges,
                                   a < 0   ? "its first token"
                                   : b < 0 ? "its second token"
                                           : "their union");
        }
        if (!qpi_bpe_merge(l->t->model, a, b, (uint32_t)l->merges++, id, l->error)) return false;
    }
    return !s->failed;
}

/* ---- Options -------------------------------------------------------------------------- */

static bool unsupported(loading *l, const char *key, qpi_span value) {
    char shown[QPI_SHOWN];
    qpi_fail(l->error, QP_ERR_UNSUPPORTED, "%s: model.%s: %s is not supported", l->s.name, key,
             qpi_shown(shown, value.data, value.size));
    l->s.failed = true;
    return false;
}

static bool read_type(loading *l, const char *key, qpi_span raw) {
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        size_t n = strlen(kinds[i]->type);
        if (raw.size != n + 2 || memcmp(raw.data + 1, kinds[i]->type, n) != 0) continue;
        l->t->kind = kinds[i];
        return true;
    }
    return unsupported(l, key, raw);
}

static bool read_dropout(loading *l, const char *key, qpi_span raw) {
    bool zero = raw.data[0] == '0' && qpi_decimal(raw.data, raw.size) == 0;
    if (zero || qpi_span_is(raw, "null")) return true;
    return unsupported(l, key, raw);
}

static bool wrong(loading *l, const char *key, const char *wanted, qpi_span raw) {
    char shown[QPI_SHOWN];
    return qpi_stream_fail(&l->s, (size_t)(raw.data - l->s.data), "%s: expected %s, found %s", key, wanted,
                           qpi_shown(shown, raw.data, raw.size));
}

/* A text, or null. */
static bool read_text(loading *l, const char *key, qpi_span raw, char **to) {
    qpi_span text;
    free(*to);
    *to = NULL;
    if (qpi_span_is(raw, "null")) return true;
    if (raw.data[0] != '"') return wrong(l, key, "a string", raw);
    qpi_stream again = qpi_stream_over(l->s.name, raw.data, raw.size, l->error);
    bool       ok = qpi_stream_string(&again, &text);
    if (ok && memchr(text.data, 0, text.size)) ok = wrong(l, key, "a string without zeros", raw);
    if (ok && !(*to = strndup(text.data, text.size))) ok = out_of_memory(l);
    qpi_stream_free(&again);
    return ok;
}

static bool read_flag(loading *l, const char *key, qpi_span raw, bool *to) {
    *to = qpi_span_is(raw, "true");
    if (*to || qpi_span_is(raw, "false") || qpi_span_is(raw, "null")) return true;
    return wrong(l, key, "true or false", raw);
}

static bool read_count(loading *l, const char *key, qpi_span raw, int64_t *to) {
    qpi_stream again = qpi_stream_over(l->s.name, raw.data, raw.size, l->error);
    *to = -1;
    if (qpi_span_is(raw, "null")) return true;
    if (qpi_stream_peek(&again) != '0' || !qpi_stream_integer(&again, to) || *to < 0 || *to > INT32_MAX)
        return wrong(l, key, "a count", raw);
    return true;
}

/* A member of the model that is neither vocabulary nor merges; others are passed over. */
static bool read_option(loading *l, const char *key, qpi_span raw) {
    qpi_model_options *o = &l->options;
    const struct {
        const char *key;
        char      **text;
        bool       *flag;
        int64_t    *count;
        bool (*read)(loading *l, const char *key, qpi_span raw);
    } members[] = {
        {.key = "type", .read = read_type},
        {.key = "dropout", .read = read_dropout},
        {.key = "unk_token", .text = &o->unknown},
        {.key = "continuing_subword_prefix", .text = &o->prefix},
        {.key = "end_of_word_suffix", .text = &o->suffix},
        {.key = "fuse_unk", .flag = &o->fuse_unknown},
        {.key = "byte_fallback", .flag = &o->byte_fallback},
        {.key = "ignore_merges", .flag = &o->ignore_merges},
        {.key = "max_input_chars_per_word", .count = &o->longest},
        {.key = "unk_id", .count = &o->unknown_id},
    };
    for (size_t i = 0; i < sizeof members / sizeof *members; i++) {
        if (strcmp(members[i].key, key) != 0) continue;
        if (members[i].text) return read_text(l, key, raw, members[i].text);
        if (members[i].flag) return read_flag(l, key, raw, members[i].flag);
        if (members[i].count) return read_count(l, key, raw, members[i].count);
        return members[i].read(l, key, raw);
    }
    return true;
}

/* ---- The model ------------------------------------------------------------------------ */

/* Vocabulary and merges are read at once where what they need came before them, which is the rule. */
static bool read_model_member(loading *l, qpi_span key) {
    qpi_stream *s = &l->s;
    qpi_span    raw;
    char        name[40];
    if (qpi_span_is(key, "vocab")) {
        if (l->has_vocab) return qpi_stream_fail(s, s->at, "vocab twice");
        l->has_vocab = true;
        if (l->t->kind) return read_vocab(l);
        qpi_stream_peek(s); /* goes to where it begins */
        l->vocab_at = s->at;
        return qpi_stream_skip(s, NULL);
    }
    if (qpi_span_is(key, "merges")) {
        if (l->has_merges) return qpi_stream_fail(s, s->at, "merges twice");
        l->has_merges = true;
        if (l->t->kind == &qpi_tokenizer_bpe && l->vocab_read) return read_merges(l);
        l->merges_at = s->at;
        return qpi_stream_skip(s, NULL);
    }
    snprintf(name, sizeof name, "%.*s", key.size < sizeof name ? (int)key.size : 0, key.data);
    if (!qpi_stream_skip(s, &raw)) return false;
    if (l->vocab_read &&
        (strcmp(name, "type") == 0 || (l->merges_read && strcmp(name, "continuing_subword_prefix") == 0)))
        return qpi_stream_fail(s, s->at, "%s behind what it is about", name);
    return read_option(l, name, raw);
}

/* Reads at an earlier place. */
static bool read_at(loading *l, size_t at, bool (*read)(loading *l)) {
    qpi_stream here = l->s;
    l->s.at = at;
    if (!read(l)) return false;
    here.text = l->s.text; /* the buffer may have moved */
    l->s = here;
    return true;
}

/* Files from before models had a type. */
static const qpi_tokenizer_kind *guess_kind(const loading *l) {
    if (l->has_merges) return &qpi_tokenizer_bpe;
    if (l->s.data[l->vocab_at] == '[') return &qpi_tokenizer_unigram;
    return l->options.prefix ? &qpi_tokenizer_wordpiece : &qpi_tokenizer_wordlevel;
}

static bool read_model(loading *l) {
    qpi_stream *s = &l->s;
    qpi_span    key;
    if (l->has_model) return qpi_stream_fail(s, s->at, "model twice");
    l->has_model = true;
    if (!qpi_stream_open(s, '{')) return false;
    while (qpi_stream_key(s, &key))
        if (!read_model_member(l, key)) return false;
    if (s->failed) return false;
    if (!l->has_vocab) return qpi_stream_fail(s, s->at, "expected a vocab in the model");
    if (!l->t->kind) l->t->kind = guess_kind(l);
    if (!l->vocab_read && !read_at(l, l->vocab_at, read_vocab)) return false;
    if (l->t->kind != &qpi_tokenizer_bpe) return true;
    if (!l->has_merges) return qpi_stream_fail(s, s->at, "expected merges in the model");
    return l->merges_read || read_at(l, l->merges_at, read_merges);
}

/* ---- The document --------------------------------------------------------------------- */

static bool read_document(loading *l) {
    qpi_stream *s = &l->s;
    qpi_span    key;
    if (!qpi_stream_open(s, '{')) return false;
    while (qpi_stream_key(s, &key)) {
        qpi_part p = 0;
        while (p < QPI_PARTS && !qpi_span_is(key, qpi_part_keys[p])) p++;
        if (p == QPI_PARTS) {
            if (!(qpi_span_is(key, "model") ? read_model(l) : qpi_stream_skip(s, NULL))) return false;
            continue;
        }
        if (l->raw[p].data) return qpi_stream_fail(s, s->at, "%s twice", qpi_part_keys[p]);
        if (!qpi_stream_skip(s, &l->raw[p])) return false;
    }
    if (s->failed || !qpi_stream_end(s)) return false;
    if (l->has_model) return true;
    return qpi_stream_fail(s, s->at, "expected a model in the file");
}

static void free_options(qpi_model_options *o) {
    free(o->unknown);
    free(o->prefix);
    free(o->suffix);
    free(o->scores);
}

qp_tokenizer *qpi_tokenizer_parse(const char *name, const void *data, size_t size, qpi_error *e) {
    loading l = {
        .s = qpi_stream_over(name, data, size, e), .error = e, .options = {.longest = -1, .unknown_id = -1}};
    l.t = qpi_tokenizer_new(NULL, FREE_IDS + (int64_t)size, e);
    bool ok = l.t && read_document(&l);
    /* Added tokens are normalised, so the normalizer comes first. */
    static const qpi_part order[QPI_PARTS] = {QPI_PART_TRUNCATION, QPI_PART_PADDING,      QPI_PART_NORMALIZER,
                                              QPI_PART_ADDED,      QPI_PART_PRETOKENIZER, QPI_PART_POST,
                                              QPI_PART_DECODER};
    for (int i = 0; ok && i < QPI_PARTS; i++)
        ok = qpi_tokenizer_part(l.t, order[i], name, l.raw[order[i]].data, l.raw[order[i]].size, e);
    ok = ok && qpi_tokenizer_finish(l.t, &l.options, e);
    qpi_stream_free(&l.s);
    qpi_buffer_free(&l.pair);
    free_options(&l.options);
    if (ok) return l.t;
    qpi_tokenizer_free(l.t);
    return NULL;
}

/* ---- Files ---------------------------------------------------------------------------- */

/* A SentencePiece model begins with its first piece, a field numbered 1 that holds a message. */
static qp_tokenizer *load_file(const char *path, qpi_error *e) {
    if (qpi_path_is_gguf(path)) return qpi_tokenizer_gguf(path, e);
    qpi_bytes    *bytes = qpi_bytes_open(path, QPI_READ, e);
    qp_tokenizer *t;
    if (!bytes) return NULL;
    if (bytes->size > 1 && bytes->data[0] == (1 << 3 | 2) && bytes->data[1] != '{')
        t = qpi_tokenizer_sentencepiece(bytes->path, bytes->data, (size_t)bytes->size, e);
    else t = qpi_tokenizer_parse(bytes->path, bytes->data, (size_t)bytes->size, e);
    qpi_bytes_release(bytes);
    return t;
}

qp_tokenizer *qpi_tokenizer_load(const char *path, qpi_error *e) {
    if (!qpi_path_is_folder(path)) return load_file(path, e);
    char *json = qpi_path_join(path, "tokenizer.json", e), *pieces = qpi_path_join(path, "tokenizer.model", e);
    qp_tokenizer *t = NULL;
    if (!e->code) t = load_file(!qpi_path_exists(json) && qpi_path_exists(pieces) ? pieces : json, e);
    free(json);
    free(pieces);
    if (!t || qpi_tokenizer_configure(t, path, e)) return t;
    qpi_tokenizer_free(t);
    return NULL;
}
