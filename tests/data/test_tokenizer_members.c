/* Every member of every golden tokenizer.json, gone or of another kind: the file is refused with a text,
 * or makes a tokenizer that encodes, can be saved, and is the same when loaded again. */
#define _GNU_SOURCE /* asprintf */
#include "support.h"

#include <jansson.h>

#include "data/tokenizer.h"
#include "data/unicode.h"

static const char *const names[] = {"gpt2",      "llama3",          "qwen2",     "digits",  "dropped",
                                    "fused",     "added",           "gaps",      "bytes",   "regex",
                                    "wordpiece", "wordpiece-cased", "wordlevel", "unigram", "unigram-bytes",
                                    "llama",     "llama-new",       "gemma",     "clip",    "prefixed"};
static const char *const others[] = {"null",  "true", "false", "7",  "-1",  "1.5",
                                     "\"x\"", "\"\"", "[]",    "{}", "[1]", "99999999999"};

static int64_t loaded, refused;

static void try_text(const char *text, size_t n) {
    static const char sample[] = "It's <|x|> 12 caf\xC3\xA9  \xE2\x84\x8C\n and x";
    qpi_error         e = {0};
    qp_ids            ids = {0}, again_ids = {0};
    qpi_buffer        out = {0};
    qpi_piece         piece = {
        .text = (const uint8_t *)sample, .size = sizeof sample - 1, .whole = true, .first = true};
    qpi_pieces    pieces = {.items = &piece, .count = 1, .capacity = 1};
    qp_tokenizer *t = qpi_tokenizer_parse("x", text, n, &e), *again;
    assert_true((t != NULL) == (e.code == QP_OK) && (t || e.text[0]));
    loaded += t != NULL;
    refused += t == NULL;
    if (t && qpi_pieces_encode(t, NULL, &pieces, true, &ids, &e)) {
        assert_true(qpi_tokenizer_print(t, &out));
        again = qpi_tokenizer_parse("again", out.data, out.count, &e);
        if (!again) fail_msg("%s: %.*s", e.text, (int)out.count, out.data);
        pieces = (qpi_pieces){.items = &piece, .count = 1, .capacity = 1}; /* encoding used them up */
        assert_true(qpi_pieces_encode(again, NULL, &pieces, true, &again_ids, &e));
        assert_int_equal(again_ids.count, ids.count);
        if (ids.count) assert_memory_equal(again_ids.data, ids.data, (size_t)ids.count * sizeof *ids.data);
        qpi_tokenizer_free(again);
    }
    qpi_tokenizer_free(t);
    qp_ids_free(&ids);
    qp_ids_free(&again_ids);
    qpi_buffer_free(&out);
}

static void try_tree(const json_t *root) {
    char *text = json_dumps(root, JSON_COMPACT);
    assert_non_null(text);
    try_text(text, strlen(text));
    free(text);
}

static void walk(const json_t *root, json_t *node);

static void change_member(const json_t *root, json_t *object, const char *key) {
    json_t *was = json_incref(json_object_get(object, key));
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        json_object_set_new(object, key, json_loads(others[i], JSON_DECODE_ANY, NULL));
        try_tree(root);
    }
    json_object_del(object, key);
    try_tree(root);
    json_object_set(object, key, was);
    walk(root, was);
    json_decref(was);
}

static void change_item(const json_t *root, json_t *array, size_t i) {
    json_t *was = json_incref(json_array_get(array, i));
    for (size_t k = 0; k < sizeof others / sizeof *others; k++) {
        json_array_set_new(array, i, json_loads(others[k], JSON_DECODE_ANY, NULL));
        try_tree(root);
    }
    json_array_remove(array, i);
    try_tree(root);
    json_array_insert(array, i, was);
    walk(root, was);
    json_decref(was);
}

/* Of long lists and tables the first and the last few. */
static void walk(const json_t *root, json_t *node) {
    size_t n = json_is_array(node) ? json_array_size(node) : json_object_size(node), at = 0;
    if (json_is_array(node))
        for (size_t i = 0; i < n; i += i == 1 && n > 4 ? n - 3 : 1) change_item(root, node, i);
    if (!json_is_object(node)) return;
    const char **keys = calloc(n + 1, sizeof *keys);
    for (void *it = json_object_iter(node); it; it = json_object_iter_next(node, it))
        keys[at++] = strdup(json_object_iter_key(it));
    for (size_t i = 0; i < n; i++) {
        if (n < 16 || i < 2) change_member(root, node, keys[i]);
        free((char *)keys[i]);
    }
    free(keys);
}

static void members(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[300];
        snprintf(path, sizeof path, "%s%s.json", GOLDEN, names[i]);
        json_t *root = json_load_file(path, 0, NULL);
        assert_non_null(root);
        try_tree(root);
        walk(root, root);
        json_decref(root);
    }
    assert_true(loaded > 500 && refused > 2000);
}

