/* quipu/ops.h: the ops, pure functions of tensors, whose results are new tensors (or views) of the current
 * scope.
 *
 * Axes count from 0, negative from the end. "Broadcast" is NumPy's and PyTorch's rule. Every op
 * differentiates unless marked (no gradient).
 *
 * Types: the inputs of a call have one type, and the result has it, unless said otherwise. Kernels are for
 * f32; what no kernel takes runs the op's definition in double precision and is rounded to the result's type.
 * Elementwise ops, comparisons, shapes and indexing take integers and bool, too, which compute as doubles;
 * products, norms and losses take floats. Block types go through casts, linear, grouped_linear, embedding and
 * views alone.
 *
 * Errors are stored in the context and give poison: SHAPE (sizes that do not fit, both named), TYPE (two
 * types, or one that is not taken), ARGUMENT (an axis, an index or a number outside what is expected; an
 * input that is not optional is missing or of another context), MEMORY, CANCELLED. `quipu list ops` has the
 * paper or PyTorch's function that each op equals. Dimension letters: B batch, T sequence, S keys, D width, H
 * heads, K head width, V vocabulary, N anything.
 */
#ifndef QUIPU_OPS_H
#define QUIPU_OPS_H

#include "core.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Arithmetic: broadcast, one type ------------------------------------------------------ */

QP_API qp_tensor qp_add(qp_tensor x, qp_tensor y);
QP_API qp_tensor qp_sub(qp_tensor x, qp_tensor y);
QP_API qp_tensor qp_mul(qp_tensor x, qp_tensor y);
QP_API qp_tensor qp_div(qp_tensor x, qp_tensor y);
QP_API qp_tensor qp_pow(qp_tensor x, qp_tensor y);     /* gradient to y where x > 0 */
QP_API qp_tensor qp_maximum(qp_tensor x, qp_tensor y); /* ties share the gradient equally */
QP_API qp_tensor qp_minimum(qp_tensor x, qp_tensor y);
QP_API qp_tensor qp_affine(qp_tensor x, double scale, double shift); /* scale x + shift */

/* Comparisons give bool (no gradient). */
QP_API qp_tensor qp_eq(qp_tensor x, qp_tensor y);
QP_API qp_tensor qp_ne(qp_tensor x, qp_tensor y);
QP_API qp_tensor qp_lt(qp_tensor x, qp_tensor y);
QP_API qp_tensor qp_le(qp_tensor x, qp_tensor y);
QP_API qp_tensor qp_gt(qp_tensor x, qp_tensor y);
QP_API qp_tensor qp_ge(qp_tensor x, qp_tensor y);

/* condition (bool) ? x : y, broadcast. torch.where */
QP_API qp_tensor qp_where(qp_tensor condition, qp_tensor x, qp_tensor y);

/* ---- Elementwise functions ----------------------------------------------------------------- */

QP_API qp_tensor qp_neg(qp_tensor x);
QP_API qp_tensor qp_abs(qp_tensor x);
QP_API qp_tensor qp_square(qp_tensor x);
QP_API qp_tensor qp_exp(qp_tensor x);
QP_API qp_tensor qp_log(qp_tensor x);
QP_API qp_tensor qp_sqrt(qp_tensor x);
QP_API qp_tensor qp_rsqrt(qp_tensor x);
QP_API qp_tensor qp_sin(qp_tensor x);
QP_API qp_tensor qp_cos(qp_tensor x);
QP_API qp_tensor qp_tanh(qp_tensor x);
QP_API qp_tensor qp_sigmoid(qp_tensor x);
QP_API qp_tensor qp_relu(qp_tensor x);
QP_API qp_tensor qp_gelu(qp_tensor x);      /* x Phi(x), with erf */
QP_API qp_tensor qp_gelu_tanh(qp_tensor x); /* its tanh approximation ("gelu_new") */
QP_API qp_tensor qp_silu(qp_tensor x);      /* x sigmoid(x) */
QP_API qp_tensor qp_softplus(qp_tensor x);  /* log(1 + e^x) */
QP_API qp_tensor qp_elu(qp_tensor x);       /* x where x > 0, e^x - 1 elsewhere */

/* silu(gate) up, one shape. arXiv:2002.05202 */
QP_API qp_tensor qp_swiglu(qp_tensor gate, qp_tensor up);

QP_API qp_tensor qp_cast(qp_tensor x, qp_dtype dtype); /* gradient cast back */

/* ---- Reductions ------------------------------------------------------------------------------ */

