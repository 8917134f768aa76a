/* The linear and embedding modules. */
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nn/module.h"

#define MANY 8

struct qp_nn_linear {
    qp_module    *module;
    qp_tensor     weight, bias;
    qp_linear_fn  forward; /* NULL: the product itself */
    void         *self;
    qp_nn_linear *inner; /* what it was before it was wrapped */
};

struct qp_nn_embedding {
    qp_tensor weight;
};

void qpi_linear_free(qp_nn_linear *l) {
    for (qp_nn_linear *inner; l; l = inner) {
        inner = l->inner;
        free(l);
    }
}

static void *new_object(qp_module *m, size_t bytes) {
    void *object = m ? calloc(1, bytes) : NULL;
    if (m && !object) qp_fail(m->ctx, QP_ERR_MEMORY, "out of memory: modules");
    return object;
}

qp_nn_linear *qp_nn_linear_new(qp_module *parent, const char *name, int64_t in, int64_t out,
                               qp_linear_options options) {
    qp_module    *m = parent ? qp_module_new(parent->ctx, parent, name) : NULL;
    qp_nn_linear *l = new_object(m, sizeof *l);
    if (!l) return NULL;
    m->linear = l;
    l->module = m;
    l->weight = options.tied;
    if (!qp_is_none(options.tied)) qp_tie(m, "weight", options.tied);
    else
        l->weight = qp_param(m, "weight", options.init ? options.init : "normal:0.02", 2, (int64_t[]){out, in});
    if (m->entry_count) m->entries[0].gain = options.gain;
    if (options.bias) l->bias = qp_param(m, "bias", options.bias_init ? options.bias_init : "zeros", 1, &out);
    return qp_failed(m->ctx) ? NULL : l;
}

qp_tensor qp_nn_linear_forward(const qp_nn_linear *l, qp_tensor x, qp_act act, qp_tensor residual) {
    if (l->forward) return l->forward(l->self, l->inner, x, act, residual);
    return qp_linear(x, l->weight, l->bias, act, residual);
}

void qp_nn_linear_forward_many(int n, const qp_nn_linear *const *l, qp_tensor x, qp_tensor *y) {
    qp_tensor w[MANY], bias[MANY];
    bool      wrapped = n > MANY;
    for (int i = 0; i < n && !wrapped; i++) {
        wrapped = l[i]->forward != NULL;
        w[i] = l[i]->weight;
        bias[i] = l[i]->bias;
    }
    if (!wrapped) qp_linear_many(x, n, w, bias, y);
    for (int i = 0; i < n && wrapped; i++) y[i] = qp_nn_linear_forward(l[i], x, QP_ACT_NONE, QP_NONE);
}

qp_module *qp_nn_linear_module(const qp_nn_linear *l) { return l->module; }
qp_tensor qp_nn_linear_weight(const qp_nn_linear *l) { return l->weight; }
qp_tensor qp_nn_linear_bias(const qp_nn_linear *l) { return l->bias; }
bool qp_nn_linear_wrapped(const qp_nn_linear *l) { return l->forward != NULL; }

void qp_nn_linear_wrap(qp_nn_linear *l, qp_linear_fn forward, void *self) {
    qp_nn_linear *inner = new_object(l->module, sizeof *inner);
    if (!inner) return;
    *inner = *l;
    l->inner = inner;
    l->forward = forward;
    l->self = self;
}

void qp_nn_linear_unwrap(qp_nn_linear *l) {
    qp_nn_linear *inner = l->inner;
    if (!inner) return;
    *l = *inner;
    free(inner);
}

/* Linears found, and their names. */
typedef struct {
    const char    *pattern;
    qp_nn_linear **found;
    char (*names)[QPI_MAX_NAME];
    int count, capacity;
} search;

static bool grow(search *s) {
    int            capacity = s->capacity ? 2 * s->capacity : 64;
    qp_nn_linear **found = realloc(s->found, (size_t)capacity * sizeof *found);
    if (found) s->found = found;
    void *names = realloc(s->names, (size_t)capacity * sizeof *s->names);
    if (names) s->names = names;
    if (found && names) s->capacity = capacity;
    return found && names;
}

static bool collect(search *s, qp_module *m, const char *name) {
    if (m->linear && fnmatch(s->pattern, name, 0) == 0) {
        if (s->count == s->capacity && !grow(s)) return false;
        s->found[s->count] = m->linear;
        strcpy(s->names[s->count++], name);
    }
    for (int i = 0; i < m->child_count; i++) {
        char full[QPI_MAX_NAME];
        snprintf(full, sizeof full, "%s%s%s", name, *name ? "." : "", m->children[i]->name);
        if (!collect(s, m->children[i], full)) return false;
    }
    return true;
}

int qp_nn_linear_each(qp_module *m, const char                                        *pattern,
                      void (*fn)(void *user, qp_nn_linear *l, const char *name), void *user) {
    search s = {.pattern = pattern};
    if (!collect(&s, m, "")) qp_fail(m->ctx, QP_ERR_MEMORY, "out of memory: linears");
    for (int i = 0; fn && i < s.count && !qp_failed(m->ctx); i++) fn(user, s.found[i], s.names[i]);
    free(s.found);
    free(s.names);
    return s.count;
}

qp_nn_embedding *qp_nn_embedding_new(qp_module *parent, const char *name, int64_t count, int64_t width,
                                     const char *init) {
    qp_module       *m = parent ? qp_module_new(parent->ctx, parent, name) : NULL;
    qp_nn_embedding *e = new_object(m, sizeof *e);
    if (!e) return NULL;
    m->embedding = e;
    e->weight = qp_param(m, "weight", init, 2, (int64_t[]){count, width});
    return qp_failed(m->ctx) ? NULL : e;
}

/* A table of another type (16 bits, as stored) gives activations in the type of all others. */
qp_tensor qp_nn_embedding_forward(const qp_nn_embedding *e, qp_tensor ids) {
    qp_tensor x = qp_embedding(e->weight, ids);
    qp_dtype  type = x.ctx->param_dtype;
    return qp_dtype_of(x) == type || qp_failed(x.ctx) ? x : qp_cast(x, type);
}

qp_tensor qp_nn_embedding_weight(const qp_nn_embedding *e) { return e->weight; }
