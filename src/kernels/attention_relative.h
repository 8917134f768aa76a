/* What attention adds by the distance of a key from a query: see qp_mask.relative. */
#ifndef QUIPU_KERNELS_ATTENTION_RELATIVE_H
#define QUIPU_KERNELS_ATTENTION_RELATIVE_H

#include "kernels/attention_parts.h"

/* s[key - begin][lane] += the element of v, [B, H, T, C], that the distance of the key from the row's query
 * chooses; keys: v is [B, H, S, C]. */
void QK(attention_gather)(const attention_tile *t, const qp_view *v, bool keys, int64_t begin, int64_t end, float *s);

/* Its gradient: that element += s[key - begin][lane]. */
void QK(attention_scatter)(const attention_tile *t, const qp_view *v, bool keys, int64_t begin, int64_t end, float *s);

/* out[column][lane] = sum of s[key - begin][lane] over the keys whose distance chooses the column. */
void QK(attention_sum_columns)(const attention_tile *t, int64_t begin, int64_t end, const float *s, float *out);

#endif
