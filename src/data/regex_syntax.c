/* Patterns are written for Oniguruma in Ruby's way, which is what `tokenizers` matches with. Where PCRE2 means
 * something else by the same sign it is put in other words; what it cannot say is an error. */
#include <string.h>

#include "data/regex.h"
#include "format/os.h"

#define SPACES "\\t-\\r\\x85\\p{Z}"
#define LETTERS                                                                                           \
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24B6}-\\x{24E9}\\x{1F130}-\\x{1F149}\\x{1F150}-\\x{1F169}"        \
    "\\x{1F170}-\\x{1F189}"
#define WORDS LETTERS "\\xB2\\xB3\\xB9\\xBC-\\xBE" /* as it has it, outside of brackets */
#define HEXES "0-9A-Fa-f"

static const struct {
    char        name; /* the capital letter is the complement */
    const char *members, *within; /* alone, and within brackets */
} classes[] = {{'s', SPACES, SPACES}, {'w', WORDS, LETTERS}, {'h', HEXES, HEXES}};

static bool put(qpi_buffer *out, const char *text) { return qpi_buffer_put(out, text, strlen(text)); }

/* \c at p, in other words if there are any; complements within brackets stay as they are. */
static bool put_escape(qpi_buffer *out, const char *p, bool within) {
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++) {
        bool not = p[1] == classes[i].name - 0x20;
        if (p[1] != classes[i].name && (!not || within)) continue;
        if (within) return put(out, classes[i].within);
        return put(out, not ? "[^" : "[") && put(out, classes[i].members) && put(out, "]");
    }
    if (!within && p[1] == 'b') return put(out, "(?:(?<=[" WORDS "])(?![" WORDS "])|(?<![" WORDS "])(?=[" WORDS "]))");
    if (!within && p[1] == 'B') return put(out, "(?:(?<=[" WORDS "])(?=[" WORDS "])|(?<![" WORDS "])(?![" WORDS "]))");
    return qpi_buffer_put(out, p, p[1] ? 2 : 1);
}

bool qpi_regex_translate(const char *pattern, qpi_buffer *out, qpi_error *e) {
    bool within = false, ok = true;
    for (const char *p = pattern; ok && *p;) {
        if (*p == '\\') {
            ok = put_escape(out, p, within);
            p += p[1] ? 2 : 1;
            continue;
        }
        if (within && ((*p == '[' && p[1] != ':') || (*p == '&' && p[1] == '&')))
            return qpi_fail(e, QP_ERR_UNSUPPORTED, "offset %zu: a class within a class is not supported",
                            (size_t)(p - pattern)) == QP_OK;
        size_t n = 1;
        if (!within && *p == '[') { /* a ] that comes first is a member */
            n += p[1] == '^';
            n += p[n] == ']';
            within = true;
        } else if (within && *p == '[') { /* [:name:] */
            const char *end = strstr(p, ":]");
            n = end ? (size_t)(end - p) + 2 : 1;
        } else if (within && *p == ']') {
            within = false;
        }
        ok = qpi_buffer_put(out, p, n);
        p += n;
    }
    ok = ok && qpi_buffer_put(out, "", 1);
    return ok || qpi_fail_memory(e, "tokenizer") == QP_OK;
}
