/* A folder's tokenizer as GGUF keeps it: the vocabulary as texts with types, merges or scores, and the name
 * of the splitting rule, of which llama.cpp knows a list; or WordPiece's words. */
#include <stdlib.h>
#include <string.h>

#include "cli/gguf_target.h"
#include "core/core.h"
#include "data/made.h"
#include "data/tokenizer.h"
#include "format/json.h"

typedef struct {
    const char *text; /* of the document; NULL: unused */
    int32_t     type;
    float       score;
} token;

typedef struct {
    qp_ctx         *ctx;
    const char     *path;
    json_t         *document, *model; /* model: of the document */
    token          *tokens;
    int64_t         count;
    qpi_gguf_pairs *pairs;
} vocabulary;

static bool fail(const vocabulary *v, qp_code code, const char *what) {
    qp_fail(v->ctx, code, "%s: %s", v->path, what);
    return false;
}

static bool is_switch(const json_t *x) { return qpi_json_is(x, JSON_TRUE) || qpi_json_is(x, JSON_FALSE); }

/* ---- Tokens ----------------------------------------------------------------------------------------- */

static bool set_token(vocabulary *v, json_int_t id, const char *text, int32_t type) {
    if (id < 0 || id >= v->count || !text)
        return fail(v, QP_ERR_FORMAT, "a token's id is beyond the model's vocabulary");
    v->tokens[id].text = text;
    v->tokens[id].type = type;
    return true;
}

static bool read_tokens(vocabulary *v) {
    const char *text;
    json_t     *id, *list = json_object_get(v->document, "added_tokens");
    qpi_json_members(json_object_get(v->model, "vocab"), text, id) {
        bool byte = strlen(text) == 6 && !strncmp(text, "<0x", 3) &&
                    qpi_json_is(json_object_get(v->model, "byte_fallback"), JSON_TRUE);
        if (!set_token(v, qpi_json_is(id, JSON_INTEGER) ? json_integer_value(id) : -1, text,
                       byte ? QPI_BYTE : QPI_NORMAL))
            return false;
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *added = json_array_get(list, i);
        const char   *content = json_string_value(json_object_get(added, "content"));
        int32_t       type = qpi_json_is(json_object_get(added, "special"), JSON_TRUE) ? QPI_SPECIAL : QPI_USER;
        if (!set_token(v, json_integer_value(json_object_get(added, "id")), content, type)) return false;
    }
    return true;
}

/* As GGUF has the words of WordPiece: U+2581 where one begins, nothing where one goes on. */
static bool put_word(vocabulary *v, const char *text) {
    char marked[4096];
    if (!strncmp(text, "##", 2)) text += 2;
    else if ((size_t)snprintf(marked, sizeof marked, "\xE2\x96\x81%s", text) >= sizeof marked)
        return fail(v, QP_ERR_UNSUPPORTED, "a word is too long for GGUF");
    else text = marked;
    qpi_gguf_add_text(v->pairs, text, strlen(text));
    return true;
}

static bool put_tokens(vocabulary *v, bool words) {
    char unused[32];
    qpi_gguf_put_array(v->pairs, "tokenizer.ggml.tokens", QPI_GGUF_TEXT, (uint64_t)v->count);
    for (int64_t i = 0; i < v->count; i++) {
        snprintf(unused, sizeof unused, "[PAD%lld]", (long long)i);
        const char *text = v->tokens[i].text ? v->tokens[i].text : unused;
        if (!words || !v->tokens[i].text || v->tokens[i].type == QPI_SPECIAL)
            qpi_gguf_add_text(v->pairs, text, strlen(text));
        else if (!put_word(v, text)) return false;
    }
    qpi_gguf_put_array(v->pairs, "tokenizer.ggml.token_type", QPI_GGUF_I32, (uint64_t)v->count);
    for (int64_t i = 0; i < v->count; i++)
        qpi_gguf_add_i32(v->pairs, v->tokens[i].text ? v->tokens[i].type : QPI_UNUSED);
    return true;
}

/* ---- Merges: "a b", or ["a", "b"] ---------------------------------------------------------------------- */

static bool merge_of(const vocabulary *v, const json_t *merge, char *out, size_t size) {
    const char *a = json_string_value(qpi_json_is(merge, JSON_ARRAY) ? json_array_get(merge, 0) : merge);
    const char *b = qpi_json_is(merge, JSON_ARRAY) ? json_string_value(json_array_get(merge, 1)) : "";
    if (!a || !b || (size_t)snprintf(out, size, "%s%s%s", a, *b ? " " : "", b) >= size || !strchr(out, ' '))
        return fail(v, QP_ERR_FORMAT, "expected merges of two tokens");
    return true;
}