/* Over the given axes (naxes 0: all); keep leaves axes of size 1 in their place. Sums of integers and bool
 * are i64; mean is of floats alone. */
QP_API qp_tensor qp_sum(qp_tensor x, int naxes, const int *axes, bool keep);
QP_API qp_tensor qp_mean(qp_tensor x, int naxes, const int *axes, bool keep);

/* Over one axis. max: gradient to the first maximum. An empty axis is an ARGUMENT error of max, argmax and
 * logsumexp. */
QP_API qp_tensor qp_max(qp_tensor x, int axis, bool keep);
QP_API qp_tensor qp_argmax(qp_tensor x, int axis, bool keep); /* i64, the first (no gradient) */
QP_API qp_tensor qp_logsumexp(qp_tensor x, int axis, bool keep);
QP_API qp_tensor qp_cumsum(qp_tensor x, int axis);

/* y[b, t, d] = sum over s <= t of k[t - s, d] x[b, s, d]: each channel of x [B, T, D] with a filter of its own,
 * k [L, D], by Fourier transforms: T log T. Filters longer than T are cut. */
QP_API qp_tensor qp_long_conv(qp_tensor x, qp_tensor k);

/* k[l, d] = 2 Re sum over n of c[d, n] p[d, n]^l for l < T, complex c and p [D, N] by their parts: the answer
 * of a diagonal state space to an impulse. [T, D] of f32, or of c's type with another dtype. Give c and p in
 * f64 where T is long: what p is off by grows with l. arXiv:2206.11893 */
QP_API qp_tensor qp_vandermonde(qp_tensor c_re, qp_tensor c_im, qp_tensor p_re, qp_tensor p_im, int64_t T,
                                qp_dtype dtype);

/* The same of a state space whose matrix is diagonal plus one of rank one, discretised bilinearly (S4), [T,
 * D]. planes [10, D, N]: a1, a0 and four pairs alpha, beta as src/ops/dplr_kernel.c says. dtype as above; f64
 * planes are meant. arXiv:2111.00396 */
QP_API qp_tensor qp_dplr_kernel(qp_tensor planes, int64_t T, qp_dtype dtype);

/* Such a state space position by position: x = x + e x - g Re(q . x) + b u, y = Re(c . x) for each channel. u
 * [B, T, D], state [B, D, 2, N] (real, imaginary), planes [D, 10, N]: the parts of e, q, g, b, c. y [B, T, D]
 * and the state after the last position. No gradient. */
QP_API void qp_dplr_scan(qp_tensor u, qp_tensor state, qp_tensor planes, qp_tensor *y, qp_tensor *next);

/* h_t = p h_{t-1} + u_t for complex features: u and h [B, T, 2, N] (real, imaginary), p [2, N], h0 [B, 2, N]
 * or QP_NONE, zeros. arXiv:2303.06349 */
QP_API qp_tensor qp_diagonal_scan(qp_tensor u, qp_tensor p, qp_tensor h0);

/* x summed over the axes along which it was broadcast from like's shape. */
QP_API qp_tensor qp_sum_to(qp_tensor x, qp_tensor like);

/* Along one axis, largest (or smallest) first, ties in order of index; k from 0 to the axis' size; values
 * differentiate, indices are i64. */
QP_API void qp_topk(qp_tensor x, int64_t k, int axis, bool largest, qp_tensor *values, qp_tensor *indices);
QP_API void qp_sort(qp_tensor x, int axis, bool descending, qp_tensor *values, qp_tensor *indices); /* stable */

/* e^x over its sum along the axis, and its logarithm. */
QP_API qp_tensor qp_softmax(qp_tensor x, int axis);
QP_API qp_tensor qp_log_softmax(qp_tensor x, int axis);

/* ---- Shape: views where strides allow, otherwise a copy ---------------------------------------- */

QP_API qp_tensor qp_reshape(qp_tensor x, int ndim, const int64_t *shape); /* one size may be -1 */
QP_API qp_tensor qp_permute(qp_tensor x, const int *axes);                /* out axis i = x's axis axes[i] */
QP_API qp_tensor qp_transpose(qp_tensor x, int axis0, int axis1);
QP_API qp_tensor qp_expand(qp_tensor x, int ndim, const int64_t *shape); /* broadcast, a view */
/* Elements start, start+step, .. below end along axis (negative counts from the end; ends
 * are clipped as in Python; step > 0). A view. */
