/* The decoders of tokenizer.json. Each has a reader and a function that turns a token's text into another; the table
 * at the end names them. */
#define _GNU_SOURCE /* memmem */
#include <stdlib.h>
#include <string.h>

#include "data/decoder.h"
#include "data/vocab.h"
#include "format/os.h"
#include "format/utf8.h"

#define APPLY(name) static void name(const qpi_decode_stage *s, qpi_spoken token, qpi_buffer *out, qpi_error *e)
#define UNUSED (void)s, (void)e

static bool read_nothing(qpi_decode_stage *s, const qpi_json *at) {
    (void)s, (void)at;
    return true;
}

static void put_around_each(qpi_buffer *out, const char *text, size_t n, const char *to, size_t to_size) {
    qpi_buffer_put(out, to, to_size);
    for (size_t at = 0, step; at < n; at += step) {
        step = qpi_utf8_valid(text + at, n - at);
        step += !step;
        qpi_buffer_put(out, text + at, step);
        qpi_buffer_put(out, to, to_size);
    }
}

/* Appends a text with `to` for every `from`; an empty one is around every character. */
static void put_replaced(qpi_buffer *out, const char *text, size_t n, const char *from, size_t from_size,
                         const char *to, size_t to_size) {
    const char *end = text + n, *p;
    if (!from_size) {
        put_around_each(out, text, n, to, to_size);
        return;
    }
    while (n && (p = memmem(text, (size_t)(end - text), from, from_size))) {
        qpi_buffer_put(out, text, (size_t)(p - text));
        qpi_buffer_put(out, to, to_size);
        text = p + from_size;
    }
    qpi_buffer_put(out, text, (size_t)(end - text));
}

/* ---- ByteLevel, ByteFallback, Fuse --------------------------------------------------------- */

APPLY(apply_byte_level) {
    UNUSED;
    size_t before = out->count;
    if (!qpi_buffer_reserve(out, token.size)) return;
    for (size_t at = 0, step; at < token.size; at += step) {
        uint32_t code = UINT32_MAX; /* what is not UTF-8 stands for no byte */
        step = qpi_utf8_decode(token.text + at, token.size - at, &code);
        int byte = qpi_code_to_byte(code);
        if (byte < 0) { /* a token that is no such text stands for itself */
            out->count = before;
            qpi_buffer_put(out, token.text, token.size);
            return;
        }
        out->data[out->count++] = (char)byte;
    }
}

