#include "data/normalize.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "format/utf8.h"

/* No form changes code points below this: all are composed, starters, without compatibility
 * forms. (NFC alone would allow U+0300, but the tables agree on this one.) */
#define UNCHANGED 0x80

static utf8proc_option_t options_of(qpi_normal_form form) {
    switch (form) {
    case QPI_NFC: return UTF8PROC_STABLE | UTF8PROC_COMPOSE;
    case QPI_NFD: return UTF8PROC_STABLE | UTF8PROC_DECOMPOSE;
    case QPI_NFKC: return UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT;
    default: return UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT;
    }
}

/* Appends one valid run of UTF-8, normalised. */
static bool put_run(qpi_normal_form form, const uint8_t *text, size_t n, qpi_buffer *out) {
    utf8proc_uint8_t *result = NULL;
    if (n == 0) return true;
    utf8proc_ssize_t size = utf8proc_map(text, (utf8proc_ssize_t)n, &result, options_of(form));
    bool             ok = size >= 0 && qpi_buffer_put(out, result, (size_t)size);
    free(result);
    return ok;
}

static bool apply(qpi_normal_form form, const uint8_t *text, size_t n, qpi_buffer *out) {
    size_t run = 0, at = 0;
    while (at < n) {
        size_t bytes = qpi_utf8_valid(text + at, n - at);
        if (bytes) {
            at += bytes;
            continue;
        }
        if (!put_run(form, text + run, at - run, out) || !qpi_buffer_put(out, text + at, 1)) return false;
        run = ++at;
    }
    return put_run(form, text + run, at - run, out);
}

static bool is_unchanged(const uint8_t *text, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (text[i] >= UNCHANGED) return false;
    return true;
}

bool qpi_normalize(const qpi_normalizer *z, const uint8_t **text, size_t *n, qpi_buffer *out) {
    if (!z->count || is_unchanged(*text, *n)) return true;
    qpi_buffer now = {0};
    for (int i = 0; i < z->count; i++) {
        now.count = 0;
        if (!apply(z->forms[i], *text, *n, &now)) {
            qpi_buffer_free(&now);
            return false;
        }
        qpi_buffer swap = *out;
        *out = now;
        now = swap;
        *text = (const uint8_t *)out->data;
        *n = out->count;
    }
    qpi_buffer_free(&now);
    return true;
}
