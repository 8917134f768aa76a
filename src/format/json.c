#include "format/json.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/reader.h"
#include "format/writer.h"

/* ---- Reading -------------------------------------------------------------------------- */

static void fail_at(qpi_error *e, const char *name, const char *data, size_t at, const char *text) {
    size_t line = 1, column = 1;
    for (size_t i = 0; i < at; i++) {
        column++;
        if (data[i] == '\n') line++, column = 1;
    }
    qpi_fail(e, QP_ERR_FORMAT, "%s: line %zu column %zu: %s", name, line, column, text);
}

/* What jansson must not see: it recurses with the depth, and passes over 0 behind a number. */
static bool is_fit(const char *name, const char *data, size_t size, qpi_error *e) {
    int         depth = 0;
    bool        quoted = false;
    const char *zero = size ? memchr(data, 0, size) : NULL;
    if (zero) {
        fail_at(e, name, data, (size_t)(zero - data), "a byte of value 0");
        return false;
    }
    for (size_t i = 0; i < size; i++) {
        char c = data[i];
        if (quoted) {
            if (c == '\\')
                i++;
            else if (c == '"')
                quoted = false;
        } else if (c == '"') {
            quoted = true;
        } else if (c == '{' || c == '[') {
            if (++depth <= QPI_JSON_DEPTH) continue;
            fail_at(e, name, data, i, "nested deeper than 64 levels");
            return false;
        } else if (c == '}' || c == ']') {
            depth--;
        }
    }
    return true;
}

json_t *qpi_json_parse(const char *name, const void *data, size_t size, qpi_error *e) {
    json_error_t problem;
    char         shown[QPI_SHOWN];
    if (!is_fit(name, data, size, e)) return NULL;
    json_t *value = json_loadb(data, size, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &problem);
    if (value) return value;
    if (json_error_code(&problem) == json_error_out_of_memory)
        qpi_fail_memory(e, name);
    else
        qpi_fail(e, QP_ERR_FORMAT, "%s: line %d column %d: %s", name, problem.line, problem.column,
                 qpi_shown(shown, problem.text, strlen(problem.text)));
    return NULL;
}

json_t *qpi_json_load(const char *path, qpi_error *e) {
    qpi_bytes *bytes = qpi_bytes_open(path, QPI_READ, e);
    if (!bytes) return NULL;
    json_t *value = qpi_json_parse(path, bytes->data, (size_t)bytes->size, e);
    qpi_bytes_release(bytes);
    return value;
}

/* ---- Walking -------------------------------------------------------------------------- */

qpi_json qpi_json_root(const char *name, json_t *value, qpi_error *e) {
    return (qpi_json){.value = value, .name = name, .error = e};
}

