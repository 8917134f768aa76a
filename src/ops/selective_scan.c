/* The selective scan (Gu and Dao 2023, arXiv:2312.00752, section 3.3): for each channel d and state n
 *
 *   h_t = a_t h_(t-1) + delta_t u_t B_t,   a_t = exp(-delta_t rate),   y_t = sum over n of C_t h_t + skip u_t
 *
 * Lanes are channels, states of a few n stay in registers, time is the innermost loop. For backward
 * (selective_scan_grad.c) the states before each CHUNK of positions are kept. */
#include "ops/selective_scan.h"

#define PIECE 12288 /* states worth claiming */
#define AHEAD \
    (2 * \
     VF_LANES) /* channels whose rates and states are fetched: of a single position nothing else takes time */

/* n states from n on, of h: rows of D channels. */
INLINE void scan_states(span *s, const float *rate, int64_t rate_row, float *h, int64_t n, const int count) {
    vf a[BLOCK], x[BLOCK];
#pragma GCC unroll 8
    for (int k = 0; k < count; k++) {
        a[k] = vf_load_n(rate + (n + k) * rate_row, s->m) * -LOG2E;
        x[k] = vf_load_n(h + (n + k) * s->D, s->m);
        __builtin_prefetch(rate + (n + k) * rate_row + AHEAD, 0, 2);
        __builtin_prefetch(h + (n + k) * s->D + AHEAD, 1, 2);
    }
    for (int t = 0; t < s->count; t++) {
        const float *B = s->B + t * s->b_row + n, *C = s->C + t * s->c_row + n;
        vf           delta = vf_load(s->delta[t]), du = vf_load(s->du[t]), y = vf_load(s->y[t]);
        if (n == 0) fetch(s, 0, t), fetch(s, 1, t), fetch_out(s, 0, t);
#pragma GCC unroll 8
        for (int k = 0; k < count; k++) {
            x[k] = vf_fma(vf_exp2(delta * a[k]), x[k], du * B[k]);
            y = vf_fma(x[k], vf_set1(C[k]), y);
        }
        vf_store(s->y[t], y);
    }
#pragma GCC unroll 8
    for (int k = 0; k < count; k++) vf_store_n(h + (n + k) * s->D, x[k], s->m);
}

/* A chunk of VF_LANES channels; their state in `last`. */
static void scan_lanes(const qp_call *c, const sizes *z, int64_t b, int64_t chunk, int64_t d) {
    const qp_view *rate = &c->in[RATE];
    const float   *r = (const float *)rate->data + d;
    float         *h = (float *)c->out[LAST].data + b * z->N * z->D + d, *kept = c->out[KEPT].data;
    int64_t        n = 0, t = chunk * CHUNK;
    span           s;
    open_span(&s, z, c->in, b, t, d, CHUNK);
    s.out[0] = row3(&c->out[Y], b, t) + d;
    vf skip = skip_of(given(c, SKIP), d, s.m);
    for (int j = 0; j < s.count; j++) vf_store(s.y[j], skip * vf_load(s.u[j]));
    for (int64_t k = 0; k < z->N && ((const attr *)c->attr)->keep; k++)
        vf_store_n(kept + ((b * z->chunks + chunk) * z->N + k) * z->D + d, vf_load_n(h + k * z->D, s.m), s.m);
    for (; n + BLOCK <= z->N; n += BLOCK) scan_states(&s, r, rate->stride[0], h, n, BLOCK);
    for (; n < z->N; n++) scan_states(&s, r, rate->stride[0], h, n, 1);
    for (int j = 0; j < s.count; j++)
        vf_store_n((float *)c->out[Y].data + (b * z->T + t + j) * z->D + d, vf_load(s.y[j]), s.m);
}

/* The state to start from. */
static void begin(const qp_call *c, const sizes *z, int64_t b, int64_t d, int64_t end) {
    const qp_view *state = given(c, STATE);
    float         *h = (float *)c->out[LAST].data + b * z->N * z->D;
    for (int64_t n = 0; n < z->N; n++) {
        if (state) memcpy(h + n * z->D + d, row3(state, b, n) + d, (size_t)(end - d) * sizeof *h);
        else memset(h + n * z->D + d, 0, (size_t)(end - d) * sizeof *h);
    }
}

typedef struct {
    const qp_call *c;
    sizes          z;
    int64_t        unit, units; /* channels of a piece, pieces of a sequence */
} job;

