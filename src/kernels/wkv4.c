/* RWKV 4: lanes are channels. The sums a and b stand for a e^p and b e^p, so that no exponential leaves
 * the range of floats, in backward neither: GA and GB stand for GA e^q and GB e^q. */
#include "core/simd.h"
#include "kernels/wkv.h"

#define INLINE static inline __attribute__((always_inline))
#define WIDE 4 /* vectors of channels in one piece */
#define CHANNELS (WIDE * VF_LANES)
#define CHUNK 64 /* positions whose states backward holds */
#define NEVER vf_set1(QK_WKV4_NOTHING)

typedef struct {
    vf a, b, p;
} sums;

typedef struct {
    const qp_exec *exec;
    const qp_view *in, *y, *last, *dy, *out;
    size_t         floats;
} job;

/* One piece: n channels of row b from `first`. */
typedef struct {
    const float *k, *v;
    int64_t      k_step, v_step, T, D;
    int          n;
} channels;

static channels channels_of(const qp_view *in, int64_t piece, int64_t *b, int64_t *first) {
    const qp_view *k = &in[QK_WKV4_K], *v = &in[QK_WKV4_V];
    int64_t        D = k->shape[2], blocks = (D + CHANNELS - 1) / CHANNELS;
    *b = piece / blocks;
    *first = piece % blocks * CHANNELS;
    return (channels){(const float *)k->data + *b * k->stride[0] + *first,
                      (const float *)v->data + *b * v->stride[0] + *first,
                      k->stride[1],
                      v->stride[1],
                      k->shape[1],
                      D,
                      (int)(D - *first < CHANNELS ? D - *first : CHANNELS)};
}

static int left(const channels *c, int j) {
    return c->n <= j * VF_LANES ? 0 : c->n - j * VF_LANES < VF_LANES ? c->n - j * VF_LANES : VF_LANES;
}

/* Of a state that has seen nothing, whatever its p. */
INLINE sums start(const qp_view *state, int64_t b, int64_t first, int m) {
    if (!state->data) return (sums){{0}, {0}, NEVER};
    const float *at = (const float *)state->data + b * state->stride[0] + first;
    sums s = {vf_load_n(at, m), vf_load_n(at + state->stride[1], m), vf_load_n(at + 2 * state->stride[1], m)};
    s.p = vf_select(vf_eq(s.b, (vf){0}), NEVER, s.p);
    return s;
}

/* Weights of two terms e^x and e^y, the larger of which is 1; *most: its exponent. */
INLINE void weigh(vf x, vf y, vf *ex, vf *ey, vf *most) {
    vf d = x - y, e = vf_exp(-vf_abs(d)), one = vf_set1(1);
    vm first = vf_ge(d, (vf){0});
    *ex = vf_select(first, one, e);
    *ey = vf_select(first, e, one);
    *most = vf_select(first, x, y);
}

INLINE sums after(sums s, vf w, vf k, vf v) {
    vf old, new, p;
    weigh(s.p + w, k, &old, &new, &p);
    return (sums){vf_fma(old, s.a, new * v), vf_fma(old, s.b, new), p};
}

static void forward_piece(void *arg, int64_t begin, int64_t end, int worker) {
    const job     *j = arg;
    const qp_view *in = j->in;
    (void)worker;
    for (int64_t piece = begin; piece < end; piece++) {
        int64_t  b, first;
        channels c = channels_of(in, piece, &b, &first);
        float   *y = (float *)j->y->data + b * c.T * c.D + first,
              *last = (float *)j->last->data + b * 3 * c.D + first;
        sums s[WIDE];
        vf   w[WIDE], u[WIDE];
        for (int i = 0; i < WIDE; i++) {
            int m = left(&c, i);
            s[i] = start(&in[QK_WKV4_STATE], b, first + i * VF_LANES, m);
            w[i] = vf_load_n((const float *)in[QK_WKV4_W].data + first + i * VF_LANES, m);
            u[i] = vf_load_n((const float *)in[QK_WKV4_U].data + first + i * VF_LANES, m);
        }
        for (int64_t t = 0; t < c.T; t++)
            for (int i = 0; i < WIDE; i++) {
                int m = left(&c, i);
                vf  k = vf_load_n(c.k + t * c.k_step + i * VF_LANES, m),
                    v = vf_load_n(c.v + t * c.v_step + i * VF_LANES, m);
                vf  old, new, most;
                weigh(s[i].p, u[i] + k, &old, &new, &most);
                vf_store_n(y + t * c.D + i * VF_LANES, vf_fma(old, s[i].a, new * v) / vf_fma(old, s[i].b, new),
                           m);
                s[i] = after(s[i], w[i], k, v);
            }
        for (int i = 0; i < WIDE; i++) {
            int m = left(&c, i);
            vf_store_n(last + i * VF_LANES, s[i].a, m);
            vf_store_n(last + c.D + i * VF_LANES, s[i].b, m);
            vf_store_n(last + 2 * c.D + i * VF_LANES, s[i].p, m);
        }
    }
}

static int64_t pieces(const qp_view *k) { return k->shape[0] * ((k->shape[2] + CHANNELS - 1) / CHANNELS); }

void QK(qk_wkv4_run)(const qp_exec *exec, const qp_view *in, const qp_view *y, const qp_view *last) {
    job j = {.exec = exec, .in = in, .y = y, .last = last};
    qp_parallel(exec, pieces(&in[QK_WKV4_K]), 1, forward_piece, &j);
}

