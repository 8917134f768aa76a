/* Tokens to statements. What Jinja has and chat templates do not use (include, import, block, ..)
 * is an error that names it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/template.h"
#include "format/os.h"
#include "format/utf8.h"

/* ---- Tokens -------------------------------------------------------------------------------- */

void *qpi_t_take_source(qpi_tparser *p, size_t bytes) {
    void *m = p->failed ? NULL : qpi_arena_take(&p->t->arena, bytes);
    if (m || p->failed) return m;
    qpi_fail_memory(p->error, p->t->name);
    p->failed = true;
    return NULL;
}

qpi_tnode *qpi_t_node(qpi_tparser *p, qpi_nkind kind) {
    qpi_tnode *n = qpi_t_take_source(p, sizeof *n);
    if (!n) n = &p->spare;
    *n = (qpi_tnode){.kind = (uint8_t)kind, .line = qpi_t_peek(p)->line};
    return n;
}

static void describe(const qpi_tok *t, char *out, size_t size) {
    static const char *const names[] = {[QPI_TOK_END] = "the end", [QPI_TOK_TEXT] = "text",
                                        [QPI_TOK_PRINT] = "{{",    [QPI_TOK_PRINT_END] = "}}",
                                        [QPI_TOK_BLOCK] = "{%",    [QPI_TOK_BLOCK_END] = "%}"};
    char                     shown[48];
    if (t->kind <= QPI_TOK_BLOCK_END) snprintf(out, size, "%s", names[t->kind]);
    else snprintf(out, size, "'%s'", qpi_t_ascii(t->text, shown, sizeof shown));
}

void qpi_t_expected(qpi_tparser *p, const char *what) {
    char found[64];
    if (p->failed) return;
    describe(qpi_t_peek(p), found, sizeof found);
    qpi_fail(p->error, QP_ERR_FORMAT, "%s: line %d: expected %s, found %s", p->t->name, qpi_t_peek(p)->line,
             what, found);
    p->failed = true;
}

void qpi_t_unsupported(qpi_tparser *p, const char *what) {
    char shown[48];
    qpi_fail(p->error, QP_ERR_UNSUPPORTED, "%s: line %d: templates here have no %s '%s'", p->t->name,
             qpi_t_peek(p)->line, what, qpi_t_ascii(qpi_t_peek(p)->text, shown, sizeof shown));
    p->failed = true;
}

const qpi_tok *qpi_t_peek(const qpi_tparser *p) { return &p->toks.items[p->at]; }

bool qpi_t_at_name(const qpi_tparser *p, const char *name) {
    const qpi_tok *t = qpi_t_peek(p);
    return t->kind == QPI_TOK_NAME && qpi_str_is(t->text, name);
}

bool qpi_t_at_op(const qpi_tparser *p, uint32_t op) {
    const qpi_tok *t = qpi_t_peek(p);
    return t->kind == QPI_TOK_OP && t->op == op;
}

bool qpi_t_skip_name(qpi_tparser *p, const char *name) {
    bool there = qpi_t_at_name(p, name);
    p->at += there;
    return there;
}

bool qpi_t_skip_op(qpi_tparser *p, uint32_t op) {
    bool there = qpi_t_at_op(p, op);
    p->at += there;
    return there;
}

bool qpi_t_expect_op(qpi_tparser *p, uint32_t op, const char *what) {
    if (p->failed) return false;
    if (qpi_t_skip_op(p, op)) return true;
    qpi_t_expected(p, what);
    return false;
}

bool qpi_t_expect_name(qpi_tparser *p, qpi_str *out) {
    if (p->failed) return false;
    if (qpi_t_peek(p)->kind != QPI_TOK_NAME) {
        qpi_t_expected(p, "a name");
        return false;
    }
    *out = qpi_t_peek(p)->text;
    p->at++;
    return true;
}

static bool expect(qpi_tparser *p, qpi_tok_kind kind, const char *what) {
    if (p->failed) return false;
    if (qpi_t_peek(p)->kind == kind) {
        p->at++;
        return true;
    }
    qpi_t_expected(p, what);
    return false;
}

/* ---- Statements ---------------------------------------------------------------------------- */

static qpi_tnode *statements(qpi_tparser *p, const char *const *ends);

static const char *const until_endif[] = {"elif", "else", "endif", NULL},
                         *const until_endfor[] = {"else", "endfor", NULL},
                         *const until_end_of_for[] = {"endfor", NULL},
                         *const until_end_of_if[] = {"endif", NULL};

