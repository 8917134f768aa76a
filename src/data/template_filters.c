/* Filters. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "data/template.h"

#define FILTER(name) static qpi_tval name(qpi_trun *r, qpi_tval self, const qpi_targs *a)

static qpi_tval nothing(void) { return qpi_t_undefined((qpi_str){0}); }

static bool flag(qpi_trun *r, const qpi_targs *a, int place, const char *name, bool fallback) {
    qpi_tval v;
    return qpi_t_argument(r, a, place, name, &v) ? qpi_t_truth(v) : fallback;
}

/* ---- Texts --------------------------------------------------------------------------------------- */

FILTER(trim) {
    qpi_tval set;
    qpi_str  s = qpi_t_str(r, self);
    bool     given = qpi_t_argument(r, a, 0, "chars", &set) && set.kind == QPI_T_STRING;
    if (!qpi_t_work(r, given ? s.n / 4 * (set.str.n + 1) : s.n / 4)) return self;
    return qpi_t_string(qpi_t_strip(s, given ? &set.str : NULL, true, true));
}
FILTER(upper) { return (void)a, qpi_t_upper(r, qpi_t_str(r, self)); }
FILTER(lower) { return (void)a, qpi_t_lower(r, qpi_t_str(r, self)); }
FILTER(capitalize) { return (void)a, qpi_t_capital(r, qpi_t_str(r, self)); }
FILTER(title) { return (void)a, qpi_t_title_words(r, qpi_t_str(r, self)); }
FILTER(string) { return (void)a, self.kind == QPI_T_STRING ? self : qpi_t_string(qpi_t_str(r, self)); }
FILTER(safe) {
    qpi_tval v = qpi_t_string(qpi_t_str(r, self));
    v.flavour = QPI_F_SAFE;
    return (void)a, v;
}

FILTER(replace) {
    qpi_tval old, with, count = qpi_t_int(-1);
    if (!qpi_t_argument(r, a, 0, "old", &old) || !qpi_t_argument(r, a, 1, "new", &with))
        return qpi_t_fail(r, QP_ERR_ARGUMENT, "replace: expected two texts");
    qpi_t_argument(r, a, 2, "count", &count);
    qpi_str s = qpi_t_str(r, self), o = qpi_t_str(r, old), w = qpi_t_str(r, with);
    return r->failed ? self : qpi_t_replace(r, s, o, w, count.kind == QPI_T_INT ? count.i : -1);
}

FILTER(escape) { return (void)a, qpi_t_escape(r, self); }

FILTER(indent) {
    qpi_codes b = {0}, blanks = {0};
    qpi_tval  width = qpi_t_int(4);
    bool      first = flag(r, a, 1, "first", false), blank = flag(r, a, 2, "blank", false);
    qpi_t_argument(r, a, 0, "width", &width);
    if (width.kind == QPI_T_STRING) qpi_t_put(r, &blanks, width.str);
    else if (width.kind == QPI_T_INT && width.i <= 1000)
        for (int64_t i = 0; i < width.i; i++) qpi_t_put_ascii(r, &blanks, " ");
    else qpi_t_fail(r, QP_ERR_ARGUMENT, "indent: expected a width up to 1000 or a string");
    if (self.kind != QPI_T_STRING) qpi_t_fail(r, QP_ERR_ARGUMENT, "indent of %s", qpi_t_kind(self));
    qpi_str  indention = qpi_t_finish(r, &blanks).str, s = self.kind == QPI_T_STRING ? self.str : (qpi_str){0};
    qpi_tval lines = qpi_t_lines(r, s, false);
    if (r->failed) return self;
    if (!s.n || QPI_CODE(s.codes[s.n - 1]) == '\n') qpi_t_append(r, lines, qpi_t_string((qpi_str){s.codes, 0}));
    for (size_t i = 0; i < lines.list->count && !r->failed; i++) {
        if (i) qpi_t_put_ascii(r, &b, "\n");
        qpi_str line = lines.list->items[i].str;
        if (i ? line.n || blank : first) qpi_t_put(r, &b, indention);
        qpi_t_put(r, &b, line);
    }
    return qpi_t_finish(r, &b);
}

