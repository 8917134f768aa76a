/* Nyströmformer (Xiong et al. 2021, arXiv:2102.03902): attention through M landmarks, the means q' and k' of M
 * stretches of queries and keys. With A = softmax(q' k'^T / sqrt(K)) [M, M],
 *
 *   o = softmax(q k'^T / sqrt(K)) A^+ softmax(q' k^T / sqrt(K)) v + a convolution of v over positions
 *
 * A^+ by six steps of Z <- Z (13 - A Z (15 - A Z (7 - A Z))) / 4 from Z = A^T / n, n the largest sum of a column
 * of A: that of the head or, as the authors' code and transformers have it, of all heads and sequences of
 * the call, where a result depends on its neighbours. The outer factors are attention over few keys and for few
 * queries: nothing of size T x M is kept. With no more than M positions: plain attention.
 *
 * Not causal: landmarks are means of what comes, too.
 */
#include <math.h>
#include <stdlib.h>

#include "nn/heads.h"

#define ROUNDS 6

typedef struct {
    qpi_heads heads;
    int64_t   landmarks, kernel;
    bool      together;
    qp_tensor conv; /* [H, kernel] */
} nystrom;

static const qp_option options[] = {
    QPI_HEADS_OPTIONS,
    OPTION_INT("landmarks", 64, 1, 4096, "M"),
    OPTION_INT("kernel", 65, 0, 1025, "positions that the convolution of the values spans; 0: none"),
    OPTION_CHOICE("norm", 1, "head|all", "whose columns the inverse starts from"),
    {0}};

static void init(void *self, qp_build *b) {
    nystrom *n = self;
    n->landmarks = qp_setting_int(b, "landmarks");
    n->kernel = qp_setting_int(b, "kernel");
    n->together = qp_setting_int(b, "norm") == 1;
    qpi_heads_init(&n->heads, b, "nystrom", 0);
    qp_module *conv = n->kernel ? qp_module_new(b->ctx, b->module, "conv") : NULL;
    if (conv) n->conv = qp_param(conv, "weight", b->init, 2, (int64_t[]){n->heads.heads, n->kernel});
}

/* How much of position t each stretch of a sequence of `length` holds, as [M, T]. */
static void fill_means(float *to, int64_t M, int64_t T, int64_t length) {
    for (int64_t m = 0; m < M; m++) {
        int64_t begin = m * length / M, end = (m + 1) * length / M;
        if (begin == end) end = begin + 1; /* fewer positions than landmarks */
        for (int64_t t = begin; t < end && t < length; t++) to[m * T + t] = 1 / (float)(end - begin);
    }
}

/* [1 or B, M, T] */
static qp_tensor means_of(const nystrom *n, qp_tensor x, const qp_sequence *s) {
    int64_t   T = qp_size(x, 1), B = qp_is_none(s->mask.lengths) ? 1 : qp_size(x, 0), M = n->landmarks;
    qp_tensor t = qp_zeros(x.ctx, QP_F32, 3, (int64_t[]){B, M, T});
    int64_t  *lengths = malloc((size_t)B * sizeof *lengths);
    float    *p = qp_data_write(t);
    if (!lengths) qp_fail(x.ctx, QP_ERR_MEMORY, "out of memory: nystrom");
    if (lengths) lengths[0] = T;
    if (lengths && !qp_is_none(s->mask.lengths) && qp_read(s->mask.lengths, QP_I64, lengths, B) != QP_OK)
        p = NULL;
    for (int64_t b = 0; b < B && p && lengths; b++) fill_means(p + b * M * T, M, T, lengths[b]);
    free(lengths);
    return qp_cast(t, qp_dtype_of(x));
}

/* [B, T, H, K] -> [B, M, H, K] */
static qp_tensor landmarks_of(const nystrom *n, qp_tensor x, const qp_sequence *s) {
    int64_t B = qp_size(x, 0), T = qp_size(x, 1), M = n->landmarks, H = n->heads.heads, K = n->heads.width;
    if (T % M == 0 && qp_is_none(s->mask.lengths))
        return qp_mean(qp_reshape(x, 5, (int64_t[]){B, M, T / M, H, K}), 1, (int[]){2}, false);
    qp_tensor y = qp_matmul(means_of(n, x, s), qp_reshape(x, 3, (int64_t[]){B, T, H * K}));
    return qp_reshape(y, 4, (int64_t[]){B, M, H, K});
}

static qp_tensor unit(qp_tensor like, double value) {
    int64_t   M = qp_size(like, -1);
    qp_tensor one = qp_one_hot(qp_arange(like.ctx, QP_I64, M), M, qp_dtype_of(like));
    return qp_affine(one, value, 0);
}

