/* The normalizers of tokenizer.json. Each has a reader, which takes its members, and an apply function; the table
 * at the end names them. */
#define _GNU_SOURCE /* memmem */
#include <stdlib.h>
#include <string.h>

#include "data/component.h"
#include "data/normalize.h"
#include "data/unicode.h"
#include "data/vocab.h"
#include "format/os.h"
#include "format/utf8.h"

#define APPLY(name) \
    static void name(const qpi_normal_step *s, qpi_normal_state *state, size_t index, const uint8_t *text, \
                     size_t n, qpi_buffer *out, size_t *lead)
#define UNUSED (void)s, (void)state, (void)index, (void)lead

static bool read_nothing(qpi_normal_step *s, const qpi_json *at) {
    (void)s, (void)at;
    return true;
}

static void put_code(qpi_buffer *out, uint32_t code) {
    char bytes[4];
    qpi_buffer_put(out, bytes, qpi_utf8_encode(code, bytes));
}

/* What a code point becomes: up to two. Bytes that are not UTF-8 are not asked about. */
typedef struct {
    uint32_t codes[2];
    int      count;
} mapped;

static mapped one(uint32_t code) { return (mapped){{code, 0}, 1}; }
static const mapped gone = {{0, 0}, 0};

/* Appends a text with every code point mapped. *lead: where the first that stays begins. */
static inline void map_codes(const uint8_t *text, size_t n, qpi_buffer *out, size_t *lead,
                             mapped (*map)(uint32_t code)) {
    size_t start = out->count;
    qpi_buffer_reserve(out, n); /* all at once, mostly */
    for (size_t at = 0, bytes; at < n; at += bytes) {
        uint32_t code = 0;
        bytes = qpi_utf8_decode(text + at, n - at, &code);
        mapped to = bytes ? map(code) : one(code);
        if (!bytes) bytes = 1;
        if (to.count && out->count == start) *lead = at;
        if (to.count == 1 && to.codes[0] == code) {
            qpi_buffer_put(out, text + at, bytes);
            continue;
        }
        for (int i = 0; i < to.count; i++) put_code(out, to.codes[i]);
    }
}

/* ---- Normal forms --------------------------------------------------------------------- */

APPLY(apply_form) {
    UNUSED;
    qpi_normal_form_of(s->form, text, n, out);
}
static bool read_nfc(qpi_normal_step *s, const qpi_json *at) { return (void)at, s->form = QPI_NFC, true; }
static bool read_nfd(qpi_normal_step *s, const qpi_json *at) { return (void)at, s->form = QPI_NFD, true; }
static bool read_nfkc(qpi_normal_step *s, const qpi_json *at) { return (void)at, s->form = QPI_NFKC, true; }
static bool read_nfkd(qpi_normal_step *s, const qpi_json *at) { return (void)at, s->form = QPI_NFKD, true; }

/* ---- Lowercase, StripAccents, Nmt ------------------------------------------------------ */

static mapped lower(uint32_t code) {
    mapped to = {.count = 1};
    to.codes[0] = qpi_code_lower(code, &to.codes[1]);
    to.count += to.codes[1] != 0;
    return to;
}

static void put_lower(const uint8_t *text, size_t n, qpi_buffer *out) {
    size_t at = 0, lead = 0;
    while (at < n) {
        if (!qpi_buffer_reserve(out, n - at)) return;
        for (; at < n && text[at] < 0x80; at++)
            out->data[out->count++] = (char)(text[at] >= 'A' && text[at] <= 'Z' ? text[at] | 0x20 : text[at]);
        size_t end = at;
        while (end < n && text[end] >= 0x80) end++;
        map_codes(text + at, end - at, out, &lead, lower);
        at = end;
    }
}

APPLY(apply_lower) {
    UNUSED;
    put_lower(text, n, out);
}

static mapped without_mark(uint32_t code) { return qpi_code_flags(code) & QPI_MARK ? gone : one(code); }
APPLY(apply_strip_accents) {
    UNUSED;
    map_codes(text, n, out, lead, without_mark);
}

