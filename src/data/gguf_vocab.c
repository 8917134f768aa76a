/* The vocabularies of GGUF files (tokenizer.ggml.*): "gpt2" (bytes and merges), "llama" (SentencePiece's pairs by
 * score), "t5" (its Unigram) and "bert" (WordPiece). */
#define _POSIX_C_SOURCE 200809L
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "data/bpe.h"
#include "data/made.h"
#include "format/gguf.h"
#include "format/os.h"

#define KEY "tokenizer.ggml."

typedef struct {
    qpi_made m;
    qp_file *file;
} reading;

static bool fail(reading *r, qp_code code, const char *key, const char *what) {
    return qpi_fail(r->m.error, code, "%s: %s: %s", r->m.name, key, what) == QP_OK;
}

static bool out_of_memory(reading *r) { return qpi_fail_memory(r->m.error, r->m.name) == QP_OK; }

static int64_t integer(const reading *r, const char *key, int64_t fallback) {
    qpi_gguf_integer(qpi_gguf_find(r->file, key), 0, &fallback);
    return fallback;
}

/* A text value, "" if there is none; in out, cut. */
static const char *text_of(const reading *r, const char *key, char out[64]) {
    qpi_gguf_texts texts = qpi_gguf_texts_of(qpi_gguf_find(r->file, key));
    const char    *text;
    size_t         n;
    out[0] = 0;
    if (!qpi_gguf_text(&texts, &text, &n) || n >= 64) return out;
    memcpy(out, text, n);
    out[n] = 0;
    return out;
}

/* ---- Tokens ------------------------------------------------------------------------------------ */

/* WordPiece as ggml writes it: U+2581 begins a word, what does not begin one has no mark. */
static bool wordpiece_token(reading *r, const char *text, size_t n, qpi_piece_type type) {
    if (type == QPI_SPECIAL) return qpi_made_token(&r->m, text, n, 0, type);
    if (n > 3 && memcmp(text, "\xE2\x96\x81", 3) == 0) return qpi_made_token(&r->m, text + 3, n - 3, 0, type);
    qpi_buffer *inside = &r->m.json;
    inside->count = 0;
    qpi_put_text(inside, "##");
    qpi_buffer_put(inside, text, n);
    return inside->failed ? out_of_memory(r) : qpi_made_token(&r->m, inside->data, inside->count, 0, type);
}

static bool read_tokens(reading *r, bool needs_scores) {
    const qpi_gguf_value *types = qpi_gguf_find(r->file, KEY "token_type"),
                         *scores = qpi_gguf_find(r->file, KEY "scores");
    qpi_gguf_texts texts = qpi_gguf_texts_of(qpi_gguf_find(r->file, KEY "tokens"));
    const char    *text;
    size_t         n;
    for (uint64_t i = 0; qpi_gguf_text(&texts, &text, &n); i++) {
        int64_t type = QPI_NORMAL;
        double  score = 0;
        if (types && (!qpi_gguf_integer(types, i, &type) || type < 0 || type > QPI_BYTE))
            return fail(r, QP_ERR_FORMAT, KEY "token_type", "expected a type from 1 to 6 for every token");
        if (type == 0) type = QPI_NORMAL;
        if (needs_scores && (!qpi_gguf_number(scores, i, &score) || !isfinite(score)))
            return fail(r, QP_ERR_FORMAT, KEY "scores", "expected a finite number for every token");
        bool ok = r->m.t->kind == &qpi_tokenizer_wordpiece
                      ? wordpiece_token(r, text, n, (qpi_piece_type)type)
                      : qpi_made_token(&r->m, text, n, score, (qpi_piece_type)type);
        if (!ok) return false;
    }
    return true;
}

/* ---- gpt2 ---------------------------------------------------------------------------------------- */

