/* Methods of strings and dictionaries, and functions. Those of Python that change what they belong to
 * are not there: transformers' sandbox forbids them. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "data/template.h"

#define RANGE 100000 /* longest range, as in Jinja's sandbox */

#define METHOD(name) static qpi_tval name(qpi_trun *r, qpi_tval self, const qpi_targs *a)
#define FUNCTION(name) static qpi_tval name(qpi_trun *r, const qpi_targs *a)

/* The text at a place, or fails. */
static bool text_at(qpi_trun *r, const qpi_targs *a, int place, const char *name, qpi_str *out) {
    qpi_tval v;
    if (!qpi_t_argument(r, a, place, name, &v) || v.kind != QPI_T_STRING) {
        qpi_t_fail(r, QP_ERR_ARGUMENT, "a method is not given the string that it takes");
        return false;
    }
    *out = v.str;
    return true;
}

static int64_t int_at(qpi_trun *r, const qpi_targs *a, int place, const char *name, int64_t fallback) {
    qpi_tval v;
    if (!qpi_t_argument(r, a, place, name, &v)) return fallback;
    if (v.kind != QPI_T_INT)
        qpi_t_fail(r, QP_ERR_ARGUMENT, "a method is given %s in place of a number", qpi_t_kind(v));
    return v.kind == QPI_T_INT ? v.i : fallback;
}

/* ---- Strings ------------------------------------------------------------------------------------- */

static qpi_tval strip_with(qpi_trun *r, qpi_tval self, const qpi_targs *a, bool left, bool right) {
    qpi_tval set;
    qpi_t_at_most(r, a, 1, "strip");
    bool given = qpi_t_argument(r, a, 0, NULL, &set) && set.kind != QPI_T_NONE;
    if (given && set.kind != QPI_T_STRING)
        return qpi_t_fail(r, QP_ERR_ARGUMENT, "strip of %s", qpi_t_kind(set));
    if (!qpi_t_work(r, given ? self.str.n / 4 * (set.str.n + 1) : self.str.n / 4)) return self;
    return qpi_t_string(qpi_t_strip(self.str, given ? &set.str : NULL, left, right));
}
METHOD(strip) { return strip_with(r, self, a, true, true); }
METHOD(lstrip) { return strip_with(r, self, a, true, false); }
METHOD(rstrip) { return strip_with(r, self, a, false, true); }

static qpi_tval split_with(qpi_trun *r, qpi_tval self, const qpi_targs *a, bool right) {
    qpi_tval by;
    int64_t  most = int_at(r, a, 1, "maxsplit", -1);
    if (!qpi_t_at_most(r, a, 2, "split")) return self;
    if (!qpi_t_argument(r, a, 0, "sep", &by) || by.kind == QPI_T_NONE) {
        if (right && most >= 0) return qpi_t_fail(r, QP_ERR_UNSUPPORTED, "rsplit by white space with a limit");
        return qpi_t_words(r, self.str, most);
    }
    if (by.kind != QPI_T_STRING) return qpi_t_fail(r, QP_ERR_ARGUMENT, "split by %s", qpi_t_kind(by));
    return (right ? qpi_t_split_right : qpi_t_split)(r, self.str, by.str, most);
}
METHOD(split) { return split_with(r, self, a, false); }
METHOD(rsplit) { return split_with(r, self, a, true); }
METHOD(splitlines) {
    qpi_tval keep = qpi_t_bool(false);
    qpi_t_argument(r, a, 0, "keepends", &keep);
    return qpi_t_lines(r, self.str, qpi_t_truth(keep));
}

static bool is_at(qpi_str s, qpi_str what, bool end) {
    if (what.n > s.n) return false;
    return qpi_str_equal((qpi_str){s.codes + (end ? s.n - what.n : 0), what.n}, what);
}

