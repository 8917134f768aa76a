#define _GNU_SOURCE /* strndup */
#include "format/json.h"

#include <errno.h>
#include <inttypes.h>
#include <locale.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/json_stream.h"
#include "format/os.h"
#include "format/reader.h"
#include "format/writer.h"

/* ---- Reading -------------------------------------------------------------------------- */

/* jansson's own reader is not used: where memory runs out it drops bytes of strings and numbers
 * without a word. */
static json_t *build(qpi_stream *s);

/* What jansson has made; NULL is a lack of memory. */
static json_t *made(qpi_stream *s, json_t *value) {
    if (!value) s->failed = qpi_fail_memory(s->error, s->name);
    return value;
}

/* Nothing but what is whole is handed out. */
static json_t *whole(qpi_stream *s, json_t *container) {
    if (!s->failed) return container;
    json_decref(container);
    return NULL;
}

/* Trees are read by C, whose strings end at a byte of value 0. */
static bool is_text(qpi_stream *s, qpi_span span) {
    if (!memchr(span.data, 0, span.size)) return true;
    return qpi_stream_fail(s, s->at, "a string with \\u0000 in it before here");
}

static void build_member(qpi_stream *s, json_t *object, qpi_span key) {
    char    shown[QPI_SHOWN];
    char   *name = strndup(key.data, key.size);
    json_t *value = NULL;
    if (!name) made(s, NULL);
    else if (json_object_get(object, name))
        qpi_stream_fail(s, s->at, "duplicate key \"%s\"", qpi_shown(shown, name, strlen(name)));
    else value = build(s);
    if (value && json_object_set_new_nocheck(object, name, value) != 0) made(s, NULL);
    free(name);
}

static json_t *build_object(qpi_stream *s) {
    qpi_span key;
    json_t  *object = made(s, json_object());
    qpi_stream_open(s, '{');
    while (qpi_stream_key(s, &key))
        if (is_text(s, key)) build_member(s, object, key);
    return whole(s, object);
}

static json_t *build_array(qpi_stream *s) {
    json_t *array = made(s, json_array());
    qpi_stream_open(s, '[');
    while (qpi_stream_item(s)) {
        json_t *value = build(s);
        if (value && json_array_append_new(array, value) != 0) made(s, NULL);
    }
    return whole(s, array);
}

static json_t *build_string(qpi_stream *s) {
    qpi_span text;
    if (!qpi_stream_string(s, &text) || !is_text(s, text)) return NULL;
    return made(s, json_stringn_nocheck(text.data, text.size));
}

static json_t *build_number(qpi_stream *s) {
    qpi_span digits;
    size_t   at = s->at;
    if (!qpi_stream_number(s, &digits)) return NULL;
    s->text.count = 0;
    qpi_buffer_put(&s->text, digits.data, digits.size);
    qpi_buffer_put(&s->text, "", 1);
    if (s->text.failed) return made(s, NULL);
    char *text = s->text.data, *point = strchr(text, '.');
    errno = 0;
    if (!point && !strpbrk(text, "eE")) {
        long long x = strtoll(text, NULL, 10);
        if (!errno) return made(s, json_integer(x));
        /* beyond 64 bits it is a number: tokenizer_config.json has one of 1e30 */
    }
    if (point) *point = *localeconv()->decimal_point; /* the host program's locale */
    double x = strtod(text, NULL);
    return isfinite(x) ? made(s, json_real(x)) : (qpi_stream_fail(s, at, "a number that is too big"), NULL);
}

static json_t *build_word(qpi_stream *s) {
    char c = qpi_stream_peek(s);
    if (!qpi_stream_skip(s, NULL)) return NULL;
    return c == 't' ? json_true() : c == 'f' ? json_false() : json_null();
}

static json_t *build(qpi_stream *s) {
    switch (qpi_stream_peek(s)) {
    case '{': return build_object(s);
    case '[': return build_array(s);
    case '"': return build_string(s);
    case '0': return build_number(s);
    default: return build_word(s);
    }
}

