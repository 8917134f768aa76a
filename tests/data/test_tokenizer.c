/* Tokenizers against the `tokenizers` package (golden files), against themselves, and against
 * hostile files. */
#include "support.h"

#include <jansson.h>
#include <pthread.h>

#include "data/tokenizer.h"

static const struct {
    const char *name;
    bool        exact; /* decoding gives the text back: no normalisation, no lost bytes, no stripping */
} golden[] = {
    {"gpt2", true},     {"prefix", false},  {"whole", true},  {"llama3", true}, {"ignore", true},
    {"qwen2", false},   {"added", false},   {"digits", true}, {"regex", true},  {"gaps", false},
    {"dropped", false}, {"unknown", false}, {"fused", false}, {"bytes", true},
};
#define GOLDEN_COUNT (sizeof golden / sizeof *golden)

static qp_tokenizer *load(qp_ctx *ctx, const char *name) {
    char path[400];
    snprintf(path, sizeof path, "%s%s.json", GOLDEN, name);
    qp_tokenizer *t = qp_tokenizer_load(ctx, path);
    expect_ok(ctx);
    assert_non_null(t);
    return t;
}

static void expect_ids(const char *name, const char *what, const char *text, const qp_ids *got,
                       const json_t *want) {
    bool same = (size_t)got->count == json_array_size(want);
    for (int64_t i = 0; same && i < got->count; i++)
        same = got->data[i] == json_integer_value(json_array_get(want, (size_t)i));
    if (!same) fail_msg("%s: %s ids of \"%s\" differ", name, what, text);
}

static void check_case(qp_ctx *ctx, const qp_tokenizer *t, const char *name, bool exact, const json_t *c) {
    static const struct {
        const char       *key;
        qp_encode_options options;
    } ways[] = {{"ids", {0}}, {"wrapped", {.wrap = true}}, {"literal", {.literal = true}}};
    const char *text = json_string_value(json_object_get(c, "text"));
    size_t      n = strlen(text);
    for (int w = 0; w < 3; w++) {
        qp_ids        ids = {0};
        const json_t *want = json_object_get(c, ways[w].key);
        assert_int_equal(qp_encode(ctx, t, text, n, ways[w].options, &ids), QP_OK);
        expect_ids(name, ways[w].key, text, &ids, want ? want : json_object_get(c, "ids"));
        qp_text     whole = {0}, stream = {0};
        qp_decoding state = {0};
        assert_int_equal(qp_decode(ctx, t, ids.data, ids.count, w == 1, &whole), QP_OK);
        for (int64_t i = 0; i < ids.count; i++)
            assert_int_equal(qp_decode_next(ctx, t, &state, ids.data[i], w == 1, &stream), QP_OK);
        assert_int_equal(qp_decode_end(ctx, &state, &stream), QP_OK);
        assert_int_equal(whole.count, stream.count);
        if (whole.count) assert_memory_equal(whole.data, stream.data, whole.count);
        if (exact && w != 1 && (whole.count != n || (n && memcmp(whole.data, text, n) != 0)))
            fail_msg("%s: \"%s\" decodes to \"%.*s\"", name, text, (int)whole.count, whole.data);
        qp_ids_free(&ids);
        qp_text_free(&whole);
        qp_text_free(&stream);
    }
}

static void check_cases(qp_ctx *ctx, const qp_tokenizer *t, const char *name, bool exact) {
    char path[400];
    snprintf(path, sizeof path, "%s%s.cases.json", GOLDEN, name);
    json_t *cases = json_load_file(path, 0, NULL);
    assert_non_null(cases);
    for (size_t i = 0; i < json_array_size(cases); i++)
        check_case(ctx, t, name, exact, json_array_get(cases, i));
    json_decref(cases);
}

static void golden_ids(void **state) {
    (void)state;
    for (size_t i = 0; i < GOLDEN_COUNT; i++) {
        qp_ctx *ctx = qp_open((qp_options){.threads = 1});
        check_cases(ctx, load(ctx, golden[i].name), golden[i].name, golden[i].exact);
        qp_close(ctx);
    }
}

