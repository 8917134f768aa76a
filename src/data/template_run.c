/* Statements of templates. */
#include <stdlib.h>
#include <string.h>

#include "data/template.h"

/* ---- Scopes ------------------------------------------------------------------------------------ */

qpi_tscope *qpi_t_scope(qpi_trun *r, qpi_tscope *parent) {
    qpi_tscope *s = qpi_t_take(r, sizeof *s);
    if (s) *s = (qpi_tscope){.parent = parent};
    return s;
}

bool qpi_t_define(qpi_trun *r, qpi_tscope *s, qpi_str name, qpi_tval value) {
    if (!qpi_t_work(r, s->count + 1)) return false;
    for (size_t i = 0; i < s->count; i++)
        if (qpi_str_equal(s->names[i], name)) return s->values[i] = value, true;
    if (s->count == s->capacity) {
        size_t    room = s->capacity ? 2 * s->capacity : 4;
        qpi_str  *names = qpi_t_take(r, room * sizeof *names);
        qpi_tval *values = qpi_t_take(r, room * sizeof *values);
        if (!names || !values) return false;
        if (s->count) memcpy(names, s->names, s->count * sizeof *names);
        if (s->count) memcpy(values, s->values, s->count * sizeof *values);
        s->names = names;
        s->values = values;
        s->capacity = room;
    }
    s->names[s->count] = name;
    s->values[s->count++] = value;
    return true;
}

static void assign(qpi_trun *r, const qpi_tnode *target, qpi_tval value) {
    if (r->failed) return;
    if (target->kind == QPI_N_NAME) {
        qpi_t_define(r, r->scope, target->name, value);
    } else if (target->kind == QPI_N_ATTR) {
        qpi_tval object = qpi_t_eval(r, target->a);
        if (object.kind != QPI_T_NAMESPACE)
            qpi_t_fail(r, QP_ERR_ARGUMENT, "an attribute of %s is assigned; only a namespace's can be",
                       qpi_t_kind(object));
        else if (target->name.codes[0] == '_')
            qpi_t_fail(r, QP_ERR_ARGUMENT, "a namespace's names begin with no underscore");
        else qpi_t_store(r, object.dict, qpi_t_string(target->name), value);
    } else {
        const qpi_tlist *items = qpi_t_items(r, value);
        const qpi_tnode *n = target->list;
        size_t           i = 0;
        for (; items && n && i < items->count; n = n->next) assign(r, n, items->items[i++]);
        if (items && (n || i < items->count))
            qpi_t_fail(r, QP_ERR_ARGUMENT, "%zu values for another number of names", items->count);
    }
}

/* ---- Statements ---------------------------------------------------------------------------------- */

/* What a body writes, as a text. */
static qpi_tval captured(qpi_trun *r, const qpi_tnode *body) {
    qpi_codes text = {0}, *before = r->out;
    r->out = &text;
    qpi_t_run(r, body);
    r->out = before;
    return qpi_t_finish(r, &text);
}

static qpi_tval filtered(qpi_trun *r, qpi_tnode *filters, qpi_tval text) {
    qpi_tnode copy[16];
    int       n = 0;
    /* the chain again, with the text where the tree has a hole: trees are shared between threads */
    for (const qpi_tnode *at = filters; n < 16; at = at->a) {
        copy[n] = *at;
        if (n) copy[n - 1].a = &copy[n];
        if (copy[n++].kind == QPI_N_HOLE) {
            copy[n - 1].value = text;
            return qpi_t_eval(r, copy);
        }
    }
    return qpi_t_fail(r, QP_ERR_UNSUPPORTED, "more than 15 filters in a row");
}

static bool truth(qpi_trun *r, const qpi_tnode *n) { return qpi_t_truth(qpi_t_eval(r, n)) && !r->failed; }

/* The items that pass the loop's own condition. */
static const qpi_tlist *chosen(qpi_trun *r, const qpi_tnode *n, const qpi_tlist *all) {
    qpi_tscope *outer = r->scope;
    qpi_tval    list = qpi_t_list(r, QPI_F_LIST, 0);
    for (size_t i = 0; i < all->count && !r->failed; i++) {
        if (!(r->scope = qpi_t_scope(r, outer))) break;
        assign(r, n->a, all->items[i]);
        if (!r->failed && truth(r, n->c)) qpi_t_append(r, list, all->items[i]);
    }
    r->scope = outer;
    return r->failed ? NULL : list.list;
}

