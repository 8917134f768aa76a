/* What the selective scan and its gradient share: chunks of positions, some channels side by side. */
#ifndef QUIPU_OPS_SELECTIVE_SCAN_H
#define QUIPU_OPS_SELECTIVE_SCAN_H

#include "ops/op.h"

#define CHUNK 32
#define BLOCK (VF_LANES == 4 ? 4 : 8) /* states in registers */
#define CHANNELS 128                  /* of a piece of work, or an eighth of all */
#define MOST_LANES 16
#define LOG2E 1.44269504f
#define LN2 0.69314718f
#define INLINE static inline __attribute__((always_inline))

typedef struct {
    bool keep; /* the states before each chunk, for backward */
} attr;

enum { U, DELTA, RATE, B_IN, C_IN, SKIP, STATE };
enum { Y, LAST, KEPT };
/* Inputs of the gradient: from G_FIRST on those of the scan, in place of its state the last one's gradient. */
enum { G_DY, G_KEPT, G_FIRST, G_LAST = G_FIRST + STATE };

typedef struct {
    int64_t B, T, D, N, chunks, group; /* group: channels of a piece */
} sizes;

static inline sizes sizes_of(const qp_view *u, const qp_view *rate) {
    sizes s = {.B = u->shape[0], .T = u->shape[1], .D = u->shape[2], .N = rate->shape[0]};
    s.chunks = (s.T + CHUNK - 1) / CHUNK;
    s.group = (s.D + 7) / 8;
    s.group = (s.group + MOST_LANES - 1) / MOST_LANES * MOST_LANES;
    if (s.group < CHANNELS) s.group = CHANNELS;
    return s;
}
static inline float *row3(const qp_view *v, int64_t b, int64_t t) {
    return (float *)v->data + b * v->stride[0] + t * v->stride[1];
}

/* Input i, NULL where it is absent. */
static inline const qp_view *given(const qp_call *c, int i) {
    return i < c->nin && c->in[i].ndim >= 0 ? &c->in[i] : NULL;
}

/* A chunk of some lanes: what lies far apart, side by side. */
typedef float lanes[CHUNK][VF_LANES];
typedef struct {
    int          count, m; /* positions, channels */
    int          ahead;    /* rows from here to the next chunk that there is */
    const float *B, *C;    /* of the first position */
    int64_t      b_row, c_row, D;
    lanes        delta, du, u, y; /* du: delta u; y: of the gradient dy */
    struct {
        const float *row;
        int64_t      stride;
    } soon[3];     /* where the next delta, u and dy lie */
    float *out[2]; /* where its rows of D go: y; of the gradient du, ddelta */
} span;

INLINE void take(lanes to, span *s, int i, const float *from, int64_t stride) {
    for (int t = 0; t < s->count; t++) vf_store(to[t], vf_load_n(from + t * stride, s->m));
    s->soon[i].row = from + s->ahead * stride;
    s->soon[i].stride = stride;
}

/* What will be taken next is on its way while this chunk is worked on: a row with each position, since too many at once
 * would be waited for. */
INLINE void fetch(const span *s, int i, int t) {
    __builtin_prefetch(s->soon[i].row + t * s->soon[i].stride, 0, 2);
}

/* The same for what is written, with the positions that it is of. */
INLINE void fetch_out(const span *s, int i, int t) { __builtin_prefetch(s->out[i] + t * s->D, 1, 2); }

/* The chunk at t of channels d, d + 1, .. */
INLINE void open_span(span *s, const sizes *z, const qp_view *in, int64_t b, int64_t t, int64_t d, int step) {
    s->count = z->T - t < CHUNK ? (int)(z->T - t) : CHUNK;
    s->ahead = t + step >= 0 && t + step < z->T ? step : 0;
    s->m = z->D - d < VF_LANES ? (int)(z->D - d) : VF_LANES;
    s->D = z->D;
    s->B = row3(&in[B_IN], b, t);
    s->C = row3(&in[C_IN], b, t);
    s->b_row = in[B_IN].stride[1];
    s->c_row = in[C_IN].stride[1];
    take(s->delta, s, 0, row3(&in[DELTA], b, t) + d, in[DELTA].stride[1]);
    take(s->u, s, 1, row3(&in[U], b, t) + d, in[U].stride[1]);
    for (int i = 0; i < s->count; i++) vf_store(s->du[i], vf_load(s->delta[i]) * vf_load(s->u[i]));
}

/* skip of these channels */
INLINE vf skip_of(const qp_view *skip, int64_t d, int m) {
    return skip ? vf_load_n((const float *)skip->data + d, m) : (vf){0};
}

#if QP_BODY
/* Are the inputs of a scan what they must be? `first`: where they begin. False after storing an error. */
bool scan_inputs_fit(const qp_call *c, int first);

/* Element [i, j, k] of a view of three axes. */
static inline double at3(const qp_view *v, int64_t i, int64_t j, int64_t k) {
    return qp_load(v, i * v->stride[0] + j * v->stride[1] + k * v->stride[2]);
}
static inline double rate_at(const qp_view *v, int64_t n, int64_t d) {
    return qp_load(v, n * v->stride[0] + d * v->stride[1]);
}
static inline void add_at(const qp_view *v, int64_t i, double x) { qp_store(v, i, qp_load(v, i) + x); }
#endif
#endif
