#include <stdlib.h>
#include <string.h>

#include "core/core.h"
#include "quipu/record.h"

/* Names of fields, one copy of each for the context. */
struct qpi_interned {
    qpi_interned *next;
    char          name[];
};

static void free_names(void *list) {
    for (qpi_interned *n = list, *next; n; n = next) {
        next = n->next;
        free(n);
    }
}

/* The first one is what the context owns; others join behind it. */
static const char *intern(qp_ctx *ctx, const char *name) {
    qpi_interned **at = &ctx->names;
    for (; *at; at = &(*at)->next)
        if (!strcmp((*at)->name, name)) return (*at)->name;
    size_t        bytes = strlen(name) + 1;
    qpi_interned *n = malloc(sizeof *n + bytes);
    if (!n || (!ctx->names && !qpi_own(ctx, n, free_names))) {
        free(n);
        qp_fail(ctx, QP_ERR_MEMORY, "out of memory: name of a field");
        return NULL;
    }
    n->next = NULL;
    memcpy(n->name, name, bytes);
    return (*at = n)->name;
}

static int find(const qp_record *r, const char *name) {
    for (int i = 0; i < r->count; i++)
        if (!strcmp(r->names[i], name)) return i;
    return -1;
}

qp_tensor qp_record_get(const qp_record *r, const char *name) {
    int i = find(r, name);
    return i < 0 ? QP_NONE : r->tensors[i];
}

void qp_record_set(qp_record *r, const char *name, qp_tensor t) {
    int i = find(r, name);
    if (qp_is_none(t)) {
        if (i < 0) return;
        r->count--;
        r->names[i] = r->names[r->count];
        r->tensors[i] = r->tensors[r->count];
        return;
    }
    if (i < 0 && r->count == QP_MAX_FIELDS) {
        qp_fail(t.ctx, QP_ERR_ARGUMENT, "record: no room for %s beside %d fields", name, r->count);
        return;
    }
    if (i < 0) {
        const char *copy = intern(t.ctx, name);
        if (!copy) return;
        r->names[i = r->count++] = copy;
    }
    r->tensors[i] = t;
}