static void run_piece(void *arg, int64_t first, int64_t end, int worker) {
    const job *j = arg;
    (void)worker;
    for (int64_t i = first; i < end; i++) {
        int64_t b = i / j->units, d = i % j->units * j->unit,
                stop = d + j->unit < j->z.D ? d + j->unit : j->z.D;
        begin(j->c, &j->z, b, d, stop);
        for (int64_t chunk = 0; chunk < j->z.chunks; chunk++)
            for (int64_t k = d; k < stop; k += VF_LANES) scan_lanes(j->c, &j->z, b, chunk, k);
    }
}

static void run(const qp_call *c) {
    job j = {.c = c, .z = sizes_of(&c->in[U], &c->in[RATE])};
    j.unit = j.z.D < 8 * CHANNELS ? MOST_LANES : CHANNELS; /* rows are long: more of each at once */
    j.units = (j.z.D + j.unit - 1) / j.unit;
    if (j.z.T > 0 && j.z.D > 0)
        qp_parallel(c->exec, j.z.B * j.units, 1 + PIECE / (j.unit * j.z.T * (j.z.N + 1)), run_piece, &j);
    else if (j.z.D > 0)
        for (int64_t b = 0; b < j.z.B; b++) begin(c, &j.z, b, 0, j.z.D);
}

QP_KERNEL(selective_scan) = {run, QP_ROWS, NULL};

#if QP_BODY
#include "ops/recording.h"
#include "ops/shape.h"

extern const qp_op qp_op_selective_scan_grad;

static bool is(const qp_view *v, int ndim, int64_t x, int64_t y, int64_t z) {
    int64_t size[] = {x, y, z};
    bool    same = v->ndim == ndim;
    for (int i = 0; i < ndim && same; i++) same = v->shape[i] == size[i];
    return same;
}

bool scan_inputs_fit(const qp_call *c, int first) {
    static const char *const names[] = {"u", "delta", "rate", "B", "C", "skip", "state"};
    static const char *const shapes[] = {"[B, T, D]", "[B, T, D]", "[N, D]",   "[B, T, N]",
                                         "[B, T, N]", "[D]",       "[B, N, D]"};
    const qp_view           *in = c->in + first;
    if (in[U].ndim != 3 || in[RATE].ndim != 2)
        return qp_call_fail(c, QP_ERR_SHAPE, "u has %d axes and rate %d: expected [B, T, D] and [N, D]",
                            in[U].ndim, in[RATE].ndim),
               false;
    int64_t B = in[U].shape[0], T = in[U].shape[1], D = in[U].shape[2], N = in[RATE].shape[0];
    for (int i = 0; i <= STATE && first + i < c->nin; i++) { /* of the gradient, too, the last is a state's */
        bool ok = i == RATE   ? is(&in[i], 2, N, D, 0)
                  : i < B_IN  ? is(&in[i], 3, B, T, D)
                  : i < SKIP  ? is(&in[i], 3, B, T, N)
                  : i == SKIP ? is(&in[i], 1, D, 0, 0)
                              : is(&in[i], 3, B, N, D);
        char text[96];
        if ((ok && in[i].dtype == in[U].dtype && qp_dtype_is_float(in[i].dtype)) ||
            (i >= SKIP && !given(c, first + i)))
            continue;
        qpi_view_describe(&in[i], text, sizeof text);
        qp_call_fail(c, ok ? QP_ERR_TYPE : QP_ERR_SHAPE, "%s is %s: expected %s of one floating type", names[i],
                     text, shapes[i]);
        return false;
    }
    return true;
}

static void shape(qp_call *c) {
    if (!scan_inputs_fit(c, U)) return;
    const qp_view *u = &c->in[U];
    sizes          z = sizes_of(u, &c->in[RATE]);
    if (!shape_set(c, Y, u->dtype, 3, u->shape) || !shape_set(c, LAST, u->dtype, 3, (int64_t[]){z.B, z.N, z.D}))
        return;
    shape_set(c, KEPT, u->dtype, 4, (int64_t[]){z.B, ((const attr *)c->attr)->keep ? z.chunks : 0, z.N, z.D});
}

