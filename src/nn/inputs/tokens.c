/* A learned vector for each token, scaled where the config says so (Vaswani et al. 2017, section 3.4:
 * times sqrt(D)); another for each token type is added (BERT: Devlin et al. 2018, arXiv:1810.04805),
 * type 0 where the caller gives no `token_type_ids`. */
#include "core/core.h"
#include "nn/part.h"

typedef struct {
    qp_nn_embedding *embed, *types;
    double           scale;
} tokens;

static const qp_option options[] = {{.name = "scale",
                                     .kind = QP_OPTION_NUMBER,
                                     .fallback = 1,
                                     .low = -1e6,
                                     .high = 1e6,
                                     .help = "times the token's vector"},
                                    {.name = "types",
                                     .kind = QP_OPTION_INT,
                                     .fallback = 0,
                                     .high = 1e6,
                                     .help = "token types (segments A, B, ..); 0: none"},
                                    {0}};

static void init(void *self, qp_build *b) {
    tokens *t = self;
    int64_t types = qp_setting_int(b, "types");
    t->scale = qp_setting(b, "scale");
    t->embed = qp_nn_embedding_new(b->module, "embed", b->vocabulary, b->width, b->init);
    if (types) t->types = qp_nn_embedding_new(b->module, "types", types, b->width, b->init);
}

static qp_tensor forward(void *self, qp_tensor ids, const qp_sequence *s) {
    tokens   *t = self;
    qp_tensor x = qp_nn_embedding_forward(t->embed, ids), types = qp_sequence_get(s, "token_type_ids");
    if (t->scale != 1) x = qp_affine(x, t->scale, 0);
    if (!t->types) return x;
    if (qp_is_none(types)) types = qp_zeros(x.ctx, QP_I64, 2, (int64_t[]){1, 1});
    return qp_add(x, qp_nn_embedding_forward(t->types, types));
}

static qp_tensor table(const void *self) { return qp_nn_embedding_weight(((const tokens *)self)->embed); }

QP_INPUT(tokens) = {.part = {.name = "tokens",
                             .source = "arXiv:1706.03762",
                             .help = "a learned vector for each token",
                             .options = options,
                             .bytes = sizeof(tokens)},
                    .init = init,
                    .forward = forward,
                    .table = table};
