#include "kernels/wkv.h"

#include "core/simd.h"

#define INLINE static inline __attribute__((always_inline))
#define WIDE 4                    /* vectors that are worked on at once */
#define COLUMNS (WIDE * VF_LANES) /* of a state, in one piece of forward */
#define MOST (WIDE * 16)          /* the same on any instruction set: what scratch is reckoned by */
#define AHEAD 4                   /* positions whose rows are fetched early */
#define CHUNK 32                  /* positions whose states backward holds */

static int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

/* Position 0 of a head; the next is step floats on. NULL: absent. */
typedef struct {
    const float *at;
    int64_t      step;
} row;

static row row_of(const qp_view *v, int64_t b, int64_t h) {
    if (!v->data) return (row){NULL, 0};
    return (row){(const float *)v->data + b * v->stride[0] + h * v->stride[2], v->stride[1]};
}

/* The rows of the state before the first position. */
static row state_of(const qp_view *v, int64_t b, int64_t h) {
    if (!v->data) return (row){NULL, 0};
    return (row){(const float *)v->data + b * v->stride[0] + h * v->stride[1], v->stride[2]};
}

/* ---- Forward: lanes are columns of the state ------------------------------------------------------ */

INLINE int left(int64_t n, int j) {
    return n <= j * VF_LANES ? 0 : n - j * VF_LANES < VF_LANES ? (int)(n - j * VF_LANES) : VF_LANES;
}

typedef struct {
    row          r, w, k, v, a, b;
    const float *u;
    row          state; /* by rows of K; absent: zeros */
    float       *y, *last, *S;
    int64_t      T, K, V, y_step, n; /* n: columns of this piece */
} head;

/* sum of x y z over K; z NULL: of x y */
INLINE float dot(const float *x, const float *y, const float *z, int64_t K) {
    vf s = {0};
    for (int64_t i = 0; i < K; i += VF_LANES) {
        int m = K - i < VF_LANES ? (int)(K - i) : VF_LANES;
        vf  p = vf_load_n(x + i, m) * vf_load_n(y + i, m);
        s += z ? p * vf_load_n(z + i, m) : p;
    }
    return vf_sum(s);
}

/* Rows of the state from the caller's memory into S, or back. */
static void copy_state(const head *h, float *S, float *to) {
    for (int64_t i = 0; i < h->K; i++)
        for (int j = 0; j < WIDE; j++) {
            float *at = S + (i * WIDE + j) * VF_LANES;
            int    m = left(h->n, j);
            if (to) vf_store_n(to + i * h->V + j * VF_LANES, vf_load(at), m);
            else
                vf_store(at,
                         h->state.at ? vf_load_n(h->state.at + i * h->state.step + j * VF_LANES, m) : (vf){0});
        }
}

