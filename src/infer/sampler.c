#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/simd.h"
#include "infer/sampler.h"

typedef struct {
    float   p;
    int32_t id;
} candidate;

struct qp_sampler {
    qpi_owned  *owned;
    int64_t     n;
    qp_sampling options;
    uint64_t    seed, draws, guesses;
    bool       *seen;
    int32_t    *drawn;      /* how often; NULL: nobody asks */
    candidate  *heap, *odd; /* odd: for typical_p, else NULL */
};

static void destroy(void *thing) {
    qp_sampler *s = thing;
    free((void *)s->options.bias);
    free(s->seen);
    free(s->drawn);
    free(s->heap);
    free(s->odd);
    free(s);
}

void qp_sampler_close(qp_sampler *s) {
    if (!s) return;
    qpi_disown(s->owned);
    destroy(s);
}

static bool share(double x) { return x >= 0 && x <= 1; }

static bool biases_fit(int64_t n, const qp_sampling *o) {
    if (o->bias_count < 0 || (o->bias_count && !o->bias)) return false;
    for (int i = 0; i < o->bias_count; i++)
        if (o->bias[i].id < 0 || o->bias[i].id >= n || isnan(o->bias[i].bias)) return false;
    return true;
}

const char *qpi_sampling_wrong(int64_t n, const qp_sampling *o) {
    if (n < 1 || n > INT32_MAX) return "vocabulary";
    if (!(o->temperature >= 0 && o->temperature < 1e6)) return "temperature";
    if (o->top_k < 0) return "top_k";
    if (!share(o->top_p)) return "top_p";
    if (!share(o->min_p)) return "min_p";
    if (!share(o->typical_p)) return "typical_p";
    if (!(o->repetition_penalty >= 0 && o->repetition_penalty < 1e6)) return "repetition_penalty";
    if (!(fabs(o->frequency_penalty) < 1e6)) return "frequency_penalty";
    if (!(fabs(o->presence_penalty) < 1e6)) return "presence_penalty";
    return biases_fit(n, o) ? NULL : "bias";
}

static bool allocate(qp_sampler *s) {
    const qp_sampling *o = &s->options;
    size_t             n = (size_t)s->n, biases = (size_t)o->bias_count * sizeof *o->bias;
    qp_logit_bias     *bias = malloc(biases + 1);
    if (bias && biases) memcpy(bias, o->bias, biases);
    s->options.bias = bias;
    s->seen = calloc(n, sizeof *s->seen);
    s->heap = malloc(n * sizeof *s->heap);
    bool counts = o->frequency_penalty != 0 || o->presence_penalty != 0,
         typical = o->typical_p > 0 && o->typical_p < 1;
    if (counts) s->drawn = calloc(n, sizeof *s->drawn);
    if (typical) s->odd = malloc(n * sizeof *s->odd);
    return bias && s->seen && s->heap && (s->drawn || !counts) && (s->odd || !typical);
}

qp_sampler *qp_sampler_new(qp_ctx *ctx, int64_t n, qp_sampling sampling, uint64_t seed) {
    if (qp_failed(ctx)) return NULL;
    const char *wrong = qpi_sampling_wrong(n, &sampling);
    if (wrong) {
        qp_fail(ctx, QP_ERR_ARGUMENT, "sampling: %s is out of range", wrong);
        return NULL;
    }
    qp_sampler *s = calloc(1, sizeof *s);
    if (s) *s = (qp_sampler){.n = n, .options = sampling, .seed = seed};
    if (!s || !allocate(s) || !(s->owned = qpi_own(ctx, s, destroy))) {
        if (s) destroy(s);
        qp_fail(ctx, QP_ERR_MEMORY, "out of memory: sampler");
        return NULL;
    }
    return s;
}

void qp_sampler_seen(qp_sampler *s, int32_t id) {
    if (id >= 0 && id < s->n) s->seen[id] = true;
}

/* The first of the largest; NaN is none. */
static int32_t likeliest(const float *logits, int64_t n) {
    enum { AT_ONCE = 4 };
    vf      most[AT_ONCE];
    float   top;
    int64_t i = 0;
    for (int k = 0; k < AT_ONCE; k++) most[k] = -VF_INF;
    for (; i + AT_ONCE * VF_LANES <= n; i += AT_ONCE * VF_LANES)
        for (int k = 0; k < AT_ONCE; k++) {
            vf x = vf_load(logits + i + k * VF_LANES);
            most[k] = vf_select(vf_gt(x, most[k]), x, most[k]);
        }
    top = vf_hmax(vf_max(vf_max(most[0], most[1]), vf_max(most[2], most[3])));
    for (; i < n; i++) top = logits[i] > top ? logits[i] : top;
    for (i = 0; i < n; i++)
        if (logits[i] == top) return (int32_t)i;
    return 0;
}