/* A text or a tuple of them. */
static qpi_tval affix(qpi_trun *r, qpi_tval self, const qpi_targs *a, bool end) {
    qpi_tval what = {0}, *items = &what;
    size_t   n = 1;
    bool     found = false;
    if (!qpi_t_argument(r, a, 0, NULL, &what) || a->count > 1)
        return qpi_t_fail(r, QP_ERR_ARGUMENT, "startswith, endswith: expected one argument");
    if (what.kind == QPI_T_LIST && what.flavour == QPI_F_TUPLE) items = what.list->items, n = what.list->count;
    for (size_t i = 0; i < n && !found && !r->failed; i++) {
        if (items[i].kind != QPI_T_STRING)
            return qpi_t_fail(r, QP_ERR_ARGUMENT, "startswith, endswith: expected a string, found %s",
                              qpi_t_kind(items[i]));
        found = qpi_t_work(r, items[i].str.n / 8 + 1) && is_at(self.str, items[i].str, end);
    }
    return qpi_t_bool(found);
}
METHOD(startswith) { return affix(r, self, a, false); }
METHOD(endswith) { return affix(r, self, a, true); }

static qpi_tval without(qpi_trun *r, qpi_tval self, const qpi_targs *a, bool end) {
    qpi_str what;
    if (!text_at(r, a, 0, NULL, &what) || !what.n || !is_at(self.str, what, end)) return self;
    return qpi_t_string((qpi_str){self.str.codes + (end ? 0 : what.n), self.str.n - what.n});
}
METHOD(removeprefix) { return without(r, self, a, false); }
METHOD(removesuffix) { return without(r, self, a, true); }

METHOD(upper) { return (void)a, qpi_t_upper(r, self.str); }
METHOD(lower) { return (void)a, qpi_t_lower(r, self.str); }
METHOD(title) { return (void)a, qpi_t_title(r, self.str); }
METHOD(capitalize) { return (void)a, qpi_t_capital(r, self.str); }

METHOD(replace) {
    qpi_str old, with;
    if (!text_at(r, a, 0, NULL, &old) || !text_at(r, a, 1, NULL, &with)) return self;
    return qpi_t_replace(r, self.str, old, with, int_at(r, a, 2, "count", -1));
}

static int64_t place_of(qpi_trun *r, qpi_tval self, const qpi_targs *a) {
    qpi_str what;
    if (!qpi_t_at_most(r, a, 1, "find") || !text_at(r, a, 0, NULL, &what)) return -1;
    size_t at = qpi_t_search(r, self.str, what, 0);
    return at == SIZE_MAX ? -1 : (int64_t)at;
}
METHOD(find) { return qpi_t_int(place_of(r, self, a)); }
METHOD(rfind) {
    qpi_str what;
    int64_t found = -1;
    if (!text_at(r, a, 0, NULL, &what)) return self;
    for (size_t at = 0; (at = qpi_t_search(r, self.str, what, at)) != SIZE_MAX; at++) found = (int64_t)at;
    return qpi_t_int(found);
}
METHOD(string_index) {
    int64_t at = place_of(r, self, a);
    return at < 0 ? qpi_t_fail(r, QP_ERR_ARGUMENT, "index: not there") : qpi_t_int(at);
}
METHOD(string_count) {
    qpi_str what;
    int64_t n = 0;
    if (!text_at(r, a, 0, NULL, &what)) return self;
    if (!what.n) return qpi_t_int((int64_t)self.str.n + 1);
    for (size_t at = 0; (at = qpi_t_search(r, self.str, what, at)) != SIZE_MAX; at += what.n) n++;
    return qpi_t_int(n);
}

METHOD(join) {
    qpi_tval         v = {0};
    qpi_codes        b = {0};
    const qpi_tlist *items = qpi_t_argument(r, a, 0, NULL, &v) ? qpi_t_items(r, v) : NULL;
    for (size_t i = 0; items && i < items->count && !r->failed; i++) {
        if (items->items[i].kind != QPI_T_STRING)
            qpi_t_fail(r, QP_ERR_ARGUMENT, "join of %s", qpi_t_kind(items->items[i]));
        if (i) qpi_t_put(r, &b, self.str);
        if (!r->failed) qpi_t_put(r, &b, items->items[i].str);
    }
    return qpi_t_finish(r, &b);
}

