#include "data/tokenizer_parts.h"

#include <stdlib.h>
#include <string.h>

#include "format/os.h"

static bool is(const char *a, const char *b) { return strcmp(a, b) == 0; }

static bool unsupported(const qpi_json *at, const char *what) {
    char shown[QPI_SHOWN];
    qpi_json_fail(at, QP_ERR_UNSUPPORTED, "%s is not supported", qpi_shown(shown, what, strlen(what)));
    return false;
}

static bool out_of_memory(const qpi_json *at) { return qpi_fail_memory(at->error, "tokenizer") == QP_OK; }

/* Calls read for every member of at's array under key. */
static bool each(qp_tokenizer *t, const qpi_json *at, const char *key,
                 bool (*read)(qp_tokenizer *, const qpi_json *)) {
    qpi_json list;
    if (!qpi_json_array(at, key, QPI_REQUIRED, &list)) return false;
    for (size_t i = 0; i < json_array_size(list.value); i++) {
        qpi_json item = qpi_json_item(&list, i);
        if (!read(t, &item)) return false;
    }
    return true;
}

/* ---- Normalizer ----------------------------------------------------------------------- */

bool qpi_read_normalizer(qp_tokenizer *t, const qpi_json *at) {
    static const char *const names[] = {"", "NFC", "NFD", "NFKC", "NFKD"};
    const char              *type;
    if (!at->value) return true;
    if (!qpi_json_string(at, "type", QPI_REQUIRED, &type)) return false;
    if (is(type, "Sequence")) return each(t, at, "normalizers", qpi_read_normalizer);
    for (int form = QPI_NFC; form <= QPI_NFKD; form++) {
        if (!is(type, names[form])) continue;
        if (t->normalizer.count == QPI_MAX_FORMS) return unsupported(at, "so long a sequence");
        t->normalizer.forms[t->normalizer.count++] = (qpi_normal_form)form;
        return true;
    }
    return unsupported(at, type);
}

/* ---- Pre-tokenizer -------------------------------------------------------------------- */

static bool add_split(qp_tokenizer *t, const qpi_json *at, qpi_split split) {
    if (t->pretokenizer.count == QPI_MAX_SPLITS) {
        qpi_regex_free(split.regex);
        return unsupported(at, "so long a sequence");
    }
    t->pretokenizer.stages[t->pretokenizer.count++] = split;
    return true;
}

static bool read_split(qp_tokenizer *t, const qpi_json *at) {
    const char *behavior, *pattern = NULL;
    qpi_split   split = {0};
    bool        invert = false;
    qpi_json    pattern_at;
    if (!qpi_json_object(at, "pattern", QPI_REQUIRED, &pattern_at) ||
        !qpi_json_string(&pattern_at, "Regex", QPI_OPTIONAL, &pattern) ||
        !qpi_json_string(at, "behavior", QPI_REQUIRED, &behavior) ||
        !qpi_json_boolean(at, "invert", QPI_OPTIONAL, &invert))
        return false;
    if (!pattern) return unsupported(&pattern_at, "a pattern that is no Regex");
    split.drop_gaps = is(behavior, "Removed") && invert;
    if (!split.drop_gaps && !is(behavior, "Isolated")) return unsupported(at, "Split with this behavior");
    split.kind = qpi_split_of(pattern);
    qpi_error e = {0};
    if (split.kind == QPI_SPLIT_REGEX && !(split.regex = qpi_regex_new(pattern, &e))) {
        qpi_json_fail(&pattern_at, e.code, "%s", e.text);
        return false;
    }
    return add_split(t, at, split);
}