/* Biases and penalties. */
static void adjust(const qp_sampler *s, float *logits) {
    const qp_sampling *o = &s->options;
    double             penalty = o->repetition_penalty;
    for (int i = 0; i < o->bias_count; i++) logits[o->bias[i].id] += o->bias[i].bias;
    for (int64_t i = 0; i < s->n && penalty != 0 && penalty != 1; i++)
        if (s->seen[i]) logits[i] = (float)(logits[i] > 0 ? logits[i] / penalty : logits[i] * penalty);
    for (int64_t i = 0; i < s->n && s->drawn; i++)
        if (s->drawn[i]) logits[i] -= (float)(s->drawn[i] * o->frequency_penalty + o->presence_penalty);
}

/* ---- A heap with the likeliest on top; ties by id, so that a draw never depends on order ------ */

static bool before(candidate a, candidate b) { return a.p > b.p || (a.p == b.p && a.id < b.id); }

static void sink(candidate *heap, int64_t n, int64_t i) {
    candidate c = heap[i];
    for (int64_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && before(heap[child + 1], heap[child])) child++;
        if (!before(heap[child], c)) break;
        heap[i] = heap[child];
    }
    heap[i] = c;
}

/* Takes the likeliest out, one by one, to the end of the array, until they are top_k or hold
 * top_p of `all`; returns how many, their sum in *total. They lie in heap[n - count .. n - 1]. */
static int64_t take_likeliest(candidate *heap, int64_t n, int64_t top_k, double top_p, double all,
                              double *total) {
    double  sum = 0;
    int64_t count = 0;
    bool    nucleus = top_p > 0 && top_p < 1;
    for (int64_t i = n / 2; i-- > 0;) sink(heap, n, i);
    if (top_k == 0 || top_k > n) top_k = n;
    while (count < top_k && !(nucleus && top_k == n && sum >= top_p * all)) {
        candidate best = heap[0];
        int64_t   left = n - ++count;
        heap[0] = heap[left];
        heap[left] = best;
        sink(heap, left, 0);
        sum += best.p;
    }
    if (nucleus && top_k < n) { /* the share is of the top k */
        double  kept = 0;
        int64_t i = 0;
        while (i < count && kept < top_p * sum) kept += heap[n - ++i].p;
        count = i;
        sum = kept;
    }
    *total = sum;
    return count;
}

/* Of those taken, without the ones below `least`. */
static int64_t drop_unlikely(const candidate *heap, int64_t n, int64_t count, float least, double *total) {
    while (count > 1 && heap[n - count].p < least) *total -= heap[n - count--].p;
    return count;
}

/* Of `count` candidates the fewest that hold the share, the least surprising first: to the front. Their
 * number; their sum in *total. */
static int64_t take_typical(qp_sampler *s, candidate *from, int64_t count, double *total) {
    double  sum = 0, mean = 0, kept = 0;
    int64_t taken = 0;
    for (int64_t i = 0; i < count; i++) sum += from[i].p;
    for (int64_t i = 0; i < count; i++) mean -= from[i].p / sum * log(from[i].p / sum);
    for (int64_t i = 0; i < count; i++)
        s->odd[i] = (candidate){-(float)fabs(-log(from[i].p / sum) - mean), (int32_t)i};
    for (int64_t i = count / 2; i-- > 0;) sink(s->odd, count, i);
    for (float last = 1;
         taken < count && (last == s->odd[0].p || kept < s->options.typical_p * sum || !taken);) {
        candidate best = s->odd[0];
        int64_t   left = count - ++taken;
        last = best.p; /* who is as odd as the last stays too */
        s->odd[0] = s->odd[left];
        s->odd[left] = (candidate){from[best.id].p, from[best.id].id};
        kept += from[best.id].p;
        sink(s->odd, left, 0);
    }
    for (int64_t i = 0; i < taken; i++) from[i] = s->odd[count - 1 - i];
    *total = kept;
    return taken;
}

#define DRAWS 0x73616d706c65u /* streams */
#define GUESSES 0x6775657373u

static double random_at(const qp_sampler *s, uint64_t stream, uint64_t step) {
    uint32_t word[4];
    qpi_philox(s->seed, stream, step, word);
    return ((double)word[0] + (double)word[1] * 0x1p-32) * 0x1p-32;
}

