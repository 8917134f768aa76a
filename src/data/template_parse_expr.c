/* Tokens to expressions, by the precedence that Jinja gives its operators. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "data/template.h"

static qpi_tnode *unary(qpi_tparser *p, bool with_filter);
static qpi_tnode *postfix(qpi_tparser *p, qpi_tnode *a);

static qpi_tnode *pair(qpi_tparser *p, qpi_nkind kind, qpi_tnode *a, qpi_tnode *b) {
    qpi_tnode *n = qpi_t_node(p, kind);
    n->a = a;
    n->b = b;
    return n;
}

/* ---- Constants ------------------------------------------------------------------------------- */

static int hex(qpi_code c) {
    return c >= '0' && c <= '9'   ? (int)c - '0'
           : c >= 'a' && c <= 'f' ? (int)c - 'a' + 10
           : c >= 'A' && c <= 'F' ? (int)c - 'A' + 10
                                  : -1;
}

/* What stands behind a backslash at *at, as Python reads it; -1: nothing, -2: malformed. */
static int64_t escape(qpi_str s, size_t *at) {
    static const char names[] = "\\'\"abfnrtv", values[] = "\\'\"\a\b\f\n\r\t\v";
    qpi_code          c = s.codes[(*at)++];
    const char       *known = c < 128 ? strchr(names, (int)c) : NULL;
    size_t            digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    int64_t           value = 0;
    if (known) return values[known - names];
    if (c == '\n') return -1;
    if (c >= '0' && c <= '7') {
        for (value = c - '0'; *at < s.n && s.codes[*at] >= '0' && s.codes[*at] <= '7' && digits < 2; digits++)
            value = value * 8 + s.codes[(*at)++] - '0';
        return value;
    }
    if (!digits) return c == 'N' ? -2 : -3;
    for (; digits; digits--, (*at)++) {
        if (*at >= s.n || hex(s.codes[*at]) < 0) return -2;
        value = value * 16 + hex(s.codes[*at]);
    }
    return value > 0x10FFFF || (value >= 0xD800 && value < 0xE000) || !value ? -2 : value;
}

/* Adjacent strings are one. */
static qpi_tnode *string(qpi_tparser *p) {
    qpi_tnode *n = qpi_t_node(p, QPI_N_CONST);
    size_t     most = 0, count = 0;
    for (size_t i = p->at; p->toks.items[i].kind == QPI_TOK_STRING; i++) most += p->toks.items[i].text.n;
    qpi_code *codes = qpi_t_take_source(p, most * sizeof *codes);
    for (; !p->failed && qpi_t_peek(p)->kind == QPI_TOK_STRING; p->at++) {
        qpi_str s = qpi_t_peek(p)->text;
        s = (qpi_str){s.codes + 1, s.n - 2};
        for (size_t i = 0; i < s.n;) {
            if (s.codes[i] != '\\') {
                codes[count++] = s.codes[i++];
                continue;
            }
            int64_t c = escape(s, (i++, &i));
            if (c == -2) {
                qpi_t_expected(p, "an escape that is known");
                return NULL;
            }
            if (c == -3) codes[count++] = '\\', codes[count++] = s.codes[i - 1];
            if (c >= 0) codes[count++] = (qpi_code)c;
        }
    }
    n->value = qpi_t_string((qpi_str){codes, count});
    return n;
}

static qpi_tnode *number(qpi_tparser *p) {
    qpi_tnode     *n = qpi_t_node(p, QPI_N_CONST);
    const qpi_tok *t = qpi_t_peek(p);
    char           text[64];
    size_t         count = 0;
    for (size_t i = 0; i < t->text.n && count < sizeof text - 1; i++)
        if (t->text.codes[i] != '_') text[count++] = (char)t->text.codes[i];
    text[count] = 0;
    errno = 0;
    n->value = t->kind == QPI_TOK_INT ? qpi_t_int(strtoll(text, NULL, 10)) : qpi_t_float(strtod(text, NULL));
    if (errno || count == sizeof text - 1) qpi_t_expected(p, "a number of 64 bits");
    p->at++;
    return n;
}

