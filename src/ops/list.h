/* The shape rule of in-place ops over lists of parameters. */
#ifndef QUIPU_OPS_LIST_H
#define QUIPU_OPS_LIST_H

#include "quipu/op.h"

/* Inputs are whole groups: tensors of as many elements as their first, then `numbers` numbers. */
static inline void qpo_list_shape(qp_call *c, int group, int numbers) {
    if (c->nin % group) {
        qp_call_fail(c, QP_ERR_ARGUMENT, "%d inputs, expected groups of %d", c->nin, group);
        return;
    }
    for (int i = 0; i < c->nin; i++) {
        const qp_view *x = &c->in[i], *first = &c->in[i - i % group];
        long long      expected = i % group == group - 1 ? numbers
                                  : first->ndim < 0      ? 0
                                                         : (long long)qp_view_count(first);
        if (x->ndim < 0) {
            qp_call_fail(c, QP_ERR_ARGUMENT, "input %d is missing", i);
        } else if (qp_view_count(x) != expected) {
            qp_call_fail(c, QP_ERR_SHAPE, "input %d has %lld elements, expected %lld%s", i,
                         (long long)qp_view_count(x), expected,
                         i % group == group - 1 ? " numbers of the step" : " as the parameter has");
        } else {
            continue;
        }
        return;
    }
    c->out[0] = c->in[0];
}

#endif