static bool read_merges(reading *r) {
    qpi_gguf_texts   texts = qpi_gguf_texts_of(qpi_gguf_find(r->file, KEY "merges"));
    const qpi_vocab *v = &r->m.t->vocab;
    const char      *text;
    size_t           n;
    uint32_t         rank = 0;
    if (!(r->m.t->model = qpi_bpe_new(r->m.error))) return false;
    for (; qpi_gguf_text(&texts, &text, &n); rank++) {
        const char *space = n > 1 ? memchr(text + 1, ' ', n - 1) : NULL;
        size_t      cut = space ? (size_t)(space - text) : n, rest = space ? n - cut - 1 : 0;
        r->m.json.count = 0;
        qpi_buffer_put(&r->m.json, text, cut);
        qpi_buffer_put(&r->m.json, text + n - rest, rest);
        if (r->m.json.failed) return out_of_memory(r);
        int32_t a = qpi_vocab_find(v, text, cut), b = qpi_vocab_find(v, text + n - rest, rest);
        int32_t id = qpi_vocab_find(v, r->m.json.data, r->m.json.count);
        if (a < 0 || b < 0 || id < 0)
            return qpi_fail(r->m.error, QP_ERR_FORMAT,
                            "%s: " KEY
                            "merges[%u]: expected two tokens of the vocabulary whose union is one too",
                            r->m.name, (unsigned)rank) == QP_OK;
        if (!qpi_bpe_merge(r->m.t->model, a, b, rank, id, r->m.error)) return false;
    }
    return true;
}

#define GPT2 QPI_GPT2_PATTERN
#define TAIL "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define LLAMA3 "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}" TAIL
#define QWEN2 "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}" TAIL
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define TEKKEN \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER \
    "*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define GPT4O \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\\r\\n\\p{L}\\p{N}]?" UPPER \
    "+" LOWER "*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\\p{N}{1,3}| " \
              "?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define DEEPSEEK3 \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+" \
    "| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define LATIN \
    "\\s?[A-Za-z\\x{B5}\\x{C0}-\\x{D6}\\x{D8}-\\x{F6}\\x{F8}-\\x{1BA}\\x{1BC}-\\x{1BF}\\x{1C4}-\\x{293}" \
    "\\x{295}-\\x{2AF}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37B}-\\x{37D}\\x{37F}\\x{386}\\x{388}-" \
    "\\x{38A}\\x{38C}\\x{38E}-\\x{3A1}\\x{3A3}-\\x{3F5}\\x{3F7}-\\x{481}\\x{48A}-\\x{52F}\\x{531}-" \
    "\\x{556}\\x{10A0}-\\x{10C5}\\x{13A0}-\\x{13F5}\\x{13F8}-\\x{13FD}\\x{1C90}-\\x{1CBA}\\x{1CBD}-" \
    "\\x{1CBF}\\x{1D00}-\\x{1D2B}\\x{1D6B}-\\x{1D77}\\x{1D79}-\\x{1D9A}\\x{1E00}-\\x{1F15}\\x{1F18}-" \
    "\\x{1F1D}\\x{1F20}-\\x{1F45}\\x{1F48}-\\x{1F4D}\\x{1F50}-\\x{1F57}\\x{1F59}\\x{1F5B}\\x{1F5D}" \
    "\\x{1F5F}-\\x{1F7D}\\x{1F80}-\\x{1FB4}\\x{1FB6}-\\x{1FBC}\\x{1FBE}\\x{1FC2}-\\x{1FC4}\\x{1FC6}-" \
    "\\x{1FCC}\\x{1FD0}-\\x{1FD3}\\x{1FD6}-\\x{1FDB}\\x{1FE0}-\\x{1FEC}\\x{1FF2}-\\x{1FF4}\\x{1FF6}-" \
    "\\x{1FFC}\\x{2102}\\x{2107}\\x{210A}-\\x{2113}\\x{2115}\\x{2119}-\\x{211D}\\x{2124}\\x{2126}" \
    "\\x{2128}\\x{212A}-\\x{212D}\\x{212F}-\\x{2134}\\x{2139}\\x{213C}-\\x{213F}\\x{2145}-\\x{2149}" \
    "\\x{214E}\\x{2183}\\x{2184}\\x{2C00}-\\x{2C7B}\\x{2C7E}-\\x{2CE4}\\x{2CEB}-\\x{2CEE}\\x{2CF2}" \
    "\\x{2CF3}\\x{A640}-\\x{A66D}\\x{A680}-\\x{A69B}\\x{A722}-\\x{A76F}\\x{A771}-\\x{A787}\\x{A78B}-" \
    "\\x{A78E}\\x{AB70}-\\x{ABBF}\\x{FB00}-\\x{FB06}\\x{FB13}-\\x{FB17}\\x{FF21}-\\x{FF3A}\\x{FF41}-" \
    "\\x{FF5A}\\x{10400}-\\x{1044F}\\x{104B0}-\\x{104D3}\\x{104D8}-\\x{104FB}\\x{10C80}-\\x{10CB2}" \
    "\\x{10CC0}-\\x{10CF2}\\x{118A0}-\\x{118DF}\\x{1E900}-\\x{1E943}]+"