static int hex(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

APPLY(apply_byte_fallback) {
    UNUSED;
    const char *t = token.text;
    if (token.size == 6 && memcmp(t, "<0x", 3) == 0 && t[5] == '>' && hex(t[3]) >= 0 && hex(t[4]) >= 0)
        qpi_buffer_put(out, &(char){(char)(hex(t[3]) << 4 | hex(t[4]))}, 1);
    else qpi_buffer_put(out, t, token.size);
}

APPLY(apply_fuse) {
    UNUSED;
    qpi_buffer_put(out, token.text, token.size);
}

/* ---- Replace, Strip -------------------------------------------------------------------------- */

static bool read_replace(qpi_decode_stage *s, const qpi_json *at) {
    bool literal;
    if (!qpi_json_copy(at, "content", &s->text, &s->text_size) ||
        !qpi_json_pattern(at, &s->pattern, &s->pattern_size, &literal))
        return false;
    if (literal && s->pattern_size) return true;
    s->regex = qpi_json_compile(at, s->pattern, literal);
    return s->regex != NULL;
}

APPLY(apply_replace) {
    if (!s->regex) {
        put_replaced(out, token.text, token.size, s->pattern, s->pattern_size, s->text, s->text_size);
        return;
    }
    struct qpi_regex_state *state = NULL;
    qpi_finder              f;
    size_t                  done = 0, begin, end;
    if (!token.size) return; /* nothing matches there, as in `tokenizers` */
    bool ok = qpi_find_in(&f, s->regex, &state, (const uint8_t *)token.text, token.size, e);
    while (ok && qpi_find_next(&f, &begin, &end) > 0) {
        qpi_buffer_put(out, token.text + done, begin - done);
        qpi_buffer_put(out, s->text, s->text_size);
        done = end;
    }
    qpi_buffer_put(out, token.text + done, token.size - done);
    qpi_regex_state_free(state);
}

static bool read_strip(qpi_decode_stage *s, const qpi_json *at) {
    uint32_t code;
    if (!qpi_json_character(at, "content", &code) ||
        !qpi_json_integer(at, "start", QPI_REQUIRED, 0, INT32_MAX, &s->start) ||
        !qpi_json_integer(at, "stop", QPI_REQUIRED, 0, INT32_MAX, &s->stop))
        return false;
    return qpi_json_copy(at, "content", &s->text, &s->text_size);
}

APPLY(apply_strip) {
    (void)e;
    const char *p = token.text, *end = p + token.size;
    size_t      n = s->text_size;
    for (int64_t i = 0; i < s->start && (size_t)(end - p) >= n && memcmp(p, s->text, n) == 0; i++) p += n;
    for (int64_t i = 0; i < s->stop && (size_t)(end - p) >= n && memcmp(end - n, s->text, n) == 0; i++)
        end -= n;
    qpi_buffer_put(out, p, (size_t)(end - p));
}

/* ---- Metaspace, WordPiece, BPEDecoder ---------------------------------------------------------- */

static bool read_metaspace(qpi_decode_stage *s, const qpi_json *at) {
    const char *scheme = "always";
    uint32_t    code;
    bool        prefix = true;
    if (!qpi_json_character(at, "replacement", &code) ||
        !qpi_json_string(at, "prepend_scheme", QPI_OPTIONAL, &scheme) ||
        !qpi_json_boolean(at, "add_prefix_space", QPI_OPTIONAL, &prefix))
        return false;
    s->keep = !prefix || strcmp(scheme, "never") == 0;
    return qpi_json_copy(at, "replacement", &s->pattern, &s->pattern_size);
}

APPLY(apply_metaspace) {
    (void)e;
    put_replaced(out, token.text, token.size, s->pattern, s->pattern_size, " ",
                 token.index == 0 && !s->keep ? 0 : 1);
}

static bool read_wordpiece(qpi_decode_stage *s, const qpi_json *at) {
    s->cleanup = true;
    return qpi_json_copy(at, "prefix", &s->text, &s->text_size) &&
           qpi_json_boolean(at, "cleanup", QPI_OPTIONAL, &s->cleanup);
}

/* Spaces before signs, and English contractions, as they are written: each in turn, in what has been appended from
 * `start` on. */
static void clean_up(qpi_buffer *out, size_t start) {
    static const char *const pairs[][2] = {
        {" .", "."},   {" ?", "?"},           {" !", "!"},   {" ,", ","},     {" ' ", "'"},   {" n't", "n't"},
        {" 'm", "'m"}, {" do not", " don't"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
    size_t at = start, end = out->count;
    while (at < end && (out->data[at] != ' ' || at + 1 == end || !strchr(".?!,'nd", out->data[at + 1]))) at++;
    if (at == end) return; /* mostly */
    qpi_buffer a = {0}, b = {0};
    qpi_buffer_put(&a, out->data + start, end - start);
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        b.count = 0;
        put_replaced(&b, a.data, a.count, pairs[i][0], strlen(pairs[i][0]), pairs[i][1], strlen(pairs[i][1]));
        qpi_buffer swap = a;
        a = b;
        b = swap;
    }
    out->count = start;
    qpi_buffer_put(out, a.data, a.count);
    out->failed |= a.failed | b.failed;
    qpi_buffer_free(&a);
    qpi_buffer_free(&b);
}

APPLY(apply_wordpiece) {
    (void)e;
    size_t start = out->count;
    if (token.index) {
        if (token.size >= s->text_size && memcmp(token.text, s->text, s->text_size) == 0) {
            token.text += s->text_size;
            token.size -= s->text_size;
        } else {
            qpi_buffer_put(out, " ", 1);
        }
    }
    qpi_buffer_put(out, token.text, token.size);
    if (s->cleanup) clean_up(out, start);
}

static bool read_bpe(qpi_decode_stage *s, const qpi_json *at) {
    return qpi_json_copy(at, "suffix", &s->text, &s->text_size);
}

APPLY(apply_bpe) {
    (void)e;
    put_replaced(out, token.text, token.size, s->text, s->text_size, " ", token.last ? 0 : 1);
}

/* ---- CTC ------------------------------------------------------------------------------------------ */

static bool read_ctc(qpi_decode_stage *s, const qpi_json *at) {
    return qpi_json_copy(at, "pad_token", &s->pad, &s->pad_size) &&
           qpi_json_copy(at, "word_delimiter_token", &s->delimiter, &s->delimiter_size) &&
           qpi_json_boolean(at, "cleanup", QPI_REQUIRED, &s->cleanup);
}

APPLY(apply_ctc) {
    (void)e;
    qpi_buffer a = {0};
    put_replaced(&a, token.text, token.size, s->pad, s->pad_size, "", 0);
    if (s->cleanup) {
        clean_up(&a, 0);
        put_replaced(out, a.data, a.count, s->delimiter, s->delimiter_size, " ", 1);
    } else {
        qpi_buffer_put(out, a.data, a.count);
    }
    out->failed |= a.failed;
    qpi_buffer_free(&a);
}

/* ---- The table -------------------------------------------------------------------------------------- */

/* name, joins all tokens, asks for the last one, drops empty ones, reader, apply */
static const qpi_decode_type types[] = {
    {"ByteLevel", true, false, false, read_nothing, apply_byte_level},
    {"ByteFallback", false, false, false, read_nothing, apply_byte_fallback},
    {"Fuse", true, false, false, read_nothing, apply_fuse},
    {"Replace", false, false, false, read_replace, apply_replace},
    {"Strip", false, false, false, read_strip, apply_strip},
    {"Metaspace", false, false, false, read_metaspace, apply_metaspace},
    {"WordPiece", false, false, false, read_wordpiece, apply_wordpiece},
    {"BPEDecoder", false, true, false, read_bpe, apply_bpe},
    {"CTC", false, false, true, read_ctc, apply_ctc},
};

static bool read_member(void *to, const qpi_json *at) { return qpi_decoder_read(to, at); }

bool qpi_decoder_read(qpi_decoder *d, const qpi_json *at) {
    const char *name;
    if (!qpi_json_string(at, "type", QPI_REQUIRED, &name)) return false;
    if (strcmp(name, "Sequence") == 0) return qpi_json_each(at, "decoders", d, read_member);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        if (strcmp(types[i].name, name) != 0) continue;
        if (d->count == QPI_MAX_COMPONENTS) return qpi_unsupported(at, "so long a sequence");
        qpi_decode_stage *s = &d->stages[d->count++];
        s->type = &types[i];
        return types[i].read(s, at);
    }
    return qpi_unsupported(at, name);
}

void qpi_decoder_finish(qpi_decoder *d) {
    d->none = d->count == 0;
    d->bytes = d->count == 1 && d->stages[0].type->apply == apply_byte_level;
    d->strip = -1;
    d->joined = 0;
    while (d->joined < d->count && !d->stages[d->joined].type->joins) d->joined++;
    if (d->joined < d->count) d->joined++;
    for (int i = 0; i < d->count; i++) {
        const qpi_decode_type *type = d->stages[i].type;
        d->distinct |= type->apply == apply_ctc;
        if (i < d->joined) d->needs_last |= type->needs_last;
        else if (type->apply == apply_strip && d->strip < 0) d->strip = i;
        else if (type->apply != apply_fuse) d->whole = true;
    }
}

void qpi_decoder_free(qpi_decoder *d) {
    for (int i = 0; i < d->count; i++) {
        qpi_decode_stage *s = &d->stages[i];
        free(s->text);
        free(s->pattern);
        free(s->pad);
        free(s->delimiter);
        qpi_regex_free(s->regex);
    }
    *d = (qpi_decoder){0};
}
