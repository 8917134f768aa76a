/* Vocabularies of GGUF files and SentencePiece models against llama.cpp (golden files), against each other, and
 * damaged. */
#include "support.h"

#include <jansson.h>

#include "data/made.h"

static qp_tokenizer *load(qp_ctx *ctx, const char *name) {
    char path[400];
    snprintf(path, sizeof path, "%s%s", GOLDEN, name);
    qp_tokenizer *t = qp_tokenizer_load(ctx, path);
    expect_ok(ctx);
    assert_non_null(t);
    return t;
}

static json_t *load_cases(const char *name) {
    char path[400];
    snprintf(path, sizeof path, "%s%s.cases.json", GOLDEN, name);
    json_t *cases = json_load_file(path, 0, NULL);
    assert_non_null(cases);
    return cases;
}

static void expect_cases(qp_ctx *ctx, const qp_tokenizer *t, const char *name) {
    json_t *cases = load_cases(name), *c, *id;
    size_t  i, k;
    json_array_foreach(cases, i, c) {
        const char *text = json_string_value(json_object_get(c, "text"));
        json_t     *want = json_object_get(c, "ids");
        qp_ids      ids = {0};
        assert_int_equal(qp_encode(ctx, t, text, strlen(text), (qp_encode_options){.literal = true}, &ids),
                         QP_OK);
        bool same = (size_t)ids.count == json_array_size(want);
        json_array_foreach(want, k, id) same = same && ids.data[k] == json_integer_value(id);
        if (!same) fail_msg("%s: ids of \"%s\" differ", name, text);
        qp_ids_free(&ids);
    }
    json_decref(cases);
}

/* The same ids and the same text again, for the texts of some cases. */
static void expect_same(qp_ctx *ctx, const qp_tokenizer *a, const qp_tokenizer *b, const char *name) {
    json_t *cases = load_cases(name), *c;
    size_t  i;
    json_array_foreach(cases, i, c) {
        const char *text = json_string_value(json_object_get(c, "text"));
        qp_ids      x = {0}, y = {0};
        qp_text     p = {0}, q = {0};
        assert_int_equal(qp_encode(ctx, a, text, strlen(text), (qp_encode_options){.wrap = true}, &x), QP_OK);
        assert_int_equal(qp_encode(ctx, b, text, strlen(text), (qp_encode_options){.wrap = true}, &y), QP_OK);
        assert_int_equal(x.count, y.count);
        if (x.count) assert_memory_equal(x.data, y.data, (size_t)x.count * sizeof *x.data);
        assert_int_equal(qp_decode(ctx, a, x.data, x.count, true, &p), QP_OK);
        assert_int_equal(qp_decode(ctx, b, y.data, y.count, true, &q), QP_OK);
        assert_int_equal(p.count, q.count);
        if (p.count) assert_memory_equal(p.data, q.data, p.count);
        qp_ids_free(&x);
        qp_ids_free(&y);
        qp_text_free(&p);
        qp_text_free(&q);
    }
    json_decref(cases);
}

static void golden(void **state) {
    (void)state;
    qp_ctx *ctx = qp_open((qp_options){.threads = 1});
    expect_cases(ctx, load(ctx, "spm.gguf"), "spm");
    expect_cases(ctx, load(ctx, "spm.model"), "spm");
    expect_cases(ctx, load(ctx, "bpe.gguf"), "bpe");
    expect_cases(ctx, load(ctx, "wpm.gguf"), "wpm");
    expect_same(ctx, load(ctx, "spm.gguf"), load(ctx, "spm.model"), "spm");
    qp_close(ctx);
}

/* Saved as tokenizer.json, nothing changes. */
static void saved(void **state) {
    (void)state;
    static const char *const files[] = {"spm.gguf", "spm.model", "bpe.gguf",
                                        "wpm.gguf", "ugm.gguf",  "unigram.model"};
    qp_ctx                  *ctx = qp_open((qp_options){.threads = 1});
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        const char   *path = temporary("saved.json");
        qp_tokenizer *t = load(ctx, files[i]);
        assert_int_equal(qp_tokenizer_save(ctx, t, path), QP_OK);
        qp_tokenizer *again = qp_tokenizer_load(ctx, path);
        expect_ok(ctx);
        assert_string_equal(qp_tokenizer_kind(t), qp_tokenizer_kind(again));
        expect_same(ctx, t, again, "spm");
        remove(path);
    }
    qp_close(ctx);
}

