/* Patterns are written for Oniguruma in Ruby's way, which is what `tokenizers` matches with. Where PCRE2 means
 * something else by the same sign it is put in other words; what it cannot say is an error. */
#include <string.h>

#include "data/regex.h"
#include "format/os.h"

#define SPACES "\\t-\\r\\x85\\p{Z}"
#define LETTERS \
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24B6}-\\x{24E9}\\x{1F130}-\\x{1F149}\\x{1F150}-\\x{1F169}" \
    "\\x{1F170}-\\x{1F189}"
#define WORDS LETTERS "\\xB2\\xB3\\xB9\\xBC-\\xBE" /* as it has it, outside of brackets */
#define HEXES "0-9A-Fa-f"

static const struct {
    char        name;             /* the capital letter is the complement */
    const char *members, *within; /* alone, and within brackets */
} classes[] = {{'s', SPACES, SPACES}, {'w', WORDS, LETTERS}, {'h', HEXES, HEXES}};

/* The n bytes of \c at p, in other words if there are any; complements within brackets stay as they are. */
static void put_escape(qpi_buffer *out, const char *p, size_t n, bool within) {
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++) {
        bool not = p[1] == classes[i].name - 0x20;
        if (p[1] != classes[i].name && (!not || within)) continue;
        if (!within) qpi_put_text(out, not ? "[^" : "[");
        qpi_put_text(out, within ? classes[i].within : classes[i].members);
        if (!within) qpi_put_text(out, "]");
        return;
    }
    if (!within && p[1] == 'b')
        qpi_put_text(out, "(?:(?<=[" WORDS "])(?![" WORDS "])|(?<![" WORDS "])(?=[" WORDS "]))");
    else if (!within && p[1] == 'B')
        qpi_put_text(out, "(?:(?<=[" WORDS "])(?=[" WORDS "])|(?<![" WORDS "])(?![" WORDS "]))");
    else qpi_buffer_put(out, p, n);
}

bool qpi_regex_translate(const char *pattern, qpi_buffer *out, qpi_error *e) {
    bool   within = false;
    size_t n;
    for (const char *p = pattern; *p; p += n) {
        n = 1;
        if (*p == '\\') {
            n += p[1] != 0;
            put_escape(out, p, n, within);
            continue;
        }
        if (within && ((*p == '[' && p[1] != ':') || (*p == '&' && p[1] == '&')))
            return qpi_fail(e, QP_ERR_UNSUPPORTED, "offset %zu: a class within a class is not supported",
                            (size_t)(p - pattern)) == QP_OK;
        if (within && *p == '[') { /* [:name:] */
            const char *end = strstr(p, ":]");
            if (end) n = (size_t)(end - p) + 2;
        } else if (*p == '[') { /* a ] that comes first is a member */
            n += p[1] == '^';
            n += p[n] == ']';
            within = true;
        } else if (*p == ']') {
            within = false;
        }
        qpi_buffer_put(out, p, n);
    }
    qpi_buffer_put(out, "", 1);
    if (!out->failed) return true;
    return qpi_fail_memory(e, "tokenizer") == QP_OK;
}
