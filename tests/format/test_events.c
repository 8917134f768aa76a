/* TensorBoard's event files, decoded again by a reader of their own; the checksum and one record
 * against known bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "format/events.h"

/* ---- A reader of messages ------------------------------------------------------------------- */

typedef struct {
    const uint8_t *p, *end;
} cursor;

typedef struct {
    int      number, kind;
    uint64_t value; /* of a varint or fixed field */
    cursor   bytes;
} field;

static uint64_t little_endian(const uint8_t *p, int n) {
    uint64_t x = 0;
    for (int i = 0; i < n; i++) x |= (uint64_t)p[i] << (8 * i);
    return x;
}

static uint64_t varint(cursor *c) {
    uint64_t x = 0;
    for (int shift = 0;; shift += 7) {
        assert_true(c->p < c->end && shift < 64);
        x |= (uint64_t)(*c->p & 127) << shift;
        if (!(*c->p++ & 128)) return x;
    }
}

static bool next(cursor *c, field *f) {
    if (c->p == c->end) return false;
    uint64_t key = varint(c);
    f->number = (int)(key >> 3);
    f->kind = (int)(key & 7);
    if (f->kind == 0) {
        f->value = varint(c);
        return true;
    }
    assert_true(f->kind == 1 || f->kind == 2 || f->kind == 5);
    uint64_t n = f->kind == 2 ? varint(c) : f->kind == 1 ? 8 : 4;
    assert_true(n <= (uint64_t)(c->end - c->p));
    f->bytes = (cursor){c->p, c->p + n};
    if (f->kind != 2) f->value = little_endian(c->p, (int)n);
    c->p += n;
    return true;
}

/* The field of that number, which must be there. */
static field get(cursor message, int number) {
    field f;
    while (next(&message, &f))
        if (f.number == number) return f;
    fail_msg("no field %d", number);
    return f;
}

static double as_double(field f) {
    double x;
    memcpy(&x, &f.value, 8);
    return x;
}

static bool is_text(field f, const char *text) {
    return f.kind == 2 && (size_t)(f.bytes.end - f.bytes.p) == strlen(text) &&
           !memcmp(f.bytes.p, text, strlen(text));
}

static uint32_t masked(const void *data, size_t n) {
    uint32_t crc = qpi_crc32c(data, n);
    return (crc >> 15 | crc << 17) + 0xA282EAD8u;
}

static cursor record(cursor *c) {
    assert_true(c->end - c->p >= 16);
    uint64_t n = little_endian(c->p, 8);
    assert_int_equal(little_endian(c->p + 8, 4), masked(c->p, 8));
    assert_true(n <= (uint64_t)(c->end - c->p) - 16);
    cursor message = {c->p + 12, c->p + 12 + n};
    assert_int_equal(little_endian(message.end, 4), masked(message.p, n));
    c->p = message.end + 4;
    return message;
}

/* ---- Tests ------------------------------------------------------------------------------------ */

static void test_checksum(void **state) {
    (void)state;
    uint8_t zeros[32] = {0}, ones[32];
    memset(ones, 0xFF, sizeof ones);
    assert_int_equal(qpi_crc32c("123456789", 9), 0xE3069283);
    assert_int_equal(qpi_crc32c(zeros, 32), 0x8A9136AA); /* RFC 3720, B.4 */
    assert_int_equal(qpi_crc32c(ones, 32), 0x62A8AB43);
}

static void test_version_bytes(void **state) {
    (void)state;
    qpi_buffer out = {0};
    assert_true(qpi_events_version(&out, 1.5));
    static const uint8_t head[] = {24, 0, 0, 0, 0, 0, 0, 0}, body[] = "\x09\0\0\0\0\0\0\xF8\x3F\x1A\x0D"
                                                                      "brain.Event:2";
    assert_int_equal(out.count, 24 + 16);
    assert_memory_equal(out.data, head, 8);
    assert_memory_equal(out.data + 12, body, 24);
    qpi_buffer_free(&out);
}

static void test_events(void **state) {
    (void)state;
    qpi_buffer    out = {0};
    double        limits[] = {-1, 2.5}, counts[] = {3, 4};
    qpi_histogram h = {-2, 2.5, 1.25, 20, 7, 2, limits, counts};
    assert_true(qpi_events_start(&out, 1, 301));
    assert_true(qpi_events_scalar(&out, 2, 300, "train/loss", 0.75));
    assert_true(qpi_events_text(&out, 3, 1, "sample", "<b>\xC3\xA4</b>"));
    assert_true(qpi_events_histogram(&out, 4, INT64_C(1) << 40, "weights", &h));
    cursor c = {(const uint8_t *)out.data, (const uint8_t *)out.data + out.count};

    cursor event = record(&c);
    assert_int_equal(get(event, 2).value, 301);
    assert_int_equal(get(get(event, 7).bytes, 1).value, 1);

    event = record(&c);
    cursor value = get(get(event, 5).bytes, 1).bytes;
    assert_true(as_double(get(event, 1)) == 2);
    assert_int_equal(get(event, 2).value, 300);
    assert_true(is_text(get(value, 1), "train/loss"));
    assert_int_equal(get(value, 2).kind, 5);
    assert_int_equal(get(value, 2).value, 0x3F400000);

    value = get(get(record(&c), 5).bytes, 1).bytes;
    cursor tensor = get(value, 8).bytes;
    assert_int_equal(get(tensor, 1).value, 7);
    assert_int_equal(get(get(get(tensor, 2).bytes, 2).bytes, 1).value, 1);
    assert_true(is_text(get(tensor, 8), "<b>\xC3\xA4</b>"));
    assert_true(is_text(get(get(get(value, 9).bytes, 1).bytes, 1), "text"));

    event = record(&c);
    cursor histogram = get(get(get(event, 5).bytes, 1).bytes, 5).bytes;
    assert_int_equal(get(event, 2).value, INT64_C(1) << 40);
    double numbers[] = {-2, 2.5, 7, 1.25, 20};
    for (int i = 0; i < 5; i++) assert_true(as_double(get(histogram, i + 1)) == numbers[i]);
    assert_memory_equal(get(histogram, 6).bytes.p, limits, sizeof limits);
    assert_memory_equal(get(histogram, 7).bytes.p, counts, sizeof counts);
    assert_true(c.p == c.end);
    qpi_buffer_free(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_checksum), cmocka_unit_test(test_version_bytes),
                                       cmocka_unit_test(test_events)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