static void ends(void **state) {
    (void)state;
    qp_ctx        *ctx = qp_open((qp_options){.threads = 1});
    const int32_t *ids;
    qp_tokenizer  *t = load(ctx, "bpe.gguf");
    assert_int_equal(qp_tokenizer_begin(t), 0);
    assert_int_equal(qp_tokenizer_end(t), 0);
    assert_int_equal(qp_tokenizer_ends(t, &ids), 2);
    assert_int_equal(ids[1], 5);
    t = load(ctx, "spm.gguf");
    assert_int_equal(qp_tokenizer_begin(t), 1);
    assert_int_equal(qp_tokenizer_ends(t, &ids), 1);
    assert_int_equal(ids[0], 2);
    assert_true(qp_tokenizer_is_special(t, 2));
    qp_close(ctx);
}

/* ---- Damage ------------------------------------------------------------------------------------ */

static void try_model(const void *data, size_t n) {
    qpi_error     e = {0};
    qp_tokenizer *t = qpi_tokenizer_sentencepiece("x", data, n, &e);
    assert_true(!t == (e.code != QP_OK) && (t || e.text[0]));
    qpi_tokenizer_free(t);
}

static void damaged_models(void **state) {
    (void)state;
    static const char *const files[] = {GOLDEN "spm.model", GOLDEN "unigram.model"};
    for (int f = 0; f < 2; f++) {
        size_t n;
        char  *data = read_bytes(files[f], &n);
        for (size_t i = n - 60; i < n; i++) try_model(data, i);
        for (size_t i = 0; i < 400 || i < n; i += i < 200 || i > n - 60 ? 1 : 97) {
            if (i >= n) break;
            char was = data[i];
            for (int k = 0; k < 4; k++) {
                data[i] = (char)(k == 0 ? was ^ 0x80 : k == 1 ? 0xFF : k == 2 ? 0 : was + 1);
                try_model(data, n);
            }
            data[i] = was;
        }
        free(data);
    }
}

static const struct {
    const char *bytes;
    size_t      n;
    qp_code     code;
    const char *words;
} models[] = {
    {"", 0, QP_OK, ""},
    {"\x0A\x03\x0A\x01", 4, QP_ERR_FORMAT, "field"},
    {"\x0A\x03\x0A\x01"
     "a",
     5, QP_OK, ""},
    {"\x0A\x06\x0A\x01"
     "a\x18\x09",
     7, QP_ERR_FORMAT, "field"},
    {"\x0A\x05\x0A\x01"
     "a\x18\x09",
     7, QP_ERR_FORMAT, "token 0: its type"},
    {"\x0A\x08\x0A\x01"
     "a\x15\0\0\x80\x7F",
     10, QP_ERR_FORMAT, "token 0: its type or score"},
    {"\x0A\x05\x0A\x01\xFF\x18\x01", 7, QP_ERR_FORMAT, "token 0: expected a text in UTF-8"},
    {"\x0A\x00", 2, QP_ERR_FORMAT, "token 0: expected a text in UTF-8"},
    {"\x0A\x03\x0A\x01"
     "a\x0A\x03\x0A\x01"
     "a",
     10, QP_ERR_FORMAT, "occurs twice"},
    {"\x12\x02\x18\x03", 4, QP_ERR_UNSUPPORTED, "words or characters"},
    {"\x1A\x02\x28\x00", 4, QP_ERR_UNSUPPORTED, "not escaped"},
    {"\x12\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01", 11, QP_ERR_FORMAT, "field"},
    {"\x12\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01", 12, QP_ERR_FORMAT, "at most 10 bytes"},
    {"\x21\x01\x02\x03\x04\x05\x06\x07\x08\x25\x01\x02\x03\x04", 14, QP_OK, ""},
    {"\x0B", 1, QP_ERR_FORMAT, "kind 0, 1, 2 or 5, found 3"},
    {"\x12\x06\x18\x02\xC8\x02\xFF\x01", 8, QP_OK, ""},
    {"\x1A\x06\x12\x04\x01\0\0\0", 8, QP_ERR_FORMAT, "a table of replacements"},
};

