/* The table of replacements that SentencePiece calls precompiled_charsmap: u32 bytes of a trie, the trie as u32
 * units, then the texts that they stand for, each ended by 0. The trie is a double array (darts-clone): a unit
 * holds a label (bits 0-7), whether a value follows (8), an offset (10-30, shifted by 8 more if bit 9 is set);
 * units of values have bit 31. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "data/normalize.h"
#include "format/os.h"
#include "format/reader.h"
#include "format/utf8.h"

static size_t offset_of(uint32_t unit) { return (size_t)(unit >> 10) << ((unit & (1u << 9)) >> 6); }

/* The text that stands for the shortest prefix that has one: that is what `tokenizers` takes. */
static const char *find(const qpi_charsmap *m, const uint8_t *text, size_t n) {
    size_t at = offset_of(m->units[0]);
    for (size_t i = 0; i < n && text[i]; i++) {
        at ^= text[i];
        if (at >= m->count || (m->units[at] & (1u << 31 | 0xFF)) != text[i]) return NULL;
        uint32_t unit = m->units[at];
        at ^= offset_of(unit);
        if (!(unit >> 8 & 1)) continue;
        uint32_t value = at < m->count ? m->units[at] & ~(1u << 31) : UINT32_MAX;
        return value < m->text_size ? m->text + value : NULL;
    }
    return NULL;
}

bool qpi_charsmap_read(qpi_charsmap *m, const uint8_t *data, size_t n, const qpi_json *at) {
    qpi_reader r = qpi_reader_over("charsmap", data, n, at->error);
    uint32_t   bytes = n >= 4 ? qpi_read_u32(&r, "size") : 0;
    m->count = bytes / 4;
    if (m->count == 0 || 4 * (uint64_t)m->count > qpi_reader_left(&r)) {
        qpi_json_fail(at, QP_ERR_FORMAT, "expected a table of replacements, found %zu bytes", n);
        return false;
    }
    m->text_size = n - 4 - 4 * m->count;
    m->units = malloc(4 * m->count);
    m->text = malloc(m->text_size + 1);
    if (!m->units || !m->text) return qpi_fail_memory(at->error, "tokenizer") == QP_OK;
    for (size_t i = 0; i < m->count; i++) m->units[i] = qpi_read_u32(&r, "unit");
    memcpy(m->text, data + n - m->text_size, m->text_size);
    m->text[m->text_size] = 0;
    for (size_t i = 0, step; i < m->text_size; i += step)
        if (!(step = qpi_utf8_valid(m->text + i, m->text_size - i))) {
            qpi_json_fail(at, QP_ERR_FORMAT, "the replacements are not UTF-8 at byte %zu", i);
            return false;
        }
    for (int c = 0; c < 128; c++) m->plain[c] = !find(m, &(uint8_t){(uint8_t)c}, 1);
    return true;
}

/* The end of the grapheme that starts at `at`, which is UTF-8. */
static size_t grapheme_end(const uint8_t *text, size_t n, size_t at) {
    uint32_t         code = 0, next;
    utf8proc_int32_t state = 0;
    at += qpi_utf8_decode(text + at, n - at, &code);
    for (size_t bytes; at < n && (bytes = qpi_utf8_decode(text + at, n - at, &next)); at += bytes, code = next)
        if (utf8proc_grapheme_break_stateful((utf8proc_int32_t)code, (utf8proc_int32_t)next, &state)) break;
    return at;
}

#define WHOLE 6 /* bytes from which a grapheme is no longer looked up as a whole */

static bool put_replaced(const qpi_charsmap *m, const uint8_t *text, size_t n, qpi_buffer *out) {
    const char *to = find(m, text, n);
    if (to) qpi_put_text(out, to);
    return to;
}

static void put_grapheme(const qpi_charsmap *m, const uint8_t *text, size_t n, qpi_buffer *out) {
    if (n < WHOLE && put_replaced(m, text, n, out)) return;
    for (size_t at = 0, step; at < n; at += step) {
        step = qpi_utf8_valid(text + at, n - at);
        if (!put_replaced(m, text + at, step, out)) qpi_buffer_put(out, text + at, step);
    }
}

void qpi_charsmap_apply(const qpi_charsmap *m, const uint8_t *text, size_t n, qpi_buffer *out) {
    size_t done = 0, at = 0;
    while (at < n) {
        /* An ASCII character before another is a grapheme, except \r\n. */
        bool alone = text[at] < 0x80 && (at + 1 == n || text[at + 1] < 0x80);
        if (alone ? text[at] != '\r' && m->plain[text[at]] : !qpi_utf8_valid(text + at, n - at)) {
            at++;
            continue;
        }
        size_t end = grapheme_end(text, n, at);
        qpi_buffer_put(out, text + done, at - done);
        put_grapheme(m, text + at, end - at, out);
        done = at = end;
    }
    qpi_buffer_put(out, text + done, n - done);
}

void qpi_charsmap_free(qpi_charsmap *m) {
    free(m->units);
    free(m->text);
    *m = (qpi_charsmap){0};
}
