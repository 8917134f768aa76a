/* quipu/nn.h: modules. Ops are pure functions; a module owns named parameters and buffers,
 * has a mode (training or not) and children. Modules belong to their context and are freed
 * with it, or with the model they are part of. Names are joined by dots:
 * "blocks.0.mixer.q.weight".
 */
#ifndef QUIPU_NN_H
#define QUIPU_NN_H

#include "ops.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct qp_module qp_module;

/* A child of parent (NULL: a root). NULL on failure: MEMORY, ARGUMENT (the parent has a child of
 * that name or another context; the name is empty or has a dot; the full name is too long, about
 * 120 bytes). */
QP_API qp_module *qp_module_new(qp_ctx *ctx, qp_module *parent, const char *name);
QP_API qp_ctx *qp_module_ctx(const qp_module *m);

/* Frees a root with all below it, parameters and buffers included; not that of a model, which
 * closes it. NULL is allowed. */
QP_API void qp_module_close(qp_module *root);

/* A parameter: a leaf that requires a gradient. It has a shape but no elements yet; they come
 * from qp_param_set (a checkpoint), or from qp_module_fill, which draws `init` (see qp_init;
 * NULL: the caller sets it). Until then an op that reads it fails with STATE. m's; lives as long as m. Errors:
 * ARGUMENT (m has an entry of that name; the name is too long; the shape), MEMORY. */
QP_API qp_tensor qp_param(qp_module *m, const char *name, const char *init, int ndim, const int64_t *shape);

/* What optimisers do with a parameter besides what they are told. */
typedef struct {
    double adam,
        sgd;     /* the learning rate is multiplied by the one or the other, by their kind; 0: 1. The weight
                         decay of a step, rate times decay, stays */
    bool steady; /* has no weight decay unless a group (train.h) says so */
} qp_rates;

/* m's own parameter of that name has these rates, which an optimiser made later reads. ARGUMENT: there is
 * none. */
QP_API void qp_param_rates(qp_module *m, const char *name, qp_rates rates);

/* Draws the initialisation of every parameter below m that has no elements, in order of making. Errors: those
 * of qp_init. */
QP_API void qp_module_fill(qp_module *m);

/* p's elements are value's from now on: the same memory, no copy, any type (16-bit, mapped from a
 * file, shared with other contexts). p stays the same parameter. SHAPE: another shape; TYPE: not
 * floating; STATE: a gradient still has to pass through p's old elements, or value is
 * a parameter itself (qp_tie). A parameter whose
 * memory is read-only cannot be trained: freeze it. */
QP_API QP_MUST_CHECK qp_status qp_param_set(qp_tensor p, qp_tensor value);

/* A tensor that is saved but not trained. Taken out of its scope, m's from now on. Errors: as of qp_param. */
QP_API void qp_buffer(qp_module *m, const char *name, qp_tensor t);

/* A tensor that lives as long as m and is not saved (torch: a buffer that is not persistent). Taken
 * out of its scope. Returns t. */
QP_API qp_tensor qp_module_keep(qp_module *m, qp_tensor t);

/* Calls release(thing) when m is freed; at once if there is no memory to remember it (MEMORY). */
QP_API QP_MUST_CHECK qp_status qp_module_own(qp_module *m, void *thing, void (*release)(void *thing));

/* A parameter of the same tree under a second name; saved once, trained once. ARGUMENT: t is none of this
 * tree. */
QP_API void qp_tie(qp_module *m, const char *name, qp_tensor t);

typedef struct {
    const char *name; /* from the module that was asked */
    qp_tensor   tensor;
    bool        buffer, tied; /* tied: a second name of an earlier entry */
    qp_rates    rates;
} qp_entry;

typedef struct {
    qp_ctx         *ctx;
    int             count;
    const qp_entry *entries; /* the module's; valid until an entry is added, frozen or thawed */
} qp_state_dict;

/* Everything below m, in order of making. */
QP_API qp_state_dict qp_module_state(qp_module *m);
/* Trainable parameters only, each once: what an optimiser takes. */
QP_API qp_state_dict qp_module_params(qp_module *m);

/* Copies the tensors into the entries of the same name. strict: a missing or an unexpected name is an
 * ARGUMENT error whose text counts and lists them, as is a name given twice; a shape that differs always is
 * one (SHAPE), and a type that the entry cannot take (TYPE). Nothing is copied unless all fits. */
QP_API QP_MUST_CHECK qp_status qp_load_state_dict(qp_module *m, int n, const char *const *names,
                                                  const qp_tensor *tensors, bool strict);

