/* Expressions of templates. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/template.h"

static qpi_tval nothing(void) { return qpi_t_undefined((qpi_str){0}); }

static qpi_tval no_value(qpi_trun *r, qpi_tval v) {
    char shown[64];
    return qpi_t_fail(r, QP_ERR_ARGUMENT, "'%s' is undefined", qpi_t_ascii(v.str, shown, sizeof shown));
}

/* ---- Names ------------------------------------------------------------------------------------ */

static qpi_tval look_up(qpi_trun *r, qpi_str name) {
    for (const qpi_tscope *s = r->scope; s; s = s->parent) {
        if (!qpi_t_work(r, s->count + 1)) return nothing();
        for (size_t i = s->count; i-- > 0;)
            if (qpi_str_equal(s->names[i], name)) return s->values[i];
    }
    const qpi_tfunction *f = qpi_t_function(name);
    return f ? (qpi_tval){.kind = QPI_T_FUNCTION, .function = f} : qpi_t_undefined(name);
}

static qpi_tval loop_attribute(qpi_trun *r, qpi_tval v, qpi_str name) {
    const qpi_tloop *l = v.loop;
    int64_t          i = (int64_t)l->index, n = (int64_t)l->items->count;
    const qpi_tval  *items = l->items->items;
    if (qpi_str_is(name, "index")) return qpi_t_int(i + 1);
    if (qpi_str_is(name, "index0")) return qpi_t_int(i);
    if (qpi_str_is(name, "first")) return qpi_t_bool(i == 0);
    if (qpi_str_is(name, "last")) return qpi_t_bool(i == n - 1);
    if (qpi_str_is(name, "length")) return qpi_t_int(n);
    if (qpi_str_is(name, "revindex")) return qpi_t_int(n - i);
    if (qpi_str_is(name, "revindex0")) return qpi_t_int(n - i - 1);
    if (qpi_str_is(name, "depth")) return qpi_t_int(l->depth);
    if (qpi_str_is(name, "depth0")) return qpi_t_int(l->depth - 1);
    if (qpi_str_is(name, "previtem")) return i > 0 ? items[i - 1] : qpi_t_undefined(name);
    if (qpi_str_is(name, "nextitem")) return i + 1 < n ? items[i + 1] : qpi_t_undefined(name);
    (void)r;
    return qpi_t_undefined(name);
}

static bool is_guarded(qpi_str name) {
    return name.n > 1 && QPI_CODE(name.codes[0]) == '_' && QPI_CODE(name.codes[1]) == '_';
}

/* What Python would find as an attribute: a method, a loop's number, a namespace's value. */
static bool own_attribute(qpi_trun *r, qpi_tval v, qpi_str name, qpi_tval *out) {
    const qpi_tmethod *m = qpi_t_method(v, name);
    if (m) {
        qpi_tbound *bound = qpi_t_take(r, sizeof *bound);
        if (bound) *bound = (qpi_tbound){v, m};
        *out = bound ? (qpi_tval){.kind = QPI_T_METHOD, .bound = bound} : nothing();
        return true;
    }
    if (v.kind == QPI_T_LOOP) return *out = loop_attribute(r, v, name), true;
    return v.kind == QPI_T_NAMESPACE && qpi_t_find(r, v.dict, qpi_t_string(name), out);
}

qpi_tval qpi_t_attribute(qpi_trun *r, qpi_tval v, qpi_str name) {
    qpi_tval out;
    if (v.kind == QPI_T_UNDEFINED) return no_value(r, v);
    if (is_guarded(name)) return qpi_t_undefined(name);
    if (own_attribute(r, v, name, &out)) return out;
    if (v.kind == QPI_T_DICT && qpi_t_find(r, v.dict, qpi_t_string(name), &out)) return out;
    return qpi_t_undefined(name);
}

/* ---- Items ------------------------------------------------------------------------------------- */

static bool in_range(int64_t *i, size_t n) {
    if (*i < 0) *i += (int64_t)n;
    return *i >= 0 && *i < (int64_t)n;
}

