/* Normal forms, by utf8proc. Most text is in its normal form already: what can change is found by properties of
 * the code points, and only these stretches go through the tables. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "data/normalize.h"
#include "data/unicode.h"
#include "format/utf8.h"

static utf8proc_option_t options_of(qpi_normal_form form) {
    switch (form) {
    case QPI_NFC: return UTF8PROC_STABLE | UTF8PROC_COMPOSE;
    case QPI_NFD: return UTF8PROC_STABLE | UTF8PROC_DECOMPOSE;
    case QPI_NFKC: return UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT;
    default: return UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT;
    }
}

#define NONE UINT16_MAX

/* Nothing happens to this code point, and nothing happens across it. */
static bool is_inert(qpi_normal_form form, uint32_t code) {
    if (code < 0x80) return form == QPI_NFD || form == QPI_NFKD;
    if (qpi_code_flags(code) & QPI_OPAQUE) return true;
    if ((code >= 0xAC00 && code <= 0xD7A3) || (code >= 0x1100 && code <= 0x11FF)) return false; /* Hangul */
    const utf8proc_property_t *p = utf8proc_get_property((utf8proc_int32_t)code);
    if (p->combining_class || p->decomp_seqindex != NONE) return false;
    return form == QPI_NFD || form == QPI_NFKD || p->comb_index == NONE;
}

static int class_of(utf8proc_int32_t code) { return utf8proc_get_property(code)->combining_class; }

#define FEW 16

/* Combining marks in canonical order: a stable sort, by counting where they are many (utf8proc's own takes the
 * square of their number). */
static bool order(utf8proc_int32_t *codes, size_t n) {
    if (n <= FEW) {
        for (size_t i = 1; i < n; i++)
            for (size_t k = i; k > 0 && class_of(codes[k - 1]) > class_of(codes[k]); k--) {
                utf8proc_int32_t swap = codes[k];
                codes[k] = codes[k - 1];
                codes[k - 1] = swap;
            }
        return true;
    }
    size_t            place[257] = {0};
    utf8proc_int32_t *copy = malloc(n * sizeof *copy);
    if (!copy) return false;
    memcpy(copy, codes, n * sizeof *copy);
    for (size_t i = 0; i < n; i++) place[class_of(codes[i]) + 1]++;
    for (int c = 0; c < 256; c++) place[c + 1] += place[c];
    for (size_t i = 0; i < n; i++) codes[place[class_of(copy[i])]++] = copy[i];
    free(copy);
    return true;
}

static bool order_all(utf8proc_int32_t *codes, size_t n) {
    for (size_t i = 0, end; i < n; i = end) {
        for (end = i; end < n && class_of(codes[end]); end++) {
        }
        if (end - i > 1 && !order(codes + i, end - i)) return false;
        if (end == i) end++;
    }
    return true;
}

#define MOST 32 /* code points that one becomes; at most 18 */

/* Appends a stretch of UTF-8, normalised: code points first, then their bytes, in place. */
static void put_run(qpi_normal_form form, const uint8_t *text, size_t n, qpi_buffer *out) {
    utf8proc_option_t options = options_of(form);
    size_t            start = (out->count + 7) & ~(size_t)7, count = 0;
    for (size_t at = 0; at < n;) {
        uint32_t code = 0;
        int      ignored = 0;
        if (!qpi_buffer_reserve(out, 8 + 4 * (count + MOST + 1))) return;
        at += qpi_utf8_decode(text + at, n - at, &code);
        count += (size_t)utf8proc_decompose_char(
            (utf8proc_int32_t)code, (utf8proc_int32_t *)(out->data + start) + count, MOST, options, &ignored);
    }
    utf8proc_int32_t *codes = (utf8proc_int32_t *)(out->data + start);
    if (!order_all(codes, count)) out->failed = true;
    utf8proc_ssize_t size = utf8proc_reencode(codes, (utf8proc_ssize_t)count, options);
    memmove(out->data + out->count, codes, (size_t)size);
    out->count += (size_t)size;
}

/* The end of the stretch that begins at `at` and may change: up to the next place between two code points where
 * nothing happens. */
static size_t run_end(qpi_normal_form form, const uint8_t *text, size_t n, size_t at) {
    uint32_t code;
    while (at < n) {
        size_t bytes = qpi_utf8_decode(text + at, n - at, &code);
        if (!bytes || code < 0x80 || is_inert(form, code)) break;
        at += bytes;
    }
    return at;
}

void qpi_normal_form_of(qpi_normal_form form, const uint8_t *text, size_t n, qpi_buffer *out) {
    size_t done = 0, at = 0;
    while (at < n) {
        if (text[at] < 0x80 && (at + 1 == n || text[at + 1] < 0x80)) {
            at++;
            continue;
        }
        uint32_t code;
        size_t   bytes = qpi_utf8_decode(text + at, n - at, &code);
        if (!bytes || is_inert(form, code)) {
            at += bytes ? bytes : 1;
            continue;
        }
        size_t end = run_end(form, text, n, at + bytes);
        if (code < 0x80 && end == at + 1) {
            at = end;
            continue;
        }
        qpi_buffer_put(out, text + done, at - done);
        put_run(form, text + at, end - at, out);
        done = at = end;
    }
    if (n) qpi_buffer_put(out, text + done, n - done);
}