/* ---- Primary --------------------------------------------------------------------------------- */

static qpi_tnode *sequence(qpi_tparser *p, qpi_nkind kind, uint32_t close) {
    qpi_tnode *n = qpi_t_node(p, kind), **last = &n->list;
    while (!p->failed && !qpi_t_at_op(p, close)) {
        if (n->list && !qpi_t_expect_op(p, QPI_OP(0, ','), "','")) break;
        if (qpi_t_at_op(p, close)) break;
        *last = qpi_t_expression(p, true);
        if (p->failed) break;
        last = &(*last)->next;
        if (kind != QPI_N_DICT || !qpi_t_expect_op(p, QPI_OP(0, ':'), "':'")) continue;
        *last = qpi_t_expression(p, true);
        if (!p->failed) last = &(*last)->next;
    }
    if (!p->failed) qpi_t_skip_op(p, close);
    return n;
}

static qpi_tnode *name(qpi_tparser *p) {
    static const struct {
        const char *name;
        uint8_t     kind;
        bool        value;
    } constants[] = {{"true", QPI_T_BOOL, true},   {"True", QPI_T_BOOL, true}, {"false", QPI_T_BOOL, false},
                     {"False", QPI_T_BOOL, false}, {"none", QPI_T_NONE, 0},    {"None", QPI_T_NONE, 0}};
    qpi_tnode *n = qpi_t_node(p, QPI_N_NAME);
    n->name = qpi_t_peek(p)->text;
    if (qpi_str_is(n->name, "varargs") || qpi_str_is(n->name, "kwargs")) qpi_t_unsupported(p, "name");
    p->caller |= qpi_str_is(n->name, "caller");
    for (size_t i = 0; i < sizeof constants / sizeof *constants; i++)
        if (qpi_str_is(n->name, constants[i].name)) {
            n->kind = QPI_N_CONST;
            n->value = (qpi_tval){.kind = constants[i].kind, .b = constants[i].value};
        }
    p->at++;
    return n;
}

qpi_tnode *qpi_t_primary(qpi_tparser *p) {
    qpi_tnode *n;
    switch (p->failed ? QPI_TOK_END : qpi_t_peek(p)->kind) {
    case QPI_TOK_NAME: return name(p);
    case QPI_TOK_STRING: return string(p);
    case QPI_TOK_INT:
    case QPI_TOK_FLOAT: return number(p);
    default: break;
    }
    if (qpi_t_skip_op(p, QPI_OP(0, '['))) return sequence(p, QPI_N_LIST, QPI_OP(0, ']'));
    if (qpi_t_skip_op(p, QPI_OP(0, '{'))) return sequence(p, QPI_N_DICT, QPI_OP(0, '}'));
    if (!qpi_t_skip_op(p, QPI_OP(0, '('))) {
        qpi_t_expected(p, "an expression");
        return NULL;
    }
    if (qpi_t_skip_op(p, QPI_OP(0, ')'))) return qpi_t_node(p, QPI_N_TUPLE);
    n = qpi_t_tuple(p, true);
    qpi_t_expect_op(p, QPI_OP(0, ')'), "')'");
    return n;
}

/* ---- Behind a primary ------------------------------------------------------------------------ */