/* All positions; removes: the state loses b (a^T S), and is read behind the step. */
INLINE void columns(const head *h, bool removes) {
    float *S = h->S;
    int    m[WIDE];
    for (int j = 0; j < WIDE; j++) m[j] = left(h->n, j);
    copy_state(h, S, NULL);
    for (int64_t t = 0; t < h->T; t++) {
        const float *r = h->r.at + t * h->r.step, *w = h->w.at + t * h->w.step, *k = h->k.at + t * h->k.step;
        const float *v = h->v.at + t * h->v.step, *a = h->a.at + t * h->a.step, *b = h->b.at + t * h->b.step;
        float       *y = h->y + t * h->y_step;
        vf           new[WIDE], out[WIDE], gone[WIDE], old[WIDE];
        for (int64_t i = 0; i < h->K; i += 16) { /* rows lie too far apart for the processor to guess */
            __builtin_prefetch(r + AHEAD * h->r.step + i);
            __builtin_prefetch(w + AHEAD * h->w.step + i);
            __builtin_prefetch(k + AHEAD * h->k.step + i);
            __builtin_prefetch(v + AHEAD * h->v.step + i);
        }
        for (int j = 0; j < WIDE; j++) {
            new[j] = vf_load_n(v + j * VF_LANES, m[j]);
            out[j] = gone[j] = (vf){0};
        }
        for (int64_t i = 0; i < h->K && removes; i++) {
            vf ai = vf_set1(a[i]);
            for (int j = 0; j < WIDE; j++)
                gone[j] = vf_fma(ai, vf_load(S + (i * WIDE + j) * VF_LANES), gone[j]);
        }
        for (int64_t i = 0; i < h->K; i++) {
            vf     ri = vf_set1(r[i]), wi = vf_set1(w[i]), ki = vf_set1(k[i]), bi = vf_set1(removes ? b[i] : 0);
            float *at = S + i * COLUMNS;
            for (int j = 0; j < WIDE; j++) old[j] = vf_load(at + j * VF_LANES);
            for (int j = 0; j < WIDE; j++) {
                vf s = vf_fma(ki, new[j], wi * old[j]);
                if (removes) s = vf_fma(bi, gone[j], s);
                out[j] = vf_fma(ri, removes ? s : old[j], out[j]);
                vf_store(at + j * VF_LANES, s);
            }
        }
        vf bonus = vf_set1(removes ? 0 : dot(r, h->u, k, h->K));
        for (int j = 0; j < WIDE; j++)
            vf_store_n(y + j * VF_LANES, removes ? out[j] : vf_fma(bonus, new[j], out[j]), m[j]);
    }
    copy_state(h, S, h->last);
}

typedef struct {
    const qp_exec *exec;
    const qp_view *in, *y, *last, *dy, *out;
    size_t         floats; /* of scratch for each worker */
} job;

static void forward_piece(void *arg, int64_t begin, int64_t end, int worker) {
    const job     *j = arg;
    const qp_view *in = j->in;
    int64_t        H = in[QK_WKV_K].shape[2], K = in[QK_WKV_K].shape[3], V = in[QK_WKV_V].shape[3];
    int64_t        blocks = round_up(V, COLUMNS) / COLUMNS;
    for (int64_t i = begin; i < end; i++) {
        int64_t b = i / blocks / H, h = i / blocks % H, first = i % blocks * COLUMNS,
                at = (b * H + h) * K * V + first;
        head    p = {.r = row_of(&in[QK_WKV_R], b, h),
                     .w = row_of(&in[QK_WKV_W], b, h),
                     .k = row_of(&in[QK_WKV_K], b, h),
                     .v = row_of(&in[QK_WKV_V], b, h),
                     .a = row_of(&in[QK_WKV_A], b, h),
                     .b = row_of(&in[QK_WKV_B], b, h),
                     .T = j->y->shape[1],
                     .K = K,
                     .V = V,
                     .y_step = H * V,
                     .n = V - first < COLUMNS ? V - first : COLUMNS};
        p.v.at += first;
        p.u = in[QK_WKV_U].data ? (const float *)in[QK_WKV_U].data + h * in[QK_WKV_U].stride[0] : NULL;
        p.y = (float *)j->y->data + b * p.T * p.y_step + h * V + first;
        p.state = state_of(&in[QK_WKV_STATE], b, h);
        if (p.state.at) p.state.at += first;
        p.last = (float *)j->last->data + at;
        p.S = (float *)j->exec->scratch + (size_t)worker * j->floats;
        if (p.a.at) columns(&p, true);
        else columns(&p, false);
    }
}

void QK(qk_wkv_run)(const qp_exec *exec, const qp_view *in, const qp_view *y, const qp_view *last) {
    int64_t V = in[QK_WKV_V].shape[3];
    job j = {.exec = exec, .in = in, .y = y, .last = last, .floats = (size_t)(in[QK_WKV_K].shape[3] * MOST)};
    qp_parallel(exec, y->shape[0] * y->shape[2] * (round_up(V, COLUMNS) / COLUMNS), 1, forward_piece, &j);
}

#if QP_BODY
size_t qk_wkv_scratch(const qp_view *in, int threads) {
    return (size_t)threads * (size_t)(in[QK_WKV_K].shape[3] * MOST) * sizeof(float);
}
#endif

