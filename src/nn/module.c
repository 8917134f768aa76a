#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/core.h"
#include "quipu/nn.h"

typedef struct {
    char     *name;
    qp_tensor tensor;
    bool      buffer, tied;
    int       segments;
    int64_t   rows[4];
} own_entry;

struct qp_module {
    qp_ctx     *ctx;
    qp_module  *parent, **children;
    char       *name;
    own_entry  *entries;
    int         child_count, entry_count;
    bool        training;
    qp_entry   *lists[2]; /* state, params: made when asked for */
    int         list_counts[2];
    bool        stale[2];
    char      **names; /* full names of lists[0] */
    int         name_count;
};

static void free_lists(qp_module *m) {
    for (int i = 0; i < m->name_count; i++) free(m->names[i]);
    free(m->names);
    free(m->lists[0]);
    free(m->lists[1]);
    m->names = NULL;
    m->lists[0] = m->lists[1] = NULL;
    m->name_count = 0;
}

static void destroy(void *thing) {
    qp_module *m = thing;
    free_lists(m);
    for (int i = 0; i < m->entry_count; i++) free(m->entries[i].name);
    free(m->entries);
    free(m->children);
    free(m->name);
    free(m);
}

static bool no_memory(qp_ctx *ctx) {
    qp_fail(ctx, QP_ERR_MEMORY, "out of memory: modules");
    return false;
}

static bool adopt(qp_module *parent, qp_module *m) {
    qp_module **children = realloc(parent->children, ((size_t)parent->child_count + 1) * sizeof *children);
    if (!children) return no_memory(m->ctx);
    parent->children = children;
    children[parent->child_count++] = m;
    return true;
}

qp_module *qp_module_new(qp_ctx *ctx, qp_module *parent, const char *name) {
    if (!ctx || qp_failed(ctx)) return NULL;
    qp_module *m = calloc(1, sizeof *m);
    if (!m || !(m->name = strdup(name ? name : "")) || !qpi_own(ctx, m, destroy)) {
        if (m) destroy(m);
        no_memory(ctx);
        return NULL;
    }
    m->ctx = ctx;
    m->parent = parent;
    m->training = parent ? parent->training : true;
    if (parent && !adopt(parent, m)) return NULL;
    return m;
}

qp_ctx *qp_module_ctx(const qp_module *m) { return m->ctx; }

static own_entry *add_entry(qp_module *m, const char *name, qp_tensor t) {
    for (int i = 0; i < m->entry_count; i++)
        if (!strcmp(m->entries[i].name, name)) {
            qp_fail(m->ctx, QP_ERR_ARGUMENT, "module %s has two entries named %s", m->name, name);
            return NULL;
        }
    own_entry *entries = realloc(m->entries, ((size_t)m->entry_count + 1) * sizeof *entries);
    if (entries) m->entries = entries;
    char *copy = strdup(name);
    if (!entries || !copy) {
        free(copy);
        no_memory(m->ctx);
        return NULL;
    }
    for (qp_module *up = m; up; up = up->parent) up->stale[0] = up->stale[1] = true;
    own_entry *e = &m->entries[m->entry_count++];
    *e = (own_entry){.name = copy, .tensor = qp_keep(t)};
    return e;
}

qp_tensor qp_param(qp_module *m, const char *name, const char *init, int ndim, const int64_t *shape) {
    if (!m) return QP_NONE;
    qp_tensor t = qp_empty(m->ctx, m->ctx->param_dtype, ndim, shape);
    qp_init(t, init);
    qp_require_grad(t, true);
    if (!qp_failed(m->ctx)) add_entry(m, name, t);
    return t;
}

void qp_param_segments(qp_module *m, const char *name, int n, const int64_t *rows) {
    for (int i = 0; m && i < m->entry_count && n <= 4; i++)
        if (!strcmp(m->entries[i].name, name)) {
            m->entries[i].segments = n;
            memcpy(m->entries[i].rows, rows, (size_t)n * sizeof *rows);
        }
}

