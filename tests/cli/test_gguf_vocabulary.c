/* What of a tokenizer.json goes into a GGUF file, and what is refused. */
#include "support.h"

#include <sys/stat.h>

#include "../format/in_turn.h"
#include "cli/gguf_target.h"
#include "format/writer.h"

static void put_files(const char *tokenizer, const char *config, const char *settings) {
    write_text("v/tokenizer.json", tokenizer);
    if (config) write_text("v/config.json", config);
    else remove(in_folder("v/config.json"));
    if (settings) write_text("v/tokenizer_config.json", settings);
    else remove(in_folder("v/tokenizer_config.json"));
}

/* The key's value as text; NULL: there is none, or the vocabulary was refused with these words. */
static void check(const char *tokenizer, const char *config, const char *settings, const char *key,
                  const char *words) {
    qpi_gguf_pairs pairs = {0};
    qpi_error      e = {0};
    put_files(tokenizer, config, settings);
    bool ok = gguf_put_vocabulary(ctx, in_folder("v"), 6, &pairs);
    if (ok != (key != NULL)) fail_msg("%s: %s", tokenizer, ok ? "was taken" : qp_error(ctx));
    if (!ok && !strstr(qp_error(ctx), words))
        fail_msg("%s: \"%s\" does not say %s", tokenizer, qp_error(ctx), words);
    if (ok) {
        assert_true(qpi_gguf_save(in_folder("v.gguf"), &pairs, 0, NULL, NULL, NULL, &e));
        qp_file    *f = qp_file_open(ctx, in_folder("v.gguf"), (qp_file_options){0});
        const char *value = qp_file_meta(f, key);
        if (words ? !value || strcmp(value, words) : value != NULL)
            fail_msg("%s: %s is %s, expected %s", tokenizer, key, value ? value : "absent",
                     words ? words : "none");
        qp_file_close(f);
    }
    qp_clear(ctx);
    qpi_gguf_pairs_free(&pairs);
}

#define BYTES "\"pre_tokenizer\": {\"type\": \"ByteLevel\"}, "
#define BPE(vocab, more) "{" BYTES "\"model\": {\"type\": \"BPE\", \"vocab\": " vocab more "}}"
#define PIECES(more, model) \
    "{" more "\"model\": {\"byte_fallback\": true, \"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2, \"<0x41>\": 3, " \
    "\"abcdef\": 4}" model "}}"
#define BERT "\"pre_tokenizer\": {\"type\": \"BertPreTokenizer\"}, "
#define WORDS(normalizer, more, prefix) \
    "{\"normalizer\": {\"type\": \"BertNormalizer\"" normalizer "}, " BERT more \
    "\"model\": {\"type\": \"WordPiece\", \"unk_token\": \"[U]\", " \
    "\"continuing_subword_prefix\": \"" prefix \
    "\", \"vocab\": {\"[U]\": 0, \"[C]\": 1, \"[S]\": 2, \"a\": 3, \"##b\": 4}}}"

