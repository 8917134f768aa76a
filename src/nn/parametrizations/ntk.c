/* The neural tangent kernel's parametrisation (Jacot, Gabriel & Hongler 2018, arXiv:1806.07572): y = W x / sqrt(I), W of
 * deviation 1. What W / sqrt(I) does under an optimiser is the same with W of deviation 1 / sqrt(I) and
 *
 *   a learning rate over sqrt(I) with Adam, whose steps are as large whatever the gradient is
 *   a learning rate over I with SGD, where the gradient has become smaller, too
 *
 * so that is what is done, and products and files stay as they are. With it a model's function moves, its features at
 * infinite width do not (Yang & Hu 2020, arXiv:2011.14522, table 1). */
#include "nn/part.h"

static const qp_option options[] = {OPTION_INT("base", 64, 1, 1 << 24, "D at which it is the standard one"),
                                    {0}};

QP_PARAMETRIZATION(ntk) = {.part = {.name = "ntk",
                                    .source = "arXiv:1806.07572",
                                    .help = "weights of deviation 1, products over the root of their fan-in",
                                    .options = options},
                           .hidden = {-0.5, -0.5, -1},
                           .output = {-0.5, -0.5, -1},
                           .tied = -0.5};