/* A body up to {% NAME %}, which is passed over. */
static qpi_tnode *body_until(qpi_tparser *p, const char *name) {
    qpi_tnode *body = statements(p, (const char *const[]){name, NULL});
    qpi_t_skip_name(p, name);
    return body;
}

static bool block_end(qpi_tparser *p) { return expect(p, QPI_TOK_BLOCK_END, "%}"); }

static qpi_tnode *branch(qpi_tparser *p, bool conditional) {
    qpi_tnode *n = qpi_t_node(p, QPI_N_BRANCH);
    p->choices++;
    if (conditional) n->a = qpi_t_tuple(p, false);
    if (block_end(p)) n->list = statements(p, conditional ? until_endif : until_end_of_if);
    p->choices--;
    return n;
}

static qpi_tnode *parse_if(qpi_tparser *p) {
    qpi_tnode *n = qpi_t_node(p, QPI_N_IF), **last = &n->list;
    for (bool conditional = true; !p->failed;) {
        *last = branch(p, conditional);
        last = &(*last)->next;
        if (qpi_t_skip_name(p, "endif")) break;
        conditional = qpi_t_skip_name(p, "elif");
        if (!conditional) qpi_t_skip_name(p, "else");
    }
    return n;
}

/* name, name.attribute or several of them; nothing else can be assigned to. */
static qpi_tnode *target(qpi_tparser *p, bool attributes) {
    qpi_tnode *first = NULL, **last = &first;
    int        count = 0;
    bool       comma = false, closed = qpi_t_skip_op(p, QPI_OP(0, '('));
    do {
        qpi_tnode *n = qpi_t_node(p, QPI_N_NAME);
        if (count && (qpi_t_at_name(p, "in") || qpi_t_at_op(p, QPI_OP(0, ')')))) break;
        if (!qpi_t_expect_name(p, &n->name)) return NULL;
        if (attributes && qpi_t_skip_op(p, QPI_OP(0, '.'))) {
            qpi_tnode *object = n;
            n = qpi_t_node(p, QPI_N_ATTR);
            n->a = object;
            if (!qpi_t_expect_name(p, &n->name)) return NULL;
        }
        *last = n;
        last = &n->next;
        count++;
    } while (qpi_t_skip_op(p, QPI_OP(0, ',')) && (comma = true));
    if (closed) qpi_t_expect_op(p, QPI_OP(0, ')'), "')'");
    if (count == 1 && !comma) return first;
    qpi_tnode *tuple = qpi_t_node(p, QPI_N_TUPLE);
    tuple->list = first;
    return tuple;
}

static qpi_tnode *parse_for(qpi_tparser *p) {
    qpi_tnode *n = qpi_t_node(p, QPI_N_FOR);
    n->a = target(p, false);
    if (!p->failed && !qpi_t_skip_name(p, "in")) qpi_t_expected(p, "'in'");
    n->b = qpi_t_tuple(p, false);
    if (!p->failed && qpi_t_skip_name(p, "if")) n->c = qpi_t_expression(p, true);
    if (!p->failed) n->op = qpi_t_skip_name(p, "recursive");
    if (!block_end(p)) return NULL;
    p->loops++;
    n->list = statements(p, until_endfor);
    p->loops--;
    if (!p->failed && qpi_t_skip_name(p, "else") && block_end(p)) n->other = statements(p, until_end_of_for);
    qpi_t_skip_name(p, "endfor");
    return n;
}

static qpi_tnode *parse_set(qpi_tparser *p) {
    qpi_tnode *n = qpi_t_node(p, QPI_N_SET);
    n->a = target(p, true);
    if (p->failed) return NULL;
    if (qpi_t_skip_op(p, QPI_OP(0, '='))) {
        n->b = qpi_t_tuple(p, true);
        return n;
    }
    n->kind = QPI_N_CAPTURE;
    n->b = qpi_t_filters(p, qpi_t_node(p, QPI_N_HOLE));
    if (block_end(p)) n->list = body_until(p, "endset");
    return n;
}

