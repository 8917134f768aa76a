#include "data/unicode.h"

#include <utf8proc.h>

#include "data/unicode_table.h"
#include "format/utf8.h"

#define L QPI_LETTER
#define N QPI_NUMBER
#define S QPI_SPACE
const uint8_t qpi_ascii_class[128] = {
    0, 0, 0, 0, 0, 0, 0, 0, 0, S, S, S, S, S, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    S, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, N, N, N, N, N, N, N, N, N, N, 0, 0, 0, 0, 0, 0,
    0, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, 0, 0, 0, 0, 0,
    0, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, 0, 0, 0, 0, 0,
};
#undef L
#undef N
#undef S

qpi_class qpi_code_class(uint32_t code) {
    if (code >= UNICODE_LIMIT) return QPI_OTHER;
    return (qpi_class)(unicode_blocks[unicode_index[code >> 8]][code >> 5 & 7] >> 2 * (code & 31) & 3);
}

/* Alphabetic, marks, decimal digits, connectors, joiners (UTS 18, as Rust's regex has it). */
bool qpi_code_is_word(uint32_t c) {
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC: return true;
    default: break;
    }
    return c == 0x200C || c == 0x200D || (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
           (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189);
}

qpi_class qpi_class_beyond_ascii(const uint8_t *p, const uint8_t *end, size_t *bytes) {
    uint32_t code;
    size_t   n = qpi_utf8_decode(p, (size_t)(end - p), &code);
    *bytes = n ? n : 1;
    return n ? qpi_code_class(code) : QPI_OTHER;
}

/* The code point before `at`; false if there is none. */
static bool code_before(const uint8_t *text, size_t at, uint32_t *code, size_t *bytes) {
    for (size_t n = 1; n <= 4 && n <= at; n++)
        if (qpi_utf8_decode(text + at - n, n, code) == n) {
            *bytes = n;
            return true;
        }
    return false;
}

size_t qpi_spaces_at_end(const uint8_t *text, size_t n) {
    uint32_t code;
    size_t   at = n, bytes;
    while (code_before(text, at, &code, &bytes) && qpi_code_class(code) == QPI_SPACE) at -= bytes;
    return n - at;
}

size_t qpi_spaces_at_start(const uint8_t *text, size_t n) {
    size_t at = 0, bytes;
    while (at < n && qpi_class_at(text + at, text + n, &bytes) == QPI_SPACE) at += bytes;
    return at;
}

bool qpi_word_at_end(const uint8_t *text, size_t n) {
    uint32_t code;
    size_t   bytes;
    return code_before(text, n, &code, &bytes) && qpi_code_is_word(code);
}

bool qpi_word_at_start(const uint8_t *text, size_t n) {
    uint32_t code;
    return qpi_utf8_decode(text, n, &code) && qpi_code_is_word(code);
}
