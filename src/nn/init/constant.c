/* zeros, ones, constant:X */
#include "core/core.h"
#include "nn/part.h"

static void constant(qp_tensor t, double value) { qp_apply(&qp_op_fill, 1, &t, &value); }

static void zeros(qp_tensor t, double argument) {
    (void)argument;
    constant(t, 0);
}

static void ones(qp_tensor t, double argument) {
    (void)argument;
    constant(t, 1);
}

QP_INIT(zeros) = {.part = {.name = "zeros", .source = "torch.nn.init.zeros_", .help = "all 0"}, .fill = zeros};
QP_INIT(ones) = {.part = {.name = "ones", .source = "torch.nn.init.ones_", .help = "all 1"}, .fill = ones};
QP_INIT(constant) = {
    .part = {.name = "constant", .source = "torch.nn.init.constant_", .help = "constant:X, all X"},
    .fill = constant};