FILTER(format) { return qpi_t_format(r, qpi_t_str(r, self), a->items, (size_t)a->count); }

/* ---- Numbers --------------------------------------------------------------------------------------- */

/* The number that a text spells, as Python reads it; undefined: none. */
static qpi_tval read_number(qpi_str s, bool real) {
    char   text[64];
    char  *end;
    size_t n = 0;
    s = qpi_t_strip(s, NULL, true, true);
    if (!s.n || s.n >= sizeof text) return nothing();
    for (; n < s.n; n++) {
        qpi_code c = QPI_CODE(s.codes[n]);
        if (c >= 128 || !strchr(real ? "0123456789+-.eE" : "0123456789+-", (int)c) || !c) return nothing();
        text[n] = (char)c;
    }
    text[n] = 0;
    errno = 0;
    qpi_tval v = real ? qpi_t_float(strtod(text, &end)) : qpi_t_int(strtoll(text, &end, 10));
    return *end || (!real && errno) ? nothing() : v;
}

FILTER(to_int) {
    qpi_tval fallback = qpi_t_int(0), v = self, base;
    qpi_t_argument(r, a, 0, "default", &fallback);
    if (qpi_t_argument(r, a, 1, "base", &base) && !(base.kind == QPI_T_INT && base.i == 10))
        return qpi_t_fail(r, QP_ERR_UNSUPPORTED, "int: a base other than 10");
    if (v.kind == QPI_T_STRING) {
        qpi_tval whole = read_number(v.str, false);
        if (whole.kind == QPI_T_INT) return whole;
        v = read_number(v.str, true);
    }
    if (v.kind == QPI_T_INT || v.kind == QPI_T_BOOL) return qpi_t_int(v.kind == QPI_T_INT ? v.i : v.b);
    if (v.kind != QPI_T_FLOAT || !(fabs(v.f) < 9e18)) return fallback;
    return qpi_t_int((int64_t)v.f);
}
FILTER(to_float) {
    qpi_tval fallback = qpi_t_float(0), v = self;
    qpi_t_argument(r, a, 0, "default", &fallback);
    if (v.kind == QPI_T_STRING) v = read_number(v.str, true);
    return qpi_t_is_number(v) ? qpi_t_float(qpi_t_number(v)) : fallback;
}
FILTER(absolute) {
    (void)a;
    if (self.kind == QPI_T_FLOAT) return qpi_t_float(fabs(self.f));
    if (self.kind == QPI_T_INT && self.i != INT64_MIN) return qpi_t_int(self.i < 0 ? -self.i : self.i);
    return qpi_t_is_number(self) && self.kind == QPI_T_BOOL
               ? qpi_t_int(self.b)
               : qpi_t_fail(r, QP_ERR_ARGUMENT, "abs of %s", qpi_t_kind(self));
}
FILTER(round_) {
    qpi_tval precision = qpi_t_int(0), method = qpi_t_text(r, "common");
    qpi_t_argument(r, a, 0, "precision", &precision);
    qpi_t_argument(r, a, 1, "method", &method);
    if (!qpi_t_is_number(self)) return qpi_t_fail(r, QP_ERR_ARGUMENT, "round of %s", qpi_t_kind(self));
    if (precision.kind != QPI_T_INT || method.kind != QPI_T_STRING)
        return qpi_t_fail(r, QP_ERR_ARGUMENT, "round: expected a number of places and a method's name");
    bool common = qpi_str_is(method.str, "common");
    if (common && self.kind != QPI_T_FLOAT) return qpi_t_int(self.kind == QPI_T_INT ? self.i : self.b);
    double scale = pow(10, fmax(-300, fmin(300, (double)precision.i))), x = qpi_t_number(self),
           scaled = x * scale;
    if (!isfinite(scaled)) return qpi_t_float(x); /* so large that no place is left to round */
    return qpi_t_float((common ? rint : qpi_str_is(method.str, "ceil") ? ceil : floor)(scaled) / scale);
}

