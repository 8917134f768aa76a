/* Odd tokenizers and odd texts, with ids that follow from what the file says. */
#include "support.h"

#include <jansson.h>
#include <math.h>

#include "data/tokenizer.h"
#include "data/unicode.h"
#include "format/utf8.h"

static qp_tokenizer *parse(const char *json) {
    qpi_error     e = {0};
    qp_tokenizer *t = qpi_tokenizer_parse("x", json, strlen(json), &e);
    if (!t) fail_msg("%s: %s", json, e.text);
    return t;
}

static bool encode(const qp_tokenizer *t, const void *text, size_t n, qp_ids *ids, qpi_error *e) {
    qpi_piece  item = {.text = text, .size = n, .whole = true, .first = true};
    qpi_pieces pieces = {.items = &item, .count = 1, .capacity = 1};
    return qpi_pieces_encode(t, NULL, &pieces, false, ids, e);
}

/* Ids as "0 1 2". */
static void expect_ids(const char *json, const char *text, size_t n, const char *want) {
    qp_tokenizer *t = parse(json);
    qp_ids        ids = {0};
    qpi_error     e = {0};
    char          got[400] = "";
    if (!encode(t, text, n, &ids, &e)) fail_msg("%s: %s", json, e.text);
    for (int64_t i = 0; i < ids.count; i++) sprintf(got + strlen(got), i ? " %d" : "%d", (int)ids.data[i]);
    if (strcmp(got, want) != 0) fail_msg("%s: ids of \"%s\": expected %s, found %s", json, text, want, got);
    qp_ids_free(&ids);
    qpi_tokenizer_free(t);
}

/* What is written is the same when it is read and written again. */
static void expect_saved(const char *json) {
    qp_tokenizer *t = parse(json), *again;
    qpi_buffer    first = {0}, second = {0};
    assert_true(qpi_tokenizer_print(t, &first) && qpi_buffer_put(&first, "", 1));
    again = parse(first.data);
    assert_true(qpi_tokenizer_print(again, &second) && qpi_buffer_put(&second, "", 1));
    assert_string_equal(first.data, second.data);
    qpi_buffer_free(&first);
    qpi_buffer_free(&second);
    qpi_tokenizer_free(t);
    qpi_tokenizer_free(again);
}

static void expect_failure(const char *json, const char *text, qp_code code, const char *words) {
    qp_tokenizer *t = parse(json);
    qp_ids        ids = {0};
    qpi_error     e = {0};
    assert_false(encode(t, text, strlen(text), &ids, &e));
    if (e.code != code || !strstr(e.text, words))
        fail_msg("%s: expected \"%s\", found %d: %s", json, words, e.code, e.text);
    qp_ids_free(&ids);
    qpi_tokenizer_free(t);
}

#define LEVEL "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}"
#define LEVELS(vocab, merges) \
    "{\"model\":{\"type\":\"BPE\",\"vocab\":{" vocab "},\"merges\":[" merges "]}," LEVEL "}"
#define WORDS(vocab, rest) \
    "{\"model\":{\"type\":\"WordLevel\",\"unk_token\":\"u\",\"vocab\":{\"u\":0," vocab "}}," rest "}"
#define UNIGRAM(vocab) "{\"model\":{\"type\":\"Unigram\",\"unk_id\":null,\"vocab\":[" vocab "]}}"

