#include <math.h>
#include <stdlib.h>

#include "core/core.h"
#include "quipu/infer.h"

typedef struct {
    float   p;
    int32_t id;
} candidate;

struct qp_sampler {
    qpi_owned  *owned;
    int64_t     n;
    qp_sampling options;
    uint64_t    seed, draws;
    bool       *seen;
    candidate  *heap;
};

static void destroy(void *thing) {
    qp_sampler *s = thing;
    free(s->seen);
    free(s->heap);
    free(s);
}

void qp_sampler_close(qp_sampler *s) {
    if (!s) return;
    qpi_disown(s->owned);
    destroy(s);
}

static bool check(qp_ctx *ctx, int64_t n, const qp_sampling *o) {
    const char *wrong = n < 1 || n > INT32_MAX                                         ? "vocabulary"
                        : !(o->temperature >= 0 && o->temperature < 1e6)               ? "temperature"
                        : o->top_k < 0                                                 ? "top_k"
                        : !(o->top_p >= 0 && o->top_p <= 1)                            ? "top_p"
                        : !(o->min_p >= 0 && o->min_p <= 1)                            ? "min_p"
                        : !(o->repetition_penalty >= 0 && o->repetition_penalty < 1e6) ? "repetition_penalty"
                                                                                       : NULL;
    if (wrong) qp_fail(ctx, QP_ERR_ARGUMENT, "sampling: %s is out of range", wrong);
    return !wrong;
}

qp_sampler *qp_sampler_new(qp_ctx *ctx, int64_t n, qp_sampling sampling, uint64_t seed) {
    if (qp_failed(ctx) || !check(ctx, n, &sampling)) return NULL;
    qp_sampler *s = calloc(1, sizeof *s);
    if (s) {
        s->seen = calloc((size_t)n, sizeof *s->seen);
        s->heap = malloc((size_t)n * sizeof *s->heap);
    }
    if (!s || !s->seen || !s->heap || !(s->owned = qpi_own(ctx, s, destroy))) {
        if (s) destroy(s);
        qp_fail(ctx, QP_ERR_MEMORY, "out of memory: sampler");
        return NULL;
    }
    s->n = n;
    s->options = sampling;
    s->seed = seed;
    return s;
}

void qp_sampler_seen(qp_sampler *s, int32_t id) {
    if (id >= 0 && id < s->n) s->seen[id] = true;
}

static int32_t likeliest(const float *logits, int64_t n) {
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        if (logits[i] > logits[best] || logits[best] != logits[best]) best = i;
    return (int32_t)best;
}

static void penalise(const qp_sampler *s, float *logits) {
    double penalty = s->options.repetition_penalty;
    if (penalty == 0 || penalty == 1) return;
    for (int64_t i = 0; i < s->n; i++)
        if (s->seen[i]) logits[i] = (float)(logits[i] > 0 ? logits[i] / penalty : logits[i] * penalty);
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
 * top_p; returns how many, their sum in *total. They lie in heap[n - count .. n - 1]. */
static int64_t take_likeliest(candidate *heap, int64_t n, int64_t top_k, double top_p, double *total) {
    double  all = 0, sum = 0;
    int64_t count = 0;
    bool    nucleus = top_p > 0 && top_p < 1;
    for (int64_t i = n / 2; i-- > 0;) sink(heap, n, i);
    if (top_k == 0 || top_k > n) top_k = n;
    if (nucleus && top_k == n)
        for (int64_t i = 0; i < n; i++) all += heap[i].p;
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

int32_t qp_sampler_draw(qp_sampler *s, float *logits) {
    const qp_sampling *o = &s->options;
    penalise(s, logits);
    int32_t best = likeliest(logits, s->n), drawn = best;
    if (o->temperature > 0) {
        uint32_t word[4];
        int64_t  n = 0;
        double   total = 0, u;
        float    least = (float)o->min_p;
        bool     cut = o->top_k > 0 || (o->top_p > 0 && o->top_p < 1);
        for (int64_t i = 0; i < s->n; i++) {
            float p = (float)exp((logits[i] - logits[best]) / o->temperature);
            if (p > 0 && (cut || p >= least)) s->heap[n++] = (candidate){p, (int32_t)i};
        }
        qpi_philox(s->seed, 0x73616d706c65u, s->draws++, word);
        u = ((double)word[0] + (double)word[1] * 0x1p-32) * 0x1p-32;
        int64_t count = n;
        if (cut) {
            count = take_likeliest(s->heap, n, o->top_k, o->top_p, &total);
            count = drop_unlikely(s->heap, n, count, least, &total);
        } else {
            for (int64_t i = 0; i < n; i++) total += s->heap[i].p;
        }
        double sum = 0;
        for (int64_t i = 0; i < count; i++) {
            candidate c = s->heap[cut ? n - 1 - i : i];
            sum += c.p;
            drawn = c.id;
            if (sum > u * total) break;
        }
    }
    s->seen[drawn] = true;
    return drawn;
}
