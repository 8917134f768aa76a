/* Rows of comparisons: two operands of one type -> bool. */
#ifndef QUIPU_KERNELS_COMPARE_H
#define QUIPU_KERNELS_COMPARE_H

#include "kernels/elementwise.h"

static inline bool qk_compare_takes(const qp_call *c) {
    return c->in[0].dtype != QP_BF16 && c->in[0].dtype != QP_F16;
}

#define QK_COMPARE_AS(type, op) \
    { \
        const type *a = (const type *)p[1], *b = (const type *)p[2]; \
        if (so == 1 && sa == 1 && sb == 1) \
            for (int64_t i = 0; i < n; i++) out[i] = a[i] op b[i]; \
        else if (so == 1 && sa == 1 && sb == 0) \
            for (int64_t i = 0; i < n; i++) out[i] = a[i] op b[0]; \
        else \
            for (int64_t i = 0; i < n; i++) out[i * so] = a[i * sa] op b[i * sb]; \
        break; \
    }

/* static void name(const qp_call *): out = x op y */
#define QK_COMPARE(name, op) \
    static void name##_row(const qp_call *c, char *const *p, int64_t n) { \
        uint8_t *out = (uint8_t *)p[0]; \
        int64_t  so = QK_LAST(c->out[0]), sa = QK_LAST(c->in[0]), sb = QK_LAST(c->in[1]); \
        switch (c->in[0].dtype) { \
        case QP_F32: QK_COMPARE_AS(float, op) \
        case QP_F64: QK_COMPARE_AS(double, op) \
        case QP_I64: QK_COMPARE_AS(int64_t, op) \
        case QP_I32: QK_COMPARE_AS(int32_t, op) \
        default: QK_COMPARE_AS(uint8_t, op) \
        } \
    } \
    static void name(const qp_call *c) { qk_elementwise(c, name##_row); }

#endif