#define WIDE_SIGNS "\\s?[!-/:-~\\x{FF01}-\\x{FF0F}\\x{FF1A}-\\x{FF5E}\\x{2018}-\\x{201F}\\x{3000}-\\x{3002}]+"
#define ASIAN "[\\x{4E00}-\\x{9FA5}\\x{800}-\\x{4E00}\\x{AC00}-\\x{D7FF}]+"
#define JAPANESE "[\\x{4E00}-\\x{9FA5}\\x{3040}-\\x{309F}\\x{30A0}-\\x{30FF}]+"
#define NO_SIGNS " ?[^(\\s|.,!?\\x{2026}\\x{3002}\\x{FF0C}\\x{3001}\\x{964}\\x{6D4}\\x{60C})]+"

/* How text is cut, by the names that converters write; each pattern cuts what the ones before left. */
static const struct {
    const char *names; /* between spaces */
    const char *patterns[6];
    bool whole, begin; /* a word that is a token is that token; a beginning, unless the file says otherwise */
} cuts[] = {
    {" gpt-2 phi-2 jina-es jina-de jina-v2-es jina-v2-de gigachat a.x-4.0 mellum modern-bert mpt olmo jais "
     "trillion "
     "granite-docling jina-v1-en jina-v2-code roberta-bpe ",
     {GPT2},
     false,
     false},
    {" smollm starcoder refact command-r codeshell exaone minerva-7b mellum2 ", {"\\p{N}", GPT2}, false, false},
    {" llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano ", {LLAMA3}, true, true},
    {" dbrx smaug-bpe chatglm-bpe glm4 glm5 ", {LLAMA3}, false, false},
    {" qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2 ",
     {QWEN2},
     false,
     false},
    {" deepseek-llm ", {"[\\r\\n]", LATIN, WIDE_SIGNS, "\\s+$", ASIAN, "\\p{N}+"}, false, false},
    {" deepseek-coder ", {"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", ASIAN, "\\p{N}"}, false, false},
    {" deepseek-v3 hunyuan-dense joyai-llm hy_v4 ", {"\\p{N}{1,3}", JAPANESE, DEEPSEEK3}, false, false},
    {" tekken ", {TEKKEN}, true, true},
    {" gpt-4o llama4 kanana2 talkie minimax-m2 ", {GPT4O}, false, false},
    {" tiny_aya cohere2moe ", {"\\d{1,3}(?=(?:\\d{3})*\\b)", GPT4O}, false, false},
    {" falcon ", {"[\\p{P}\\$\\+<=>\\^~\\|`]+", GPT2, "[0-9][0-9][0-9]"}, false, false},
    {" bloom poro-chat gpt3-finnish ", {NO_SIGNS}, false, false},
    {" viking ", {NO_SIGNS, "\\p{N}"}, false, false},
    {" qwen35 ",
     {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| "
      "?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*"
      "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
     false,
     false},
    {" bailingmoe bailingmoe2 llada-moe ",
     {"'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|\\s*[\\r\\n]"
      "|\\s+(?!\\S)|\\s+"},
     false,
     false},
    {" seed-coder ",
     {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1}| "
      "?[^\\s\\p{L}\\p{N}\\r\\n]+|\\s*[\\r\\n]+"
      "|\\s+(?!\\S)|\\s+"},
     false,
     false},
    {" default ", {"[\\p{P}\\$\\+<=>\\^~\\|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]"}, false, false},
};
#define CUTS (sizeof cuts / sizeof *cuts)

