/* Standard: initial deviations as the initialisation says, one learning rate for all. */
#include "nn/part.h"

QP_PARAMETRIZATION(standard) = {.part = {.name = "standard",
                                         .source = "torch.nn",
                                         .help = "one learning rate for all, deviations as `init` says"}};
