/* quipu tokenize: there and back, against the library, and vocabularies of other files. */
#include "support.h"

static const char lines[] =
    "Hello, world\n\n  two  spaces\t\r\n\xc3\xbcml\xc3\xa4ut \xf0\x9f\x98\x80\n\xff\xfe bytes\nno newline";

static void round_trip(const char *model) {
    char    ids[8192], back[sizeof lines + 1];
    outcome o = run_with(lines, sizeof lines - 1, "tokenize", "-m", model, NULL);
    expect_success(o);
    assert_true(o.out_bytes < sizeof ids);
    memcpy(ids, o.out, o.out_bytes);
    int count = 0;
    for (size_t i = 0; i < o.out_bytes; i++) count += o.out[i] == '\n';
    assert_int_equal(count, 6); /* a line of ids for each line */
    o = run_with(ids, o.out_bytes, "tokenize", "-m", model, "--decode", NULL);
    expect_success(o);
    snprintf(back, sizeof back, "%s\n", lines);
    assert_int_equal(o.out_bytes, sizeof lines);
    assert_memory_equal(o.out, back, sizeof lines);
}

/* Vocabularies of other files: the same ids once they are a tokenizer.json, and its parts by name. */
static void tokenize_others(void **state) {
    (void)state;
    static const char *const files[] = {"spm.gguf", "bpe.gguf", "wpm.gguf", "spm.model"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char path[400], ids[4096];
        snprintf(path, sizeof path, "%s/tests/golden/tokenizers/%s", SOURCE_DIR, files[i]);
        outcome o = run_with(lines, sizeof lines - 1, "tokenize", "-m", path, NULL);
        expect_success(o);
        assert_true(o.out_bytes > 20 && o.out_bytes < sizeof ids);
        size_t n = o.out_bytes;
        memcpy(ids, o.out, n);
        json_t *said = expect_json(run("tokenize", "-m", path, "-o", "%/made.json", "--json", NULL));
        assert_true(integer_of(said, "size") > 100);
        json_decref(said);
        o = run_with(lines, sizeof lines - 1, "tokenize", "-m", "%/made.json", NULL);
        expect_success(o);
        assert_int_equal(o.out_bytes, n);
        assert_memory_equal(o.out, ids, n);
        said = expect_json(run("inspect", "%/made.json", "--json", NULL));
        assert_non_null(text_of(json_object_get(said, "components"), "decoder"));
        json_decref(said);
        outcome p = run("inspect", "%/made.json", NULL);
        expect_success(p);
        assert_non_null(strstr(p.out, "decoder"));
    }
    expect_message(run("tokenize", "-m", "%/made.json", "-o", "%/x.json", "--decode", NULL), 2, "--out writes");
}

static void tokenize(void **state) {
    (void)state;
    round_trip("%/bytes");
    char corpus[20000];
    for (size_t i = 0; i < sizeof corpus; i++) corpus[i] = " etaoin shrdlu the and\n"[(i * i + i / 7) % 23];
    write_file("corpus.txt", corpus, sizeof corpus);
    json_t *o = expect_json(run("tokenize", "--train", "%/corpus.txt", "--size", "320", "--out",
                                "%/tokenizer.json", "--json", NULL));
    assert_int_equal(integer_of(o, "size"), 320);
    json_decref(o);
    round_trip("%/tokenizer.json");
    /* the same as the library */
    qp_ctx       *ctx = qp_open((qp_options){.threads = 1});
    qp_tokenizer *t = qp_tokenizer_load(ctx, in_folder("tokenizer.json"));
    qp_ids        ids = {0};
    assert_int_equal(qp_encode(ctx, t, "the and", 7, (qp_encode_options){0}, &ids), QP_OK);
    o = expect_json(run_with("the and", 7, "tokenize", "-m", "%/tokenizer.json", "--json", NULL));
    json_t *line = json_array_get(json_object_get(o, "ids"), 0);
    assert_int_equal(json_array_size(line), ids.count);
    assert_int_equal(integer_of(o, "tokens"), ids.count);
    for (int64_t i = 0; i < ids.count; i++)
        assert_int_equal(json_integer_value(json_array_get(line, (size_t)i)), ids.data[i]);
    json_decref(o);
    qp_ids_free(&ids);
    qp_close(ctx);
    /* nothing in, nothing out */
    outcome nothing = run("tokenize", "-m", "%/bytes", NULL);
    expect_success(nothing);
    assert_int_equal(nothing.out_bytes, 0);
    o = expect_json(run("inspect", "%/tokenizer.json", "--json", NULL));
    assert_string_equal(text_of(o, "kind"), "tokenizer");
    assert_string_equal(text_of(o, "type"), "bpe");
    assert_int_equal(integer_of(o, "size"), 320);
    json_decref(o);
}

/* What a template puts around a text comes with encoding and goes with decoding. */
static void tokenize_template(void **state) {
    static const char tokenizer[] =
        "{\"version\": \"1.0\", \"added_tokens\": [{\"id\": 3, \"content\": \"<s>\", \"single_word\": false, "
        "\"lstrip\": false, "
        "\"rstrip\": false, \"normalized\": false, \"special\": true}], \"normalizer\": null, "
        "\"pre_tokenizer\": "
        "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": true}, "
        "\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": "
        "\"<s>\", "
        "\"type_id\": 0}}, {\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}], \"pair\": [{\"Sequence\": "
        "{\"id\": \"A\", "
        "\"type_id\": 0}}, {\"Sequence\": {\"id\": \"B\", \"type_id\": 1}}], \"special_tokens\": {\"<s>\": "
        "{\"id\": \"<s>\", "
        "\"ids\": [3], \"tokens\": [\"<s>\"]}}}, \"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": "
        "true, "
        "\"trim_offsets\": true, \"use_regex\": true}, \"model\": {\"type\": \"BPE\", \"dropout\": null, "
        "\"unk_token\": null, "
        "\"continuing_subword_prefix\": null, \"end_of_word_suffix\": null, \"fuse_unk\": false, "
        "\"byte_fallback\": false, "
        "\"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2, \"<s>\": 3}, \"merges\": [\"a b\"]}}";
    (void)state;
    write_text("template.json", tokenizer);
    outcome o = run_with("abb\n\n", 5, "tokenize", "-m", "%/template.json", NULL);
    expect_success(o);
    assert_string_equal(o.out, "3 2 1\n3\n");
    o = run_with("abb\n\n", 5, "tokenize", "-m", "%/template.json", "--no-special", NULL);
    assert_string_equal(o.out, "2 1\n\n");
    o = run_with("3 2 1\n3\n2 1\n", 12, "tokenize", "-m", "%/template.json", "--decode", NULL);
    assert_string_equal(o.out, "abb\n\nabb\n");
    o = run_with("3 2 1\n3 3\n", 10, "tokenize", "-m", "%/template.json", "--decode", "--no-special", NULL);
    assert_string_equal(o.out, "<s>abb\n<s><s>\n");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(tokenize), cmocka_unit_test(tokenize_template),
                                       cmocka_unit_test(tokenize_others)};
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