/* ---- Any value -------------------------------------------------------------------------------------- */

FILTER(default_) {
    qpi_tval fallback = qpi_t_string((qpi_str){0});
    qpi_t_argument(r, a, 0, "default_value", &fallback);
    bool empty = flag(r, a, 1, "boolean", false) && !qpi_t_truth(self);
    return self.kind == QPI_T_UNDEFINED || empty ? fallback : self;
}
FILTER(length) {
    int64_t n = 0;
    (void)a;
    return qpi_t_length(r, self, &n) ? qpi_t_int(n) : nothing();
}
FILTER(attr) {
    qpi_tval name;
    if (!qpi_t_argument(r, a, 0, "name", &name) || name.kind != QPI_T_STRING)
        return qpi_t_fail(r, QP_ERR_ARGUMENT, "attr: expected a name");
    return self.kind == QPI_T_DICT && !qpi_t_method(self, name.str) ? qpi_t_undefined(name.str)
                                                                    : qpi_t_attribute(r, self, name.str);
}

/* ---- Sequences ---------------------------------------------------------------------------------------- */

static qpi_tval at_end(qpi_trun *r, qpi_tval self, bool last) {
    if (last && self.kind == QPI_T_LIST && self.flavour == QPI_F_GENERATOR)
        return qpi_t_fail(r, QP_ERR_ARGUMENT, "last of a generator; say | list first");
    if (self.kind == QPI_T_STRING) {
        qpi_str s = self.str;
        return s.n ? qpi_t_string((qpi_str){s.codes + (last ? s.n - 1 : 0), 1}) : nothing();
    }
    const qpi_tlist *items = qpi_t_items(r, self);
    return items && items->count ? items->items[last ? items->count - 1 : 0] : nothing();
}
FILTER(first) { return (void)a, at_end(r, self, false); }
FILTER(last) { return (void)a, at_end(r, self, true); }

static qpi_tval copy(qpi_trun *r, qpi_tval self, qpi_flavour f) {
    const qpi_tlist *items = qpi_t_items(r, self);
    qpi_tval         list = qpi_t_list(r, f, items ? items->count : 0);
    for (size_t i = 0; items && i < items->count && !r->failed; i++) qpi_t_append(r, list, items->items[i]);
    return list;
}
FILTER(list) { return (void)a, copy(r, self, QPI_F_LIST); }

FILTER(items) {
    (void)a;
    if (self.kind == QPI_T_UNDEFINED) return qpi_t_list(r, QPI_F_GENERATOR, 0);
    if (self.kind != QPI_T_DICT) return qpi_t_fail(r, QP_ERR_ARGUMENT, "items of %s", qpi_t_kind(self));
    static const qpi_code name[] = {'i', 't', 'e', 'm', 's'};
    qpi_tval              v = qpi_t_method(self, (qpi_str){name, 5})->call(r, self, a);
    v.flavour = QPI_F_GENERATOR;
    return v;
}

static void turn(const qpi_tlist *l) {
    for (size_t i = 0; i < l->count / 2; i++) {
        qpi_tval v = l->items[i];
        l->items[i] = l->items[l->count - 1 - i];
        l->items[l->count - 1 - i] = v;
    }
}
FILTER(reverse) {
    (void)a;
    if (self.kind == QPI_T_STRING) {
        qpi_code *codes = qpi_t_take(r, self.str.n * sizeof *codes);
        for (size_t i = 0; codes && i < self.str.n; i++) codes[i] = self.str.codes[self.str.n - 1 - i];
        return qpi_t_string((qpi_str){codes, codes ? self.str.n : 0});
    }
    qpi_tval list = copy(r, self, QPI_F_GENERATOR);
    if (!r->failed) turn(list.list);
    return list;
}