/* ---- Gradient: lanes are rows of the state, which is held transposed, [V, P] with P = K padded ------- */

/* What backward has of one chunk, each [CHUNK, P] or [CHUNK, V], then states of which the first is
 * that before the chunk. */
typedef struct {
    float  *r, *w, *k, *a, *b, *v, *dy, *u, *gone, *dgone, *dv, *states, *G, *kept;
    int64_t P, V, K, state; /* floats of a state */
} room;

static size_t room_size(int64_t T, int64_t K, int64_t V) {
    int64_t P = round_up(K, 16), W = round_up(V, 16), state = P * V;
    return (size_t)(CHUNK * (5 * P + 3 * W) + P + 2 * W + (CHUNK + 2) * state +
                    (T + CHUNK - 1) / CHUNK * state);
}

static room room_at(float *at, int64_t K, int64_t V) {
    room    m = {.P = round_up(K, VF_LANES), .V = V, .K = K};
    int64_t P = round_up(K, 16), W = round_up(V, 16);
    float **rows[] = {&m.r, &m.w, &m.k, &m.a, &m.b}, **wide[] = {&m.v, &m.dy, &m.gone};
    m.state = m.P * V;
    for (int i = 0; i < 5; i++, at += CHUNK * P) *rows[i] = at;
    for (int i = 0; i < 3; i++, at += CHUNK * W) *wide[i] = at;
    m.u = at;
    m.dgone = m.u + P;
    m.dv = m.dgone + W;
    m.G = m.dv + W;
    m.states = m.G + m.state;
    m.kept = m.states + (CHUNK + 1) * m.state;
    return m;
}

/* n floats at each of the chunk's positions, padded with zeros to `to`. */
static void take(float *to, row from, int64_t t, int64_t count, int64_t n, int64_t padded) {
    for (int64_t c = 0; c < count && from.at; c++, to += padded) {
        memcpy(to, from.at + (t + c) * from.step, (size_t)n * sizeof *to);
        for (int64_t i = n; i < padded; i++) to[i] = 0;
    }
}

INLINE vf sum_of(const vf *x, int nv) {
    vf s = x[0];
    for (int j = 1; j < nv; j++) s += x[j];
    return s;
}

/* gone[v] += a^T S for nv vectors of rows from i. */
INLINE void read_rows(const room *m, const float *S, const float *a, float *gone, int64_t i, int nv) {
    vf x[WIDE], p[WIDE];
    for (int j = 0; j < nv; j++) x[j] = vf_load(a + i + j * VF_LANES);
    for (int64_t v = 0; v < m->V; v++) {
        for (int j = 0; j < nv; j++) p[j] = x[j] * vf_load(S + v * m->P + i + j * VF_LANES);
        gone[v] += vf_sum(sum_of(p, nv));
    }
}

INLINE void move_rows(const room *m, const float *S, float *to, int64_t c, int64_t i, int nv, bool removes) {
    vf w[WIDE], k[WIDE], b[WIDE];
    for (int j = 0; j < nv; j++) {
        int64_t at = c * m->P + i + j * VF_LANES;
        w[j] = vf_load(m->w + at);
        k[j] = vf_load(m->k + at);
        if (removes) b[j] = vf_load(m->b + at);
    }
    for (int64_t v = 0; v < m->V; v++)
        for (int j = 0; j < nv; j++) {
            int64_t at = v * m->P + i + j * VF_LANES;
            vf      s = vf_fma(k[j], vf_set1(m->v[c * m->V + v]), w[j] * vf_load(S + at));
            if (removes) s = vf_fma(b[j], vf_set1(m->gone[c * m->V + v]), s);
            vf_store(to + at, s);
        }
}

/* Blocks of nv vectors of rows, then one by one. */
#define EACH_BLOCK(P, call) \
    do { \
        int64_t i = 0; \
        for (; i + ROWS * VF_LANES <= (P); i += ROWS * VF_LANES) { \
            const int nv = ROWS; \
            call; \
        } \
        for (; i < (P); i += VF_LANES) { \
            const int nv = 1; \
            call; \
        } \
    } while (0)
