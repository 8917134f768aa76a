#include <string.h>

#include "core/core.h"
#include "quipu/record.h"

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
    if (i < 0 && r->count == QP_MAX_FIELDS) {
        qp_fail(t.ctx, QP_ERR_ARGUMENT, "record: no room for %s beside %d fields", name, r->count);
        return;
    }
    if (i < 0) i = r->count++;
    r->names[i] = name;
    r->tensors[i] = t;
}
