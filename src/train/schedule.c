#include <math.h>

#include "quipu/train.h"

double qp_schedule_at(const qp_schedule *s, int64_t step) {
    if (step < s->warmup) return s->lr * (double)(step + 1) / (double)s->warmup;
    int64_t decay = s->kind == QP_SCHEDULE_WSD ? (s->decay ? s->decay : s->steps / 5) : s->steps - s->warmup;
    int64_t start = s->steps - decay;
    double  done = decay > 1 ? (double)(step - start) / (double)(decay - 1) : 1;
    if (s->kind == QP_SCHEDULE_CONSTANT || done <= 0) return s->lr;
    if (done > 1) done = 1;
    double share = s->kind == QP_SCHEDULE_COSINE ? 0.5 * (1 + cos(M_PI * done)) : 1 - done;
    return s->lr * (s->floor + (1 - s->floor) * share);
}