static void hostile_models(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        qpi_error     e = {0};
        qp_tokenizer *t = qpi_tokenizer_sentencepiece("x", models[i].bytes, models[i].n, &e);
        if (e.code != models[i].code || !strstr(e.text, models[i].words))
            fail_msg("%zu: expected error %d with \"%s\", found %d: %s", i, models[i].code, models[i].words,
                     e.code, e.text);
        qpi_tokenizer_free(t);
    }
}

/* Bytes of a file changed; the parts of the text that follow a key, mostly. */
static void damaged_gguf(void **state) {
    (void)state;
    static const char *const files[] = {GOLDEN "spm.gguf", GOLDEN "bpe.gguf", GOLDEN "wpm.gguf",
                                        GOLDEN "ugm.gguf"};
    qp_ctx                  *ctx = qp_open((qp_options){.threads = 1});
    const char              *path = temporary("damaged.gguf");
    for (int f = 0; f < 4; f++) {
        size_t n;
        char  *data = read_bytes(files[f], &n);
        for (size_t i = 8; i < n; i += i < 300 ? 1 : 131) {
            char was = data[i];
            for (int k = 0; k < 3; k++) {
                data[i] = (char)(k == 0 ? was ^ 0x80 : k == 1 ? 0xFF : was + 1);
                write_bytes(path, data, n);
                qp_tokenizer *t = qp_tokenizer_load(ctx, path);
                assert_true(!t == qp_failed(ctx));
                qp_clear(ctx);
                qp_tokenizer_close(t);
            }
            data[i] = was;
        }
        free(data);
    }
    remove(path);
    qp_close(ctx);
}

/* ---- GGUF made by hand -------------------------------------------------------------------------- */

typedef struct {
    char   data[4096];
    size_t n;
    int    members;
} gguf;

static void put(gguf *g, const void *data, size_t n) {
    memcpy(g->data + g->n, data, n);
    g->n += n;
}
static void put_u64(gguf *g, uint64_t x) { put(g, &x, 8); }
static void put_u32(gguf *g, uint32_t x) { put(g, &x, 4); }
static void put_text(gguf *g, const char *text) {
    put_u64(g, strlen(text));
    put(g, text, strlen(text));
}
static void put_key(gguf *g, const char *key, uint32_t kind) {
    char full[100];
    snprintf(full, sizeof full, "tokenizer.ggml.%s", key);
    put_text(g, full);
    put_u32(g, kind);
    g->members++;
}
static void add_text(gguf *g, const char *key, const char *text) {
    put_key(g, key, 8);
    put_text(g, text);
}
static void add_texts(gguf *g, const char *key, int n, const char *const *texts) {
    put_key(g, key, 9);
    put_u32(g, 8);
    put_u64(g, (uint64_t)n);
    for (int i = 0; i < n; i++) put_text(g, texts[i]);
}
static void add_numbers(gguf *g, const char *key, uint32_t kind, int n, const void *items) {
    put_key(g, key, 9);
    put_u32(g, kind);
    put_u64(g, (uint64_t)n);
    put(g, items, 4 * (size_t)n);
}
static void add_integer(gguf *g, const char *key, int32_t x) {
    put_key(g, key, 5);
    put_u32(g, (uint32_t)x);
}

static void write_gguf(const gguf *g, const char *path) {
    static const char head[] = "GGUF\3\0\0\0\0\0\0\0\0\0\0\0";
    char              all[5000];
    uint64_t          members = (uint64_t)g->members;
    memcpy(all, head, 16);
    memcpy(all + 16, &members, 8);
    memcpy(all + 24, g->data, g->n);
    write_bytes(path, all, 24 + g->n);
}