/* What is written reads back as the same tokenizer, and writes the same text again. */
static void saved_and_loaded(void **state) {
    (void)state;
    for (size_t i = 0; i < GOLDEN_COUNT; i++) {
        qp_ctx       *ctx = qp_open((qp_options){.threads = 1});
        const char   *path = temporary("tokenizer.json"), *again = temporary("again.json");
        qp_tokenizer *t = load(ctx, golden[i].name);
        assert_int_equal(qp_tokenizer_save(ctx, t, path), QP_OK);
        qp_tokenizer *u = qp_tokenizer_load(ctx, path);
        expect_ok(ctx);
        assert_string_equal(qp_tokenizer_kind(t), qp_tokenizer_kind(u));
        assert_int_equal(qp_tokenizer_size(t), qp_tokenizer_size(u));
        check_cases(ctx, u, golden[i].name, golden[i].exact);
        assert_int_equal(qp_tokenizer_save(ctx, u, again), QP_OK);
        size_t n, m;
        char  *first = read_bytes(path, &n), *second = read_bytes(again, &m);
        assert_string_equal(first, second);
        free(first);
        free(second);
        remove(path);
        remove(again);
        qp_close(ctx);
    }
}

/* A megabyte, cut for threads, has the ids of the whole in one thread. */
static void threads_change_nothing(void **state) {
    (void)state;
    size_t n, times = 300;
    char  *corpus = read_bytes(GOLDEN "corpus.txt", &n);
    char  *text = malloc(n * times);
    for (size_t i = 0; i < times; i++) memcpy(text + i * n, corpus, n);
    memcpy(text + 7 * n, "<|endoftext|>  <l>  <r>  knot", 29);
    for (size_t i = 0; i < GOLDEN_COUNT; i++) {
        qp_ids ids[3] = {0};
        for (int k = 0; k < 3; k++) {
            qp_ctx *ctx = qp_open((qp_options){.threads = k == 0 ? 1 : k == 1 ? 2 : 5});
            /* The first in one piece. */
            qpi_error     e = {0};
            qp_tokenizer *t = load(ctx, golden[i].name);
            qpi_piece     item = {.text = (uint8_t *)text, .size = n * times, .whole = true};
            qpi_pieces    whole = {.items = &item, .count = 1, .capacity = 1};
            if (k == 0)
                assert_true(qpi_pieces_encode(t, NULL, &whole, false, &ids[k], &e));
            else
                assert_int_equal(qp_encode(ctx, t, text, n * times, (qp_encode_options){0}, &ids[k]), QP_OK);
            qp_close(ctx);
            assert_int_equal(ids[k].count, ids[0].count);
            assert_memory_equal(ids[k].data, ids[0].data, (size_t)ids[0].count * sizeof *ids[0].data);
        }
        for (int k = 0; k < 3; k++) qp_ids_free(&ids[k]);
    }
    free(text);
    free(corpus);
}

static uint32_t random_state = 1;
static uint32_t draw(uint32_t n) {
    random_state = random_state * 1664525 + 1013904223;
    return (uint32_t)((uint64_t)random_state * n >> 32);
}

/* Bytes that are not UTF-8 come back as they were. */
static void any_bytes(void **state) {
    (void)state;
    qp_ctx *ctx = qp_open((qp_options){.threads = 1});
    for (size_t i = 0; i < GOLDEN_COUNT; i++) {
        if (!golden[i].exact) continue;
        qp_tokenizer *t = load(ctx, golden[i].name);
        for (int round = 0; round < 300; round++) {
            char   text[120];
            size_t n = draw(sizeof text);
            for (size_t k = 0; k < n; k++)
                text[k] = draw(3) ? (char)draw(256) : "\xE2\x80\x99 \xF0\x9F"[draw(6)];
            qp_ids      ids = {0};
            qp_text     out = {0};
            qp_decoding s = {0};
            assert_int_equal(qp_encode(ctx, t, text, n, (qp_encode_options){.literal = true}, &ids), QP_OK);
            for (int64_t k = 0; k < ids.count; k++) {
                assert_int_equal(qp_decode_next(ctx, t, &s, ids.data[k], false, &out), QP_OK);
                assert_true(s.count <= 3);
            }
            assert_int_equal(qp_decode_end(ctx, &s, &out), QP_OK);
            assert_int_equal(out.count, n);
            if (n) assert_memory_equal(out.data, text, n);
            qp_ids_free(&ids);
            qp_text_free(&out);
        }
    }
    qp_close(ctx);
}