#define ROWS (VF_LANES == 16 ? 4 : 2) /* as many as there are registers for */

/* The state behind position c of the chunk. */
static void move(const room *m, const float *S, float *to, int64_t c, bool removes) {
    if (removes) {
        float *gone = m->gone + c * m->V;
        memset(gone, 0, (size_t)m->V * sizeof *gone);
        EACH_BLOCK(m->P, read_rows(m, S, m->a + c * m->P, gone, i, nv));
        EACH_BLOCK(m->P, move_rows(m, S, to, c, i, nv, true));
    } else EACH_BLOCK(m->P, move_rows(m, S, to, c, i, nv, false));
}

/* Where the gradients of position c go; da and db NULL: there are none. */
typedef struct {
    float *dr, *dw, *dk, *da, *db;
} rows_out;

INLINE void put(float *to, vf x, int64_t i, int j, int64_t K) {
    vf_store_n(to + i + j * VF_LANES, x, left(K - i, j));
}

/* y = r^T S before the step. G: of the state behind the step, then of that before it. */
INLINE void grad_rows(const room *m, int64_t c, const rows_out *o, float bonus, int64_t i, int nv) {
    const float *S = m->states + c * m->state, *dy = m->dy + c * m->V, *v = m->v + c * m->V;
    vf           r[WIDE], w[WIDE], k[WIDE], dr[WIDE], dw[WIDE], dk[WIDE], p[WIDE];
    for (int j = 0; j < nv; j++) {
        int64_t at = c * m->P + i + j * VF_LANES;
        vf      u = vf_load(m->u + i + j * VF_LANES) * bonus;
        r[j] = vf_load(m->r + at);
        w[j] = vf_load(m->w + at);
        k[j] = vf_load(m->k + at);
        dr[j] = u * k[j];
        dk[j] = u * r[j];
        dw[j] = (vf){0};
    }
    for (int64_t x = 0; x < m->V; x++) {
        vf d = vf_set1(dy[x]), new = vf_set1(v[x]);
        for (int j = 0; j < nv; j++) {
            int64_t at = x * m->P + i + j * VF_LANES;
            vf      s = vf_load(S + at), g = vf_load(m->G + at);
            dr[j] = vf_fma(d, s, dr[j]);
            dk[j] = vf_fma(new, g, dk[j]);
            dw[j] = vf_fma(s, g, dw[j]);
            p[j] = g * k[j];
            vf_store(m->G + at, vf_fma(r[j], d, w[j] * g));
        }
        m->dv[x] += vf_sum(sum_of(p, nv));
    }
    for (int j = 0; j < nv; j++) {
        put(o->dr, dr[j], i, j, m->K);
        put(o->dw, dw[j], i, j, m->K);
        put(o->dk, dk[j], i, j, m->K);
    }
}

/* y = r^T S behind the step, which takes b (a^T S) away: first all but what goes through a^T S, .. */
INLINE void grad_rows_behind(const room *m, int64_t c, const rows_out *o, int64_t i, int nv) {
    const float *S = m->states + c * m->state, *dy = m->dy + c * m->V, *v = m->v + c * m->V,
                *gone = m->gone + c * m->V;
    vf r[WIDE], k[WIDE], b[WIDE], dr[WIDE], dw[WIDE], dk[WIDE], db[WIDE], p[WIDE], q[WIDE];
    for (int j = 0; j < nv; j++) {
        int64_t at = c * m->P + i + j * VF_LANES;
        r[j] = vf_load(m->r + at);
        k[j] = vf_load(m->k + at);
        b[j] = vf_load(m->b + at);
        dr[j] = dw[j] = dk[j] = db[j] = (vf){0};
    }
    for (int64_t x = 0; x < m->V; x++) {
        vf d = vf_set1(dy[x]), new = vf_set1(v[x]), removed = vf_set1(gone[x]);
        for (int j = 0; j < nv; j++) {
            int64_t at = x * m->P + i + j * VF_LANES;
            vf      g = vf_fma(r[j], d, vf_load(m->G + at));
            dr[j] = vf_fma(d, vf_load(S + m->state + at), dr[j]);
            dk[j] = vf_fma(new, g, dk[j]);
            dw[j] = vf_fma(vf_load(S + at), g, dw[j]);
            db[j] = vf_fma(removed, g, db[j]);
            p[j] = g * k[j];
            q[j] = g * b[j];
            vf_store(m->G + at, g);
        }
        m->dv[x] += vf_sum(sum_of(p, nv));
        m->dgone[x] += vf_sum(sum_of(q, nv));
    }
    for (int j = 0; j < nv; j++) {
        put(o->dr, dr[j], i, j, m->K);
        put(o->dw, dw[j], i, j, m->K);
        put(o->dk, dk[j], i, j, m->K);
        put(o->db, db[j], i, j, m->K);
    }
}

