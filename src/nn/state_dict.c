/* Lists of a module's entries with their full names, and loading into them. */
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nn/module.h"

void qpi_module_free_lists(qp_module *m) {
    for (int i = 0; m->names && i < m->state_count; i++) free(m->names[i]);
    free(m->names);
    free(m->state);
    free(m->params);
    m->names = NULL;
    m->state = m->params = NULL;
    m->state_count = 0;
}

static int count_entries(const qp_module *m) {
    int n = m->entry_count;
    for (int i = 0; i < m->child_count; i++) n += count_entries(m->children[i]);
    return n;
}

static bool collect(qp_module *root, const qp_module *m, const char *prefix) {
    char full[QPI_MAX_NAME];
    for (int i = 0; i < m->entry_count; i++) {
        const qpi_own_entry *e = &m->entries[i];
        if (e->unsaved) continue;
        snprintf(full, sizeof full, "%s%s", prefix, e->name);
        char *name = strdup(full);
        if (!name) return false;
        root->names[root->state_count] = name;
        root->state[root->state_count++] = (qp_entry){name, e->tensor, e->buffer, e->tied, e->rates};
    }
    for (int i = 0; i < m->child_count; i++) {
        snprintf(full, sizeof full, "%s%s.", prefix, m->children[i]->name);
        if (!collect(root, m->children[i], full)) return false;
    }
    return true;
}

qp_state_dict qp_module_state(qp_module *m) {
    if (!m) return (qp_state_dict){0};
    if (m->state && !m->stale) return (qp_state_dict){m->ctx, m->state_count, m->state};
    qpi_module_free_lists(m);
    size_t n = (size_t)count_entries(m) + 1;
    m->names = calloc(n, sizeof *m->names);
    m->state = calloc(n, sizeof *m->state);
    m->params = calloc(n, sizeof *m->params);
    if (!m->names || !m->state || !m->params || !collect(m, m, "")) {
        qp_fail(m->ctx, QP_ERR_MEMORY, "out of memory: names of parameters");
        qpi_module_free_lists(m);
        return (qp_state_dict){0};
    }
    m->stale = false;
    return (qp_state_dict){m->ctx, m->state_count, m->state};
}

qp_state_dict qp_module_params(qp_module *m) {
    qp_state_dict all = qp_module_state(m);
    int           n = 0;
    for (int i = 0; i < all.count; i++) {
        const qp_entry *e = &all.entries[i];
        if (!e->buffer && !e->tied && qp_requires_grad(e->tensor)) m->params[n++] = *e;
    }
    return (qp_state_dict){all.ctx, n, all.count ? m->params : NULL};
}

int64_t qp_param_count(qp_module *m, bool trainable_only) {
    qp_state_dict dict = qp_module_state(m);
    int64_t       total = 0;
    for (int i = 0; i < dict.count; i++) {
        const qp_entry *e = &dict.entries[i];
        if (!e->buffer && !e->tied && (!trainable_only || qp_requires_grad(e->tensor)))
            total += qp_count(e->tensor);
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

qp_status qp_load_state_dict(qp_module *m, int n, const char *const *names, const qp_tensor *tensors,
                             bool strict) {
    qp_ctx       *ctx = m->ctx;
    qp_state_dict dict = qp_module_state(m);
    name_list     missing = {0}, unexpected = {0};
    if (qp_failed(ctx)) return qp_error_code(ctx);
    for (int i = 0; i < dict.count; i++) {
        int j = index_of(dict.entries[i].name, n, names);
        if (j < 0) {
            if (!dict.entries[i].tied) name_list_add(&missing, dict.entries[i].name);
        } else if (qp_dtype_is_float(qp_dtype_of(tensors[j])) !=
                   qp_dtype_is_float(qp_dtype_of(dict.entries[i].tensor))) {
            return qp_fail(ctx, QP_ERR_TYPE, "load_state_dict: %s is %s, the entry %s", names[j],
                           qp_dtype_name(qp_dtype_of(tensors[j])),
                           qp_dtype_name(qp_dtype_of(dict.entries[i].tensor)));
        } else if (!shapes_equal(tensors[j], dict.entries[i].tensor)) {
            return qp_fail(ctx, QP_ERR_SHAPE, "load_state_dict: %s has another shape than the parameter",
                           names[j]);
        }
    }
    for (int j = 0; j < n; j++) {
        if (index_of(names[j], j, names) >= 0)
            return qp_fail(ctx, QP_ERR_ARGUMENT, "load_state_dict: %s is given twice", names[j]);
        int found = 0;
        for (int i = 0; i < dict.count && !found; i++) found = !strcmp(dict.entries[i].name, names[j]);
        if (!found) name_list_add(&unexpected, names[j]);
    }
    if (strict && (missing.count || unexpected.count))
        return qp_fail(ctx, QP_ERR_ARGUMENT, "load_state_dict: %d missing (%s), %d unexpected (%s)",
                       missing.count, missing.text, unexpected.count, unexpected.text);
    for (int i = 0; i < dict.count; i++) {
        int j = index_of(dict.entries[i].name, n, names);
        if (j >= 0 && !dict.entries[i].tied && qpi_param_copy(dict.entries[i].tensor, tensors[j]) != QP_OK)
            break;
    }
    return qp_error_code(ctx);
}
