#include "ops/attention_plain.h"

#include <math.h>
#include <string.h>

#if QP_BODY
static int64_t depth(const qk_attention *p, int64_t b, int64_t t) {
    int64_t ancestors = 0;
    while ((t = qk_integer(&p->parents, b, t)) >= 0) ancestors++;
    return ancestors;
}

static bool sees(const qk_attention *p, int64_t b, int64_t t, int64_t s) {
    int64_t start = qk_attention_start(p, b), place = start + t, key = s;
    if (p->lengths.ndim >= 0 && s >= qk_integer(&p->lengths, b, 0)) return false;
    if (p->segments.ndim >= 0 && qk_integer(&p->segments, b, s) != qk_integer(&p->segments, b, place))
        return false;
    if (s < p->prefix) return true;
    if (p->parents.ndim >= 0) {
        place = start + depth(p, b, t);
        if (s >= start) {
            while (t >= 0 && t != s - start) t = qk_integer(&p->parents, b, t);
            if (t < 0) return false;
            key = start + depth(p, b, t);
        }
    }
    if (p->pattern.block &&
        (place < 0 || !qk_pattern_sees(&p->pattern, p->causal, place / p->pattern.block, s / p->pattern.block)))
        return false;
    bool near = !p->window || (key > place - p->window && (p->causal || key < place + p->window));
    return (!p->causal || key <= place) && near;
}

static int64_t at4(const qp_view *v, int64_t a, int64_t b, int64_t c, int64_t d) {
    return a * v->stride[0] + b * v->stride[1] + c * v->stride[2] + d * v->stride[3];
}
static double load4(const qp_view *v, int64_t a, int64_t b, int64_t c, int64_t d) {
    return qp_load(v, at4(v, a, b, c, d));
}
static double load3(const qp_view *v, int64_t a, int64_t b, int64_t c) {
    return qp_load(v, a * v->stride[0] + b * v->stride[1] + c * v->stride[2]);
}
static void add4(const qp_view *v, int64_t a, int64_t b, int64_t c, int64_t d, double x) {
    if (v->ndim >= 0) qp_store(v, at4(v, a, b, c, d), qp_load(v, at4(v, a, b, c, d)) + x);
}

/* The key's place less the query's, clipped, as a column of n. */
static int64_t column(const qk_attention *p, int64_t b, int64_t t, int64_t s, int64_t n) {
    int64_t start = qk_attention_start(p, b), place = start + t, key = s;
    if (p->parents.ndim >= 0) {
        place = start + depth(p, b, t);
        if (s >= start && s - start < p->q.shape[1]) key = start + depth(p, b, s - start);
    }
    int64_t reach = ((p->columns.ndim < 0 ? n : p->columns.shape[0]) - 1) / 2, d = key - place;
    int64_t i = (d < -reach ? -reach : d > reach ? reach : d) + reach;
    return p->columns.ndim < 0 ? i : qk_integer(&p->columns, i, 0);
}

static double score_of(const qk_attention *p, double scale, double cap, int64_t b, int64_t t, int64_t h,
                       int64_t s) {
    double  dot = 0;
    int64_t g = h / (p->q.shape[2] / p->k.shape[2]), row = qk_attention_row(p, b);
    for (int64_t i = 0; i < p->q.shape[3]; i++) dot += load4(&p->q, b, t, h, i) * load4(&p->k, row, s, g, i);
    return cap > 0 ? cap * tanh(scale * dot / cap) : scale * dot;
}

/* One query's row of scores (-inf where masked) and their log-sum-exp. */
static double score_row(const qk_attention *p, double scale, double cap, int64_t b, int64_t t, int64_t h,
                        double *score) {
    double max = -INFINITY, sum = 0;
    for (int64_t s = 0; s < p->k.shape[1]; s++) {
        score[s] = score_of(p, scale, cap, b, t, h, s) + (p->bias.ndim < 0 ? 0 : load4(&p->bias, b, h, t, s));
        if (p->relative.ndim >= 0)
            score[s] += load4(&p->relative, b, h, t, column(p, b, t, s, p->relative.shape[3]));
        if (p->relative_keys.ndim >= 0)
            score[s] += load4(&p->relative_keys, b, h, s, column(p, b, t, s, p->relative_keys.shape[3]));
        if (!sees(p, b, t, s)) score[s] = -INFINITY; /* whatever its key is */
        max = fmax(max, score[s]);
    }
    if (max == -INFINITY) return max;
    for (int64_t s = 0; s < p->k.shape[1]; s++) sum += exp(score[s] - max);
    return max + log(sum);
}