typedef struct {
    uint32_t first, last;
} block;

static bool is_within(uint32_t code, const block *blocks, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (code >= blocks[i].first && code <= blocks[i].last) return true;
    return false;
}
#define WITHIN(code, blocks) is_within(code, blocks, sizeof blocks / sizeof *blocks)

static mapped nmt(uint32_t code) {
    static const block control[] = {{1, 8}, {0xB, 0xB}, {0xE, 0x1F}, {0x7F, 0x7F}, {0x8F, 0x8F}, {0x9F, 0x9F}};
    static const block blank[] = {{0x9, 0xA},       {0xC, 0xD},       {0x1680, 0x1680}, {0x200B, 0x200F},
                                  {0x2028, 0x2029}, {0x2581, 0x2581}, {0xFEFF, 0xFEFF}, {0xFFFD, 0xFFFD}};
    if (WITHIN(code, control)) return gone;
    return one(WITHIN(code, blank) ? ' ' : code);
}
APPLY(apply_nmt) {
    UNUSED;
    map_codes(text, n, out, lead, nmt);
}

/* ---- BertNormalizer -------------------------------------------------------------------- */

static bool read_bert(qpi_normal_step *s, const qpi_json *at) {
    s->clean = s->chinese = s->lower = true;
    if (!qpi_json_boolean(at, "clean_text", QPI_OPTIONAL, &s->clean) ||
        !qpi_json_boolean(at, "handle_chinese_chars", QPI_OPTIONAL, &s->chinese) ||
        !qpi_json_boolean(at, "lowercase", QPI_OPTIONAL, &s->lower))
        return false;
    s->accents = s->lower;
    return qpi_json_boolean(at, "strip_accents", QPI_OPTIONAL, &s->accents);
}

/* The blocks that it puts spaces around. */
static bool is_chinese(uint32_t code) {
    static const block blocks[] = {{0x4E00, 0x9FFF},   {0x3400, 0x4DBF}, {0x20000, 0x2A6DF}, {0x2A700, 0x2B81F},
                                   {0x2B920, 0x2CEAF}, {0xF900, 0xFAFF}, {0x2F800, 0x2FA1F}};
    return WITHIN(code, blocks);
}

/* Drops control characters, makes white space spaces, sets Chinese characters apart. */
static void put_clean(const qpi_normal_step *s, const uint8_t *text, size_t n, qpi_buffer *out) {
    for (size_t at = 0, bytes; at < n; at += bytes) {
        uint32_t code = UINT32_MAX;
        bytes = qpi_utf8_decode(text + at, n - at, &code);
        if (!bytes) bytes = 1;
        if (s->clean && (code == 0 || code == 0xFFFD || (qpi_code_flags(code) & QPI_CONTROL))) continue;
        bool space = s->clean && qpi_code_class(code) == QPI_SPACE, apart = s->chinese && is_chinese(code);
        if (space || apart) qpi_buffer_put(out, " ", 1);
        if (!space) qpi_buffer_put(out, text + at, bytes);
        if (apart) qpi_buffer_put(out, " ", 1);
    }
}

static mapped without_nonspacing(uint32_t code) {
    return qpi_code_flags(code) & QPI_NONSPACING ? gone : one(code);
}

/* A stretch that is not plain ASCII, through all that is asked for. */
static void put_bert(const qpi_normal_step *s, qpi_normal_state *state, const uint8_t *text, size_t n,
                     qpi_buffer *out) {
    qpi_buffer *a = &state->texts[2], *b = &state->texts[3];
    size_t      lead;
    a->count = b->count = 0;
    put_clean(s, text, n, a);
    if (s->accents) {
        qpi_normal_form_of(QPI_NFD, (const uint8_t *)a->data, a->count, b);
        a->count = 0;
        map_codes((const uint8_t *)b->data, b->count, a, &lead, without_nonspacing);
    }
    if (s->lower) put_lower((const uint8_t *)a->data, a->count, out);
    else qpi_buffer_put(out, a->data, a->count);
    out->failed |= a->failed | b->failed;
}