static int64_t ids_of(const qp_tokenizer *t, const char *text, size_t n, qp_ids *ids) {
    qpi_error  e = {0};
    qpi_piece  item = {.text = (const uint8_t *)text, .size = n};
    qpi_pieces piece = {.items = &item, .count = 1, .capacity = 1};
    assert_true(qpi_pieces_encode(t, NULL, &piece, true, ids, &e));
    return ids->count;
}

/* Wherever a text may be cut, both parts have the ids of the whole. */
static void cuts(void **state) {
    (void)state;
    static const char *const parts[] = {
        "a",        "12",       " ",        "  ",       "\n",           "\r\n",         "\t",
        ".",        "'s",       "'",        "\xC3\xA9", "\xE7\xB5\x90", "\xE3\x80\x82", "\xE3\x80\x80",
        "\xCC\x81", "\xC2\xA0", "\xE3\x80", "\x80",     "knots"};
    qp_ctx *ctx = qp_open((qp_options){.threads = 1});
    int     found = 0;
    for (size_t i = 0; i < GOLDEN_COUNT; i++) {
        qp_tokenizer *t = load(ctx, golden[i].name);
        for (int round = 0; round < 200; round++) {
            char   text[400];
            size_t n = 0;
            for (int k = 0; k < 40; k++) {
                const char *part = parts[draw(sizeof parts / sizeof *parts)];
                memcpy(text + n, part, strlen(part));
                n += strlen(part);
            }
            qp_ids whole = {0};
            ids_of(t, text, n, &whole);
            for (size_t from = 0; from < n; from += 3) {
                qp_ids both = {0};
                size_t at = t->kind->cut(t, (uint8_t *)text, n, from);
                assert_true(at <= n && at >= from);
                if (at == n) continue;
                ids_of(t, text, at, &both);
                assert_int_equal(ids_of(t, text + at, n - at, &both), whole.count);
                assert_memory_equal(both.data, whole.data, (size_t)whole.count * sizeof *whole.data);
                qp_ids_free(&both);
                found++;
            }
            qp_ids_free(&whole);
        }
    }
    assert_true(found > 10000);
    qp_close(ctx);
}

static void streaming_holds_back(void **state) {
    (void)state;
    qp_ctx       *ctx = qp_open((qp_options){.threads = 1});
    qp_tokenizer *t = qp_tokenizer_bytes(ctx);
    qp_decoding   s = {0};
    qp_text       out = {0};
    const uint8_t bytes[] = {'a', 0xF0, 0x9F, 0x99, 0x82, 0xE2, 0x82, 'b', 0xC3, 0xED, 0xA0};
    const size_t  visible[] = {1, 1, 1, 1, 5, 5, 5, 8, 8, 9, 11};
    for (size_t i = 0; i < sizeof bytes; i++) {
        assert_int_equal(qp_decode_next(ctx, t, &s, bytes[i], false, &out), QP_OK);
        assert_int_equal(out.count, visible[i]);
    }
    assert_int_equal(qp_decode_next(ctx, t, &s, 0xC3, false, &out), QP_OK);
    assert_int_equal(out.count, 11);
    assert_int_equal(qp_decode_next(ctx, t, &s, 256, true, &out), QP_OK);
    assert_int_equal(out.count, 11);
    assert_int_equal(qp_decode_end(ctx, &s, &out), QP_OK);
    assert_int_equal(out.count, 12);
    assert_int_not_equal(qp_decode_next(ctx, t, &s, 257, false, &out), QP_OK);
    expect_error(ctx, QP_ERR_ARGUMENT, "no token 257");
    assert_int_not_equal(qp_decode(ctx, t, (int32_t[]){65, -1}, 2, false, &out), QP_OK);
    expect_error(ctx, QP_ERR_ARGUMENT, "no token -1");
    assert_int_equal(out.count, 12);
    qp_text_free(&out);
    qp_close(ctx);
}

