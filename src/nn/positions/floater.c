/* FLOATER (Liu et al. 2020, arXiv:2003.09229): positions as places along a learned flow, p' = h(t, p), from a learned
 * start, added to the input; longer texts flow on. h(t, p) = W_o tanh(W_i p + b_i + t w_t) + b_o, solved by one
 * Runge-Kutta step of fourth order from a position to the next; gradients are those of the steps. Positions come
 * one after the other; sessions keep those that are known as long as the weights stay, so that a step solves its own
 * positions only.
 */
#include <stdlib.h>

#include "nn/module.h"
#include "nn/part.h"

#define PARTS 64 /* that qp_concat takes */

/* The first places, [.., D], of the weights as they were. */
typedef struct {
    qp_tensor places;
    int64_t   count;
    uint64_t  stamp;
} known;

typedef struct {
    int64_t          most;
    double           dt;
    qp_tensor        start, time; /* [1, D], [F] */
    qp_nn_linear    *in, *out;    /* [F, D], [D, F] */
    const qp_module *module;
    known           *known; /* the module's */
} floater;

static const qp_option options[] = {{.name = "width",
                                     .kind = QP_OPTION_INT,
                                     .fallback = 0,
                                     .high = 1e6,
                                     .help = "F, inner width of the flow; 0: D"},
                                    {.name = "dt",
                                     .kind = QP_OPTION_NUMBER,
                                     .fallback = 0.1,
                                     .low = 1e-6,
                                     .high = 1e3,
                                     .help = "time between positions"},
                                    {0}};

static void forget(void *thing) {
    qp_drop(((known *)thing)->places);
    free(thing);
}

static void init(void *self, qp_build *b) {
    floater          *p = self;
    int64_t           inner = qp_setting_int(b, "width");
    qp_linear_options linear = {.bias = true, .init = b->init};
    if (!inner) inner = b->width;
    p->most = b->max_positions;
    p->module = b->module;
    p->known = calloc(1, sizeof *p->known);
    if (!p->known) qp_fail(b->ctx, QP_ERR_MEMORY, "out of memory: floater");
    else if (qp_module_own(b->module, p->known, forget) != QP_OK) return;
    p->dt = qp_setting(b, "dt");
    p->start = qp_param(b->module, "start", b->init, 2, (int64_t[]){1, b->width});
    p->time = qp_param(b->module, "time", "normal:0.02", 1, &inner);
    p->in = qp_nn_linear_new(b->module, "in", b->width, inner, linear);
    p->out = qp_nn_linear_new(b->module, "out", inner, b->width, linear);
}

static qp_tensor slope(const floater *f, double t, qp_tensor p) {
    qp_tensor inner = qp_nn_linear_forward(f->in, p, QP_ACT_NONE, QP_NONE);
    inner = qp_tanh(qp_add(inner, qp_affine(qp_cast(f->time, qp_dtype_of(p)), t, 0)));
    return qp_nn_linear_forward(f->out, inner, QP_ACT_NONE, QP_NONE);
}

static qp_tensor next(const floater *f, double t, qp_tensor p) {
    double    h = f->dt;
    qp_tensor a = slope(f, t, p), b = slope(f, t + h / 2, qp_add(p, qp_affine(a, h / 2, 0)));
    qp_tensor c = slope(f, t + h / 2, qp_add(p, qp_affine(b, h / 2, 0))),
              d = slope(f, t + h, qp_add(p, qp_affine(c, h, 0)));
    return qp_add(p, qp_affine(qp_add(qp_add(a, d), qp_affine(qp_add(b, c), 2, 0)), h / 6, 0));
}

/* Places from..n-1 [n - from, D]; before: place from - 1. */
static qp_tensor flow(const floater *f, int64_t from, int64_t count, qp_tensor before, qp_dtype type) {
    qp_ctx    *ctx = f->start.ctx;
    int64_t    n = count - from;
    qp_tensor *p = malloc((size_t)n * sizeof *p), all;
    if (!p) return qp_fail(ctx, QP_ERR_MEMORY, "out of memory: %lld positions", (long long)n), qpi_poison(ctx);
    p[0] = from ? next(f, (double)(from - 1) * f->dt, before) : qp_cast(f->start, type);
    for (int64_t i = 1; i < n; i++) p[i] = next(f, (double)(from + i - 1) * f->dt, p[i - 1]);
    for (int64_t left = n; left > 1; left = (left + PARTS - 1) / PARTS)
        for (int64_t i = 0; i * PARTS < left; i++)
            p[i] = qp_concat((int)(left - i * PARTS < PARTS ? left - i * PARTS : PARTS), p + i * PARTS, 0);
    all = p[0];
    free(p);
    return all;
}

/* Room for n places at least, with those that are known. */
static void make_room(const floater *f, int64_t n, qp_dtype type) {
    known  *k = f->known;
    qp_ctx *ctx = f->start.ctx;
    int64_t room = qp_is_none(k->places) ? 0 : qp_size(k->places, 0), more = 2 * n < f->most ? 2 * n : f->most;
    if (room >= n && qp_dtype_of(k->places) == type) return;
    qp_tensor places = qp_empty(ctx, type, 2, (int64_t[]){more, qp_size(f->start, 1)});
    if (room && qp_dtype_of(k->places) != type) k->count = 0;
    if (k->count) qp_copy_to(qp_slice(places, 0, 0, k->count, 1), qp_slice(k->places, 0, 0, k->count, 1));
    if (qp_failed(ctx)) return;
    qp_drop(k->places);
    k->places = qp_keep(places);
}

/* The first n places [n, D] or more. */
static qp_tensor known_flow(const floater *f, int64_t n, qp_dtype type) {
    known   *k = f->known;
    uint64_t stamp = qpi_module_stamp(f->module) + (uint64_t)f->start.ctx->mode.autocast;
    qp_scope s = qp_enter(f->start.ctx);
    if (k->stamp != stamp) k->count = 0;
    k->stamp = stamp;
    make_room(f, n, type);
    if (!qp_failed(s.ctx) && k->count < n) {
        qp_tensor before = k->count ? qp_slice(k->places, 0, k->count - 1, k->count, 1) : QP_NONE;
        if (qp_copy_to(qp_slice(k->places, 0, k->count, n, 1), flow(f, k->count, n, before, type)) == QP_OK)
            k->count = n;
    }
    qp_leave(s);
    return qp_failed(s.ctx) ? qpi_poison(s.ctx) : k->places;
}

static qp_tensor embed(void *self, qp_tensor x, const qp_sequence *s) {
    floater *f = self;
    qp_dtype type = qp_dtype_of(x);
    if (s->length <= f->most && s->length > 0) {
        bool step = !qp_is_none(s->counts);
        return qp_add(x,
                      qp_embedding(step ? known_flow(f, s->length, type) : flow(f, 0, s->length, QP_NONE, type),
                                   s->positions));
    }
    if (s->length <= 0) return x;
    qp_fail(x.ctx, QP_ERR_ARGUMENT, "positions: %lld positions, the model has %lld", (long long)s->length,
            (long long)f->most);
    return qpi_poison(x.ctx);
}

QP_POSITION(floater) = {.part = {.name = "floater",
                                 .source = "arXiv:2003.09229",
                                 .help = "positions along a learned flow, added to the input",
                                 .options = options,
                                 .bytes = sizeof(floater)},
                        .shared = true,
                        .init = init,
                        .embed = embed};
