/* Hostile tokenizer files: each is refused with a text that names the place, or does no harm. */
#include "support.h"

#include <time.h>

#include "data/tokenizer.h"

/* ---- Hostile files -------------------------------------------------------------------- */

#define BL "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true}"
#define MODEL "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]}"
#define WITH(x) "{" MODEL "," BL "," x "}"
#define MODELS(x) "{" BL ",\"model\":{" x "}}"

#define NFC "{\"type\":\"NFC\"}"
#define FUSE "{\"type\":\"Fuse\"}"
#define SPACES "{\"type\":\"WhitespaceSplit\"}"
#define LEVEL "{\"type\":\"ByteLevel\",\"add_prefix_space\":false}"
#define FOUR(x) x "," x "," x "," x
#define SIXTEEN(x) FOUR(FOUR(x))
#define SEQUENCE(x) "{\"Sequence\":{\"id\":\"" #x "\",\"type_id\":0}}"
#define ROBERTA "{\"type\":\"RobertaProcessing\",\"cls\":[\"a\",0],\"sep\":[\"b\",1]}"
#define TEMPLATE(single, pair) \
    WITH("\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[" single "],\"pair\":[" pair \
         "],\"special_tokens\":{\"neg\":{\"ids\":[-1]},\"big\":{\"ids\":[2147483647]},\"text\":{\"ids\":[" \
         "\"a\"]}}}")