static void asking(void **state) {
    (void)state;
    qp_ctx       *ctx = qp_open((qp_options){.threads = 1});
    qp_tokenizer *t = qp_tokenizer_bytes(ctx), *u = load(ctx, "llama3");
    assert_string_equal(qp_tokenizer_kind(t), "byte");
    assert_int_equal(qp_tokenizer_size(t), 257);
    assert_int_equal(qp_tokenizer_end(t), 256);
    assert_string_equal(qp_tokenizer_token(t, 256), "<|endoftext|>");
    assert_string_equal(qp_tokenizer_token(t, ' '), "\u0120");
    assert_int_equal(qp_tokenizer_id(t, "\u0120"), ' ');
    assert_int_equal(qp_tokenizer_id(t, " "), -1);
    assert_true(qp_tokenizer_is_special(t, 256));
    assert_false(qp_tokenizer_is_special(t, 255));
    assert_null(qp_tokenizer_token(t, 257));
    assert_null(qp_tokenizer_token(t, -1));
    assert_string_equal(qp_tokenizer_kind(load(ctx, "bytes")), "byte");
    assert_string_equal(qp_tokenizer_kind(u), "bpe");
    assert_int_equal(qp_tokenizer_end(u), 1);
    qp_tokenizer_set_end(u, 0);
    assert_int_equal(qp_tokenizer_end(u), 0);
    qp_tokenizer_set_end(u, 1 << 30);
    assert_int_equal(qp_tokenizer_end(u), -1);
    qp_tokenizer_close(t);
    qp_tokenizer_close(NULL);
    assert_null(qp_tokenizer_load(ctx, "/nowhere/tokenizer.json"));
    expect_error(ctx, QP_ERR_IO, "/nowhere/tokenizer.json: cannot open");
    assert_null(qp_tokenizer_load(ctx, P_tmpdir));
    expect_error(ctx, QP_ERR_IO, P_tmpdir "/tokenizer.json");
    qp_close(ctx);
}

/* Words without an end and patterns without a match cost no more than their length. */
static void long_words(void **state) {
    (void)state;
    qp_ctx *ctx = qp_open((qp_options){.threads = 1});
    size_t  n = 1 << 20;
    char   *text = malloc(n);
    memset(text, 'a', n);
    for (size_t i = 0; i < GOLDEN_COUNT; i++) {
        qp_ids        ids = {0};
        qp_text       out = {0};
        qp_tokenizer *t = load(ctx, golden[i].name);
        assert_int_equal(qp_encode(ctx, t, text, n, (qp_encode_options){0}, &ids), QP_OK);
        assert_int_equal(qp_decode(ctx, t, ids.data, ids.count, false, &out), QP_OK);
        if (golden[i].exact) assert_int_equal(out.count, n);
        qp_ids_free(&ids);
        qp_text_free(&out);
    }
    /* An added token of white space that strips white space, where there is nothing else. */
    write_text(temporary("blank.json"),
               "{\"added_tokens\":[{\"id\":9,\"content\":\" \",\"lstrip\":true,\"rstrip\":true}],"
               "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},"
               "\"model\":{\"vocab\":{\"a\":0},\"merges\":[]}}");
    qp_ids        ids = {0};
    qp_tokenizer *t = qp_tokenizer_load(ctx, temporary("blank.json"));
    expect_ok(ctx);
    remove(temporary("blank.json"));
    memset(text, ' ', n);
    assert_int_equal(qp_encode(ctx, t, text, n, (qp_encode_options){0}, &ids), QP_OK);
    assert_int_equal(ids.count, 1);
    qp_ids_free(&ids);
    free(text);
    qp_close(ctx);
}

/* One tokenizer, several threads, each with its own context. */
static void *encode_often(void *arg) {
    qp_tokenizer     *t = arg;
    static const char text[] = "The keeper's <|im_start|>knots: 1,204 k\xC3\xA4"
                               "fer e\xCC\x81 and so on.";
    qp_ctx           *ctx = qp_open((qp_options){.threads = 1});
    qp_ids            first = {0}, ids = {0};
    uintptr_t         bad = ctx == NULL;
    for (int i = 0; i < 300 && !bad; i++) {
        ids.count = 0;
        bad |= qp_encode(ctx, t, text, sizeof text - 1, (qp_encode_options){0}, i ? &ids : &first) != QP_OK;
        bad |= i &&
               (ids.count != first.count || memcmp(ids.data, first.data, (size_t)ids.count * sizeof *ids.data));
    }
    qp_ids_free(&first);
    qp_ids_free(&ids);
    qp_close(ctx);
    return (void *)bad;
}