static void models(void **state) {
    (void)state;
    /* Of two merges of a pair the later counts, and so "b c" comes before. */
    expect_ids(LEVELS("\"a\":0,\"b\":1,\"c\":2,\"ab\":3,\"bc\":4", "\"a b\",\"b c\",\"a b\""), "abc", 3, "0 4");
    expect_ids(LEVELS("\"a\":0,\"b\":1,\"c\":2,\"ab\":3,\"bc\":4", "\"a b\",\"b c\""), "abc", 3, "3 2");
    expect_ids("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"\":0,\"a\":1,\"a!\":2},\"merges\":[],\"end_of_word_"
               "suffix\":\"!\"}}",
               "aa", 2, "1 2");
    expect_saved(LEVELS("\"a\":0,\"b c\":1,\"ab c\":2,\"b ca\":3", "[\"a\",\"b c\"],[\"b c\",\"a\"]"));
    expect_ids(WORDS("\"a\":1,\"b\":2",
                     "\"pre_tokenizer\":{\"type\":\"CharDelimiterSplit\",\"delimiter\":\"\xC3\xA9\"}"),
               "a\xC3\xA9"
               "b\xC3\xA9\xC3",
               7, "1 2 0");
    expect_ids(
        WORDS("\"_a\":1,\"a\":2",
              "\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"first\"}"),
        "a", 1, "1");
    expect_ids(
        WORDS("\"_a\":1,\"a\":2",
              "\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"_\",\"add_prefix_space\":false}"),
        "a", 1, "2");
    expect_ids(WORDS("\"xy\":1", "\"normalizer\":{\"type\":\"BertNormalizer\"}"), "x\0Y", 3, "1");
}

/* Marks become spaces; the first one is dropped unless none was put there. */
static void spoken(void **state) {
    (void)state;
    static const struct {
        const char *members, *text;
    } decoders[] = {{"", "a b"},
                    {",\"add_prefix_space\":true", "a b"},
                    {",\"add_prefix_space\":false", " a b"},
                    {",\"prepend_scheme\":\"never\"", " a b"}};
    for (size_t i = 0; i < sizeof decoders / sizeof *decoders; i++) {
        char    json[300];
        qp_ctx *ctx = qp_open((qp_options){.threads = 1});
        qp_text out = {0};
        snprintf(json, sizeof json,
                 WORDS("\"_a\":1,\"_b\":2", "\"decoder\":{\"type\":\"Metaspace\",\"replacement\":\"_\"%s}"),
                 decoders[i].members);
        qp_tokenizer *t = qpi_tokenizer_give(ctx, parse(json), NULL);
        assert_int_equal(qp_decode(ctx, t, (int32_t[]){1, 2}, 2, false, &out), QP_OK);
        assert_int_equal(out.count, strlen(decoders[i].text));
        assert_memory_equal(out.data, decoders[i].text, out.count);
        qp_text_free(&out);
        qp_close(ctx);
    }
}

/* Where no character is unknown to the model the longer way may cost more than an unknown one would: an error, as in
 * `tokenizers`. */
static void without_unknown(void **state) {
    (void)state;
    expect_ids(UNIGRAM("[\"ab\",-1],[\"a\",-1]"), "aba", 3, "0 1");
    expect_failure(UNIGRAM("[\"ab\",-1],[\"a\",-1]"), "b", QP_ERR_FORMAT, "a character is unknown");
    expect_failure(UNIGRAM("[\"ab\",-100],[\"a\",95]"), "ab", QP_ERR_FORMAT, "a character is unknown");
    expect_saved(UNIGRAM("[\"ab\",-100],[\"a\",95.5]"));
}

/* Scores are read as `tokenizers` reads them, and written so that they are read back; of the last ones no digits are. */
static void scores(void **state) {
    (void)state;
    static const struct {
        const char *text;
        double      value;
    } numbers[] = {{"-0", 0},
                   {"1e-400", 0},
                   {"5e-324", 5e-324},
                   {"0e999", 0},
                   {"1e99999999999999999999", INFINITY},
                   {"-1e309", -INFINITY},
                   {"1e-99999999999", 0},
                   {"0.0000000000000000000000001", 1e-25},
                   {"123456789012345678901234567890", 1.2345678901234567e29},
                   {"12E+2", 1200},
                   {"1.5e3", 1500}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        double x = qpi_decimal(numbers[i].text, strlen(numbers[i].text)), want = numbers[i].value;
        if (!(x == want || fabs(x - want) <= 4e-16 * fabs(want)))
            fail_msg("%s is read as %.17g", numbers[i].text, x);
    }
    expect_saved(UNIGRAM("[\"a\",-15.13969181841736491298],[\"b\",-1.5],[\"c\",-1e-10],[\"d\",-1."
                         "7976931348623157e308],[\"e\",5e-324],[\"f\",0]"));
    qp_tokenizer *t = parse(UNIGRAM("[\"a\",-15.340824804189467316]"));
    qpi_buffer    out = {0};
    assert_true(qpi_tokenizer_print(t, &out) && qpi_buffer_put(&out, "", 1));
    const char *number = strstr(out.data, "[\"a\",");
    assert_non_null(number);
    assert_true(fabs(strtod(number + 5, NULL) + 15.340824804189467316) < 4e-15);
    qpi_buffer_free(&out);
    qpi_tokenizer_free(t);
}

