/* The patterns, as alternatives tried in order at each place:
 *
 *   GPT-2    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 *   Llama 3  (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}
 *            | ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
 *   Qwen 2   the same with \p{N} for \p{N}{1,3}
 */
#include "data/pretokenize.h"

#include <string.h>

#include "data/unicode.h"
#include "format/utf8.h"

static const struct {
    qpi_split_kind kind;
    const char    *pattern;
} known[] = {
    {QPI_SPLIT_GPT2, "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"},
    {QPI_SPLIT_LLAMA3, "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
                       "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
    {QPI_SPLIT_QWEN2, "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
                      "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
};
#define KNOWN (sizeof known / sizeof *known)

qpi_split_kind qpi_split_of(const char *pattern) {
    for (size_t i = 0; i < KNOWN; i++)
        if (strcmp(known[i].pattern, pattern) == 0) return known[i].kind;
    return QPI_SPLIT_REGEX;
}

const char *qpi_split_pattern(qpi_split_kind kind) {
    for (size_t i = 0; i < KNOWN; i++)
        if (known[i].kind == kind) return known[i].pattern;
    return NULL;
}

/* ---- By hand -------------------------------------------------------------------------- */

typedef const uint8_t *place;

/* The end of the run of one class that starts at p. */
static inline place run_of(qpi_class class, place p, place end) {
    size_t n;
    while (p < end && qpi_class_at(p, end, &n) == class) p += n;
    return p;
}

/* Bytes of 's 't 'm 'd 're 've 'll at p, which holds an apostrophe; 0 if none. */
static size_t contraction(place p, place end) {
    if (end - p < 2) return 0;
    uint8_t a = p[1], b = end - p > 2 ? p[2] : 0;
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    return (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l') ? 3 : 0;
}

/* The same in any case; the long s (U+017F) is a case of s. */
static size_t contraction_any_case(place p, place end) {
    if (end - p < 2) return 0;
    uint8_t folded[3] = {'\'', p[1] | 0x20, end - p > 2 ? p[2] | 0x20 : 0};
    if (end - p > 2 && p[1] == 0xC5 && p[2] == 0xBF) return 3;
    return contraction(folded, folded + 3);
}

/* A run of white space, of which the last goes to the word behind it: \s+(?!\S)|\s+ */
static place spaces(place p, place end) {
    place  q = p, last = p;
    size_t n;
    while (q < end && qpi_class_at(q, end, &n) == QPI_SPACE) last = q, q += n;
    return q < end && last > p ? last : q;
}

static place next_gpt2(place p, place end) {
    size_t n, m;
    if (*p == '\'' && (n = contraction(p, end))) return p + n;
    qpi_class class = qpi_class_at(p, end, &n);
    if (class != QPI_SPACE) return run_of(class, p + n, end);
    if (*p == ' ' && p + 1 < end && (class = qpi_class_at(p + 1, end, &m)) != QPI_SPACE)
        return run_of(class, p + 1 + m, end);
    return spaces(p, end);
}

static bool is_line_end(uint8_t c) { return c == '\n' || c == '\r'; }

static place numbers(place p, place end, int most) {
    size_t n;
    for (; most && p < end && qpi_class_at(p, end, &n) == QPI_NUMBER; most--) p += n;
    return p;
}

/* White space up to its last line end: \s*[\r\n]+, or p if it has none. */
static place lines(place p, place end) {
    place  last = p;
    size_t n;
    while (p < end && qpi_class_at(p, end, &n) == QPI_SPACE) {
        p += n;
        if (is_line_end(p[-1])) last = p;
    }
    return last;
}

static inline place next_modern(place p, place end, int digits) {
    size_t n, m;
    if (*p == '\'' && (n = contraction_any_case(p, end))) return p + n;
    qpi_class class = qpi_class_at(p, end, &n);
    if (class == QPI_LETTER) return run_of(QPI_LETTER, p + n, end);
    if (class == QPI_NUMBER) return numbers(p, end, digits);
    qpi_class behind = p + n < end ? qpi_class_at(p + n, end, &m) : QPI_SPACE;
    if (behind == QPI_LETTER && !is_line_end(*p)) return run_of(QPI_LETTER, p + n + m, end);
    if (class == QPI_OTHER || (*p == ' ' && behind == QPI_OTHER)) {
        p = run_of(QPI_OTHER, p + n, end);
        while (p < end && is_line_end(*p)) p++;
        return p;
    }
    place q = lines(p, end);
    return q > p ? q : spaces(p, end);
}

static place next_llama3(place p, place end) { return next_modern(p, end, 3); }
static place next_qwen2(place p, place end) { return next_modern(p, end, 1); }

static place next_digits(place p, place end, bool each) {
    size_t n;
    bool   number = qpi_class_at(p, end, &n) == QPI_NUMBER;
    p += n;
    while (!(number && each) && p < end && (qpi_class_at(p, end, &n) == QPI_NUMBER) == number) p += n;
    return p;
}

/* ---- Stages --------------------------------------------------------------------------- */

typedef struct {
    const qpi_pretokenizer *p;
    qpi_split_state        *state;
    qpi_word_fn            *word;
    void                   *arg;
} job;

static bool cut(const job *j, int stage, place text, size_t n);

static bool pass_on(const job *j, int stage, place text, place end) {
    size_t n = (size_t)(end - text);
    if (n == 0) return true;
    return stage + 1 == j->p->count ? j->word(j->arg, text, n) : cut(j, stage + 1, text, n);
}

static bool cut_by_hand(const job *j, int stage, place p, place end, place (*next)(place, place)) {
    while (p < end) {
        place q = next(p, end);
        if (!pass_on(j, stage, p, q)) return false;
        p = q;
    }
    return true;
}

/* The text, with a symbol of one byte in place of each byte that is not UTF-8. NULL without
 * memory. */
static place as_valid(qpi_buffer *b, place text, size_t n) {
    bool copied = false;
    for (size_t at = 0, step; at < n; at += step) {
        step = qpi_utf8_valid((copied ? (place)b->data : text) + at, n - at);
        if (step) continue;
        b->count = copied ? n : 0;
        if (!copied && !qpi_buffer_put(b, text, n)) return NULL;
        copied = true;
        b->data[at] = '~';
        step = 1;
    }
    return copied ? (place)b->data : text;
}

static bool cut_by_regex(const job *j, int stage, place text, size_t n) {
    const qpi_split         *s = &j->p->stages[stage];
    struct qpi_regex_state **r = &j->state->regex[stage];
    if (!*r && !(*r = qpi_regex_state_new(s->regex, j->state->error))) return false;
    place valid = as_valid(&j->state->valid[stage], text, n);
    if (!valid) return qpi_fail(j->state->error, QP_ERR_MEMORY, "tokenizer: out of memory") == QP_OK;
    size_t at = 0, done = 0;
    bool   first = true;
    while (at <= n) {
        size_t begin, end;
        int    found = qpi_regex_next(s->regex, *r, valid, n, at, &begin, &end, j->state->error);
        if (found < 0) return false;
        if (!found) break;
        at = end;
        if (begin == end) {
            size_t step = qpi_utf8_valid(valid + end, n - end);
            at += step ? step : 1;
            if (end == done && !first) continue;
        }
        if (!s->drop_gaps && !pass_on(j, stage, text + done, text + begin)) return false;
        if (!pass_on(j, stage, text + begin, text + end)) return false;
        done = end;
        first = false;
    }
    return s->drop_gaps || pass_on(j, stage, text + done, text + n);
}

static bool cut(const job *j, int stage, place text, size_t n) {
    const qpi_split *s = &j->p->stages[stage];
    if (s->prefix_space && *text != ' ') {
        qpi_buffer *b = &j->state->prefixed[stage];
        b->count = 0;
        if (!qpi_buffer_put(b, " ", 1) || !qpi_buffer_put(b, text, n))
            return qpi_fail(j->state->error, QP_ERR_MEMORY, "tokenizer: out of memory") == QP_OK;
        text = (place)b->data;
        n = b->count;
    }
    place end = text + n;
    switch (s->kind) {
    case QPI_SPLIT_GPT2: return cut_by_hand(j, stage, text, end, next_gpt2);
    case QPI_SPLIT_LLAMA3: return cut_by_hand(j, stage, text, end, next_llama3);
    case QPI_SPLIT_QWEN2: return cut_by_hand(j, stage, text, end, next_qwen2);
    case QPI_SPLIT_REGEX: return cut_by_regex(j, stage, text, n);
    case QPI_SPLIT_DIGITS:
        for (place p = text, q; p < end; p = q)
            if (!pass_on(j, stage, p, q = next_digits(p, end, s->each_digit))) return false;
        return true;
    default: return pass_on(j, stage, text, end);
    }
}

bool qpi_pretokenize(const qpi_pretokenizer *p, qpi_split_state *state, const uint8_t *text, size_t n,
                     qpi_word_fn *word, void *arg) {
    job j = {p, state, word, arg};
    if (n == 0) return true;
    return p->count ? cut(&j, 0, text, n) : word(arg, text, n);
}

/* No word of GPT-2's pattern holds white space behind something else. In the newer ones line
 * ends may follow signs, but nothing follows a line end except white space. None looks behind
 * itself, and it makes no difference when numbers were cut apart before. */
static bool cuts_at(qpi_split_kind kind, place text, size_t n, size_t i) {
    size_t bytes;
    if (text[i] == ' ' || (kind == QPI_SPLIT_GPT2 && text[i] == '\n')) return qpi_spaces_at_end(text, i) == 0;
    return kind != QPI_SPLIT_GPT2 && text[i - 1] == '\n' &&
           qpi_class_at(text + i, text + n, &bytes) != QPI_SPACE;
}

size_t qpi_pretokenizer_cut(const qpi_pretokenizer *p, const uint8_t *text, size_t n, size_t from) {
    qpi_split_kind kind = QPI_SPLIT_NONE;
    for (int i = 0; i < p->count; i++) {
        const qpi_split *s = &p->stages[i];
        if (s->kind == QPI_SPLIT_REGEX || s->prefix_space) return n;
        if (kind == QPI_SPLIT_NONE && s->kind != QPI_SPLIT_DIGITS) kind = s->kind;
    }
    if (kind == QPI_SPLIT_NONE) return n;
    for (size_t i = from ? from : 1; i < n; i++)
        if (cuts_at(kind, text, n, i)) return i;
    return n;
}

void qpi_split_state_free(qpi_split_state *s) {
    for (int i = 0; i < QPI_MAX_SPLITS; i++) {
        qpi_buffer_free(&s->prefixed[i]);
        qpi_buffer_free(&s->valid[i]);
        qpi_regex_state_free(s->regex[i]);
    }
    *s = (qpi_split_state){0};
}

void qpi_pretokenizer_free(qpi_pretokenizer *p) {
    for (int i = 0; i < p->count; i++) qpi_regex_free(p->stages[i].regex);
    *p = (qpi_pretokenizer){0};
}