/* The item, or what its attribute is: of join, sum, sort, map ... */
static qpi_tval through(qpi_trun *r, qpi_tval item, const qpi_targs *a, int place) {
    qpi_tval path;
    if (!qpi_t_argument(r, a, place, "attribute", &path) || path.kind == QPI_T_NONE) return item;
    return path.kind == QPI_T_STRING ? qpi_t_path(r, item, path.str) : qpi_t_item(r, item, path);
}

FILTER(join) {
    qpi_tval  between = qpi_t_string((qpi_str){0});
    qpi_codes b = {0};
    qpi_t_argument(r, a, 0, "d", &between);
    qpi_str          by = qpi_t_str(r, between);
    const qpi_tlist *items = r->failed ? NULL : qpi_t_items(r, self);
    for (size_t i = 0; items && i < items->count && !r->failed; i++) {
        if (i) qpi_t_put(r, &b, by);
        qpi_tval v = through(r, items->items[i], a, 1);
        if (!r->failed) qpi_t_print(r, &b, v);
    }
    return qpi_t_finish(r, &b);
}
FILTER(sum) {
    qpi_tval         total = qpi_t_int(0);
    const qpi_tlist *items = qpi_t_items(r, self);
    qpi_t_argument(r, a, 1, "start", &total);
    for (size_t i = 0; items && i < items->count && !r->failed; i++)
        total = qpi_t_add(r, total, through(r, items->items[i], a, 0));
    return total;
}

/* ---- Order ------------------------------------------------------------------------------------------- */

typedef struct {
    qpi_tval key, item;
} ranked;

static qpi_tval folded(qpi_trun *r, qpi_tval v, bool exact) {
    return v.kind == QPI_T_STRING && !exact ? qpi_t_lower(r, v.str) : v;
}

/* Merge sort: stable, and no more comparisons than n log n whatever they say. */
static void sort_range(qpi_trun *r, ranked *v, ranked *other, size_t n, int sign) {
    if (n < 2 || r->failed) return;
    size_t half = n / 2, i = 0, j = half;
    sort_range(r, v, other, half, sign);
    sort_range(r, v + half, other, n - half, sign);
    for (size_t k = 0; k < n && !r->failed; k++) {
        bool right = i == half || (j < n && qpi_t_order(r, v[j].key, v[i].key) == -sign);
        other[k] = right ? v[j++] : v[i++];
    }
    if (!r->failed) memcpy(v, other, n * sizeof *v);
}

static qpi_tval sorted(qpi_trun *r, ranked *v, size_t n, bool reverse) {
    ranked  *other = qpi_t_take(r, n * sizeof *other);
    qpi_tval list = qpi_t_list(r, QPI_F_LIST, n);
    if (other) sort_range(r, v, other, n, reverse ? -1 : 1);
    for (size_t i = 0; other && i < n && !r->failed; i++) qpi_t_append(r, list, v[i].item);
    return list;
}