/* ---- Gradient ------------------------------------------------------------------------------------- */

typedef struct {
    vf a, b, q, dw, du;
} sums_grad;

/* Position t, whose state before it is s; g: of the state behind it, then of that before it. */
INLINE void grad_step(sums_grad *g, sums s, vf w, vf u, vf k, vf v, vf dy, vf *dk, vf *dv) {
    vf e = vf_exp(k + g->q), f = vf_exp(w + g->q + s.p), old, new, most;
    *dk = e * vf_fma(g->a, v, g->b);
    *dv = e * g->a;
    g->dw = vf_fma(f, vf_fma(g->a, s.a, g->b * s.b), g->dw);
    weigh(s.p, u + k, &old, &new, &most);
    vf one = vf_set1(1) / vf_fma(old, s.b, new), y = vf_fma(old, s.a, new * v) * one, d = dy * one,
       du = new * d * (v - y);
    *dk += du;
    *dv = vf_fma(new, d, *dv);
    g->du += du;
    vf decayed, fresh;
    weigh(g->q + w, -most, &decayed, &fresh, &g->q);
    g->a = vf_fma(decayed, g->a, fresh * d);
    g->b = decayed * g->b - fresh * d * y;
}

static void store_sums(float *at, sums s) {
    vf_store(at, s.a);
    vf_store(at + VF_LANES, s.b);
    vf_store(at + 2 * VF_LANES, s.p);
}
static sums load_sums(const float *at) {
    return (sums){vf_load(at), vf_load(at + VF_LANES), vf_load(at + 2 * VF_LANES)};
}

/* One vector of a piece; kept: states before each chunk, states: within one. */
static void grad_vector(const job *j, const channels *c, int64_t b, int64_t first, int i, float *states,
                        float *kept) {
    const qp_view *in = j->in, *out = j->out;
    int            m = left(c, i);
    int64_t        T = c->T, at = first + i * VF_LANES, flat = b * T * c->D + at;
    const float   *kp = c->k + i * VF_LANES, *vp = c->v + i * VF_LANES;
    const float   *dy = (const float *)j->dy->data + b * j->dy->stride[0] + at;
    vf             w = vf_load_n((const float *)in[QK_WKV4_W].data + at, m),
                   u = vf_load_n((const float *)in[QK_WKV4_U].data + at, m);
    sums           s = start(&in[QK_WKV4_STATE], b, at, m);
    sums_grad      g = {.q = NEVER};
    for (int64_t t = 0; t < T; t++) {
        if (t % CHUNK == 0) store_sums(kept + t / CHUNK * 3 * VF_LANES, s);
        s = after(s, w, vf_load_n(kp + t * c->k_step, m), vf_load_n(vp + t * c->v_step, m));
    }
    for (int64_t t0 = (T - 1) / CHUNK * CHUNK; t0 >= 0 && T; t0 -= CHUNK) {
        int64_t end = t0 + CHUNK < T ? t0 + CHUNK : T;
        s = load_sums(kept + t0 / CHUNK * 3 * VF_LANES);
        for (int64_t t = t0; t < end; t++) {
            store_sums(states + (t - t0) * 3 * VF_LANES, s);
            s = after(s, w, vf_load_n(kp + t * c->k_step, m), vf_load_n(vp + t * c->v_step, m));
        }
        for (int64_t t = end - 1; t >= t0; t--) {
            vf dk, dv;
            grad_step(&g, load_sums(states + (t - t0) * 3 * VF_LANES), w, u, vf_load_n(kp + t * c->k_step, m),
                      vf_load_n(vp + t * c->v_step, m), vf_load_n(dy + t * j->dy->stride[1], m), &dk, &dv);
            vf_store_n((float *)out[QK_WKV4_DK].data + flat + t * c->D, dk, m);
            vf_store_n((float *)out[QK_WKV4_DV].data + flat + t * c->D, dv, m);
        }
    }
    vf_store_n((float *)out[QK_WKV4_DW].data + b * c->D + at, g.dw, m);
    vf_store_n((float *)out[QK_WKV4_DU].data + b * c->D + at, g.du, m);
}

static void grad_piece(void *arg, int64_t begin, int64_t end, int worker) {
    const job *j = arg;
    float     *states = (float *)j->exec->scratch + (size_t)worker * j->floats,
          *kept = states + CHUNK * 3 * VF_LANES;
    for (int64_t piece = begin; piece < end; piece++) {
        int64_t  b, first;
        channels c = channels_of(j->in, piece, &b, &first);
        for (int i = 0; i < WIDE && left(&c, i); i++) grad_vector(j, &c, b, first, i, states, kept);
    }
}

static size_t room_size(int64_t T) { return (size_t)(CHUNK + (T + CHUNK - 1) / CHUNK) * 3 * 16; }

void QK(qk_wkv4_grad_run)(const qp_exec *exec, const qp_view *in, const qp_view *dy, const qp_view *out) {
    job j = {.exec = exec, .in = in, .dy = dy, .out = out, .floats = room_size(dy->shape[1])};
    qp_parallel(exec, pieces(&in[QK_WKV4_K]), 1, grad_piece, &j);
}

#if QP_BODY
size_t qk_wkv4_grad_scratch(const qp_view *in, int threads) {
    return (size_t)threads * room_size(in[QK_WKV4_K].shape[1]) * sizeof(float);
}
#endif
