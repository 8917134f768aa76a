/* Gated attention unit (Hua et al. 2022, arXiv:2202.10447): one head whose values are as wide as a feed-forward
 * and gated like one, so that it replaces both mixer and feed-forward ("ffn": {"type": "none"}):
 *
 *   a[t, s] = max(q[t] k[s] / sqrt(S), 0)^2 / (number of positions that t sees)
 *   o = (u * a v) w_out^T, with u, v, q, k as in nn/gated.h
 *
 * (The paper divides q k by the length; the form here is that of kexue.fm 8934, whose weights do not
 * depend on what comes later.) All pairs of positions are formed: quadratic in T.
 *
 * State: keys and values of all positions so far.
 */
#include <math.h>

#include "nn/gated.h"

#define ROWS 256 /* queries that are taken together: keys behind them are not touched */

typedef struct {
    qpi_gated g;
    bool      causal;
} gau;

enum { QUERY, KEY, SIDES };

static const qp_option options[] = {QPI_GATED_OPTIONS, {0}};

static void init(void *self, qp_build *b) {
    gau *m = self;
    m->causal = qp_setting(b, "causal") != 0;
    qpi_gated_init(&m->g, b, "gau", SIDES, (const char *const[]){"query", "key"});
}

static bool causal(const void *self) { return ((const gau *)self)->causal; }

static double scale_of(const gau *m) { return 1 / sqrt((double)m->g.width); }

/* Queries from..to-1 and the keys before them. */
static qp_tensor causal_rows(const gau *m, const qpi_gates *t, int64_t from, int64_t to) {
    qp_ctx   *ctx = t->v.ctx;
    qp_tensor q = qp_slice(t->side[QUERY], 1, from, to, 1), k = qp_slice(t->side[KEY], 1, 0, to, 1);
    qp_tensor weights = qpi_square_weights(q, k, scale_of(m), qpi_not_behind(ctx, to - from, to, from));
    qp_tensor seen = qp_affine(qp_cast(qp_arange(ctx, QP_I64, to - from), qp_dtype_of(q)), 1, (double)from + 1);
    return qp_div(qp_matmul(weights, qp_slice(t->v, 1, 0, to, 1)),
                  qp_reshape(seen, 3, (int64_t[]){1, to - from, 1}));
}

static qp_tensor see_earlier(const gau *m, const qpi_gates *t) {
    qp_tensor part[64];
    int64_t   T = qp_size(t->v, 1), rows = T / 64 < ROWS ? ROWS : T / 64 + 1;
    int       n = 0;
    for (int64_t at = 0; at < T; at += rows) part[n++] = causal_rows(m, t, at, at + rows < T ? at + rows : T);
    return n == 1 ? part[0] : qp_concat(n, part, 1);
}

static qp_tensor see_all(const gau *m, const qpi_gates *t, const qp_sequence *s) {
    qp_tensor present = qpi_present(t->v, s);
    if (!qp_is_none(present))
        present = qp_reshape(present, 3, (int64_t[]){qp_size(present, 0), 1, qp_size(present, 1)});
    qp_tensor weights = qpi_square_weights(t->side[QUERY], t->side[KEY], scale_of(m), present);
    return qp_div(qp_matmul(weights, t->v), qpi_counted(t->v, s));
}

static qp_tensor forward(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s) {
    gau      *m = self;
    qpi_gates t = qpi_gated_project(&m->g, x, s);
    if (!qpi_one_segment(s, "gau") || qp_size(x, 1) == 0) return x;
    return qpi_gated_end(&m->g, t.u, m->causal ? see_earlier(m, &t) : see_all(m, &t, s), residual);
}

static void reserve(void *self, qp_ctx *ctx, int64_t rows, int64_t positions, qp_state *state) {
    gau *m = self;
    qp_state_add(state, ctx, true, 3, (int64_t[]){rows, positions, m->g.width});
    qp_state_add(state, ctx, true, 3, (int64_t[]){rows, positions, m->g.inner});
}

/* The first n positions of the call's rows of a cache, as numbers of this type. */
static qp_tensor held(qp_tensor cache, const qp_sequence *s, int64_t n, qp_dtype type) {
    qp_tensor all = qp_cast(qp_slice(cache, 1, 0, n, 1), type);
    int64_t   width = qp_size(all, 2);
    all = qp_embedding(qp_reshape(all, 2, (int64_t[]){qp_size(cache, 0), n * width}), s->mask.rows);
    return qp_reshape(all, 3, (int64_t[]){qp_size(all, 0), n, width});
}

static qp_tensor step(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s, qp_state *state) {
    gau      *m = self;
    qpi_gates t = qpi_gated_project(&m->g, x, s);
    if (!qp_is_none(s->mask.parents))
        qp_fail(x.ctx, QP_ERR_UNSUPPORTED, "gau: it reads no drafts (several guesses at once)");
    qp_append(state->tensors[0], t.side[KEY], s->mask.rows, s->mask.starts, s->counts);
    qp_append(state->tensors[1], t.v, s->mask.rows, s->mask.starts, s->counts);
    qp_tensor k = held(state->tensors[0], s, s->keys, qp_dtype_of(x)),
              v = held(state->tensors[1], s, s->keys, qp_dtype_of(x));
    qp_tensor place = qp_reshape(s->positions, 3, (int64_t[]){qp_size(s->positions, 0), qp_size(x, 1), 1});
    qp_tensor weights =
        qpi_square_weights(t.side[QUERY], k, scale_of(m), qp_le(qp_arange(x.ctx, QP_I64, s->keys), place));
    qp_tensor mixed = qp_div(qp_matmul(weights, v), qp_affine(qp_cast(place, qp_dtype_of(x)), 1, 1));
    return qpi_gated_end(&m->g, t.u, mixed, residual);
}

QP_MIXER(gau) = {.part = {.name = "gau",
                          .source = "arXiv:2202.10447, kexue.fm 8934",
                          .help = "gated attention unit: squared relu weights, mixer and feed-forward in one",
                          .options = options,
                          .bytes = sizeof(gau)},
                 .causal = causal,
                 .init = init,
                 .forward = forward,
                 .reserve = reserve,
                 .step = step};