QP_API qp_tensor qp_slice(qp_tensor x, int axis, int64_t start, int64_t end, int64_t step);
QP_API qp_tensor qp_contiguous(qp_tensor x);
QP_API qp_tensor qp_concat(int n, const qp_tensor *xs, int axis); /* n from 1 to 64 */
/* ys[i] = the next sizes[i] along axis; the sizes add up to x's (SHAPE). Views. */
QP_API void qp_split(qp_tensor x, int axis, int n, const int64_t *sizes, qp_tensor *ys);
QP_API qp_tensor qp_roll(qp_tensor x, int axis, int64_t shift); /* torch.roll */
/* `value` stands before and behind, 0 places or more of each. */
QP_API qp_tensor qp_pad(qp_tensor x, int axis, int64_t before, int64_t after, double value);

/* ---- Indexing: integers are i64 or i32, checked against the axis (ARGUMENT) -------------------- */

/* out[.., i, ..] = x[.., index[.., i, ..], ..] along axis; torch.gather's shape rule. */
QP_API qp_tensor qp_gather(qp_tensor x, int axis, qp_tensor index);
/* x with src added at index along axis, in order of src: torch.scatter_add, deterministic. */
QP_API qp_tensor qp_scatter_add(qp_tensor x, int axis, qp_tensor index, qp_tensor src);
QP_API qp_tensor qp_one_hot(qp_tensor index, int64_t n, qp_dtype dtype); /* [..] -> [.., n] (no gradient) */
/* table [V, D] of any type, index [..] -> [.., D], f32 where the table is in blocks. */
QP_API qp_tensor qp_embedding(qp_tensor table, qp_tensor index);

/* ---- Products ------------------------------------------------------------------------------------ */

/* x [.., M, K] y [.., K, N] -> [.., M, N], batch axes broadcast; of two types of floats the wider, f32 of
 * bf16 and f16. Transposed operands are
 * views (qp_transpose), which cost nothing. */
QP_API qp_tensor qp_matmul(qp_tensor x, qp_tensor y);

typedef enum { QP_ACT_NONE, QP_ACT_RELU, QP_ACT_GELU, QP_ACT_GELU_TANH, QP_ACT_SILU } qp_act;

/* act(x w^T + bias) + residual: x [.., I], w [O, I] (any float or block type), bias [O] or QP_NONE,
 * residual [.., O] or QP_NONE. torch.nn.functional.linear with a fused end. With w of a block type,
 * rows of x are rounded to 8 bits, 16 values to a scale, unless a gradient is recorded. The result has x's
 * type. */
QP_API qp_tensor qp_linear(qp_tensor x, qp_tensor w, qp_tensor bias, qp_act act, qp_tensor residual);

/* y[i] = x w[i]^T + bias[i] for i < n, n at least 1: x [.., I], w[i] [O_i, I], bias[i] [O_i] or QP_NONE -> y[i]
 * [.., O_i]; types, errors and bits as of qp_linear for each. Where no gradient is recorded and n is at most 3 it is
 * one op, which is faster for few rows of x; poison in every y[i] then if one fails. */
QP_API void qp_linear_many(qp_tensor x, int n, const qp_tensor *w, const qp_tensor *bias, qp_tensor *y);

/* x w^T + bias with 8-bit weights: x [.., I], w i8 [O, I] with an f32 scale [O] for each row (its
 * values are w * scale), bias f32 [O] or QP_NONE. x's rows are rounded to 8 bits, each by its
 * largest magnitude, and the products are summed as whole numbers: the same bits on every
 * instruction set (VNNI where there is). (no gradient) arXiv:2208.07339 */
QP_API qp_tensor qp_linear_int8(qp_tensor x, qp_tensor w, qp_tensor scale, qp_tensor bias);

/* ---- Groups of rows: mixture of experts -------------------------------------------------------------- */

/* Sorts choices by group: index [.., k], integers below `groups`, says which k groups each row is given to.
 * Slot m of the sorted order holds row source[m]; choice j of row n stands in slot place[n, j]; group g has
 * the slots from offsets[g] to offsets[g + 1]: i64 [N k], index's shape, [groups + 1]. A group takes
 * `capacity` rows, the first ones (0: all of them); others stand behind offsets[groups] (no gradient).
 * arXiv:2006.16668 */
QP_API void qp_group(qp_tensor index, int64_t groups, int64_t capacity, qp_tensor *source, qp_tensor *place,
                     qp_tensor *offsets);

/* y[m] = x[m] w[e]^T for the rows m of group e: x [M, I], w [E, O, I] (any float or block type), offsets
 * integers [E + 1] as of qp_group. Rows behind offsets[E] give 0. Without padding: only groups that have rows
 * cost anything. arXiv:2211.15841 */
