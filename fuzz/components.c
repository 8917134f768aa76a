/* Tokenizers put together from the components of tokenizer.json: the input chooses them, with members that it also
 * chooses, and then is the text. Ids must be tokens, and decoding one by one must give what decoding at once gives. */
#include <stdio.h>
#include <string.h>

#include "data/tokenizer.h"

typedef struct {
    const uint8_t *data;
    size_t         n, at;
    qpi_buffer     json;
} input;

static uint8_t take(input *in) { return in->at < in->n ? in->data[in->at++] : 0; }

static void put(input *in, const char *text) {
    if (!qpi_put_text(&in->json, text)) __builtin_trap();
}

/* %s: a text, %c: a character, %b: a flag, %d: a number, %e: a behavior; all from the input. */
static const char *const texts[] = {
    "\"\"",        "\"a\"",       "\" \"",           "\"##\"",    "\"\\u2581\"", "\"</w>\"",
    "\"[a-z]+\"",  "\"x*\"",      "\"(?=a)|\\\\b\"", "\"<unk>\"", "\"\\u00e9\"", "\"ab\"",
    "\"\\\\s+$\"", "\"(a|b)*c\"", "\"always\"",      "\"first\"", "\"never\""};
static const char *const behaviors[] = {"\"Isolated\"", "\"Removed\"", "\"Contiguous\"",
                                        "\"MergedWithPrevious\"", "\"MergedWithNext\""};

static void put_filled(input *in, const char *form) {
    char number[20];
    for (const char *p = form; *p; p++) {
        uint8_t x = *p == '%' ? take(in) : 0;
        if (*p != '%') {
            if (!qpi_buffer_put(&in->json, p, 1)) __builtin_trap();
            continue;
        }
        switch (*++p) {
        case 's': put(in, texts[x % 17]); break;
        case 'c': put(in, x % 3 == 0 ? "\"a\"" : x % 3 == 1 ? "\" \"" : "\"\\u2581\""); break;
        case 'b': put(in, x & 1 ? "true" : "false"); break;
        case 'e': put(in, behaviors[x % 5]); break;
        default: snprintf(number, sizeof number, "%d", x % 7); put(in, number);
        }
    }
}

static const char *const normalizers[] = {
    "{\"type\":\"NFC\"}",
    "{\"type\":\"NFD\"}",
    "{\"type\":\"NFKC\"}",
    "{\"type\":\"NFKD\"}",
    "{\"type\":\"Lowercase\"}",
    "{\"type\":\"StripAccents\"}",
    "{\"type\":\"Nmt\"}",
    "{\"type\":\"ByteLevel\"}",
    "{\"type\":\"Strip\",\"strip_left\":%b,\"strip_right\":%b}",
    "{\"type\":\"Prepend\",\"prepend\":%s}",
    "{\"type\":\"Replace\",\"pattern\":{\"Regex\":%s},\"content\":%s}",
    "{\"type\":\"Replace\",\"pattern\":{\"String\":%s},\"content\":%s}",
    "{\"type\":\"BertNormalizer\",\"clean_text\":%b,\"handle_chinese_chars\":%b,\"strip_accents\":%b,"
    "\"lowercase\":%b}",
    "{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"CAAAAAAEAAABAAAAYQBiAA==\"}"};
static const char *const pre_tokenizers[] = {
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":%b,\"use_regex\":%b}",
    "{\"type\":\"Digits\",\"individual_digits\":%b}",
    "{\"type\":\"Whitespace\"}",
    "{\"type\":\"WhitespaceSplit\"}",
    "{\"type\":\"Punctuation\",\"behavior\":%e}",
    "{\"type\":\"BertPreTokenizer\"}",
    "{\"type\":\"CharDelimiterSplit\",\"delimiter\":%c}",
    "{\"type\":\"Metaspace\",\"replacement\":%c,\"prepend_scheme\":%s,\"split\":%b}",
    "{\"type\":\"FixedLength\",\"length\":%d}",
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":%s},\"behavior\":%e,\"invert\":%b}",
    "{\"type\":\"Split\",\"pattern\":{\"String\":%s},\"behavior\":%e,\"invert\":%b}"};
static const char *const decoders[] = {
    "{\"type\":\"ByteLevel\"}",
    "{\"type\":\"ByteFallback\"}",
    "{\"type\":\"Fuse\"}",
    "{\"type\":\"Metaspace\",\"replacement\":%c,\"prepend_scheme\":%s}",
    "{\"type\":\"WordPiece\",\"prefix\":%s,\"cleanup\":%b}",
    "{\"type\":\"BPEDecoder\",\"suffix\":%s}",
    "{\"type\":\"CTC\",\"pad_token\":%s,\"word_delimiter_token\":%s,\"cleanup\":%b}",
    "{\"type\":\"Replace\",\"pattern\":{\"Regex\":%s},\"content\":%s}",
    "{\"type\":\"Replace\",\"pattern\":{\"String\":%s},\"content\":%s}",
    "{\"type\":\"Strip\",\"content\":%c,\"start\":%d,\"stop\":%d}"};