/* A [B, H, M, M] -> about its inverse */
static qp_tensor inverse(const nystrom *n, qp_tensor a) {
    qp_tensor seven = unit(a, 7), fifteen = unit(a, 15), thirteen = unit(a, 13);
    qp_tensor columns = qp_sum(a, 1, (int[]){2}, true), most = qp_max(columns, 3, true);
    if (n->together && qp_size(most, 0)) most = qp_max(qp_max(most, 1, true), 0, true);
    qp_tensor z = qp_div(qp_transpose(a, 2, 3), most);
    for (int i = 0; i < ROUNDS; i++) {
        qp_tensor az = qp_matmul(a, z), inner = qp_sub(fifteen, qp_matmul(az, qp_sub(seven, az)));
        z = qp_matmul(qp_affine(z, 0.25, 0), qp_sub(thirteen, qp_matmul(az, inner)));
    }
    return z;
}

static qp_tensor by_head(qp_tensor x) { return qp_transpose(x, 1, 2); }

static qp_tensor through_landmarks(const nystrom *n, qpi_qkv t, const qp_sequence *s, double scale) {
    qp_tensor q = landmarks_of(n, t.q, s), k = landmarks_of(n, t.k, s);
    qp_tensor a = qp_softmax(qp_matmul(qp_affine(by_head(q), scale, 0), qp_transpose(by_head(k), 2, 3)), -1);
    qp_tensor values = qp_attention(q, t.k, t.v, (qp_mask){.lengths = s->mask.lengths}, scale);
    values = by_head(qp_matmul(inverse(n, a), by_head(values)));
    return qp_attention(t.q, k, values, (qp_mask){0}, scale);
}

/* w [H, kernel] as products of blocks: [H, L, 2 L], row i with the weights from column i on. */
static qp_tensor bands(qp_tensor w, int64_t L) {
    int64_t   H = qp_size(w, 0), k = qp_size(w, 1);
    qp_tensor index = qp_empty(w.ctx, QP_I64, 2, (int64_t[]){L, 2 * L});
    int64_t  *at = qp_data_write(index);
    for (int64_t i = 0; at && i < L; i++)
        for (int64_t j = 0; j < 2 * L; j++) at[i * 2 * L + j] = j < i || j - i >= k ? k : j - i;
    qp_tensor padded = qp_contiguous(qp_transpose(qp_pad(w, 1, 0, 1, 0), 0, 1));
    qp_tensor rows = qp_embedding(padded, index);
    return qp_reshape(qp_permute(rows, (int[]){2, 0, 1}), 5, (int64_t[]){1, 1, H, L, 2 * L});
}

/* Each head's own weights along the positions, the middle one on the position itself: blocks of L positions,
 * each with the next, times a matrix of bands. */
static qp_tensor convolved(const nystrom *n, qp_tensor v, const qp_sequence *s) {
    int64_t   B = qp_size(v, 0), T = qp_size(v, 1), H = n->heads.heads, K = n->heads.width,
              L = n->kernel < 64 ? 64 : n->kernel;
    int64_t   blocks = (T + L - 1) / L, front = n->kernel / 2, shape[] = {B, blocks, L, H, K};
    qp_tensor x = qp_pad(qpi_keep(v, qpi_present(v, s), 0), 1, front, (blocks + 1) * L - T - front, 0);
    qp_tensor own = qp_reshape(qp_slice(x, 1, 0, blocks * L, 1), 5, shape);
    qp_tensor next = qp_reshape(qp_slice(x, 1, L, (blocks + 1) * L, 1), 5, shape);
    qp_tensor pair = qp_transpose(qp_concat(2, (qp_tensor[]){own, next}, 2), 2, 3);
    qp_tensor y = qp_transpose(qp_matmul(bands(n->conv, L), pair), 2, 3);
    return qp_slice(qp_reshape(y, 4, (int64_t[]){B, blocks * L, H, K}), 1, 0, T, 1);
}

static qp_tensor forward(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s) {
    nystrom *n = self;
    qpi_qkv  t = qpi_heads_project(&n->heads, x, s);
    double   scale = 1 / sqrt((double)n->heads.width);
    if (!qpi_one_segment(s, "nystrom")) return x;
    bool      few = qp_size(x, 1) <= n->landmarks;
    qp_tensor y = few ? qp_attention(t.q, t.k, t.v, (qp_mask){.lengths = s->mask.lengths}, scale)
                      : through_landmarks(n, t, s, scale);
    if (n->kernel) y = qp_add(y, convolved(n, t.v, s));
    return qpi_heads_end(&n->heads, y, residual);
}

QP_MIXER(nystrom) = {.part = {.name = "nystrom",
                              .source = "arXiv:2102.03902",
                              .help = "attention through landmarks and an iterated inverse; not causal",
                              .options = options,
                              .bytes = sizeof(nystrom)},
                     .init = init,
                     .forward = forward};