/* .. then that. */
INLINE void grad_rows_removed(const room *m, int64_t c, const rows_out *o, int64_t i, int nv) {
    const float *S = m->states + c * m->state;
    vf           w[WIDE], a[WIDE], da[WIDE];
    for (int j = 0; j < nv; j++) {
        int64_t at = c * m->P + i + j * VF_LANES;
        w[j] = vf_load(m->w + at);
        a[j] = vf_load(m->a + at);
        da[j] = (vf){0};
    }
    for (int64_t x = 0; x < m->V; x++) {
        vf d = vf_set1(m->dgone[x]);
        for (int j = 0; j < nv; j++) {
            int64_t at = x * m->P + i + j * VF_LANES;
            da[j] = vf_fma(d, vf_load(S + at), da[j]);
            vf_store(m->G + at, vf_fma(a[j], d, w[j] * vf_load(m->G + at)));
        }
    }
    for (int j = 0; j < nv; j++) put(o->da, da[j], i, j, m->K);
}

/* du += r k (dy . v); what the bonus gives of dv. Returns dy . v. */
static float grad_bonus(const room *m, int64_t c, float *du) {
    const float *r = m->r + c * m->P, *k = m->k + c * m->P, *dy = m->dy + c * m->V;
    float        all = dot(dy, m->v + c * m->V, NULL, m->V), through = dot(r, m->u, k, m->K);
    for (int64_t i = 0; i < m->K; i += VF_LANES) {
        int n = left(m->K - i, 0);
        vf_store_n(du + i,
                   vf_fma(vf_load_n(r + i, n) * vf_load_n(k + i, n), vf_set1(all), vf_load_n(du + i, n)), n);
    }
    for (int64_t x = 0; x < m->V; x++) m->dv[x] = through * dy[x];
    return all;
}

typedef struct {
    row     r, w, k, v, a, b, dy;
    int64_t T;
} sources;

static void take_chunk(const room *m, const sources *s, int64_t t, int64_t n) {
    take(m->r, s->r, t, n, m->K, m->P);
    take(m->w, s->w, t, n, m->K, m->P);
    take(m->k, s->k, t, n, m->K, m->P);
    take(m->a, s->a, t, n, m->K, m->P);
    take(m->b, s->b, t, n, m->K, m->P);
    take(m->v, s->v, t, n, m->V, m->V);
    take(m->dy, s->dy, t, n, m->V, m->V);
}

/* States before each chunk. */
static void keep_states(const room *m, const sources *s, row state) {
    bool   removes = s->a.at != NULL;
    float *S = m->states;
    memset(S, 0, (size_t)m->state * sizeof *S);
    for (int64_t i = 0; i < m->K && state.at; i++)
        for (int64_t v = 0; v < m->V; v++) S[v * m->P + i] = state.at[i * state.step + v];
    for (int64_t t = 0; t < s->T; t += CHUNK) {
        int64_t n = s->T - t < CHUNK ? s->T - t : CHUNK;
        memcpy(m->kept + t / CHUNK * m->state, S, (size_t)m->state * sizeof *S);
        take_chunk(m, s, t, n);
        for (int64_t c = 0; c < n; c++) move(m, S, S, c, removes);
    }
}