FILTER(sort) {
    const qpi_tlist *items = qpi_t_items(r, self);
    ranked          *v = items ? qpi_t_take(r, items->count * sizeof *v) : NULL;
    bool             exact = flag(r, a, 1, "case_sensitive", false);
    for (size_t i = 0; v && i < items->count && !r->failed; i++)
        v[i] = (ranked){folded(r, through(r, items->items[i], a, 2), exact), items->items[i]};
    return v && !r->failed ? sorted(r, v, items->count, flag(r, a, 0, "reverse", false)) : nothing();
}
FILTER(dictsort) {
    qpi_tval by;
    bool     exact = flag(r, a, 0, "case_sensitive", false), values = false;
    if (self.kind != QPI_T_DICT) return qpi_t_fail(r, QP_ERR_ARGUMENT, "dictsort of %s", qpi_t_kind(self));
    if (qpi_t_argument(r, a, 1, "by", &by)) {
        values = by.kind == QPI_T_STRING && qpi_str_is(by.str, "value");
        if (!values && !(by.kind == QPI_T_STRING && qpi_str_is(by.str, "key")))
            return qpi_t_fail(r, QP_ERR_ARGUMENT, "dictsort: by is 'key' or 'value'");
    }
    size_t  n = self.dict->count;
    ranked *v = qpi_t_take(r, n * sizeof *v);
    for (size_t i = 0; v && i < n && !r->failed; i++) {
        qpi_tval pair = qpi_t_list(r, QPI_F_TUPLE, 2);
        if (r->failed) break;
        qpi_t_append(r, pair, self.dict->keys[i]);
        qpi_t_append(r, pair, self.dict->values[i]);
        v[i] = (ranked){folded(r, values ? self.dict->values[i] : self.dict->keys[i], exact), pair};
    }
    return v && !r->failed ? sorted(r, v, n, flag(r, a, 2, "reverse", false)) : nothing();
}

static qpi_tval extreme(qpi_trun *r, qpi_tval self, const qpi_targs *a, int sign) {
    const qpi_tlist *items = qpi_t_items(r, self);
    bool             exact = flag(r, a, 0, "case_sensitive", false);
    qpi_tval         best = nothing(), best_key = nothing();
    for (size_t i = 0; items && i < items->count && !r->failed; i++) {
        qpi_tval key = folded(r, through(r, items->items[i], a, 1), exact);
        if (i && qpi_t_order(r, key, best_key) != sign) continue;
        best = items->items[i];
        best_key = key;
    }
    return best;
}
FILTER(max) { return extreme(r, self, a, 1); }
FILTER(min) { return extreme(r, self, a, -1); }

FILTER(unique) {
    const qpi_tlist *items = qpi_t_items(r, self);
    qpi_tval         list = qpi_t_list(r, QPI_F_GENERATOR, 0), seen = qpi_t_list(r, QPI_F_LIST, 0);
    bool             exact = flag(r, a, 0, "case_sensitive", false);
    for (size_t i = 0; items && i < items->count && !r->failed; i++) {
        qpi_tval key = folded(r, through(r, items->items[i], a, 1), exact);
        if (qpi_t_contains(r, seen, key)) continue;
        qpi_t_append(r, seen, key);
        qpi_t_append(r, list, items->items[i]);
    }
    return list;
}

/* ---- Choosing ------------------------------------------------------------------------------------------- */

/* The arguments behind the first `skip`. */
static qpi_targs rest(const qpi_targs *a, int skip) {
    qpi_targs b = {.named_count = 0};
    for (int i = skip; i < a->count; i++) b.items[b.count++] = a->items[i];
    return b;
}

/* Of a false value (none, 0) these are empty. */
static const qpi_tlist *walked(qpi_trun *r, qpi_tval v) { return qpi_t_truth(v) ? qpi_t_items(r, v) : NULL; }