qpi_tval qpi_t_item(qpi_trun *r, qpi_tval v, qpi_tval key) {
    qpi_tval out;
    if (v.kind == QPI_T_UNDEFINED) return no_value(r, v);
    if ((v.kind == QPI_T_STRING || (v.kind == QPI_T_LIST && v.flavour < QPI_F_VIEW)) &&
        (key.kind == QPI_T_INT || key.kind == QPI_T_BOOL)) {
        int64_t i = key.kind == QPI_T_INT ? key.i : key.b;
        if (v.kind == QPI_T_STRING) {
            if (in_range(&i, v.str.n)) return qpi_t_string((qpi_str){v.str.codes + i, 1});
        } else if (in_range(&i, v.list->count)) {
            return v.list->items[i];
        }
        return nothing();
    }
    if (v.kind == QPI_T_DICT && qpi_t_find(r, v.dict, key, &out)) return out;
    if (key.kind == QPI_T_STRING && !is_guarded(key.str) && own_attribute(r, v, key.str, &out)) return out;
    return qpi_t_undefined(key.kind == QPI_T_STRING ? key.str : (qpi_str){0});
}

qpi_tval qpi_t_path(qpi_trun *r, qpi_tval v, qpi_str path) {
    for (size_t begin = 0, i = 0; i <= path.n && !r->failed; i++) {
        if (i < path.n && QPI_CODE(path.codes[i]) != '.') continue;
        qpi_str part = {path.codes + begin, i - begin};
        int64_t index = 0;
        bool    digits = part.n > 0 && part.n < 18;
        for (size_t k = 0; k < part.n && digits; k++) {
            qpi_code c = QPI_CODE(part.codes[k]);
            digits = c >= '0' && c <= '9';
            index = index * 10 + (int64_t)c - '0';
        }
        v = qpi_t_item(r, v, digits ? qpi_t_int(index) : qpi_t_string(part));
        begin = i + 1;
    }
    return v;
}

/* A slice's bound: absent, or a number. */
static bool bound(qpi_trun *r, const qpi_tnode *n, bool *given, int64_t *out) {
    qpi_tval v = n ? qpi_t_eval(r, n) : qpi_t_none;
    *given = v.kind == QPI_T_INT || v.kind == QPI_T_BOOL;
    if (*given) *out = v.kind == QPI_T_INT ? v.i : v.b;
    if (!*given && v.kind != QPI_T_NONE) qpi_t_fail(r, QP_ERR_ARGUMENT, "a slice's bound is %s", qpi_t_kind(v));
    return !r->failed;
}

static int64_t clamp(int64_t i, int64_t n, int64_t low, int64_t high) {
    if (i < 0) i = i < -n ? -1 : i + n;
    return i < low ? low : i > high ? high : i;
}

static qpi_tval slice(qpi_trun *r, qpi_tval v, const qpi_tnode *s) {
    int64_t from = 0, to = 0, step = 1, n = 0;
    bool    from_given, to_given, step_given;
    if (!bound(r, s->a, &from_given, &from) || !bound(r, s->b, &to_given, &to) ||
        !bound(r, s->c, &step_given, &step))
        return nothing();
    if (v.kind == QPI_T_UNDEFINED) return no_value(r, v);
    if ((v.kind != QPI_T_STRING && v.kind != QPI_T_LIST) || (v.kind == QPI_T_LIST && v.flavour >= QPI_F_VIEW))
        return qpi_t_fail(r, QP_ERR_ARGUMENT, "a slice of %s", qpi_t_kind(v));
    if (step == 0) return qpi_t_fail(r, QP_ERR_ARGUMENT, "a slice's step is 0");
    qpi_t_length(r, v, &n);
    int64_t low = step > 0 ? 0 : -1, high = step > 0 ? n : n - 1;
    from = from_given ? clamp(from, n, low, high) : step > 0 ? low : high;
    to = to_given ? clamp(to, n, low, high) : step > 0 ? high : low;
    if (step > n) step = n + 1;
    if (step < -n) step = -n - 1;
    if (v.kind == QPI_T_STRING && step == 1)
        return qpi_t_string((qpi_str){v.str.codes + from, from < to ? (size_t)(to - from) : 0});
    qpi_codes b = {0};
    qpi_tval  list = v.kind == QPI_T_LIST ? qpi_t_list(r, v.flavour, 0) : nothing();
    for (int64_t i = from; (step > 0 ? i < to : i > to) && !r->failed; i += step) {
        if (v.kind == QPI_T_LIST) qpi_t_append(r, list, v.list->items[i]);
        else qpi_t_put(r, &b, (qpi_str){v.str.codes + i, 1});
    }
    qpi_tval text = qpi_t_finish(r, &b);
    return v.kind == QPI_T_LIST ? list : text;
}

