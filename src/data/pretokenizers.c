/* The pre-tokenizers of tokenizer.json. Each has a reader, which sets up a stage, and mostly a function that finds
 * the end of the next piece; the table at the end names them. */
#include <stdlib.h>
#include <string.h>

#include "data/pretokenize.h"
#include "data/unicode.h"
#include "data/vocab.h"
#include "format/os.h"
#include "format/utf8.h"

typedef const uint8_t *place;

/* The code point at p; one byte that is not UTF-8 counts as U+FFFFFFFF, which is nothing at all. */
static inline size_t code_at(place p, place end, uint32_t *code) {
    size_t n = qpi_utf8_decode(p, (size_t)(end - p), code);
    if (n) return n;
    *code = UINT32_MAX;
    return 1;
}

static inline bool is_space(place p, place end, size_t *n) { return qpi_class_at(p, end, n) == QPI_SPACE; }

static bool has_flag(place p, place end, uint8_t flag, size_t *n) {
    uint32_t code;
    *n = code_at(p, end, &code);
    return (qpi_code_flags(code) & flag) != 0;
}

static bool out_of_memory(const qpi_splitting *j) {
    return qpi_fail_memory(j->state->error, "tokenizer") == QP_OK;
}

/* Isolated, Removed, Contiguous, MergedWithPrevious, MergedWithNext. */
static bool read_behavior(qpi_split *s, const qpi_json *at, qpi_need need) {
    static const struct {
        const char        *name;
        qpi_split_behavior behavior;
    } behaviors[] = {{"Isolated", QPI_ISOLATED},
                     {"Removed", QPI_REMOVED},
                     {"Contiguous", QPI_CONTIGUOUS},
                     {"MergedWithPrevious", QPI_WITH_BEFORE},
                     {"MergedWithNext", QPI_WITH_NEXT}};
    const char *name = "Isolated";
    if (!qpi_json_string(at, "behavior", need, &name)) return false;
    for (size_t i = 0; i < sizeof behaviors / sizeof *behaviors; i++)
        if (strcmp(behaviors[i].name, name) == 0) {
            s->behavior = behaviors[i].behavior;
            return true;
        }
    return qpi_unsupported(at, name);
}

/* ---- Split ------------------------------------------------------------------------------ */

static bool read_split(qpi_split *s, const qpi_json *at) {
    bool literal;
    if (!qpi_json_pattern(at, &s->pattern, &s->pattern_size, &literal) || !read_behavior(s, at, QPI_REQUIRED) ||
        !qpi_json_boolean(at, "invert", QPI_OPTIONAL, &s->invert))
        return false;
    /* Those that quipu knows match everything. */
    bool all = s->behavior == QPI_ISOLATED || (s->behavior == QPI_REMOVED && s->invert);
    if (all && !literal && qpi_split_known(s->pattern, s)) return true;
    s->split = qpi_split_by_pattern;
    s->regex = qpi_json_compile(at, s->pattern, literal);
    return s->regex != NULL;
}

/* ---- ByteLevel -------------------------------------------------------------------------- */

/* Words that are not the model's last: their bytes as characters. */
static bool split_to_characters(const qpi_splitting *j, int stage, qpi_stretch s) {
    qpi_buffer *b = &j->state->texts[stage];
    b->count = 0;
    if (!qpi_byte_level(b, s.text, (size_t)(s.end - s.text))) return out_of_memory(j);
    place text = (place)b->data;
    return qpi_pass_on(j, stage, (qpi_stretch){text, text + b->count, s.first}, text, text + b->count);
}

static bool read_byte_level(qpi_split *s, const qpi_json *at) {
    bool regex = true;
    if (!qpi_json_boolean(at, "add_prefix_space", QPI_REQUIRED, &s->prefix_space) ||
        !qpi_json_boolean(at, "use_regex", QPI_OPTIONAL, &regex))
        return false;
    s->cut = QPI_CUT_PASSES;
    if (regex) qpi_split_known(qpi_pattern_named("gpt2"), s);
    if (s->prefix_space) s->cut = QPI_CUT_NEVER;
    if (s->prefix_space) s->split = qpi_split_byte_level; /* otherwise, and without a pattern, it is no stage */
    return true;
}