static json_t *unless_null(json_t *value) { return json_is_null(value) ? NULL : value; }

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
    if (!at->key)
        snprintf(out + used, size - used, "[%zu]", at->index);
    else
        snprintf(out + used, size - used, "%s%s", used ? "." : "", qpi_shown(shown, at->key, strlen(at->key)));
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
    if (json_is_string(value))
        snprintf(out, QPI_SHOWN + 2, "\"%s\"",
                 qpi_shown(shown, json_string_value(value), json_string_length(value)));
    else if (json_is_integer(value))
        snprintf(out, QPI_SHOWN, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    else if (json_is_real(value))
        snprintf(out, QPI_SHOWN, "%g", json_real_value(value));
    else
        snprintf(out, QPI_SHOWN, "%s", qpi_json_kind(value));
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
    if (json_is_integer(member.value)) {
        int64_t x = json_integer_value(member.value);
        if (x >= low && x <= high) {
            *out = x;
            return true;
        }
    } else if (json_is_real(member.value) && real == floor(real) && fabs(real) < 1e15 && real >= (double)low &&
               real <= (double)high) {
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
    if (json_is_number(member.value) && x >= low && x <= high) {
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
    if (!json_is_boolean(member.value)) return wrong_kind(&member, "true or false");
    *out = json_is_true(member.value);
    return true;
}

bool qpi_json_string(const qpi_json *object, const char *key, qpi_need need, const char **out) {
    qpi_json member = qpi_json_member(object, key);
    bool     result;
    if (!present(&member, need, &result)) return result;
    if (!json_is_string(member.value)) return wrong_kind(&member, "a string");
    *out = json_string_value(member.value);
    return true;
}

bool qpi_json_object(const qpi_json *object, const char *key, qpi_need need, qpi_json *out) {
    qpi_json member = qpi_json_member(object, key);
    bool     result;
    if (!present(&member, need, &result)) return result;
    if (!json_is_object(member.value)) return wrong_kind(&member, "an object");
    *out = member;
    return true;
}

bool qpi_json_array(const qpi_json *object, const char *key, qpi_need need, qpi_json *out) {
    qpi_json member = qpi_json_member(object, key);
    bool     result;
    if (!present(&member, need, &result)) return result;
    if (!json_is_array(member.value)) return wrong_kind(&member, "an array");
    *out = member;
    return true;
}

/* ---- Writing -------------------------------------------------------------------------- */

static bool put(qpi_buffer *out, const char *text) { return qpi_buffer_put(out, text, strlen(text)); }

bool qpi_json_print_string(qpi_buffer *out, const char *text, size_t n) {
    static const char *const escapes[128] = {['"'] = "\\\"", ['\\'] = "\\\\", ['\b'] = "\\b", ['\f'] = "\\f",
                                             ['\n'] = "\\n", ['\r'] = "\\r",  ['\t'] = "\\t"};
    if (!put(out, "\"")) return false;
    for (size_t i = 0, plain = 0; i <= n; i++) {
        unsigned char c = i < n ? (unsigned char)text[i] : 0;
        if (i < n && c >= 0x20 && c != '"' && c != '\\' && c != 0x7F) continue;
        if (!qpi_buffer_put(out, text + plain, i - plain)) return false;
        plain = i + 1;
        char code[8];
        snprintf(code, sizeof code, "\\u%04x", c);
        if (i < n && !put(out, escapes[c] ? escapes[c] : code)) return false;
    }
    return put(out, "\"");
}

/* The fewest digits that read back the same; like Python, without an exponent from 1e-4 up to
 * 1e16. */
bool qpi_json_print_real(qpi_buffer *out, double x) {
    char text[48];
    if (!isfinite(x)) return false;
    int digits = 0;
    do snprintf(text, sizeof text, "%.*e", digits, x);
    while (strtod(text, NULL) != x && ++digits < 17);
    int exponent = atoi(strchr(text, 'e') + 1);
    if (exponent >= -4 && exponent < 16)
        snprintf(text, sizeof text, "%.*f", digits > exponent ? digits - exponent : 1, x);
    for (char *p = text; *p; p++)
        if (*p == ',') *p = '.'; /* the host program's locale */
    return put(out, text);
}

static bool new_line(qpi_buffer *out, int indent, int depth) {
    if (!indent) return true;
    if (!put(out, "\n")) return false;
    for (int i = 0; i < indent * depth; i++)
        if (!put(out, " ")) return false;
    return true;
}

static bool print(qpi_buffer *out, const json_t *value, int indent, int depth);

static bool print_object(qpi_buffer *out, const json_t *object, int indent, int depth) {
    const char *key, *comma = "";
    json_t     *member;
    if (!put(out, "{")) return false;
    json_object_foreach((json_t *)object, key, member) {
        if (!put(out, comma) || !new_line(out, indent, depth + 1) ||
            !qpi_json_print_string(out, key, strlen(key)) || !put(out, indent ? ": " : ":") ||
            !print(out, member, indent, depth + 1))
            return false;
        comma = ",";
    }
    return (!comma[0] || new_line(out, indent, depth)) && put(out, "}");
}

static bool print_array(qpi_buffer *out, const json_t *array, int indent, int depth) {
    size_t n = json_array_size(array);
    if (!put(out, "[")) return false;
    for (size_t i = 0; i < n; i++)
        if ((i && !put(out, ",")) || !new_line(out, indent, depth + 1) ||
            !print(out, json_array_get(array, i), indent, depth + 1))
            return false;
    return (!n || new_line(out, indent, depth)) && put(out, "]");
}

static bool print(qpi_buffer *out, const json_t *value, int indent, int depth) {
    char text[32];
    if (depth > QPI_JSON_DEPTH) return false;
    switch (json_typeof(value)) {
    case JSON_OBJECT: return print_object(out, value, indent, depth);
    case JSON_ARRAY: return print_array(out, value, indent, depth);
    case JSON_STRING: return qpi_json_print_string(out, json_string_value(value), json_string_length(value));
    case JSON_INTEGER:
        snprintf(text, sizeof text, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        return put(out, text);
    case JSON_REAL: return qpi_json_print_real(out, json_real_value(value));
    case JSON_TRUE: return put(out, "true");
    case JSON_FALSE: return put(out, "false");
    default: return put(out, "null");
    }
}

bool qpi_json_print(qpi_buffer *out, const json_t *value, int indent) { return print(out, value, indent, 0); }

bool qpi_json_save(const char *path, const json_t *value, int indent, qpi_error *e) {
    qpi_buffer text = {0};
    bool       ok = qpi_json_print(&text, value, indent) && put(&text, "\n");
    if (!ok)
        qpi_fail_memory(e, path);
    else
        ok = qpi_write_file(path, text.data, text.count, e);
    qpi_buffer_free(&text);
    return ok;
}