/* The loop over some items; the names around it are the current scope's. */
static void run_loop(qpi_trun *r, const qpi_tnode *n, qpi_tval iterable, int depth) {
    static const qpi_code loop_name[] = {'l', 'o', 'o', 'p'};
    qpi_tscope           *outer = r->scope;
    const qpi_tlist      *items = r->failed ? NULL : qpi_t_items(r, iterable);
    if (items && n->c) items = chosen(r, n, items);
    qpi_tloop *loop = items ? qpi_t_take(r, sizeof *loop) : NULL;
    if (!loop) return;
    *loop = (qpi_tloop){.items = items, .node = n, .outer = outer, .depth = depth};
    size_t count = items->count;
    for (; loop->index < count && !r->failed && r->flow != QPI_BREAK; loop->index++) {
        r->flow = QPI_RUN;
        if (!(r->scope = qpi_t_scope(r, outer))) break;
        qpi_t_define(r, r->scope, (qpi_str){loop_name, 4}, (qpi_tval){.kind = QPI_T_LOOP, .loop = loop});
        assign(r, n->a, items->items[loop->index]);
        qpi_t_run(r, n->list);
    }
    r->flow = QPI_RUN;
    r->scope = outer;
    if (!count && n->other && (r->scope = qpi_t_scope(r, outer))) qpi_t_run(r, n->other);
    r->scope = outer;
}

qpi_tval qpi_t_call_loop(qpi_trun *r, const qpi_tloop *l, const qpi_targs *a) {
    qpi_tscope *before = r->scope;
    qpi_codes   text = {0}, *out = r->out;
    if (!l->node->op || a->count != 1 || a->named_count)
        return qpi_t_fail(r, QP_ERR_ARGUMENT,
                          "loop(..) is called: expected one argument, within a loop that says recursive");
    r->depth += 10; /* its frames, as a macro's */
    r->scope = l->outer;
    r->out = &text;
    run_loop(r, l->node, a->items[0], l->depth + 1);
    r->out = out;
    r->scope = before;
    r->depth -= 10;
    return qpi_t_finish(r, &text);
}

static void run_if(qpi_trun *r, const qpi_tnode *n) {
    for (const qpi_tnode *b = n->list; b && !r->failed; b = b->next)
        if (!b->a || truth(r, b->a)) {
            qpi_t_run(r, b->list);
            return;
        }
}

static void run_scope(qpi_trun *r, const qpi_tnode *n) {
    qpi_tscope *outer = r->scope, *inner = qpi_t_scope(r, outer);
    for (const qpi_tnode *s = n->other; s && inner && !r->failed; s = s->next) {
        qpi_tval v = qpi_t_eval(r, s->b); /* in the outer scope: they do not see each other */
        r->scope = inner;
        assign(r, s->a, v);
        r->scope = outer;
    }
    if (inner && !r->failed) {
        r->scope = inner;
        qpi_t_run(r, n->list);
    }
    r->scope = outer;
}

static void run_macro(qpi_trun *r, const qpi_tnode *n) {
    qpi_tmacro *m = qpi_t_take(r, sizeof *m);
    if (!m) return;
    *m = (qpi_tmacro){n, r->scope};
    qpi_t_define(r, r->scope, n->name, (qpi_tval){.kind = QPI_T_MACRO, .macro = m});
}

static void run_caller(qpi_trun *r, const qpi_tnode *n) {
    qpi_tmacro *m = qpi_t_take(r, sizeof *m);
    if (!m) return;
    *m = (qpi_tmacro){n, r->scope};
    qpi_tval text = qpi_t_call(r, n->a, m);
    if (!r->failed) qpi_t_print(r, r->out, text);
}