/* (a, b=1), the first bracket of which has been read, to n->other. */
static void parameters(qpi_tparser *p, qpi_tnode *n) {
    qpi_tnode **last = &n->other;
    int         count = 0;
    bool        defaults = false;
    while (!p->failed && !qpi_t_at_op(p, QPI_OP(0, ')'))) {
        if (*last) last = &(*last)->next;
        if (count && !qpi_t_expect_op(p, QPI_OP(0, ','), "','")) return;
        qpi_tnode *parameter = *last = qpi_t_node(p, QPI_N_NAME);
        if (!qpi_t_expect_name(p, &parameter->name)) return;
        if (qpi_t_skip_op(p, QPI_OP(0, '='))) parameter->a = qpi_t_expression(p, true);
        else if (defaults) qpi_t_expected(p, "'=': parameters behind one with a default have one");
        defaults |= parameter->a != NULL;
        if (++count == QPI_MAX_ARGS) qpi_t_expected(p, "fewer parameters");
    }
    qpi_t_skip_op(p, QPI_OP(0, ')'));
}

/* What runs elsewhere than where it is written: no loop around it can be left. */
static void body_of_macro(qpi_tparser *p, qpi_tnode *n, const char *end) {
    int loops = p->loops;
    p->loops = 0;
    if (block_end(p)) n->list = body_until(p, end);
    p->loops = loops;
}

static qpi_tnode *parse_macro(qpi_tparser *p) {
    qpi_tnode *n = qpi_t_node(p, QPI_N_MACRO);
    bool       around = p->caller;
    if (!qpi_t_expect_name(p, &n->name) || !qpi_t_expect_op(p, QPI_OP(0, '('), "'('")) return NULL;
    p->caller = false;
    parameters(p, n);
    body_of_macro(p, n, "endmacro");
    n->op = p->caller;
    p->caller |= around;
    return n;
}

/* {% call(a, b) macro(..) %}: the body is what the macro calls as caller(..). */
static qpi_tnode *parse_call(qpi_tparser *p) {
    qpi_tnode *n = qpi_t_node(p, QPI_N_CALLER);
    if (qpi_t_skip_op(p, QPI_OP(0, '('))) parameters(p, n);
    n->a = qpi_t_expression(p, true);
    if (!p->failed && n->a->kind != QPI_N_CALL) qpi_t_expected(p, "a call of a macro");
    bool around = p->caller;
    p->caller = false;
    body_of_macro(p, n, "endcall");
    n->op = p->caller;
    p->caller |= around;
    return n;
}

static qpi_tnode *parse_with(qpi_tparser *p) {
    qpi_tnode *n = qpi_t_node(p, QPI_N_SCOPE), **last = &n->other;
    while (!p->failed && qpi_t_peek(p)->kind != QPI_TOK_BLOCK_END) {
        if (n->other) qpi_t_expect_op(p, QPI_OP(0, ','), "','");
        qpi_tnode *set = *last = qpi_t_node(p, QPI_N_SET);
        last = &set->next;
        set->a = target(p, false);
        qpi_t_expect_op(p, QPI_OP(0, '='), "'='");
        set->b = qpi_t_expression(p, true);
    }
    if (block_end(p)) n->list = body_until(p, "endwith");
    return n;
}

static qpi_tnode *parse_generation(qpi_tparser *p) {
    qpi_tnode *n = qpi_t_node(p, QPI_N_SCOPE);
    if (block_end(p)) n->list = body_until(p, "endgeneration");
    return n;
}

static qpi_tnode *parse_filter_block(qpi_tparser *p) {
    qpi_tnode *n = qpi_t_node(p, QPI_N_FILTERED), *hole = qpi_t_node(p, QPI_N_HOLE);
    /* {% filter NAME %} is written without the bar that opens other filters */
    qpi_tok *bar = &p->toks.items[--p->at];
    *bar = (qpi_tok){.kind = QPI_TOK_OP, .op = QPI_OP(0, '|'), .line = bar->line, .text = bar->text};
    n->b = qpi_t_filters(p, hole);
    if (block_end(p)) n->list = body_until(p, "endfilter");
    return n;
}

static qpi_tnode *parse_jump(qpi_tparser *p, qpi_nkind kind) {
    if (!p->loops) qpi_t_expected(p, "a loop around break or continue");
    return qpi_t_node(p, kind);
}
static qpi_tnode *parse_break(qpi_tparser *p) { return parse_jump(p, QPI_N_BREAK); }
static qpi_tnode *parse_continue(qpi_tparser *p) { return parse_jump(p, QPI_N_CONTINUE); }