static bool put_merges(vocabulary *v) {
    const json_t *merges = json_object_get(v->model, "merges");
    char          text[4096];
    qpi_gguf_put_array(v->pairs, "tokenizer.ggml.merges", QPI_GGUF_TEXT, json_array_size(merges));
    for (size_t i = 0; i < json_array_size(merges); i++) {
        if (!merge_of(v, json_array_get(merges, i), text, sizeof text)) return false;
        qpi_gguf_add_text(v->pairs, text, strlen(text));
    }
    return true;
}

/* Scores are the merges' ranks: the earlier, the higher. */
static bool put_scores(vocabulary *v) {
    const json_t *merges = json_object_get(v->model, "merges"), *ids = json_object_get(v->model, "vocab");
    char          text[4096];
    for (size_t i = json_array_size(merges); i-- > 0;) {
        if (!merge_of(v, json_array_get(merges, i), text, sizeof text)) return false;
        char *space = strchr(text, ' ');
        memmove(space, space + 1, strlen(space));
        json_t *id = json_object_get(ids, text);
        if (qpi_json_is(id, JSON_INTEGER)) v->tokens[json_integer_value(id)].score = -(float)i;
    }
    qpi_gguf_put_array(v->pairs, "tokenizer.ggml.scores", QPI_GGUF_F32, (uint64_t)v->count);
    for (int64_t i = 0; i < v->count; i++) qpi_gguf_add_f32(v->pairs, v->tokens[i].score);
    return true;
}

/* ---- The splitting rule --------------------------------------------------------------------------------- */

/* What the pre-tokenizers of a document amount to, as patterns one after another. */
typedef struct {
    const char *patterns[6];
    int         count;
    bool        bytes, other;
} splitting;

static void add_pattern(splitting *s, const char *pattern) {
    if (pattern && s->count < 6) s->patterns[s->count++] = pattern;
    else s->other = true;
}

