/* Values of templates: Python's, as far as templates see them. */
#include "data/template.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/utf8.h"

/* ---- Budget ---------------------------------------------------------------------------------- */

qpi_tval qpi_t_fail(qpi_trun *r, qp_code code, const char *format, ...) {
    char    text[300];
    va_list args;
    if (!r->failed) {
        va_start(args, format);
        vsnprintf(text, sizeof text, format, args);
        va_end(args);
        qpi_fail(r->error, code, "%s: line %d: %s", r->t->name, r->line, text);
    }
    r->failed = true;
    return qpi_t_undefined((qpi_str){0});
}

bool qpi_t_work(qpi_trun *r, size_t steps) {
    if (r->failed) return false;
    if ((r->steps -= (int64_t)steps) < 0) qpi_t_fail(r, QP_ERR_ARGUMENT, "the template takes too many steps");
    return !r->failed;
}

static bool charge(qpi_trun *r, size_t bytes) {
    if (r->failed) return false;
    if (bytes > r->memory) {
        qpi_t_fail(r, QP_ERR_ARGUMENT, "the template takes too much memory");
        return false;
    }
    r->memory -= bytes;
    return true;
}

void *qpi_t_take(qpi_trun *r, size_t bytes) {
    if (!charge(r, bytes)) return NULL;
    void *p = qpi_arena_take(&r->arena, bytes);
    if (!p) qpi_t_fail(r, QP_ERR_MEMORY, "out of memory");
    return p;
}

/* Room for one more in two arrays that grow together. */
static bool grow(qpi_trun *r, size_t count, size_t *capacity, void **a, size_t a_bytes, void **b,
                 size_t b_bytes) {
    if (count < *capacity) return true;
    size_t room = *capacity ? 2 * *capacity : 4;
    void  *p = qpi_t_take(r, room * a_bytes), *q = b ? qpi_t_take(r, room * b_bytes) : NULL;
    if (!p || (b && !q)) return false;
    if (count) memcpy(p, *a, count * a_bytes);
    if (b && count) memcpy(q, *b, count * b_bytes);
    *a = p;
    if (b) *b = q;
    *capacity = room;
    return true;
}

/* ---- Texts ------------------------------------------------------------------------------------- */

bool qpi_str_is(qpi_str s, const char *ascii) {
    size_t i = 0;
    while (i < s.n && ascii[i] && QPI_CODE(s.codes[i]) == (qpi_code)(unsigned char)ascii[i]) i++;
    return i == s.n && !ascii[i];
}

int qpi_str_compare(qpi_str a, qpi_str b) {
    for (size_t i = 0; i < a.n && i < b.n; i++) {
        qpi_code x = QPI_CODE(a.codes[i]), y = QPI_CODE(b.codes[i]);
        if (x != y) return x < y ? -1 : 1;
    }
    return a.n < b.n ? -1 : a.n > b.n;
}

bool qpi_str_equal(qpi_str a, qpi_str b) { return a.n == b.n && !qpi_str_compare(a, b); }