void qp_buffer(qp_module *m, const char *name, qp_tensor t) {
    own_entry *e = m && !qp_failed(m->ctx) ? add_entry(m, name, t) : NULL;
    if (e) e->buffer = true;
}

void qp_tie(qp_module *m, const char *name, qp_tensor t) {
    own_entry *e = m && !qp_failed(m->ctx) ? add_entry(m, name, t) : NULL;
    if (e) e->tied = true;
}

/* ---- Lists -------------------------------------------------------------------------------- */

static int count_entries(const qp_module *m) {
    int n = m->entry_count;
    for (int i = 0; i < m->child_count; i++) n += count_entries(m->children[i]);
    return n;
}

static bool collect(qp_module *root, const qp_module *m, const char *prefix) {
    char full[512];
    for (int i = 0; i < m->entry_count; i++) {
        const own_entry *e = &m->entries[i];
        if (snprintf(full, sizeof full, "%s%s", prefix, e->name) >= (int)sizeof full) return false;
        char *name = strdup(full);
        if (!name) return false;
        root->names[root->name_count] = name;
        qp_entry *out = &root->lists[0][root->name_count++];
        *out = (qp_entry){name, e->tensor, e->buffer, e->tied, e->segments, {0}};
        memcpy(out->rows, e->rows, sizeof e->rows);
    }
    for (int i = 0; i < m->child_count; i++) {
        if (snprintf(full, sizeof full, "%s%s.", prefix, m->children[i]->name) >= (int)sizeof full) return false;
        if (!collect(root, m->children[i], full)) return false;
    }
    return true;
}

qp_state_dict qp_module_state(qp_module *m) {
    if (!m) return (qp_state_dict){0};
    if (m->lists[0] && !m->stale[0]) return (qp_state_dict){m->list_counts[0], m->lists[0]};
    free_lists(m);
    int n = count_entries(m);
    m->names = calloc((size_t)n + 1, sizeof *m->names);
    m->lists[0] = calloc((size_t)n + 1, sizeof *m->lists[0]);
    if (!m->names || !m->lists[0] || !collect(m, m, "")) {
        no_memory(m->ctx);
        free_lists(m);
        return (qp_state_dict){0};
    }
    m->list_counts[0] = n;
    m->stale[0] = false;
    return (qp_state_dict){n, m->lists[0]};
}

qp_state_dict qp_module_params(qp_module *m) {
    qp_state_dict all = qp_module_state(m);
    if (!all.count) return all;
    if (!m->lists[1]) m->lists[1] = calloc((size_t)all.count + 1, sizeof *m->lists[1]);
    if (!m->lists[1]) {
        no_memory(m->ctx);
        return (qp_state_dict){0};
    }
    int n = 0;
    for (int i = 0; i < all.count; i++) {
        const qp_entry *e = &all.entries[i];
        if (!e->buffer && !e->tied && qp_requires_grad(e->tensor)) m->lists[1][n++] = *e;
    }
    m->list_counts[1] = n;
    return (qp_state_dict){n, m->lists[1]};
}

/* ---- Loading -------------------------------------------------------------------------------- */

/* Appends ", NAME" while there is room; after that counts. */
typedef struct {
    char text[220];
    int  count;
} name_list;

static void name_list_add(name_list *l, const char *name) {
    size_t used = strlen(l->text);
    l->count++;
    if (used + strlen(name) + 8 < sizeof l->text)
        snprintf(l->text + used, sizeof l->text - used, "%s%s", used ? ", " : "", name);
    else if (used + 5 < sizeof l->text && strcmp(l->text + used - 3, "...")) strcat(l->text, " ...");
}

static int index_of(const char *name, int n, const char *const *names) {
    for (int i = 0; i < n; i++)
        if (!strcmp(name, names[i])) return i;
    return -1;
}

static bool shapes_equal(qp_tensor a, qp_tensor b) {
    if (qp_ndim(a) != qp_ndim(b)) return false;
    for (int i = 0; i < qp_ndim(a); i++)
        if (qp_size(a, i) != qp_size(b, i)) return false;
    return true;
}