static void shared(void **state) {
    (void)state;
    for (size_t i = 0; i < GOLDEN_COUNT; i++) {
        qp_ctx       *ctx = qp_open((qp_options){.threads = 1});
        qp_tokenizer *t = load(ctx, golden[i].name);
        pthread_t     threads[4];
        void         *bad;
        for (int k = 0; k < 4; k++) assert_int_equal(pthread_create(&threads[k], NULL, encode_often, t), 0);
        for (int k = 0; k < 4; k++) {
            assert_int_equal(pthread_join(threads[k], &bad), 0);
            assert_null(bad);
        }
        qp_close(ctx);
    }
}

/* ---- Hostile files -------------------------------------------------------------------- */

#define BL "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true}"
#define MODEL "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]}"
#define WITH(x) "{" MODEL "," BL "," x "}"
#define MODELS(x) "{" BL ",\"model\":{" x "}}"

static const struct {
    const char *json;
    qp_code     code; /* QP_OK: it loads */
    const char *words;
} hostile[] = {
    {"{" MODEL "," BL "}", QP_OK, ""},
    {"", QP_ERR_FORMAT, "line 1 column 1: expected an object, found the end"},
    {"[]", QP_ERR_FORMAT, "expected an object"},
    {"{" MODEL "," BL, QP_ERR_FORMAT, "found the end"},
    {"{" MODEL "," BL "} x", QP_ERR_FORMAT, "expected the end"},
    {"{" BL "}", QP_ERR_FORMAT, "expected a model"},
    {"{" MODEL "," MODEL "," BL "}", QP_ERR_FORMAT, "model twice"},
    {WITH(BL), QP_ERR_FORMAT, "pre_tokenizer twice"},
    {"{" MODEL "}", QP_ERR_UNSUPPORTED, "pre_tokenizer: a pre-tokenizer without ByteLevel"},
    {"{" MODEL ",\"pre_tokenizer\":{\"type\":\"Metaspace\"}}", QP_ERR_UNSUPPORTED, "pre_tokenizer: Metaspace"},
    {"{" MODEL ",\"pre_tokenizer\":7}", QP_ERR_FORMAT, "pre_tokenizer: expected an object, found an integer"},
    {"{" MODEL ",\"pre_tokenizer\":{\"type\":\"ByteLevel\"}}", QP_ERR_FORMAT, "add_prefix_space: missing"},
    {"{" MODEL ",\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"type\":\"ByteLevel\"}}", QP_ERR_FORMAT,
     "duplicate"},
    {"{" MODEL ",\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"ByteLevel\",\"add_"
     "prefix_space\":false},"
     "{\"type\":\"Digits\",\"individual_digits\":true}]}}",
     QP_ERR_UNSUPPORTED, "pretokenizers[1]: a component behind ByteLevel"},
    {"{" MODEL
     ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(a\"},\"behavior\":\"Isolated\"}}",
     QP_ERR_FORMAT, "pattern: bad pattern, offset 2"},
    {"{" MODEL
     ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\"a\"},\"behavior\":\"Isolated\"}}",
     QP_ERR_UNSUPPORTED, "no Regex"},
    {"{" MODEL
     ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"MergedWithNext\"}}",
     QP_ERR_UNSUPPORTED, "this behavior"},
    {WITH("\"normalizer\":{\"type\":\"Lowercase\"}"), QP_ERR_UNSUPPORTED, "normalizer: Lowercase"},
    {WITH("\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{\"type\":\"Strip\"}]}"),
     QP_ERR_UNSUPPORTED, "normalizer.normalizers[1]: Strip"},
    {WITH("\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{\"type\":\"NFC\"},{"
          "\"type\":\"NFC\"},"
          "{\"type\":\"NFC\"},{\"type\":\"NFC\"}]}"),
     QP_ERR_UNSUPPORTED, "so long a sequence"},
    {WITH("\"decoder\":{\"type\":\"WordPiece\"}"), QP_ERR_UNSUPPORTED, "decoder: WordPiece"},
    {WITH("\"post_processor\":{\"type\":\"Magic\"}"), QP_ERR_UNSUPPORTED, "post_processor: Magic"},
    {WITH(
         "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"x\"}}]}"),
     QP_ERR_FORMAT, "special_tokens: missing"},
    {WITH("\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[]}"), QP_ERR_FORMAT,
     "expected a Sequence"},
    {WITH("\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"Sequence\":{}},{\"Sequence\":{}}]"
          "}"),
     QP_ERR_FORMAT, "single[1]: expected one Sequence"},
    {WITH("\"post_processor\":{\"type\":\"RobertaProcessing\",\"cls\":[\"a\",-1],\"sep\":[\"b\",1]}"),
     QP_ERR_FORMAT, "cls: expected a token and its id"},
    {WITH("\"added_tokens\":[{\"id\":3,\"content\":\"x\",\"special\":true}]"), QP_OK, ""},
    {WITH("\"added_tokens\":[{\"id\":3,\"content\":\"x\",\"lstrip\":1}]"), QP_ERR_FORMAT,
     "lstrip: expected true or false"},
    {WITH("\"added_tokens\":{}"), QP_ERR_FORMAT, "added_tokens: expected an array, found an object"},
    {WITH("\"added_tokens\":[{\"id\":-3,\"content\":\"x\"}]"), QP_ERR_FORMAT,
     "added_tokens[0].id: expected an integer"},
    {WITH("\"added_tokens\":[{\"id\":1,\"content\":\"a\"}]"), QP_ERR_FORMAT, "expected id 0"},
    {WITH("\"added_tokens\":[{\"id\":1,\"content\":\"x\"}]"), QP_ERR_FORMAT, "belongs to another token"},
    {WITH("\"added_tokens\":[{\"id\":2000000000,\"content\":\"x\"}]"), QP_ERR_FORMAT, "out of range"},
    {WITH("\"added_tokens\":[{\"content\":\"x\"}]"), QP_ERR_FORMAT, "added_tokens[0].id: missing"},
    {MODELS("\"vocab\":{\"a\":0},\"merges\":[]"), QP_OK, ""},
    {MODELS("\"merges\":[\"a b\"],\"vocab\":{\"a\":0,\"b\":1,\"ab\":2}"), QP_OK, ""},
    {MODELS("\"merges\":[\"a c\"],\"vocab\":{\"a\":0,\"b\":1,\"ab\":2}"), QP_ERR_FORMAT,
     "merge 0: its second token"},
    {MODELS("\"vocab\":{\"a\":0}"), QP_ERR_FORMAT, "expected vocab and merges"},
    {MODELS("\"type\":\"WordPiece\",\"vocab\":{\"a\":0}"), QP_ERR_UNSUPPORTED, "model.type: \"WordPiece\""},
    {MODELS("\"vocab\":[[\"a\",0.5]]"), QP_ERR_UNSUPPORTED, "model.vocab: a list"},
    {MODELS("\"vocab\":{\"a\":0,\"a\":1},\"merges\":[]"), QP_ERR_FORMAT, "token \"a\" occurs twice"},
    {MODELS("\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]"), QP_ERR_FORMAT, "id 0 belongs to another token"},
    {MODELS("\"vocab\":{\"a\":-1},\"merges\":[]"), QP_ERR_FORMAT, "id -1 is out of range"},
    {MODELS("\"vocab\":{\"a\":4000000000},\"merges\":[]"), QP_ERR_FORMAT, "id 4000000000 is out of range"},
    {MODELS("\"vocab\":{\"a\":99999999999999999999},\"merges\":[]"), QP_ERR_FORMAT, "18 digits"},
    {MODELS("\"vocab\":{\"a\":1.5},\"merges\":[]"), QP_ERR_FORMAT, "expected an integer"},
    {MODELS("\"vocab\":{\"a\":\"0\"},\"merges\":[]"), QP_ERR_FORMAT, "expected an integer"},
    {MODELS("\"vocab\":{\"\xFF\":0},\"merges\":[]"), QP_ERR_FORMAT, "not UTF-8"},
    {MODELS("\"vocab\":{\"a\\uD800\":0},\"merges\":[]"), QP_ERR_FORMAT, "bad escape"},
    {MODELS("\"vocab\":{\"a\n\":0},\"merges\":[]"), QP_ERR_FORMAT, "control character"},
    {MODELS("\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"ab\"]"), QP_ERR_FORMAT, "a space between them"},
    {MODELS("\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a  b\"]"), QP_ERR_FORMAT,
     "a space between them"},
    {MODELS("\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a \"]"), QP_ERR_FORMAT, "a space between them"},
    {MODELS("\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"b a\"]"), QP_ERR_FORMAT,
     "merge 0: their union"},
    {MODELS("\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[[\"a\",\"b\"]]"), QP_OK, ""},
    {MODELS("\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[[\"a\"]]"), QP_ERR_FORMAT,
     "a merge of two tokens, found 1"},
    {MODELS("\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[[\"a\",\"b\",\"c\"]]"), QP_ERR_FORMAT, "found 3"},
    {MODELS("\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[{}]"), QP_ERR_FORMAT, "expected an array"},
    {MODELS("\"vocab\":{\"a\":0},\"merges\":[],\"dropout\":0.1"), QP_ERR_UNSUPPORTED, "model.dropout: 0.1"},
    {MODELS("\"vocab\":{\"a\":0},\"merges\":[],\"end_of_word_suffix\":\"</w>\""), QP_ERR_UNSUPPORTED,
     "end_of_word_suffix"},
    {MODELS("\"vocab\":{\"a\":0},\"merges\":[],\"continuing_subword_prefix\":\"##\""), QP_ERR_UNSUPPORTED,
     "continuing_subword"},
    {MODELS("\"vocab\":{\"a\":0},\"merges\":[],\"byte_fallback\":true"), QP_ERR_UNSUPPORTED, "byte_fallback"},
    {MODELS("\"vocab\":{\"a\":0},\"merges\":[],\"unk_token\":\"u\""), QP_ERR_FORMAT,
     "unk_token: it is not in the vocabulary"},
};

static void hostile_files(void **state) {
    (void)state;
    qp_ctx *ctx = qp_open((qp_options){.threads = 1});
    for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++) {
        const char *path = temporary("hostile.json");
        write_text(path, hostile[i].json);
        qp_tokenizer *t = qp_tokenizer_load(ctx, path);
        remove(path);
        if (hostile[i].code == QP_OK)
            expect_ok(ctx);
        else
            expect_error(ctx, hostile[i].code, hostile[i].words);
        assert_true((t != NULL) == (hostile[i].code == QP_OK));
    }
    qp_close(ctx);
}

