/* The components of a tokenizer.json other than its model, each from its own text. */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/tokenizer.h"
#include "format/json.h"
#include "format/os.h"

/* ---- Added tokens --------------------------------------------------------------------- */

/* The text that is looked for: normalised as what it is looked for in. */
static bool set_text(qp_tokenizer *t, const qpi_json *at, const char *content, qpi_added *a) {
    const uint8_t   *text = (const uint8_t *)content;
    size_t           n = strlen(content);
    bool             first = true;
    qpi_normal_state state = {.error = at->error};
    bool             ok = !a->normalized || qpi_normalize(&t->normalizer, &state, &text, &n, &first);
    if (ok && !(a->text = qpi_arena_text(&t->vocab.arena, (const char *)text, n)))
        ok = qpi_fail_memory(at->error, "tokenizer") == QP_OK;
    a->size = n;
    qpi_normal_state_free(&state);
    return ok;
}

static bool read_one(void *to, const qpi_json *at) {
    qp_tokenizer *t = to;
    const char   *content;
    int64_t       id;
    qpi_added     a = {0};
    if (!qpi_json_string(at, "content", QPI_REQUIRED, &content) ||
        !qpi_json_integer(at, "id", QPI_REQUIRED, 0, INT32_MAX - 1, &id) ||
        !qpi_json_boolean(at, "special", QPI_OPTIONAL, &a.special))
        return false;
    a.normalized = !a.special;
    if (!qpi_json_boolean(at, "normalized", QPI_OPTIONAL, &a.normalized) ||
        !qpi_json_boolean(at, "single_word", QPI_OPTIONAL, &a.single_word) ||
        !qpi_json_boolean(at, "lstrip", QPI_OPTIONAL, &a.strip_left) ||
        !qpi_json_boolean(at, "rstrip", QPI_OPTIONAL, &a.strip_right))
        return false;
    size_t n = strlen(content);
    if (n == 0) return true; /* `tokenizers` passes over it */
    if (n > QPI_ADDED_LONGEST) return qpi_unsupported(at, "an added token of more than 512 bytes");
    a.id = qpi_vocab_find(&t->vocab, content, n);
    if (a.id == QPI_NO_TOKEN) {
        if (id >= t->vocab.id_limit || qpi_vocab_at(&t->vocab, id)) {
            qpi_json_fail(at, QP_ERR_FORMAT, "id %d is out of range or belongs to another token", (int)id);
            return false;
        }
        if (!qpi_vocab_add(&t->vocab, "added_tokens", content, n, id, 0, at->error)) return false;
        a.id = (int32_t)id;
    } else if (a.id != id) {
        qpi_json_fail(at, QP_ERR_FORMAT, "expected id %d, which its content has in the vocabulary, found %d",
                      (int)a.id, (int)id);
        return false;
    }
    if (t->vocab.tokens[a.id].flags & QPI_TOKEN_ADDED) return true; /* listed twice */
    if (!set_text(t, at, content, &a)) return false;
    return a.size == 0 || qpi_tokenizer_add(t, a, at->error);
}

/* ---- The table ------------------------------------------------------------------------- */

static bool keep_only(qp_tokenizer *t, const qpi_json *at) {
    (void)t, (void)at;
    return true;
}

static bool read_added(qp_tokenizer *t, const qpi_json *at) {
    for (size_t i = 0; i < json_array_size(at->value); i++) {
        qpi_json item = qpi_json_item(at, i);
        if (!read_one(t, &item)) return false;
    }
    return true;
}

static bool read_normalizer(qp_tokenizer *t, const qpi_json *at) {
    return qpi_normalizer_read(&t->normalizer, at);
}
static bool read_pretokenizer(qp_tokenizer *t, const qpi_json *at) {
    return qpi_pretokenizer_read(&t->pretokenizer, at);
}
static bool read_post(qp_tokenizer *t, const qpi_json *at) { return qpi_around_read(&t->single, &t->pair, at); }
static bool read_decoder(qp_tokenizer *t, const qpi_json *at) { return qpi_decoder_read(&t->decoder, at); }

static const struct {
    json_type type;
    bool (*read)(qp_tokenizer *t, const qpi_json *at);
} readers[QPI_PARTS] = {
    [QPI_PART_TRUNCATION] = {JSON_OBJECT, keep_only},
    [QPI_PART_PADDING] = {JSON_OBJECT, keep_only},
    [QPI_PART_ADDED] = {JSON_ARRAY, read_added},
    [QPI_PART_NORMALIZER] = {JSON_OBJECT, read_normalizer},
    [QPI_PART_PRETOKENIZER] = {JSON_OBJECT, read_pretokenizer},
    [QPI_PART_POST] = {JSON_OBJECT, read_post},
    [QPI_PART_DECODER] = {JSON_OBJECT, read_decoder},
};

const char *const qpi_part_keys[QPI_PARTS] = {
    [QPI_PART_TRUNCATION] = "truncation",
    [QPI_PART_PADDING] = "padding",
    [QPI_PART_ADDED] = "added_tokens",
    [QPI_PART_NORMALIZER] = "normalizer",
    [QPI_PART_PRETOKENIZER] = "pre_tokenizer",
    [QPI_PART_POST] = "post_processor",
    [QPI_PART_DECODER] = "decoder",
};

static bool keep(qp_tokenizer *t, qpi_part part, const char *json, size_t n, qpi_error *e) {
    if (part == QPI_PART_ADDED) return true; /* written from what was read */
    free(t->parts[part]);
    t->parts[part] = strndup(json, n);
    if (t->parts[part]) return true;
    return qpi_fail_memory(e, "tokenizer") == QP_OK;
}

bool qpi_tokenizer_part(qp_tokenizer *t, qpi_part part, const char *name, const char *json, size_t n,
                        qpi_error *e) {
    char where[400]; /* lines count from the part's start */
    if (!json) return true;
    snprintf(where, sizeof where, "%s: %s", name, qpi_part_keys[part]);
    json_t *value = qpi_json_parse(where, json, n, e);
    if (!value) return false;
    qpi_json root = qpi_json_root(name, NULL, e);
    qpi_json at = {.value = value, .parent = &root, .key = qpi_part_keys[part], .error = e};
    bool     ok = true;
    if (qpi_json_is(value, readers[part].type)) {
        ok = readers[part].read(t, &at) && keep(t, part, json, n, e);
    } else if (!qpi_json_is(value, JSON_NULL)) { /* null: as if it were absent */
        qpi_json_fail(&at, QP_ERR_FORMAT, "expected %s, found %s",
                      readers[part].type == JSON_ARRAY ? "an array" : "an object", qpi_json_kind(value));
        ok = false;
    }
    json_decref(value);
    return ok;
}

/* Of a sequence its members. */
static void put_names(const json_t *value, qpi_buffer *out) {
    const char *type = json_string_value(json_object_get(value, "type"));
    if (type && strcmp(type, "Sequence") != 0) {
        if (out->count) qpi_put_text(out, ", ");
        qpi_put_text(out, type);
        return;
    }
    for (void *at = json_object_iter((json_t *)value); at; at = json_object_iter_next((json_t *)value, at)) {
        json_t *member = json_object_iter_value(at);
        for (size_t i = 0; i < json_array_size(member); i++) put_names(json_array_get(member, i), out);
    }
}

bool qpi_part_names(const qp_tokenizer *t, qpi_part part, qpi_buffer *out) {
    qpi_error e = {0};
    json_t   *value = qpi_json_parse("part", t->parts[part], strlen(t->parts[part]), &e);
    put_names(value, out);
    json_decref(value);
    return !e.code && !out->failed;
}