static const struct {
    const char *tokenizer, *config, *settings, *key, *words;
} cases[] = {
    /* bytes */
    {BPE("{\"a\": 0, \"b\": 1, \"ab\": 2}", ", \"merges\": [\"a b\"]"), NULL, NULL, "tokenizer.ggml.model",
     "gpt2"},
    {BPE("{\"a\": 0, \"b\": 1, \"ab\": 2}", ", \"merges\": [[\"a\", \"b\"]]"), NULL, NULL, "tokenizer.ggml.pre",
     "gpt-2"},
    {"{" BYTES "\"model\": {\"vocab\": {\"a\": 0}}}", NULL, NULL, "tokenizer.ggml.add_bos_token", "false"},
    {BPE("{\"a\": 6}", ""), NULL, NULL, NULL, "a token's id is beyond the model's vocabulary"},
    {BPE("{\"a\": -1}", ""), NULL, NULL, NULL, "a token's id is beyond"},
    {BPE("{\"a\": \"0\"}", ""), NULL, NULL, NULL, "a token's id is beyond"},
    {"{" BYTES
     "\"added_tokens\": [{\"id\": 9, \"content\": \"x\"}], \"model\": {\"type\": \"BPE\", \"vocab\": {}}}",
     NULL, NULL, NULL, "a token's id is beyond"},
    {"{" BYTES "\"added_tokens\": [{\"id\": 1}], \"model\": {\"type\": \"BPE\", \"vocab\": {}}}", NULL, NULL,
     NULL, "a token's id is beyond"},
    {"{" BYTES "\"added_tokens\": [{\"id\": 1, \"content\": \"x\", \"special\": true}, {\"id\": 2, "
     "\"content\": \"y\"}], \"model\": {\"vocab\": {}}}",
     NULL, NULL, "tokenizer.ggml.model", "gpt2"},
    {BPE("{\"a\": 0}", ", \"merges\": [\"ab\"]"), NULL, NULL, NULL, "expected merges of two tokens"},
    {BPE("{\"a\": 0}", ", \"merges\": [3]"), NULL, NULL, NULL, "expected merges of two tokens"},
    {BPE("{\"a\": 0}", ", \"merges\": [[\"a\"]]"), NULL, NULL, NULL, "expected merges of two tokens"},
    {BPE("{\"a\": 0}", ", \"merges\": [[\"a\", \"\"]]"), NULL, NULL, NULL, "expected merges of two tokens"},
    {"{\"model\": {\"type\": \"BPE\", \"vocab\": {}}}", NULL, NULL, NULL, "only BPE over bytes"},
    {"{" BYTES "\"model\": {\"type\": \"Unigram\", \"vocab\": []}}", NULL, NULL, NULL, "only BPE over bytes"},
    {"{", NULL, NULL, NULL, "line 1"},
/* how texts are cut */
#define CUT(parts) \
    "{\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [" parts "]}, \"model\": {\"vocab\": " \
    "{}}}"
    {CUT("{\"type\": \"Digits\", \"individual_digits\": true}, {\"type\": \"ByteLevel\"}"), NULL, NULL,
     "tokenizer.ggml.pre", "smollm"},
    {CUT("{\"type\": \"Digits\"}, {\"type\": \"ByteLevel\"}"), NULL, NULL, NULL,
     "no name for how this pre_tokenizer cuts"},
    {CUT("{\"type\": \"ByteLevel\", \"add_prefix_space\": true}"), NULL, NULL, NULL,
     "no name for how this pre_tokenizer cuts"},
    {CUT("{\"type\": \"Split\", \"behavior\": \"Removed\", \"pattern\": {\"Regex\": \"x\"}}, {\"type\": "
         "\"ByteLevel\", \"use_regex\": false}"),
     NULL, NULL, NULL, "no name for how"},
    {CUT("{\"type\": \"Split\", \"behavior\": \"Isolated\", \"pattern\": {\"String\": \"x\"}}, {\"type\": "
         "\"ByteLevel\"}"),
     NULL, NULL, NULL, "no name for how"},
    {CUT("{\"type\": \"ByteLevel\"}, {\"type\": \"ByteLevel\"}, {\"type\": \"ByteLevel\"}, {\"type\": "
         "\"ByteLevel\"}, {\"type\": \"ByteLevel\"}, {\"type\": \"ByteLevel\"}, {\"type\": \"ByteLevel\"}"),
     NULL, NULL, NULL, "no name for how"},
    {CUT("{\"type\": \"Split\", \"behavior\": \"Isolated\", \"pattern\": {\"Regex\": \"never seen\"}}, "
         "{\"type\": \"ByteLevel\", \"use_regex\": false}"),
     NULL, NULL, NULL, "no name for how"},
    {CUT("{}, {\"type\": \"ByteLevel\"}"), NULL, NULL, "tokenizer.ggml.pre", "gpt-2"},
    /* pieces */
    {PIECES("", ", \"merges\": [\"a b\", \"x y\"]"), NULL, NULL, "tokenizer.ggml.model", "llama"},
    {PIECES("", ", \"merges\": [\"a\"]"), NULL, NULL, NULL, "expected merges of two tokens"},
    {PIECES("", ""), NULL, NULL, "tokenizer.ggml.add_space_prefix", "false"},
    {PIECES("\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFC\"}, {\"type\": "
            "\"Prepend\"}]}, ",
            ""),
     NULL, NULL, "tokenizer.ggml.add_space_prefix", "true"},
    {PIECES("\"pre_tokenizer\": {\"type\": \"Metaspace\", \"prepend_scheme\": \"never\"}, ", ""), NULL, NULL,
     "tokenizer.ggml.add_space_prefix", "false"},
    {PIECES("\"pre_tokenizer\": {\"type\": \"Metaspace\"}, ", ""), NULL, NULL,
     "tokenizer.ggml.add_space_prefix", "true"},
    {PIECES("", ", \"unk_token\": \"ab\""), NULL, NULL, "tokenizer.ggml.unknown_token_id", "2"},
    {PIECES("", ", \"unk_token\": \"zz\""), NULL, NULL, "tokenizer.ggml.unknown_token_id", NULL},
    /* words */
    {WORDS("", "", "##"), NULL, NULL, "tokenizer.ggml.model", "bert"},
    {WORDS(", \"lowercase\": true", "", "##"), NULL, NULL, "tokenizer.ggml.normalizer.strip_accents", "true"},
    {WORDS(", \"lowercase\": true, \"strip_accents\": false", "", "##"), NULL, NULL,
     "tokenizer.ggml.normalizer.strip_accents", "false"},
    {WORDS(", \"strip_accents\": true", "", "##"), NULL, NULL, "tokenizer.ggml.normalizer.lowercase", "false"},
    {WORDS("", "", "@@"), NULL, NULL, NULL, "only BERT's own WordPiece"},
    {WORDS(", \"clean_text\": false", "", "##"), NULL, NULL, NULL, "only BERT's own WordPiece"},
    {WORDS(", \"handle_chinese_chars\": false", "", "##"), NULL, NULL, NULL, "only BERT's own WordPiece"},
    {"{" BERT "\"model\": {\"type\": \"WordPiece\", \"continuing_subword_prefix\": \"##\", \"vocab\": {}}}",
     NULL, NULL, NULL, "only BERT's own WordPiece"},
    {"{\"normalizer\": {\"type\": \"BertNormalizer\"}, \"model\": {\"type\": \"WordPiece\", "
     "\"continuing_subword_prefix\": \"##\", \"vocab\": {}}}",
     NULL, NULL, NULL, "only BERT's own WordPiece"},
    {WORDS("", "\"post_processor\": {\"cls\": [\"[C]\", 1], \"sep\": [\"[S]\", 2]}, ", "##"), NULL, NULL,
     "tokenizer.ggml.seperator_token_id", "2"},
    {WORDS("",
           "\"post_processor\": {\"single\": [{\"SpecialToken\": {\"id\": \"[C]\"}}, {\"SpecialToken\": "
           "{\"id\": \"[S]\"}}]}, ",
           "##"),
     NULL, NULL, "tokenizer.ggml.cls_token_id", "1"},
    {WORDS("", "", "##"), NULL, NULL, "tokenizer.ggml.cls_token_id", NULL},
    {WORDS("", "\"added_tokens\": [{\"id\": 1, \"content\": \"[C]\", \"special\": true}], ", "##"), NULL, NULL,
     "tokenizer.ggml.unknown_token_id", "0"},
    {BPE("{\"<0x41>\": 0}", ""), NULL, NULL, "tokenizer.ggml.model", "gpt2"},
/* special tokens and templates */
#define PLAIN BPE("{\"a\": 0}", "")
    {PLAIN, "{\"bos_token_id\": 1, \"eos_token_id\": [2, 3]}", NULL, "tokenizer.ggml.eos_token_id", "2"},
    {PLAIN, "{\"bos_token_id\": 6, \"eos_token_id\": -1, \"pad_token_id\": \"x\"}", NULL,
     "tokenizer.ggml.bos_token_id", NULL},
    {PLAIN, "{\"bos_token_id\": -1}", NULL, "tokenizer.ggml.bos_token_id", NULL},
    {PLAIN, NULL, "{\"add_bos_token\": true}", "tokenizer.ggml.add_bos_token", "true"},
    {PLAIN, NULL, "{\"add_bos_token\": false, \"add_eos_token\": true}", "tokenizer.ggml.add_eos_token",
     "true"},
    {PLAIN, NULL, "{\"add_eos_token\": 1}", "tokenizer.ggml.add_eos_token", NULL},
    {PLAIN, NULL, "{\"chat_template\": \"{{ x }}\"}", "tokenizer.chat_template", "{{ x }}"},
    {PLAIN, NULL, "{", NULL, "line 1"},
    {"{" BYTES "\"post_processor\": {\"single\": [{\"SpecialToken\": {\"id\": \"a\"}}]}, \"model\": "
     "{\"vocab\": {\"a\": 0}}}",
     NULL, NULL, "tokenizer.ggml.add_bos_token", "true"},
    {"{" BYTES "\"post_processor\": {\"processors\": [{}, {\"single\": [{\"Sequence\": {}}]}, {\"single\": "
     "[{\"SpecialToken\": {}}]}]}, \"model\": {\"vocab\": {\"a\": 0}}}",
     NULL, NULL, "tokenizer.ggml.add_bos_token", "true"},
    {"{" BYTES "\"post_processor\": {\"processors\": [{}]}, \"model\": {\"vocab\": {\"a\": 0}}}", NULL, NULL,
     "tokenizer.ggml.add_bos_token", "false"},
};

