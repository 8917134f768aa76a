#include "data/documents.h"

#include <stdlib.h>
#include <string.h>

#include "format/checksum.h"
#include "format/json_stream.h"
#include "format/reader.h"

#define BATCH_BYTES ((size_t)8 << 20)

typedef struct {
    qpi_documents_fn *fn;
    void             *arg;
    const char       *name, *field;
    qpi_error        *error;
    qpi_arena         arena;
    qpi_document     *items;
    size_t            count, capacity, bytes;
} batch;

static bool flush(batch *b) {
    bool ok = b->count == 0 || b->fn(b->arg, b->items, b->count);
    qpi_arena_free(&b->arena);
    b->count = b->bytes = 0;
    return ok;
}

static bool add(batch *b, qpi_span text) {
    qpi_document *items = qpi_grown(b->items, &b->capacity, b->count + 1, sizeof *items);
    if (items) b->items = items;
    char *copy = items ? qpi_arena_text(&b->arena, text.data, text.size) : NULL;
    if (!copy) return qpi_fail_memory(b->error, b->name) == QP_OK;
    items[b->count++] = (qpi_document){(const uint8_t *)copy, text.size};
    b->bytes += text.size;
    if (b->bytes < BATCH_BYTES) return true;
    return flush(b);
}

static bool read_line(batch *b, qpi_stream *s) {
    qpi_span key, text = {0};
    bool     seen = false;
    if (!qpi_stream_open(s, '{')) return false;
    while (qpi_stream_key(s, &key)) {
        bool wanted = qpi_span_is(key, b->field);
        if (wanted && seen) return qpi_stream_fail(s, s->at, "\"%s\" twice", b->field);
        seen |= wanted;
        if (!(wanted ? qpi_stream_string(s, &text) && add(b, text) : qpi_stream_skip(s, NULL))) return false;
    }
    if (s->failed || !qpi_stream_end(s)) return false;
    if (seen) return true;
    return qpi_stream_fail(s, 0, "expected a string under \"%s\"", b->field);
}

static bool is_blank(const char *p, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (p[i] != ' ' && p[i] != '\t' && p[i] != '\r') return false;
    return true;
}

bool qpi_documents_parse(const char *name, const void *data, size_t size, const char *field,
                         qpi_documents_fn *fn, void *arg, qpi_error *e) {
    batch       b = {.fn = fn, .arg = arg, .name = name, .field = field ? field : "text", .error = e};
    const char *p = data, *end = p + size;
    qpi_buffer  text = {0}; /* of one stream after the other */
    bool        ok = true;
    for (size_t line = 1; ok && p < end; line++) {
        const char *stop = memchr(p, '\n', (size_t)(end - p));
        size_t      n = (size_t)((stop ? stop : end) - p);
        if (!is_blank(p, n)) {
            qpi_stream s = qpi_stream_over(name, p, n, e);
            s.line = line;
            s.text = text;
            ok = read_line(&b, &s);
            text = s.text;
        }
        p = stop ? stop + 1 : end;
    }
    ok = ok && flush(&b);
    qpi_buffer_free(&text);
    qpi_arena_free(&b.arena);
    free(b.items);
    return ok;
}

static bool has_json_lines(const char *path) {
    const char *dot = strrchr(path, '.');
    return dot && (strcmp(dot, ".jsonl") == 0 || strcmp(dot, ".ndjson") == 0);
}

bool qpi_documents_read(const char *path, const char *field, uint64_t *bytes, uint64_t *checksum,
                        qpi_documents_fn *fn, void *arg, qpi_error *e) {
    qpi_bytes *content = qpi_bytes_open(path, QPI_READ, e);
    if (!content) return false;
    size_t size = (size_t)content->size;
    if (checksum) {
        *bytes = content->size;
        *checksum = qpi_checksum_of(0, content->data, size);
    }
    qpi_document whole = {content->data, size};
    bool         ok = has_json_lines(path) ? qpi_documents_parse(path, content->data, size, field, fn, arg, e)
                                           : size == 0 || fn(arg, &whole, 1);
    qpi_bytes_release(content);
    return ok;
}