/* ---- Digits ----------------------------------------------------------------------------- */

static bool is_numeric(place p, place end, size_t *n) {
    if (*p >= 0x80) return has_flag(p, end, QPI_NUMERIC, n);
    *n = 1;
    return *p >= '0' && *p <= '9';
}

static place next_number(place p, place end) {
    size_t n;
    bool   number = is_numeric(p, end, &n);
    for (p += n; p < end && is_numeric(p, end, &n) == number;) p += n;
    return p;
}

static place next_digit(place p, place end) {
    size_t n;
    if (is_numeric(p, end, &n)) return p + n;
    return next_number(p, end);
}

static bool read_digits(qpi_split *s, const qpi_json *at) {
    s->split = qpi_split_by_next;
    s->cut = QPI_CUT_PASSES;
    if (!qpi_json_boolean(at, "individual_digits", QPI_REQUIRED, &s->each)) return false;
    s->next = s->each ? next_digit : next_number;
    return true;
}

/* ---- White space and words ---------------------------------------------------------------- */

/* \w+|[^\w\s]+, and spaces are left out. */
static bool split_whitespace(const qpi_splitting *j, int stage, qpi_stretch s) {
    size_t n;
    for (place p = s.text, q; p < s.end; p = q) {
        q = p;
        if (is_space(p, s.end, &n)) {
            q = p + n;
            continue;
        }
        bool word = has_flag(p, s.end, QPI_WORD, &n);
        for (q = p + n; q < s.end && !is_space(q, s.end, &n) && has_flag(q, s.end, QPI_WORD, &n) == word;)
            q += n;
        if (!qpi_pass_on(j, stage, s, p, q)) return false;
    }
    return true;
}

static bool read_whitespace(qpi_split *s, const qpi_json *at) {
    (void)at;
    s->split = split_whitespace;
    s->cut = QPI_CUT_SPACE;
    return true;
}

static bool split_at_spaces(const qpi_splitting *j, int stage, qpi_stretch s) {
    size_t n;
    for (place p = s.text, q; p < s.end; p = q) {
        for (q = p; q < s.end && !is_space(q, s.end, &n);) q += n;
        if (!qpi_pass_on(j, stage, s, p, q)) return false;
        while (q < s.end && is_space(q, s.end, &n)) q += n;
    }
    return true;
}

static bool read_whitespace_split(qpi_split *s, const qpi_json *at) {
    (void)at;
    s->split = split_at_spaces;
    s->cut = QPI_CUT_SPACE;
    return true;
}

/* ---- Punctuation, BERT, delimiters ---------------------------------------------------------- */

static const uint8_t ascii_sign[128] = {
    ['!' ... '/'] = 1, [':' ... '@'] = 1, ['[' ... '`'] = 1, ['{' ... '~'] = 1};

static inline bool is_sign(place p, place end, size_t *n) {
    if (*p >= 0x80) return has_flag(p, end, QPI_PUNCTUATION, n);
    *n = 1;
    return ascii_sign[*p];
}

static bool split_punctuation(const qpi_splitting *j, int stage, qpi_stretch s) {
    qpi_pieces_of pieces = {j, stage, s, NULL, NULL, false, false};
    size_t        n;
    for (place p = s.text, q; p < s.end; p = q) {
        bool sign = is_sign(p, s.end, &n);
        for (q = p + n; !sign && q < s.end && !is_sign(q, s.end, &n);) q += n;
        if (!qpi_put_piece(&pieces, p, q, sign)) return false;
    }
    return qpi_end_pieces(&pieces);
}

