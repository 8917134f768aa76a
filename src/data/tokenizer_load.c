/* tokenizer.json. Its vocabulary and merges are read as a stream, the rest as small trees. */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/bpe.h"
#include "data/tokenizer_parts.h"
#include "format/json_stream.h"
#include "format/reader.h"

#define FREE_IDS 65536 /* ids lie below this plus the bytes of the file */

typedef enum { ADDED, NORMALIZER, PRETOKENIZER, POST, DECODER, PARTS } part;

static const struct {
    const char *key;
    bool (*read)(qp_tokenizer *t, const qpi_json *at);
} parts[PARTS] = {
    [ADDED] = {"added_tokens", qpi_read_added},
    [NORMALIZER] = {"normalizer", qpi_read_normalizer},
    [PRETOKENIZER] = {"pre_tokenizer", qpi_read_pretokenizer},
    [POST] = {"post_processor", qpi_read_post_processor},
    [DECODER] = {"decoder", qpi_read_decoder},
};

typedef struct {
    qp_tokenizer *t;
    qpi_stream    s;
    qpi_error    *error;
    qpi_span      raw[PARTS];
    qpi_buffer    pair; /* the joint text of a merge */
    qpi_bpe_flags flags;
    char         *unknown;
    size_t        merges_at, merges; /* where merges wait for the vocabulary; how many there are */
    bool          has_vocab, has_merges, has_model;
} loading;

static bool out_of_memory(loading *l) {
    l->s.failed = true;
    return qpi_fail_memory(l->error, l->s.name) == QP_OK;
}

/* ---- The model ------------------------------------------------------------------------ */

static bool read_vocab(loading *l) {
    qpi_stream *s = &l->s;
    qpi_span    key;
    int64_t     id;
    if (qpi_stream_peek(s) != '{')
        return qpi_fail(l->error, QP_ERR_UNSUPPORTED, "%s: model.vocab: a list is not supported", s->name) ==
               QP_OK;
    if (!qpi_stream_open(s, '{')) return false;
    while (qpi_stream_key(s, &key)) {
        /* Reading the number leaves the key's text as it is. */
        if (!qpi_stream_integer(s, &id) ||
            !qpi_vocab_add(&l->t->vocab, s->name, key.data, key.size, id, QPI_TOKEN_MODEL, l->error))
            return false;
    }
    l->has_vocab = true;
    return !s->failed;
}

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
        return (qpi_buffer_put(&l->pair, text.data, first) &&
                qpi_buffer_put(&l->pair, space + 1, text.size - first - 1)) ||
               out_of_memory(l);
    }
    if (!qpi_stream_open(s, '[')) return false;
    int count = 0;
    while (qpi_stream_item(s)) {
        if (!qpi_stream_string(s, &text)) return false;
        if (count++ == 1) *cut = l->pair.count;
        if (!qpi_buffer_put(&l->pair, text.data, text.size)) return out_of_memory(l);
    }
    if (s->failed) return false;
    return count == 2 || qpi_stream_fail(s, start, "expected a merge of two tokens, found %d", count);
}

static bool is_version_line(const loading *l) {
    static const char mark[] = "#version";
    return l->pair.count >= sizeof mark - 1 && memcmp(l->pair.data, mark, sizeof mark - 1) == 0;
}

static int32_t in_model(const loading *l, const char *text, size_t n) {
    int32_t id = qpi_vocab_find(&l->t->vocab, text, n);
    return id >= 0 && (l->t->vocab.tokens[id].flags & QPI_TOKEN_MODEL) ? id : QPI_NO_TOKEN;
}

/* The token that the pair at hand becomes: as a rule the one after the last merge's. */
static int32_t united(const loading *l, int32_t last) {
    const qpi_token *next = qpi_vocab_at(&l->t->vocab, (int64_t)last + 1);
    if (next && (next->flags & QPI_TOKEN_MODEL) && next->text_size == l->pair.count &&
        memcmp(next->text, l->pair.data, l->pair.count) == 0)
        return last + 1;
    return in_model(l, l->pair.data, l->pair.count);
}