static const struct {
    const char *name;
    qpi_tnode *(*parse)(qpi_tparser *p);
} keywords[] = {{"if", parse_if},       {"for", parse_for},           {"set", parse_set},
                {"macro", parse_macro}, {"with", parse_with},         {"generation", parse_generation},
                {"break", parse_break}, {"continue", parse_continue}, {"filter", parse_filter_block},
                {"call", parse_call}};

static qpi_tnode *statement(qpi_tparser *p) {
    for (size_t i = 0; i < sizeof keywords / sizeof *keywords; i++)
        if (qpi_t_skip_name(p, keywords[i].name)) {
            qpi_tnode *n = keywords[i].parse(p);
            block_end(p);
            return n;
        }
    if (qpi_t_peek(p)->kind == QPI_TOK_NAME) qpi_t_unsupported(p, "statement");
    else qpi_t_expected(p, "a statement");
    return NULL;
}

static bool at_any(const qpi_tparser *p, const char *const *ends) {
    for (int i = 0; ends && ends[i]; i++)
        if (qpi_t_at_name(p, ends[i])) return true;
    return false;
}

/* Up to {% and one of ends, which is next then; NULL: up to the end of the source. */
static qpi_tnode *statements(qpi_tparser *p, const char *const *ends) {
    qpi_tnode *first = NULL, **last = &first;
    if (++p->depth > QPI_TEMPLATE_DEPTH) qpi_t_expected(p, "statements nested less deep");
    while (!p->failed) {
        const qpi_tok *t = qpi_t_peek(p);
        qpi_tnode     *n = NULL;
        if (t->kind == QPI_TOK_END) {
            if (ends) qpi_t_expected(p, ends[0]);
            break;
        }
        p->at++;
        if (t->kind == QPI_TOK_TEXT) {
            n = qpi_t_node(p, QPI_N_TEXT);
            n->value = qpi_t_string(t->text);
        } else if (t->kind == QPI_TOK_PRINT) {
            n = qpi_t_node(p, QPI_N_PRINT);
            n->a = qpi_t_tuple(p, true);
            expect(p, QPI_TOK_PRINT_END, "}}");
        } else if (at_any(p, ends)) {
            break;
        } else {
            n = statement(p);
        }
        if (!n) break;
        *last = n;
        last = &n->next;
    }
    p->depth--;
    return first;
}

/* ---- The whole ----------------------------------------------------------------------------- */

/* Code points with '\n' for every line's end, without the last of them, as Jinja reads it. */
static bool read_source(qpi_template *t, const char *source, size_t n, qpi_error *e) {
    qpi_code *codes = qpi_arena_take(&t->arena, (n + 1) * sizeof *codes);
    size_t    count = 0;
    int       line = 1;
    if (!codes) return qpi_fail_memory(e, t->name) == QP_OK;
    for (size_t at = 0, bytes; at < n; at += bytes) {
        uint32_t c;
        bytes = qpi_utf8_decode(source + at, n - at, &c);
        if (!bytes || c == 0)
            return qpi_fail(e, QP_ERR_FORMAT, "%s: line %d: expected UTF-8, found the byte 0x%02X", t->name,
                            line, (unsigned char)source[at]) == QP_OK;
        if (c == '\r') {
            if (at + 1 < n && source[at + 1] == '\n') continue;
            c = '\n';
        }
        line += c == '\n';
        codes[count++] = c;
    }
    if (count && codes[count - 1] == '\n') count--;
    t->source = (qpi_str){codes, count};
    return true;
}

qpi_template *qpi_template_parse(const char *name, const char *source, size_t n, qpi_error *e) {
    if (n > QPI_TEMPLATE_BYTES) {
        qpi_fail(e, QP_ERR_FORMAT, "%s: a template of %zu bytes, at most %zu", name, n, QPI_TEMPLATE_BYTES);
        return NULL;
    }
    qpi_template *t = calloc(1, sizeof *t);
    if (!t || !(t->name = qpi_arena_text(&t->arena, name, strlen(name)))) {
        qpi_fail_memory(e, name);
        qpi_template_free(t);
        return NULL;
    }
    qpi_tparser p = {.t = t, .error = e};
    p.failed = !read_source(t, source, n, e) || !qpi_template_lex(t, &p.toks, e);
    if (!p.failed) t->body = statements(&p, NULL);
    free(p.toks.items);
    if (!p.failed) return t;
    qpi_template_free(t);
    return NULL;
}

void qpi_template_free(qpi_template *t) {
    if (!t) return;
    qpi_arena_free(&t->arena);
    free(t);
}
