/* Which parameters follow the width: their shapes are compared with those of the same parts at the base's width (as
 * the authors of muP do, github.com/microsoft/mup). */
#include <math.h>
#include <string.h>

#include "nn/module.h"

static double ratio(const qpi_own_entry *e, const qpi_own_entry *base, int axis) {
    return (double)qp_size(e->tensor, axis) / (double)qp_size(base->tensor, axis);
}

/* product: the entry is the weight of one even if it is not seen by its axes. */
static void scale_entry(qpi_own_entry *e, const qpi_own_entry *base, const qp_parametrization_type *type,
                        bool product) {
    int              n = qp_ndim(e->tensor);
    double           in = n > 1 ? ratio(e, base, n - 1) : 1, out = n > 1 ? ratio(e, base, n - 2) : 1, by = 1;
    const qp_powers *p = &type->input;
    for (int i = 0; i < n; i++) by = by == 1 ? ratio(e, base, i) : by;
    if (in != 1 && (out != 1 || product)) {
        p = out != 1 ? &type->hidden : &type->output;
        by = in;
    }
    e->gain = pow(by, p->init) * (e->gain != 0 ? e->gain : 1);
    if (e->init) e->gain *= qpi_init_deviation(base->tensor, e->init) / qpi_init_deviation(e->tensor, e->init);
    e->rates.adam = pow(by, p->adam) * (e->rates.adam != 0 ? e->rates.adam : 1);
    e->rates.sgd = pow(by, p->sgd) * (e->rates.sgd != 0 ? e->rates.sgd : 1);
}

static bool alike(const qp_module *m, const qp_module *base) {
    if (m->entry_count != base->entry_count || m->child_count != base->child_count) return false;
    for (int i = 0; i < m->entry_count; i++)
        if (strcmp(m->entries[i].name, base->entries[i].name) ||
            qp_ndim(m->entries[i].tensor) != qp_ndim(base->entries[i].tensor))
            return false;
    for (int i = 0; i < m->child_count; i++)
        if (strcmp(m->children[i]->name, base->children[i]->name)) return false;
    return true;
}

bool qpi_parametrize(qp_module *m, const qp_module *base, const qp_parametrization_type *type) {
    if (!alike(m, base))
        return !qp_fail(m->ctx, QP_ERR_ARGUMENT, "%s: module \"%s\" has other parameters at the base's width",
                        type->part.name, m->name);
    for (int i = 0; i < m->entry_count; i++)
        if (!m->entries[i].tied && !m->entries[i].buffer && !m->entries[i].unsaved)
            scale_entry(&m->entries[i], &base->entries[i], type, m->linear != NULL);
    for (int i = 0; i < m->child_count; i++)
        if (!qpi_parametrize(m->children[i], base->children[i], type)) return false;
    return true;
}