#define TABLE \
    "{\"<unk>\":0,\"a\":1,\"b\":2,\"ab\":3,\" " \
    "\":4,\"\\u0120\":5,\"\\u2581\":6,\"\\u2581a\":7,\"##b\":8,\"a</" \
    "w>\":9,\"<0x41>\":10,\"<0xC3>\":11,\"n't\":12,\"\\u00e9\":13}"
static const char *const models[] = {
    "{\"type\":\"BPE\",\"unk_token\":%s,\"continuing_subword_prefix\":%s,\"end_of_word_suffix\":%s,\"fuse_"
    "unk\":%b,\"byte_fallback\":%b,\"ignore_merges\":%b,"
    "\"vocab\":" TABLE ",\"merges\":[[\"a\",\"b\"]]}",
    "{\"type\":\"BPE\",\"unk_token\":null,\"fuse_unk\":%b,\"byte_fallback\":%b,\"ignore_merges\":%b,"
    "\"vocab\":" TABLE ",\"merges\":[[\"a\",\"b\"],[\"\\u2581\",\"a\"]]}",
    "{\"type\":\"WordPiece\",\"unk_token\":%s,\"continuing_subword_prefix\":%s,\"max_input_chars_per_word\":%d,"
    "\"vocab\":" TABLE "}",
    "{\"type\":\"WordLevel\",\"unk_token\":%s,\"vocab\":" TABLE "}",
    "{\"type\":\"Unigram\",\"unk_id\":%d,\"byte_fallback\":%b,\"vocab\":[[\"<unk>\",0],[\"a\",-%d],[\"b\",-%d."
    "5],[\"ab\",-%d],[\"\\u2581\",-1],[\"\\u2581a\",-2],[\"<0x41>\",0]]}"};
#define COUNT(x) (sizeof(x) / sizeof *(x))

static void put_list(input *in, const char *key, const char *list, const char *const *forms, size_t count) {
    size_t n = take(in) % 4;
    put(in, ",\"");
    put(in, key);
    put(in, "\":{\"type\":\"Sequence\",\"");
    put(in, list);
    put(in, "\":[");
    for (size_t i = 0; i < n; i++) {
        if (i) put(in, ",");
        put_filled(in, forms[take(in) % count]);
    }
    put(in, "]}");
}

static void decode_both(qp_ctx *ctx, const qp_tokenizer *t, const qp_ids *ids) {
    qp_text     whole = {0}, stream = {0};
    qp_decoding state = {0};
    bool        ok = qp_decode(ctx, t, ids->data, ids->count, false, &whole) == QP_OK;
    for (int64_t i = 0; ok && i < ids->count; i++)
        ok = qp_decode_next(ctx, t, &state, ids->data[i], false, &stream) == QP_OK;
    if (qp_decode_end(ctx, &state, &stream) != QP_OK) ok = false;
    if (ok && (whole.count != stream.count || (whole.count && memcmp(whole.data, stream.data, whole.count))))
        __builtin_trap();
    qp_text_free(&whole);
    qp_text_free(&stream);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static qp_ctx *ctx;
    if (!ctx) ctx = qp_open((qp_options){.threads = 1});
    input     in = {.data = data, .n = size};
    qpi_error e = {0};
    put(&in, "{\"added_tokens\":[{\"id\":20,\"content\":\"<x>\",\"special\":true},{\"id\":21,\"content\":"
             "\"Ab\",\"normalized\":true,\"single_word\":true,\"lstrip\":true,\"rstrip\":true}]");
    put_list(&in, "normalizer", "normalizers", normalizers, COUNT(normalizers));
    put_list(&in, "pre_tokenizer", "pretokenizers", pre_tokenizers, COUNT(pre_tokenizers));
    put_list(&in, "decoder", "decoders", decoders, COUNT(decoders));
    put(&in, ",\"model\":");
    put_filled(&in, models[take(&in) % COUNT(models)]);
    put(&in, "}");
    qp_tokenizer *t = qpi_tokenizer_parse("input", in.json.data, in.json.count, &e);
    if (!t != (e.code != QP_OK)) __builtin_trap();
    if (t) {
        qp_ids     ids = {0};
        qpi_piece  item = {.text = data + in.at, .size = size - in.at, .whole = true, .first = true};
        qpi_pieces pieces = {.items = &item, .count = 1, .capacity = 1};
        qpi_pieces_encode(t, NULL, &pieces, size & 1, &ids, &e);
        for (int64_t i = 0; i < ids.count; i++)
            if (!qpi_vocab_at(&t->vocab, ids.data[i])) __builtin_trap();
        decode_both(ctx, t, &ids);
        qp_clear(ctx);
        qp_ids_free(&ids);
    }
    qpi_tokenizer_free(t);
    qpi_buffer_free(&in.json);
    return 0;
}