/* Splits and ByteLevel, in sequence; *done: ByteLevel was there and nothing may follow. */
static bool read_pretokenizer(qp_tokenizer *t, const qpi_json *at, bool *done) {
    const char *type;
    if (!qpi_json_string(at, "type", QPI_REQUIRED, &type)) return false;
    if (is(type, "Sequence")) {
        qpi_json list;
        if (!qpi_json_array(at, "pretokenizers", QPI_REQUIRED, &list)) return false;
        for (size_t i = 0; i < json_array_size(list.value); i++) {
            qpi_json item = qpi_json_item(&list, i);
            if (!read_pretokenizer(t, &item, done)) return false;
        }
        return true;
    }
    if (*done) return unsupported(at, "a component behind ByteLevel");
    if (is(type, "Split")) return read_split(t, at);
    if (is(type, "Digits")) {
        qpi_split split = {.kind = QPI_SPLIT_DIGITS};
        return qpi_json_boolean(at, "individual_digits", QPI_REQUIRED, &split.each_digit) &&
               add_split(t, at, split);
    }
    if (!is(type, "ByteLevel")) return unsupported(at, type);
    bool prefix, regex = true;
    if (!qpi_json_boolean(at, "add_prefix_space", QPI_REQUIRED, &prefix) ||
        !qpi_json_boolean(at, "use_regex", QPI_OPTIONAL, &regex))
        return false;
    *done = true;
    if (!prefix && !regex) return true;
    return add_split(t, at,
                     (qpi_split){.kind = regex ? QPI_SPLIT_GPT2 : QPI_SPLIT_NONE, .prefix_space = prefix});
}

bool qpi_read_pretokenizer(qp_tokenizer *t, const qpi_json *at) {
    bool byte_level = false;
    if (at->value && !read_pretokenizer(t, at, &byte_level)) return false;
    return byte_level || unsupported(at, "a pre-tokenizer without ByteLevel");
}

/* ---- Post-processor ------------------------------------------------------------------- */

/* Appends ids, or puts them in front. */
static bool extend(int32_t **ids, size_t *count, const int32_t *more, size_t n, bool in_front) {
    int32_t *p = realloc(*ids, (*count + n + 1) * sizeof *p);
    if (!p) return false;
    *ids = p;
    if (in_front) memmove(p + n, p, *count * sizeof *p);
    if (n) memcpy(in_front ? p : p + *count, more, n * sizeof *p);
    *count += n;
    return true;
}

static bool wrap(qp_tokenizer *t, const qpi_json *at, const int32_t *ids, size_t n, bool before) {
    bool ok = before ? extend(&t->wrap_before, &t->wrap_before_count, ids, n, true)
                     : extend(&t->wrap_after, &t->wrap_after_count, ids, n, false);
    return ok || out_of_memory(at);
}

/* The ids that special_tokens lists under a name. */
static bool special_ids(const qpi_json *at, const char *name, qp_ids *out) {
    qpi_json table, token, list;
    if (!qpi_json_object(at, "special_tokens", QPI_REQUIRED, &table) ||
        !qpi_json_object(&table, name, QPI_REQUIRED, &token) ||
        !qpi_json_array(&token, "ids", QPI_REQUIRED, &list))
        return false;
    for (size_t i = 0; i < json_array_size(list.value); i++) {
        qpi_json id = qpi_json_item(&list, i);
        int64_t  x = json_is_integer(id.value) ? json_integer_value(id.value) : -1;
        if (x < 0 || x >= INT32_MAX) {
            qpi_json_fail(&id, QP_ERR_FORMAT, "expected an id");
            return false;
        }
        if (!qpi_ids_reserve(out, 1)) return out_of_memory(at);
        out->data[out->count++] = (int32_t)x;
    }
    return true;
}

static bool template_ids(const qpi_json *at, qp_ids *before, qp_ids *after) {
    qpi_json single;
    bool     seen = false;
    if (!qpi_json_array(at, "single", QPI_REQUIRED, &single)) return false;
    for (size_t i = 0; i < json_array_size(single.value); i++) {
        qpi_json    item = qpi_json_item(&single, i), special = {0}, sequence = {0};
        const char *name;
        if (!qpi_json_object(&item, "SpecialToken", QPI_OPTIONAL, &special) ||
            !qpi_json_object(&item, "Sequence", QPI_OPTIONAL, &sequence))
            return false;
        if (sequence.value && !seen) {
            seen = true;
        } else if (special.value) {
            if (!qpi_json_string(&special, "id", QPI_REQUIRED, &name) ||
                !special_ids(at, name, seen ? after : before))
                return false;
        } else {
            qpi_json_fail(&item, QP_ERR_FORMAT, "expected one Sequence among SpecialTokens");
            return false;
        }
    }
    if (!seen) qpi_json_fail(&single, QP_ERR_FORMAT, "expected a Sequence");
    return seen;
}

