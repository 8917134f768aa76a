/* quipu/nn.h: modules. Ops are pure functions; a module owns named parameters and buffers,
 * has a mode (training or not) and children. Modules belong to their context and are freed
 * with it. Names are joined by dots: "blocks.0.mixer.qkv.weight".
 */
#ifndef QUIPU_NN_H
#define QUIPU_NN_H

#include "ops.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct qp_module qp_module;

/* A child of parent (NULL: a root). NULL on failure. */
QP_API qp_module *qp_module_new(qp_ctx *ctx, qp_module *parent, const char *name);
QP_API qp_ctx    *qp_module_ctx(const qp_module *m);

/* A new f32 parameter, filled by an initialisation (below), that requires a gradient. */
QP_API qp_tensor qp_param(qp_module *m, const char *name, const char *init, int ndim, const int64_t *shape);

/* The parameter of two or more parts that checkpoints name apart (q, k and v; gate and up):
 * sizes of its rows, in order. */
QP_API void qp_param_segments(qp_module *m, const char *name, int n, const int64_t *rows);

/* A tensor that is saved but not trained. Taken out of its scope. */
QP_API void qp_buffer(qp_module *m, const char *name, qp_tensor t);

/* The same parameter under a second name; saved once, trained once. */
QP_API void qp_tie(qp_module *m, const char *name, qp_tensor t);

typedef struct {
    const char *name; /* from the module that was asked */
    qp_tensor   tensor;
    bool        buffer, tied; /* tied: a second name of an earlier entry */
    int         segments;     /* 0: one piece */
    int64_t     rows[4];
} qp_entry;

typedef struct {
    int             count;
    const qp_entry *entries; /* the module's; valid until a parameter is added */
} qp_state_dict;

/* Everything below m, in order of making. */
QP_API qp_state_dict qp_module_state(qp_module *m);
/* Trainable parameters only, each once: what an optimiser takes. */
QP_API qp_state_dict qp_module_params(qp_module *m);

/* Copies the tensors into the entries of the same name. strict: a missing or an unexpected
 * name is an error whose text lists them; a shape that differs always is one. Nothing is
 * copied unless all fits. */
QP_API qp_status qp_load_state_dict(qp_module *m, int n, const char *const *names, const qp_tensor *tensors,
                                    bool strict);

QP_API void    qp_set_training(qp_module *m, bool training); /* with all below; new modules train */
QP_API bool    qp_training(const qp_module *m);
QP_API int64_t qp_param_count(qp_module *m, bool trainable_only);
/* Parameters whose name matches the pattern (*, ? and [] as in a shell) stop training (or
 * train again). Returns how many matched. */
QP_API int qp_freeze(qp_module *m, const char *pattern, bool frozen);

/* Fills t: "zeros", "ones", "constant:X", "normal:STD", "uniform:BOUND", "xavier_uniform",
 * "kaiming_uniform", ... (`quipu list init`). Draws from the context's random stream. */
QP_API void qp_init(qp_tensor t, const char *spec);

/* ---- The modules that everything is made of -------------------------------------------------- */

typedef struct {
    qp_tensor weight, bias; /* [O, I]; [O] or QP_NONE */
} qp_nn_linear;

typedef struct {
    bool        bias;
    const char *init; /* of the weight; NULL: normal:0.02 */
    int         segments; /* as qp_param_segments: rows that checkpoints name apart */
    int64_t     rows[4];
} qp_linear_options;

QP_API qp_nn_linear qp_nn_linear_new(qp_module *parent, const char *name, int64_t in, int64_t out,
                                     qp_linear_options options);
/* x [.., I] -> act(x w^T + b) + residual [.., O] */
QP_API qp_tensor qp_nn_linear_forward(const qp_nn_linear *l, qp_tensor x, qp_act act, qp_tensor residual);

typedef struct {
    qp_tensor weight; /* [V, D] */
} qp_nn_embedding;

QP_API qp_nn_embedding qp_nn_embedding_new(qp_module *parent, const char *name, int64_t count, int64_t width,
                                           const char *init);

#ifdef __cplusplus
}
#endif
#endif