static void plain(const qp_call *c) {
    const qp_view *in = c->in, *skip = given(c, SKIP), *state = given(c, STATE);
    sizes          z = sizes_of(&in[U], &in[RATE]);
    bool           keep = ((const attr *)c->attr)->keep;
    for (int64_t i = 0; i < z.B * z.T * z.D; i++)
        qp_store(&c->out[Y], i,
                 skip ? qp_load(skip, i % z.D * skip->stride[0]) *
                            at3(&in[U], i / z.D / z.T, i / z.D % z.T, i % z.D)
                      : 0);
    for (int64_t i = 0; i < z.B * z.N * z.D; i++) {
        int64_t d = i % z.D, n = i / z.D % z.N, b = i / z.D / z.N;
        double  h = state ? at3(state, b, n, d) : 0, rate = rate_at(&in[RATE], n, d);
        for (int64_t t = 0; t < z.T; t++) {
            double delta = at3(&in[DELTA], b, t, d);
            if (keep && t % CHUNK == 0)
                qp_store(&c->out[KEPT], ((b * z.chunks + t / CHUNK) * z.N + n) * z.D + d, h);
            h = exp(-delta * rate) * h + delta * at3(&in[U], b, t, d) * at3(&in[B_IN], b, t, n);
            add_at(&c->out[Y], (b * z.T + t) * z.D + d, at3(&in[C_IN], b, t, n) * h);
        }
        qp_store(&c->out[LAST], i, h);
    }
}

/* Instructions for a vector of states, without loads and stores: 9 for 2^x, and delta a, du B, h, y. Each could do a
 * multiply-add, so that is what it counts for. */
#define INSTRUCTIONS 13.0

static double flops(const qp_call *c) {
    sizes z = sizes_of(&c->in[U], &c->in[RATE]);
    return 2 * INSTRUCTIONS * (double)(z.B * z.T * z.D) * (double)z.N;
}

static void backward(qp_rule *r) {
    qp_tensor in[G_LAST + 1] = {[G_DY] = r->dout[Y], [G_KEPT] = r->out[KEPT], [G_LAST] = r->dout[LAST]},
                          out[STATE + 1];
    if (qp_is_none(in[G_DY]))
        in[G_DY] = qp_zeros(r->ctx, qp_dtype_of(r->in[U]), 3,
                            (int64_t[]){qp_size(r->in[U], 0), qp_size(r->in[U], 1), qp_size(r->in[U], 2)});
    for (int i = U; i <= SKIP; i++) in[G_FIRST + i] = i < r->nin ? r->in[i] : QP_NONE;
    qp_apply_many(&qp_op_selective_scan_grad, G_LAST + 1, in, NULL, out);
    for (int i = 0; i < r->nin; i++)
        if (r->need[i]) r->din[i] = out[i];
}

static const attr      keeping = {true};
static const qp_sample samples[] = {
    {.in = "x[2,5,3] u[2,5,3] p[4,3] x[2,5,4] x[2,5,4]", .attr = &keeping},
    {.in = "x[2,3,5] u[2,3,5] p[1,5] x[2,3,1] x[2,3,1] x[5] x[2,1,5]", .attr = &keeping},
    {.in = "x[1,70,37] u[1,70,37] p[9,37] x[1,70,9] x[1,70,9] x[37] x[1,9,37]",
     .attr = &keeping,
     .tolerance = 5e-6},
    {.in = "x[2,33,130] u[2,33,130] p[16,130] x[2,33,16] x[2,33,16] x[130]",
     .attr = &keeping,
     .tolerance = 5e-6},
    {.in = "x[3,1,20] u[3,1,20] p[16,20] x[3,1,16] x[3,1,16] - x[3,16,20]", .no_grad = true},
    {.in = "x[1,0,4] u[1,0,4] p[2,4] x[1,0,2] x[1,0,2] x[4] x[1,2,4]", .attr = &keeping},
    {0}};

QP_OP(selective_scan) = {.name = "selective_scan",
                         .source = "arXiv:2312.00752",
                         .min_in = 5,
                         .max_in = 7,
                         .nout = 3,
                         .attr_bytes = sizeof(attr),
                         .saves = QP_SAVE_IN(U) | QP_SAVE_IN(DELTA) | QP_SAVE_IN(RATE) | QP_SAVE_IN(B_IN) |
                                  QP_SAVE_IN(C_IN) | QP_SAVE_IN(SKIP) | QP_SAVE_OUT(KEPT),
                         .hidden = QP_SAVE_OUT(KEPT),
                         .shape = shape,
                         .plain = plain,
                         .backward = backward,
                         .flops = flops,
                         .samples = samples};

qp_tensor qp_selective_scan(qp_tensor u, qp_tensor delta, qp_tensor rate, qp_tensor B, qp_tensor C,
                            qp_tensor skip, qp_tensor state, qp_tensor *last) {
    qp_tensor in[] = {u, delta, rate, B, C, skip, state}, out[3];
    qp_apply_many(&qp_op_selective_scan, 7, in, &(attr){recording(u.ctx, 7, in)}, out);
    qp_drop(out[KEPT]);
    if (last) *last = out[LAST];
    else qp_drop(out[LAST]);
    return out[Y];
}
#endif
