#include "cli/idx.h"

bool idx_read(idx *x, const char *name, const uint8_t *p, size_t size, qpi_error *e) {
    *x = (idx){.count = 1};
    if (size >= 2 && p[0] == 0x1f && p[1] == 0x8b)
        return qpi_fail(e, QP_ERR_FORMAT, "%s: is compressed: gunzip it first", name) == QP_OK;
    if (size < 4 || p[0] || p[1])
        return qpi_fail(e, QP_ERR_FORMAT, "%s: no IDX file: it does not begin with two zeros", name) == QP_OK;
    if (p[2] != 8)
        return qpi_fail(e, QP_ERR_UNSUPPORTED, "%s: elements of IDX type 0x%02x, expected bytes (0x08)", name,
                        p[2]) == QP_OK;
    x->axes = p[3];
    size_t head = 4 + 4 * (size_t)x->axes;
    if (x->axes < 1 || x->axes > IDX_MAX_AXES || size < head)
        return qpi_fail(e, QP_ERR_FORMAT, "%s: %d axes, expected 1 to %d and their sizes", name, x->axes,
                        IDX_MAX_AXES) == QP_OK;
    for (int i = 0; i < x->axes; i++) {
        const uint8_t *at = p + 4 + 4 * i;
        x->size[i] = (int64_t)at[0] << 24 | at[1] << 16 | at[2] << 8 | at[3];
        if (x->size[i] < 1 || x->size[i] > (int64_t)size / x->count)
            return qpi_fail(e, QP_ERR_FORMAT,
                            "%s: axis %d has %lld elements, more than the file holds (or none)", name, i,
                            (long long)x->size[i]) == QP_OK;
        x->count *= x->size[i];
    }
    if ((size_t)x->count != size - head)
        return qpi_fail(e, QP_ERR_FORMAT, "%s: %lld elements, but %zu bytes behind the head", name,
                        (long long)x->count, size - head) == QP_OK;
    x->data = p + head;
    return true;
}
