/* UTF-8, one code point at a time. */
#ifndef QUIPU_FORMAT_UTF8_H
#define QUIPU_FORMAT_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Bytes of the code point that starts at p, 0 if the n bytes there begin with none. */
static inline size_t qpi_utf8_decode(const void *text, size_t n, uint32_t *code) {
    const uint8_t *p = (const uint8_t *)text;
    if (n == 0) return 0;
    uint32_t c = p[0];
    if (c < 0x80) {
        *code = c;
        return 1;
    }
    if (c < 0xC2 || n < 2 || (p[1] & 0xC0) != 0x80) return 0;
    if (c < 0xE0) {
        *code = (c & 0x1F) << 6 | (p[1] & 0x3F);
        return 2;
    }
    if (n < 3 || (p[2] & 0xC0) != 0x80) return 0;
    if (c < 0xF0) {
        uint32_t x = (c & 0x0F) << 12 | (uint32_t)(p[1] & 0x3F) << 6 | (p[2] & 0x3F);
        *code = x;
        return x >= 0x800 && (x < 0xD800 || x > 0xDFFF) ? 3 : 0;
    }
    if (c > 0xF4 || n < 4 || (p[3] & 0xC0) != 0x80) return 0;
    uint32_t x = (c & 7) << 18 | (uint32_t)(p[1] & 0x3F) << 12 | (uint32_t)(p[2] & 0x3F) << 6 | (p[3] & 0x3F);
    *code = x;
    return x >= 0x10000 && x <= 0x10FFFF ? 4 : 0;
}

static inline size_t qpi_utf8_valid(const void *text, size_t n) {
    uint32_t code;
    return qpi_utf8_decode(text, n, &code);
}

static inline bool qpi_utf8_text(const char *text) {
    for (size_t left = strlen(text), n; left; left -= n, text += n)
        if (!(n = qpi_utf8_valid(text, left))) return false;
    return true;
}

/* Writes a code point up to 0x10FFFF; returns 1 to 4. */
static inline size_t qpi_utf8_encode(uint32_t c, char out[4]) {
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xC0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3F));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xE0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 0x3F));
        out[2] = (char)(0x80 | (c & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 0x3F));
    out[2] = (char)(0x80 | (c >> 6 & 0x3F));
    out[3] = (char)(0x80 | (c & 0x3F));
    return 4;
}

/* How many of the last bytes of text are the start of a code point that is not complete yet:
 * 0 to 3. */
static inline size_t qpi_utf8_cut(const void *text, size_t n) {
    const uint8_t *p = (const uint8_t *)text + n;
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        uint8_t c = *(p - back);
        if ((c & 0xC0) == 0x80) continue;
        if (c < 0xC2 || c > 0xF4) return 0;
        size_t whole = c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : 2;
        if (whole <= back) return 0;
        if (back >= 2) { /* the second byte may rule the code point out already */
            uint8_t d = *(p - back + 1);
            if ((c == 0xE0 && d < 0xA0) || (c == 0xED && d > 0x9F) || (c == 0xF0 && d < 0x90) ||
                (c == 0xF4 && d > 0x8F))
                return 0;
        }
        return back;
    }
    return 0;
}

#endif