QP_API void qp_set_training(qp_module *m, bool training); /* with all below; new modules train */
QP_API bool qp_training(const qp_module *m);
QP_API int64_t qp_param_count(qp_module *m, bool trainable_only);
/* Parameters whose name matches the pattern (*, ? and [] as in a shell) stop training (or
 * train again). Returns how many matched. */
QP_API int qp_freeze(qp_module *m, const char *pattern, bool frozen);

/* Fills t: "zeros", "ones", "constant:X", "normal:STD", "uniform:BOUND", "xavier_uniform", "kaiming_uniform",
 * ... (`quipu list init`; docs/parts/init.md). Draws from the context's random stream. Errors: ARGUMENT (no
 * such name, no number behind the colon), SHAPE (fans of a tensor with less than two axes). */
QP_API void qp_init(qp_tensor t, const char *spec);

/* ---- The modules that everything is made of -------------------------------------------------- */

/* A product with a weight [O, I] and, perhaps, a bias [O]. It has an identity: whatever changes
 * how a product is computed (adapters, statistics, other number formats) is put around it by
 * name, and the part that uses it does not know. */
typedef struct qp_nn_linear qp_nn_linear;

typedef struct {
    bool        bias;
    const char *init;      /* of the weight; NULL: normal:0.02 */
    qp_tensor   tied;      /* take this weight instead of a new one */
    const char *bias_init; /* NULL: zeros */
    double      gain;      /* what is drawn for the weight is multiplied by; 0: 1 */
} qp_linear_options;

/* A child module of parent with parameters weight and, where asked for, bias; the module's. NULL on failure:
 * as of qp_module_new and qp_param. */
QP_API qp_nn_linear *qp_nn_linear_new(qp_module *parent, const char *name, int64_t in, int64_t out,
                                      qp_linear_options options);

/* x [.., I] -> act(x w^T + b) + residual [.., O] (or QP_NONE): qp_linear, or what wraps it. */
QP_API qp_tensor qp_nn_linear_forward(const qp_nn_linear *l, qp_tensor x, qp_act act, qp_tensor residual);

/* x [.., I] -> y[i] = x w_i^T + b_i [.., O_i] for i < n: qp_linear_many, or one by one where one of them is wrapped or
 * n is more than 8. */
QP_API void qp_nn_linear_forward_many(int n, const qp_nn_linear *const *l, qp_tensor x, qp_tensor *y);

QP_API qp_module *qp_nn_linear_module(const qp_nn_linear *l); /* where further parameters go */
QP_API qp_tensor qp_nn_linear_weight(const qp_nn_linear *l);
QP_API qp_tensor qp_nn_linear_bias(const qp_nn_linear *l); /* QP_NONE if it has none */
QP_API bool qp_nn_linear_wrapped(const qp_nn_linear *l);

/* From now on l computes forward(self, inner, x, act, residual), where inner is what l was before
 * (call qp_nn_linear_forward on it); wraps nest. self must live as long as l (qp_module_own). A record
 * made before is walked back without it, but gradient checkpoints would run with it. */
typedef qp_tensor (*qp_linear_fn)(void *self, const qp_nn_linear *inner, qp_tensor x, qp_act act,
                                  qp_tensor residual);
QP_API void qp_nn_linear_wrap(qp_nn_linear *l, qp_linear_fn forward, void *self);
QP_API void qp_nn_linear_unwrap(qp_nn_linear *l); /* takes the last one off, if there is one */

/* Calls fn for each linear that is below m now and whose name matches the pattern, in order of
 * making. Returns how many. fn may be NULL. */
QP_API int qp_nn_linear_each(qp_module *m, const char                                        *pattern,
                             void (*fn)(void *user, qp_nn_linear *l, const char *name), void *user);

/* A table [count, width], looked up by ids; the module's, drawn by init (NULL: normal:0.02). NULL on failure:
 * as of qp_nn_linear_new. */
typedef struct qp_nn_embedding qp_nn_embedding;

QP_API qp_nn_embedding *qp_nn_embedding_new(qp_module *parent, const char *name, int64_t count, int64_t width,
                                            const char *init);
/* ids i64 or i32 [..] -> [.., width] */
QP_API qp_tensor qp_nn_embedding_forward(const qp_nn_embedding *e, qp_tensor ids);
QP_API qp_tensor qp_nn_embedding_weight(const qp_nn_embedding *e);

#ifdef __cplusplus
}
#endif
#endif