QP_API qp_tensor qp_grouped_linear(qp_tensor x, qp_tensor w, qp_tensor offsets);

/* y[n] = sum over j of weight[n, j] x[place[n, j]], + residual[n]: x [M, D], place integers [N, k], weight
 * [N, k], residual [N, D] or QP_NONE. */
QP_API qp_tensor qp_combine(qp_tensor x, qp_tensor place, qp_tensor weight, qp_tensor residual);

/* ---- Norms: over the last axis; weight and bias [D] of any float or QP_NONE, results of x's type -------- */

/* (x - mean) / sqrt(var + eps) * weight + bias. arXiv:1607.06450 */
QP_API qp_tensor qp_layer_norm(qp_tensor x, qp_tensor weight, qp_tensor bias, double eps);
/* x / sqrt(mean(x^2) + eps) * weight. arXiv:1910.07467 */
QP_API qp_tensor qp_rms_norm(qp_tensor x, qp_tensor weight, double eps);
/* sum = x + residual; normed = the norm of sum: one pass over memory for both. */
QP_API void qp_add_layer_norm(qp_tensor x, qp_tensor residual, qp_tensor weight, qp_tensor bias, double eps,
                              qp_tensor *sum, qp_tensor *normed);
QP_API void qp_add_rms_norm(qp_tensor x, qp_tensor residual, qp_tensor weight, double eps, qp_tensor *sum,
                            qp_tensor *normed);

/* ---- Attention --------------------------------------------------------------------------------------- */

typedef enum {
    QP_ROPE_HALF,       /* pairs (i, i + R/2): Llama in Hugging Face's layout, NeoX */
    QP_ROPE_INTERLEAVED /* pairs (2i, 2i + 1): GPT-J, the paper */
} qp_rope_layout;

/* Rotates the first R = 2 * F of the K features of x [B, T, H, K] by the angle
 * positions[b, t] * inverse_frequency[i]; the rest passes through. positions i64 [B, T] or
 * [1, T]; inverse_frequency f32 [F]; cos and sin are multiplied by scale (YaRN's attention
 * factor; 1 otherwise). Angles are computed in f32. Differentiates x. arXiv:2104.09864 */
QP_API qp_tensor qp_rope(qp_tensor x, qp_tensor positions, qp_tensor inverse_frequency, qp_rope_layout layout,
                         double scale);

/* Which blocks of keys a block of queries sees, `block` places each, counted from place 0: kb is seen
 * from qb if any of these says so. What nobody sees is neither computed nor read.
 * Child et al. 2019, arXiv:1904.10509; Beltagy et al. 2020, arXiv:2004.05150; Zaheer et al. 2020,
 * arXiv:2007.14062 */
typedef struct {
    int32_t block;            /* 0: no pattern; below 64 what is computed between is not all saved */
    int32_t local, dilation;  /* the last `local` blocks, the own one included, every `dilation`-th (0: 1);
                                 after the own one as many where not causal */
    int32_t stride;           /* every stride-th block, counted from the own one; 0: none */
    int32_t summary, section; /* the last `summary` blocks of each `section` */
    int32_t globals;          /* the first `globals` blocks; where not causal they see all, too */
    int32_t random, seed;     /* so many blocks that the seed chooses for each qb, up to qb where causal,
                                 else below 2 qb + 2 */
} qp_pattern;