static void grad_chunk(const room *m, const sources *s, int64_t t, const qp_view *out, int64_t at, int64_t H,
                       float *du) {
    int64_t n = s->T - t < CHUNK ? s->T - t : CHUNK;
    bool    removes = s->a.at != NULL;
    take_chunk(m, s, t, n);
    memcpy(m->states, m->kept + t / CHUNK * m->state, (size_t)m->state * sizeof(float));
    for (int64_t c = 0; c < n; c++)
        move(m, m->states + c * m->state, m->states + (c + 1) * m->state, c, removes);
    for (int64_t c = n - 1; c >= 0; c--) {
        int64_t  to = (at + (t + c) * H) * m->K;
        rows_out o = {(float *)out[QK_WKV_DR].data + to, (float *)out[QK_WKV_DW].data + to,
                      (float *)out[QK_WKV_DK].data + to, NULL, NULL};
        if (removes) {
            o.da = (float *)out[QK_WKV_DA].data + to;
            o.db = (float *)out[QK_WKV_DB].data + to;
            memset(m->dv, 0, (size_t)m->V * sizeof(float));
            memset(m->dgone, 0, (size_t)m->V * sizeof(float));
            EACH_BLOCK(m->P, grad_rows_behind(m, c, &o, i, nv));
            EACH_BLOCK(m->P, grad_rows_removed(m, c, &o, i, nv));
        } else {
            float bonus = grad_bonus(m, c, du);
            EACH_BLOCK(m->P, grad_rows(m, c, &o, bonus, i, nv));
        }
        memcpy((float *)out[QK_WKV_DV].data + (at + (t + c) * H) * m->V, m->dv, (size_t)m->V * sizeof(float));
    }
}

static void grad_piece(void *arg, int64_t begin, int64_t end, int worker) {
    const job     *j = arg;
    const qp_view *in = j->in;
    int64_t        T = j->dy->shape[1], H = in[QK_WKV_K].shape[2], K = in[QK_WKV_K].shape[3],
                   V = in[QK_WKV_V].shape[3];
    room           m = room_at((float *)j->exec->scratch + (size_t)worker * j->floats, K, V);
    for (int64_t i = begin; i < end; i++) {
        int64_t b = i / H, h = i % H;
        sources s = {row_of(&in[QK_WKV_R], b, h), row_of(&in[QK_WKV_W], b, h),
                     row_of(&in[QK_WKV_K], b, h), row_of(&in[QK_WKV_V], b, h),
                     row_of(&in[QK_WKV_A], b, h), row_of(&in[QK_WKV_B], b, h),
                     row_of(j->dy, b, h),         T};
        float  *du = in[QK_WKV_U].data ? (float *)j->out[QK_WKV_DU].data + i * K : NULL;
        if (du) {
            take(m.u, (row){(const float *)in[QK_WKV_U].data + h * in[QK_WKV_U].stride[0], 0}, 0, 1, K, m.P);
            memset(du, 0, (size_t)K * sizeof *du);
        }
        keep_states(&m, &s, state_of(&in[QK_WKV_STATE], b, h));
        memset(m.G, 0, (size_t)m.state * sizeof(float));
        for (int64_t t = (T - 1) / CHUNK * CHUNK; t >= 0 && T; t -= CHUNK)
            grad_chunk(&m, &s, t, j->out, b * T * H + h, H, du);
    }
}

void QK(qk_wkv_grad_run)(const qp_exec *exec, const qp_view *in, const qp_view *dy, const qp_view *out) {
    job j = {.exec = exec,
             .in = in,
             .dy = dy,
             .out = out,
             .floats = room_size(dy->shape[1], in[QK_WKV_K].shape[3], in[QK_WKV_V].shape[3])};
    qp_parallel(exec, dy->shape[0] * dy->shape[2], 1, grad_piece, &j);
}

#if QP_BODY
size_t qk_wkv_grad_scratch(const qp_view *in, int threads) {
    return (size_t)threads * room_size(in[QK_WKV_K].shape[1], in[QK_WKV_K].shape[3], in[QK_WKV_V].shape[3]) *
           sizeof(float);
}
#endif
