/* The components of tokenizer.json one by one against the `tokenizers` package (parts.json): normalizers and
 * pre-tokenizers by ids that show characters and ends of words, decoders by their texts. */
#include "support.h"

#include <jansson.h>
#include <time.h>

#include "data/tokenizer.h"

#ifndef SLOWER
#define SLOWER 1 /* than a build with optimisation */
#endif

static qp_tokenizer *make(const json_t *model, const json_t *entry) {
    json_t     *root = json_object();
    qpi_error   e = {0};
    const char *name = json_string_value(json_object_get(entry, "name"));
    json_object_set(root, json_string_value(json_object_get(entry, "part")), json_object_get(entry, "json"));
    json_object_set(root, "model", (json_t *)model);
    char         *text = json_dumps(root, JSON_COMPACT);
    qp_tokenizer *t = qpi_tokenizer_parse("x", text, strlen(text), &e);
    if (!t) fail_msg("%s: %s", name, e.text);
    free(text);
    json_decref(root);
    return t;
}

static void read_ids(const json_t *list, qp_ids *out) {
    json_t *id;
    size_t  i;
    out->count = 0;
    json_array_foreach(list, i, id) {
        assert_true(qpi_ids_reserve(out, 1));
        out->data[out->count++] = (int32_t)json_integer_value(id);
    }
}

static void check_ids(const qp_tokenizer *t, const json_t *entry, const json_t *texts) {
    json_t *all = json_object_get(entry, "ids"), *list;
    size_t  i;
    json_array_foreach(all, i, list) {
        const char *text = json_string_value(json_array_get(texts, i));
        qp_ids      want = {0}, got = {0};
        qpi_error   e = {0};
        qpi_piece   item = {.text = (const uint8_t *)text, .size = strlen(text), .first = true};
        qpi_pieces  pieces = {.items = &item, .count = *text != 0, .capacity = 1};
        read_ids(list, &want);
        if (!qpi_pieces_encode(t, NULL, &pieces, false, &got, &e))
            fail_msg("%s: \"%s\": %s", json_string_value(json_object_get(entry, "name")), text, e.text);
        if (got.count != want.count ||
            (got.count && memcmp(got.data, want.data, (size_t)got.count * sizeof *got.data)))
            fail_msg("%s: ids of \"%s\" differ", json_string_value(json_object_get(entry, "name")), text);
        qp_ids_free(&want);
        qp_ids_free(&got);
    }
}

/* At once, and id by id. */
static void check_texts(qp_ctx *ctx, const qp_tokenizer *t, const json_t *entry, const json_t *spoken) {
    json_t     *all = json_object_get(entry, "texts"), *one;
    const char *name = json_string_value(json_object_get(entry, "name"));
    size_t      i;
    json_array_foreach(all, i, one) {
        const char *want = json_string_value(one);
        qp_ids      ids = {0};
        qp_text     whole = {0}, stream = {0};
        qp_decoding state = {0};
        read_ids(json_array_get(spoken, i), &ids);
        assert_int_equal(qp_decode(ctx, t, ids.data, ids.count, false, &whole), QP_OK);
        for (int64_t k = 0; k < ids.count; k++)
            assert_int_equal(qp_decode_next(ctx, t, &state, ids.data[k], false, &stream), QP_OK);
        assert_int_equal(qp_decode_end(ctx, &state, &stream), QP_OK);
        if (whole.count != stream.count || (whole.count && memcmp(whole.data, stream.data, whole.count)))
            fail_msg("%s: %zu: \"%.*s\", but id by id \"%.*s\"", name, i, (int)whole.count, whole.data,
                     (int)stream.count, stream.data);
        if (want && !strstr(want, "\xEF\xBF\xBD") &&
            (whole.count != strlen(want) || (whole.count && memcmp(whole.data, want, whole.count))))
            fail_msg("%s: %zu: expected \"%s\", found \"%.*s\"", name, i, want, (int)whole.count, whole.data);
        qp_ids_free(&ids);
        qp_text_free(&whole);
        qp_text_free(&stream);
    }
}

static void parts(void **state) {
    (void)state;
    qp_ctx *ctx = qp_open((qp_options){.threads = 1});
    json_t *root = json_load_file(GOLDEN "parts.json", 0, NULL), *entries = json_object_get(root, "entries"),
           *entry;
    size_t i;
    assert_non_null(root);
    json_array_foreach(entries, i, entry) {
        qp_tokenizer *t = make(json_object_get(root, "model"), entry);
        check_ids(t, entry, json_object_get(root, "texts"));
        check_texts(ctx, t, entry, json_object_get(root, "spoken"));
        qpi_tokenizer_free(t);
    }
    assert_true(i > 90);
    json_decref(root);
    qp_close(ctx);
}

/* ---- Time ------------------------------------------------------------------------------------------ */

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#define MEGA ((size_t)1 << 20)

static void repeat(char *out, size_t n, const char *unit) {
    size_t m = strlen(unit);
    for (size_t i = 0; i < n; i++) out[i] = unit[i % m];
}

/* A megabyte that is hard in one way or other takes about a second at most, whatever the tokenizer. (With room for
 * sanitizers and busy machines.) */