json_t *qpi_json_parse(const char *name, const void *data, size_t size, qpi_error *e) {
    qpi_stream s = qpi_stream_over(name, data, size, e);
    json_t    *value = build(&s);
    if (value && !qpi_stream_end(&s)) value = whole(&s, value);
    qpi_stream_free(&s);
    return value;
}

json_t *qpi_json_load(const char *path, qpi_error *e) {
    qpi_bytes *bytes = qpi_bytes_open(path, QPI_READ, e);
    if (!bytes) return NULL;
    json_t *value = qpi_json_parse(path, bytes->data, (size_t)bytes->size, e);
    qpi_bytes_release(bytes);
    return value;
}

json_t *qpi_json_load_in(const char *folder, const char *name, qpi_error *e) {
    char   *path = e->code ? NULL : qpi_path_join(folder, name, e);
    json_t *value = path && qpi_path_exists(path) ? qpi_json_load(path, e) : NULL;
    free(path);
    return value;
}

/* ---- Walking -------------------------------------------------------------------------- */

qpi_json qpi_json_root(const char *name, json_t *value, qpi_error *e) {
    return (qpi_json){.value = value, .name = name, .error = e};
}

static json_t *unless_null(json_t *value) { return qpi_json_is(value, JSON_NULL) ? NULL : value; }

qpi_json qpi_json_member(const qpi_json *object, const char *key) {
    return (qpi_json){.value = unless_null(json_object_get(object->value, key)),
                      .parent = object,
                      .key = key,
                      .error = object->error};
}

qpi_json qpi_json_item(const qpi_json *array, size_t index) {
    return (qpi_json){.value = unless_null(json_array_get(array->value, index)),
                      .parent = array,
                      .index = index,
                      .error = array->error};
}

/* Writes the way from the root; returns the document's name. */
static const char *describe(const qpi_json *at, char *out, size_t size) {
    if (!at->parent) {
        out[0] = 0;
        return at->name;
    }
    char        shown[QPI_SHOWN];
    const char *name = describe(at->parent, out, size);
    size_t      used = strlen(out);
    if (!at->key) snprintf(out + used, size - used, "[%zu]", at->index);
    else snprintf(out + used, size - used, "%s%s", used ? "." : "", qpi_shown(shown, at->key, strlen(at->key)));
    return name;
}

void qpi_json_fail(const qpi_json *at, qp_code code, const char *format, ...) {
    char        path[200], text[250];
    const char *name = describe(at, path, sizeof path);
    va_list     args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    qpi_fail(at->error, code, "%s: %s%s%s", name, path, path[0] ? ": " : "", text);
}

const char *qpi_json_kind(const json_t *value) {
    static const char *const kinds[] = {"an object", "an array", "a string", "an integer",
                                        "a number",  "true",     "false",    "null"};
    return value ? kinds[json_typeof(value)] : "nothing";
}