static void added_tokens(void **state) {
    (void)state;
    /* Two with the same text once it is normalised: the first counts. One of which nothing is left is nowhere. */
    expect_ids("{\"normalizer\":{\"type\":\"Lowercase\"},\"added_tokens\":[{\"id\":1,\"content\":\"A\"},{"
               "\"id\":2,\"content\":\"a\"}],"
               "\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"x\":0},\"unk_token\":\"x\"}}",
               "xaA", 3, "0 1 1");
    expect_ids("{\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\"q\"},\"content\":\"\"},\"added_"
               "tokens\":[{\"id\":1,\"content\":\"q\"}],"
               "\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"x\":0},\"unk_token\":\"x\"}}",
               "qxq", 3, "0");
}

/* A match that begins before the place where it is looked for, or behind its end. */
static void patterns_that_look_back(void **state) {
    (void)state;
#define SPLIT(pattern) \
    WORDS("\"a\":1", "\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" pattern \
                     "\"},\"behavior\":\"Isolated\"}")
    expect_failure(SPLIT("(?(DEFINE)(?<k>a\\\\K))(?=(?&k))"), "ba", QP_ERR_UNSUPPORTED,
                   "matches outside the text");
    expect_failure(SPLIT("(?(DEFINE)(?<k>\\\\Ka))(?<=(?&k))"), "aa", QP_ERR_UNSUPPORTED,
                   "matches outside the text");
    expect_failure(SPLIT("(a+)+$"), "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac", QP_ERR_UNSUPPORTED,
                   "its pattern fails at byte");
}

/* The patterns that are cut by hand, against the same ones in words that PCRE2 has to match. */
static uint32_t random_state = 1;
static uint32_t draw(uint32_t n) {
    random_state = random_state * 1664525 + 1013904223;
    return (uint32_t)((uint64_t)random_state * n >> 32);
}

typedef struct {
    size_t         ends[400], count;
    const uint8_t *text;
} cut_words;

static bool note(void *arg, const uint8_t *text, size_t n) {
    cut_words *w = arg;
    w->ends[w->count++] = (size_t)(text - w->text) + n;
    return true;
}

static void cut(const qpi_pretokenizer *p, const char *text, size_t n, cut_words *out) {
    qpi_error       e = {0};
    qpi_split_state state = {.error = &e};
    *out = (cut_words){.text = (const uint8_t *)text};
    if (!qpi_pretokenize(p, &state, out->text, n, true, note, out)) fail_msg("%s", e.text);
    qpi_split_state_free(&state);
}