/* Behind the scores is room for the sums. */
static void plain_sums(const qk_attention *p, int64_t r, double lse, double *score) {
    int64_t T = p->q.shape[1], H = p->q.shape[2], S = p->k.shape[1], n = p->sums.shape[3];
    double *sum = score + S;
    memset(sum, 0, (size_t)n * sizeof *sum);
    for (int64_t s = 0; s < S && lse != -INFINITY; s++)
        if (score[s] != -INFINITY) sum[column(p, r / (H * T), r / H % T, s, n)] += exp(score[s] - lse);
    for (int64_t i = 0; i < n; i++) qp_store(&p->sums, r * n + i, sum[i]);
}

void qpo_attention_plain(const qk_attention *p, double scale, double cap, double *score) {
    int64_t T = p->q.shape[1], H = p->q.shape[2], rows = p->q.shape[0] * T * H;
    for (int64_t r = 0; r < rows; r++) {
        int64_t h = r % H, t = r / H % T, b = r / (H * T);
        double  lse = score_row(p, scale, cap, b, t, h, score);
        qp_store(&p->lse, (b * H + h) * T + t, lse);
        for (int64_t i = 0; i < p->v.shape[3]; i++) {
            double sum = 0;
            for (int64_t s = 0; s < p->k.shape[1] && lse != -INFINITY; s++)
                if (score[s] != -INFINITY)
                    sum += exp(score[s] - lse) *
                           load4(&p->v, qk_attention_row(p, b), s, h / (H / p->k.shape[2]), i);
            qp_store(&p->out, r * p->v.shape[3] + i, sum);
        }
        if (p->sums.ndim >= 0) plain_sums(p, r, lse, score);
    }
}

static void grad_row(const qk_attention_grad *d, double scale, double cap, int64_t b, int64_t t, int64_t h,
                     double *score) {
    const qk_attention *p = &d->of;
    int64_t             g = h / (p->q.shape[2] / p->k.shape[2]);
    double              lse = load3(&p->lse, b, h, t), rest = d->dlse.ndim < 0 ? 0 : -load3(&d->dlse, b, h, t);
    score_row(p, scale, cap, b, t, h, score);
    for (int64_t i = 0; i < p->v.shape[3]; i++)
        rest += load4(&d->dout, b, t, h, i) * load4(&p->out, b, t, h, i);
    for (int64_t i = 0; d->dsums.ndim >= 0 && i < d->dsums.shape[3]; i++)
        rest += load4(&d->dsums, b, t, h, i) * load4(&p->sums, b, t, h, i);
    for (int64_t s = 0; s < p->k.shape[1]; s++) {
        if (score[s] == -INFINITY || lse == -INFINITY) continue;
        double weight = exp(score[s] - lse), slope = -rest;
        if (d->dsums.ndim >= 0) slope += load4(&d->dsums, b, t, h, column(p, b, t, s, d->dsums.shape[3]));
        for (int64_t i = 0; i < p->v.shape[3]; i++) {
            slope += load4(&d->dout, b, t, h, i) * load4(&p->v, b, s, g, i);
            add4(&d->dv, b, s, g, i, weight * load4(&d->dout, b, t, h, i));
        }
        slope *= weight;
        add4(&d->dbias, b, h, t, s, slope);
        add4(&d->drelative, b, h, t, column(p, b, t, s, d->drelative.shape[3]), slope);
        add4(&d->drelative_keys, b, h, s, column(p, b, t, s, d->drelative_keys.shape[3]), slope);
        if (cap > 0) slope *= 1 - pow(score_of(p, scale, cap, b, t, h, s) / cap, 2);
        for (int64_t i = 0; i < p->q.shape[3]; i++) {
            add4(&d->dq, b, t, h, i, scale * slope * load4(&p->k, b, s, g, i));
            add4(&d->dk, b, s, g, i, scale * slope * load4(&p->q, b, t, h, i));
        }
    }
}

void qpo_attention_plain_grad(const qk_attention_grad *d, double scale, double cap, double *score) {
    int64_t T = d->of.q.shape[1], H = d->of.q.shape[2], rows = d->of.q.shape[0] * T * H;
    for (int64_t r = 0; r < rows; r++) grad_row(d, scale, cap, r / (H * T), r / H % T, r % H, score);
}
#endif