/* Which keys a query may see. Query t of T in row b stands at key position starts[b] + t. */
typedef struct {
    bool       causal;        /* keys up to the query's own position */
    int64_t    window;        /* 0: all; w: the last w positions, its own included (and, when
                               not causal, the next w - 1) */
    int64_t    prefix;        /* the first `prefix` keys are seen by everyone */
    qp_tensor  segments;      /* i64 [B, S] or QP_NONE: only keys of the query's own segment */
    qp_tensor  lengths;       /* i64 [B] or QP_NONE: keys of row b beyond lengths[b] are not there */
    qp_tensor  bias;          /* added to the scores: f32, broadcasts to [B, H, T, S], or QP_NONE;
                               -inf hides; differentiates */
    double     softcap;       /* c: scores become c tanh(scale q k / c) before the bias joins; 0: they
                               stay. arXiv:2408.00118 */
    qp_tensor  starts;        /* i64 [B] or QP_NONE (S - T): rows whose queries begin at places of
                               their own; 0 to S - T with segments, 0 to S with parents, else within
                               +-2^30: who stands before key 0 sees nothing where causal */
    qp_tensor  parents;       /* i64 [B, T] or QP_NONE: the queries are a tree, as drafts are verified:
                               parents[b, t] < t is the query that t continues, -1 what was there
                               before. Query i has key starts[b] + i and stands at starts[b] + the
                               number of its ancestors; of the keys from starts[b] on it sees those
                               of its ancestors and its own. Its result has the bits that its path
                               alone would give. T at most 64, causal only, no gradient (backward:
                               UNSUPPORTED) */
    qp_tensor  rows;          /* i64 [B] or QP_NONE: k and v are [R, S, G, ..], and batch row b reads
                               theirs rows[b]. Without segments, no gradient */
    qp_pattern pattern;       /* blocks of keys, besides the prefix; not with parents */
    qp_tensor  relative;      /* [B, H, T, C] or what broadcasts to it (all but C), or QP_NONE: what a distance
                               adds to scores. Of query t and key s it is relative[b,h,t,c], where c =
                               columns[d + m] and d, the key's place less the query's, is clipped to -m..m.
                               Tables that all queries share, [H, 1, C], cost next to nothing.
                               Differentiates, as the next two */
    qp_tensor  relative_keys; /* the same of the keys, [B, H, S, C]: relative_keys[b,h,s,c] joins */
    qp_tensor  relative_values; /* [C, L] or QP_NONE: joins the values,
                               out[b,t,h] += sum over s of p[t,s] relative_values[c] */
    qp_tensor  columns;         /* i64 [2 m + 1], each below C, or QP_NONE: 0, 1, .. 2 m, C = 2 m + 1 */
} qp_mask;

/* softmax(scale q k^T + bias, masked) v: q [B, T, H, K], k [B, S, G, K], v [B, S, G, L] with G dividing H
 * (grouped queries: head h reads h / (H / G)); scale 0 means 1 / sqrt(K). Gives [B, T, H, L]. k and v may be
 * bf16, f16 or q8_0 whatever q is (no gradient then). Tiled with an online softmax: memory is linear in T and
 * S, forward and backward. A query that may see nothing gives 0. Any strides with contiguous features.
 * arXiv:2205.14135, 2307.08691, 2305.13245 */
QP_API qp_tensor qp_attention(qp_tensor q, qp_tensor k, qp_tensor v, qp_mask mask, double scale);

typedef struct {
    qp_tensor decay;     /* f32 [H], 0 to 1: what lies s positions back counts decay^s times; QP_NONE: 1 */
    bool      normalize; /* divided by (the sum of the weights + eps) */
    double    eps;
    int64_t chunk; /* c: only positions in earlier chunks of c are seen; 0: all up to the own. Not with decay */
    qp_tensor
        state; /* what was carried from before, or QP_NONE: [B, H, K, V], with `normalize` [B, H, K, V + 1] */
} qp_linear_attention_options;

/* sum over s <= t of (q[t] k[s]) v[s], no softmax, in time linear in T: q and k [B, T, H, K], v [B, T, H, V]
 * give [B, T, H, V]. end, where wanted, becomes the state behind position T (no gradient to or from states and
 * decay). arXiv:2006.16236, 2307.08621 */
QP_API qp_tensor qp_linear_attention(qp_tensor q, qp_tensor k, qp_tensor v, qp_linear_attention_options options,
                                     qp_tensor *end);

/* In place, no gradient: cache[rows[b], starts[b] + t] = x[b, t] for t < counts[b], converted to the
 * cache's type. cache [R, S, ..] floats or q8_0, x [B, T, ..] f32 or of the cache's type; rows, starts,
 * counts i64 [B], no row twice. Nothing else of the cache is touched. */
QP_API void qp_append(qp_tensor cache, qp_tensor x, qp_tensor rows, qp_tensor starts, qp_tensor counts);

/* ---- State spaces --------------------------------------------------------------------------------------- */

/* Each channel convolved with its own few weights, looking back: y_t = bias + the sum of w_k x_(t - K + 1 + k).
 * x [B, T, D], w [K, D], bias [D] or QP_NONE. */
QP_API qp_tensor qp_causal_conv1d(qp_tensor x, qp_tensor w, qp_tensor bias);

/* The selective scan: h_t = exp(-delta_t rate) h_(t-1) + delta_t u_t B_t for each channel and state, and
 * y_t = the sum over states of C_t h_t, + skip u_t. u and delta [B, T, D], rate [N, D], B and C [B, T, N],
 * skip [D] or QP_NONE, state [B, N, D] to begin with or QP_NONE (0). Gives y [B, T, D] and, where `last` is not
 * NULL, the state behind the last position [B, N, D]. Memory is linear in T and D, forward and backward.
 * arXiv:2312.00752 */
