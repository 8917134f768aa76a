#include "format/json_stream.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "format/os.h"
#include "format/utf8.h"

qpi_stream qpi_stream_over(const char *name, const void *data, size_t size, qpi_error *e) {
    return (qpi_stream){.name = name, .data = data, .size = size, .line = 1, .error = e};
}

void qpi_stream_free(qpi_stream *s) { qpi_buffer_free(&s->text); }

bool qpi_span_is(qpi_span s, const char *text) {
    return s.size == strlen(text) && memcmp(s.data, text, s.size) == 0;
}

bool qpi_stream_fail(qpi_stream *s, size_t at, const char *format, ...) {
    size_t line = s->line, column = 1;
    for (size_t i = 0; i < at; i++) {
        column++;
        if (s->data[i] == '\n') line++, column = 1;
    }
    char    text[400];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    qpi_fail(s->error, QP_ERR_FORMAT, "%s: line %zu column %zu: %s", s->name, line, column, text);
    s->failed = true;
    return false;
}

/* "expected X, found Y" at the present place. */
static bool unexpected(qpi_stream *s, const char *wanted) {
    char shown[QPI_SHOWN];
    if (s->failed) return false;
    if (s->at >= s->size) return qpi_stream_fail(s, s->at, "expected %s, found the end", wanted);
    size_t n = s->size - s->at < 12 ? s->size - s->at : 12;
    return qpi_stream_fail(s, s->at, "expected %s, found '%s'", wanted, qpi_shown(shown, s->data + s->at, n));
}

static void blanks(qpi_stream *s) {
    while (s->at < s->size) {
        char c = s->data[s->at];
        if (c != ' ' && c != '\n' && c != '\r' && c != '\t') break;
        s->at++;
    }
}

char qpi_stream_peek(qpi_stream *s) {
    if (s->failed) return 0;
    blanks(s);
    if (s->at >= s->size) return 0;
    char c = s->data[s->at];
    return c == '-' || (c >= '0' && c <= '9') ? '0' : c;
}

static bool take(qpi_stream *s, char c, const char *wanted) {
    if (qpi_stream_peek(s) == 0 || s->data[s->at] != c) return unexpected(s, wanted);
    s->at++;
    return true;
}

bool qpi_stream_open(qpi_stream *s, char kind) {
    if (!take(s, kind, kind == '{' ? "an object" : "an array")) return false;
    if (s->depth == QPI_JSON_DEPTH)
        return qpi_stream_fail(s, s->at, "nested deeper than %d levels", QPI_JSON_DEPTH);
    s->depth++;
    s->arrays = (s->arrays & ~(UINT64_C(1) << s->depth)) | (uint64_t)(kind == '[') << s->depth;
    s->fresh = true;
    return true;
}

/* Moves to the next member or item; false at the container's end, which is taken. */
static bool advance(qpi_stream *s, char close, const char *wanted) {
    char c = qpi_stream_peek(s);
    if (s->failed) return false;
    if (c == close) {
        s->at++;
        s->depth--;
        s->fresh = false;
        return false;
    }
    if (!s->fresh) {
        if (!take(s, ',', wanted)) return false;
        c = qpi_stream_peek(s);
    }
    s->fresh = false;
    return true;
}

bool qpi_stream_key(qpi_stream *s, qpi_span *key) {
    if (!advance(s, '}', "',' or '}'")) return false;
    if (qpi_stream_peek(s) != '"') return unexpected(s, "a key");
    return qpi_stream_string(s, key) && take(s, ':', "':'");
}

bool qpi_stream_item(qpi_stream *s) { return advance(s, ']', "',' or ']'"); }

/* ---- Strings -------------------------------------------------------------------------- */

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The four digits at `at`, or -1. */
static int32_t hex4(const qpi_stream *s, size_t at) {
    int32_t x = 0;
    if (s->size - at < 4) return -1;
    for (int i = 0; i < 4; i++) {
        int d = hex_digit(s->data[at + (size_t)i]);
        if (d < 0) return -1;
        x = x << 4 | d;
    }
    return x;
}

/* The escape whose backslash is at s->at. */
static bool unescape(qpi_stream *s) {
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    char              c = s->at + 1 < s->size ? s->data[s->at + 1] : 0;
    const char       *simple = c ? strchr(names, c) : NULL;
    char              out[4];
    size_t            n = 1, used = 2;
    if (simple) {
        out[0] = values[simple - names];
    } else {
        int32_t x = c == 'u' ? hex4(s, s->at + 2) : -1;
        used = 6;
        if (x >= 0xD800 && x < 0xDC00 && s->size - s->at >= 12 && s->data[s->at + 6] == '\\' &&
            s->data[s->at + 7] == 'u') {
            int32_t low = hex4(s, s->at + 8);
            if (low >= 0xDC00 && low < 0xE000) x = 0x10000 + ((x - 0xD800) << 10) + (low - 0xDC00), used = 12;
        }
        if (x < 0 || (x >= 0xD800 && x < 0xE000)) return qpi_stream_fail(s, s->at, "bad escape in a string");
        n = qpi_utf8_encode((uint32_t)x, out);
    }
    s->at += used;
    if (qpi_buffer_put(&s->text, out, n)) return true;
    qpi_fail_memory(s->error, s->name);
    s->failed = true;
    return false;
}

