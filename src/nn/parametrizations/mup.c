/* Maximal update parametrisation (Yang et al. 2022, arXiv:2203.03466, table 3; logits of tied weights: table 8): with
 * it features of every width move as far in a step, and the learning rate that is best for a narrow model is best for
 * a wide one.
 *
 *            initial variance   Adam's rate   SGD's rate
 *   input    1                  1             O
 *   hidden   1 / I              1 / I         1
 *   output   1 / I^2            1 / I         1 / I
 *
 * each times what makes it 1 at the base's width (O, I: a weight's rows and columns). Scores of attention are over K, not
 * sqrt(K): once trained, queries and keys are not independent. */
#include "nn/part.h"

static const qp_option options[] = {OPTION_INT("base", 64, 1, 1 << 24, "D at which it is the standard one"),
                                    {0}};

QP_PARAMETRIZATION(mup) = {.part = {.name = "mup",
                                    .source = "arXiv:2203.03466",
                                    .help = "features of all widths move alike: learning rates carry over",
                                    .options = options},
                           .input = {0, 0, 1},
                           .hidden = {-0.5, -1, 0},
                           .output = {-1, -1, -1},
                           .scores = -0.5,
                           .tied = -1};
