/* JSON into templates, and out of them as transformers' tojson writes it (Python's json.dumps). */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "data/template.h"
#include "format/json.h"
#include "format/json_stream.h"

static qpi_tval from_array(qpi_trun *r, const json_t *value, qpi_code mark) {
    size_t   n = json_array_size(value);
    qpi_tval list = qpi_t_list(r, QPI_F_LIST, n);
    for (size_t i = 0; i < n && !r->failed; i++)
        qpi_t_append(r, list, qpi_t_from_json(r, json_array_get(value, i), mark));
    return list;
}

/* Keys differ from each other already, so none is looked for. */
static qpi_tval from_object(qpi_trun *r, const json_t *value, qpi_code mark) {
    qpi_tval    v = qpi_t_dict(r), key;
    size_t      n = json_object_size(value);
    const char *text;
    size_t      bytes;
    json_t     *member;
    if (r->failed) return v;
    v.dict->keys = qpi_t_take(r, n * sizeof v);
    v.dict->values = qpi_t_take(r, n * sizeof v);
    if (r->failed) return v;
    v.dict->capacity = n;
    json_object_keylen_foreach((json_t *)value, text, bytes, member) { /* cannot: a member has a value */
        if (!qpi_t_from_utf8(r, text, bytes, mark, &key)) break;
        v.dict->keys[v.dict->count] = key;
        v.dict->values[v.dict->count] = qpi_t_from_json(r, member, mark);
        v.dict->count++;
    }
    return v;
}

qpi_tval qpi_t_from_json(qpi_trun *r, const json_t *value, qpi_code mark) {
    qpi_tval v = qpi_t_none;
    if (!qpi_t_work(r, 1)) return v;
    switch (json_typeof(value)) {
    case JSON_OBJECT: return from_object(r, value, mark);
    case JSON_ARRAY: return from_array(r, value, mark);
    case JSON_STRING:
        qpi_t_from_utf8(r, json_string_value(value), json_string_length(value), mark, &v);
        return v;
    case JSON_INTEGER: return qpi_t_int(json_integer_value(value));
    case JSON_REAL: return qpi_t_float(json_real_value(value));
    case JSON_TRUE: return qpi_t_bool(true);
    case JSON_FALSE: return qpi_t_bool(false);
    default: return v;
    }
}

/* ---- Out --------------------------------------------------------------------------------------- */

typedef struct {
    qpi_trun *r;
    qpi_codes out;
    qpi_str   indent, item, key; /* what stands between items, behind keys */
    bool      lines, ascii, sorted;
} writer;

static bool put(writer *w, const char *text) { return qpi_t_put_ascii(w->r, &w->out, text); }
static bool write(writer *w, qpi_tval v, int depth);

bool qpi_t_put_real(qpi_trun *r, qpi_codes *out, double x) {
    qpi_buffer text = {0};
    if (!isfinite(x)) return qpi_t_put_ascii(r, out, isnan(x) ? "nan" : x > 0 ? "inf" : "-inf");
    if (!qpi_t_work(r, 100)) return false; /* up to 17 attempts at the fewest digits */
    qpi_json_print_real(&text, x);
    qpi_buffer_put(&text, "", 1);
    if (text.failed) qpi_t_fail(r, QP_ERR_MEMORY, "out of memory");
    else qpi_t_put_ascii(r, out, text.data);
    qpi_buffer_free(&text);
    return !r->failed;
}

static bool write_real(writer *w, double x) {
    if (!isfinite(x)) return put(w, isnan(x) ? "NaN" : x > 0 ? "Infinity" : "-Infinity");
    return qpi_t_put_real(w->r, &w->out, x);
}

static bool write_string(writer *w, qpi_str s) {
    static const char names[] = "\"\\\n\r\t\b\f", marks[] = "\"\\nrtbf";
    if (!put(w, "\"")) return false;
    for (size_t i = 0, plain = 0;; i++) {
        qpi_code    c = i < s.n ? QPI_CODE(s.codes[i]) : 0;
        const char *known = c && c < 128 ? strchr(names, (int)c) : NULL;
        char        text[16];
        if (i < s.n && c >= 32 && !known && !(w->ascii && c > 126)) continue;
        if (!qpi_t_put(w->r, &w->out, (qpi_str){s.codes + plain, i - plain})) return false;
        plain = i + 1;
        if (i == s.n) break;
        if (known) snprintf(text, sizeof text, "\\%c", marks[known - names]);
        else if (c > 0xFFFF)
            snprintf(text, sizeof text, "\\u%04x\\u%04x", (unsigned)(0xD800 + ((c - 0x10000) >> 10)),
                     (unsigned)(0xDC00 + ((c - 0x10000) & 0x3FF)));
        else snprintf(text, sizeof text, "\\u%04x", (unsigned)c);
        if (!put(w, text)) return false;
    }
    return put(w, "\"");
}

static bool new_line(writer *w, int depth) {
    if (!w->lines) return true;
    put(w, "\n");
    for (int i = 0; i < depth; i++) qpi_t_put(w->r, &w->out, w->indent);
    return !w->r->failed;
}

