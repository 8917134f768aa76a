/* Learned absolute positions: a table added to the input (Gehring et al. 2017,
 * arXiv:1705.03122; GPT-2). */
#include "nn/positions/table.h"

static qp_tensor embed(void *self, qp_tensor x, const qp_sequence *s) {
    return qp_add(x, table_rows(self, x, s));
}

QP_POSITION(learned) = {.part = {.name = "learned",
                                 .source = "arXiv:1705.03122",
                                 .help = "a learned vector for each position, added to the input",
                                 .bytes = sizeof(position_table)},
                        .shared = true,
                        .init = table_init,
                        .embed = embed};