static void by_hand(void **state) {
    (void)state;
    static const char *const names[] = {"gpt2", "llama3", "qwen2"};
    static const char *const parts[] = {"'",
                                        "s",
                                        "S",
                                        "t",
                                        "r",
                                        "e",
                                        "E",
                                        "v",
                                        "l",
                                        "L",
                                        "m",
                                        "d",
                                        "\xC5\xBF",
                                        "\xC5\x80",
                                        "x",
                                        " ",
                                        "  ",
                                        "\n",
                                        "\r\n",
                                        "1",
                                        "22",
                                        ".",
                                        "!?",
                                        "\xC3\xA9",
                                        "\xE7\xB5\x90",
                                        "\xC2\xBD",
                                        "\xE3\x80\x80",
                                        "\xCC\x81"};
    for (int k = 0; k < 3; k++) {
        const char   *pattern = qpi_pattern_named(names[k]);
        char          other[600], json[1500];
        qp_tokenizer *t[2];
        cut_words     words[2];
        for (int i = 0; i < 2; i++) {
            json_t *entry;
            snprintf(other, sizeof other, i ? "(?:%s)" : "%s", pattern);
            entry = json_string(other);
            char *quoted = json_dumps(entry, JSON_ENCODE_ANY);
            snprintf(json, sizeof json,
                     WORDS("\"a\":1", "\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":%s},"
                                      "\"behavior\":\"Isolated\"}"),
                     quoted);
            t[i] = parse(json);
            free(quoted);
            json_decref(entry);
        }
        assert_true(!t[0]->pretokenizer.stages[0].regex && t[1]->pretokenizer.stages[0].regex);
        for (int round = 0; round < 3000; round++) {
            char text[100] = "";
            for (int i = 0; i < 20; i++) strcat(text, parts[draw(sizeof parts / sizeof *parts)]);
            for (int i = 0; i < 2; i++) cut(&t[i]->pretokenizer, text, strlen(text), &words[i]);
            if (words[0].count != words[1].count ||
                memcmp(words[0].ends, words[1].ends, words[0].count * sizeof *words[0].ends))
                fail_msg("%s cuts \"%s\" otherwise by hand", names[k], text);
        }
        qpi_tokenizer_free(t[0]);
        qpi_tokenizer_free(t[1]);
    }
}

/* A word is only as long as symbols can be numbered; that is known before any work. */
static void too_long(void **state) {
    (void)state;
    size_t    n = (size_t)34 << 20;
    char     *text = malloc(n), json[300];
    qpi_error e = {0};
    qp_ids    ids = {0};
    snprintf(json, sizeof json,
             "{\"model\":{\"type\":\"BPE\",\"continuing_subword_prefix\":\"%064d\",\"vocab\":{\"a\":0},"
             "\"merges\":[]}}",
             0);
    qp_tokenizer *t = parse(json);
    memset(text, 'a', n);
    assert_false(encode(t, text, n, &ids, &e));
    assert_int_equal(e.code, QP_ERR_UNSUPPORTED);
    assert_non_null(strstr(e.text, "a word of 35651584 bytes is too long"));
    assert_int_equal(ids.count, 0);
    qp_ids_free(&ids);
    qpi_tokenizer_free(t);
    free(text);
}

/* In one thread and in two. */
static void expect_same_ids(const char *text, size_t n, qp_ids ids[2]) {
    for (int k = 0; k < 2; k++) {
        qp_ctx       *ctx = qp_open((qp_options){.threads = 1 + k});
        qp_tokenizer *t = qpi_tokenizer_give(
            ctx,
            parse(WORDS("\"a\":1,\"b\":2",
                        "\"pre_tokenizer\":{\"type\":\"Whitespace\"},\"added_tokens\":[{\"id\":3,"
                        "\"content\":\"<x>\"}]")),
            NULL);
        assert_int_equal(qp_encode(ctx, t, text, n, (qp_encode_options){0}, &ids[k]), QP_OK);
        qp_close(ctx);
    }
    assert_int_equal(ids[1].count, ids[0].count);
    assert_memory_equal(ids[0].data, ids[1].data, (size_t)ids[0].count * sizeof *ids[0].data);
}

/* More pieces than groups, some of them of nothing: the same ids as in one thread. */
static void many_pieces(void **state) {
    (void)state;
    static const char *const parts[] = {"a<x>", " <x>", "<x>", "b a<x> "};
    static const struct {
        int tokens, ids;
    } sizes[] = {{5001, 5001 + 1251 + 2 * 1250}, {5000, 5000 + 3 * 1250}, {3, 4}};
    char *text = malloc(60000);
    for (int s = 0; s < 6; s++) {
        qp_ids ids[2] = {0};
        size_t n = 0;
        for (int i = 0; i < sizes[s / 2].tokens; i++) n += (size_t)sprintf(text + n, "%s", parts[i % 4]);
        n += (size_t)sprintf(text + n, "%s", s % 2 ? " a" : "");
        expect_same_ids(text, n, ids);
        assert_int_equal(ids[0].count, sizes[s / 2].ids + s % 2);
        qp_ids_free(&ids[0]);
        qp_ids_free(&ids[1]);
    }
    free(text);
}