/* Every prefix of a good file, and the file with every byte changed. */
static void damaged_files(void **state) {
    (void)state;
    size_t n;
    char  *json = read_bytes(GOLDEN "dropped.json", &n);
    for (size_t i = 0; i < n; i++) {
        qpi_error e = {0};
        assert_null(qpi_tokenizer_parse("x", json, i, &e));
        assert_int_not_equal(e.code, QP_OK);
    }
    for (size_t i = 0; i < n; i++)
        for (int k = 0; k < 3; k++) {
            qpi_error e = {0};
            char      was = json[i];
            json[i] = (char)(k == 0 ? was ^ 0x80 : k == 1 ? '"' : '9');
            qp_tokenizer *t = qpi_tokenizer_parse("x", json, n, &e);
            assert_true((t == NULL) == (e.code != QP_OK));
            qpi_tokenizer_free(t);
            json[i] = was;
        }
    free(json);
}

static void deep_file(void **state) {
    (void)state;
    qp_ctx     *ctx = qp_open((qp_options){.threads = 1});
    const char *path = temporary("deep.json");
    char       *text = malloc(200001);
    memset(text, '[', 200000);
    memcpy(text, "{\"x\":", 5);
    text[200000] = 0;
    write_text(path, text);
    assert_null(qp_tokenizer_load(ctx, path));
    expect_error(ctx, QP_ERR_FORMAT, "nested deeper");
    memcpy(text, "{\"normalizer\":", 14);
    for (int i = 0; i < 40; i++) memcpy(text + 14 + 5 * i, "{\"x\":", 5);
    strcpy(text + 14 + 200, "0");
    for (int i = 0; i < 40; i++) strcat(text, "}");
    strcat(text, "," MODEL "," BL "}");
    write_text(path, text);
    assert_null(qp_tokenizer_load(ctx, path));
    expect_error(ctx, QP_ERR_FORMAT, "normalizer.type: missing");
    remove(path);
    free(text);
    qp_close(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_ids),
        cmocka_unit_test(saved_and_loaded),
        cmocka_unit_test(threads_change_nothing),
        cmocka_unit_test(any_bytes),
        cmocka_unit_test(cuts),
        cmocka_unit_test(streaming_holds_back),
        cmocka_unit_test(asking),
        cmocka_unit_test(long_words),
        cmocka_unit_test(shared),
        cmocka_unit_test(hostile_files),
        cmocka_unit_test(damaged_files),
        cmocka_unit_test(deep_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