static bool read_punctuation(qpi_split *s, const qpi_json *at) {
    if (!read_behavior(s, at, QPI_OPTIONAL)) return false;
    s->split = split_punctuation;
    s->cut = s->behavior <= QPI_CONTIGUOUS ? QPI_CUT_PASSES : QPI_CUT_NEVER;
    return true;
}

/* At spaces, which are left out, and around every sign. */
static bool split_bert(const qpi_splitting *j, int stage, qpi_stretch s) {
    size_t n;
    for (place p = s.text, q; p < s.end; p = q) {
        q = p;
        if (is_space(p, s.end, &n)) {
            q = p + n;
            continue;
        }
        bool sign = is_sign(p, s.end, &n);
        for (q = p + n; !sign && q < s.end && !is_space(q, s.end, &n) && !is_sign(q, s.end, &n);) q += n;
        if (!qpi_pass_on(j, stage, s, p, q)) return false;
    }
    return true;
}

static bool read_bert(qpi_split *s, const qpi_json *at) {
    (void)at;
    s->split = split_bert;
    s->cut = QPI_CUT_SPACE;
    return true;
}

static bool read_mark(qpi_split *s, const qpi_json *at, const char *key) {
    uint32_t code;
    if (!qpi_json_character(at, key, &code)) return false;
    s->mark_size = qpi_utf8_encode(code, s->mark);
    return true;
}

/* Where the mark stands in text, or its end. */
static inline place find_mark(const qpi_split *s, place p, place end) {
    while (p < end && (p = memchr(p, s->mark[0], (size_t)(end - p)))) {
        if ((size_t)(end - p) >= s->mark_size && memcmp(p, s->mark, s->mark_size) == 0) return p;
        p++;
    }
    return end;
}

static bool split_at_mark(const qpi_splitting *j, int stage, qpi_stretch s) {
    const qpi_split *split = &j->p->stages[stage];
    for (place p = s.text, q; p < s.end; p = q) {
        q = find_mark(split, p, s.end);
        if (!qpi_pass_on(j, stage, s, p, q)) return false;
        if (q < s.end) q += split->mark_size;
    }
    return true;
}

static bool read_delimiter(qpi_split *s, const qpi_json *at) {
    s->split = split_at_mark;
    s->cut = QPI_CUT_PASSES;
    return read_mark(s, at, "delimiter");
}

/* ---- Metaspace ------------------------------------------------------------------------------ */

/* The text with marks for spaces, and one in front as asked for. */
static void put_marks(const qpi_split *split, qpi_stretch s, qpi_buffer *b) {
    size_t n = (size_t)(s.end - s.text);
    bool   starts = *s.text == ' ' || (n >= split->mark_size && !memcmp(s.text, split->mark, split->mark_size));
    b->count = 0;
    if (!starts && (split->prepend == QPI_ALWAYS || (split->prepend == QPI_FIRST && s.first)))
        qpi_buffer_put(b, split->mark, split->mark_size);
    for (place p = s.text, q; p < s.end; p = q) {
        q = memchr(p, ' ', (size_t)(s.end - p));
        if (!q) q = s.end;
        qpi_buffer_put(b, p, (size_t)(q - p));
        for (; q < s.end && *q == ' '; q++) qpi_buffer_put(b, split->mark, split->mark_size);
    }
}

static bool split_metaspace(const qpi_splitting *j, int stage, qpi_stretch s) {
    const qpi_split *split = &j->p->stages[stage];
    qpi_buffer      *b = &j->state->texts[stage];
    put_marks(split, s, b);
    if (b->failed) return out_of_memory(j);
    s = (qpi_stretch){(place)b->data, (place)b->data + b->count, s.first};
    if (!split->cuts) return qpi_pass_on(j, stage, s, s.text, s.end);
    for (place p = s.text, q; p < s.end; p = q) {
        bool mark = (size_t)(s.end - p) >= split->mark_size && !memcmp(p, split->mark, split->mark_size);
        q = find_mark(split, mark ? p + split->mark_size : p, s.end);
        if (!qpi_pass_on(j, stage, s, p, q)) return false;
    }
    return true;
}

