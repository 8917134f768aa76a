#include "data/unicode.h"

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

uint8_t qpi_code_flags(uint32_t code) {
    if (code >= 0xF0000) return code <= 0x10FFFF && (code & 0xFFFF) < 0xFFFE ? QPI_CONTROL : 0;
    if (code >= 0xE0000) code = code < 0xE0200 ? UNICODE_LIMIT + (code - 0xE0000) : UNICODE_LIMIT - 1;
    else if (code >= UNICODE_LIMIT) return 0;
    return unicode_flags_blocks[unicode_flags_index[code >> 6]][code & 63];
}

uint32_t qpi_code_lower(uint32_t code, uint32_t *second) {
    size_t low = 0, high = sizeof unicode_lower / sizeof *unicode_lower;
    *second = code == 0x130 ? 0x307 : 0; /* the only one that becomes two */
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (unicode_lower[middle].last < code) low = middle + 1;
        else high = middle;
    }
    if (low == sizeof unicode_lower / sizeof *unicode_lower || code < unicode_lower[low].first ||
        (code - unicode_lower[low].first) % (uint32_t)unicode_lower[low].step)
        return code;
    return code + (uint32_t)unicode_lower[low].by;
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

bool qpi_space_at_end(const uint8_t *text, size_t n) {
    uint32_t code;
    size_t   bytes;
    return code_before(text, n, &code, &bytes) && qpi_code_class(code) == QPI_SPACE;
}

size_t qpi_spaces_at_start(const uint8_t *text, size_t n) {
    size_t at = 0, bytes;
    while (at < n && qpi_class_at(text + at, text + n, &bytes) == QPI_SPACE) at += bytes;
    return at;
}

bool qpi_word_at_end(const uint8_t *text, size_t n) {
    uint32_t code;
    size_t   bytes;
    return code_before(text, n, &code, &bytes) && (qpi_code_flags(code) & QPI_WORD);
}

bool qpi_word_at_start(const uint8_t *text, size_t n) {
    uint32_t code;
    return qpi_utf8_decode(text, n, &code) && (qpi_code_flags(code) & QPI_WORD);
}
