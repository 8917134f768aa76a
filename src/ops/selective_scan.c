/* The selective scan (Gu and Dao 2023, arXiv:2312.00752, section 3.3): for each channel d and state n
 *
 *   h_t = a_t h_(t-1) + delta_t u_t B_t,   a_t = exp(-delta_t rate),   y_t = sum over n of C_t h_t + skip u_t
 *
 * With g_t = dy_t C_t + a_(t+1) g_(t+1), the gradient of h_t (from the end: that of the last state):
 *
 *   dC_t = sum over d of dy_t h_t          du_t = delta_t sum over n of g_t B_t + skip dy_t
 *   dB_t = sum over d of g_t delta_t u_t   ddelta_t = sum over n of g_t (u_t B_t - rate a_t h_(t-1))
 *   drate = -sum over t of delta_t g_t a_t h_(t-1)    dskip = sum over t of dy_t u_t
 *
 * Lanes are channels, states of a few n stay in registers, time is the innermost loop. For backward the states
 * before each CHUNK of positions are kept; the others are made again, a chunk at a time. */
#include "kernels/turn.h"
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

static sizes sizes_of(const qp_view *u, const qp_view *rate) {
    sizes s = {.B = u->shape[0], .T = u->shape[1], .D = u->shape[2], .N = rate->shape[0]};
    s.chunks = (s.T + CHUNK - 1) / CHUNK;
    s.group = (s.D + 7) / 8;
    s.group = (s.group + MOST_LANES - 1) / MOST_LANES * MOST_LANES;
    if (s.group < CHANNELS) s.group = CHANNELS;
    return s;
}
static int64_t groups_of(const sizes *s) { return (s->D + s->group - 1) / s->group; }

static float *row3(const qp_view *v, int64_t b, int64_t t) {
    return (float *)v->data + b * v->stride[0] + t * v->stride[1];
}

/* Input i, NULL where it is absent. */
static const qp_view *given(const qp_call *c, int i) {
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
} span;

/* What will be taken next, `ahead` rows from here, is on its way while these are worked on. */
INLINE void take(lanes to, const span *s, const float *from, int64_t stride) {
    for (int t = 0; t < s->count; t++) {
        __builtin_prefetch(from + (t + s->ahead) * stride);
        vf_store(to[t], vf_load_n(from + t * stride, s->m));
    }
}

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
    take(s->delta, s, row3(&in[DELTA], b, t) + d, in[DELTA].stride[1]);
    take(s->u, s, row3(&in[U], b, t) + d, in[U].stride[1]);
    for (int i = 0; i < s->count; i++) vf_store(s->du[i], vf_load(s->delta[i]) * vf_load(s->u[i]));
}

/* skip of these channels */
INLINE vf skip_of(const qp_view *skip, int64_t d, int m) {
    return skip ? vf_load_n((const float *)skip->data + d, m) : (vf){0};
}

/* ---- Forward --------------------------------------------------------------------------------------- */