/* ---- Operators ---------------------------------------------------------------------------------- */

static qpi_tval repeat(qpi_trun *r, qpi_tval v, int64_t times) {
    qpi_codes b = {0};
    qpi_tval  list = v.kind == QPI_T_LIST ? qpi_t_list(r, v.flavour, 0) : nothing();
    size_t    n = v.kind == QPI_T_LIST ? v.list->count : v.str.n;
    for (int64_t k = 0; k < times && n && qpi_t_work(r, 1); k++) {
        if (v.kind == QPI_T_STRING) qpi_t_put(r, &b, v.str);
        else
            for (size_t i = 0; i < n; i++)
                if (!qpi_t_append(r, list, v.list->items[i])) break;
    }
    qpi_tval text = qpi_t_finish(r, &b);
    return v.kind == QPI_T_LIST ? list : text;
}

static qpi_tval bad_operands(qpi_trun *r, qpi_tval a, qpi_tval b, uint32_t op) {
    char sign[3] = {(char)(op >> 8 ? op >> 8 : op), (char)(op >> 8 ? op & 255 : 0), 0};
    if (a.kind == QPI_T_UNDEFINED) return no_value(r, a);
    if (b.kind == QPI_T_UNDEFINED) return no_value(r, b);
    return qpi_t_fail(r, QP_ERR_ARGUMENT, "%s %s %s: unsupported operands", qpi_t_kind(a), sign, qpi_t_kind(b));
}

qpi_tval qpi_t_add(qpi_trun *r, qpi_tval a, qpi_tval b) {
    int64_t sum;
    if (a.kind == QPI_T_STRING && b.kind == QPI_T_STRING) {
        qpi_codes text = {0};
        uint8_t   safe = a.flavour | b.flavour;
        if (safe) a = qpi_t_escape(r, a), b = qpi_t_escape(r, b);
        if (!a.str.n || !b.str.n) return a.str.n ? a : b;
        qpi_t_put(r, &text, a.str);
        qpi_t_put(r, &text, b.str);
        a = qpi_t_finish(r, &text);
        a.flavour = safe;
        return a;
    }
    if (a.kind == QPI_T_LIST && b.kind == QPI_T_LIST && a.flavour == b.flavour && a.flavour <= QPI_F_TUPLE) {
        qpi_tval list = qpi_t_list(r, a.flavour, a.list->count + b.list->count);
        for (size_t i = 0; i < a.list->count + b.list->count && !r->failed; i++)
            qpi_t_append(r, list, i < a.list->count ? a.list->items[i] : b.list->items[i - a.list->count]);
        return list;
    }
    if (!qpi_t_is_number(a) || !qpi_t_is_number(b)) return bad_operands(r, a, b, QPI_OP(0, '+'));
    if (a.kind == QPI_T_FLOAT || b.kind == QPI_T_FLOAT) return qpi_t_float(qpi_t_number(a) + qpi_t_number(b));
    if (__builtin_add_overflow(a.kind == QPI_T_INT ? a.i : a.b, b.kind == QPI_T_INT ? b.i : b.b, &sum))
        return qpi_t_fail(r, QP_ERR_ARGUMENT, "a number beyond 64 bits");
    return qpi_t_int(sum);
}

static qpi_tval int_power(qpi_trun *r, int64_t x, int64_t n) {
    int64_t y = 1;
    bool    over = false;
    if (n < 0)
        return x ? qpi_t_float(pow((double)x, (double)n))
                 : qpi_t_fail(r, QP_ERR_ARGUMENT, "0 to a negative power");
    if (x == 0 || x == 1) return qpi_t_int(n ? x : 1);
    if (x == -1) return qpi_t_int(n % 2 ? -1 : 1);
    for (; n > 0 && !over; n--) over = __builtin_mul_overflow(y, x, &y);
    return over ? qpi_t_fail(r, QP_ERR_ARGUMENT, "a number beyond 64 bits") : qpi_t_int(y);
}

