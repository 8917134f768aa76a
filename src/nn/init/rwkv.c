/* How RWKV's vectors begin: ramps over the channels, x from 0 to 1 along the tensor's elements. Shapes are
 * of the authors' schedules (arXiv:2305.13048, appendix; arXiv:2404.05892): later layers look back less, and each has slow channels and
 * fast ones. The argument is the layer's place in the stack, 0 to 1. */
#include <math.h>

#include "core/core.h"
#include "nn/part.h"

static void ramp(qp_tensor t, double layer, double (*f)(double x, double layer)) {
    int64_t shape[QP_MAX_DIMS], n = qp_count(t);
    for (int i = 0; i < qp_ndim(t); i++) shape[i] = qp_size(t, i);
    qp_tensor made = qp_empty(t.ctx, QP_F32, qp_ndim(t), shape);
    float    *x = qp_data_write(made);
    for (int64_t i = 0; x && i < n; i++) x[i] = (float)f(n > 1 ? (double)i / (double)(n - 1) : 0, layer);
    qp_copy_to(t, made);
}

static double share(double x, double layer) { return pow(x, 1 - 0.9 * layer); }
static double back(double x, double layer) { return 1 - share(x, layer); }
static double decay(double x, double layer) { return -6 + 5 * pow(x, 0.7 + 1.3 * layer); }
static double first(double x, double layer) {
    (void)layer;
    return log(0.3) + 0.5 * cos(x * 1e4); /* neighbours differ */
}
static double bonus(double x, double layer) { return (1 - layer) * (1 - x) + 0.1 * cos(x * 1e4); }

static void fill_share(qp_tensor t, double layer) { ramp(t, layer, share); }
static void fill_back(qp_tensor t, double layer) { ramp(t, layer, back); }
static void fill_decay(qp_tensor t, double layer) { ramp(t, layer, decay); }
static void fill_first(qp_tensor t, double layer) { ramp(t, layer, first); }
static void fill_bonus(qp_tensor t, double layer) { ramp(t, layer, bonus); }

#define SOURCE .source = "arXiv:2305.13048, 2404.05892"
QP_INIT(rwkv_share) = {
    .part = {.name = "rwkv_share", SOURCE, .help = "rwkv_share:LAYER, what token shift keeps"},
    .fill = fill_share};
QP_INIT(rwkv_back) = {
    .part = {.name = "rwkv_back", SOURCE, .help = "rwkv_back:LAYER, what it takes of the position before"},
    .fill = fill_back};
QP_INIT(rwkv_decay) = {.part = {.name = "rwkv_decay", SOURCE, .help = "rwkv_decay:LAYER, logarithms of rates"},
                       .fill = fill_decay};
QP_INIT(rwkv_first) = {
    .part = {.name = "rwkv_first", SOURCE, .help = "rwkv_first:LAYER, RWKV 4's weight of the position itself"},
    .fill = fill_first};
QP_INIT(rwkv_bonus) = {.part = {.name = "rwkv_bonus", SOURCE, .help = "rwkv_bonus:LAYER, that of 5 and 6"},
                       .fill = fill_bonus};
