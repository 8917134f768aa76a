/* Parts by kind: the tables that the build makes from the files of each folder, then what host
 * programs registered with the context. */
#include <stdlib.h>
#include <string.h>

#include "core/core.h"
#include "nn/part.h"

#define X(kind, folder, type) extern const type *const qpi_parts_##kind[];
QP_PART_KINDS(X)
#undef X

typedef struct qpi_registered {
    struct qpi_registered *next;
    qp_part_kind           kind;
    const qp_part         *part;
} registered;

/* The index-th of the library's own; NULL behind the last, and then *count is how many there are. */
static const qp_part *own(qp_part_kind kind, int index, int *count) {
    *count = 0;
    switch (kind) {
#define X(name, folder, type) \
    case QP_PART_##name: \
        for (; qpi_parts_##name[*count]; ++*count) \
            if (*count == index) return &qpi_parts_##name[index]->part; \
        break;
        QP_PART_KINDS(X)
#undef X
    default: break;
    }
    return NULL;
}

const qp_part *qp_part_at(qp_ctx *ctx, qp_part_kind kind, int index) {
    int            count;
    const qp_part *part = own(kind, index, &count);
    if (part || index < 0) return part;
    for (const registered *r = ctx ? ctx->parts : NULL; r; r = r->next)
        if (r->kind == kind && index == count++) return r->part;
    return NULL;
}

const qp_part *qp_part_find(qp_ctx *ctx, qp_part_kind kind, const char *name) {
    const qp_part *part;
    for (int i = 0; name && (part = qp_part_at(ctx, kind, i)); i++)
        if (!strcmp(part->name, name)) return part;
    return NULL;
}

static bool complete(qp_part_kind kind, const qp_part *part) {
    const void *p = part;
    switch (kind) {
    case QP_PART_INIT: return ((const qp_init_type *)p)->fill;
    case QP_PART_NORM: return ((const qp_norm_type *)p)->init && ((const qp_norm_type *)p)->forward;
    case QP_PART_INPUT: return ((const qp_input_type *)p)->init && ((const qp_input_type *)p)->forward;
    case QP_PART_OUTPUT: return ((const qp_output_type *)p)->init && ((const qp_output_type *)p)->forward;
    case QP_PART_POSITION: {
        const qp_position_type *t = p;
        return t->init && (!t->reserve || (t->shared && t->embed && t->step));
    }
    case QP_PART_MIXER:
    case QP_PART_FFN: {
        const qp_branch_type *b = p;
        return b->init && b->forward && (!b->step || b->reserve);
    }
    case QP_PART_BLOCK: {
        const qp_block_type *b = p;
        return b->forward && b->norms >= 0 && b->ffn_norms >= 0 && b->norms <= QP_MAX_NORMS - b->ffn_norms;
    }
    case QP_PART_PARAMETRIZATION: return true; /* numbers alone */
    default: return false;
    }
}

static void free_all(void *list) {
    for (registered *r = list, *next; r; r = next) {
        next = r->next;
        free(r);
    }
}

/* The list is owned from its first element on; later ones join behind it. */
static bool append(qp_ctx *ctx, registered *r) {
    if (!ctx->parts) {
        ctx->parts = r;
        if (qpi_own(ctx, r, free_all)) return true;
        ctx->parts = NULL;
        return false;
    }
    registered *last = ctx->parts;
    while (last->next) last = last->next;
    last->next = r;
    return true;
}

qp_status qp_register_part(qp_ctx *ctx, qp_part_kind kind, const qp_part *part) {
    const char *name = part && part->name ? part->name : "";
    if (qp_failed(ctx)) return qp_error_code(ctx);
    if (!*name) return qp_fail(ctx, QP_ERR_ARGUMENT, "register part: no name");
    if (qp_part_find(ctx, kind, name))
        return qp_fail(ctx, QP_ERR_ARGUMENT, "register part: there is a %s already", name);
    for (int i = 0; part->options && part->options[i].name; i++)
        if (i == QPI_MAX_SETTINGS)
            return qp_fail(ctx, QP_ERR_ARGUMENT, "register part: %s has more than %d options", name,
                           QPI_MAX_SETTINGS);
    if (!complete(kind, part)) return qp_fail(ctx, QP_ERR_ARGUMENT, "register part: %s lacks a function", name);
    registered *r = malloc(sizeof *r);
    if (r) *r = (registered){.kind = kind, .part = part};
    if (r && append(ctx, r)) return QP_OK;
    free(r);
    return qp_fail(ctx, QP_ERR_MEMORY, "out of memory: register part");
}
