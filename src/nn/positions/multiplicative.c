/* A learned vector for each position that the input is multiplied with (Su 2021, "Transformer position
 * encodings that rack researchers' brains", kexue.fm/archives/8130): x_m (1 + w_m), so that weights near
 * 0, which weight decay leads to, leave the input as it is. */
#include "nn/positions/table.h"

static qp_tensor embed(void *self, qp_tensor x, const qp_sequence *s) {
    return qp_add(x, qp_mul(x, table_rows(self, x, s)));
}

QP_POSITION(multiplicative) = {
    .part = {.name = "multiplicative",
             .source = "kexue.fm/archives/8130",
             .help = "a learned vector for each position, which the input is multiplied with",
             .bytes = sizeof(position_table)},
    .shared = true,
    .init = table_init,
    .embed = embed};