#define LONG64 "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijkl"
#define LONG LONG64 LONG64 LONG64 LONG64 "abc"
#define FIFTEEN(x) FOUR(x) "," FOUR(x) "," FOUR(x) "," x "," x "," x
#define BYTES "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}"
#define SPLIT(x) "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" x "\"},\"behavior\":\"Isolated\"}"

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
    {"{" MODEL "}", QP_OK, ""},
    {"{" MODEL ",\"pre_tokenizer\":{\"type\":\"Metaspace\"}}", QP_ERR_FORMAT, "replacement: missing"},
    {"{" MODEL ",\"pre_tokenizer\":{\"type\":\"UnicodeScripts\"}}", QP_ERR_UNSUPPORTED,
     "pre_tokenizer: UnicodeScripts"},
    {"{" MODEL ",\"pre_tokenizer\":7}", QP_ERR_FORMAT, "pre_tokenizer: expected an object, found an integer"},
    {"{" MODEL ",\"pre_tokenizer\":{\"type\":\"ByteLevel\"}}", QP_ERR_FORMAT, "add_prefix_space: missing"},
    {"{" MODEL ",\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"type\":\"ByteLevel\"}}", QP_ERR_FORMAT,
     "duplicate"},
    {"{" MODEL ",\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"ByteLevel\",\"add_"
     "prefix_space\":false},"
     "{\"type\":\"Digits\",\"individual_digits\":true}]}}",
     QP_OK, ""},
    {"{" MODEL
     ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(a\"},\"behavior\":\"Isolated\"}}",
     QP_ERR_FORMAT, "pre_tokenizer: pattern: bad pattern, offset 2"},
    {"{" MODEL
     ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\"a\"},\"behavior\":\"Isolated\"}}",
     QP_OK, ""},
    {"{" MODEL ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"Merged\"}}",
     QP_ERR_UNSUPPORTED, "pre_tokenizer: Merged"},
    {WITH("\"normalizer\":{\"type\":\"Uppercase\"}"), QP_ERR_UNSUPPORTED, "normalizer: Uppercase"},
    {WITH("\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{\"type\":\"Strip\"}]}"),
     QP_ERR_FORMAT, "normalizer.normalizers[1].strip_left: missing"},
    {WITH("\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[" SIXTEEN(NFC) "," NFC "]}"),
     QP_ERR_UNSUPPORTED, "so long a sequence"},
    {WITH("\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[" SIXTEEN(NFC) "]}"), QP_OK, ""},
    {"{" MODEL ",\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[" SIXTEEN(SPACES) "," SPACES "]}}",
     QP_ERR_UNSUPPORTED, "so long a sequence"},
    {"{" MODEL ",\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[" SIXTEEN(SPACES) "," LEVEL "]}}",
     QP_ERR_UNSUPPORTED, "so long a sequence"},
    {WITH("\"decoder\":{\"type\":\"Sequence\",\"decoders\":[" SIXTEEN(FUSE) "," FUSE "]}"), QP_ERR_UNSUPPORTED,
     "so long a sequence"},
    {WITH("\"decoder\":{\"type\":\"WordPiece\"}"), QP_ERR_FORMAT, "decoder.prefix: missing"},
    {WITH("\"decoder\":{\"type\":\"Magic\"}"), QP_ERR_UNSUPPORTED, "decoder: Magic"},
    {WITH("\"post_processor\":{\"type\":\"Magic\"}"), QP_ERR_UNSUPPORTED, "post_processor: Magic"},
    {WITH(
         "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"x\"}}]}"),
     QP_ERR_FORMAT, "special_tokens: missing"},
    {TEMPLATE("", ""), QP_ERR_FORMAT, "single: expected one Sequence A"},
    {TEMPLATE(SEQUENCE(A), "7"), QP_ERR_FORMAT, "pair[0]: expected a Sequence"},
    {TEMPLATE(SEQUENCE(A), ""), QP_OK, ""},
    {TEMPLATE(SEQUENCE(C), ""), QP_ERR_FORMAT, "single[0].Sequence: expected A or B"},
    {TEMPLATE(SEQUENCE(A) "," SEQUENCE(B), ""), QP_ERR_FORMAT, "expected one Sequence A and no B"},
    {TEMPLATE("{}", ""), QP_ERR_FORMAT, "single[0]: expected a Sequence or a SpecialToken"},
    {TEMPLATE("{\"SpecialToken\":{\"id\":\"x\"}}", ""), QP_ERR_FORMAT, "special_tokens.x: missing"},
    {TEMPLATE("{\"SpecialToken\":{\"id\":\"neg\"}}", ""), QP_ERR_FORMAT, "ids[0]: expected an id"},
    {TEMPLATE("{\"SpecialToken\":{\"id\":\"big\"}}", ""), QP_ERR_FORMAT, "ids[0]: expected an id"},
    {TEMPLATE("{\"SpecialToken\":{\"id\":\"text\"}}", ""), QP_ERR_FORMAT, "ids[0]: expected an id"},
    {WITH("\"post_processor\":{\"type\":\"Sequence\",\"processors\":[" ROBERTA "," ROBERTA "]}"),
     QP_ERR_UNSUPPORTED, "processors[1]: a component behind one that puts tokens"},
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
    {MODELS("\"vocab\":{\"a\":0}"), QP_OK, ""},
    {MODELS("\"type\":\"BPE\",\"vocab\":{\"a\":0}"), QP_ERR_FORMAT, "expected merges"},
    {MODELS("\"merges\":[]"), QP_ERR_FORMAT, "expected a vocab"},
    {MODELS("\"type\":\"WordPiece\",\"vocab\":{\"a\":0}"), QP_OK, ""},
    {MODELS("\"type\":\"Sparse\",\"vocab\":{\"a\":0}"), QP_ERR_UNSUPPORTED, "model.type: \"Sparse\""},
    {MODELS("\"type\":7,\"vocab\":{\"a\":0}"), QP_ERR_UNSUPPORTED, "model.type: 7"},
    {MODELS("\"vocab\":{\"a\":0},\"type\":\"WordPiece\""), QP_OK, ""},
    {MODELS("\"type\":\"WordPiece\",\"vocab\":{\"a\":0},\"type\":\"BPE\""), QP_ERR_FORMAT, "type behind"},
    {MODELS("\"vocab\":[[\"a\",0.5]]"), QP_OK, ""},
    {MODELS("\"vocab\":[[\"a\",0.5],[\"a\",0.5]]"), QP_OK, ""},
    {MODELS("\"vocab\":[[\"a\",1e999]]"), QP_ERR_FORMAT, "a token and its score"},
    {MODELS("\"vocab\":[[\"a\",\"b\"]]"), QP_ERR_FORMAT, "a token and its score"},
    {MODELS("\"vocab\":[[\"a\",[1]]]"), QP_ERR_FORMAT, "a token and its score"},
    {MODELS("\"vocab\":[[\"a\"]]"), QP_ERR_FORMAT, "a token and its score"},
    {MODELS("\"vocab\":[[]]"), QP_ERR_FORMAT, "a token and its score"},
    {MODELS("\"vocab\":[[\"a\",0,1]]"), QP_ERR_FORMAT, "a token and its score"},
    {MODELS("\"vocab\":[[7,0]]"), QP_ERR_FORMAT, "expected a string"},
    {MODELS("\"vocab\":[7]"), QP_ERR_FORMAT, "expected an array"},
    {MODELS("\"type\":\"Unigram\",\"vocab\":{}"), QP_ERR_FORMAT, "expected an array"},
    {MODELS("\"type\":\"Unigram\",\"unk_id\":1,\"vocab\":[[\"a\",0]]"), QP_ERR_FORMAT,
     "unk_id: the vocabulary has no token 1"},
    {MODELS("\"type\":\"Unigram\",\"unk_id\":-1,\"vocab\":[[\"a\",0]]"), QP_ERR_FORMAT,
     "unk_id: expected a count"},
    {MODELS("\"type\":\"Unigram\",\"unk_id\":4294967296,\"vocab\":[[\"a\",0]]"), QP_ERR_FORMAT,
     "unk_id: expected a count"},
    {MODELS("\"type\":\"Unigram\",\"unk_id\":\"a\",\"vocab\":[[\"a\",0]]"), QP_ERR_FORMAT,
     "unk_id: expected a count"},
    {MODELS(
         "\"type\":\"Unigram\",\"unk_id\":null,\"vocab\":[[\"a\",-1.5e-3],[\"b\",-12345678901234567890.5E+1]]"),
     QP_OK, ""},
    {MODELS("\"type\":\"WordPiece\",\"vocab\":{\"a\":0},\"max_input_chars_per_word\":-1"), QP_ERR_FORMAT,
     "a count"},
    {MODELS("\"type\":\"WordPiece\",\"vocab\":{\"" LONG "\":0}"), QP_ERR_UNSUPPORTED, "more than 258 bytes"},
    {MODELS("\"type\":\"WordPiece\",\"unk_token\":7,\"vocab\":{}"), QP_ERR_FORMAT,
     "unk_token: expected a string"},
    {MODELS("\"type\":\"WordPiece\",\"unk_token\":\"\\u0000\",\"vocab\":{}"), QP_ERR_FORMAT, "without zeros"},
    {MODELS("\"type\":\"WordPiece\",\"unk_token\":\"\\q\",\"vocab\":{}"), QP_ERR_FORMAT, "bad escape"},
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
    {MODELS("\"vocab\":{\"a\":0},\"merges\":[],\"dropout\":\"0\""), QP_ERR_UNSUPPORTED, "model.dropout: \"0\""},
    {MODELS("\"vocab\":{\"a\":0},\"merges\":[],\"dropout\":0.0,\"a key of no meaning that is longer than any "
            "known\":7"),
     QP_OK, ""},
    {MODELS("\"vocab\":{\"a\":0},\"merges\":[],\"fuse_unk\":1"), QP_ERR_FORMAT,
     "fuse_unk: expected true or false"},
    {MODELS("\"vocab\":{\"a\":0},\"merges\":[],\"end_of_word_suffix\":\"" LONG "\""), QP_ERR_UNSUPPORTED,
     "more than 64 bytes"},
    {MODELS("\"vocab\":{\"a\":0},\"merges\":[],\"continuing_subword_prefix\":\"" LONG "\""), QP_ERR_UNSUPPORTED,
     "more than 64 bytes"},
    {MODELS(
         "\"vocab\":{\"a\":0,\"##b\":1,\"ab\":2},\"continuing_subword_prefix\":\"##\",\"merges\":[\"a ##b\"]"),
     QP_OK, ""},
    {MODELS("\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"continuing_subword_prefix\":\"##\",\"merges\":[\"a b\"]"),
     QP_ERR_FORMAT, "shorter than the prefix"},
    {MODELS("\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[],\"continuing_subword_prefix\":\"##\""),
     QP_ERR_FORMAT, "continuing_subword_prefix behind"},
    {MODELS("\"vocab\":{\"a\":0},\"merges\":[],\"byte_fallback\":true"), QP_OK, ""},
    {MODELS("\"vocab\":{\"a\":0},\"merges\":[],\"unk_token\":\"u\""), QP_OK, ""},
    {MODELS("\"vocab\":{\"\":0,\"a\":1},\"merges\":[[\"\",\"a\"],[\"a\",\"\"],[\"\",\"\"]]"), QP_OK, ""},
    {WITH("\"added_tokens\":[{\"id\":3,\"content\":\"" LONG LONG "\"}]"), QP_ERR_UNSUPPORTED,
     "more than 512 bytes"},
    {WITH("\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"(\"},\"content\":\"\"}"),
     QP_ERR_FORMAT, "bad pattern"},
    {WITH("\"normalizer\":{\"type\":\"Replace\",\"pattern\":{},\"content\":\"\"}"), QP_ERR_FORMAT,
     "pattern.String: missing"},
    {WITH("\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"AAA\"}"), QP_ERR_FORMAT,
     "expected base64"},
    {WITH("\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"A=AA\"}"), QP_ERR_FORMAT,
     "expected base64"},
    {WITH("\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"\"}"), QP_ERR_FORMAT,
     "found 0 bytes"},
    {WITH("\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"CAAAAA==\"}"), QP_ERR_FORMAT,
     "found 4 bytes"},
    {WITH("\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"BAAAAAAAAAD/\"}"), QP_ERR_FORMAT,
     "not UTF-8 at byte 0"},
    {WITH("\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"BAAAAP////9h\"}"), QP_OK, ""},
    {"{" MODEL ",\"pre_tokenizer\":{\"type\":\"CharDelimiterSplit\",\"delimiter\":\"ab\"}}", QP_ERR_FORMAT,
     "one character"},
    {"{" MODEL ",\"pre_tokenizer\":{\"type\":\"CharDelimiterSplit\",\"delimiter\":\"\"}}", QP_ERR_FORMAT,
     "one character"},
    {"{" MODEL ",\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"last\"}}",
     QP_ERR_UNSUPPORTED, "pre_tokenizer: last"},
    {"{" MODEL ",\"pre_tokenizer\":{\"type\":\"FixedLength\",\"length\":0}}", QP_ERR_FORMAT, "length"},
    {"{" MODEL ",\"pre_tokenizer\":{\"type\":\"FixedLength\",\"length\":99999999999}}", QP_ERR_FORMAT,
     "length"},
    {WITH("\"decoder\":{\"type\":\"Strip\",\"content\":\" \",\"start\":-1,\"stop\":0}"), QP_ERR_FORMAT,
     "start"},
    {WITH("\"decoder\":{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"[\"},\"content\":\"\"}"), QP_ERR_FORMAT,
     "bad pattern"},
    {MODELS("\"vocab\":{\"a\":0},\"vocab\":{}"), QP_ERR_FORMAT, "vocab twice"},
    {MODELS("\"merges\":[],\"merges\":[]"), QP_ERR_FORMAT, "merges twice"},
    {MODELS("\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[],\"continuing_subword_prefix\":\"\""),
     QP_ERR_FORMAT, "continuing_subword_prefix behind"},
    {MODELS("\"type\":\"Unigram\",\"vocab\":[[\"a\",tru]]"), QP_ERR_FORMAT, "column"},
    {MODELS("\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"\\q\"]"), QP_ERR_FORMAT, "bad escape"},
    {MODELS("\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[1,2]]"), QP_ERR_FORMAT, "expected a string"},
    {MODELS("\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"#longer than its mark\"]"), QP_ERR_FORMAT,
     "a space between them"},
    {MODELS("\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"longer thanmark\"]"), QP_ERR_FORMAT,
     "merge 0: its first token"},
    {"{" MODEL ",\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"_\",\"add_prefix_space\":7}}",
     QP_ERR_FORMAT, "add_prefix_space"},
    {WITH("\"decoder\":{\"type\":\"Metaspace\",\"replacement\":\"_\",\"add_prefix_space\":7}"), QP_ERR_FORMAT,
     "add_prefix_space"},
    {WITH("\"decoder\":{\"type\":\"CTC\",\"pad_token\":\"_\",\"cleanup\":true}"), QP_ERR_FORMAT,
     "word_delimiter_token: missing"},
    {WITH("\"decoder\":{\"type\":\"CTC\",\"pad_token\":\"_\",\"word_delimiter_token\":\"_\"}"), QP_ERR_FORMAT,
     "cleanup: missing"},
    {"{" MODEL ",\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[" FIFTEEN(SPACES) "," LEVEL
                                                                                               "," SPACES "]}}",
     QP_ERR_UNSUPPORTED, "so long a sequence"},
    {"{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":0}},\"pre_tokenizer\":{\"type\":\"Sequence\","
     "\"pretokenizers\":[" FIFTEEN(SPACES) "," SPACES "," BYTES "]}}",
     QP_ERR_UNSUPPORTED, "so long a sequence"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[],\"end_of_word_suffix\":\"x\"},\"pre_"
     "tokenizer\":{\"type\":\"Sequence\","
     "\"pretokenizers\":[" FIFTEEN(SPACES) "," LEVEL "]}}",
     QP_ERR_UNSUPPORTED, "so long a sequence"},
    {"{" MODEL ",\"pre_tokenizer\":" SPLIT("[a[b]]") "}", QP_ERR_UNSUPPORTED, "a class within a class"},
    {"{" MODEL ",\"pre_tokenizer\":" SPLIT("[a&&b]") "}", QP_ERR_UNSUPPORTED, "a class within a class"},
    {"{" MODEL ",\"pre_tokenizer\":" SPLIT("[a&b]&&") "}", QP_OK, ""},
    {"{" MODEL ",\"pre_tokenizer\":" SPLIT("[[:alpha]") "}", QP_OK, ""},
    {"{" MODEL ",\"pre_tokenizer\":" SPLIT("a\\\\") "}", QP_ERR_FORMAT, "bad pattern"},
    {WITH("\"post_processor\":{\"type\":\"Sequence\",\"processors\":[" ROBERTA ",{\"type\":\"ByteLevel\"}]}"),
     QP_OK, ""},
    {WITH("\"post_processor\":{\"type\":\"Sequence\",\"processors\":[" ROBERTA "," ROBERTA "]}"),
     QP_ERR_UNSUPPORTED, "behind one that puts tokens"},
    {WITH("\"post_processor\":{\"type\":\"BertProcessing\",\"cls\":[\"a\",0],\"sep\":[\"a\",4294967296]}"),
     QP_ERR_FORMAT, "a token and its id"},
    {WITH("\"post_processor\":{\"type\":\"RobertaProcessing\",\"cls\":[\"a\",0],\"sep\":[\"a\"]}"),
     QP_ERR_FORMAT, "a token and its id"},
    {WITH("\"padding\":7"), QP_ERR_FORMAT, "padding: expected an object"},
    {WITH("\"padding\":{\"x\":1},\"truncation\":null"), QP_OK, ""},
};

static void hostile_files(void **state) {
    (void)state;
    int wrong = 0;
    for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++) {
        qpi_error     e = {0};
        qp_tokenizer *t = qpi_tokenizer_parse("x", hostile[i].json, strlen(hostile[i].json), &e);
        if (e.code != hostile[i].code || !strstr(e.text, hostile[i].words) || !t == !e.code) {
            print_error("%s: expected error %d with \"%s\", found %d: %s\n", hostile[i].json, hostile[i].code,
                        hostile[i].words, e.code, e.text);
            wrong++;
        }
        qpi_tokenizer_free(t);
    }
    assert_int_equal(wrong, 0);
}

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

/* Text is cut and encoded in a time that grows with its length, whatever stands in it: half a megabyte of one
 * character takes a moment, where a walk back from each place would take minutes. */
static void test_long_runs(void **state) {
    (void)state;
    enum { N = 500000 };
    static const char *const files[] = {"gpt2.json", "llama3.json", "gemma.json", "bytes.json"};
    static const char        runs[] = " \n\ta1.'\x01";
    char                    *text = malloc(N);
    qp_ctx                  *ctx = qp_open((qp_options){.threads = 1});
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char path[300];
        snprintf(path, sizeof path, "%s%s", GOLDEN, files[i]);
        qp_tokenizer *t = qp_tokenizer_load(ctx, path);
        expect_ok(ctx);
        for (const char *c = runs; *c; c++) {
            qp_ids  ids = {0};
            clock_t begin = clock();
            memset(text, *c, N);
            assert_int_equal(qp_encode(ctx, t, text, N, (qp_encode_options){0}, &ids), QP_OK);
            double seconds = (double)(clock() - begin) / CLOCKS_PER_SEC;
            if (seconds > 10) fail_msg("%s: %d of byte %d take %.1f s", files[i], N, *c, seconds);
            qp_ids_free(&ids);
        }
        qp_tokenizer_close(t);
    }
    free(text);
    qp_close(ctx);
}

/* Ids below 0 and beyond the vocabulary are nobody's; bytes above 127 are bytes. */
static void test_signs(void **state) {
    (void)state;
    static const int32_t odd[] = {-1, INT32_MIN, INT32_MAX, 1 << 30, -257};
    qp_ctx              *ctx = qp_open((qp_options){.threads = 1});
    qp_tokenizer        *t = qp_tokenizer_load(ctx, GOLDEN "gpt2.json");
    expect_ok(ctx);
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        qp_text out = {0};
        assert_null(qp_tokenizer_token(t, odd[i]));
        assert_false(qp_tokenizer_is_special(t, odd[i]));
        if (qp_decode(ctx, t, &odd[i], 1, false, &out) == QP_OK) assert_int_equal(out.count, 0);
        qp_clear(ctx);
        qp_text_free(&out);
    }
    char all[128];
    for (int i = 0; i < 128; i++) all[i] = (char)(128 + i);
    qp_ids  ids = {0};
    qp_text back = {0};
    assert_int_equal(qp_encode(ctx, t, all, sizeof all, (qp_encode_options){0}, &ids), QP_OK);
    for (int64_t i = 0; i < ids.count; i++) assert_true(ids.data[i] >= 0);
    assert_int_equal(qp_decode(ctx, t, ids.data, ids.count, false, &back), QP_OK);
    assert_int_equal(back.count, sizeof all);
    assert_memory_equal(back.data, all, sizeof all);
    qp_ids_free(&ids);
    qp_text_free(&back);
    qp_tokenizer_close(t);
    qp_close(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(hostile_files), cmocka_unit_test(damaged_files),
                                       cmocka_unit_test(deep_file), cmocka_unit_test(test_long_runs),
                                       cmocka_unit_test(test_signs)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