static inline char bert_ascii(const qpi_normal_step *s, uint8_t c) {
    if (s->clean && c < 0x20) return ' ';
    return (char)(s->lower && c >= 'A' && c <= 'Z' ? c | 0x20 : c);
}

/* Printable, or white space that stays: what does not end a stretch of others is dropped. */
static inline bool is_kept(uint8_t c) { return (c >= 0x20 && c < 0x7F) || c == '\t' || c == '\n' || c == '\r'; }

APPLY(apply_bert) {
    (void)index;
    size_t at = 0, start = out->count;
    while (at < n) {
        if (!qpi_buffer_reserve(out, n - at)) return;
        for (; at < n && is_kept(text[at]); at++) out->data[out->count++] = bert_ascii(s, text[at]);
        size_t end = at;
        while (end < n && !is_kept(text[end])) end++;
        put_bert(s, state, text + at, end - at, out);
        if (out->count == start) *lead = end;
        at = end;
    }
}

/* ---- Strip, Prepend, Replace ------------------------------------------------------------ */

static bool read_strip(qpi_normal_step *s, const qpi_json *at) {
    return qpi_json_boolean(at, "strip_left", QPI_REQUIRED, &s->left) &&
           qpi_json_boolean(at, "strip_right", QPI_REQUIRED, &s->right);
}

APPLY(apply_strip) {
    UNUSED;
    size_t left = s->left ? qpi_spaces_at_start(text, n) : 0;
    size_t right = s->right ? qpi_spaces_at_end(text + left, n - left) : 0;
    *lead = left;
    qpi_buffer_put(out, text + left, n - left - right);
}

static bool read_prepend(qpi_normal_step *s, const qpi_json *at) {
    return qpi_json_copy(at, "prepend", &s->content, &s->content_size);
}

APPLY(apply_prepend) {
    UNUSED;
    qpi_buffer_put(out, s->content, s->content_size);
    qpi_buffer_put(out, text, n);
}

static bool read_replace(qpi_normal_step *s, const qpi_json *at) {
    bool literal;
    if (!qpi_json_copy(at, "content", &s->content, &s->content_size) ||
        !qpi_json_pattern(at, &s->pattern, &s->pattern_size, &literal))
        return false;
    if (literal && s->pattern_size) return true;
    s->regex = qpi_json_compile(at, s->pattern, literal); /* an empty text matches between all characters */
    return s->regex != NULL;
}

/* Where the last of n > 0 bytes' characters begins. */
static size_t last_code(const uint8_t *text, size_t n) {
    while (n > 1 && (text[n - 1] & 0xC0) == 0x80) n--;
    return n - 1;
}

static void replace_text(const qpi_normal_step *s, const uint8_t *text, size_t n, qpi_buffer *out,
                         size_t *lead) {
    size_t         done = 0;
    const uint8_t *p;
    if (s->pattern_size == 1 && s->content_size == 1) {
        if (!qpi_buffer_reserve(out, n)) return;
        for (size_t i = 0; i < n; i++)
            out->data[out->count++] = (char)(text[i] == (uint8_t)*s->pattern ? (uint8_t)*s->content : text[i]);
        return;
    }
    while (done < n && (p = memmem(text + done, n - done, s->pattern, s->pattern_size))) {
        size_t at = (size_t)(p - text);
        if (at == 0) *lead = s->content_size ? last_code(text, s->pattern_size) : s->pattern_size;
        qpi_buffer_put(out, text + done, at - done);
        qpi_buffer_put(out, s->content, s->content_size);
        done = at + s->pattern_size;
    }
    qpi_buffer_put(out, text + done, n - done);
}

APPLY(apply_replace) {
    if (!s->regex) {
        replace_text(s, text, n, out, lead);
        return;
    }
    qpi_finder f;
    size_t     done = 0, begin, end;
    if (!qpi_find_in(&f, s->regex, &state->regex[index], text, n, state->error)) return;
    while (qpi_find_next(&f, &begin, &end) > 0) {
        if (end && begin == 0) *lead = s->content_size ? last_code(text, end) : end;
        qpi_buffer_put(out, text + done, begin - done);
        qpi_buffer_put(out, s->content, s->content_size);
        done = end;
    }
    qpi_buffer_put(out, text + done, n - done);
}