static bool read_template(qp_tokenizer *t, const qpi_json *at) {
    qp_ids before = {0}, after = {0};
    bool   ok = template_ids(at, &before, &after) && wrap(t, at, before.data, (size_t)before.count, true) &&
              wrap(t, at, after.data, (size_t)after.count, false);
    qp_ids_free(&before);
    qp_ids_free(&after);
    return ok;
}

/* ["<s>", 0] */
static bool read_pair(const qpi_json *at, const char *key, int32_t *id) {
    qpi_json pair;
    if (!qpi_json_array(at, key, QPI_REQUIRED, &pair)) return false;
    json_t *number = json_array_get(pair.value, 1);
    if (!json_is_integer(number) || json_integer_value(number) < 0 || json_integer_value(number) >= INT32_MAX) {
        qpi_json_fail(&pair, QP_ERR_FORMAT, "expected a token and its id");
        return false;
    }
    *id = (int32_t)json_integer_value(number);
    return true;
}

bool qpi_read_post_processor(qp_tokenizer *t, const qpi_json *at) {
    const char *type;
    int32_t     first, last;
    if (!at->value) return true;
    if (!qpi_json_string(at, "type", QPI_REQUIRED, &type)) return false;
    if (is(type, "Sequence")) return each(t, at, "processors", qpi_read_post_processor);
    if (is(type, "ByteLevel")) return true; /* offsets only */
    if (is(type, "TemplateProcessing")) return read_template(t, at);
    if (is(type, "RobertaProcessing") || is(type, "BertProcessing"))
        return read_pair(at, "cls", &first) && read_pair(at, "sep", &last) && wrap(t, at, &first, 1, true) &&
               wrap(t, at, &last, 1, false);
    return unsupported(at, type);
}

/* ---- Decoder -------------------------------------------------------------------------- */

bool qpi_read_decoder(qp_tokenizer *t, const qpi_json *at) {
    const char *type;
    if (!at->value) return true;
    if (!qpi_json_string(at, "type", QPI_REQUIRED, &type)) return false;
    if (is(type, "Sequence")) return each(t, at, "decoders", qpi_read_decoder);
    return is(type, "ByteLevel") || unsupported(at, type);
}

/* ---- Added tokens --------------------------------------------------------------------- */

/* The text that is looked for: normalised as what it is looked for in. */
static bool set_text(qp_tokenizer *t, const qpi_json *at, const char *content, qpi_added *a) {
    const uint8_t *text = (const uint8_t *)content;
    size_t         n = strlen(content);
    qpi_buffer     normal = {0};
    bool           ok = !a->normalized || qpi_normalize(&t->normalizer, &text, &n, &normal);
    a->text = ok ? qpi_arena_text(&t->vocab.arena, (const char *)text, n) : NULL;
    a->size = n;
    qpi_buffer_free(&normal);
    return a->text || out_of_memory(at);
}

static bool read_added(qp_tokenizer *t, const qpi_json *at) {
    const char *content;
    int64_t     id;
    qpi_added   a = {0};
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
    if (n > QPI_ADDED_LONGEST) return unsupported(at, "an added token of more than 1024 bytes");
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

bool qpi_read_added(qp_tokenizer *t, const qpi_json *at) {
    if (!at->value) return true;
    for (size_t i = 0; i < json_array_size(at->value); i++) {
        qpi_json item = qpi_json_item(at, i);
        if (!read_added(t, &item)) return false;
    }
    return true;
}