static void expect_gguf(const gguf *g, qp_code code, const char *words) {
    const char *path = temporary("made.gguf");
    qp_ctx     *ctx = qp_open((qp_options){.threads = 1});
    write_gguf(g, path);
    qp_tokenizer *t = qp_tokenizer_load(ctx, path);
    remove(path);
    if (code) expect_error(ctx, code, words);
    else expect_ok(ctx);
    assert_true(!t == (code != QP_OK));
    if (t) {
        qp_ids ids = {0};
        if (qp_encode(ctx, t, "a b", 3, (qp_encode_options){.wrap = true}, &ids)) qp_clear(ctx);
        for (int64_t i = 0; i < ids.count; i++)
            assert_true(ids.data[i] >= 0 && ids.data[i] < qp_tokenizer_size(t));
        qp_ids_free(&ids);
    }
    qp_close(ctx);
}

static void expect_part(const gguf *g, qpi_part part, const char *words) {
    const char *path = temporary("made.gguf");
    qpi_error   e = {0};
    write_gguf(g, path);
    qp_tokenizer *t = qpi_tokenizer_load(path, &e);
    remove(path);
    assert_true(t && t->parts[part]);
    if (!strstr(t->parts[part], words)) fail_msg("expected %s in %s", words, t->parts[part]);
    qpi_tokenizer_free(t);
}

static const char *const abc[] = {"a", "b", "ab"};

static gguf start(const char *model) {
    gguf g = {0};
    add_text(&g, "model", model);
    add_texts(&g, "tokens", 3, abc);
    return g;
}

