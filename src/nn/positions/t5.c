/* T5's relative bias (Raffel et al. 2019, arXiv:1910.10683): a learned number for each head and bucket of
 * distances, shared by all layers. The first half of the buckets holds one distance each, the rest grow
 * logarithmically up to max_distance; all beyond share the last. Where keys behind the query are seen, too,
 * they have half of the buckets.
 *
 * T5 does not scale its scores: its mixer says "scale": 1.
 */
#include <math.h>

#include "core/core.h"
#include "nn/part.h"

typedef struct {
    qp_tensor table;      /* [buckets, H] */
    qp_tensor columns[2]; /* i64 [2 m + 1]: the buckets of distances -m..m; both ways, causal */
} t5;

static const qp_option options[] = {
    {.name = "buckets", .kind = QP_OPTION_INT, .fallback = 32, .low = 4, .high = 1e6, .help = "of distances"},
    {.name = "max_distance",
     .kind = QP_OPTION_INT,
     .fallback = 128,
     .low = 1,
     .high = 1e6,
     .help = "from which on all share a bucket"},
    {0}};

/* Of a distance back; in f32, as T5 was trained. */
static int64_t bucket(int64_t back, int64_t buckets, int64_t max_distance) {
    int64_t exact = buckets / 2;
    if (back < exact) return back;
    if (back >= max_distance) return buckets - 1;
    float grown = logf((float)back / (float)exact) / (float)log((double)max_distance / (double)exact);
    return exact + (int64_t)fminf(grown * (float)(buckets - exact), (float)(buckets - exact - 1));
}

static void init(void *self, qp_build *b) {
    t5     *p = self;
    int64_t buckets = qp_setting_int(b, "buckets"), far = qp_setting_int(b, "max_distance"),
            count = 2 * far + 1;
    p->table = qp_param(b->module, "weight", b->init, 2, (int64_t[]){buckets, b->heads});
    for (int causal = 0; causal < 2; causal++) {
        p->columns[causal] = qp_module_keep(b->module, qp_empty(b->ctx, QP_I64, 1, &count));
        int64_t *column = qp_data_write(p->columns[causal]), half = buckets / 2;
        for (int64_t d = -far; column && d <= far; d++)
            column[d + far] = causal ? bucket(d < 0 ? -d : 0, buckets, far)
                                     : (d > 0 ? half : 0) + bucket(d < 0 ? -d : d, half, far);
    }
}

static void bias(void *self, qp_scores *scores, const qp_sequence *s) {
    t5       *p = self;
    int64_t   heads = qp_size(p->table, 1);
    qp_tensor by_head = qp_transpose(qp_cast(p->table, qp_dtype_of(scores->q)), 0, 1);
    (void)s;
    scores->mask.relative = qp_reshape(by_head, 3, (int64_t[]){heads, 1, -1});
    scores->mask.columns = p->columns[scores->mask.causal];
}

QP_POSITION(t5) = {.part = {.name = "t5",
                            .source = "arXiv:1910.10683",
                            .help = "a learned bias for each head and bucket of distances",
                            .options = options,
                            .bytes = sizeof(t5)},
                   .shared = true,
                   .init = init,
                   .bias = bias};
