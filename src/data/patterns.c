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

/* ---- The table ------------------------------------------------------------------------ */

static const struct {
    const char   *name, *pattern;
    qpi_next_fn  *next;
    qpi_split_cut cut;
} known[] = {
    {"gpt2", "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+", next_gpt2,
     QPI_CUT_GPT2},
    {"llama3",
     "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
     "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
     next_llama3, QPI_CUT_MODERN},
    {"qwen2",
     "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
     "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
     next_qwen2, QPI_CUT_MODERN},
};
#define KNOWN (sizeof known / sizeof *known)

bool qpi_split_known(const char *pattern, qpi_split *s) {
    for (size_t i = 0; i < KNOWN; i++) {
        if (strcmp(known[i].pattern, pattern) != 0) continue;
        s->split = qpi_split_by_next;
        s->next = known[i].next;
        s->cut = known[i].cut;
        return true;
    }
    return false;
}

const char *qpi_pattern_named(const char *name) {
    for (size_t i = 0; i < KNOWN; i++)
        if (strcmp(known[i].name, name) == 0) return known[i].pattern;
    return NULL;
}
