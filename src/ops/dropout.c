/* y = x m / (1 - p), m one with probability 1 - p, zero otherwise: element e stays where the upper
 * 24 bits of its random word are at least p 2^24.   dx = dy m / (1 - p): the same op on dy with the
 * same key, so the mask is never stored. jmlr.org/papers/v15/srivastava14a */
#include "kernels/philox.h"
#include "ops/op.h"

typedef struct {
    double p;
} dropout_attr;

static int32_t threshold(const qp_call *c) { return (int32_t)(((const dropout_attr *)c->attr)->p * 0x1p24); }
static double scale(const qp_call *c) { return 1 / (1 - ((const dropout_attr *)c->attr)->p); }

static void piece(void *arg, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const qp_call *c = arg;
    const float   *x = c->in[0].data;
    float         *y = c->out[0].data;
    int64_t        key[2];
    uint32_t       words[QK_RANDOM_BLOCK];
    vi             low = vi_set1(threshold(c));
    vf             by = vf_set1((float)scale(c));
    qk_read_key(&c->in[1], key);
    for (int64_t i = begin; i < end; i += VF_LANES) {
        int64_t at = i % QK_RANDOM_BLOCK;
        int     m = end - i < VF_LANES ? (int)(end - i) : VF_LANES;
        if (at == 0) qk_random_block(key, i / QK_RANDOM_BLOCK, words);
        vm dropped = vi_lt((vi)((vu)vi_load((const int32_t *)words + at) >> 8), low);
        vf v = m == VF_LANES ? vf_load(x + i) : vf_load_n(x + i, m);
        v = vf_select(dropped, (vf){0}, v * by);
        if (m == VF_LANES) vf_store(y + i, v);
        else vf_store_n(y + i, v, m);
    }
}

static void run(const qp_call *c) {
    qp_parallel(c->exec, qp_view_count(&c->out[0]), 256 * QK_RANDOM_BLOCK, piece, (void *)c);
}

QP_KERNEL(dropout) = {run, QP_FLAT, NULL};

#if QP_BODY
#include <stdio.h>

#include "ops/shape.h"

extern const qp_op qp_op_dropout;

static void shape(qp_call *c) {
    double p = ((const dropout_attr *)c->attr)->p;
    if (!qk_check_key(c, 1)) return;
    if (p >= 0 && p <= 1) shape_set(c, 0, c->in[0].dtype, c->in[0].ndim, c->in[0].shape);
    else qp_call_fail(c, QP_ERR_ARGUMENT, "probability %g, expected 0 to 1", p);
}

static void plain(const qp_call *c) {
    int64_t key[2], n = qp_view_count(&c->out[0]);
    qk_read_key(&c->in[1], key);
    for (int64_t i = 0; i < n; i++) {
        bool   dropped = (int32_t)(qk_random_word(key, i) >> 8) < threshold(c);
        double x = qp_load(&c->in[0], qp_view_offset(&c->in[0], i));
        qp_store(&c->out[0], i, dropped ? 0 : x * scale(c));
    }
}

static void backward(qp_rule *r) { r->din[0] = QP_CALL(dropout, r->attr, r->dout[0], r->in[1]); }

static const qp_sample samples[] = {{.in = "x[3,5] i9[2]", .attr = &(dropout_attr){0.5}},
                                    {.in = "x[2,3,67] i9[2]", .attr = &(dropout_attr){0.1}},
                                    {.in = "x[] i9[2]", .attr = &(dropout_attr){0}},
                                    {.in = "x[7] i9[2]", .attr = &(dropout_attr){1}},
                                    {.in = "x[20000] i9[2]", .attr = &(dropout_attr){0.9}},
                                    {.in = "x[0] i9[2]", .attr = &(dropout_attr){0.5}},
                                    {0}};

QP_OP(dropout) = {.name = "dropout",
                  .source = "torch.nn.functional.dropout",
                  .min_in = 2,
                  .max_in = 2,
                  .nout = 1,
                  .attr_bytes = sizeof(dropout_attr),
                  .saves = QP_SAVE_IN(1),
                  .shape = shape,
                  .plain = plain,
                  .backward = backward,
                  .samples = samples};

qp_tensor qp_dropout(qp_tensor x, double p) {
    dropout_attr a = {p};
    if (!x.ctx) return QP_NONE;
    qp_tensor key = qpi_random_key(x.ctx), y = QP_CALL(dropout, &a, x, key);
    qp_drop(key);
    return y;
}
#endif