static qpi_tval int_arithmetic(qpi_trun *r, int64_t x, int64_t y, uint32_t op) {
    int64_t z = 0;
    bool    over = false;
    switch (op) {
    case QPI_OP(0, '-'): over = __builtin_sub_overflow(x, y, &z); break;
    case QPI_OP(0, '*'): over = __builtin_mul_overflow(x, y, &z); break;
    case QPI_OP('*', '*'): return int_power(r, x, y);
    default:
        if (y == 0) return qpi_t_fail(r, QP_ERR_ARGUMENT, "division by zero");
        if (op == QPI_OP(0, '/')) return qpi_t_float((double)x / (double)y);
        over = y == -1 && x == INT64_MIN;
        if (over) break;
        z = op == QPI_OP(0, '%') ? x % y : x / y;
        if (x % y && (x % y < 0) != (y < 0)) z += op == QPI_OP(0, '%') ? y : -1; /* towards minus infinity */
    }
    return over ? qpi_t_fail(r, QP_ERR_ARGUMENT, "a number beyond 64 bits") : qpi_t_int(z);
}

static qpi_tval real_arithmetic(qpi_trun *r, double x, double y, uint32_t op) {
    double z;
    switch (op) {
    case QPI_OP(0, '-'): return qpi_t_float(x - y);
    case QPI_OP(0, '*'): return qpi_t_float(x * y);
    case QPI_OP('*', '*'):
        z = pow(x, y);
        if (isfinite(x) && isfinite(y) && !isfinite(z)) break;
        return qpi_t_float(z);
    default:
        if (y == 0) return qpi_t_fail(r, QP_ERR_ARGUMENT, "division by zero");
        if (op == QPI_OP(0, '/')) return qpi_t_float(x / y);
        z = fmod(x, y);
        if (z != 0 && (z < 0) != (y < 0)) z += y;
        return qpi_t_float(op == QPI_OP(0, '%') ? z : floor((x - z) / y + 0.5));
    }
    return qpi_t_fail(r, QP_ERR_ARGUMENT, "a power beyond all numbers");
}

static qpi_tval arithmetic(qpi_trun *r, qpi_tval a, qpi_tval b, uint32_t op) {
    bool a_many = a.kind == QPI_T_STRING || (a.kind == QPI_T_LIST && a.flavour <= QPI_F_TUPLE),
         b_many = b.kind == QPI_T_STRING || (b.kind == QPI_T_LIST && b.flavour <= QPI_F_TUPLE);
    if (r->failed) return nothing();
    if (op == QPI_OP(0, '+')) return qpi_t_add(r, a, b);
    if (op == QPI_OP(0, '*') && a_many && (b.kind == QPI_T_INT || b.kind == QPI_T_BOOL))
        return repeat(r, a, b.kind == QPI_T_INT ? b.i : b.b);
    if (op == QPI_OP(0, '*') && b_many && (a.kind == QPI_T_INT || a.kind == QPI_T_BOOL))
        return repeat(r, b, a.kind == QPI_T_INT ? a.i : a.b);
    if (op == QPI_OP(0, '%') && a.kind == QPI_T_STRING) {
        bool tuple = b.kind == QPI_T_LIST && b.flavour == QPI_F_TUPLE;
        return qpi_t_format(r, a.str, tuple ? b.list->items : &b, tuple ? b.list->count : 1);
    }
    if (!qpi_t_is_number(a) || !qpi_t_is_number(b)) return bad_operands(r, a, b, op);
    if (a.kind == QPI_T_FLOAT || b.kind == QPI_T_FLOAT)
        return real_arithmetic(r, qpi_t_number(a), qpi_t_number(b), op);
    return int_arithmetic(r, a.kind == QPI_T_INT ? a.i : a.b, b.kind == QPI_T_INT ? b.i : b.b, op);
}

static bool compare_pair(qpi_trun *r, qpi_tval a, qpi_tval b, uint32_t op) {
    switch (op) {
    case QPI_OP('=', '='): return qpi_t_equal(r, a, b);
    case QPI_OP('!', '='): return !qpi_t_equal(r, a, b);
    case QPI_OP_IN: return qpi_t_contains(r, b, a);
    case QPI_OP_NOT_IN: return !qpi_t_contains(r, b, a);
    default: break;
    }
    if (a.kind == QPI_T_UNDEFINED || b.kind == QPI_T_UNDEFINED) return bad_operands(r, a, b, op), false;
    int order = qpi_t_order(r, a, b);
    return op == QPI_OP(0, '<')     ? order == -1
           : op == QPI_OP(0, '>')   ? order == 1
           : op == QPI_OP('<', '=') ? order == -1 || order == 0
                                    : order == 1 || order == 0;
}

