/* Backward of the selective scan. With g_t = dy_t C_t + a_(t+1) g_(t+1), the gradient of h_t (from the end: that of the last
 * state):
 *
 *   dC_t = sum over d of dy_t h_t          du_t = delta_t sum over n of g_t B_t + skip dy_t
 *   dB_t = sum over d of g_t delta_t u_t   ddelta_t = sum over n of g_t (u_t B_t - rate a_t h_(t-1))
 *   drate = -sum over t of delta_t g_t a_t h_(t-1)    dskip = sum over t of dy_t u_t
 *
 * h_t = a_t h_(t-1) + delta_t u_t B_t: of dC_t the second part is B_t times a sum over d that all n share. The states of a
 * chunk are made again from those kept before it, then it is run through from its end. */
#include "kernels/turn.h"
#include "ops/selective_scan.h"

static int64_t groups_of(const sizes *s) { return (s->D + s->group - 1) / s->group; }

/* What a worker needs, in floats: of a chunk the terms of dB and dC for each block of states, side by side, and dy delta u
 * by lane; a_t and a_t h_(t-1) of a block, and of its channels the gradient of the state and drate. */
typedef struct {
    float *terms, *dydu, *a, *s, *g, *drate;
} room;

static int64_t chunk_floats(const sizes *z) { return CHUNK * (2 * z->N + MOST_LANES); }
static int64_t room_floats(const sizes *z) {
    return chunk_floats(z) + 2 * CHUNK * 8 * MOST_LANES + 2 * z->N * z->group;
}
static room room_at(float *p, const sizes *z) {
    room r = {.terms = p, .dydu = p + 2 * CHUNK * z->N, .a = p + chunk_floats(z)};
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

/* terms[i] += the sum over channels of x[i] */
INLINE void add_terms(float *terms, const vf *x, const int count) {
    int i = 0;
    for (; i + VF_LANES <= count; i += VF_LANES) vf_store(terms + i, vf_load(terms + i) + row_sums(x + i));
    for (; i < count; i++) terms[i] += vf_sum(x[i]);
}

/* States n .. of a chunk: again from those before it, then back. */
INLINE void grad_states(const span *s, const room *r, const float *rate, int64_t rate_row, const float *kept,
                        int64_t kept_row, int64_t earlier, int64_t n, n_sums *sums, const int count) {
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
        if (n == 0) fetch(s, 0, t), fetch(s, 1, t);
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
        float       *terms = r->terms + (n * CHUNK + t * count) * 2;
        vf           delta = vf_load(s->delta[t]), du = vf_load(s->du[t]), dy = vf_load(s->y[t]);
        vf           gb = {0}, ga = {0}, both[2 * BLOCK];
        if (n) gb = vf_load(sums->gb[t]), ga = vf_load(sums->ga[t]);
        if (n == 0) fetch(s, 2, t), fetch_out(s, 0, t), fetch_out(s, 1, t);
        if (t < count) __builtin_prefetch(kept - earlier + (n + t) * kept_row, 0, 2);
#pragma GCC unroll 8
        for (int k = 0; k < count; k++) {
            vf before = vf_load(r->s + (t * count + k) * VF_LANES), b = vf_set1(B[k]);
            vf grad = vf_fma(dy, vf_set1(C[k]), x[k]), q = grad * before;
            both[k] = du * grad;
            both[count + k] = dy * before;
            gb = vf_fma(grad, b, gb);
            ga = vf_fma(q, a[k], ga);
            dr[k] = vf_fma(q, delta, dr[k]);
            x[k] = grad * vf_load(r->a + (t * count + k) * VF_LANES);
        }
        vf_store(sums->gb[t], gb);
        vf_store(sums->ga[t], ga);
        add_terms(terms, both, 2 * count);
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
    n_sums         sums;
    if (!z->N) memset(&sums, 0, sizeof sums);
    open_span(&s, z, in, b, t, d, -CHUNK);
    s.out[0] = row3(&c->out[U], b, t) + d;
    s.out[1] = row3(&c->out[DELTA], b, t) + d;
    take(s.y, &s, 2, row3(&c->in[G_DY], b, t) + d, c->in[G_DY].stride[1]);
    for (; n + BLOCK <= z->N; n += BLOCK)
        grad_states(&s, &r, rates, rate->stride[0], kept, kept_row, chunk ? z->N * kept_row : 0, n, &sums,
                    BLOCK);
    for (; n < z->N; n++)
        grad_states(&s, &r, rates, rate->stride[0], kept, kept_row, chunk ? z->N * kept_row : 0, n, &sums, 1);
    vf skip = skip_of(given(c, G_FIRST + SKIP), d, s.m), ds = vf_load_n(dskip + d, s.m);
    for (int j = s.count - 1; j >= 0; j--) {
        int64_t at = (b * z->T + t + j) * z->D + d;
        vf      u = vf_load(s.u[j]), dy = vf_load(s.y[j]), gb = vf_load(sums.gb[j]);
        vf_store_n((float *)c->out[U].data + at, vf_fma(vf_load(s.delta[j]), gb, skip * dy), s.m);
        vf_store_n((float *)c->out[DELTA].data + at, vf_fma(u, gb, vf_load(sums.ga[j]) * LN2), s.m);
        ds = vf_fma(dy, u, ds);
        vf_store(r.dydu + j * VF_LANES, vf_fma(dy, vf_load(s.du[j]), vf_load(r.dydu + j * VF_LANES)));
    }
    vf_store_n(dskip + d, ds, s.m);
}

typedef struct {
    const qp_call *c;
    sizes          z;
    float         *sums; /* scratch */
} job;

/* The terms of states n .. to dB and dC, rows of N. */
INLINE void put_terms(const float *terms, int64_t N, int positions, float *dB, float *dC, const int count) {
    for (int i = 0; i < positions; i++, terms += 2 * count, dB += N, dC += N) {
        memcpy(dB, terms, (size_t)count * sizeof *terms);
        memcpy(dC, terms + count, (size_t)count * sizeof *terms);
    }
}

/* What the chunk at t adds up to, with dB and dC at its first position. */
static void put_chunk(const job *j, const room *r, int64_t b, int64_t t, int count, float *dB, float *dC) {
    int64_t N = j->z.N, n = 0;
    for (; n + BLOCK <= N; n += BLOCK) put_terms(r->terms + n * CHUNK * 2, N, count, dB + n, dC + n, BLOCK);
    for (; n < N; n++) put_terms(r->terms + n * CHUNK * 2, N, count, dB + n, dC + n, 1);
    for (int i = 0; i < count; i++, dC += N) {
        const float *B = row3(&j->c->in[G_FIRST + B_IN], b, t + i);
        float        sum = vf_sum(vf_load(r->dydu + i * VF_LANES));
        for (n = 0; n < N; n++) dC[n] += sum * B[n];
    }
}

static void grad_piece(void *arg, int64_t first, int64_t end, int worker) {
    const job     *j = arg;
    const sizes   *z = &j->z;
    int64_t        units = groups_of(z);
    const qp_view *last = given(j->c, G_LAST);
    float         *dBC = j->sums, *of_b = dBC + up(2 * of_groups(z)), *rooms = of_b + up(of_sequences(z));
    room           r = room_at(rooms + worker * up(room_floats(z)), z);
    for (int64_t i = first; i < end; i++) {
        int64_t b = i / units, group = i % units, d0 = group * z->group,
                d1 = d0 + z->group < z->D ? d0 + z->group : z->D;
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
            int64_t t = chunk * CHUNK;
            int     count = z->T - t < CHUNK ? (int)(z->T - t) : CHUNK;
            memset(r.terms, 0, (size_t)chunk_floats(z) * sizeof(float));
            for (int64_t d = d0; d < d1; d += VF_LANES) {
                room own = r;
                own.g += (d - d0) * z->N;
                own.drate += (d - d0) * z->N;
                grad_lanes(j->c, z, own, b, chunk, d, dskip);
            }
            put_chunk(j, &r, b, t, count, dB + t * z->N, dC + t * z->N);
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
    qp_parallel(c->exec, z->B * groups, 1, grad_piece, &j);
    add_up(c->exec, c->out[B_IN].data, rows, j.sums, groups, rows);
    add_up(c->exec, c->out[C_IN].data, rows, j.sums + of_groups(z), groups, rows);
    add_up(c->exec, c->out[RATE].data, z->N * z->D, of_b, z->B, (z->N + 1) * z->D);
    if (qp_view_count(&c->out[SKIP]))
        add_up(c->exec, c->out[SKIP].data, z->D, of_b + z->N * z->D, z->B, (z->N + 1) * z->D);
}

QP_KERNEL(selective_scan_grad) = {grad_run, QP_ROWS, NULL};

#if QP_BODY
#include "core/core.h"
#include "ops/shape.h"

static void grad_shape(qp_call *c) {
    const qp_view *in = c->in + G_FIRST;
    if (!scan_inputs_fit(c, G_FIRST)) return;
    sizes z = sizes_of(&in[U], &in[RATE]);
    bool  ok = qpi_view_same_shape(&c->in[G_DY], &in[U]) && c->in[G_KEPT].ndim == 4 &&
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

/* As of the scan: 9 for 2^x, delta a, a h, h; and g, q, dC, dB, two sums over n, drate, a g. */
#define INSTRUCTIONS 20.0

static double grad_flops(const qp_call *c) {
    sizes z = sizes_of(&c->in[G_FIRST + U], &c->in[G_FIRST + RATE]);
    return 2 * INSTRUCTIONS * (double)(z.B * z.T * z.D) * (double)z.N;
}

static const qp_sample grad_samples[] = {
    {.in = "x[2,5,3] p[2,1,4,3] x[2,5,3] u[2,5,3] p[4,3] x[2,5,4] x[2,5,4]"},
    {.in = "x[2,5,3] p[2,1,0,3] x[2,5,3] u[2,5,3] p[0,3] x[2,5,0] x[2,5,0] x[3]"},
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
#endif