qp_status qp_load_state_dict(qp_module *m, int n, const char *const *names, const qp_tensor *tensors, bool strict) {
    qp_ctx       *ctx = m->ctx;
    qp_state_dict dict = qp_module_state(m);
    name_list     missing = {0}, unexpected = {0};
    if (qp_failed(ctx)) return qp_error_code(ctx);
    for (int i = 0; i < dict.count; i++) {
        int j = index_of(dict.entries[i].name, n, names);
        if (j < 0) {
            if (!dict.entries[i].tied) name_list_add(&missing, dict.entries[i].name);
        } else if (!shapes_equal(tensors[j], dict.entries[i].tensor)) {
            return qp_fail(ctx, QP_ERR_SHAPE, "load_state_dict: %s has another shape than the parameter", names[j]);
        }
    }
    for (int j = 0; j < n; j++) {
        int found = 0;
        for (int i = 0; i < dict.count && !found; i++) found = !strcmp(dict.entries[i].name, names[j]);
        if (!found) name_list_add(&unexpected, names[j]);
    }
    if (strict && (missing.count || unexpected.count))
        return qp_fail(ctx, QP_ERR_ARGUMENT, "load_state_dict: %d missing (%s), %d unexpected (%s)", missing.count,
                       missing.text, unexpected.count, unexpected.text);
    for (int i = 0; i < dict.count; i++) {
        int j = index_of(dict.entries[i].name, n, names);
        if (j >= 0 && !dict.entries[i].tied) qp_copy_to(dict.entries[i].tensor, tensors[j]);
    }
    return qp_error_code(ctx);
}

/* ---- Modes ------------------------------------------------------------------------------------ */

void qp_set_training(qp_module *m, bool training) {
    m->training = training;
    for (int i = 0; i < m->child_count; i++) qp_set_training(m->children[i], training);
}

bool qp_training(const qp_module *m) { return m->training; }

int64_t qp_param_count(qp_module *m, bool trainable_only) {
    qp_state_dict dict = qp_module_state(m);
    int64_t       total = 0;
    for (int i = 0; i < dict.count; i++) {
        const qp_entry *e = &dict.entries[i];
        if (!e->buffer && !e->tied && (!trainable_only || qp_requires_grad(e->tensor))) total += qp_count(e->tensor);
    }
    return total;
}

int qp_freeze(qp_module *m, const char *pattern, bool frozen) {
    qp_state_dict dict = qp_module_state(m);
    int           matched = 0;
    for (int i = 0; i < dict.count; i++) {
        const qp_entry *e = &dict.entries[i];
        if (e->buffer || e->tied || fnmatch(pattern, e->name, 0) != 0) continue;
        qp_require_grad(e->tensor, !frozen);
        matched++;
    }
    return matched;
}

/* ---- Linear, embedding ---------------------------------------------------------------------------- */

qp_nn_linear qp_nn_linear_new(qp_module *parent, const char *name, int64_t in, int64_t out,
                              qp_linear_options options) {
    qp_module   *m = parent ? qp_module_new(parent->ctx, parent, name) : NULL;
    qp_nn_linear l = {0};
    if (!m) return l;
    l.weight = qp_param(m, "weight", options.init ? options.init : "normal:0.02", 2, (int64_t[]){out, in});
    if (options.bias) l.bias = qp_param(m, "bias", "zeros", 1, &out);
    qp_param_segments(m, "weight", options.segments, options.rows);
    qp_param_segments(m, "bias", options.segments, options.rows);
    return l;
}

qp_tensor qp_nn_linear_forward(const qp_nn_linear *l, qp_tensor x, qp_act act, qp_tensor residual) {
    return qp_linear(x, l->weight, l->bias, act, residual);
}

qp_nn_embedding qp_nn_embedding_new(qp_module *parent, const char *name, int64_t count, int64_t width,
                                    const char *init) {
    qp_module *m = parent ? qp_module_new(parent->ctx, parent, name) : NULL;
    if (!m) return (qp_nn_embedding){0};
    return (qp_nn_embedding){qp_param(m, "weight", init, 2, (int64_t[]){count, width})};
}