static void hostile_texts(void **state) {
    (void)state;
    static const char *const units[] = {"a",
                                        "ab",
                                        " ",
                                        "\n",
                                        "\xCC\x81",
                                        "\xCC\xA3\xCC\x81",
                                        "e\xCC\x81",
                                        "\xE2\x96\x81",
                                        "\xE2\x96\x81"
                                        "a",
                                        "\xF0\x9F\x91\xA9\xE2\x80\x8D",
                                        "\xE7\xB5\x90",
                                        "\xFF",
                                        "\xE2",
                                        "<0x41>",
                                        "'",
                                        "'s",
                                        "1",
                                        "[CLS]",
                                        "<s>",
                                        " <l> ",
                                        "\xE1\x84\x80\xE1\x85\xA1",
                                        "\xEF\xB7\xBA",
                                        ".",
                                        "\r\n"};
    static const char *const names[] = {"gpt2",      "llama3",          "regex",     "added",   "deepseek",
                                        "wordpiece", "wordpiece-cased", "wordlevel", "unigram", "unigram-bytes",
                                        "llama",     "llama-new",       "gemma",     "clip",    "prefixed"};
    char                    *text = malloc(MEGA);
    for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
        char path[300];
        snprintf(path, sizeof path, "%s%s.json", GOLDEN, names[k]);
        qpi_error     e = {0};
        qp_tokenizer *t = qpi_tokenizer_load(path, &e);
        assert_non_null(t);
        for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
            qp_ids     ids = {0};
            qpi_piece  item = {.text = (const uint8_t *)text, .size = MEGA, .whole = true, .first = true};
            qpi_pieces pieces = {.items = &item, .count = 1, .capacity = 1};
            repeat(text, MEGA, units[i]);
            double start = now();
            bool   ok = qpi_pieces_encode(t, NULL, &pieces, false, &ids, &e);
            double seconds = now() - start;
            if (!ok && e.code != QP_ERR_UNSUPPORTED) fail_msg("%s: %s", names[k], e.text);
            if (seconds > 8 * SLOWER)
                fail_msg("%s: a megabyte of \"%s\" takes %.1f s", names[k], units[i], seconds);
            qp_ids_free(&ids);
            e = (qpi_error){0};
        }
        qpi_tokenizer_free(t);
    }
    free(text);
}

typedef struct {
    char  *data;
    size_t n;
} writing;

static void add(writing *w, const char *format, ...) {
    va_list args;
    va_start(args, format);
    w->n += (size_t)vsprintf(w->data + w->n, format, args);
    va_end(args);
}

/* Tokens a, aa, aaa, ...: at every place of a text of a's as many prefixes as may be. */
static void hostile_vocabularies(void **state) {
    (void)state;
    static const char *const heads[] = {
        "{\"model\":{\"type\":\"Unigram\",\"unk_id\":0,\"vocab\":[[\"b\",-1]",
        "{\"model\":{\"type\":\"WordPiece\",\"max_input_chars_per_word\":2147483647,"
        "\"continuing_subword_prefix\":\"\",\"vocab\":{\"b\":0",
        "{\"added_tokens\":[],\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{\"b\":0"};
    char *text = malloc(MEGA);
    repeat(text, MEGA, "a");
    for (int k = 0; k < 3; k++) {
        writing   w = {malloc(MEGA), 0};
        qpi_error e = {0};
        qp_ids    ids = {0};
        char      a[300];
        memset(a, 'a', sizeof a);
        add(&w, "%s", heads[k]);
        for (int i = 1; i <= 256; i++) add(&w, k == 0 ? ",[\"%.*s\",-%d]" : ",\"%.*s\":%d", i, a, i);
        add(&w, k == 0 ? "]}}" : "}}}");
        qp_tokenizer *t = qpi_tokenizer_parse("x", w.data, w.n, &e);
        if (!t) fail_msg("%s", e.text);
        qpi_piece  item = {.text = (const uint8_t *)text, .size = MEGA, .whole = true, .first = true};
        qpi_pieces pieces = {.items = &item, .count = 1, .capacity = 1};
        text[MEGA - 1] = 'c';
        double start = now();
        qpi_pieces_encode(t, NULL, &pieces, false, &ids, &e);
        if (now() - start > 8 * SLOWER) fail_msg("%d: %.1f s", k, now() - start);
        qp_ids_free(&ids);
        qpi_tokenizer_free(t);
        free(w.data);
    }
    free(text);
}

#define G "{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"},\"content\":\"aaaa\"}"

/* Normalizers that make much of little are stopped. */
static void growth(void **state) {
    (void)state;
    static const char json[] =
        "{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":0},\"unk_token\":\"a\"},\"normalizer\":{\"type\":"
        "\"Sequence\","
        "\"normalizers\":[" G "," G "," G "," G "," G "," G "," G "," G "," G "," G "," G "," G "," G "]}}";
    qpi_error     e = {0};
    qp_ids        ids = {0};
    qpi_piece     item = {.text = (const uint8_t *)"a", .size = 1, .whole = true, .first = true};
    qpi_pieces    pieces = {.items = &item, .count = 1, .capacity = 1};
    qp_tokenizer *t = qpi_tokenizer_parse("x", json, sizeof json - 1, &e);
    assert_non_null(t);
    assert_false(qpi_pieces_encode(t, NULL, &pieces, false, &ids, &e));
    assert_int_equal(e.code, QP_ERR_UNSUPPORTED);
    assert_non_null(strstr(e.text, "its normalizer makes a text of"));
    qp_ids_free(&ids);
    qpi_tokenizer_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(parts), cmocka_unit_test(hostile_texts),
                                       cmocka_unit_test(hostile_vocabularies), cmocka_unit_test(growth)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
