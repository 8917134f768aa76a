/* FLASH, mixed chunk attention (Hua et al. 2022, arXiv:2202.10447): a gated attention unit whose weights are
 * quadratic within chunks of C positions and linear between them,
 *
 *   near[t] = sum over s in t's chunk of max(q1[t] k1[s] / C, 0)^2 v[s]
 *   far[t] = sum over s in earlier chunks of (q2[t] k2[s]) v[s] / C     (not causal: over all s, / T)
 *   o = (u * (near + far)) w_out^T, with u, v, q, k as in nn/gated.h
 *
 * so that cost and memory are linear in T.
 *
 * State: the sum of k2^T v over the chunks that are whole [S, E], and a window of C positions of k1, k2 and v. Steps
 * read it where it lies, chunk by chunk: bits depend neither on other rows nor on whether a prompt is new.
 */
#include "nn/gated.h"

typedef struct {
    qpi_gated g;
    bool      causal;
    int64_t   chunk;
} flash;

enum { NEAR_QUERY, NEAR_KEY, FAR_QUERY, FAR_KEY, SIDES };
enum { WHOLE, NEAR_KEYS, FAR_KEYS, VALUES };

static const qp_option options[] = {
    QPI_GATED_OPTIONS, OPTION_INT("chunk", 256, 1, 65536, "C, positions of a chunk"), {0}};

static void init(void *self, qp_build *b) {
    flash *m = self;
    m->causal = qp_setting(b, "causal") != 0;
    m->chunk = qp_setting_int(b, "chunk");
    qpi_gated_init(&m->g, b, "flash", SIDES,
                   (const char *const[]){"near_query", "near_key", "far_query", "far_key"});
}

static bool causal(const void *self) { return ((const flash *)self)->causal; }

/* [B, T, n] -> [B, chunks, C, n], zeros behind T. */
static qp_tensor chunked(qp_tensor x, int64_t chunk) {
    int64_t T = qp_size(x, 1), chunks = (T + chunk - 1) / chunk;
    if (T % chunk) x = qp_pad(x, 1, 0, chunks * chunk - T, 0);
    return qp_reshape(x, 4, (int64_t[]){qp_size(x, 0), chunks, chunk, qp_size(x, 2)});
}

static qp_tensor near_of(const flash *m, const qpi_gates *t) {
    int64_t   T = qp_size(t->v, 1), chunk = m->chunk < T ? m->chunk : T;
    qp_tensor seen = m->causal ? qpi_not_behind(t->v.ctx, chunk, chunk, 0) : QP_NONE;
    qp_tensor weights = qpi_square_weights(chunked(t->side[NEAR_QUERY], chunk),
                                           chunked(t->side[NEAR_KEY], chunk), 1 / (double)m->chunk, seen);
    qp_tensor y = qp_matmul(weights, chunked(t->v, chunk));
    y = qp_reshape(y, 3, (int64_t[]){qp_size(y, 0), qp_size(y, 1) * qp_size(y, 2), qp_size(y, 3)});
    return qp_size(y, 1) == T ? y : qp_slice(y, 1, 0, T, 1);
}

static qp_tensor far_of(const flash *m, const qpi_gates *t, const qp_sequence *s) {
    if (!m->causal) {
        qp_tensor sum = qp_matmul(qp_transpose(t->side[FAR_KEY], 1, 2), t->v);
        return qp_matmul(qp_div(t->side[FAR_QUERY], qpi_counted(t->v, s)), sum);
    }
    qp_linear_attention_options o = {.chunk = m->chunk};
    qp_tensor                   q = qp_affine(t->side[FAR_QUERY], 1 / (double)m->chunk, 0);
    return qpi_join_heads(qp_linear_attention(qpi_split_heads(q, 1), qpi_split_heads(t->side[FAR_KEY], 1),
                                              qpi_split_heads(t->v, 1), o, NULL));
}

static qp_tensor mix(const flash *m, const qpi_gates *t, const qp_sequence *s) {
    if (qp_failed(t->v.ctx)) return t->v; /* of no positions */
    qp_tensor near = near_of(m, t);
    return qp_size(t->v, 1) <= m->chunk && m->causal ? near : qp_add(near, far_of(m, t, s));
}

static qp_tensor forward(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s) {
    flash    *m = self;
    qpi_gates t = qpi_gated_project(&m->g, x, s);
    qp_tensor present = m->causal ? QP_NONE : qpi_present(x, s);
    if (!qpi_one_segment(s, "flash") || qp_size(x, 1) == 0) return x;
    if (!qp_is_none(present)) {
        present = qp_reshape(present, 3, (int64_t[]){qp_size(present, 0), qp_size(present, 1), 1});
        t.side[NEAR_KEY] = qpi_keep(t.side[NEAR_KEY], present, 0);
        t.side[FAR_KEY] = qpi_keep(t.side[FAR_KEY], present, 0);
    }
    return qpi_gated_end(&m->g, t.u, mix(m, &t, s), residual);
}

static void reserve(void *self, qp_ctx *ctx, int64_t rows, int64_t positions, qp_state *state) {
    flash *m = self;
    state->window = m->chunk;
    qp_state_add(state, ctx, false, 3, (int64_t[]){rows, m->g.width, m->g.inner});
    for (int i = NEAR_KEYS; i <= VALUES; i++)
        qp_state_add(state, ctx, true, 4,
                     (int64_t[]){rows, positions, 1, i == VALUES ? m->g.inner : m->g.width});
}