static bool read_metaspace(qpi_split *s, const qpi_json *at) {
    const char *scheme = "always";
    bool        prefix = true;
    s->cuts = true;
    if (!read_mark(s, at, "replacement") || !qpi_json_string(at, "prepend_scheme", QPI_OPTIONAL, &scheme) ||
        !qpi_json_boolean(at, "add_prefix_space", QPI_OPTIONAL, &prefix) ||
        !qpi_json_boolean(at, "split", QPI_OPTIONAL, &s->cuts))
        return false;
    s->prepend = !prefix || strcmp(scheme, "never") == 0 ? QPI_NEVER
                 : strcmp(scheme, "first") == 0          ? QPI_FIRST
                                                         : QPI_ALWAYS;
    if (s->prepend == QPI_ALWAYS && strcmp(scheme, "always") != 0) return qpi_unsupported(at, scheme);
    s->split = split_metaspace;
    s->cut = s->cuts ? QPI_CUT_SPACE : QPI_CUT_NEVER;
    return true;
}

/* ---- FixedLength ---------------------------------------------------------------------------- */

static bool split_fixed(const qpi_splitting *j, int stage, qpi_stretch s) {
    for (place p = s.text, q; p < s.end; p = q) {
        q = p;
        for (int64_t i = 0; i < j->p->stages[stage].length && q < s.end; i++) {
            uint32_t code;
            q += code_at(q, s.end, &code);
        }
        if (!qpi_pass_on(j, stage, s, p, q)) return false;
    }
    return true;
}

static bool read_fixed(qpi_split *s, const qpi_json *at) {
    s->split = split_fixed;
    s->length = 5;
    return qpi_json_integer(at, "length", QPI_OPTIONAL, 1, INT32_MAX, &s->length);
}

/* ---- The table ------------------------------------------------------------------------------ */

static const struct {
    const char *name;
    bool (*read)(qpi_split *s, const qpi_json *at);
} types[] = {
    {"Split", read_split},
    {"ByteLevel", read_byte_level},
    {"Digits", read_digits},
    {"Whitespace", read_whitespace},
    {"WhitespaceSplit", read_whitespace_split},
    {"Punctuation", read_punctuation},
    {"BertPreTokenizer", read_bert},
    {"CharDelimiterSplit", read_delimiter},
    {"Metaspace", read_metaspace},
    {"FixedLength", read_fixed},
};

static bool read_member(void *to, const qpi_json *at) { return qpi_pretokenizer_read(to, at); }

/* ByteLevel as the last stage leaves the turning of bytes into characters to the model; if another follows, it is a
 * stage of its own. */
bool qpi_pretokenizer_unfold(qpi_pretokenizer *p, const qpi_json *at) {
    if (!p->byte_level) return true;
    if (p->count == QPI_MAX_COMPONENTS) return qpi_unsupported(at, "so long a sequence");
    p->stages[p->count++] = (qpi_split){.split = split_to_characters};
    p->byte_level = false;
    return true;
}

bool qpi_pretokenizer_read(qpi_pretokenizer *p, const qpi_json *at) {
    const char *name;
    if (!qpi_json_string(at, "type", QPI_REQUIRED, &name)) return false;
    if (strcmp(name, "Sequence") == 0) return qpi_json_each(at, "pretokenizers", p, read_member);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        if (strcmp(types[i].name, name) != 0) continue;
        if (!qpi_pretokenizer_unfold(p, at)) return false;
        if (p->count == QPI_MAX_COMPONENTS) return qpi_unsupported(at, "so long a sequence");
        qpi_split *s = &p->stages[p->count++];
        if (!types[i].read(s, at)) return false;
        p->byte_level = types[i].read == read_byte_level;
        if (p->byte_level && !s->prefix_space && !s->next) p->count--; /* nothing but bytes */
        return true;
    }
    return qpi_unsupported(at, name);
}
