/* What attention adds by the distance of a key from a query: see qp_mask.relative. */
#ifndef QUIPU_KERNELS_ATTENTION_RELATIVE_H
#define QUIPU_KERNELS_ATTENTION_RELATIVE_H

#include "kernels/attention_parts.h"

/* s[key - begin][lane] += the element of v, [B, H, T, C], that the distance of the key from the row's query
 * chooses; keys: v is [B, H, S, C]. */
void QK(attention_gather)(const attention_tile *t, const qp_view *v, bool keys, int64_t begin, int64_t end,
                          float *s);

#define ATTENTION_NEAR 8 /* query heads of a key head up to which tiles have a line */
#define ATTENTION_LINE (TILE + 130 * ATTENTION_NEAR) /* its floats; keys of a block: 128 at most */

/* The same in place of gather where all queries read one row of v: row j of what is to be added to
 * s[j - begin][lane] begins at p - (j - begin) * group, p in `room`. NULL: they do not. */
const float *QK(attention_line)(const attention_tile *t, const qp_view *v, int64_t begin, int64_t end,
                                float *room);

/* Its gradient: that element += s[key - begin][lane]. */
void QK(attention_scatter)(const attention_tile *t, const qp_view *v, bool keys, int64_t begin, int64_t end,
                           float *s);

/* out[column][lane] = sum of s[key - begin][lane] over the keys whose distance chooses the column. */
void QK(attention_sum_columns)(const attention_tile *t, int64_t begin, int64_t end, const float *s, float *out);

#endif