/* Some positions of a step's sequence, all of one chunk. */
typedef struct {
    int64_t b, from, to;        /* of the call */
    int64_t row, begin, places; /* of the state: the chunk's first place, places up to `to` */
} stretch;

static qp_tensor of_call(qp_tensor x, const stretch *at) {
    return qp_slice(qp_slice(x, 0, at->b, at->b + 1, 1), 1, at->from, at->to, 1);
}

/* [1, places, n], of v's type */
static qp_tensor of_state(const qp_state *state, int i, const stretch *at, qp_tensor v) {
    qp_tensor row = qp_slice(state->tensors[i], 0, at->row, at->row + 1, 1);
    return qpi_join_heads(qpi_like(qp_slice(row, 1, at->begin, at->begin + at->places, 1), v));
}

/* whole [1, S, E]: of the chunks before, if there are any */
static qp_tensor stretch_of(const flash *m, const qpi_gates *t, const qp_state *state, const stretch *at,
                            qp_tensor whole) {
    qp_tensor q = of_call(t->side[NEAR_QUERY], at), k = of_state(state, NEAR_KEYS, at, t->v), seen = QP_NONE;
    int64_t   n = at->to - at->from;
    if (n > 1) seen = qpi_not_behind(t->v.ctx, n, at->places, at->places - n);
    qp_tensor near =
        qp_matmul(qpi_square_weights(q, k, 1 / (double)m->chunk, seen), of_state(state, VALUES, at, t->v));
    if (qp_is_none(whole)) return near;
    return qp_add(near, qp_matmul(qp_affine(of_call(t->side[FAR_QUERY], at), 1 / (double)m->chunk, 0), whole));
}

/* Sequence b of the call, whose positions begin with `first`, in `place` of its row: into out [B, T, E]. Gives the sum
 * of whole chunks, *ended where there are more of them now. */
static qp_tensor sequence_of(const flash *m, const qpi_gates *t, const qp_state *state, stretch at,
                             int64_t first, int64_t place, qp_tensor out, bool *ended) {
    qp_ctx   *ctx = out.ctx;
    int64_t   T = qp_size(out, 1), C = m->chunk;
    qp_tensor whole = qp_slice(state->tensors[WHOLE], 0, at.b, at.b + 1, 1);
    for (at.from = 0; at.from < T && !qp_failed(ctx); at.from = at.to) {
        qp_scope scope = qp_enter(ctx);
        int64_t  position = first + at.from, inside = position % C;
        at.to = at.from + C - inside < T ? at.from + C - inside : T;
        at.begin = place + at.from - inside;
        at.places = inside + at.to - at.from;
        qp_copy_to(of_call(out, &at), stretch_of(m, t, state, &at, position < C ? QP_NONE : whole));
        if (at.places < C) {
            qp_leave(scope);
            break;
        }
        qp_tensor k = of_state(state, FAR_KEYS, &at, out), v = of_state(state, VALUES, &at, out);
        whole = qp_return(scope, qp_add(whole, qp_matmul(qp_transpose(k, 1, 2), v)));
        *ended = true;
    }
    return whole;
}

static qp_tensor step(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s, qp_state *state) {
    flash    *m = self;
    qpi_gates t = qpi_gated_project(&m->g, x, s);
    int64_t   B = qp_size(x, 0), T = qp_size(x, 1);
    qp_tensor starts = qp_is_none(state->starts) ? s->mask.starts : state->starts, wholes = QP_NONE;
    qp_tensor added[] = {t.side[NEAR_KEY], t.side[FAR_KEY], t.v},
              out = qp_empty(x.ctx, qp_dtype_of(t.v), 3, (int64_t[]){B, T, m->g.inner});
    for (int i = 0; i < 3; i++)
        qp_append(state->tensors[NEAR_KEYS + i], qpi_split_heads(added[i], 1), s->mask.rows, starts, s->counts);
    const int64_t *rows = qp_data_of(s->mask.rows), *first = qp_data_of(s->mask.starts),
                  *place = qp_data_of(starts);
    for (int64_t b = 0; b < B && !qp_failed(x.ctx); b++) {
        bool      ended = false;
        qp_tensor whole =
            sequence_of(m, &t, state, (stretch){.b = b, .row = rows[b]}, first[b], place[b], out, &ended);
        if (!ended) continue;
        if (qp_is_none(wholes)) wholes = qp_affine(state->tensors[WHOLE], 1, 0);
        qp_copy_to(qp_slice(wholes, 0, b, b + 1, 1), whole);
    }
    if (!qp_is_none(wholes)) qp_state_set(state, WHOLE, wholes);
    return qpi_gated_end(&m->g, t.u, out, residual);
}

QP_MIXER(flash) = {.part = {.name = "flash",
                            .source = "arXiv:2202.10447",
                            .help = "mixed chunk attention: a gated unit, quadratic in chunks, linear between",
                            .options = options,
                            .bytes = sizeof(flash)},
                   .causal = causal,
                   .init = init,
                   .forward = forward,
                   .reserve = reserve,
                   .step = step};