double qpi_sampler_uniform(qp_sampler *s) { return random_at(s, DRAWS, s->draws++); }

/* ---- Probabilities, of any sum ------------------------------------------------------------------------ */

#define BLOCK 64 /* tokens looked at together: most of them hold nothing that counts */

static int64_t block_at(int64_t i, int64_t n) { return n - i < BLOCK ? n - i : BLOCK; }

static inline vf soft(vf x) { return vf_select(vf_gt(x, vf_set1(-104.0f)), vf_exp(x), (vf){0}); }

/* Logits become e^((l - best) / T): 1 for the best, also where it is infinite, 0 for NaN; where all are NaN the first
 * stays so, which tells of it. */
static void soften(float *l, int64_t n, int32_t best, double temperature) {
    float   t = fmaxf((float)temperature, 1e-30f), top = l[best];
    int64_t i = 0;
    for (; i + VF_LANES <= n; i += VF_LANES) vf_store(l + i, soft((vf_load(l + i) - top) / t));
    if (i < n) vf_store_n(l + i, soft((vf_load_n(l + i, (int)(n - i)) - top) / t), (int)(n - i));
    l[best] = isnan(top) ? top : 1;
}

static float most_of(const float *p, int64_t n) {
    vf      most = {0};
    float   top = 0;
    int64_t i = 0;
    for (; i + VF_LANES <= n; i += VF_LANES) most = vf_max(most, vf_load(p + i));
    for (; i < n; i++) top = p[i] > top ? p[i] : top;
    float m = vf_hmax(most);
    return m > top ? m : top;
}

static double sum_of(const float *p, int64_t n) {
    double  sum[4] = {0};
    int64_t i = 0;
    for (; i + 4 <= n; i += 4)
        for (int k = 0; k < 4; k++) sum[k] += p[i + k];
    for (; i < n; i++) sum[0] += p[i];
    return sum[0] + sum[1] + (sum[2] + sum[3]);
}

/* The token at share u of the sum; the last that can be where rounding leaves none. */
static int32_t pick(const float *p, int64_t n, double u) {
    double  at = u * sum_of(p, n), sum = 0;
    int32_t drawn = 0;
    for (int64_t i = 0; i < n && !(sum > at); i += BLOCK) {
        int64_t m = block_at(i, n);
        double  block = sum_of(p + i, m);
        bool    here = sum + block > at || i + m == n;
        for (int64_t k = i; k < i + m && here && !(sum > at); k++) {
            sum += p[k];
            if (p[k] > 0) drawn = (int32_t)k;
        }
        if (!here) sum += block;
    }
    return drawn;
}

/* ---- Which are left ------------------------------------------------------------------------------------ */

static bool cuts(const qp_sampling *o) { return o->top_k > 0 || (o->top_p > 0 && o->top_p < 1); }

/* No more than what the k-th likeliest has: of the blocks' likeliest the k-th. */
static float least_of(qp_sampler *s, const float *p, int64_t k) {
    int64_t blocks = 0;
    double  total;
    if (k > s->n / BLOCK) return 0;
    for (int64_t i = 0; i < s->n; i += BLOCK)
        s->heap[blocks++] = (candidate){most_of(p + i, block_at(i, s->n)), (int32_t)i};
    return s->heap[blocks - take_likeliest(s->heap, blocks, k, 0, 0, &total)].p;
}

/* What is below is none of those that the filters leave. Tokens with less than their share of 1 - top_p hold less than
 * 1 - top_p together (but for rounding). */
static float least_that_counts(qp_sampler *s, const float *p, double all) {
    const qp_sampling *o = &s->options;
    if (o->top_k > 0) return least_of(s, p, o->top_k);
    return (float)(cuts(o) ? 0.99 * (1 - o->top_p) * all / (double)s->n : o->min_p);
}