static void hostile_gguf(void **state) {
    (void)state;
    static const int32_t     types[] = {1, 7, 1}, negative[] = {1, -1, 1}, zeros[] = {0, 0, 3};
    static const float       scores[] = {-1, -2, -3}, infinite[] = {-1, 1.0f / 0.0f, 0};
    static const char *const good[] = {"a b"}, *const missing[] = {"a c"}, *const joined[] = {"ab"},
                             *const none[] = {"b a"}, *const space[] = {" "}, *const twice[] = {"a", "a"},
                             *const bad[] = {"a", "\xFF"}, *const empty[] = {"a", ""};
    gguf g = {0};
    expect_gguf(&g, QP_ERR_FORMAT, "it has no vocabulary");
    add_text(&g, "model", "gpt2");
    expect_gguf(&g, QP_ERR_FORMAT, "it has no vocabulary");
    g = start("rwkv");
    expect_gguf(&g, QP_ERR_UNSUPPORTED, "tokenizer.ggml.model: rwkv");
    g = start("a name of more than sixty-three bytes, which is taken for none at all");
    expect_gguf(&g, QP_ERR_FORMAT, "it has no vocabulary");
    g = start("gpt2");
    expect_gguf(&g, QP_OK, "");
    add_text(&g, "pre", "llama-bpe");
    add_texts(&g, "merges", 1, good);
    add_integer(&g, "bos_token_id", 2);
    add_integer(&g, "eos_token_id", 4000000);
    add_integer(&g, "add_eos_token", 1);
    expect_gguf(&g, QP_OK, "");
    g = start("gpt2");
    add_text(&g, "pre", "no-such");
    expect_gguf(&g, QP_ERR_UNSUPPORTED, "tokenizer.ggml.pre: no-such");
    g = start("gpt2");
    add_text(&g, "pre", "gpt-2 phi-2");
    expect_gguf(&g, QP_ERR_UNSUPPORTED, "tokenizer.ggml.pre");
    const char *const *merges[] = {missing, joined, none, space, empty + 1};
    for (int i = 0; i < 5; i++) {
        g = start("gpt2");
        add_texts(&g, "merges", 1, merges[i]);
        expect_gguf(&g, QP_ERR_FORMAT, "merges[0]: expected two tokens");
    }
    const char *const *lists[] = {twice, bad, empty};
    for (int i = 0; i < 3; i++) {
        g = (gguf){0};
        add_text(&g, "model", "gpt2");
        add_texts(&g, "tokens", 2, lists[i]);
        expect_gguf(&g, QP_ERR_FORMAT, i ? "expected a text in UTF-8" : "occurs twice");
    }
    const int32_t *kinds[] = {types, negative};
    for (int i = 0; i < 2; i++) {
        g = start("bert");
        add_numbers(&g, "token_type", 5, 3, kinds[i]);
        expect_gguf(&g, QP_ERR_FORMAT, "token_type: expected a type");
    }
    g = start("gpt2");
    add_numbers(&g, "token_type", 5, 2, zeros);
    expect_gguf(&g, QP_ERR_FORMAT, "token_type: expected a type");
    g = start("bert");
    add_numbers(&g, "token_type", 5, 3, zeros);
    add_integer(&g, "cls_token_id", -5);
    add_integer(&g, "unknown_token_id", 2);
    expect_gguf(&g, QP_OK, "");
    g = start("llama");
    expect_gguf(&g, QP_ERR_FORMAT, "scores: expected a finite number");
    add_numbers(&g, "scores", 6, 3, infinite);
    expect_gguf(&g, QP_ERR_FORMAT, "scores: expected a finite number");
    static const char *const others[] = {"llama", "t5"};
    for (int i = 0; i < 4; i++) {
        g = start(others[i % 2]);
        add_numbers(&g, "scores", 6, 3, scores);
        add_integer(&g, "add_space_prefix", i / 2);
        add_integer(&g, "remove_extra_whitespaces", i / 2);
        add_integer(&g, "bos_token_id", 0);
        add_integer(&g, "eos_token_id", i / 2);
        add_integer(&g, "add_eos_token", 1);
        add_integer(&g, "unknown_token_id", i / 2 ? 1 : 70000);
        expect_gguf(&g, i == 1 ? QP_ERR_FORMAT : QP_OK, "unk_id: the vocabulary has no token 70000");
    }
    /* A map of replacements is an array of bytes; anything else is none. */
    for (uint32_t kind = 0; kind < 3; kind++) {
        g = start("t5");
        add_numbers(&g, "scores", 6, 3, scores);
        put_key(&g, "precompiled_charsmap", 9);
        put_u32(&g, kind);
        put_u64(&g, 4);
        put(&g, "\1\0\0\0\0\0\0\0", kind == 2 ? 8 : 4);
        expect_gguf(&g, kind == 2 ? QP_OK : QP_ERR_FORMAT, "a table of replacements");
    }
    g = start("t5");
    add_numbers(&g, "scores", 6, 3, scores);
    add_integer(&g, "precompiled_charsmap", 1);
    expect_gguf(&g, QP_OK, "");
    g = start("bert");
    add_integer(&g, "unknown_token_id", 3);
    add_integer(&g, "normalizer.lowercase", 0);
    expect_part(&g, QPI_PART_NORMALIZER, "\"strip_accents\":false,\"lowercase\":false");
    add_integer(&g, "normalizer.strip_accents", 1);
    expect_part(&g, QPI_PART_NORMALIZER, "\"strip_accents\":true,\"lowercase\":false");
    /* Special tokens of more than is looked for in texts are tokens that no text has; long ones have no merges. */
    char              text[1200];
    const char *const wide[] = {text, text + 600, "ab"};
    memset(text, 'a', sizeof text);
    text[599] = text[1199] = 0;
    static const int32_t special[] = {3, 1, 1};
    g = (gguf){0};
    add_text(&g, "model", "llama");
    add_texts(&g, "tokens", 2, wide + 1);
    add_numbers(&g, "token_type", 5, 2, special);
    add_numbers(&g, "scores", 6, 2, scores);
    expect_gguf(&g, QP_OK, "");
    text[599] = 'a';
    g = (gguf){0};
    add_text(&g, "model", "llama");
    add_texts(&g, "tokens", 3, (const char *const[]){text, "a", "aa"});
    add_numbers(&g, "scores", 6, 3, scores);
    expect_gguf(&g, QP_OK, "");
}

