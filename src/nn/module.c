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
    for (qpi_held *h = m->held, *next; h; h = next) {
        next = h->next;
        h->release(h->thing);
        free(h);
    }
    free(m->embedding);
    free(m->hashes);
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

/* Names are joined by dots, so they have none of their own. */
static bool proper(qp_ctx *ctx, const char *name) {
    if (name && *name && !strchr(name, '.')) return true;
    qp_fail(ctx, QP_ERR_ARGUMENT, "module: \"%.40s\" is no name: expected some characters without a dot",
            name ? name : "");
    return false;
}

/* FNV-1a */
static uint32_t hash_of(const char *name) {
    uint32_t h = 2166136261u;
    for (; *name; name++) h = (h ^ (uint8_t)*name) * 16777619u;
    return h;
}

static bool adopt(qp_module *parent, qp_module *m) {
    uint32_t hash = hash_of(m->name);
    if (parent->ctx != m->ctx) {
        qp_fail(m->ctx, QP_ERR_ARGUMENT, "module %s: its parent belongs to another context", m->name);
        return false;
    }
    for (int i = 0; i < parent->child_count; i++)
        if (parent->hashes[i] == hash && !strcmp(parent->children[i]->name, m->name)) {
            qp_fail(m->ctx, QP_ERR_ARGUMENT, "module %s has two children named %s", parent->name, m->name);
            return false;
        }
    if (full_length(m) > QPI_MAX_NAME / 2) {
        qp_fail(m->ctx, QP_ERR_ARGUMENT, "module %.40s...: its full name is too long", m->name);
        return false;
    }
    qp_module **children = realloc(parent->children, ((size_t)parent->child_count + 1) * sizeof *children);
    if (children) parent->children = children;
    uint32_t *hashes = realloc(parent->hashes, ((size_t)parent->child_count + 1) * sizeof *hashes);
    if (hashes) parent->hashes = hashes;
    if (!children || !hashes) return no_memory(m->ctx);
    hashes[parent->child_count] = hash;
    children[parent->child_count++] = m;
    return true;
}

qp_module *qp_module_new(qp_ctx *ctx, qp_module *parent, const char *name) {
    if (!ctx || qp_failed(ctx) || (parent && !proper(ctx, name))) return NULL;
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
    if (!root || root->parent || root->model) return;
    qpi_disown(root->owned);
    destroy(root);
}

qp_ctx *qp_module_ctx(const qp_module *m) { return m->ctx; }

/* ---- Entries ---------------------------------------------------------------------------------- */

static qpi_own_entry *add_entry(qp_module *m, const char *name, qp_tensor t) {
    if (qp_failed(m->ctx)) return NULL;
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
    if (!proper(m->ctx, name)) return qpi_poison(m->ctx);
    qp_tensor t = qpi_leaf_empty(m->ctx, m->ctx->param_dtype, ndim, shape);
    qp_require_grad(t, true);
    qpi_own_entry *e = qp_failed(m->ctx) ? NULL : add_entry(m, name, qp_keep(t));
    if (e && init && !(e->init = strdup(init))) no_memory(m->ctx);
    return t;
}

void qp_param_rates(qp_module *m, const char *name, qp_rates rates) {
    for (int i = 0; m && i < m->entry_count; i++)
        if (!strcmp(m->entries[i].name, name) && !m->entries[i].buffer) {
            m->entries[i].rates = rates;
            for (qp_module *up = m; up; up = up->parent) up->stale = true;
            return;
        }
    if (m && !qp_failed(m->ctx))
        qp_fail(m->ctx, QP_ERR_ARGUMENT, "module %s has no parameter %s", m->name, name);
}

void qp_buffer(qp_module *m, const char *name, qp_tensor t) {
    qpi_own_entry *e = m && !qp_failed(m->ctx) && proper(m->ctx, name) ? add_entry(m, name, qp_keep(t)) : NULL;
    if (e) e->buffer = true;
}

qp_tensor qp_module_keep(qp_module *m, qp_tensor t) {
    qpi_own_entry *e = m && !qp_failed(m->ctx) ? add_entry(m, "", qp_keep(t)) : NULL;
    if (e) e->unsaved = true;
    return t;
}

static bool holds(const qp_module *m, qp_tensor t) {
    for (int i = 0; i < m->entry_count; i++)
        if (m->entries[i].tensor.slot == t.slot && m->entries[i].tensor.generation == t.generation) return true;
    for (int i = 0; i < m->child_count; i++)
        if (holds(m->children[i], t)) return true;
    return false;
}

void qp_tie(qp_module *m, const char *name, qp_tensor t) {
    if (!m || qp_failed(m->ctx) || !proper(m->ctx, name)) return;
    const qp_module *root = m;
    while (root->parent) root = root->parent;
    if (!holds(root, t)) {
        qp_fail(m->ctx, QP_ERR_ARGUMENT, "tie: %s is to be a parameter that no module of this tree has", name);
        return;
    }
    qpi_own_entry *e = add_entry(m, name, t);
    if (e) e->tied = true;
}

qp_status qp_module_own(qp_module *m, void *thing, void (*release)(void *thing)) {
    qpi_held *h = malloc(sizeof *h);
    if (!h) {
        release(thing);
        no_memory(m->ctx);
        return QP_ERR_MEMORY;
    }
    *h = (qpi_held){m->held, thing, release};
    m->held = h;
    return QP_OK;
}

/* ---- Elements ----------------------------------------------------------------------------------- */

bool qpi_has_elements(qp_tensor p) {
    const qpi_slot *s = qpi_resolve(p, "module");
    return s && s->value.storage;
}

qp_status qp_param_set(qp_tensor p, qp_tensor value) {
    if (qp_failed(p.ctx)) return qp_error_code(p.ctx);
    if (!qp_dtype_is_float(qp_dtype_of(value)) && qp_dtype_block(qp_dtype_of(value)) == 1)
        return qp_fail(p.ctx, QP_ERR_TYPE, "param set: the elements are %s, expected floating numbers",
                       qp_dtype_name(qp_dtype_of(value)));
    if (qp_requires_grad(value))
        return qp_fail(p.ctx, QP_ERR_STATE,
                       "param set: the value takes a gradient itself (qp_tie shares a parameter)");
    return qpi_set_storage(p, value);
}

uint64_t qpi_module_stamp(const qp_module *m) {
    uint64_t stamp = 0;
    for (int i = 0; i < m->entry_count; i++) {
        const qpi_slot *s = m->entries[i].unsaved ? NULL : qpi_resolve(m->entries[i].tensor, "module");
        if (s && s->value.storage)
            stamp += ((uint64_t)(uintptr_t)s->value.storage ^ (uint64_t)s->value.storage->version << 40) *
                     UINT64_C(0x9e3779b97f4a7c15);
    }
    for (int i = 0; i < m->child_count; i++) stamp += qpi_module_stamp(m->children[i]);
    return stamp;
}

/* Uninitialised memory of t's shape and type. */
static qp_tensor empty_like(qp_tensor t) {
    int64_t shape[QP_MAX_DIMS];
    for (int i = 0; i < qp_ndim(t); i++) shape[i] = qp_size(t, i);
    return qp_empty(t.ctx, qp_dtype_of(t), qp_ndim(t), shape);
}

qp_status qpi_param_copy(qp_tensor p, qp_tensor value) {
    if (qpi_has_elements(p) && !qpi_resolve(p, "module")->value.storage->read_only) return qp_copy_to(p, value);
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
        if (e->gain != 0 && e->gain != 1) fresh = qp_affine(fresh, e->gain, 0);
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