/* n states from n on, of h: rows of D channels. */
INLINE void scan_states(span *s, const float *rate, int64_t rate_row, float *h, int64_t n, const int count) {
    vf a[BLOCK], x[BLOCK];
#pragma GCC unroll 8
    for (int k = 0; k < count; k++) {
        a[k] = vf_load_n(rate + (n + k) * rate_row, s->m) * -LOG2E;
        x[k] = vf_load_n(h + (n + k) * s->D, s->m);
    }
    for (int t = 0; t < s->count; t++) {
        const float *B = s->B + t * s->b_row + n, *C = s->C + t * s->c_row + n;
        vf           delta = vf_load(s->delta[t]), du = vf_load(s->du[t]), y = vf_load(s->y[t]);
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
    float         *sums;        /* of the gradient: scratch */
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
        qp_parallel(c->exec, j.z.B * j.units, 1 + 2048 / (j.z.T * (j.z.N + 1)), run_piece, &j);
    else if (j.z.D > 0)
        for (int64_t b = 0; b < j.z.B; b++) begin(c, &j.z, b, 0, j.z.D);
}

QP_KERNEL(selective_scan) = {run, QP_ROWS, NULL};

/* ---- Gradient ----------------------------------------------------------------------------------------- */

/* What a worker needs, in floats: of a chunk sums for dB and dC by lane, a_t and a_t h_(t-1) of a block of
 * states, and of its channels the gradient of the state and drate. */
typedef struct {
    float *dB, *dC, *a, *s, *g, *drate;
} room;

static int64_t chunk_floats(const sizes *z) { return CHUNK * (z->N + 1) * MOST_LANES; }
static int64_t room_floats(const sizes *z) {
    return 2 * chunk_floats(z) + 2 * CHUNK * 8 * MOST_LANES + 2 * z->N * z->group;
}
static room room_at(float *p, const sizes *z) {
    room r = {.dB = p, .dC = p + chunk_floats(z)};
    r.a = r.dC + chunk_floats(z);
    r.s = r.a + CHUNK * 8 * MOST_LANES;
    r.g = r.s + CHUNK * 8 * MOST_LANES;
    r.drate = r.g + z->N * z->group;
    return r;
}

/* Scratch: dB and dC of each group of channels; drate and dskip of each sequence; then rooms. */
static int64_t of_groups(const sizes *z) { return groups_of(z) * z->B * z->T * z->N; }
static int64_t of_sequences(const sizes *z) { return z->B * (z->N + 1) * z->D; }
static int64_t up(int64_t n) { return (n + 15) / 16 * 16; }

/* Sums over n of g B and of -rate log2(e) g a h, by position. */
typedef struct {
    lanes gb, ga;
} n_sums;

/* States n .. of a chunk: again from those before it, then back. */
INLINE void grad_states(const span *s, const room *r, const float *rate, int64_t rate_row, const float *kept,
                        int64_t kept_row, int64_t N, int64_t n, n_sums *sums, const int count) {
    vf     a[BLOCK], x[BLOCK], dr[BLOCK];
    float *g = r->g + n * VF_LANES, *drate = r->drate + n * VF_LANES;
#pragma GCC unroll 8
    for (int k = 0; k < count; k++) {
        a[k] = vf_load_n(rate + (n + k) * rate_row, s->m) * -LOG2E;
        x[k] = vf_load_n(kept + (n + k) * kept_row, s->m);
    }
    for (int t = 0; t < s->count; t++) {
        const float *B = s->B + t * s->b_row + n;
        vf           delta = vf_load(s->delta[t]), du = vf_load(s->du[t]);
#pragma GCC unroll 8
        for (int k = 0; k < count; k++) {
            vf e = vf_exp2(delta * a[k]), before = e * x[k];
            vf_store(r->a + (t * count + k) * VF_LANES, e);
            vf_store(r->s + (t * count + k) * VF_LANES, before);
            x[k] = vf_fma(du, vf_set1(B[k]), before);
        }
    }
#pragma GCC unroll 8
    for (int k = 0; k < count; k++) {
        x[k] = vf_load(g + k * VF_LANES);
        dr[k] = vf_load(drate + k * VF_LANES);
    }
    for (int t = s->count - 1; t >= 0; t--) {
        const float *B = s->B + t * s->b_row + n, *C = s->C + t * s->c_row + n;
        float       *dB = r->dB + (t * N + n) * VF_LANES, *dC = r->dC + (t * N + n) * VF_LANES;
        vf           delta = vf_load(s->delta[t]), du = vf_load(s->du[t]), dy = vf_load(s->y[t]);
        vf           gb = vf_load(sums->gb[t]), ga = vf_load(sums->ga[t]);
#pragma GCC unroll 8
        for (int k = 0; k < count; k++) {
            vf before = vf_load(r->s + (t * count + k) * VF_LANES), b = vf_set1(B[k]);
            vf h = vf_fma(du, b, before), grad = vf_fma(dy, vf_set1(C[k]), x[k]), q = grad * before;
            vf_store(dC + k * VF_LANES, vf_fma(dy, h, vf_load(dC + k * VF_LANES)));
            vf_store(dB + k * VF_LANES, vf_fma(du, grad, vf_load(dB + k * VF_LANES)));
            gb = vf_fma(grad, b, gb);
            ga = vf_fma(q, a[k], ga);
            dr[k] = vf_fma(q, delta, dr[k]);
            x[k] = grad * vf_load(r->a + (t * count + k) * VF_LANES);
        }
        vf_store(sums->gb[t], gb);
        vf_store(sums->ga[t], ga);
    }
#pragma GCC unroll 8
    for (int k = 0; k < count; k++) {
        vf_store(g + k * VF_LANES, x[k]);
        vf_store(drate + k * VF_LANES, dr[k]);
    }
}

/* A chunk of VF_LANES channels: du, ddelta; the rest is added to the room's sums and to dskip. */
static void grad_lanes(const qp_call *c, const sizes *z, room r, int64_t b, int64_t chunk, int64_t d,
                       float *dskip) {
    const qp_view *in = c->in + G_FIRST, *rate = &in[RATE];
    const float   *rates = (const float *)rate->data + d;
    const float   *kept = row3(&c->in[G_KEPT], b, chunk) + d;
    int64_t        n = 0, t = chunk * CHUNK, kept_row = c->in[G_KEPT].stride[2];
    span           s;
    n_sums         sums = {{{0}}, {{0}}};
    open_span(&s, z, in, b, t, d, -CHUNK);
    take(s.y, &s, row3(&c->in[G_DY], b, t) + d, c->in[G_DY].stride[1]);
    for (; n + BLOCK <= z->N; n += BLOCK)
        grad_states(&s, &r, rates, rate->stride[0], kept, kept_row, z->N, n, &sums, BLOCK);
    for (; n < z->N; n++) grad_states(&s, &r, rates, rate->stride[0], kept, kept_row, z->N, n, &sums, 1);
    vf skip = skip_of(given(c, G_FIRST + SKIP), d, s.m), ds = vf_load_n(dskip + d, s.m);
    for (int j = s.count - 1; j >= 0; j--) {
        int64_t at = (b * z->T + t + j) * z->D + d;
        vf      u = vf_load(s.u[j]), dy = vf_load(s.y[j]), gb = vf_load(sums.gb[j]);
        vf_store_n((float *)c->out[U].data + at, vf_fma(vf_load(s.delta[j]), gb, skip * dy), s.m);
        vf_store_n((float *)c->out[DELTA].data + at, vf_fma(u, gb, vf_load(sums.ga[j]) * LN2), s.m);
        ds = vf_fma(dy, u, ds);
    }
    vf_store_n(dskip + d, ds, s.m);
}

/* The sums over lanes of `count` vectors, whose room ends on a whole square. */
static void fold(const float *from, int64_t count, float *to) {
    for (int64_t i = 0; i < count; i += VF_LANES) {
        vf x[VF_LANES];
        for (int k = 0; k < VF_LANES; k++) x[k] = vf_load(from + (i + k) * VF_LANES);
        turn(x);
        for (int k = 1; k < VF_LANES; k++) x[0] += x[k];
        vf_store_n(to + i, x[0], count - i < VF_LANES ? (int)(count - i) : VF_LANES);
    }
}

static void grad_piece(void *arg, int64_t first, int64_t end, int worker) {
    const job     *j = arg;
    const sizes   *z = &j->z;
    const qp_view *last = given(j->c, G_LAST);
    float         *dBC = j->sums, *of_b = dBC + up(2 * of_groups(z)), *rooms = of_b + up(of_sequences(z));
    room           r = room_at(rooms + worker * up(room_floats(z)), z);
    for (int64_t i = first; i < end; i++) {
        int64_t b = i / j->units, group = i % j->units, d0 = group * j->unit,
                d1 = d0 + j->unit < z->D ? d0 + j->unit : z->D;
        float  *drate = of_b + b * (z->N + 1) * z->D, *dskip = drate + z->N * z->D;
        float  *dB = dBC + (group * z->B + b) * z->T * z->N, *dC = dB + of_groups(z);
        memset(r.drate, 0, (size_t)(z->N * z->group) * sizeof(float));
        memset(dskip + d0, 0, (size_t)(d1 - d0) * sizeof(float));
        for (int64_t d = d0; d < d1; d += VF_LANES)
            for (int64_t n = 0; n < z->N; n++) {
                int m = d1 - d < VF_LANES ? (int)(d1 - d) : VF_LANES;
                vf  g = last ? vf_load_n(row3(last, b, n) + d, m) : (vf){0};
                vf_store(r.g + (d - d0) * z->N + n * VF_LANES, g);
            }
        for (int64_t chunk = z->chunks - 1; chunk >= 0; chunk--) {
            int64_t t = chunk * CHUNK, count = (z->T - t < CHUNK ? z->T - t : CHUNK) * z->N;
            memset(r.dB, 0, (size_t)(2 * chunk_floats(z)) * sizeof(float));
            for (int64_t d = d0; d < d1; d += VF_LANES) {
                room own = r;
                own.g += (d - d0) * z->N;
                own.drate += (d - d0) * z->N;
                grad_lanes(j->c, z, own, b, chunk, d, dskip);
            }
            fold(r.dB, count, dB + t * z->N);
            fold(r.dC, count, dC + t * z->N);
        }
        for (int64_t d = d0; d < d1; d += VF_LANES)
            for (int64_t n = 0; n < z->N; n++) {
                int     m = d1 - d < VF_LANES ? (int)(d1 - d) : VF_LANES;
                int64_t at = (d - d0) * z->N + n * VF_LANES;
                vf_store_n(drate + n * z->D + d, -vf_load(r.drate + at), m);
                vf_store_n((float *)j->c->out[STATE].data + (b * z->N + n) * z->D + d, vf_load(r.g + at), m);
            }
    }
}

/* to[i] = the sum over `parts` of from[part * stride + i] */
typedef struct {
    float       *to;
    const float *from;
    int64_t      parts, stride;
} addition;

static void add_piece(void *arg, int64_t begin, int64_t end, int worker) {
    const addition *a = arg;
    (void)worker;
    for (int64_t i = begin; i < end; i += VF_LANES) {
        int m = end - i < VF_LANES ? (int)(end - i) : VF_LANES;
        vf  sum = {0};
        for (int64_t p = 0; p < a->parts; p++) sum += vf_load_n(a->from + p * a->stride + i, m);
        vf_store_n(a->to + i, sum, m);
    }
}

static void add_up(const qp_exec *exec, void *to, int64_t count, const float *from, int64_t parts,
                   int64_t stride) {
    qp_parallel(exec, count, 4096, add_piece, &(addition){to, from, parts, stride});
}

static void grad_run(const qp_call *c) {
    job     j = {.c = c, .z = sizes_of(&c->in[G_FIRST + U], &c->in[G_FIRST + RATE]), .sums = c->exec->scratch};
    sizes  *z = &j.z;
    int64_t rows = z->B * z->T * z->N, groups = groups_of(z);
    float  *of_b = j.sums + up(2 * of_groups(z));
    j.unit = z->group;
    j.units = groups;
    qp_parallel(c->exec, z->B * groups, 1, grad_piece, &j);
    add_up(c->exec, c->out[B_IN].data, rows, j.sums, groups, rows);
    add_up(c->exec, c->out[C_IN].data, rows, j.sums + of_groups(z), groups, rows);
    add_up(c->exec, c->out[RATE].data, z->N * z->D, of_b, z->B, (z->N + 1) * z->D);
    if (qp_view_count(&c->out[SKIP]))
        add_up(c->exec, c->out[SKIP].data, z->D, of_b + z->N * z->D, z->B, (z->N + 1) * z->D);
}

QP_KERNEL(selective_scan_grad) = {grad_run, QP_ROWS, NULL};

#if QP_BODY
#include "ops/recording.h"
#include "ops/shape.h"

static bool is(const qp_view *v, int ndim, int64_t x, int64_t y, int64_t z) {
    int64_t size[] = {x, y, z};
    bool    same = v->ndim == ndim;
    for (int i = 0; i < ndim && same; i++) same = v->shape[i] == size[i];
    return same;
}

/* Are the inputs of a scan what they must be? `first`: where they begin. */
static bool fit(const qp_call *c, int first) {
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
    if (!fit(c, U)) return;
    const qp_view *u = &c->in[U];
    sizes          z = sizes_of(u, &c->in[RATE]);
    if (!shape_set(c, Y, u->dtype, 3, u->shape) || !shape_set(c, LAST, u->dtype, 3, (int64_t[]){z.B, z.N, z.D}))
        return;
    shape_set(c, KEPT, u->dtype, 4, (int64_t[]){z.B, ((const attr *)c->attr)->keep ? z.chunks : 0, z.N, z.D});
}

/* Element [i, j, k] of a view of three axes. */
static double at3(const qp_view *v, int64_t i, int64_t j, int64_t k) {
    return qp_load(v, i * v->stride[0] + j * v->stride[1] + k * v->stride[2]);
}
static double rate_at(const qp_view *v, int64_t n, int64_t d) {
    return qp_load(v, n * v->stride[0] + d * v->stride[1]);
}
static void add_at(const qp_view *v, int64_t i, double x) { qp_store(v, i, qp_load(v, i) + x); }

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

/* Instructions for a vector of states, without loads and stores: 9 for 2^x, and forward delta a, du B, h, y;
 * backward delta a, a h, h; and h, g, q, dC, dB, two sums over n, drate, a g. Each could do a multiply-add, so
 * that is what it counts for. */
#define FORWARD 13.0
#define BACKWARD 21.0

static double flops(const qp_call *c) {
    sizes z = sizes_of(&c->in[U], &c->in[RATE]);
    return 2 * FORWARD * (double)(z.B * z.T * z.D) * (double)z.N;
}

/* ---- Gradient: outputs as the scan's inputs; those of absent ones are empty ------------------------------- */

static void grad_shape(qp_call *c) {
    const qp_view *in = c->in + G_FIRST;
    if (!fit(c, G_FIRST)) return;
    sizes z = sizes_of(&in[U], &in[RATE]);
    bool  ok = is(&c->in[G_DY], 3, z.B, z.T, z.D) && c->in[G_KEPT].ndim == 4 &&
               qp_view_count(&c->in[G_KEPT]) == z.B * z.chunks * z.N * z.D;
    if (!ok) qp_call_fail(c, QP_ERR_SHAPE, "gradients or kept states do not fit the scan");
    for (int i = U; i <= SKIP && ok; i++) {
        bool there = i < SKIP || given(c, G_FIRST + SKIP);
        shape_set(c, i, in[U].dtype, there ? in[i].ndim : 1, there ? in[i].shape : (int64_t[]){0});
    }
    if (ok) shape_set(c, STATE, in[U].dtype, 3, (int64_t[]){z.B, z.N, z.D});
}

static size_t grad_scratch(const qp_call *c, int threads) {
    sizes z = sizes_of(&c->in[G_FIRST + U], &c->in[G_FIRST + RATE]);
    return sizeof(float) *
               (size_t)(up(2 * of_groups(&z)) + up(of_sequences(&z)) + threads * up(room_floats(&z))) +
           3 * sizeof(double) * (size_t)z.T; /* the definition's */
}

/* Channel d and state n of sequence b; h, dB and dC have place for T numbers. */
static void plain_grad_one(const qp_call *c, const sizes *z, int64_t b, int64_t n, int64_t d, double *h,
                           double *dB, double *dC) {
    const qp_view *in = c->in + G_FIRST, *last = given(c, G_LAST);
    double         g = last ? at3(last, b, n, d) : 0, rate = rate_at(&in[RATE], n, d), drate = 0;
    double         x = 0;
    for (int64_t t = 0; t < z->T; t++) {
        int64_t kept = ((b * z->chunks + t / CHUNK) * z->N + n) * z->D + d;
        if (t % CHUNK == 0) x = qp_load(&c->in[G_KEPT], qp_view_offset(&c->in[G_KEPT], kept));
        double delta = at3(&in[DELTA], b, t, d);
        h[t] = exp(-delta * rate) * x;
        x = h[t] + delta * at3(&in[U], b, t, d) * at3(&in[B_IN], b, t, n);
    }
    for (int64_t t = z->T - 1; t >= 0; t--) {
        double  delta = at3(&in[DELTA], b, t, d), u = at3(&in[U], b, t, d), B = at3(&in[B_IN], b, t, n),
                dy = at3(&c->in[G_DY], b, t, d);
        int64_t by_d = (b * z->T + t) * z->D + d;
        g += dy * at3(&in[C_IN], b, t, n);
        dC[t] += dy * (h[t] + delta * u * B);
        dB[t] += g * delta * u;
        add_at(&c->out[U], by_d, g * delta * B);
        add_at(&c->out[DELTA], by_d, g * (u * B - rate * h[t]));
        drate -= g * delta * h[t];
        g *= exp(-delta * rate);
    }
    add_at(&c->out[RATE], n * z->D + d, drate);
    qp_store(&c->out[STATE], (b * z->N + n) * z->D + d, g);
}

static void grad_plain(const qp_call *c) {
    const qp_view *in = c->in + G_FIRST, *skip = given(c, G_FIRST + SKIP);
    sizes          z = sizes_of(&in[U], &in[RATE]);
    for (int i = U; i <= SKIP; i++)
        for (int64_t k = 0; k < qp_view_count(&c->out[i]); k++) qp_store(&c->out[i], k, 0);
    for (int64_t i = 0; i < z.B * z.T * z.D && skip; i++) {
        int64_t d = i % z.D, t = i / z.D % z.T, b = i / z.D / z.T;
        double  dy = at3(&c->in[G_DY], b, t, d);
        qp_store(&c->out[U], i, dy * qp_load(skip, d * skip->stride[0]));
        add_at(&c->out[SKIP], d, dy * at3(&in[U], b, t, d));
    }
    double *h = c->exec->scratch, *dB = h + z.T, *dC = dB + z.T;
    for (int64_t i = 0; i < z.B * z.N; i++) {
        memset(dB, 0, 2 * (size_t)z.T * sizeof *dB);
        for (int64_t d = 0; d < z.D; d++) plain_grad_one(c, &z, i / z.N, i % z.N, d, h, dB, dC);
        for (int64_t t = 0; t < z.T; t++) {
            qp_store(&c->out[B_IN], (i / z.N * z.T + t) * z.N + i % z.N, dB[t]);
            qp_store(&c->out[C_IN], (i / z.N * z.T + t) * z.N + i % z.N, dC[t]);
        }
    }
}

static double grad_flops(const qp_call *c) {
    sizes z = sizes_of(&c->in[G_FIRST + U], &c->in[G_FIRST + RATE]);
    return 2 * BACKWARD * (double)(z.B * z.T * z.D) * (double)z.N;
}

static const qp_sample grad_samples[] = {
    {.in = "x[2,5,3] p[2,1,4,3] x[2,5,3] u[2,5,3] p[4,3] x[2,5,4] x[2,5,4]"},
    {.in = "x[1,70,37] p[1,3,9,37] x[1,70,37] u[1,70,37] p[9,37] x[1,70,9] x[1,70,9] x[37] x[1,9,37]",
     .tolerance = 1e-5},
    {.in = "x[2,33,130] p[2,2,16,130] x[2,33,130] u[2,33,130] p[16,130] x[2,33,16] x[2,33,16] - x[2,16,130]",
     .tolerance = 1e-5},
    {0}};

QP_OP(selective_scan_grad) = {.name = "selective_scan_grad",
                              .source = "backward of selective_scan",
                              .min_in = 7,
                              .max_in = 9,
                              .nout = 7,
                              .shape = grad_shape,
                              .plain = grad_plain,
                              .scratch = grad_scratch,
                              .flops = grad_flops,
                              .samples = grad_samples};

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