static bool read_merges(loading *l) {
    qpi_stream *s = &l->s;
    int32_t     id = QPI_NO_TOKEN;
    if (!qpi_stream_open(s, '[')) return false;
    while (qpi_stream_item(s)) {
        size_t cut = 0, start = s->at;
        if (!read_pair(l, &cut)) return false;
        int32_t a = in_model(l, l->pair.data, cut), b = in_model(l, l->pair.data + cut, l->pair.count - cut);
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

static bool unsupported(loading *l, const char *key, qpi_span value) {
    char shown[QPI_SHOWN];
    qpi_fail(l->error, QP_ERR_UNSUPPORTED, "%s: model.%s: %s is not supported", l->s.name, key,
             qpi_shown(shown, value.data, value.size));
    l->s.failed = true;
    return false;
}

/* A member of the model that is neither vocabulary nor merges. */
static bool read_option(loading *l, const char *key) {
    qpi_stream *s = &l->s;
    qpi_span    text = {0}, raw;
    if (strcmp(key, "unk_token") == 0 && qpi_stream_peek(s) == '"') {
        if (!qpi_stream_string(s, &text)) return false;
        free(l->unknown);
        l->unknown = strndup(text.data, text.size);
        return l->unknown || out_of_memory(l);
    }
    if (!qpi_stream_skip(s, &raw)) return false;
    bool null = qpi_span_is(raw, "null"), yes = qpi_span_is(raw, "true");
    if (strcmp(key, "type") == 0) return qpi_span_is(raw, "\"BPE\"") || unsupported(l, key, raw);
    if (strcmp(key, "dropout") == 0)
        return null || qpi_span_is(raw, "0") || qpi_span_is(raw, "0.0") || unsupported(l, key, raw);
    if (strcmp(key, "continuing_subword_prefix") == 0 || strcmp(key, "end_of_word_suffix") == 0)
        return null || qpi_span_is(raw, "\"\"") || unsupported(l, key, raw);
    if (strcmp(key, "byte_fallback") == 0) return !yes || unsupported(l, key, raw);
    if (strcmp(key, "fuse_unk") == 0) l->flags.fuse_unknown = yes;
    if (strcmp(key, "ignore_merges") == 0) l->flags.ignore_merges = yes;
    return true;
}

static const char *const options[] = {"type",     "dropout",       "unk_token",     "continuing_subword_prefix",
                                      "fuse_unk", "ignore_merges", "byte_fallback", "end_of_word_suffix"};

static bool read_model_member(loading *l, qpi_span key) {
    qpi_stream *s = &l->s;
    if (qpi_span_is(key, "vocab"))
        return !l->has_vocab ? read_vocab(l) : qpi_stream_fail(s, s->at, "vocab twice");
    if (qpi_span_is(key, "merges")) {
        if (l->has_merges) return qpi_stream_fail(s, s->at, "merges twice");
        l->has_merges = true;
        if (l->has_vocab) return read_merges(l);
        l->merges_at = s->at;
        return qpi_stream_skip(s, NULL);
    }
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        if (qpi_span_is(key, options[i])) return read_option(l, options[i]);
    return qpi_stream_skip(s, NULL);
}

static bool read_model(loading *l) {
    qpi_stream *s = &l->s;
    qpi_span    key;
    if (l->has_model) return qpi_stream_fail(s, s->at, "model twice");
    l->has_model = true;
    if (!(l->t->model = qpi_bpe_new(l->error))) return false;
    if (!qpi_stream_open(s, '{')) return false;
    while (qpi_stream_key(s, &key))
        if (!read_model_member(l, key)) return false;
    if (s->failed) return false;
    if (!l->has_vocab || !l->has_merges)
        return qpi_stream_fail(s, s->at, "expected vocab and merges in the model");
    if (!l->merges_at) return true;
    qpi_stream here = *s;
    s->at = l->merges_at;
    bool ok = read_merges(l);
    here.text = s->text; /* the buffer may have moved */
    if (ok) *s = here;
    return ok;
}

/* What can only be done when the vocabulary is complete. */
static bool finish_model(loading *l) {
    qp_tokenizer *t = l->t;
    if (l->unknown) {
        l->flags.unknown = in_model(l, l->unknown, strlen(l->unknown));
        if (l->flags.unknown < 0)
            return qpi_fail(l->error, QP_ERR_FORMAT, "%s: model.unk_token: it is not in the vocabulary",
                            l->s.name) == QP_OK;
    } else {
        l->flags.unknown = QPI_NO_TOKEN;
    }
    for (size_t id = 0; id < t->vocab.size; id++) {
        const qpi_token *token = &t->vocab.tokens[id];
        if (!token->text) continue;
        if (token->flags & QPI_TOKEN_ADDED)
            qpi_vocab_set_plain(&t->vocab, (int32_t)id);
        else if (!qpi_vocab_set_byte_level(&t->vocab, (int32_t)id, l->error))
            return false;
    }
    qpi_bpe_finish(t->model, t, l->flags);
    if (l->merges == 0 && t->pretokenizer.count == 0 && qpi_bpe_is_bytes(t->model)) {
        t->kind->free(t->model);
        t->model = NULL;
        t->kind = &qpi_tokenizer_byte;
    }
    return true;
}

/* ---- The document --------------------------------------------------------------------- */

static bool read_document(loading *l) {
    qpi_stream *s = &l->s;
    qpi_span    key;
    if (!qpi_stream_open(s, '{')) return false;
    while (qpi_stream_key(s, &key)) {
        part p = 0;
        while (p < PARTS && !qpi_span_is(key, parts[p].key)) p++;
        if (p == PARTS) {
            if (!(qpi_span_is(key, "model") ? read_model(l) : qpi_stream_skip(s, NULL))) return false;
            continue;
        }
        if (l->raw[p].data) return qpi_stream_fail(s, s->at, "%s twice", parts[p].key);
        if (!qpi_stream_skip(s, &l->raw[p])) return false;
    }
    if (s->failed || !qpi_stream_end(s)) return false;
    return l->has_model || qpi_stream_fail(s, s->at, "expected a model in the file");
}

static bool keep(loading *l, part p) {
    qp_tokenizer *t = l->t;
    char **places[PARTS] = {NULL, &t->normalizer_json, &t->pretokenizer_json, &t->post_json, &t->decoder_json};
    if (!places[p] || !l->raw[p].data) return true;
    *places[p] = strndup(l->raw[p].data, l->raw[p].size);
    return *places[p] || out_of_memory(l);
}

static bool read_part(loading *l, part p) {
    char name[400]; /* lines count from the part's start */
    snprintf(name, sizeof name, "%s: %s", l->s.name, parts[p].key);
    json_t *value = l->raw[p].data ? qpi_json_parse(name, l->raw[p].data, l->raw[p].size, l->error) : NULL;
    if (l->raw[p].data && !value) return false;
    qpi_json root = qpi_json_root(l->s.name, NULL, l->error);
    qpi_json at = {
        .value = json_is_null(value) ? NULL : value, .parent = &root, .key = parts[p].key, .error = l->error};
    bool ok = true;
    if (at.value && !(p == ADDED ? json_is_array(at.value) : json_is_object(at.value))) {
        qpi_json_fail(&at, QP_ERR_FORMAT, "expected %s, found %s", p == ADDED ? "an array" : "an object",
                      qpi_json_kind(at.value));
        ok = false;
    }
    ok = ok && parts[p].read(l->t, &at) && keep(l, p);
    json_decref(value);
    return ok;
}

qp_tokenizer *qpi_tokenizer_parse(const char *name, const void *data, size_t size, qpi_error *e) {
    loading l = {.s = qpi_stream_over(name, data, size, e), .error = e};
    l.t = qpi_tokenizer_new(&qpi_tokenizer_bpe, FREE_IDS + (int64_t)size, e);
    bool ok = l.t && read_document(&l);
    /* Added tokens are normalised, so the normalizer comes first. */
    static const part order[PARTS] = {NORMALIZER, ADDED, PRETOKENIZER, POST, DECODER};
    for (int i = 0; ok && i < PARTS; i++) ok = read_part(&l, order[i]);
    ok = ok && finish_model(&l);
    if (ok) qpi_tokenizer_finish(l.t);
    qpi_stream_free(&l.s);
    qpi_buffer_free(&l.pair);
    free(l.unknown);
    if (ok) return l.t;
    qpi_tokenizer_free(l.t);
    return NULL;
}

qp_tokenizer *qpi_tokenizer_load(const char *path, qpi_error *e) {
    char         *inside = qpi_path_is_folder(path) ? qpi_path_join(path, "tokenizer.json", e) : NULL;
    qpi_bytes    *bytes = e->code ? NULL : qpi_bytes_open(inside ? inside : path, QPI_READ, e);
    qp_tokenizer *t = bytes ? qpi_tokenizer_parse(bytes->path, bytes->data, (size_t)bytes->size, e) : NULL;
    qpi_bytes_release(bytes);
    free(inside);
    return t;
}