static qpi_tval compare(qpi_trun *r, const qpi_tnode *n) {
    qpi_tval a = qpi_t_eval(r, n->a);
    for (const qpi_tnode *operand = n->list; operand && !r->failed; operand = operand->next) {
        qpi_tval b = qpi_t_eval(r, operand->a);
        if (r->failed || !compare_pair(r, a, b, operand->op)) return qpi_t_bool(false);
        a = b;
    }
    return qpi_t_bool(true);
}

static qpi_tval negate(qpi_trun *r, qpi_tval v, bool minus) {
    if (r->failed) return nothing();
    if (v.kind == QPI_T_UNDEFINED) return no_value(r, v);
    if (!qpi_t_is_number(v)) return qpi_t_fail(r, QP_ERR_ARGUMENT, "%s has no sign", qpi_t_kind(v));
    if (v.kind == QPI_T_FLOAT) return qpi_t_float(minus ? -v.f : v.f);
    int64_t i = v.kind == QPI_T_INT ? v.i : v.b;
    return minus ? int_arithmetic(r, 0, i, QPI_OP(0, '-')) : qpi_t_int(i);
}

/* ---- Calls ---------------------------------------------------------------------------------------- */

bool qpi_t_argument(qpi_trun *r, const qpi_targs *a, int place, const char *name, qpi_tval *out) {
    (void)r;
    if (place >= 0 && place < a->count) return *out = a->items[place], true;
    for (int i = 0; name && i < a->named_count; i++)
        if (qpi_str_is(a->names[i], name)) return *out = a->named[i], true;
    return false;
}

bool qpi_t_at_most(qpi_trun *r, const qpi_targs *a, int most, const char *what) {
    if (a->count > most) qpi_t_fail(r, QP_ERR_ARGUMENT, "%s: %d arguments, at most %d", what, a->count, most);
    return !r->failed;
}

static bool read_arguments(qpi_trun *r, const qpi_tnode *list, qpi_targs *a) {
    a->count = a->named_count = 0;
    for (const qpi_tnode *n = list; n && !r->failed; n = n->next) {
        if (n->kind == QPI_N_KEYWORD) {
            a->names[a->named_count] = n->name;
            a->named[a->named_count++] = qpi_t_eval(r, n->a);
        } else {
            a->items[a->count++] = qpi_t_eval(r, n);
        }
    }
    return !r->failed;
}

qpi_tval qpi_t_call(qpi_trun *r, const qpi_tnode *n, qpi_tmacro *caller) {
    qpi_tval  f = qpi_t_eval(r, n->a);
    qpi_targs a;
    if (r->failed || !read_arguments(r, n->list, &a)) return nothing();
    r->line = n->line;
    if (caller) {
        static const qpi_code name[] = {'c', 'a', 'l', 'l', 'e', 'r'};
        if (f.kind != QPI_T_MACRO || a.named_count == QPI_MAX_ARGS)
            return qpi_t_fail(r, QP_ERR_ARGUMENT, "{%% call %%} of %s, expected a macro", qpi_t_kind(f));
        a.names[a.named_count] = (qpi_str){name, 6};
        a.named[a.named_count++] = (qpi_tval){.kind = QPI_T_MACRO, .macro = caller};
    }
    switch (f.kind) {
    case QPI_T_FUNCTION: return f.function->call(r, &a);
    case QPI_T_METHOD:
        if (f.bound->method->call) return f.bound->method->call(r, f.bound->self, &a);
        return qpi_t_fail(r, QP_ERR_UNSUPPORTED, "templates here have no method '%s' of %s",
                          f.bound->method->name, qpi_t_kind(f.bound->self));
    case QPI_T_MACRO: return qpi_t_call_macro(r, f.macro, &a);
    case QPI_T_LOOP: return qpi_t_call_loop(r, f.loop, &a);
    case QPI_T_UNDEFINED: return no_value(r, f);
    default: return qpi_t_fail(r, QP_ERR_ARGUMENT, "%s cannot be called", qpi_t_kind(f));
    }
}