/* Describes what was found, briefly. */
static const char *found(const json_t *value, char out[QPI_SHOWN + 2]) {
    char shown[QPI_SHOWN];
    if (qpi_json_is(value, JSON_STRING))
        snprintf(out, QPI_SHOWN + 2, "\"%s\"",
                 qpi_shown(shown, json_string_value(value), json_string_length(value)));
    else if (qpi_json_is(value, JSON_INTEGER))
        snprintf(out, QPI_SHOWN, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    else if (qpi_json_is(value, JSON_REAL)) snprintf(out, QPI_SHOWN, "%g", json_real_value(value));
    else snprintf(out, QPI_SHOWN, "%s", qpi_json_kind(value));
    return out;
}

/* False when the getter is done: *result then says how. */
static bool present(const qpi_json *member, qpi_need need, bool *result) {
    *result = member->value || need == QPI_OPTIONAL;
    if (!*result) qpi_json_fail(member, QP_ERR_FORMAT, "missing");
    return member->value != NULL;
}

bool qpi_json_integer(const qpi_json *object, const char *key, qpi_need need, int64_t low, int64_t high,
                      int64_t *out) {
    qpi_json member = qpi_json_member(object, key);
    char     text[QPI_SHOWN + 2];
    bool     result;
    if (!present(&member, need, &result)) return result;
    double real = json_real_value(member.value); /* 0 unless real; other writers say 12.0 */
    if (qpi_json_is(member.value, JSON_INTEGER)) {
        int64_t x = json_integer_value(member.value);
        if (x >= low && x <= high) {
            *out = x;
            return true;
        }
    } else if (qpi_json_is(member.value, JSON_REAL) && real == floor(real) && fabs(real) < 1e15 &&
               real >= (double)low && real <= (double)high) {
        *out = (int64_t)real;
        return true;
    }
    qpi_json_fail(&member, QP_ERR_FORMAT, "expected an integer from %" PRId64 " to %" PRId64 ", found %s", low,
                  high, found(member.value, text));
    return false;
}

bool qpi_json_number(const qpi_json *object, const char *key, qpi_need need, double low, double high,
                     double *out) {
    qpi_json member = qpi_json_member(object, key);
    char     text[QPI_SHOWN + 2];
    bool     result;
    if (!present(&member, need, &result)) return result;
    double x = json_number_value(member.value);
    if (qpi_json_is_number(member.value) && x >= low && x <= high) {
        *out = x;
        return true;
    }
    qpi_json_fail(&member, QP_ERR_FORMAT, "expected a number from %g to %g, found %s", low, high,
                  found(member.value, text));
    return false;
}

static bool wrong_kind(const qpi_json *member, const char *wanted) {
    char text[QPI_SHOWN + 2];
    qpi_json_fail(member, QP_ERR_FORMAT, "expected %s, found %s", wanted, found(member->value, text));
    return false;
}

bool qpi_json_boolean(const qpi_json *object, const char *key, qpi_need need, bool *out) {
    qpi_json member = qpi_json_member(object, key);
    bool     result;
    if (!present(&member, need, &result)) return result;
    bool yes = qpi_json_is(member.value, JSON_TRUE);
    if (!yes && !qpi_json_is(member.value, JSON_FALSE)) return wrong_kind(&member, "true or false");
    *out = yes;
    return true;
}

bool qpi_json_string(const qpi_json *object, const char *key, qpi_need need, const char **out) {
    qpi_json member = qpi_json_member(object, key);
    bool     result;
    if (!present(&member, need, &result)) return result;
    if (!qpi_json_is(member.value, JSON_STRING)) return wrong_kind(&member, "a string");
    *out = json_string_value(member.value);
    return true;
}

bool qpi_json_object(const qpi_json *object, const char *key, qpi_need need, qpi_json *out) {
    qpi_json member = qpi_json_member(object, key);
    bool     result;
    if (!present(&member, need, &result)) return result;
    if (!qpi_json_is(member.value, JSON_OBJECT)) return wrong_kind(&member, "an object");
    *out = member;
    return true;
}

bool qpi_json_array(const qpi_json *object, const char *key, qpi_need need, qpi_json *out) {
    qpi_json member = qpi_json_member(object, key);
    bool     result;
    if (!present(&member, need, &result)) return result;
    if (!qpi_json_is(member.value, JSON_ARRAY)) return wrong_kind(&member, "an array");
    *out = member;
    return true;
}

/* ---- Writing -------------------------------------------------------------------------- */

bool qpi_json_print_string(qpi_buffer *out, const char *text, size_t n) {
    static const char *const escapes[128] = {['"'] = "\\\"", ['\\'] = "\\\\", ['\b'] = "\\b", ['\f'] = "\\f",
                                             ['\n'] = "\\n", ['\r'] = "\\r",  ['\t'] = "\\t"};
    size_t                   plain = 0;
    qpi_put_text(out, "\"");
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        char          code[8];
        if (c >= 0x20 && c != '"' && c != '\\' && c != 0x7F) continue;
        snprintf(code, sizeof code, "\\u%04x", c);
        qpi_buffer_put(out, text + plain, i - plain);
        qpi_put_text(out, escapes[c] ? escapes[c] : code);
        plain = i + 1;
    }
    qpi_buffer_put(out, text + plain, n - plain);
    qpi_put_text(out, "\"");
    return !out->failed;
}