/* The candidates that are left, in the order in which they are counted through: *step is 1 or -1. */
static const candidate *candidates(qp_sampler *s, const float *p, int64_t *count, int *step, double *total) {
    const qp_sampling *o = &s->options;
    double             all = sum_of(p, s->n);
    float              least = least_that_counts(s, p, all);
    int64_t            n = 0;
    candidate         *first = s->heap;
    for (int64_t i = 0; i < s->n; i += BLOCK) {
        int64_t m = block_at(i, s->n);
        bool    some = most_of(p + i, m) >= least;
        for (int64_t k = i; k < i + m && some; k++)
            if (p[k] > 0 && p[k] >= least) s->heap[n++] = (candidate){p[k], (int32_t)k};
    }
    *count = n;
    if (cuts(o)) {
        for (int64_t i = 0; i < n && o->top_k > 0; i++) all = (i ? all : 0) + s->heap[i].p;
        *count = take_likeliest(s->heap, n, o->top_k, o->top_p, all, total);
        *count = drop_unlikely(s->heap, n, *count, (float)o->min_p, total);
        first = s->heap + n - *count;
    }
    *step = cuts(o) && !s->odd ? -1 : 1;
    if (s->odd) *count = take_typical(s, first, *count, total);
    return *step < 0 ? s->heap + n - 1 : first;
}

/* Without those whose chance is below min_p of the likeliest's, which is 1. */
static void drop_below(float *p, int64_t n, float least) {
    for (int64_t i = 0; i < n && least > 0; i++) p[i] = p[i] >= least ? p[i] : 0;
}

static int32_t draw(qp_sampler *s, float *p) {
    double  total, sum = 0, u = qpi_sampler_uniform(s);
    int64_t count;
    int     step;
    int32_t drawn = 0;
    if (!cuts(&s->options) && !s->odd) {
        drop_below(p, s->n, (float)s->options.min_p);
        return pick(p, s->n, u);
    }
    const candidate *c = candidates(s, p, &count, &step, &total);
    for (int64_t i = 0; i < count && !(sum > u * total); i++, c += step) {
        sum += c->p;
        drawn = c->id;
    }
    return drawn;
}

int32_t qp_sampler_draw(qp_sampler *s, float *logits) {
    adjust(s, logits);
    int32_t best = likeliest(logits, s->n);
    if (!(s->options.temperature > 0)) return qpi_sampler_take(s, best);
    soften(logits, s->n, best, s->options.temperature);
    return qpi_sampler_take(s, draw(s, logits));
}

int32_t qpi_sampler_take(qp_sampler *s, int32_t id) {
    s->seen[id] = true;
    if (s->drawn) s->drawn[id]++;
    return id;
}

/* ---- Probabilities as such: for rules that accept guesses ----------------------------------------- */

double qpi_sampler_temperature(const qp_sampler *s) { return s->options.temperature; }

void qpi_sampler_chances(qp_sampler *s, const float *logits, float *p) {
    memcpy(p, logits, (size_t)s->n * sizeof *p);
    adjust(s, p);
    int32_t best = likeliest(p, s->n);
    if (!(s->options.temperature > 0)) {
        memset(p, 0, (size_t)s->n * sizeof *p);
        p[best] = 1;
        return;
    }
    soften(p, s->n, best, s->options.temperature);
    if (!cuts(&s->options) && !s->odd) {
        drop_below(p, s->n, (float)s->options.min_p);
        double total = sum_of(p, s->n);
        for (int64_t i = 0; i < s->n; i++) p[i] = (float)(p[i] / total);
        return;
    }
    int64_t          count;
    int              step;
    double           total;
    const candidate *c = candidates(s, p, &count, &step, &total);
    memset(p, 0, (size_t)s->n * sizeof *p);
    for (int64_t i = 0; i < count; i++, c += step) p[c->id] = (float)(c->p / total);
}

int32_t qpi_sampler_pick(qp_sampler *s, const float *p) { return pick(p, s->n, qpi_sampler_uniform(s)); }

int32_t qpi_sampler_guess(qp_sampler *s, const float *p, int64_t n) {
    return pick(p, n, random_at(s, GUESSES, s->guesses++));
}

/* ---- Logarithms of probabilities ---------------------------------------------------------------- */

void qp_logprobs(const float *logits, int64_t n, int32_t id, int top, qp_logprob *out) {
    float  max = logits[likeliest(logits, n)];
    double sum = 0;
    int    count = 0;
    for (int64_t i = 0; i < n; i++) sum += exp((double)(logits[i] - max));
    double lse = max + log(sum);
    for (int64_t i = 0; i < n && top > 0; i++) {
        if (count == top && !(logits[i] > out[top].logprob)) continue;
        int at = count < top ? ++count : top;
        for (; at > 1 && logits[i] > out[at - 1].logprob; at--) out[at] = out[at - 1];
        out[at] = (qp_logprob){(int32_t)i, logits[i]};
    }
    for (int i = 1; i <= count; i++) out[i].logprob = (float)(out[i].logprob - lse);
    out[0] = (qp_logprob){id, (float)(logits[id] - lse)};
}