static void arguments(qpi_tparser *p, qpi_tnode *call) {
    qpi_tnode **last = &call->list;
    bool        named = false;
    for (int count = 0; !qpi_t_at_op(p, QPI_OP(0, ')')); count++) {
        if (count && !qpi_t_expect_op(p, QPI_OP(0, ','), "','")) return;
        if (qpi_t_at_op(p, QPI_OP(0, ')'))) break;
        if (qpi_t_at_op(p, QPI_OP(0, '*')) || qpi_t_at_op(p, QPI_OP('*', '*')))
            return qpi_t_unsupported(p, "arguments");
        if (count == QPI_MAX_ARGS) return qpi_t_expected(p, "fewer arguments");
        const qpi_tok *t = qpi_t_peek(p);
        if (t->kind == QPI_TOK_NAME && t[1].kind == QPI_TOK_OP && t[1].op == QPI_OP(0, '=')) {
            qpi_tnode *n = *last = qpi_t_node(p, QPI_N_KEYWORD);
            p->at += 2;
            n->name = t->text;
            n->a = qpi_t_expression(p, true);
            named = true;
        } else {
            if (named) return qpi_t_expected(p, "no argument by place behind one by name");
            *last = qpi_t_expression(p, true);
        }
        if (p->failed) return;
        last = &(*last)->next;
    }
    qpi_t_skip_op(p, QPI_OP(0, ')'));
}

static qpi_tnode *call(qpi_tparser *p, qpi_tnode *a) {
    qpi_tnode *n = pair(p, QPI_N_CALL, a, NULL);
    p->at++;
    arguments(p, n);
    return n;
}

static qpi_tnode *attribute(qpi_tparser *p, qpi_tnode *a) {
    const qpi_tok *t = qpi_t_peek(p);
    if (t->kind == QPI_TOK_INT) return pair(p, QPI_N_ITEM, a, number(p));
    qpi_tnode *n = pair(p, QPI_N_ATTR, a, NULL);
    qpi_t_expect_name(p, &n->name);
    return n;
}

static qpi_tnode *subscript(qpi_tparser *p, qpi_tnode *a) {
    qpi_tnode *part[3] = {NULL};
    int        count = 0;
    for (;; count++) {
        if (!qpi_t_at_op(p, QPI_OP(0, ':')) && !qpi_t_at_op(p, QPI_OP(0, ']')))
            part[count] = qpi_t_expression(p, true);
        if (p->failed || count == 2 || !qpi_t_skip_op(p, QPI_OP(0, ':'))) break;
    }
    qpi_tnode *key = part[0];
    if (count) {
        key = pair(p, QPI_N_SLICE, part[0], part[1]);
        key->c = part[2];
    } else if (!key) {
        qpi_t_expected(p, "an index");
    }
    qpi_t_expect_op(p, QPI_OP(0, ']'), "']'");
    return pair(p, QPI_N_ITEM, a, key);
}

static qpi_tnode *postfix(qpi_tparser *p, qpi_tnode *a) {
    while (!p->failed) {
        if (qpi_t_skip_op(p, QPI_OP(0, '.'))) a = attribute(p, a);
        else if (qpi_t_skip_op(p, QPI_OP(0, '['))) a = subscript(p, a);
        else if (qpi_t_at_op(p, QPI_OP(0, '('))) a = call(p, a);
        else break;
    }
    return a;
}

static qpi_tnode *test(qpi_tparser *p, qpi_tnode *a) {
    bool       negated = qpi_t_skip_name(p, "not");
    qpi_tnode *n = pair(p, QPI_N_TEST, a, NULL);
    if (qpi_t_peek(p)->kind != QPI_TOK_NAME) return qpi_t_expected(p, "a test's name"), NULL;
    n->name = qpi_t_peek(p)->text;
    n->op = negated;
    if (!(n->entry = qpi_t_test(n->name)) && !p->choices) return qpi_t_unsupported(p, "test"), NULL;
    p->at++;
    const qpi_tok *t = qpi_t_peek(p);
    if (qpi_t_at_name(p, "is")) return qpi_t_expected(p, "no second test in a row"), NULL;
    bool opens = qpi_t_at_op(p, QPI_OP(0, '[')) || qpi_t_at_op(p, QPI_OP(0, '{'));
    if (qpi_t_skip_op(p, QPI_OP(0, '('))) arguments(p, n);
    else if (t->kind == QPI_TOK_STRING || t->kind == QPI_TOK_INT || t->kind == QPI_TOK_FLOAT || opens ||
             (t->kind == QPI_TOK_NAME && !qpi_t_at_name(p, "else") && !qpi_t_at_name(p, "or") &&
              !qpi_t_at_name(p, "and")))
        n->list = postfix(p, qpi_t_primary(p));
    return n;
}

