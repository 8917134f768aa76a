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
    {"gpt2", true},
    {"prefix", false},
    {"whole", true},
    {"llama3", true},
    {"ignore", true},
    {"qwen2", false},
    {"added", false},
    {"digits", true},
    {"regex", true},
    {"gaps", false},
    {"dropped", false},
    {"unknown", false},
    {"fused", false},
    {"bytes", true},
    {"deepseek", true},
    {"wordpiece", false},
    {"wordpiece-cased", false},
    {"wordlevel", false},
    {"unigram", false},
    {"unigram-bytes", false},
    {"llama", false},
    {"llama-new", false},
    {"gemma", false},
    {"clip", false},
    {"prefixed", false},
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

/* What `tokenizers` decodes, unless it had to put U+FFFD for something. */
static void expect_decoded(const char *name, const json_t *c, const qp_text *got) {
    const json_t *decoded = json_object_get(c, "decoded");
    const char   *want = json_string_value(decoded ? decoded : json_object_get(c, "text"));
    if (strstr(want, "\xEF\xBF\xBD")) return;
    if (got->count != strlen(want) || (got->count && memcmp(got->data, want, got->count) != 0))
        fail_msg("%s: \"%s\" decodes to \"%.*s\"; expected \"%s\"", name,
                 json_string_value(json_object_get(c, "text")), (int)got->count, got->data, want);
}

/* Together with the eighth text. */
static void check_pair(qp_ctx *ctx, const qp_tokenizer *t, const char *name, const json_t *c) {
    const json_t *pair = json_object_get(c, "pair");
    const char   *text = json_string_value(json_object_get(c, "text"));
    qp_ids        ids = {0}, types = {0};
    if (!pair) return;
    assert_int_equal(
        qp_encode_pair(ctx, t, text, strlen(text), "a", 1, (qp_encode_options){.wrap = true}, &ids, &types),
        QP_OK);
    expect_ids(name, "pair's", text, &ids, json_object_get(pair, "ids"));
    expect_ids(name, "types of pair's", text, &types, json_object_get(pair, "types"));
    qp_ids_free(&ids);
    qp_ids_free(&types);
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
        if (w == 0) expect_decoded(name, c, &whole);
        if (exact && w != 1 && (whole.count != n || (n && memcmp(whole.data, text, n) != 0)))
            fail_msg("%s: \"%s\" decodes to \"%.*s\"", name, text, (int)whole.count, whole.data);
        qp_ids_free(&ids);
        qp_text_free(&whole);
        qp_text_free(&stream);
    }
    check_pair(ctx, t, name, c);
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
            qpi_piece     item = {.text = (uint8_t *)text, .size = n * times, .whole = true, .first = true};
            qpi_pieces    whole = {.items = &item, .count = 1, .capacity = 1};
            if (k == 0) assert_true(qpi_pieces_encode(t, NULL, &whole, false, &ids[k], &e));
            else assert_int_equal(qp_encode(ctx, t, text, n * times, (qp_encode_options){0}, &ids[k]), QP_OK);
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
                size_t at = qpi_tokenizer_cut(t, (uint8_t *)text, n, from);
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
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