/* The patterns that a name stands for have that name, or another one of the same. */
static void expect_cut_name(const gguf *g, const char *name) {
    const char *path = temporary("made.gguf"), *patterns[6];
    qpi_error   e = {0};
    int         count = 0;
    write_gguf(g, path);
    qp_tokenizer *t = qpi_tokenizer_load(path, &e);
    remove(path);
    json_t *root = json_loads(t->parts[QPI_PART_PRETOKENIZER], 0, NULL), *stage;
    size_t  i;
    json_array_foreach(json_object_get(root, "pretokenizers"), i, stage) {
        const char *type = json_string_value(json_object_get(stage, "type"));
        if (strcmp(type, "ByteLevel") != 0)
            patterns[count++] =
                strcmp(type, "Digits") == 0
                    ? "\\p{N}"
                    : json_string_value(json_object_get(json_object_get(stage, "pattern"), "Regex"));
    }
    bool        whole = strcmp(name, "llama-bpe") == 0 || strcmp(name, "tekken") == 0;
    const char *found = qpi_gguf_cut_name(patterns, count, whole),
               *other = qpi_gguf_cut_name(patterns, count, !whole);
    if (!found || !strstr(found, name)) fail_msg("%s is called %s", name, found ? found : "nothing");
    assert_true(!other || !strstr(other, name));
    json_decref(root);
    qpi_tokenizer_free(t);
}

/* Every name for a way to cut text, with a text that has a bit of everything. */
static void ways_to_cut(void **state) {
    (void)state;
    static const char *const names[] = {"gpt-2",        "smollm",         "llama-bpe",   "glm4",   "qwen2",
                                        "deepseek-llm", "deepseek-coder", "deepseek-v3", "tekken", "gpt-4o",
                                        "tiny_aya",     "falcon",         "bloom",       "viking", "qwen35",
                                        "bailingmoe",   "seed-coder",     "default",     ""};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        gguf g = start("gpt2");
        add_text(&g, "pre", names[i]);
        expect_gguf(&g, QP_OK, "");
        expect_cut_name(&g, *names[i] ? names[i] : "default");
    }
}

