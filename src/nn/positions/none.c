/* No position encoding: order is known through the causal mask alone (arXiv:2203.16634). */
#include "nn/part.h"

static void init(void *self, qp_build *b) {
    (void)self;
    (void)b;
}

QP_POSITION(none) = {.part = {.name = "none", .source = "arXiv:2203.16634", .help = "no encoding"},
                     .init = init};