/* Length of the run from s->at that can be taken as it is. */
static size_t plain_run(qpi_stream *s) {
    size_t at = s->at;
    while (at < s->size) {
        unsigned char c = (unsigned char)s->data[at];
        if (c == '"' || c == '\\' || c < 0x20) break;
        if (c < 0x80) {
            at++;
            continue;
        }
        size_t n = qpi_utf8_valid(s->data + at, s->size - at);
        if (!n) {
            qpi_stream_fail(s, at, "a string is not UTF-8");
            break;
        }
        at += n;
    }
    return at - s->at;
}

bool qpi_stream_string(qpi_stream *s, qpi_span *text) {
    if (qpi_stream_peek(s) != '"') return unexpected(s, "a string");
    size_t start = s->at++;
    bool   copied = false;
    s->text.count = 0;
    for (;;) {
        const char *run = s->data + s->at;
        size_t      n = plain_run(s);
        if (s->failed) return false;
        s->at += n;
        if (s->at >= s->size) return qpi_stream_fail(s, start, "a string that does not end");
        char c = s->data[s->at];
        if (c == '"' && !copied) {
            *text = (qpi_span){run, n};
            break;
        }
        if (!qpi_buffer_put(&s->text, run, n)) {
            s->failed = qpi_fail_memory(s->error, s->name) != QP_OK;
            return false;
        }
        copied = true;
        if (c == '"') {
            *text = (qpi_span){s->text.data, s->text.count};
            break;
        }
        if (c != '\\') return qpi_stream_fail(s, s->at, "a control character in a string");
        if (!unescape(s)) return false;
    }
    s->at++;
    return true;
}

/* ---- Numbers and words ---------------------------------------------------------------- */

static bool digit_at(const qpi_stream *s, size_t at) {
    return at < s->size && s->data[at] >= '0' && s->data[at] <= '9';
}

bool qpi_stream_number(qpi_stream *s, qpi_span *digits) {
    size_t at = s->at, start = s->at;
    if (s->data[at] == '-') at++;
    if (!digit_at(s, at)) return unexpected(s, "a number");
    if (s->data[at] == '0') at++;
    else
        while (digit_at(s, at)) at++;
    if (at < s->size && s->data[at] == '.') {
        if (!digit_at(s, ++at)) return qpi_stream_fail(s, start, "a malformed number");
        while (digit_at(s, at)) at++;
    }
    if (at < s->size && (s->data[at] == 'e' || s->data[at] == 'E')) {
        at++;
        if (at < s->size && (s->data[at] == '+' || s->data[at] == '-')) at++;
        if (!digit_at(s, at)) return qpi_stream_fail(s, start, "a malformed number");
        while (digit_at(s, at)) at++;
    }
    s->at = at;
    *digits = (qpi_span){s->data + start, at - start};
    return true;
}

bool qpi_stream_integer(qpi_stream *s, int64_t *value) {
    qpi_span digits = {0};
    if (qpi_stream_peek(s) != '0') return unexpected(s, "an integer");
    if (!qpi_stream_number(s, &digits)) return false;
    bool    minus = digits.data[0] == '-', whole = digits.size <= 18;
    int64_t x = 0;
    for (size_t i = minus; whole && i < digits.size; i++) {
        whole = digits.data[i] >= '0' && digits.data[i] <= '9';
        x = 10 * x + (digits.data[i] - '0');
    }
    if (!whole) return qpi_stream_fail(s, s->at - digits.size, "expected an integer of at most 18 digits");
    *value = minus ? -x : x;
    return true;
}

static bool word(qpi_stream *s, const char *text) {
    size_t n = strlen(text);
    if (s->size - s->at < n || memcmp(s->data + s->at, text, n) != 0) return unexpected(s, "a value");
    s->at += n;
    return true;
}

/* One value that is no container, or the opening of one. */
static bool skip_step(qpi_stream *s) {
    qpi_span text;
    switch (qpi_stream_peek(s)) {
    case '{': return qpi_stream_open(s, '{');
    case '[': return qpi_stream_open(s, '[');
    case '"': return qpi_stream_string(s, &text);
    case '0': return qpi_stream_number(s, &text);
    case 't': return word(s, "true");
    case 'f': return word(s, "false");
    case 'n': return word(s, "null");
    default: return unexpected(s, "a value");
    }
}

bool qpi_stream_skip(qpi_stream *s, qpi_span *raw) {
    int      base = s->depth;
    qpi_span key;
    qpi_stream_peek(s);
    size_t start = s->at;
    if (!skip_step(s)) return false;
    while (s->depth > base && !s->failed) {
        bool array = s->arrays >> s->depth & 1;
        if (array ? qpi_stream_item(s) : qpi_stream_key(s, &key)) skip_step(s);
    }
    if (raw) *raw = (qpi_span){s->data + start, s->at - start};
    return !s->failed;
}

bool qpi_stream_end(qpi_stream *s) {
    blanks(s);
    if (s->at == s->size && !s->failed) return true;
    return unexpected(s, "the end");
}