/* What stands between the brackets at `at`, which is moved behind them: a place, a name, or nothing. */
static bool field(qpi_trun *r, qpi_str s, size_t *at, qpi_str *out) {
    size_t begin = *at;
    for (; *at < s.n && QPI_CODE(s.codes[*at]) != '}'; ++*at)
        if (QPI_CODE(s.codes[*at]) < 128 && strchr("{[.!:", (int)QPI_CODE(s.codes[*at])))
            return qpi_t_fail(r, QP_ERR_UNSUPPORTED, "format: a place other than {}, {0} and {name}"), false;
    *out = (qpi_str){s.codes + begin, *at - begin};
    if (*at == s.n) return qpi_t_fail(r, QP_ERR_ARGUMENT, "format: '{' without '}'"), false;
    ++*at;
    return true;
}

static bool ascii_digit(qpi_code c) { return QPI_CODE(c) >= '0' && QPI_CODE(c) <= '9'; }

/* The argument of a field; next: how many were taken by order, -1 after one by its place. */
static qpi_tval field_value(qpi_trun *r, qpi_str name, const qpi_targs *a, int *next) {
    char shown[48];
    bool digits = name.n > 0 && name.n < 4;
    int  place = 0;
    for (size_t i = 0; i < name.n && digits; i++) {
        digits = ascii_digit(name.codes[i]);
        place = 10 * place + (int)QPI_CODE(name.codes[i]) - '0';
    }
    for (int i = 0; i < a->named_count; i++)
        if (name.n && qpi_str_equal(a->names[i], name)) return a->named[i];
    if ((digits && *next > 0) || (!name.n && *next < 0))
        return qpi_t_fail(r, QP_ERR_ARGUMENT, "format: {} beside {0}");
    if (!name.n) place = (*next)++;
    else if (digits) *next = -1;
    if ((!name.n || digits) && place < a->count) return a->items[place];
    return qpi_t_fail(r, QP_ERR_ARGUMENT, "format: no value for {%s}", qpi_t_ascii(name, shown, sizeof shown));
}

METHOD(format) {
    qpi_codes b = {0};
    int       next = 0;
    for (size_t i = 0; i < self.str.n && !r->failed;) {
        qpi_code c = QPI_CODE(self.str.codes[i]);
        bool     twice = i + 1 < self.str.n && QPI_CODE(self.str.codes[i + 1]) == c;
        qpi_str  name;
        if ((c != '{' && c != '}') || twice) {
            qpi_t_put(r, &b, (qpi_str){self.str.codes + i, 1});
            i += 1 + (c == '{' || c == '}');
        } else if (c == '}') {
            qpi_t_fail(r, QP_ERR_ARGUMENT, "format: '}' without '{'");
        } else if (i++, field(r, self.str, &i, &name)) {
            qpi_tval v = field_value(r, name, a, &next);
            if (!r->failed) qpi_t_print(r, &b, v);
        }
    }
    return qpi_t_finish(r, &b);
}

static bool alpha_or_digit(qpi_code c) { return ascii_digit(c) || qpi_code_is_alpha(c); }
static qpi_tval all_are(qpi_trun *r, qpi_str s, bool (*is)(qpi_code)) {
    bool all = s.n > 0 && qpi_t_work(r, s.n);
    for (size_t i = 0; i < s.n && all; i++) all = is(s.codes[i]);
    return qpi_t_bool(all);
}
METHOD(isdigit_) { return (void)a, all_are(r, self.str, ascii_digit); }
METHOD(isalpha_) { return (void)a, all_are(r, self.str, qpi_code_is_alpha); }
METHOD(isalnum_) { return (void)a, all_are(r, self.str, alpha_or_digit); }
METHOD(isspace_) { return (void)a, all_are(r, self.str, qpi_code_is_space); }