static size_t find_cut(const char *pre) {
    char name[70] = " ";
    strcat(strcat(name, *pre ? pre : "default"), " ");
    size_t i = 0;
    while (i < CUTS && (!strstr(cuts[i].names, name) || strchr(pre, ' '))) i++;
    return i;
}

const char *qpi_gguf_cut_name(const char *const *patterns, int count, bool whole) {
    for (size_t i = 0; i < CUTS; i++) {
        int same = 0;
        while (same < count && cuts[i].patterns[same] && !strcmp(cuts[i].patterns[same], patterns[same]))
            same++;
        if (same == count && (count == 6 || !cuts[i].patterns[count]) && cuts[i].whole == whole)
            return cuts[i].names + 1;
    }
    return NULL;
}

static void put_cut(qpi_buffer *out, const char *pattern) {
    if (strcmp(pattern, "\\p{N}") == 0) {
        qpi_put_text(out, "{\"type\":\"Digits\",\"individual_digits\":true},");
        return;
    }
    qpi_put_text(out, "{\"type\":\"Split\",\"pattern\":{\"Regex\":");
    qpi_json_print_string(out, pattern, strlen(pattern));
    qpi_put_text(out, "},\"behavior\":\"Isolated\",\"invert\":false},");
}

#define LEVEL "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":"

static bool gpt2(reading *r) {
    char       name[64], shown[QPI_SHOWN];
    qpi_buffer pieces = {0};
    text_of(r, KEY "pre", name);
    size_t which = find_cut(name);
    if (which == CUTS) return fail(r, QP_ERR_UNSUPPORTED, KEY "pre", qpi_shown(shown, name, strlen(name)));
    for (int i = 0; i < 6 && cuts[which].patterns[i]; i++) put_cut(&pieces, cuts[which].patterns[i]);
    qpi_buffer_put(&pieces, "", 1);
    bool ok = pieces.failed
                  ? out_of_memory(r)
                  : qpi_made_part(&r->m, QPI_PART_PRETOKENIZER, "{\"type\":\"Sequence\",\"pretokenizers\":[",
                                  pieces.data, LEVEL "false}]}", NULL);
    qpi_buffer_free(&pieces);
    r->m.options.ignore_merges = cuts[which].whole;
    if (integer(r, KEY "add_bos_token", cuts[which].begin)) r->m.begin = integer(r, KEY "bos_token_id", -1);
    if (integer(r, KEY "add_eos_token", 0)) r->m.end = integer(r, KEY "eos_token_id", -1);
    return ok && qpi_made_part(&r->m, QPI_PART_DECODER, LEVEL "true}", NULL) && read_tokens(r, false) &&
           read_merges(r) && qpi_made_around(&r->m, r->m.begin, r->m.end, false);
}

/* ---- llama, t5, bert -------------------------------------------------------------------------------- */

static bool sentencepiece(reading *r, bool unigram) {
    const qpi_gguf_value *map = qpi_gguf_find(r->file, KEY "precompiled_charsmap");
    qpi_made             *m = &r->m;
    m->prefix_space = integer(r, KEY "add_space_prefix", 1);
    m->single_spaces = integer(r, KEY "remove_extra_whitespaces", 0);
    m->byte_fallback = true;
    if (map && map->array && (map->kind == QPI_GGUF_U8 || map->kind == QPI_GGUF_I8)) {
        m->charsmap = map->data;
        m->charsmap_size = map->count;
    }
    if (integer(r, KEY "add_bos_token", !unigram)) m->begin = integer(r, KEY "bos_token_id", 1);
    if (integer(r, KEY "add_eos_token", unigram)) m->end = integer(r, KEY "eos_token_id", unigram ? 1 : 2);
    m->options.unknown_id = integer(r, KEY "unknown_token_id", -1);
    return read_tokens(r, true) && qpi_made_sentencepiece(m);
}
static bool llama(reading *r) { return sentencepiece(r, false); }
static bool t5(reading *r) { return sentencepiece(r, true); }

