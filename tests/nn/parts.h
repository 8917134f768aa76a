/* The registry's parts inside a small stack, for tests that hold for every part. */
#ifndef TESTS_NN_PARTS_H
#define TESTS_NN_PARTS_H

#include <jansson.h>

#include "quipu/quipu.h"

/* A stack of one layer, width 8 and 7 tokens: rope, attention, swiglu, rms_norm. */
json_t *parts_base(void);

/* Calls visit with the base's config, in which `role` is a part of the kind: each part with its default options
 * and with each switch, choice and number in turn; "outputs" stands beside the logits. */
void parts_walk(qp_part_kind kind, const char *role, void (*visit)(json_t *config, const char *what));

/* The same of one part. */
void parts_walk_one(const char *role, const qp_part *part, void (*visit)(json_t *config, const char *what));

#endif