static qpi_tval three(qpi_trun *r, qpi_str x, qpi_str y, qpi_str z) {
    qpi_tval t = qpi_t_list(r, QPI_F_TUPLE, 3);
    if (!r->failed)
        qpi_t_append(r, t, qpi_t_string(x)), qpi_t_append(r, t, qpi_t_string(y)),
            qpi_t_append(r, t, qpi_t_string(z));
    return t;
}
METHOD(partition) {
    qpi_str by, s = self.str, none = {s.codes, 0};
    if (!text_at(r, a, 0, NULL, &by)) return self;
    if (!by.n) return qpi_t_fail(r, QP_ERR_ARGUMENT, "partition: an empty separator");
    size_t at = qpi_t_search(r, s, by, 0);
    if (at == SIZE_MAX) return three(r, s, none, none);
    return three(r, (qpi_str){s.codes, at}, by, (qpi_str){s.codes + at + by.n, s.n - at - by.n});
}

/* ---- Dictionaries and lists -------------------------------------------------------------------------- */

METHOD(dict_get) {
    qpi_tval key, fallback = qpi_t_none, out;
    if (!qpi_t_at_most(r, a, 2, "get") || !qpi_t_argument(r, a, 0, NULL, &key))
        return qpi_t_fail(r, QP_ERR_ARGUMENT, "get: expected a key");
    qpi_t_argument(r, a, 1, NULL, &fallback);
    return qpi_t_find(r, self.dict, key, &out) ? out : fallback;
}

/* which: 1 keys, 2 values, 3 both */
static qpi_tval view(qpi_trun *r, qpi_tval self, int which) {
    const qpi_tdict *d = self.dict;
    qpi_tval         list = qpi_t_list(r, QPI_F_VIEW, d->count);
    for (size_t i = 0; i < d->count && !r->failed; i++) {
        qpi_tval item = which == 1 ? d->keys[i] : which == 2 ? d->values[i] : qpi_t_list(r, QPI_F_TUPLE, 2);
        if (which == 3 && !r->failed) qpi_t_append(r, item, d->keys[i]), qpi_t_append(r, item, d->values[i]);
        qpi_t_append(r, list, item);
    }
    return list;
}
METHOD(dict_keys) { return (void)a, view(r, self, 1); }
METHOD(dict_values) { return (void)a, view(r, self, 2); }
METHOD(dict_items) { return (void)a, view(r, self, 3); }
METHOD(dict_copy) {
    qpi_tval d = qpi_t_dict(r);
    (void)a;
    for (size_t i = 0; i < self.dict->count && !r->failed; i++)
        qpi_t_store(r, d.dict, self.dict->keys[i], self.dict->values[i]);
    return d;
}

METHOD(list_copy) {
    qpi_tval list = qpi_t_list(r, QPI_F_LIST, self.list->count);
    (void)a;
    for (size_t i = 0; i < self.list->count && !r->failed; i++) qpi_t_append(r, list, self.list->items[i]);
    return list;
}
METHOD(list_index) {
    qpi_tval v;
    bool     given = qpi_t_argument(r, a, 0, NULL, &v);
    for (size_t i = 0; given && i < self.list->count; i++)
        if (qpi_t_equal(r, self.list->items[i], v)) return qpi_t_int((int64_t)i);
    return qpi_t_fail(r, QP_ERR_ARGUMENT, "index: not there");
}
METHOD(list_count) {
    qpi_tval v;
    int64_t  n = 0;
    if (!qpi_t_argument(r, a, 0, NULL, &v)) return qpi_t_fail(r, QP_ERR_ARGUMENT, "count: expected a value");
    for (size_t i = 0; i < self.list->count; i++) n += qpi_t_equal(r, self.list->items[i], v);
    return qpi_t_int(n);
}

/* loop.cycle(a, b, ...), loop.changed(...) */
METHOD(loop_cycle) {
    if (!a->count) return qpi_t_fail(r, QP_ERR_ARGUMENT, "cycle: expected values");
    return a->items[self.loop->index % (size_t)a->count];
}
METHOD(loop_changed) {
    qpi_tval now = qpi_t_list(r, QPI_F_TUPLE, (size_t)a->count);
    for (int i = 0; i < a->count && !r->failed; i++) qpi_t_append(r, now, a->items[i]);
    bool same = self.loop->changed_set && qpi_t_equal(r, self.loop->changed, now);
    self.loop->changed = now;
    self.loop->changed_set = true;
    return qpi_t_bool(!same);
}