static void documents(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check(cases[i].tokenizer, cases[i].config, cases[i].settings, cases[i].key, cases[i].words);
}

/* Texts that are longer than what GGUF readers, or we, make room for. */
static void long_texts(void **state) {
    (void)state;
    static char text[12000], word[4501];
    memset(word, 'w', sizeof word - 1);
    snprintf(text, sizeof text,
             "{\"normalizer\": {\"type\": \"BertNormalizer\"}, " BERT "\"model\": {\"type\": \"WordPiece\", "
             "\"continuing_subword_prefix\": \"##\", \"vocab\": {\"%s\": 0}}}",
             word);
    check(text, NULL, NULL, NULL, "a word is too long for GGUF");
    snprintf(text, sizeof text, BPE("{\"a\": 0}", ", \"merges\": [\"%s b\"]"), word);
    check(text, NULL, NULL, NULL, "expected merges of two tokens");
    snprintf(text, sizeof text, PIECES("", ", \"merges\": [[\"%s\", \"b\"]]"), word);
    check(text, NULL, NULL, NULL, "expected merges of two tokens");
}

static void no_tokenizer(void **state) {
    (void)state;
    qpi_gguf_pairs pairs = {0};
    assert_true(gguf_put_vocabulary(ctx, in_folder("nowhere"), 6, &pairs));
    assert_int_equal(pairs.count, 1);
    qpi_gguf_pairs_free(&pairs);
}

