/* FLASH, mixed chunk attention (Hua et al. 2022, arXiv:2202.10447): a gated attention unit whose weights are
 * quadratic within chunks of C positions and linear between them,
 *
 *   near[t] = sum over s in t's chunk of max(q1[t] k1[s] / C, 0)^2 v[s]
 *   far[t] = sum over s in earlier chunks of (q2[t] k2[s]) v[s] / C     (not causal: over all s, / T)
 *   o = (u * (near + far)) w_out^T, with u, v, q, k as in nn/gated.h
 *
 * so that cost and memory are linear in T.
 *
 * State, of fixed size: the sums of the chunks that are whole and of the present one [S, E] each, and the
 * present chunk's k1 and v.
 */
#include <stdlib.h>
#include <string.h>

#include "nn/gated.h"

typedef struct {
    qpi_gated g;
    bool      causal;
    int64_t   chunk;
} flash;

enum { NEAR_QUERY, NEAR_KEY, FAR_QUERY, FAR_KEY, SIDES };
enum { WHOLE, PRESENT, KEYS, VALUES };

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
    (void)positions;
    qp_state_add(state, ctx, false, 3, (int64_t[]){rows, m->g.width, m->g.inner});
    qp_state_add(state, ctx, false, 3, (int64_t[]){rows, m->g.width, m->g.inner});
    qp_state_add(state, ctx, false, 3, (int64_t[]){rows, m->chunk, m->g.width});
    qp_state_add(state, ctx, false, 3, (int64_t[]){rows, m->chunk, m->g.inner});
}

/* k^T v of positions from..to-1 */
static qp_tensor sum_of(const qpi_gates *t, int64_t from, int64_t to) {
    return qp_matmul(qp_transpose(qp_slice(t->side[FAR_KEY], 1, from, to, 1), 1, 2),
                     qp_slice(t->v, 1, from, to, 1));
}

/* The states behind a whole sequence. */
static void keep_all(const flash *m, const qpi_gates *t, qp_state *state) {
    int64_t T = qp_size(t->v, 1), from = (T - 1) / m->chunk * m->chunk, rest = m->chunk - (T - from);
    if (from) qp_state_set(state, WHOLE, sum_of(t, 0, from));
    qp_state_set(state, PRESENT, sum_of(t, from, T));
    qp_state_set(state, KEYS, qp_pad(qp_slice(t->side[NEAR_KEY], 1, from, T, 1), 1, 0, rest, 0));
    qp_state_set(state, VALUES, qp_pad(qp_slice(t->v, 1, from, T, 1), 1, 0, rest, 0));
}

/* One position of each row, whose places in their chunks may differ; now: the states, renewed. */
static qp_tensor one(const flash *m, const qpi_gates *t, qp_tensor place, qp_tensor now[4]) {
    qp_ctx   *ctx = place.ctx;
    qp_tensor none = qp_scalar(ctx, qp_dtype_of(t->v), 0),
              slots = qp_reshape(qp_arange(ctx, QP_I64, m->chunk), 3, (int64_t[]){1, m->chunk, 1});
    qp_tensor first = qp_eq(place, qp_scalar(ctx, QP_I64, 0)), own = qp_eq(slots, place);
    now[WHOLE] = qp_add(now[WHOLE], qp_where(first, now[PRESENT], none));
    now[PRESENT] = qp_add(qp_where(first, none, now[PRESENT]), sum_of(t, 0, 1));
    now[KEYS] = qp_where(own, t->side[NEAR_KEY], now[KEYS]);
    now[VALUES] = qp_where(own, t->v, now[VALUES]);
    qp_tensor seen = qp_transpose(qp_le(slots, place), 1, 2);
    qp_tensor near =
        qp_matmul(qpi_square_weights(t->side[NEAR_QUERY], now[KEYS], 1 / (double)m->chunk, seen), now[VALUES]);
    return qp_add(near, qp_matmul(qp_affine(t->side[FAR_QUERY], 1 / (double)m->chunk, 0), now[WHOLE]));
}

static qp_tensor one_by_one(const flash *m, const qpi_gates *t, const qp_sequence *s, qp_state *state) {
    qp_ctx   *ctx = t->v.ctx;
    int64_t   B = qp_size(t->v, 0), T = qp_size(t->v, 1);
    qp_tensor now[4], out = qp_empty(ctx, qp_dtype_of(t->v), 3, (int64_t[]){B, T, m->g.inner});
    qp_tensor position = qp_expand(s->positions, 2, (int64_t[]){B, T});
    int64_t  *place = malloc((size_t)(B * T) * sizeof *place);
    if (!place || qp_read(position, QP_I64, place, B * T) != QP_OK) {
        qp_fail(ctx, QP_ERR_MEMORY, "out of memory: flash");
        free(place);
        return out;
    }
    for (int64_t i = 0; i < B * T; i++) place[i] %= m->chunk;
    qp_tensor places = qp_from(ctx, QP_I64, 3, (int64_t[]){B, T, 1}, place);
    free(place);
    memcpy(now, state->tensors, sizeof now);
    for (int64_t i = 0; i < T && !qp_failed(ctx); i++) {
        qp_scope  scope = qp_enter(ctx);
        qpi_gates at = {.v = qp_slice(t->v, 1, i, i + 1, 1)};
        for (int k = 0; k < SIDES; k++) at.side[k] = qp_slice(t->side[k], 1, i, i + 1, 1);
        qp_copy_to(qp_slice(out, 1, i, i + 1, 1), one(m, &at, qp_slice(places, 1, i, i + 1, 1), now));
        qp_return_many(scope, now, 4);
    }
    for (int i = 0; i < 4; i++) qp_state_set(state, i, now[i]);
    return out;
}

static qp_tensor step(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s, qp_state *state) {
    flash    *m = self;
    qpi_gates t = qpi_gated_project(&m->g, x, s);
    qp_tensor mixed;
    if (s->keys == qp_size(x, 1)) { /* every row begins */
        mixed = mix(m, &t, s);
        keep_all(m, &t, state);
    } else mixed = one_by_one(m, &t, s, state);
    return qpi_gated_end(&m->g, t.u, mixed, residual);
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