/* Beside a tokenizer, a model's folder names tokens. */
static void folders(void **state) {
    (void)state;
    static const struct {
        const char *config, *map, *generation;
        int         begin, end, count, wrapped; /* ids of "a" with what is put around it */
    } all[] = {
        {NULL, NULL, NULL, -1, -1, 0, 1},
        {"{\"bos_token\":\"b\",\"eos_token\":{\"content\":\"c\"},\"add_bos_token\":true}", NULL, NULL, 1, 2, 1,
         2},
        {"{\"bos_token\":\"b\",\"eos_token\":\"c\",\"add_bos_token\":true,\"add_eos_token\":true}", NULL, NULL,
         1, 2, 1, 3},
        {"{\"add_bos_token\":true}", "{\"bos_token\":\"zz\",\"eos_token\":\"c\"}", "{\"bos_token_id\":0}", 0, 2,
         1, 2},
        {"{\"add_bos_token\":true}", NULL, NULL, -1, -1, 0, 1},
        {"{\"eos_token\":\"c\"}", NULL, "{\"eos_token_id\":[1,2,0,99,\"x\",-1]}", -1, 2, 3, 1},
        {NULL, NULL, "{\"eos_token_id\":[1,2]}", -1, 1, 2, 1},
        {NULL, NULL, "{\"eos_token_id\":0,\"bos_token_id\":99}", -1, 0, 1, 1},
        {"[]", "7", "\"x\"", -1, -1, 0, 1},
        {"{\"bos_token\":7,\"eos_token\":\"c\",\"add_bos_token\":false,\"add_eos_token\":true}", NULL, NULL, -1,
         2, 1, 2},
        {"{\"eos_token\":\"c\",\"add_bos_token\":true,\"add_eos_token\":\"yes\"}", NULL, NULL, -1, 2, 1, 1},
        {NULL, NULL, "{\"eos_token_id\":[1,2,0,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18]}", -1, 1, QP_MAX_ENDS,
         1},
    };
    static const char *const files[] = {"/tokenizer_config.json", "/special_tokens_map.json",
                                        "/generation_config.json"};
    char                     folder[300], path[3][340], tokenizer[340];
    qp_ctx                  *ctx = qp_open((qp_options){.threads = 1});
    snprintf(folder, sizeof folder, "%s", temporary("folder"));
    char command[1200];
    snprintf(command, sizeof command, "mkdir -p '%s'", folder);
    assert_int_equal(system(command), 0);
    snprintf(tokenizer, sizeof tokenizer, "%s/tokenizer.json", folder);
    write_text(tokenizer,
               "{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":0,\"b\":1,\"c\":2,\"d\":3,\"e\":4,"
               "\"f\":5,\"g\":6,\"h\":7,\"i\":8,\"j\":9,\"k\":10,\"l\":11,\"m\":12,\"n\":13,\"o\":14,\"p\":15,"
               "\"q\":16,\"r\":17},\"unk_token\":\"a\"}}");
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        const char    *texts[] = {all[i].config, all[i].map, all[i].generation};
        const int32_t *ids;
        qp_ids         wrapped = {0};
        for (int f = 0; f < 3; f++) {
            snprintf(path[f], sizeof path[f], "%s%s", folder, files[f]);
            if (texts[f]) write_text(path[f], texts[f]);
        }
        qp_tokenizer *t = qp_tokenizer_load(ctx, folder);
        expect_ok(ctx);
        assert_int_equal(qp_tokenizer_begin(t), all[i].begin);
        assert_int_equal(qp_tokenizer_end(t), all[i].end);
        assert_int_equal(qp_tokenizer_ends(t, &ids), all[i].count);
        assert_int_equal(qp_encode(ctx, t, "a", 1, (qp_encode_options){.wrap = true}, &wrapped), QP_OK);
        assert_int_equal(wrapped.count, all[i].wrapped);
        qp_ids_free(&wrapped);
        for (int f = 0; f < 3; f++) remove(path[f]);
    }
    /* A template of the tokenizer's own stays. */
    write_text(path[0], "{\"bos_token\":\"b\",\"add_bos_token\":true}");
    write_text(tokenizer,
               "{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":0,\"b\":1,\"c\":2},\"unk_token\":\"a\"},"
               "\"post_processor\":{\"type\":\"BertProcessing\",\"cls\":[\"c\",2],\"sep\":[\"c\",2]}}");
    qp_ids        own = {0};
    qp_tokenizer *t = qp_tokenizer_load(ctx, folder);
    expect_ok(ctx);
    assert_int_equal(qp_encode(ctx, t, "a", 1, (qp_encode_options){.wrap = true}, &own), QP_OK);
    assert_true(own.count == 3 && own.data[0] == 2 && own.data[2] == 2 && qp_tokenizer_begin(t) == 1);
    qp_ids_free(&own);
    remove(path[0]);
    write_text(path[1], "{");
    assert_null(qp_tokenizer_load(ctx, folder));
    expect_error(ctx, QP_ERR_FORMAT, "special_tokens_map.json");
    snprintf(command, sizeof command, "cp '%sspm.model' '%s/tokenizer.model' && rm '%s' '%s'", GOLDEN, folder,
             tokenizer, path[1]);
    assert_int_equal(system(command), 0);
    assert_non_null(qp_tokenizer_load(ctx, folder));
    snprintf(command, sizeof command, "rm -r '%s'", folder);
    assert_int_equal(system(command), 0);
    assert_null(qp_tokenizer_load(ctx, folder));
    expect_error(ctx, QP_ERR_IO, "folder");
    qp_close(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden),         cmocka_unit_test(saved),          cmocka_unit_test(ends),
        cmocka_unit_test(damaged_models), cmocka_unit_test(hostile_models), cmocka_unit_test(damaged_gguf),
        cmocka_unit_test(hostile_gguf),   cmocka_unit_test(ways_to_cut),    cmocka_unit_test(folders)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