static void pairs(void **state) {
    (void)state;
    qp_ctx       *ctx = qp_open((qp_options){.threads = 1});
    qp_ids        ids = {0}, types = {0};
    qp_tokenizer *t = qpi_tokenizer_give(
        ctx,
        parse(WORDS("\"a\":1,\"b\":2",
                    "\"post_processor\":{\"type\":\"BertProcessing\",\"cls\":[\"a\",1],\"sep\":[\"b\",2]}")),
        NULL);
    assert_int_equal(qp_encode_pair(ctx, t, "a", 1, "b", 1, (qp_encode_options){.wrap = true}, &ids, NULL),
                     QP_OK);
    const int32_t both[] = {1, 1, 2, 2, 2}, one[] = {1, 1, 2}, zeros[] = {0, 0, 0};
    assert_int_equal(ids.count, 5);
    assert_memory_equal(ids.data, both, sizeof both);
    ids.count = 0;
    assert_int_equal(qp_encode_pair(ctx, t, "a", 1, NULL, 0, (qp_encode_options){.wrap = true}, &ids, &types),
                     QP_OK);
    assert_true(ids.count == 3 && types.count == 3);
    assert_memory_equal(ids.data, one, sizeof one);
    assert_memory_equal(types.data, zeros, sizeof zeros);
    ids.count = types.count = 0;
    assert_int_equal(qp_encode_pair(ctx, t, "", 0, "", 0, (qp_encode_options){0}, &ids, &types), QP_OK);
    assert_true(ids.count == 0 && types.count == 0);
    t = qpi_tokenizer_give(ctx,
                           parse(WORDS("\"a\":1", "\"post_processor\":{\"type\":\"TemplateProcessing\","
                                                  "\"single\":[{\"Sequence\":{\"id\":\"A\"}}],\"pair\":[],"
                                                  "\"special_tokens\":{}}")),
                           NULL);
    assert_int_not_equal(qp_encode_pair(ctx, t, "a", 1, "a", 1, (qp_encode_options){0}, &ids, &types), QP_OK);
    expect_error(ctx, QP_ERR_UNSUPPORTED, "no place for a second text");
    qp_ids_free(&ids);
    qp_ids_free(&types);
    qp_close(ctx);
}

/* Special tokens in what strangers wrote are ordinary text, also those that are found behind normalisation. */
static void strangers(void **state) {
    (void)state;
    qp_tokenizer *t = parse(WORDS("\"a\":1,\"<\":2,\"x\":3,\">\":4",
                                  "\"normalizer\":{\"type\":\"Lowercase\"},\"pre_tokenizer\":{\"type\":"
                                  "\"Punctuation\"},\"added_tokens\":["
                                  "{\"id\":5,\"content\":\"<X>\",\"special\":true,\"normalized\":true},{\"id\":"
                                  "6,\"content\":\"!\",\"special\":true}]"));
    const char    text[] = "<X>!<X>!";
    const qp_span span = {4, 7};
    qpi_foreign   foreign = {(const uint8_t *)text, &span, 1};
    qpi_pieces    pieces = {.foreign = &foreign};
    qp_ids        ids = {0};
    qpi_error     e = {0};
    const int32_t want[] = {5, 6, 2, 3, 4, 6};
    assert_true(qpi_pieces_add(t, &pieces, foreign.text, 8, false, &e));
    assert_true(qpi_pieces_encode(t, NULL, &pieces, false, &ids, &e));
    assert_int_equal(ids.count, 6);
    assert_memory_equal(ids.data, want, sizeof want);
    qpi_pieces_free(&pieces);
    qp_ids_free(&ids);
    qpi_tokenizer_free(t);
}

