/* y = (x - mean) / sqrt(var + eps) weight + bias over the last axis, alone and of x + residual.
 * Formulas and definitions: norm.h. Ba et al. 2016, arXiv:1607.06450. */
#include "ops/norm.h"

QP_KERNEL(layer_norm) = {norm_run, QP_ROWS, NULL};
QP_KERNEL(add_layer_norm) = {norm_of_sum_run, QP_ROWS, NULL};
QP_KERNEL(layer_norm_grad) = {norm_grad_run, QP_ROWS, NULL};

#if QP_BODY
static double grad_flops(const qp_call *c) { return 14.0 * (double)qp_view_count(&c->out[0]); }

#define WANTED (QP_F32 + 1)
static const qp_sample grad_samples[] = {
    {.in = "x[3,5] x[3,5] x[3] p[3] x[5]", .attr = &(norm_grad_attr){WANTED, WANTED}},
    {.in = "x[9,67] x[9,67] x[9] p[9] x[67] x[9,67]", .attr = &(norm_grad_attr){WANTED, WANTED}},
    {.in = "x[2,3,40] x[2,3,40] x[2,3] p[2,3] - x[2,3,40]", .attr = &(norm_grad_attr){0, WANTED}},
    {.in = "x[300,65] x[300,65] x[300] p[300] x[65]", .attr = &(norm_grad_attr){WANTED, 0}},
    {.in = "x[4,1] x[4,1] x[4] p[4]"},
    {.in = "x[0,5] x[0,5] x[0] p[0] x[5]", .attr = &(norm_grad_attr){WANTED, WANTED}},
    {0}};

QP_OP(layer_norm_grad) = {.name = "layer_norm_grad",
                          .source = "backward of layer_norm",
                          .min_in = 4,
                          .max_in = 6,
                          .nout = 3,
                          .attr_bytes = sizeof(norm_grad_attr),
                          .shape = norm_grad_shape,
                          .plain = norm_grad_plain,
                          .scratch = norm_grad_scratch,
                          .flops = grad_flops,
                          .samples = grad_samples};

static void backward(qp_rule *r) {
    r->din[0] = norm_rule(r, &qp_op_layer_norm_grad, r->in[0], 1, 1, r->dout[0], QP_NONE);
}

static double flops(const qp_call *c) { return 8.0 * (double)qp_view_count(&c->in[0]); }

static const norm_attr eps = {1e-5};
static const qp_sample samples[] = {{.in = "x[3,5] x[5] x[5]", .attr = &eps},
                                    {.in = "x[2,3,67] x[67]", .attr = &eps},
                                    {.in = "x[5,130]", .attr = &eps},
                                    {.in = "x[33] - x[33]", .attr = &(norm_attr){0.1}},
                                    {.in = "x[4,1] x[1] x[1]", .attr = &eps},
                                    {.in = "x[0,5] x[5] x[5]", .attr = &eps},
                                    {0}};

QP_OP(layer_norm) = {.name = "layer_norm",
                     .source = "arXiv:1607.06450",
                     .min_in = 1,
                     .max_in = 3,
                     .nout = 3,
                     .attr_bytes = sizeof(norm_attr),
                     .saves = QP_SAVE_IN(0) | QP_SAVE_IN(1) | QP_SAVE_OUT(1) | QP_SAVE_OUT(2),
                     .hidden = QP_SAVE_OUT(1) | QP_SAVE_OUT(2),
                     .shape = norm_shape,
                     .plain = norm_plain,
                     .backward = backward,
                     .flops = flops,
                     .samples = samples};

qp_tensor qp_layer_norm(qp_tensor x, qp_tensor weight, qp_tensor bias, double epsilon) {
    qp_tensor out[3];
    norm_call(&qp_op_layer_norm, 3, (qp_tensor[]){x, weight, bias}, epsilon, 1, out);
    return out[0];
}

/* ---- Of a sum ------------------------------------------------------------------------------- */

static void add_backward(qp_rule *r) {
    r->din[0] = r->din[1] = norm_rule(r, &qp_op_layer_norm_grad, r->out[0], 2, 2, r->dout[1], r->dout[0]);
}

static const qp_sample add_samples[] = {
    {.in = "x[3,5] x[3,5] x[5] x[5]", .attr = &eps}, {.in = "x[2,3,67] x[2,3,67] x[67]", .attr = &eps},
    {.in = "x[5,130] x[5,130]", .attr = &eps},       {.in = "x[33] x[33] - x[33]", .attr = &(norm_attr){0.1}},
    {.in = "x[0,5] x[0,5] x[5] x[5]", .attr = &eps}, {0}};

QP_OP(add_layer_norm) = {.name = "add_layer_norm",
                         .source = "add, then layer_norm",
                         .min_in = 2,
                         .max_in = 4,
                         .nout = 4,
                         .attr_bytes = sizeof(norm_attr),
                         .saves = QP_SAVE_IN(2) | QP_SAVE_OUT(0) | QP_SAVE_OUT(2) | QP_SAVE_OUT(3),
                         .hidden = QP_SAVE_OUT(2) | QP_SAVE_OUT(3),
                         .shape = norm_of_sum_shape,
                         .plain = norm_of_sum_plain,
                         .backward = add_backward,
                         .flops = flops,
                         .samples = add_samples};

void qp_add_layer_norm(qp_tensor x, qp_tensor residual, qp_tensor weight, qp_tensor bias, double epsilon,
                       qp_tensor *sum, qp_tensor *normed) {
    qp_tensor out[4];
    norm_call(&qp_op_add_layer_norm, 4, (qp_tensor[]){x, residual, weight, bias}, epsilon, 2, out);
    *sum = out[0];
    *normed = out[1];
}
#endif
