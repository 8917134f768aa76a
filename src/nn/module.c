/* Modules: a tree of named parameters and buffers. */
#include "nn/module.h"

#include <stdlib.h>
#include <string.h>

static void destroy(void *thing) {
    qp_module *m = thing;
    for (int i = 0; i < m->child_count; i++) destroy(m->children[i]);
    qpi_module_free_lists(m);
    for (int i = 0; i < m->entry_count; i++) {
        if (!m->entries[i].tied) qp_drop(m->entries[i].tensor);
        free(m->entries[i].name);
        free(m->entries[i].init);
    }
    qpi_linear_free(m->linear);
    free(m->embedding);
    free(m->entries);
    free(m->children);
    free(m->name);
    free(m);
}

static bool no_memory(qp_ctx *ctx) {
    qp_fail(ctx, QP_ERR_MEMORY, "out of memory: modules");
    return false;
}

static size_t full_length(const qp_module *m) {
    size_t n = 0;
    for (; m; m = m->parent) n += strlen(m->name) + 1;
    return n;
}

static bool adopt(qp_module *parent, qp_module *m) {
    for (int i = 0; i < parent->child_count; i++)
        if (!strcmp(parent->children[i]->name, m->name)) {
            qp_fail(m->ctx, QP_ERR_ARGUMENT, "module %s has two children named %s", parent->name, m->name);
            return false;
        }
    if (full_length(m) > QPI_MAX_NAME / 2) {
        qp_fail(m->ctx, QP_ERR_ARGUMENT, "module %.40s...: its full name is too long", m->name);
        return false;
    }
    qp_module **children = realloc(parent->children, ((size_t)parent->child_count + 1) * sizeof *children);
    if (!children) return no_memory(m->ctx);
    parent->children = children;
    children[parent->child_count++] = m;
    return true;
}

qp_module *qp_module_new(qp_ctx *ctx, qp_module *parent, const char *name) {
    if (!ctx || qp_failed(ctx)) return NULL;
    qp_module *m = calloc(1, sizeof *m);
    bool       ok = m && (m->name = strdup(name ? name : ""));
    if (!ok) no_memory(ctx);
    if (ok) {
        m->ctx = ctx;
        m->parent = parent;
        m->training = parent ? parent->training : true;
        ok = parent ? adopt(parent, m) : (m->owned = qpi_own(ctx, m, destroy)) != NULL;
    }
    if (!ok && m) destroy(m);
    return ok ? m : NULL;
}

void qp_module_close(qp_module *root) {
    if (!root || root->parent) return;
    qpi_disown(root->owned);
    destroy(root);
}

qp_ctx *qp_module_ctx(const qp_module *m) { return m->ctx; }

/* ---- Entries ---------------------------------------------------------------------------------- */

static qpi_own_entry *add_entry(qp_module *m, const char *name, qp_tensor t) {
    for (int i = 0; i < m->entry_count; i++)
        if (*name && !strcmp(m->entries[i].name, name)) {
            qp_fail(m->ctx, QP_ERR_ARGUMENT, "module %s has two entries named %s", m->name, name);
            return NULL;
        }
    if (strlen(name) >= QPI_MAX_NAME / 2) {
        qp_fail(m->ctx, QP_ERR_ARGUMENT, "module %s: the name %.40s... is too long", m->name, name);
        return NULL;
    }
    qpi_own_entry *entries = realloc(m->entries, ((size_t)m->entry_count + 1) * sizeof *entries);
    if (entries) m->entries = entries;
    char *copy = strdup(name);
    if (!entries || !copy) {
        free(copy);
        no_memory(m->ctx);
        return NULL;
    }
    for (qp_module *up = m; up; up = up->parent) up->stale = true;
    qpi_own_entry *e = &m->entries[m->entry_count++];
    *e = (qpi_own_entry){.name = copy, .tensor = t};
    return e;
}

qp_tensor qp_param(qp_module *m, const char *name, const char *init, int ndim, const int64_t *shape) {
    if (!m) return QP_NONE;
    qp_tensor      t = qpi_leaf_empty(m->ctx, m->ctx->param_dtype, ndim, shape);
    qp_require_grad(t, true);
    qpi_own_entry *e = qp_failed(m->ctx) ? NULL : add_entry(m, name, qp_keep(t));
    if (e && init && !(e->init = strdup(init))) no_memory(m->ctx);
    return t;
}

void qp_buffer(qp_module *m, const char *name, qp_tensor t) {
    qpi_own_entry *e = m && !qp_failed(m->ctx) ? add_entry(m, name, qp_keep(t)) : NULL;
    if (e) e->buffer = true;
}

qp_tensor qp_module_keep(qp_module *m, qp_tensor t) {
    qpi_own_entry *e = m && !qp_failed(m->ctx) ? add_entry(m, "", qp_keep(t)) : NULL;
    if (e) e->unsaved = true;
    return t;
}

void qp_tie(qp_module *m, const char *name, qp_tensor t) {
    qpi_own_entry *e = m && !qp_failed(m->ctx) ? add_entry(m, name, t) : NULL;
    if (e) e->tied = true;
}

/* ---- Elements ----------------------------------------------------------------------------------- */

bool qpi_has_elements(qp_tensor p) {
    const qpi_slot *s = qpi_resolve(p, "module");
    return s && s->value.storage;
}

qp_status qp_param_set(qp_tensor p, qp_tensor value) {
    if (qp_failed(p.ctx)) return qp_error_code(p.ctx);
    if (!qp_dtype_is_float(qp_dtype_of(value)))
        return qp_fail(p.ctx, QP_ERR_TYPE, "param set: the elements are %s, expected floating numbers",
                       qp_dtype_name(qp_dtype_of(value)));
    return qpi_set_storage(p, value);
}

/* Uninitialised memory of t's shape and type. */
static qp_tensor empty_like(qp_tensor t) {
    int64_t shape[QP_MAX_DIMS];
    for (int i = 0; i < qp_ndim(t); i++) shape[i] = qp_size(t, i);
    return qp_empty(t.ctx, qp_dtype_of(t), qp_ndim(t), shape);
}

qp_status qpi_param_copy(qp_tensor p, qp_tensor value) {
    if (qpi_has_elements(p)) return qp_copy_to(p, value);
    qp_scope  s = qp_enter(p.ctx);
    qp_tensor fresh = empty_like(p);
    qp_status status = qp_copy_to(fresh, value);
    if (status == QP_OK) status = qpi_set_storage(p, fresh);
    qp_leave(s);
    return status;
}

void qp_module_fill(qp_module *m) {
    for (int i = 0; i < m->entry_count && !qp_failed(m->ctx); i++) {
        qpi_own_entry *e = &m->entries[i];
        if (e->tied || !e->init || qpi_has_elements(e->tensor)) continue;
        qp_scope  s = qp_enter(m->ctx);
        qp_tensor fresh = empty_like(e->tensor);
        qp_init(fresh, e->init);
        qp_status status = qp_failed(m->ctx) ? QP_OK : qpi_set_storage(e->tensor, fresh);
        (void)status; /* stored in the context */
        qp_leave(s);
    }
    for (int i = 0; i < m->child_count; i++) qp_module_fill(m->children[i]);
}

/* ---- Modes ------------------------------------------------------------------------------------ */

void qp_set_training(qp_module *m, bool training) {
    m->training = training;
    for (int i = 0; i < m->child_count; i++) qp_set_training(m->children[i], training);
}

bool qp_training(const qp_module *m) { return m->training; }