/* Replacements that lie outside of their table, or of its texts, are none. */
static void put_unit(uint8_t *data, size_t i, uint32_t unit) {
    for (int k = 0; k < 4; k++) data[4 + 4 * i + (size_t)k] = (uint8_t)(unit >> 8 * k);
}

static void charsmaps(void **state) {
    (void)state;
    uint8_t      data[4 + 4 * 256 + 2] = {0, 4};
    qpi_error    e = {0};
    qpi_json     at = qpi_json_root("x", NULL, &e);
    qpi_charsmap map = {0};
    qpi_buffer   out = {0};
    put_unit(data, 'a', 'a' | 1 << 8 | 0x1000 << 10);      /* its value would stand behind the units */
    put_unit(data, 'b', 'b' | 1 << 8 | ('b' ^ 'x') << 10); /* its text behind the texts */
    put_unit(data, 'x', 1u << 31 | 2);
    put_unit(data, 'c', 'c' | 1 << 8 | ('c' ^ 'y') << 10); /* and this one is the first text */
    put_unit(data, 'y', 1u << 31 | 0);
    data[4 + 4 * 256] = 'z';
    assert_true(qpi_charsmap_read(&map, data, sizeof data, &at));
    qpi_charsmap_apply(&map, (const uint8_t *)"abcd", 4, &out);
    assert_true(!out.failed && out.count == 4);
    assert_memory_equal(out.data, "abzd", 4);
    qpi_buffer_free(&out);
    qpi_charsmap_free(&map);
}

/* What the package's tables of Unicode do not know is left as it is, in every form. */
static void opaque(void **state) {
    (void)state;
    int found = 0;
    for (uint32_t code = 0x80; code < 0x110000; code++) {
        if (!(qpi_code_flags(code) & QPI_OPAQUE)) continue;
        char   text[4];
        size_t n = qpi_utf8_encode(code, text);
        for (qpi_normal_form form = QPI_NFC; form <= QPI_NFKD; form++) {
            qpi_buffer out = {0};
            qpi_normal_form_of(form, (const uint8_t *)text, n, &out);
            assert_true(!out.failed && out.count == n);
            assert_memory_equal(out.data, text, n);
            qpi_buffer_free(&out);
        }
        found++;
    }
    assert_true(found > 0);
}

static void ids_have_an_end(void **state) {
    (void)state;
    qpi_vocab v = {.id_limit = INT64_MAX};
    qpi_error e = {0};
    assert_false(qpi_vocab_add(&v, "x", "a", 1, INT32_MAX, 0, &e));
    assert_non_null(strstr(e.text, "id 2147483647 is out of range"));
    qpi_vocab_free(&v);
}

/* Files that are hardly any: nothing, a line end, and JSON that begins with one (as a SentencePiece model does). */
static void small_files(void **state) {
    (void)state;
    static const struct {
        const char *text, *words;
    } files[] = {{"", "line 1"}, {"\n", "line 2"}, {"\n{", "line 2"}, {"\n" WORDS("\"a\":1", "\"x\":0"), NULL}};
    qp_ctx *ctx = qp_open((qp_options){.threads = 1});
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        const char *path = temporary("small.json");
        write_text(path, files[i].text);
        assert_true(!qp_tokenizer_load(ctx, path) == (files[i].words != NULL));
        if (files[i].words) expect_error(ctx, QP_ERR_FORMAT, files[i].words);
        remove(path);
    }
    qp_close(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(models),  cmocka_unit_test(spoken),          cmocka_unit_test(without_unknown),
        cmocka_unit_test(scores),  cmocka_unit_test(added_tokens),    cmocka_unit_test(patterns_that_look_back),
        cmocka_unit_test(by_hand), cmocka_unit_test(too_long),        cmocka_unit_test(many_pieces),
        cmocka_unit_test(pairs),   cmocka_unit_test(strangers),       cmocka_unit_test(charsmaps),
        cmocka_unit_test(opaque),  cmocka_unit_test(ids_have_an_end), cmocka_unit_test(small_files)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