static qpi_tnode *filter(qpi_tparser *p, qpi_tnode *a) {
    qpi_tnode *n = pair(p, QPI_N_FILTER, a, NULL);
    if (qpi_t_peek(p)->kind != QPI_TOK_NAME) return qpi_t_expected(p, "a filter's name"), NULL;
    n->name = qpi_t_peek(p)->text;
    if (!(n->entry = qpi_t_filter(n->name)) && !p->choices) return qpi_t_unsupported(p, "filter"), NULL;
    p->at++;
    if (qpi_t_skip_op(p, QPI_OP(0, '('))) arguments(p, n);
    return n;
}

qpi_tnode *qpi_t_filters(qpi_tparser *p, qpi_tnode *a) {
    while (!p->failed) {
        if (qpi_t_skip_op(p, QPI_OP(0, '|'))) a = filter(p, a);
        else if (qpi_t_skip_name(p, "is")) a = test(p, a);
        else if (a->kind != QPI_N_HOLE && qpi_t_at_op(p, QPI_OP(0, '('))) a = call(p, a);
        else break;
    }
    return a;
}

/* ---- Operators, from the tightest ------------------------------------------------------------ */

static qpi_tnode *unary(qpi_tparser *p, bool with_filter) {
    qpi_tnode *n = NULL;
    if (++p->depth > QPI_TEMPLATE_DEPTH) qpi_t_expected(p, "an expression nested less deep");
    if (qpi_t_skip_op(p, QPI_OP(0, '-'))) n = pair(p, QPI_N_NEGATE, unary(p, false), NULL);
    else if (qpi_t_skip_op(p, QPI_OP(0, '+'))) n = pair(p, QPI_N_PLUS, unary(p, false), NULL);
    else n = qpi_t_primary(p);
    n = postfix(p, n);
    if (with_filter) n = qpi_t_filters(p, n);
    p->depth--;
    return n;
}

static qpi_tnode *binary(qpi_tparser *p, qpi_tnode *a, qpi_tnode *b, uint32_t op) {
    qpi_tnode *n = pair(p, QPI_N_BINARY, a, b);
    n->op = op;
    return n;
}

static qpi_tnode *power(qpi_tparser *p) {
    qpi_tnode *a = unary(p, true);
    while (!p->failed && qpi_t_skip_op(p, QPI_OP('*', '*'))) a = binary(p, a, unary(p, true), QPI_OP('*', '*'));
    return a;
}

static qpi_tnode *product(qpi_tparser *p) {
    qpi_tnode *a = power(p);
    while (!p->failed) {
        uint32_t op = qpi_t_peek(p)->op;
        if (qpi_t_peek(p)->kind != QPI_TOK_OP ||
            (op != QPI_OP(0, '*') && op != QPI_OP(0, '/') && op != QPI_OP('/', '/') && op != QPI_OP(0, '%')))
            break;
        p->at++;
        a = binary(p, a, power(p), op);
    }
    return a;
}

static qpi_tnode *concat(qpi_tparser *p) {
    qpi_tnode *first = product(p), **last;
    if (p->failed || !qpi_t_at_op(p, QPI_OP(0, '~'))) return first;
    qpi_tnode *n = qpi_t_node(p, QPI_N_CONCAT);
    for (n->list = first, last = &first->next; !p->failed && qpi_t_skip_op(p, QPI_OP(0, '~'));
         last = &(*last)->next)
        if (!(*last = product(p))) break;
    return n;
}

static qpi_tnode *sum(qpi_tparser *p) {
    qpi_tnode *a = concat(p);
    while (!p->failed && (qpi_t_at_op(p, QPI_OP(0, '+')) || qpi_t_at_op(p, QPI_OP(0, '-')))) {
        uint32_t op = qpi_t_peek(p)->op;
        p->at++;
        a = binary(p, a, concat(p), op);
    }
    return a;
}