/* Tokens with spaces in them make merges that are lists; components that the golden files lack. */
static void rare(void **state) {
    (void)state;
    static const char *const files[] = {
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a b\":0,\"c\\\"\":1,\"a "
        "bc\\\"\":2,\"u\":3},\"unk_token\":\"u\",\"fuse_unk\":true,"
        "\"ignore_merges\":true,\"dropout\":0.0,\"end_of_word_suffix\":\"\",\"merges\":[[\"a b\",\"c\\\"\"]]},"
        "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{"
        "\"Regex\":\"[a-z]+\"},"
        "\"behavior\":\"Removed\",\"invert\":true},{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_"
        "regex\":false}]},"
        "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"ByteLevel\"}]},"
        "\"post_processor\":{\"type\":\"Sequence\",\"processors\":[{\"type\":\"ByteLevel\"}]},"
        "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFD\"},{\"type\":\"NFKC\"},{"
        "\"type\":\"NFKD\"},{\"type\":\"NFC\"}]}}",
        "{\"added_tokens\":[{\"id\":1,\"content\":\"x\",\"single_word\":true,\"lstrip\":true,\"rstrip\":true,"
        "\"normalized\":true,"
        "\"special\":true},{\"id\":1,\"content\":\"x\"},{\"id\":2,\"content\":\"\"}],"
        "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"#version: 0.2\"]},"
        "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},"
        "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"s\","
        "\"type_id\":0}},"
        "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}},{\"SpecialToken\":{\"id\":\"e\",\"type_id\":0}}],\"pair\":"
        "[],"
        "\"special_tokens\":{\"s\":{\"id\":\"s\",\"ids\":[1,0],\"tokens\":[\"x\",\"a\"]},\"e\":{\"id\":\"e\","
        "\"ids\":[0],\"tokens\":[\"a\"]}}}}",
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1},\"merges\":[]},"
        "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},"
        "\"post_processor\":{\"type\":\"RobertaProcessing\",\"cls\":[\"a\",0],\"sep\":[\"b\",1],\"trim_"
        "offsets\":true,"
        "\"add_prefix_space\":false}}"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        json_t       *root = json_loads(files[i], 0, NULL);
        qpi_error     e = {0};
        qp_tokenizer *t = qpi_tokenizer_parse("x", files[i], strlen(files[i]), &e);
        if (!t && i != 1)
            fail_msg("%s", e.text); /* (a version line is no merge of the format with a version) */
        qpi_tokenizer_free(t);
        assert_non_null(root);
        walk(root, root);
        json_decref(root);
    }
}

/* \w as the regular expressions of `tokenizers` have it: letters, marks, digits, connectors, joiners,
 * letters in circles and squares. */
static void word_characters(void **state) {
    (void)state;
    static const uint32_t yes[] = {'a',     'Z',     '0',     '_',     0xE9,    0x301,  0x203F,
                                   0x200C,  0x200D,  0x2160,  0x24B6,  0x24E9,  0x4E00, 0x1F130,
                                   0x1F149, 0x1F150, 0x1F169, 0x1F170, 0x1F189, 0x20DD};
    static const uint32_t no[] = {' ',     '-',     '.',     0x200B,  0x200E,  0x24B5,  0x24EA, 0x1F12F,
                                  0x1F14A, 0x1F14F, 0x1F16A, 0x1F16F, 0x1F18A, 0x1F600, 0xE000, 0x110000};
    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++)
        if (!(qpi_code_flags(yes[i]) & QPI_WORD)) fail_msg("U+%04X is \\w", yes[i]);
    for (size_t i = 0; i < sizeof no / sizeof *no; i++)
        if (qpi_code_flags(no[i]) & QPI_WORD) fail_msg("U+%04X is no \\w", no[i]);
    assert_true(qpi_word_at_start((const uint8_t *)"a", 1) && !qpi_word_at_start((const uint8_t *)"\xC3", 1));
    assert_true(qpi_word_at_end((const uint8_t *)"-\xC3\xA9", 3) && !qpi_word_at_end((const uint8_t *)"a-", 2));
    assert_false(qpi_word_at_end((const uint8_t *)"", 0) || qpi_word_at_start((const uint8_t *)"", 0));
}

/* A pattern that gives matches from outside of what was asked, or that goes on for ever, fails; nothing
 * else does. */
static void hard_patterns(void **state) {
    (void)state;
    static const char *const patterns[] = {"(?=ab\\\\K)", "(a+)+$"};
    static char              text[4000];
    memset(text, 'a', sizeof text);
    text[sizeof text - 1] = 'b';
    for (int i = 0; i < 2; i++) {
        char      *json = NULL;
        qpi_error  e = {0};
        qp_ids     ids = {0};
        qpi_piece  piece = {.text = (const uint8_t *)text, .size = sizeof text, .whole = true};
        qpi_pieces pieces = {.items = &piece, .count = 1, .capacity = 1};
        assert_true(
            asprintf(&json,
                     "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1},\"merges\":[]},\"pre_"
                     "tokenizer\":{\"type\":"
                     "\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"%s\"},"
                     "\"behavior\":"
                     "\"Isolated\"},{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}]}}",
                     patterns[i]) > 0);
        qp_tokenizer *t = qpi_tokenizer_parse("x", json, strlen(json), &e);
        if (t) {
            bool done = qpi_pieces_encode(t, NULL, &pieces, false, &ids, &e);
            assert_true(done == (e.code == QP_OK));
            if (i == 1 && done) fail_msg("%s was matched", patterns[i]);
        }
        assert_true(t || e.code == QP_ERR_FORMAT || e.code == QP_ERR_UNSUPPORTED);
        qp_ids_free(&ids);
        qpi_tokenizer_free(t);
        free(json);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(members), cmocka_unit_test(rare),
                                       cmocka_unit_test(word_characters), cmocka_unit_test(hard_patterns)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