QP_API qp_tensor qp_selective_scan(qp_tensor u, qp_tensor delta, qp_tensor rate, qp_tensor B, qp_tensor C,
                                   qp_tensor skip, qp_tensor state, qp_tensor *last);

/* x [.., Q] -> [.., Q, Q]: y_ts = exp(x_(s + 1) + .. + x_t) for s <= t, 0 above; sums are never differences of
 * longer ones. arXiv:2405.21060, listing 1 */
QP_API qp_tensor qp_decays(qp_tensor x);

/* y_t = a_t y_(t - 1) + x_t along axis 1: x [B, T, H, E], a [B, T, H], state [B, H, E] for y_(-1) or QP_NONE
 * (0). */
QP_API qp_tensor qp_decay_scan(qp_tensor x, qp_tensor a, qp_tensor state);

/* ---- Recurrences --------------------------------------------------------------------------------------- */

/* Each position mixed with the one before it, x_t + m (x_{t-1} - x_t): x [B, T, D], m [B or 1, T or 1, D], last
 * [B, D] what stands before position 0 (no gradient), or QP_NONE: zeros. arXiv:2305.13048 */
QP_API qp_tensor qp_token_shift(qp_tensor x, qp_tensor m, qp_tensor last);

/* RWKV 4, each channel by itself: y_t = (a + e^(u + k_t) v_t) / (b + e^(u + k_t)), then a = e^w a + e^(k_t)
 * v_t, b = e^w b + e^(k_t). w (the logarithm of the decay) and u [D], k, v [B, T, D], state [B, 3, D]: a and
 * b, both times e to the third, or QP_NONE or zeros: nothing yet (no gradient). Gives y [B, T, D] and, in
 * *last unless NULL, the state behind (no gradient). Exponentials never leave the range of floats.
 * arXiv:2305.13048 */
QP_API qp_tensor qp_wkv4(qp_tensor w, qp_tensor u, qp_tensor k, qp_tensor v, qp_tensor state, qp_tensor *last);

/* RWKV 5, 6 and 7: for each head a state S [K, V].
 *
 *   with u:         y_t = (S + diag(u) k_t v_t^T)^T r_t, then S = diag(w_t) S + k_t v_t^T
 *   with a and b:   S = diag(w_t) S + k_t v_t^T + b_t (a_t^T S), then y_t = S^T r_t
 *
 * r, w (the decay, a factor), k, a, b [B, T, H, K], v [B, T, H, V], u [H, K]; state [B, H, K, V] or QP_NONE:
 * zeros (no gradient). Gives y [B, T, H, V] and, in *last unless NULL, the state behind (no gradient). Memory
 * grows with T as the inputs do: states are made again in backward. arXiv:2404.05892, 2503.14456 */
typedef struct {
    qp_tensor r, w, k, v, u, a, b, state; /* u, or a and b; the others QP_NONE */
} qp_wkv_inputs;
QP_API qp_tensor qp_wkv(qp_wkv_inputs x, qp_tensor *last);

/* ---- Random and loss ------------------------------------------------------------------------------------ */

/* Zeroes each element with probability p, 0 to 1, and scales the rest by 1 / (1 - p). The mask comes
 * from the context's random stream and is made again in backward, never stored. Callers skip
 * it outside training. */
QP_API qp_tensor qp_dropout(qp_tensor x, double p);

typedef struct {
    int64_t ignore_index; /* targets equal to it do not count; 0 means -100 (give
                                INT64_MIN for none) */
    bool    sum;          /* sum instead of the mean over counted targets (0 if none) */
} qp_loss_options;

/* logits [.., V], targets i64 [..] -> one element, the mean of -log softmax(logits)[target] in f32 (f64 of
 * f64). ARGUMENT: a target that is neither below V nor ignored. */
QP_API qp_tensor qp_cross_entropy(qp_tensor logits, qp_tensor targets, qp_loss_options options);

/* The same of logits x w^T without ever holding them: x [.., D], w [V, D]. Vocabulary and rows
 * are taken in chunks and the gradients of x and w are formed in the forward pass. */
QP_API qp_tensor qp_linear_cross_entropy(qp_tensor x, qp_tensor w, qp_tensor targets, qp_loss_options options);

#ifdef __cplusplus
}
#endif
#endif