static void run_capture(qpi_trun *r, const qpi_tnode *n) {
    qpi_tscope *outer = r->scope;
    if (!(r->scope = qpi_t_scope(r, outer))) return;
    qpi_tval text = captured(r, n->list);
    if (!r->failed) text = filtered(r, n->b, text);
    r->scope = outer;
    if (n->kind == QPI_N_CAPTURE) assign(r, n->a, text);
    else if (!r->failed) qpi_t_print(r, r->out, text);
}

static void run_one(qpi_trun *r, const qpi_tnode *n) {
    qpi_tval v;
    r->line = n->line;
    switch (n->kind) {
    case QPI_N_TEXT: qpi_t_put(r, r->out, n->value.str); break;
    case QPI_N_PRINT:
        v = qpi_t_eval(r, n->a);
        if (!r->failed) qpi_t_print(r, r->out, v);
        break;
    case QPI_N_IF: run_if(r, n); break;
    case QPI_N_FOR: v = qpi_t_eval(r, n->b), run_loop(r, n, v, 1); break;
    case QPI_N_CALLER: run_caller(r, n); break;
    case QPI_N_SET: v = qpi_t_eval(r, n->b), assign(r, n->a, v); break;
    case QPI_N_MACRO: run_macro(r, n); break;
    case QPI_N_SCOPE: run_scope(r, n); break;
    case QPI_N_CAPTURE:
    case QPI_N_FILTERED: run_capture(r, n); break;
    case QPI_N_BREAK: r->flow = QPI_BREAK; break;
    default: r->flow = QPI_CONTINUE; break;
    }
}

void qpi_t_run(qpi_trun *r, const qpi_tnode *list) {
    if (++r->depth > QPI_TEMPLATE_DEPTH * 2) qpi_t_fail(r, QP_ERR_ARGUMENT, "the template nests too deep");
    for (const qpi_tnode *n = list; n && r->flow == QPI_RUN && qpi_t_work(r, 1); n = n->next) run_one(r, n);
    r->depth--;
}

/* ---- Macros ---------------------------------------------------------------------------------------- */

/* A macro that asks for its caller has one, or one that is undefined; others take none. True: it was given. */
static bool bind_caller(qpi_trun *r, const qpi_tmacro *m, const qpi_targs *a) {
    qpi_tval name = qpi_t_text(r, "caller"), v = qpi_t_undefined(name.str);
    bool     given = false;
    if (r->failed || !m->node->op) return false;
    for (int i = 0; i < a->named_count; i++)
        if (qpi_str_equal(a->names[i], name.str)) v = a->named[i], given = true;
    qpi_t_define(r, r->scope, name.str, v);
    return given;
}

static void bind_parameters(qpi_trun *r, const qpi_tmacro *m, const qpi_targs *a) {
    int                    place = 0, used = 0;
    const qpi_tnode *const first = m->node->other;
    for (const qpi_tnode *p = first; p && !r->failed; p = p->next, place++) {
        qpi_tval v = qpi_t_undefined(p->name);
        bool     given = place < a->count;
        if (given) v = a->items[place];
        for (int i = 0; i < a->named_count; i++)
            if (qpi_str_equal(a->names[i], p->name)) {
                if (given) qpi_t_fail(r, QP_ERR_ARGUMENT, "a macro's parameter is given twice");
                v = a->named[i];
                given = true;
                used++;
            }
        if (!given && p->a) v = qpi_t_eval(r, p->a);
        qpi_t_define(r, r->scope, p->name, v);
    }
    used += bind_caller(r, m, a);
    if (a->count > place || used < a->named_count)
        qpi_t_fail(r, QP_ERR_ARGUMENT, "a macro is given arguments that it does not take");
}

qpi_tval qpi_t_call_macro(qpi_trun *r, const qpi_tmacro *m, const qpi_targs *a) {
    qpi_tscope *before = r->scope;
    qpi_tval    text = qpi_t_undefined((qpi_str){0});
    if (!(r->scope = qpi_t_scope(r, m->scope))) return r->scope = before, text;
    r->depth += 10; /* a macro's frames */
    bind_parameters(r, m, a);
    if (!r->failed) text = captured(r, m->node->list);
    r->depth -= 10;
    r->scope = before;
    return text;
}