static bool between(writer *w, bool first, int depth) {
    if (!first) qpi_t_put(w->r, &w->out, w->item);
    return new_line(w, depth);
}

static bool write_list(writer *w, const qpi_tlist *l, int depth) {
    if (!l->count) return put(w, "[]");
    put(w, "[");
    for (size_t i = 0; i < l->count && !w->r->failed; i++) {
        between(w, i == 0, depth + 1);
        write(w, l->items[i], depth + 1);
    }
    return new_line(w, depth) && put(w, "]");
}

static bool write_key(writer *w, qpi_tval key) {
    if (key.kind == QPI_T_STRING) return write_string(w, key.str);
    if (key.kind == QPI_T_LIST || key.kind == QPI_T_UNDEFINED) {
        qpi_t_fail(w->r, QP_ERR_ARGUMENT, "tojson: a key of type %s", qpi_t_kind(key));
        return false;
    }
    return put(w, "\"") && write(w, key, 0) && put(w, "\"");
}

/* The order of keys: as they are, or sorted. */
static size_t *order_of(writer *w, const qpi_tdict *d) {
    size_t *order = qpi_t_take(w->r, d->count * sizeof *order);
    for (size_t i = 0; order && i < d->count; i++) {
        size_t at = i;
        while (w->sorted && at && qpi_t_order(w->r, d->keys[i], d->keys[order[at - 1]]) < 0)
            order[at] = order[at - 1], at--;
        order[at] = i;
    }
    return w->r->failed ? NULL : order;
}

static bool write_dict(writer *w, const qpi_tdict *d, int depth) {
    if (!d->count) return put(w, "{}");
    size_t *order = order_of(w, d);
    if (!order || !put(w, "{")) return false;
    for (size_t i = 0; i < d->count && !w->r->failed; i++) {
        between(w, i == 0, depth + 1);
        write_key(w, d->keys[order[i]]);
        qpi_t_put(w->r, &w->out, w->key);
        write(w, d->values[order[i]], depth + 1);
    }
    return new_line(w, depth) && put(w, "}");
}

static bool write(writer *w, qpi_tval v, int depth) {
    char text[32];
    if (depth > QPI_JSON_DEPTH || !qpi_t_work(w->r, 1)) {
        qpi_t_fail(w->r, QP_ERR_ARGUMENT, "tojson: nested deeper than %d", QPI_JSON_DEPTH);
        return false;
    }
    switch (v.kind) {
    case QPI_T_NONE: return put(w, "null");
    case QPI_T_BOOL: return put(w, v.b ? "true" : "false");
    case QPI_T_INT: snprintf(text, sizeof text, "%" PRId64, v.i); return put(w, text);
    case QPI_T_FLOAT: return write_real(w, v.f);
    case QPI_T_STRING: return write_string(w, v.str);
    case QPI_T_DICT: return write_dict(w, v.dict, depth);
    case QPI_T_LIST:
        if (v.flavour <= QPI_F_TUPLE) return write_list(w, v.list, depth);
        break;
    default: break;
    }
    qpi_t_fail(w->r, QP_ERR_ARGUMENT, "tojson: %s is no JSON", qpi_t_kind(v));
    return false;
}

/* separators=(',', ':') */
static void read_separators(writer *w, qpi_tval v) {
    if (v.kind == QPI_T_NONE) return;
    if (v.kind != QPI_T_LIST || v.list->count != 2 || v.list->items[0].kind != QPI_T_STRING ||
        v.list->items[1].kind != QPI_T_STRING) {
        qpi_t_fail(w->r, QP_ERR_ARGUMENT, "tojson: separators are two strings");
        return;
    }
    w->item = v.list->items[0].str;
    w->key = v.list->items[1].str;
}

qpi_tval qpi_t_tojson(qpi_trun *r, qpi_tval self, const qpi_targs *a) {
    static const qpi_code comma[] = {',', ' '}, colon[] = {':', ' '};
    writer                w = {.r = r, .item = {comma, 2}, .key = {colon, 2}};
    qpi_tval              v;
    qpi_t_at_most(r, a, 4, "tojson");
    if (qpi_t_argument(r, a, 0, "ensure_ascii", &v)) w.ascii = qpi_t_truth(v);
    if (qpi_t_argument(r, a, 3, "sort_keys", &v)) w.sorted = qpi_t_truth(v);
    if (qpi_t_argument(r, a, 1, "indent", &v) && v.kind != QPI_T_NONE) {
        qpi_codes blanks = {0};
        w.lines = true;
        w.item.n = 1;
        if (v.kind == QPI_T_STRING) w.indent = v.str;
        else if (v.kind == QPI_T_INT && v.i <= 64)
            for (int64_t i = 0; i < v.i; i++) qpi_t_put_ascii(r, &blanks, " ");
        else qpi_t_fail(r, QP_ERR_ARGUMENT, "tojson: an indent up to 64 or a string");
        if (v.kind != QPI_T_STRING) w.indent = qpi_t_finish(r, &blanks).str;
    }
    if (qpi_t_argument(r, a, 2, "separators", &v)) read_separators(&w, v);
    if (!r->failed) write(&w, self, 0);
    return qpi_t_finish(r, &w.out);
}