bool qpi_code_is_space(qpi_code c) {
    c = QPI_CODE(c);
    return (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
           c == 0x3000;
}

bool qpi_t_put(qpi_trun *r, qpi_codes *out, qpi_str s) {
    if (!qpi_t_work(r, s.n / 8 + 1)) return false;
    if (s.n > r->most || out->count > r->most - s.n) {
        qpi_t_fail(r, QP_ERR_ARGUMENT, "the text gets longer than %zu characters", r->most);
        return false;
    }
    qpi_code *p = qpi_grown(out->codes, &out->capacity, out->count + s.n, sizeof *p);
    if (!p) {
        qpi_t_fail(r, QP_ERR_MEMORY, "out of memory");
        return false;
    }
    out->codes = p;
    if (s.n) memcpy(p + out->count, s.codes, s.n * sizeof *p);
    out->count += s.n;
    return true;
}

bool qpi_t_put_ascii(qpi_trun *r, qpi_codes *out, const char *text) {
    qpi_code codes[64];
    for (size_t n; *text; text += n) {
        for (n = 0; n < 64 && text[n]; n++) codes[n] = (unsigned char)text[n];
        if (!qpi_t_put(r, out, (qpi_str){codes, n})) return false;
    }
    return true;
}

qpi_tval qpi_t_finish(qpi_trun *r, qpi_codes *b) {
    qpi_code *codes = qpi_t_take(r, b->count * sizeof *codes);
    qpi_str   s = {codes, codes ? b->count : 0};
    if (s.n) memcpy(codes, b->codes, s.n * sizeof *codes);
    free(b->codes);
    *b = (qpi_codes){0};
    return qpi_t_string(s);
}

bool qpi_t_from_utf8(qpi_trun *r, const char *text, size_t n, qpi_code mark, qpi_tval *out) {
    qpi_code *codes = qpi_t_take(r, n * sizeof *codes);
    size_t    count = 0;
    if (!codes) return false;
    for (size_t at = 0, bytes; at < n; at += bytes) {
        uint32_t c;
        if (!(bytes = qpi_utf8_decode(text + at, n - at, &c))) {
            qpi_t_fail(r, QP_ERR_FORMAT, "a text is not UTF-8");
            return false;
        }
        codes[count++] = c | mark;
    }
    *out = qpi_t_string((qpi_str){codes, count});
    return true;
}

char *qpi_t_ascii(qpi_str s, char *out, size_t size) {
    size_t n = 0;
    for (size_t i = 0; i < s.n && n + 5 < size; i++) {
        qpi_code c = QPI_CODE(s.codes[i]);
        if (c < 32 || c == 127) c = '?';
        n += qpi_utf8_encode(c, out + n);
    }
    out[n] = 0;
    return out;
}

/* ---- Making ------------------------------------------------------------------------------------- */

const qpi_tval qpi_t_none = {.kind = QPI_T_NONE};

qpi_tval qpi_t_undefined(qpi_str what) { return (qpi_tval){.kind = QPI_T_UNDEFINED, .str = what}; }
qpi_tval qpi_t_bool(bool b) { return (qpi_tval){.kind = QPI_T_BOOL, .b = b}; }
qpi_tval qpi_t_int(int64_t i) { return (qpi_tval){.kind = QPI_T_INT, .i = i}; }
qpi_tval qpi_t_float(double f) { return (qpi_tval){.kind = QPI_T_FLOAT, .f = f}; }
qpi_tval qpi_t_string(qpi_str s) { return (qpi_tval){.kind = QPI_T_STRING, .str = s}; }

qpi_tval qpi_t_text(qpi_trun *r, const char *ascii) {
    qpi_tval v = qpi_t_undefined((qpi_str){0});
    qpi_t_from_utf8(r, ascii, strlen(ascii), 0, &v);
    return v;
}

qpi_tval qpi_t_list(qpi_trun *r, qpi_flavour f, size_t reserve) {
    qpi_tlist *list = qpi_t_take(r, sizeof *list);
    if (!list) return qpi_t_undefined((qpi_str){0});
    *list = (qpi_tlist){0};
    if (reserve) list->items = qpi_t_take(r, reserve * sizeof *list->items);
    if (list->items) list->capacity = reserve;
    return r->failed ? qpi_t_undefined((qpi_str){0})
                     : (qpi_tval){.kind = QPI_T_LIST, .flavour = (uint8_t)f, .list = list};
}

bool qpi_t_append(qpi_trun *r, qpi_tval list, qpi_tval item) {
    if (r->failed) return false;
    qpi_tlist *l = list.list;
    if (!grow(r, l->count, &l->capacity, (void **)&l->items, sizeof item, NULL, 0)) return false;
    l->items[l->count++] = item;
    return true;
}

qpi_tval qpi_t_dict(qpi_trun *r) {
    qpi_tdict *d = qpi_t_take(r, sizeof *d);
    if (!d) return qpi_t_undefined((qpi_str){0});
    *d = (qpi_tdict){0};
    return (qpi_tval){.kind = QPI_T_DICT, .dict = d};
}

static qpi_tval *place(qpi_trun *r, const qpi_tdict *d, qpi_tval key) {
    if (!qpi_t_work(r, d->count / 4 + 1)) return NULL;
    for (size_t i = 0; i < d->count; i++)
        if (qpi_t_equal(r, d->keys[i], key)) return &d->values[i];
    return NULL;
}

bool qpi_t_find(qpi_trun *r, const qpi_tdict *d, qpi_tval key, qpi_tval *out) {
    qpi_tval *v = place(r, d, key);
    if (v) *out = *v;
    return v != NULL;
}

bool qpi_t_store(qpi_trun *r, qpi_tdict *d, qpi_tval key, qpi_tval value) {
    if (key.kind > QPI_T_STRING && !(key.kind == QPI_T_LIST && key.flavour == QPI_F_TUPLE)) {
        qpi_t_fail(r, QP_ERR_ARGUMENT, "%s cannot be a key", qpi_t_kind(key));
        return false;
    }
    qpi_tval *v = place(r, d, key);
    if (v) *v = value;
    if (v || r->failed) return !r->failed;
    if (!grow(r, d->count, &d->capacity, (void **)&d->keys, sizeof key, (void **)&d->values, sizeof value))
        return false;
    d->keys[d->count] = key;
    d->values[d->count++] = value;
    return true;
}

/* ---- Asking --------------------------------------------------------------------------------------- */

const char *qpi_t_kind(qpi_tval v) {
    static const char *const names[] = {"undefined", "NoneType",  "bool", "int",   "float",  "str",     "list",
                                        "dict",      "Namespace", "loop", "macro", "method", "function"};
    static const char *const flavours[] = {"list", "tuple", "range", "dict_view", "generator"};
    return v.kind == QPI_T_LIST ? flavours[v.flavour] : names[v.kind];
}

bool qpi_t_is_number(qpi_tval v) { return v.kind >= QPI_T_BOOL && v.kind <= QPI_T_FLOAT; }
double qpi_t_number(qpi_tval v) {
    return v.kind == QPI_T_FLOAT ? v.f : v.kind == QPI_T_INT ? (double)v.i : v.b;
}

bool qpi_t_truth(qpi_tval v) {
    switch (v.kind) {
    case QPI_T_UNDEFINED:
    case QPI_T_NONE: return false;
    case QPI_T_BOOL: return v.b;
    case QPI_T_INT: return v.i != 0;
    case QPI_T_FLOAT: return v.f != 0;
    case QPI_T_STRING: return v.str.n > 0;
    case QPI_T_LIST: return v.flavour == QPI_F_GENERATOR || v.list->count > 0;
    case QPI_T_DICT: return v.dict->count > 0;
    default: return true;
    }
}

static int64_t whole(qpi_tval v) { return v.kind == QPI_T_BOOL ? v.b : v.i; }

static int order_numbers(qpi_tval a, qpi_tval b) {
    if (a.kind != QPI_T_FLOAT && b.kind != QPI_T_FLOAT) return whole(a) < whole(b) ? -1 : whole(a) > whole(b);
    double x = qpi_t_number(a), y = qpi_t_number(b);
    return x < y ? -1 : x > y ? 1 : x == y ? 0 : 2; /* 2: not a number */
}

static bool equal_lists(qpi_trun *r, qpi_tval a, qpi_tval b) {
    if (a.list == b.list) return true;
    if (a.flavour != b.flavour || a.flavour >= QPI_F_VIEW || a.list->count != b.list->count) return false;
    for (size_t i = 0; i < a.list->count; i++)
        if (!qpi_t_equal(r, a.list->items[i], b.list->items[i])) return false;
    return true;
}

static bool equal_dicts(qpi_trun *r, const qpi_tdict *a, const qpi_tdict *b) {
    if (a == b) return true;
    if (a->count != b->count) return false;
    for (size_t i = 0; i < a->count; i++) {
        qpi_tval other;
        if (!qpi_t_find(r, b, a->keys[i], &other) || !qpi_t_equal(r, a->values[i], other)) return false;
    }
    return true;
}

bool qpi_t_equal(qpi_trun *r, qpi_tval a, qpi_tval b) {
    bool same = false;
    if (!qpi_t_work(r, 1)) return false;
    if (qpi_t_is_number(a) && qpi_t_is_number(b)) return order_numbers(a, b) == 0;
    if (a.kind != b.kind) return false;
    switch (a.kind) {
    case QPI_T_UNDEFINED:
    case QPI_T_NONE: return true;
    case QPI_T_STRING: return a.str.n == b.str.n && qpi_t_work(r, a.str.n / 16) && qpi_str_equal(a.str, b.str);
    case QPI_T_LIST:
    case QPI_T_DICT:
        if (++r->depth > QPI_TEMPLATE_DEPTH * 2)
            return qpi_t_fail(r, QP_ERR_ARGUMENT, "values nested too deep"), false;
        same = a.kind == QPI_T_LIST ? equal_lists(r, a, b) : equal_dicts(r, a.dict, b.dict);
        r->depth--;
        return same;
    case QPI_T_METHOD: return a.bound == b.bound;
    default: return a.dict == b.dict; /* the same object; all are pointers */
    }
}

static int order_lists(qpi_trun *r, const qpi_tlist *a, const qpi_tlist *b) {
    for (size_t i = 0; i < a->count && i < b->count; i++)
        if (!qpi_t_equal(r, a->items[i], b->items[i])) {
            if (++r->depth > QPI_TEMPLATE_DEPTH * 2)
                return qpi_t_fail(r, QP_ERR_ARGUMENT, "values nested too deep"), 0;
            int order = qpi_t_order(r, a->items[i], b->items[i]);
            r->depth--;
            return order;
        }
    return a->count < b->count ? -1 : a->count > b->count;
}

int qpi_t_order(qpi_trun *r, qpi_tval a, qpi_tval b) {
    if (!qpi_t_work(r, 1)) return 0;
    if (qpi_t_is_number(a) && qpi_t_is_number(b)) return order_numbers(a, b);
    if (a.kind == QPI_T_STRING && b.kind == QPI_T_STRING) {
        size_t n = a.str.n < b.str.n ? a.str.n : b.str.n;
        return qpi_t_work(r, n / 16) ? qpi_str_compare(a.str, b.str) : 0;
    }
    if (a.kind == QPI_T_LIST && b.kind == QPI_T_LIST && a.flavour == b.flavour && a.flavour <= QPI_F_TUPLE)
        return order_lists(r, a.list, b.list);
    qpi_t_fail(r, QP_ERR_ARGUMENT, "%s and %s have no order", qpi_t_kind(a), qpi_t_kind(b));
    return 0;
}

bool qpi_t_contains(qpi_trun *r, qpi_tval where, qpi_tval what) {
    qpi_tval found;
    if (where.kind == QPI_T_STRING) {
        if (what.kind == QPI_T_STRING) return qpi_t_search(r, where.str, what.str, 0) != SIZE_MAX;
        qpi_t_fail(r, QP_ERR_ARGUMENT, "'in' a string: expected a string, found %s", qpi_t_kind(what));
        return false;
    }
    if (where.kind == QPI_T_DICT) return qpi_t_find(r, where.dict, what, &found);
    const qpi_tlist *items = qpi_t_items(r, where);
    for (size_t i = 0; items && i < items->count; i++)
        if (qpi_t_equal(r, items->items[i], what)) return true;
    return false;
}

const qpi_tlist *qpi_t_items(qpi_trun *r, qpi_tval v) {
    qpi_tval list;
    if (v.kind == QPI_T_LIST) return v.list;
    if (v.kind == QPI_T_STRING) {
        list = qpi_t_list(r, QPI_F_LIST, v.str.n);
        for (size_t i = 0; i < v.str.n; i++)
            if (!qpi_t_append(r, list, qpi_t_string((qpi_str){v.str.codes + i, 1}))) return NULL;
    } else if (v.kind == QPI_T_DICT) {
        list = qpi_t_list(r, QPI_F_LIST, v.dict->count);
        for (size_t i = 0; i < v.dict->count; i++)
            if (!qpi_t_append(r, list, v.dict->keys[i])) return NULL;
    } else if (v.kind == QPI_T_UNDEFINED) {
        list = qpi_t_list(r, QPI_F_LIST, 0);
    } else {
        qpi_t_fail(r, QP_ERR_ARGUMENT, "%s cannot be walked through", qpi_t_kind(v));
    }
    return r->failed ? NULL : list.list;
}

bool qpi_t_length(qpi_trun *r, qpi_tval v, int64_t *n) {
    if (v.kind == QPI_T_STRING) *n = (int64_t)v.str.n;
    else if (v.kind == QPI_T_LIST && v.flavour != QPI_F_GENERATOR) *n = (int64_t)v.list->count;
    else if (v.kind == QPI_T_DICT) *n = (int64_t)v.dict->count;
    else if (v.kind == QPI_T_UNDEFINED) *n = 0;
    else qpi_t_fail(r, QP_ERR_ARGUMENT, "%s has no length", qpi_t_kind(v));
    return !r->failed;
}

/* ---- str and repr ----------------------------------------------------------------------------------- */

static bool repr_string(qpi_trun *r, qpi_codes *out, qpi_str s) {
    static const char names[] = "\n\r\t", marks[] = "nrt";
    bool              single = false, both = false;
    for (size_t i = 0; i < s.n; i++)
        single |= QPI_CODE(s.codes[i]) == '\'', both |= QPI_CODE(s.codes[i]) == '"';
    qpi_code quote = single && !both ? '"' : '\'';
    if (!qpi_t_put(r, out, (qpi_str){&quote, 1})) return false;
    for (size_t i = 0; i < s.n; i++) {
        qpi_code    c = QPI_CODE(s.codes[i]);
        char        text[16] = "";
        const char *mark = strchr(names, (int)(c < 32 ? c : 0));
        if (c == '\\' || c == quote) snprintf(text, sizeof text, "\\%c", (int)c);
        else if (mark && *mark) snprintf(text, sizeof text, "\\%c", marks[mark - names]);
        else if (c < 32 || c == 127 || (c > 127 && c <= 160) || c == 0xAD)
            snprintf(text, sizeof text, "\\x%02x", (unsigned)c);
        else if (c != ' ' && (qpi_code_is_space(c) || (c >= 0x200B && c <= 0x200F) || c == 0xFEFF))
            snprintf(text, sizeof text, "\\u%04x", (unsigned)c);
        if (text[0] ? !qpi_t_put_ascii(r, out, text) : !qpi_t_put(r, out, (qpi_str){s.codes + i, 1}))
            return false;
    }
    return qpi_t_put(r, out, (qpi_str){&quote, 1});
}

static bool repr_list(qpi_trun *r, qpi_codes *out, const qpi_tlist *l, bool tuple) {
    qpi_t_put_ascii(r, out, tuple ? "(" : "[");
    for (size_t i = 0; i < l->count && !r->failed; i++) {
        if (i) qpi_t_put_ascii(r, out, ", ");
        qpi_t_repr(r, out, l->items[i]);
    }
    return qpi_t_put_ascii(r, out, tuple ? l->count == 1 ? ",)" : ")" : "]");
}

static bool repr_dict(qpi_trun *r, qpi_codes *out, const qpi_tdict *d) {
    qpi_t_put_ascii(r, out, "{");
    for (size_t i = 0; i < d->count && !r->failed; i++) {
        if (i) qpi_t_put_ascii(r, out, ", ");
        qpi_t_repr(r, out, d->keys[i]);
        qpi_t_put_ascii(r, out, ": ");
        qpi_t_repr(r, out, d->values[i]);
    }
    return qpi_t_put_ascii(r, out, "}");
}

static bool repr_sequence(qpi_trun *r, qpi_codes *out, qpi_tval v) {
    char text[80];
    switch (v.flavour) {
    case QPI_F_LIST:
    case QPI_F_TUPLE: return repr_list(r, out, v.list, v.flavour == QPI_F_TUPLE);
    default:
        snprintf(text, sizeof text, "a %s is printed; say | list", qpi_t_kind(v));
        qpi_t_fail(r, QP_ERR_UNSUPPORTED, "%s", text);
        return false;
    }
}

bool qpi_t_repr(qpi_trun *r, qpi_codes *out, qpi_tval v) {
    char text[32];
    if (!qpi_t_work(r, 1)) return false;
    switch (v.kind) {
    case QPI_T_UNDEFINED: return qpi_t_put_ascii(r, out, "Undefined");
    case QPI_T_NONE: return qpi_t_put_ascii(r, out, "None");
    case QPI_T_BOOL: return qpi_t_put_ascii(r, out, v.b ? "True" : "False");
    case QPI_T_INT: snprintf(text, sizeof text, "%" PRId64, v.i); return qpi_t_put_ascii(r, out, text);
    case QPI_T_FLOAT: return qpi_t_put_real(r, out, v.f);
    case QPI_T_STRING: return repr_string(r, out, v.str);
    case QPI_T_LIST:
    case QPI_T_DICT:
        if (++r->depth > QPI_TEMPLATE_DEPTH * 2)
            return qpi_t_fail(r, QP_ERR_ARGUMENT, "values nested too deep"), false;
        v.kind == QPI_T_LIST ? repr_sequence(r, out, v) : repr_dict(r, out, v.dict);
        r->depth--;
        return !r->failed;
    default: qpi_t_fail(r, QP_ERR_UNSUPPORTED, "a %s is printed", qpi_t_kind(v)); return false;
    }
}

bool qpi_t_print(qpi_trun *r, qpi_codes *out, qpi_tval v) {
    if (v.kind == QPI_T_STRING) return qpi_t_put(r, out, v.str);
    return v.kind == QPI_T_UNDEFINED ? qpi_t_work(r, 1) : qpi_t_repr(r, out, v);
}

qpi_str qpi_t_str(qpi_trun *r, qpi_tval v) {
    qpi_codes b = {0};
    if (v.kind == QPI_T_STRING) return v.str;
    qpi_t_print(r, &b, v);
    return qpi_t_finish(r, &b).str;
}
