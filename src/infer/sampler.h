#ifndef QUIPU_INFER_SAMPLER_H
#define QUIPU_INFER_SAMPLER_H

#include "core/core.h"
#include "quipu/infer.h"

/* Which option is out of its range; NULL: none is. */
const char *qpi_sampling_wrong(int64_t n, const qp_sampling *o);

/* What draws are made of: the probabilities of all n tokens behind biases, penalties and filters, to a sum of
 * about 1; of temperature 0, the likeliest alone. Logits stay. */
void qpi_sampler_chances(qp_sampler *s, const float *logits, float *p);
/* The next number of the request's stream, 0 to below 1; a token by p, of any sum. */
double qpi_sampler_uniform(qp_sampler *s);
int32_t qpi_sampler_pick(qp_sampler *s, const float *p);
/* The same from a stream of its own, for guesses: what they are drawn with decides nothing else. */
int32_t qpi_sampler_guess(qp_sampler *s, const float *p, int64_t n);
double qpi_sampler_temperature(const qp_sampler *s);
/* The token counts as seen and drawn. Returns it. */
int32_t qpi_sampler_take(qp_sampler *s, int32_t id);

#endif