/* ---- ByteLevel, Precompiled -------------------------------------------------------------- */

APPLY(apply_byte_level) {
    UNUSED;
    qpi_byte_level(out, text, n);
}

static int base64_value(char c) {
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char       *p = memchr(alphabet, c, sizeof alphabet - 1);
    return p ? (int)(p - alphabet) : -1;
}

/* RFC 4648, with its padding, in place. */
static bool base64(char *text, size_t *n) {
    size_t out = 0, size = *n;
    if (size % 4) return false;
    for (size_t i = 0; i < size; i += 4) {
        int pad = i + 4 == size ? (text[i + 3] == '=') + (text[i + 2] == '=') : 0, value[4] = {0};
        for (int k = 0; k < 4 - pad; k++)
            if ((value[k] = base64_value(text[i + (size_t)k])) < 0) return false;
        uint32_t bits = (uint32_t)(value[0] << 18 | value[1] << 12 | value[2] << 6 | value[3]);
        for (int k = 0; k < 3 - pad; k++) text[out++] = (char)(bits >> (16 - 8 * k));
    }
    *n = out;
    return true;
}

static bool read_precompiled(qpi_normal_step *s, const qpi_json *at) {
    char  *data = NULL;
    size_t n;
    if (!qpi_json_copy(at, "precompiled_charsmap", &data, &n)) return false;
    qpi_json here = qpi_json_member(at, "precompiled_charsmap");
    bool     ok = base64(data, &n);
    if (!ok) qpi_json_fail(&here, QP_ERR_FORMAT, "expected base64");
    ok = ok && qpi_charsmap_read(&s->map, (const uint8_t *)data, n, &here);
    free(data);
    return ok;
}

APPLY(apply_precompiled) {
    UNUSED;
    qpi_charsmap_apply(&s->map, text, n, out);
}

/* ---- The table --------------------------------------------------------------------------- */

/* name, ASCII passes unchanged, may be cut before a space, reader, apply */
static const qpi_normal_type types[] = {
    {"NFC", true, true, read_nfc, apply_form},
    {"NFD", true, true, read_nfd, apply_form},
    {"NFKC", true, true, read_nfkc, apply_form},
    {"NFKD", true, true, read_nfkd, apply_form},
    {"Lowercase", false, true, read_nothing, apply_lower},
    {"StripAccents", true, true, read_nothing, apply_strip_accents},
    {"Nmt", false, true, read_nothing, apply_nmt},
    {"BertNormalizer", false, true, read_bert, apply_bert},
    {"Strip", false, false, read_strip, apply_strip},
    {"Prepend", false, false, read_prepend, apply_prepend},
    {"Replace", false, false, read_replace, apply_replace},
    {"ByteLevel", false, false, read_nothing, apply_byte_level},
    {"Precompiled", false, true, read_precompiled, apply_precompiled},
};

static bool read_member(void *to, const qpi_json *at) { return qpi_normalizer_read(to, at); }

bool qpi_normalizer_read(qpi_normalizer *z, const qpi_json *at) {
    const char *name;
    if (!qpi_json_string(at, "type", QPI_REQUIRED, &name)) return false;
    if (strcmp(name, "Sequence") == 0) return qpi_json_each(at, "normalizers", z, read_member);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        if (strcmp(types[i].name, name) != 0) continue;
        if (z->count == QPI_MAX_COMPONENTS) return qpi_unsupported(at, "so long a sequence");
        qpi_normal_step *p = qpi_grown(z->steps, &z->capacity, z->count + 1, sizeof *p);
        if (!p) return qpi_fail_memory(at->error, "tokenizer") == QP_OK;
        z->steps = p;
        z->local = (z->count == 0 || z->local) && types[i].local;
        p[z->count] = (qpi_normal_step){.type = &types[i]};
        return types[i].read(&p[z->count++], at);
    }
    return qpi_unsupported(at, name);
}