static qpi_tval filter(qpi_trun *r, const qpi_tnode *n, bool test) {
    qpi_tval  self = qpi_t_eval(r, n->a);
    qpi_targs a;
    if (r->failed || !read_arguments(r, n->list, &a)) return nothing();
    r->line = n->line;
    if (!n->entry) {
        char shown[48];
        return qpi_t_fail(r, QP_ERR_UNSUPPORTED, "templates here have no %s '%s'", test ? "test" : "filter",
                          qpi_t_ascii(n->name, shown, sizeof shown));
    }
    if (!test) return ((const qpi_tfilter *)n->entry)->call(r, self, &a);
    bool yes = ((const qpi_ttest *)n->entry)->call(r, self, &a);
    return qpi_t_bool(yes != (n->op != 0));
}

/* ---- Nodes ---------------------------------------------------------------------------------------- */

static qpi_tval make_list(qpi_trun *r, const qpi_tnode *n) {
    qpi_tval list = qpi_t_list(r, n->kind == QPI_N_TUPLE ? QPI_F_TUPLE : QPI_F_LIST, 0);
    for (const qpi_tnode *item = n->list; item && !r->failed; item = item->next)
        qpi_t_append(r, list, qpi_t_eval(r, item));
    return list;
}

static qpi_tval make_dict(qpi_trun *r, const qpi_tnode *n) {
    qpi_tval d = qpi_t_dict(r);
    for (const qpi_tnode *key = n->list; key && !r->failed; key = key->next->next) {
        qpi_tval k = qpi_t_eval(r, key), v = qpi_t_eval(r, key->next);
        if (!r->failed) qpi_t_store(r, d.dict, k, v);
    }
    return d;
}

static qpi_tval join(qpi_trun *r, const qpi_tnode *n) {
    qpi_codes b = {0};
    for (const qpi_tnode *item = n->list; item && !r->failed; item = item->next) {
        qpi_tval v = qpi_t_eval(r, item);
        if (!r->failed) qpi_t_print(r, &b, v);
    }
    return qpi_t_finish(r, &b);
}

static qpi_tval either(qpi_trun *r, const qpi_tnode *n, bool stop) {
    qpi_tval a = qpi_t_eval(r, n->a);
    return r->failed || qpi_t_truth(a) == stop ? a : qpi_t_eval(r, n->b);
}

static qpi_tval evaluate(qpi_trun *r, const qpi_tnode *n) {
    qpi_tval v;
    switch (n->kind) {
    case QPI_N_CONST:
    case QPI_N_HOLE: return n->value;
    case QPI_N_NAME: return look_up(r, n->name);
    case QPI_N_TUPLE:
    case QPI_N_LIST: return make_list(r, n);
    case QPI_N_DICT: return make_dict(r, n);
    case QPI_N_ATTR: return v = qpi_t_eval(r, n->a), qpi_t_attribute(r, v, n->name);
    case QPI_N_ITEM:
        v = qpi_t_eval(r, n->a);
        if (r->failed) return v;
        return n->b->kind == QPI_N_SLICE ? slice(r, v, n->b) : qpi_t_item(r, v, qpi_t_eval(r, n->b));
    case QPI_N_CALL: return qpi_t_call(r, n, NULL);
    case QPI_N_FILTER: return filter(r, n, false);
    case QPI_N_TEST: return filter(r, n, true);
    case QPI_N_NEGATE: return negate(r, qpi_t_eval(r, n->a), true);
    case QPI_N_PLUS: return negate(r, qpi_t_eval(r, n->a), false);
    case QPI_N_NOT: return qpi_t_bool(!qpi_t_truth(qpi_t_eval(r, n->a)));
    case QPI_N_AND: return either(r, n, false);
    case QPI_N_OR: return either(r, n, true);
    case QPI_N_BINARY: return v = qpi_t_eval(r, n->a), arithmetic(r, v, qpi_t_eval(r, n->b), n->op);
    case QPI_N_CONCAT: return join(r, n);
    case QPI_N_COMPARE: return compare(r, n);
    default: /* COND */
        v = qpi_t_eval(r, n->a);
        if (r->failed || !(qpi_t_truth(v) || n->c)) return nothing();
        return qpi_t_eval(r, qpi_t_truth(v) ? n->b : n->c);
    }
}

qpi_tval qpi_t_eval(qpi_trun *r, const qpi_tnode *n) {
    if (!qpi_t_work(r, 1)) return nothing();
    r->line = n->line;
    if (++r->depth > QPI_TEMPLATE_DEPTH * 2)
        return qpi_t_fail(r, QP_ERR_ARGUMENT, "the template nests too deep");
    qpi_tval v = evaluate(r, n);
    r->depth--;
    return v;
}