/* select, reject (path false: the item itself) and selectattr, rejectattr. */
static qpi_tval choose(qpi_trun *r, qpi_tval self, const qpi_targs *a, bool path, bool wanted) {
    const qpi_tlist *items = walked(r, self);
    qpi_tval         list = qpi_t_list(r, QPI_F_GENERATOR, 0);
    int              at = path;
    const qpi_ttest *test = NULL;
    qpi_targs        others = rest(a, at + 1);
    char             shown[48];
    if (path && (!a->count || a->items[0].kind != QPI_T_STRING))
        return qpi_t_fail(r, QP_ERR_ARGUMENT, "selectattr, rejectattr: expected an attribute's name");
    if (a->count > at) {
        test = a->items[at].kind == QPI_T_STRING ? qpi_t_test(a->items[at].str) : NULL;
        if (!test)
            return qpi_t_fail(
                r, QP_ERR_UNSUPPORTED, "templates here have no test '%s'",
                a->items[at].kind == QPI_T_STRING ? qpi_t_ascii(a->items[at].str, shown, sizeof shown) : "?");
    }
    for (size_t i = 0; items && i < items->count && !r->failed; i++) {
        qpi_tval v = path ? qpi_t_path(r, items->items[i], a->items[0].str) : items->items[i];
        bool     yes = !r->failed && (test ? test->call(r, v, &others) : qpi_t_truth(v));
        if (!r->failed && yes == wanted) qpi_t_append(r, list, items->items[i]);
    }
    return list;
}
FILTER(select_) { return choose(r, self, a, false, true); }
FILTER(reject) { return choose(r, self, a, false, false); }
FILTER(selectattr) { return choose(r, self, a, true, true); }
FILTER(rejectattr) { return choose(r, self, a, true, false); }

FILTER(map) {
    const qpi_tlist *items = walked(r, self);
    qpi_tval         list = qpi_t_list(r, QPI_F_GENERATOR, 0), path, fallback = nothing();
    bool             attribute = !a->count && qpi_t_argument(r, a, -1, "attribute", &path);
    qpi_targs        others = rest(a, 1);
    char             shown[48];
    for (int i = 0; i < a->named_count; i++)
        others.names[i] = a->names[i], others.named[others.named_count++] = a->named[i];
    const qpi_tfilter *f = a->count && a->items[0].kind == QPI_T_STRING ? qpi_t_filter(a->items[0].str) : NULL;
    if (!attribute && !f)
        return qpi_t_fail(r, QP_ERR_UNSUPPORTED, "map: templates here have no filter '%s'",
                          a->count && a->items[0].kind == QPI_T_STRING
                              ? qpi_t_ascii(a->items[0].str, shown, sizeof shown)
                              : "?");
    bool given = attribute && qpi_t_argument(r, a, -1, "default", &fallback);
    for (size_t i = 0; items && i < items->count && !r->failed; i++) {
        qpi_tval v = attribute ? through(r, items->items[i], a, -1) : f->call(r, items->items[i], &others);
        qpi_t_append(r, list, given && v.kind == QPI_T_UNDEFINED ? fallback : v);
    }
    return list;
}

/* ---- The table --------------------------------------------------------------------------------------------
 */

const qpi_tfilter *qpi_t_filter(qpi_str name) {
    static const qpi_tfilter filters[] = {{"trim", trim},
                                          {"upper", upper},
                                          {"lower", lower},
                                          {"capitalize", capitalize},
                                          {"title", title},
                                          {"string", string},
                                          {"safe", safe},
                                          {"replace", replace},
                                          {"escape", escape},
                                          {"e", escape},
                                          {"indent", indent},
                                          {"format", format},
                                          {"int", to_int},
                                          {"float", to_float},
                                          {"abs", absolute},
                                          {"round", round_},
                                          {"default", default_},
                                          {"d", default_},
                                          {"length", length},
                                          {"count", length},
                                          {"attr", attr},
                                          {"first", first},
                                          {"last", last},
                                          {"list", list},
                                          {"items", items},
                                          {"reverse", reverse},
                                          {"join", join},
                                          {"sum", sum},
                                          {"sort", sort},
                                          {"dictsort", dictsort},
                                          {"max", max},
                                          {"min", min},
                                          {"unique", unique},
                                          {"select", select_},
                                          {"reject", reject},
                                          {"selectattr", selectattr},
                                          {"rejectattr", rejectattr},
                                          {"map", map},
                                          {"tojson", qpi_t_tojson}};
    for (size_t i = 0; i < sizeof filters / sizeof *filters; i++)
        if (qpi_str_is(name, filters[i].name)) return &filters[i];
    return NULL;
}