/* SentencePiece's file in the place of tokenizer.json. */
static void put_model(void) {
    size_t n;
    char  *bytes = read_file(SOURCE_DIR "/tests/golden/tokenizers/spm.model", &n);
    write_file("v/tokenizer.model", bytes, n);
    free(bytes);
    remove(in_folder("v/tokenizer.json"));
}

static void pieces(void **state) {
    (void)state;
    qpi_gguf_pairs pairs = {0};
    put_model();
    assert_true(gguf_put_vocabulary(ctx, in_folder("v"), 1000, &pairs));
    assert_true(pairs.count > 5);
    qpi_gguf_pairs_free(&pairs);
    write_text("v/tokenizer.model", "none");
    assert_false(gguf_put_vocabulary(ctx, in_folder("v"), 1000, &pairs));
    assert_non_null(strstr(qp_error(ctx), "tokenizer.model"));
    qp_clear(ctx);
    qpi_gguf_pairs_free(&pairs);
    remove(in_folder("v/tokenizer.model"));
}

#if FAULTS
static bool whole(qp_ctx *c) {
    qpi_gguf_pairs pairs = {0};
    bool           ok = gguf_put_vocabulary(c, in_folder("v"), 1000, &pairs);
    if (ok && pairs.failed) ok = !qp_fail(c, QP_ERR_MEMORY, "out of memory"); /* as qpi_gguf_save would say */
    qpi_gguf_pairs_free(&pairs);
    return ok;
}

static void memory(void **state) {
    (void)state;
    put_files(cases[0].tokenizer, "{\"bos_token_id\": 1}", "{\"chat_template\": \"x\"}");
    in_turn(whole, 1, NULL, NULL);
    put_model();
    in_turn(whole, 1, NULL, NULL);
}
#endif

static int begin(void **state) { return make_context(state) || mkdir(in_folder("v"), 0700) != 0; }

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(documents),    cmocka_unit_test(long_texts),
        cmocka_unit_test(no_tokenizer), cmocka_unit_test(pieces),
#if FAULTS
        cmocka_unit_test(memory),
#endif
    };
    return cmocka_run_group_tests(tests, begin, remove_context);
}