/* The fewest digits that read back the same; like Python, without an exponent from 1e-4 up to
 * 1e16. */
bool qpi_json_print_real(qpi_buffer *out, double x) {
    char text[48];
    int  digits = -1;
    if (!isfinite(x)) return false;
    do snprintf(text, sizeof text, "%.*e", ++digits, x);
    while (digits < 16 && strtod(text, NULL) != x);
    int exponent = atoi(strchr(text, 'e') + 1);
    if (exponent >= -4 && exponent < 16)
        snprintf(text, sizeof text, "%.*f", digits > exponent ? digits - exponent : 1, x);
    char *point = strchr(text, *localeconv()->decimal_point); /* the host program's locale */
    if (point) *point = '.';
    return qpi_put_text(out, text);
}

static void new_line(qpi_buffer *out, int indent, int depth) {
    if (indent) qpi_put_text(out, "\n");
    for (int i = 0; i < indent * depth; i++) qpi_put_text(out, " ");
}

static void print(qpi_buffer *out, const json_t *value, int indent, int depth);

static void print_object(qpi_buffer *out, const json_t *object, int indent, int depth) {
    const char *key, *comma = "";
    json_t     *member;
    qpi_put_text(out, "{");
    qpi_json_members(object, key, member) {
        qpi_put_text(out, comma);
        new_line(out, indent, depth + 1);
        qpi_json_print_string(out, key, strlen(key));
        qpi_put_text(out, indent ? ": " : ":");
        print(out, member, indent, depth + 1);
        comma = ",";
    }
    if (comma[0]) new_line(out, indent, depth);
    qpi_put_text(out, "}");
}

static void print_array(qpi_buffer *out, const json_t *array, int indent, int depth) {
    size_t n = json_array_size(array);
    qpi_put_text(out, "[");
    for (size_t i = 0; i < n; i++) {
        qpi_put_text(out, i ? "," : "");
        new_line(out, indent, depth + 1);
        print(out, json_array_get(array, i), indent, depth + 1);
    }
    if (n) new_line(out, indent, depth);
    qpi_put_text(out, "]");
}

static void print(qpi_buffer *out, const json_t *value, int indent, int depth) {
    char text[32];
    switch (json_typeof(value)) {
    case JSON_OBJECT: print_object(out, value, indent, depth); break;
    case JSON_ARRAY: print_array(out, value, indent, depth); break;
    case JSON_STRING: qpi_json_print_string(out, json_string_value(value), json_string_length(value)); break;
    case JSON_INTEGER:
        snprintf(text, sizeof text, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        qpi_put_text(out, text);
        break;
    case JSON_REAL: qpi_json_print_real(out, json_real_value(value)); break;
    case JSON_TRUE: qpi_put_text(out, "true"); break;
    case JSON_FALSE: qpi_put_text(out, "false"); break;
    default: qpi_put_text(out, "null");
    }
}

bool qpi_json_print(qpi_buffer *out, const json_t *value, int indent) {
    print(out, value, indent, 0);
    return !out->failed;
}

bool qpi_json_save(const char *path, const json_t *value, int indent, qpi_error *e) {
    qpi_buffer text = {0};
    qpi_json_print(&text, value, indent);
    qpi_put_text(&text, "\n");
    bool ok = !text.failed;
    if (!ok) qpi_fail_memory(e, path);
    else ok = qpi_write_file(path, text.data, text.count, e);
    qpi_buffer_free(&text);
    return ok;
}