/* The comparison that is next, passed over; 0: none. */
static uint32_t comparison(qpi_tparser *p) {
    static const uint32_t ops[] = {QPI_OP('=', '='), QPI_OP('!', '='), QPI_OP(0, '<'),
                                   QPI_OP(0, '>'),   QPI_OP('<', '='), QPI_OP('>', '=')};
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
        if (qpi_t_skip_op(p, ops[i])) return ops[i];
    if (qpi_t_skip_name(p, "in")) return QPI_OP_IN;
    if (qpi_t_at_name(p, "not") && p->toks.items[p->at + 1].kind == QPI_TOK_NAME &&
        qpi_str_is(p->toks.items[p->at + 1].text, "in")) {
        p->at += 2;
        return QPI_OP_NOT_IN;
    }
    return 0;
}

static qpi_tnode *compare(qpi_tparser *p) {
    qpi_tnode *a = sum(p), *n = NULL, **last = NULL;
    uint32_t   op;
    while (!p->failed && (op = comparison(p))) {
        if (!n) {
            n = pair(p, QPI_N_COMPARE, a, NULL);
            last = &n->list;
        }
        qpi_tnode *operand = pair(p, QPI_N_BRANCH, sum(p), NULL);
        operand->op = op;
        *last = operand;
        last = &operand->next;
    }
    return n ? n : a;
}

static qpi_tnode *not(qpi_tparser *p) {
    if (!qpi_t_skip_name(p, "not")) return compare(p);
    if (++p->depth > QPI_TEMPLATE_DEPTH) qpi_t_expected(p, "an expression nested less deep");
    qpi_tnode *n = pair(p, QPI_N_NOT, p->failed ? NULL : not(p), NULL);
    p->depth--;
    return n;
}

static qpi_tnode *and(qpi_tparser *p) {
    qpi_tnode *a = not(p);
    while (!p->failed && qpi_t_skip_name(p, "and")) a = pair(p, QPI_N_AND, a, not(p));
    return a;
}

static qpi_tnode *or(qpi_tparser *p) {
    qpi_tnode *a = and(p);
    while (!p->failed && qpi_t_skip_name(p, "or")) a = pair(p, QPI_N_OR, a, and(p));
    return a;
}

qpi_tnode *qpi_t_expression(qpi_tparser *p, bool conditional) {
    if (p->failed) return NULL;
    if (++p->depth > QPI_TEMPLATE_DEPTH) qpi_t_expected(p, "an expression nested less deep");
    qpi_tnode *a = or(p);
    while (conditional && !p->failed && qpi_t_skip_name(p, "if")) {
        qpi_tnode *n = pair(p, QPI_N_COND, or(p), a);
        if (qpi_t_skip_name(p, "else")) n->c = qpi_t_expression(p, true);
        a = n;
    }
    p->depth--;
    return a;
}

/* Does a list without brackets end here? */
static bool list_ends(const qpi_tparser *p) {
    const qpi_tok *t = qpi_t_peek(p);
    return t->kind == QPI_TOK_PRINT_END || t->kind == QPI_TOK_BLOCK_END || qpi_t_at_op(p, QPI_OP(0, ')')) ||
           qpi_t_at_name(p, "recursive");
}

qpi_tnode *qpi_t_tuple(qpi_tparser *p, bool conditional) {
    qpi_tnode *first = qpi_t_expression(p, conditional), **last;
    if (p->failed || !qpi_t_at_op(p, QPI_OP(0, ','))) return first;
    qpi_tnode *n = qpi_t_node(p, QPI_N_TUPLE);
    n->list = first;
    for (last = &first->next; !p->failed && qpi_t_skip_op(p, QPI_OP(0, ',')) && !list_ends(p);
         last = &(*last)->next)
        if (!(*last = qpi_t_expression(p, conditional))) break;
    return n;
}