/* ---- Functions ------------------------------------------------------------------------------------------ */

FUNCTION(range) {
    int64_t v[3] = {0, 0, 1};
    if (a->count < 1 || a->count > 3) return qpi_t_fail(r, QP_ERR_ARGUMENT, "range: expected 1 to 3 numbers");
    for (int i = 0; i < a->count; i++) {
        qpi_tval x = a->items[i];
        if (x.kind != QPI_T_INT && x.kind != QPI_T_BOOL)
            return qpi_t_fail(r, QP_ERR_ARGUMENT, "range: expected a number, found %s", qpi_t_kind(x));
        v[a->count == 1 ? 1 : i] = x.kind == QPI_T_INT ? x.i : x.b;
    }
    if (v[2] == 0) return qpi_t_fail(r, QP_ERR_ARGUMENT, "range: a step of 0");
    __int128 span = v[2] > 0 ? (__int128)v[1] - v[0] : (__int128)v[0] - v[1],
             step = v[2] > 0 ? v[2] : -(__int128)v[2];
    __int128 n = span > 0 ? (span + step - 1) / step : 0;
    if (n > RANGE) return qpi_t_fail(r, QP_ERR_ARGUMENT, "range: more than %d numbers", RANGE);
    qpi_tval list = qpi_t_list(r, QPI_F_RANGE, (size_t)n);
    for (int64_t i = 0; i < (int64_t)n && qpi_t_work(r, 1); i++)
        qpi_t_append(r, list, qpi_t_int(v[0] + i * v[2]));
    return list;
}

static bool store_pair(qpi_trun *r, qpi_tdict *d, qpi_tval pair) {
    if (pair.kind != QPI_T_LIST || pair.list->count != 2)
        qpi_t_fail(r, QP_ERR_ARGUMENT, "dict: expected pairs");
    return !r->failed && qpi_t_store(r, d, pair.list->items[0], pair.list->items[1]);
}

static qpi_tval make_dict(qpi_trun *r, const qpi_targs *a) {
    qpi_tval d = qpi_t_dict(r);
    if (!qpi_t_at_most(r, a, 1, "dict")) return d;
    if (a->count && a->items[0].kind == QPI_T_DICT) {
        const qpi_tdict *from = a->items[0].dict;
        for (size_t i = 0; i < from->count; i++) qpi_t_store(r, d.dict, from->keys[i], from->values[i]);
    } else if (a->count) {
        const qpi_tlist *pairs = qpi_t_items(r, a->items[0]);
        for (size_t i = 0; pairs && i < pairs->count; i++)
            if (!store_pair(r, d.dict, pairs->items[i])) break;
    }
    for (int i = 0; i < a->named_count && !r->failed; i++)
        qpi_t_store(r, d.dict, qpi_t_string(a->names[i]), a->named[i]);
    return d;
}
FUNCTION(dict) { return make_dict(r, a); }

FUNCTION(namespace) {
    qpi_tval d = make_dict(r, a);
    if (r->failed) return d;
    for (size_t i = 0; i < d.dict->count; i++)
        if (d.dict->keys[i].kind == QPI_T_STRING && d.dict->keys[i].str.n &&
            QPI_CODE(d.dict->keys[i].str.codes[0]) == '_')
            return qpi_t_fail(r, QP_ERR_ARGUMENT, "a namespace's names begin with no underscore");
    d.kind = QPI_T_NAMESPACE;
    return d;
}

FUNCTION(raise_exception) {
    char     text[200];
    qpi_tval v = qpi_t_undefined((qpi_str){0});
    qpi_t_argument(r, a, 0, "message", &v);
    qpi_str s = qpi_t_str(r, v);
    return qpi_t_fail(r, QP_ERR_ARGUMENT, "%s", qpi_t_ascii(s, text, sizeof text));
}