static bool bert(reading *r) {
    bool    lower = integer(r, KEY "normalizer.lowercase", 1),
            accents = integer(r, KEY "normalizer.strip_accents", lower);
    int64_t begin = integer(r, KEY "cls_token_id", integer(r, KEY "bos_token_id", 101));
    int64_t end =
        integer(r, KEY "seperator_token_id", integer(r, KEY "eos_token_id", 102)); /* (the key is so) */
    int64_t unknown = integer(r, KEY "unknown_token_id", 100);
    if (!read_tokens(r, false)) return false;
    const qpi_token *token = qpi_vocab_at(&r->m.t->vocab, unknown);
    r->m.options.unknown = token ? strndup(token->text, token->text_size) : strdup("[UNK]");
    r->m.begin = begin;
    if (!r->m.options.unknown) return out_of_memory(r);
    return qpi_made_part(&r->m, QPI_PART_NORMALIZER,
                         "{\"type\":\"BertNormalizer\",\"clean_text\":true,\"handle_chinese_chars\":true,"
                         "\"strip_accents\":",
                         accents ? "true" : "false", ",\"lowercase\":", lower ? "true}" : "false}", NULL) &&
           qpi_made_part(&r->m, QPI_PART_PRETOKENIZER, "{\"type\":\"BertPreTokenizer\"}", NULL) &&
           qpi_made_part(&r->m, QPI_PART_DECODER, "{\"type\":\"WordPiece\",\"prefix\":\"##\",\"cleanup\":true}",
                         NULL) &&
           qpi_made_around(&r->m, begin, end, true);
}

/* ---- The file ------------------------------------------------------------------------------------------ */

static const struct {
    const char               *name;
    const qpi_tokenizer_kind *kind;
    bool (*read)(reading *r);
} models[] = {
    {"gpt2", &qpi_tokenizer_bpe, gpt2},
    {"llama", &qpi_tokenizer_bpe, llama},
    {"t5", &qpi_tokenizer_unigram, t5},
    {"bert", &qpi_tokenizer_wordpiece, bert},
};

/* Tokens that end a text or a turn: those that the file names, and those that chats are known to end with. */
static void read_ends(reading *r) {
    static const char *const keys[] = {KEY "eos_token_id", KEY "eot_token_id", KEY "eom_token_id"};
    static const char *const names[] = {"<|eot_id|>",         "<|im_end|>",     "<|end|>",    "<end_of_turn>",
                                        "<|eom_id|>",         "<|endoftext|>",  "<|return|>", "<|call|>",
                                        "<end_of_utterance>", "<|end_of_text|>"};
    for (size_t i = 0; i < 3; i++) qpi_tokenizer_add_end(r->m.t, integer(r, keys[i], -1));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        int32_t id = qp_tokenizer_id(r->m.t, names[i]);
        if (qp_tokenizer_is_special(r->m.t, id)) qpi_tokenizer_add_end(r->m.t, id);
    }
    int64_t begin = integer(r, KEY "bos_token_id", -1);
    if (qpi_vocab_at(&r->m.t->vocab, begin)) r->m.t->begin = (int32_t)begin;
}

qp_tokenizer *qpi_tokenizer_gguf(const char *path, qpi_error *e) {
    reading r = {.file = qpi_file_open(path, QPI_MAP, e)};
    char    name[64], shown[QPI_SHOWN];
    size_t  i = 0;
    if (!r.file) return NULL;
    text_of(&r, KEY "model", name);
    while (i < sizeof models / sizeof *models && strcmp(models[i].name, name) != 0) i++;
    const qpi_gguf_value *tokens = qpi_gguf_find(r.file, KEY "tokens");
    qp_tokenizer         *t = NULL;
    if (!*name || !tokens)
        qpi_fail(e, QP_ERR_FORMAT, "%s: it has no vocabulary (" KEY "model, " KEY "tokens)", path);
    else if (i == sizeof models / sizeof *models)
        qpi_fail(e, QP_ERR_UNSUPPORTED, "%s: " KEY "model: %s is not supported", path,
                 qpi_shown(shown, name, strlen(name)));
    else if (qpi_made_start(&r.m, path, models[i].kind, tokens->count, e)) {
        bool ok = models[i].read(&r);
        if (ok) read_ends(&r);
        t = qpi_made_finish(&r.m, ok);
    }
    qp_file_close(r.file);
    return t;
}
