#include "format/events.h"

#include <string.h>

/* ---- Records --------------------------------------------------------------------------------- */

uint32_t qpi_crc32c(const void *data, size_t n) {
    const uint8_t *p = data;
    uint32_t       crc = ~UINT32_C(0);
    for (size_t i = 0; i < n; i++) {
        crc ^= p[i];
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? UINT32_C(0x82F63B78) : 0);
    }
    return ~crc;
}

static void little_endian(uint8_t *out, uint64_t x, int bytes) {
    for (int i = 0; i < bytes; i++) out[i] = (uint8_t)(x >> (8 * i));
}

/* A checksum of what holds checksums is masked, so that it is not one of its own. */
static void masked(uint8_t out[4], const void *data, size_t n) {
    uint32_t crc = qpi_crc32c(data, n);
    little_endian(out, (uint32_t)((crc >> 15 | crc << 17) + UINT32_C(0xA282EAD8)), 4);
}

bool qpi_events_record(qpi_buffer *out, const void *data, size_t n) {
    uint8_t head[12], tail[4];
    little_endian(head, n, 8);
    masked(head + 8, head, 8);
    masked(tail, data, n);
    qpi_buffer_put(out, head, 12);
    qpi_buffer_put(out, data, n);
    qpi_buffer_put(out, tail, 4);
    return !out->failed;
}

/* ---- Messages -------------------------------------------------------------------------------- */

/* A message being put together. */
typedef qpi_buffer message;

enum { VARINT, FIXED64, BYTES, FIXED32 = 5 };

static void put_varint(message *m, uint64_t x) {
    uint8_t bytes[10];
    size_t  n = 0;
    do bytes[n++] = (uint8_t)((x & 127) | (x > 127 ? 128 : 0));
    while (x >>= 7);
    qpi_buffer_put(m, bytes, n);
}

static void put_key(message *m, int field, int kind) { put_varint(m, (uint64_t)field << 3 | (uint64_t)kind); }

static void put_integer(message *m, int field, int64_t x) {
    put_key(m, field, VARINT);
    put_varint(m, (uint64_t)x);
}

static void put_fixed64(message *m, double x) {
    uint64_t bits;
    uint8_t  bytes[8];
    memcpy(&bits, &x, 8);
    little_endian(bytes, bits, 8);
    qpi_buffer_put(m, bytes, 8);
}

static void put_double(message *m, int field, double x) {
    put_key(m, field, FIXED64);
    put_fixed64(m, x);
}

static void put_float(message *m, int field, double value) {
    float    x = (float)value;
    uint32_t bits;
    uint8_t  bytes[4];
    memcpy(&bits, &x, 4);
    little_endian(bytes, bits, 4);
    put_key(m, field, FIXED32);
    qpi_buffer_put(m, bytes, 4);
}

static void put_bytes(message *m, int field, const void *data, size_t n) {
    put_key(m, field, BYTES);
    put_varint(m, n);
    qpi_buffer_put(m, data, n);
}

static void put_text(message *m, int field, const char *text) { put_bytes(m, field, text, strlen(text)); }

/* The inner message, which is used up. */
static void put_message(message *m, int field, message *inner) {
    put_bytes(m, field, inner->data, inner->count);
    m->failed |= inner->failed;
    qpi_buffer_free(inner);
}

static void put_doubles(message *m, int field, const double *x, int n) {
    put_key(m, field, BYTES);
    put_varint(m, 8 * (uint64_t)n);
    for (int i = 0; i < n; i++) put_fixed64(m, x[i]);
}

/* ---- Events ------------------------------------------------------------------------------------ */

static message event(double time, int64_t step) {
    message m = {0};
    put_double(&m, 1, time);
    if (step) put_integer(&m, 2, step);
    return m;
}

static bool finish(qpi_buffer *out, message *m) {
    bool ok = !m->failed && qpi_events_record(out, m->data, m->count);
    qpi_buffer_free(m);
    return ok;
}

/* An event with a summary of this one value. */
static bool finish_value(qpi_buffer *out, double time, int64_t step, message *value) {
    message m = event(time, step), summary = {0};
    put_message(&summary, 1, value);
    put_message(&m, 5, &summary);
    return finish(out, &m);
}

bool qpi_events_version(qpi_buffer *out, double time) {
    message m = event(time, 0);
    put_text(&m, 3, "brain.Event:2");
    return finish(out, &m);
}

bool qpi_events_start(qpi_buffer *out, double time, int64_t step) {
    message m = event(time, step), session = {0};
    put_integer(&session, 1, 1);
    put_message(&m, 7, &session);
    return finish(out, &m);
}

bool qpi_events_scalar(qpi_buffer *out, double time, int64_t step, const char *tag, double x) {
    message value = {0};
    put_text(&value, 1, tag);
    put_float(&value, 2, x);
    return finish_value(out, time, step, &value);
}

bool qpi_events_text(qpi_buffer *out, double time, int64_t step, const char *tag, const char *text) {
    message value = {0}, metadata = {0}, plugin = {0}, tensor = {0}, shape = {0}, size = {0};
    put_text(&value, 1, tag);
    put_integer(&tensor, 1, 7); /* DT_STRING */
    put_integer(&size, 1, 1);
    put_message(&shape, 2, &size);
    put_message(&tensor, 2, &shape);
    put_text(&tensor, 8, text);
    put_message(&value, 8, &tensor);
    put_text(&plugin, 1, "text");
    put_message(&metadata, 1, &plugin);
    put_message(&value, 9, &metadata);
    return finish_value(out, time, step, &value);
}

bool qpi_events_histogram(qpi_buffer *out, double time, int64_t step, const char *tag, const qpi_histogram *h) {
    message value = {0}, histogram = {0};
    put_text(&value, 1, tag);
    put_double(&histogram, 1, h->min);
    put_double(&histogram, 2, h->max);
    put_double(&histogram, 3, (double)h->count);
    put_double(&histogram, 4, h->sum);
    put_double(&histogram, 5, h->sum_squares);
    put_doubles(&histogram, 6, h->limits, h->classes);
    put_doubles(&histogram, 7, h->counts, h->classes);
    put_message(&value, 5, &histogram);
    return finish_value(out, time, step, &value);
}