FUNCTION(strftime_now) {
    char      pattern[129] = "x", text[4096]; /* the x: a text of no length is none that is too long */
    qpi_str   s;
    struct tm tm;
    time_t    now = (time_t)r->now;
    if (!text_at(r, a, 0, "format", &s)) return qpi_t_undefined((qpi_str){0});
    qpi_t_ascii(s, pattern + 1, sizeof pattern - 1);
    if (s.n > 100 || !localtime_r(&now, &tm) || !strftime(text, sizeof text, pattern, &tm))
        return qpi_t_fail(r, QP_ERR_ARGUMENT, "strftime_now: a format or a text too long");
    return qpi_t_text(r, text + 1);
}

/* ---- Tables --------------------------------------------------------------------------------------------- */

static const qpi_tmethod of_strings[] = {{"strip", strip},
                                         {"lstrip", lstrip},
                                         {"rstrip", rstrip},
                                         {"split", split},
                                         {"rsplit", rsplit},
                                         {"splitlines", splitlines},
                                         {"startswith", startswith},
                                         {"endswith", endswith},
                                         {"removeprefix", removeprefix},
                                         {"removesuffix", removesuffix},
                                         {"upper", upper},
                                         {"lower", lower},
                                         {"title", title},
                                         {"capitalize", capitalize},
                                         {"replace", replace},
                                         {"find", find},
                                         {"rfind", rfind},
                                         {"index", string_index},
                                         {"count", string_count},
                                         {"join", join},
                                         {"isdigit", isdigit_},
                                         {"isalpha", isalpha_},
                                         {"isalnum", isalnum_},
                                         {"isspace", isspace_},
                                         {"partition", partition},
                                         {"format", format},
                                         {"center", NULL},
                                         {"ljust", NULL},
                                         {"rjust", NULL},
                                         {"zfill", NULL},
                                         {"encode", NULL},
                                         {"casefold", NULL},
                                         {"swapcase", NULL},
                                         {"islower", NULL},
                                         {"isupper", NULL},
                                         {"istitle", NULL},
                                         {"isnumeric", NULL},
                                         {"isdecimal", NULL},
                                         {"isidentifier", NULL},
                                         {"isprintable", NULL},
                                         {"isascii", NULL},
                                         {"rpartition", NULL},
                                         {"rindex", NULL},
                                         {"translate", NULL},
                                         {"maketrans", NULL},
                                         {"expandtabs", NULL},
                                         {"format_map", NULL},
                                         {NULL, NULL}};
static const qpi_tmethod of_dicts[] = {{"get", dict_get},       {"items", dict_items}, {"keys", dict_keys},
                                       {"values", dict_values}, {"copy", dict_copy},   {"fromkeys", NULL},
                                       {"pop", NULL},           {"popitem", NULL},     {"update", NULL},
                                       {"setdefault", NULL},    {"clear", NULL},       {NULL, NULL}};
static const qpi_tmethod of_lists[] = {{"index", list_index}, {"count", list_count}, {"copy", list_copy},
                                       {"append", NULL},      {"extend", NULL},      {"insert", NULL},
                                       {"pop", NULL},         {"remove", NULL},      {"reverse", NULL},
                                       {"sort", NULL},        {"clear", NULL},       {NULL, NULL}};
static const qpi_tmethod of_loops[] = {{"cycle", loop_cycle}, {"changed", loop_changed}, {NULL, NULL}};

const qpi_tmethod *qpi_t_method(qpi_tval self, qpi_str name) {
    const qpi_tmethod *m = self.kind == QPI_T_STRING                                ? of_strings
                           : self.kind == QPI_T_DICT                                ? of_dicts
                           : self.kind == QPI_T_LOOP                                ? of_loops
                           : self.kind == QPI_T_LIST && self.flavour <= QPI_F_TUPLE ? of_lists
                                                                                    : NULL;
    while (m && m->name && !qpi_str_is(name, m->name)) m++;
    return m && m->name ? m : NULL;
}

const qpi_tfunction *qpi_t_function(qpi_str name) {
    static const qpi_tfunction functions[] = {{"range", range},
                                              {"dict", dict},
                                              {"namespace", namespace},
                                              {"raise_exception", raise_exception},
                                              {"strftime_now", strftime_now}};
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
        if (qpi_str_is(name, functions[i].name)) return &functions[i];
    return NULL;
}