static const char *text_in(const json_t *object, const char *key) {
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

static void look(const json_t *part, splitting *s) {
    const char *type = text_in(part, "type");
    json_t     *parts = json_object_get(part, "pretokenizers");
    if (!strcmp(type, "ByteLevel")) {
        s->bytes = true;
        if (!qpi_json_is(json_object_get(part, "use_regex"), JSON_FALSE)) add_pattern(s, QPI_GPT2_PATTERN);
        s->other |= qpi_json_is(json_object_get(part, "add_prefix_space"), JSON_TRUE);
    } else if (!strcmp(type, "Digits") && qpi_json_is(json_object_get(part, "individual_digits"), JSON_TRUE)) {
        add_pattern(s, "\\p{N}");
    } else if (!strcmp(type, "Split") && !strcmp(text_in(part, "behavior"), "Isolated")) {
        add_pattern(s, json_string_value(json_object_get(json_object_get(part, "pattern"), "Regex")));
    } else if (*type && strcmp(type, "Sequence")) {
        s->other = true;
    }
    for (size_t i = 0; i < json_array_size(parts); i++) look(json_array_get(parts, i), s);
}

static bool put_splitting(vocabulary *v, const splitting *s) {
    char        name[64];
    const char *first =
        s->other ? NULL
                 : qpi_gguf_cut_name(s->patterns, s->count,
                                     qpi_json_is(json_object_get(v->model, "ignore_merges"), JSON_TRUE));
    if (!first) return fail(v, QP_ERR_UNSUPPORTED, "GGUF has no name for how this pre_tokenizer cuts");
    snprintf(name, sizeof name, "%.*s", (int)strcspn(first, " "), first);
    qpi_gguf_put_text(v->pairs, "tokenizer.ggml.pre", name, strlen(name));
    return true;
}

/* ---- Special tokens and the chat template ------------------------------------------------------------------ */

static void put_id(vocabulary *v, const json_t *config, const char *theirs, const char *key) {
    const json_t *id = json_object_get(config, theirs);
    if (qpi_json_is(id, JSON_ARRAY)) id = json_array_get(id, 0);
    if (qpi_json_is(id, JSON_INTEGER) && json_integer_value(id) >= 0 && json_integer_value(id) < v->count)
        qpi_gguf_put_integer(v->pairs, key, QPI_GGUF_U32, json_integer_value(id));
}

static void put_switch(vocabulary *v, const json_t *settings, const char *theirs, const char *key) {
    const json_t *on = json_object_get(settings, theirs);
    if (is_switch(on)) qpi_gguf_put_integer(v->pairs, key, QPI_GGUF_BOOL, qpi_json_is(on, JSON_TRUE));
}

/* Does the post-processor, or one of a sequence, begin texts with a token of its own? */
static bool begins_texts(const json_t *processor) {
    const json_t *first = json_array_get(json_object_get(processor, "single"), 0);
    const json_t *parts = json_object_get(processor, "processors");
    if (json_object_get(first, "SpecialToken")) return true;
    for (size_t i = 0; i < json_array_size(parts); i++)
        if (begins_texts(json_array_get(parts, i))) return true;
    return false;
}

static void put_special(vocabulary *v, const char *folder) {
    json_t *config = qpi_json_load_in(folder, "config.json", &v->ctx->error),
           *settings = qpi_json_load_in(folder, "tokenizer_config.json", &v->ctx->error);
    const char *template = json_string_value(json_object_get(settings, "chat_template"));
    put_id(v, config, "bos_token_id", "tokenizer.ggml.bos_token_id");
    put_id(v, config, "eos_token_id", "tokenizer.ggml.eos_token_id");
    put_id(v, config, "pad_token_id", "tokenizer.ggml.padding_token_id");
    if (is_switch(json_object_get(settings, "add_bos_token")))
        put_switch(v, settings, "add_bos_token", "tokenizer.ggml.add_bos_token");
    else
        qpi_gguf_put_integer(v->pairs, "tokenizer.ggml.add_bos_token", QPI_GGUF_BOOL,
                             begins_texts(json_object_get(v->document, "post_processor")));
    put_switch(v, settings, "add_eos_token", "tokenizer.ggml.add_eos_token");
    if (template) qpi_gguf_put_text(v->pairs, "tokenizer.chat_template", template, strlen(template));
    json_decref(config);
    json_decref(settings);
}

/* ---- Pieces, as of SentencePiece --------------------------------------------------------------------------- */

/* Does a part, or one of a sequence, put a space before the text? */
static bool prefixes(const json_t *part, const char *members) {
    const char *type = text_in(part, "type");
    json_t     *parts = json_object_get(part, members);
    if (!strcmp(type, "Prepend")) return true;
    if (!strcmp(type, "Metaspace")) return strcmp(text_in(part, "prepend_scheme"), "never") != 0;
    for (size_t i = 0; i < json_array_size(parts); i++)
        if (prefixes(json_array_get(parts, i), members)) return true;
    return false;
}

static void put_token_id(vocabulary *v, const char *text, const char *key) {
    const json_t *id = text ? json_object_get(json_object_get(v->model, "vocab"), text) : NULL;
    if (qpi_json_is(id, JSON_INTEGER))
        qpi_gguf_put_integer(v->pairs, key, QPI_GGUF_U32, json_integer_value(id));
}

static bool put_pieces(vocabulary *v) {
    bool prefix = prefixes(json_object_get(v->document, "normalizer"), "normalizers") ||
                  prefixes(json_object_get(v->document, "pre_tokenizer"), "pretokenizers");
    qpi_gguf_put_integer(v->pairs, "tokenizer.ggml.add_space_prefix", QPI_GGUF_BOOL, prefix);
    put_token_id(v, text_in(v->model, "unk_token"), "tokenizer.ggml.unknown_token_id");
    return put_scores(v);
}

/* ---- WordPiece -------------------------------------------------------------------------------------------- */

/* The token that stands first (side 0) or last around one text. */
static const char *around(const json_t *processor, int side) {
    const json_t *single = json_object_get(processor, "single"),
                 *bert = json_object_get(processor, side ? "sep" : "cls");
    const json_t *at = json_array_get(single, side ? json_array_size(single) - 1 : 0);
    if (qpi_json_is(bert, JSON_ARRAY)) return json_string_value(json_array_get(bert, 0));
    return json_string_value(json_object_get(json_object_get(at, "SpecialToken"), "id"));
}

static bool put_words(vocabulary *v) {
    const json_t *normalizer = json_object_get(v->document, "normalizer"),
                 *processor = json_object_get(v->document, "post_processor");
    bool          lower = qpi_json_is(json_object_get(normalizer, "lowercase"), JSON_TRUE);
    const json_t *accents = json_object_get(normalizer, "strip_accents");
    if (strcmp(text_in(normalizer, "type"), "BertNormalizer") ||
        strcmp(text_in(v->model, "continuing_subword_prefix"), "##") ||
        strcmp(text_in(json_object_get(v->document, "pre_tokenizer"), "type"), "BertPreTokenizer") ||
        qpi_json_is(json_object_get(normalizer, "clean_text"), JSON_FALSE) ||
        qpi_json_is(json_object_get(normalizer, "handle_chinese_chars"), JSON_FALSE))
        return fail(v, QP_ERR_UNSUPPORTED, "only BERT's own WordPiece goes into GGUF");
    qpi_gguf_put_integer(v->pairs, "tokenizer.ggml.normalizer.lowercase", QPI_GGUF_BOOL, lower);
    qpi_gguf_put_integer(v->pairs, "tokenizer.ggml.normalizer.strip_accents", QPI_GGUF_BOOL,
                         is_switch(accents) ? qpi_json_is(accents, JSON_TRUE) : lower);
    put_token_id(v, around(processor, 0), "tokenizer.ggml.cls_token_id");
    put_token_id(v, around(processor, 1), "tokenizer.ggml.seperator_token_id"); /* (the key is so) */
    put_token_id(v, text_in(v->model, "unk_token"), "tokenizer.ggml.unknown_token_id");
    put_token_id(v, "[MASK]", "tokenizer.ggml.mask_token_id");
    return true;
}

/* ---- All of it -------------------------------------------------------------------------------------------- */

static bool put_all(vocabulary *v, const char *folder) {
    const char *type = text_in(v->model, "type");
    splitting   s = {0};
    look(json_object_get(v->document, "pre_tokenizer"), &s);
    bool words = !strcmp(type, "WordPiece"),
         pieces = qpi_json_is(json_object_get(v->model, "byte_fallback"), JSON_TRUE);
    if (!words && ((*type && strcmp(type, "BPE")) || (!s.bytes && !pieces)))
        return fail(v, QP_ERR_UNSUPPORTED,
                    "only BPE over bytes, or over pieces with byte_fallback, and WordPiece go into GGUF");
    if (!read_tokens(v)) return false;
    const char *model = words ? "bert" : pieces ? "llama" : "gpt2";
    qpi_gguf_put_text(v->pairs, "tokenizer.ggml.model", model, strlen(model));
    if (!put_tokens(v, words)) return false;
    if (!(words ? put_words(v) : pieces ? put_pieces(v) : put_splitting(v, &s) && put_merges(v))) return false;
    put_special(v, folder);
    return !qp_failed(v->ctx);
}

static bool has_file(qp_ctx *ctx, const char *folder, const char *name) {
    char *path = qpi_path_join(folder, name, &ctx->error);
    bool  there = path && qpi_path_exists(path);
    free(path);
    return there;
}

bool gguf_has_vocabulary(qp_ctx *ctx, const char *folder) {
    return has_file(ctx, folder, "tokenizer.json") || has_file(ctx, folder, "tokenizer.model");
}

/* tokenizer.json, or what SentencePiece's tokenizer.model amounts to as such. */
static json_t *load_document(qp_ctx *ctx, const char *folder, const char *path) {
    if (qpi_path_exists(path)) return qpi_json_load(path, &ctx->error);
    qpi_buffer    text = {0};
    json_t       *document = NULL;
    qp_tokenizer *t = qp_tokenizer_load(ctx, folder);
    if (t && qpi_tokenizer_print(t, &text))
        document = qpi_json_parse(path, (const char *)text.data, text.count, &ctx->error);
    else qp_fail(ctx, QP_ERR_MEMORY, "out of memory: tokens");
    qpi_buffer_free(&text);
    qp_tokenizer_close(t);
    return document;
}

bool gguf_put_vocabulary(qp_ctx *ctx, const char *folder, int64_t count, qpi_gguf_pairs *pairs) {
    char      *path = qpi_path_join(folder, "tokenizer.json", &ctx->error);
    vocabulary v = {.ctx = ctx, .path = path, .count = count, .pairs = pairs};
    bool       ok = path != NULL;
    if (ok && gguf_has_vocabulary(ctx, folder)) {
        v.document = load_document(ctx, folder, path);
        v.model = json_object_get(v.document, "model");
        v.tokens = calloc((size_t)count + 1, sizeof *v.tokens);
        if (!v.tokens) qp_fail(ctx, QP_ERR_MEMORY, "out of memory: tokens");
        ok = v.document && v.tokens && put_all(&v, folder);
    } else if (ok) {
        qpi_gguf_put_text(pairs, "tokenizer.ggml.model", "none", 4);
    }
    json_decref(v.document);
    free(v.tokens);
    free(path);
    return ok && !qp_failed(ctx);
}
