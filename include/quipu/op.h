/* quipu/op.h: what an op is. The library's own ops (src/ops, one file each) and those of a
 * host program are described by the same struct.
 *
 * An op has a definition, `plain`: the formula as loops in double precision over any
 * layout and type. It runs for f64 and for whatever no kernel takes, and every kernel is
 * tested against it. A kernel is the fast form for one instruction set.
 */
#ifndef QUIPU_OP_H
#define QUIPU_OP_H

#include "core.h"

#ifdef __cplusplus
extern "C" {
#endif

#define QP_MAX_ATTR 96 /* bytes of attributes */
#define QP_MAX_IN 64   /* inputs of one call */
#define QP_MAX_OUT 8

/* What kernels see of a tensor. Strides count elements; a broadcast axis has stride 0. An
 * absent optional input has data NULL and ndim -1. */
typedef struct {
    void    *data;
    qp_dtype dtype;
    int      ndim;
    int64_t  shape[QP_MAX_DIMS], stride[QP_MAX_DIMS];
} qp_view;

/* How a call runs. Kernels never allocate: scratch holds what `scratch` asked for, 64-byte
 * aligned, contents undefined. */
typedef struct qp_pool qp_pool;
typedef struct {
    qp_pool *pool;
    int      threads; /* workers, the caller included */
    void    *scratch;
} qp_exec;

/* Cuts 0..n-1 into pieces of `grain` (the last may be shorter), which workers claim as they
 * get free: fn(arg, begin, end, worker), worker in 0..threads-1. The cuts depend on n and
 * grain alone, so partial sums kept per piece give the same bits with any thread count. */
QP_API void qp_parallel(const qp_exec *exec, int64_t n, int64_t grain,
                        void (*fn)(void *arg, int64_t begin, int64_t end, int worker), void *arg);

typedef struct qp_op qp_op;

typedef struct {
    qp_ctx        *ctx;
    const qp_op   *op;
    const void    *attr; /* QP_MAX_ATTR bytes, zero behind what was given */
    int            nin, nout;
    qp_view       *in, *out;
    const qp_exec *exec;    /* NULL in `shape`, `scratch` and `cost` */
    qp_dtype       compute; /* of products: the type their operands are rounded to, with sums in
                               f32; QP_F32: as they are */
} qp_call;

/* What layouts a kernel takes; inputs are copied only when they do not fit. */
typedef enum {
    QP_ANY,         /* any strides */
    QP_ROWS,        /* the last axis contiguous, no other rule */
    QP_FLAT,        /* contiguous */
    QP_ELEMENTWISE, /* inputs are expanded to the output's shape and axes are merged over all
                       views as far as they go; any strides */
} qp_layout;

typedef struct {
    void (*run)(const qp_call *call); /* NULL: no kernel, `plain` runs */
    qp_layout layout;
    bool (*takes)(const qp_call *call); /* types and sizes it can do; NULL: every float, out[0] and
                                           what it writes is f32, other inputs f32, i64 or i32 */
} qp_kernel;

/* The gradient rule. It is written with ops, so it needs no memory management: the core
 * opens a scope around it. */
typedef struct {
    qp_ctx          *ctx;
    const void      *attr;
    int              nin, nout;
    const qp_tensor *in, *out; /* those outside `saves` have a shape but no data */
    const qp_tensor *dout;     /* gradient of each output, QP_NONE where none came */
    const bool      *need;     /* is the gradient of input i wanted? */
    qp_tensor       *din;      /* the rule sets din[i] where need[i]; QP_NONE: zero */
    bool             ones;     /* dout[0] is all 1, the start of a walk */
    void            *core;     /* for qp_grad_into */
} qp_rule;

/* A tensor of input i's shape into which the rule ADDS its gradient in place and which it
 * then sets as din[i]: the running sum if there is one, a region of the parent's gradient
 * if the input is a slice of it, zeros otherwise. Saves a pass over memory. */
QP_API qp_tensor qp_grad_into(const qp_rule *rule, int i);

/* Is there a running sum or a region for input i? If not, a tensor of the rule's own as
 * din[i] saves clearing and adding: the core adopts it. */
QP_API bool qp_grad_begun(const qp_rule *rule, int i);

#define QP_SAVE_IN(i) (1u << (i))
#define QP_SAVE_OUT(i) (1u << (24 + (i)))
#define QP_SAVE_ALL_IN 0x00ffffffu

/* A call for the harness to try. `in` lists inputs: KIND[SIZES] separated by spaces, KIND one of x (normal,
 * not near 0), p (0.5..2.5), u (0..1), s (small: -0.1..0.1), d (distinct, well apart), iN (i64 below N), oN
 * (i64 offsets: sorted, from 0 to N), t (i64 tree: along the last axis, each -1 or the index of an earlier
 * one), b (bool), q (i8, -127..127), wTYPE (normal, in blocks: "wq4_k[7,256]"), - (absent). "x[3,5] i7[3]" is
 * a 3x5 float and 3 integers in 0..6. Floats are f32, and f64 where gradients are compared with differences;
 * !KIND is a constant: always f32, no gradient ("x[2,4] !p[4]"); ^KIND is always f64. */
typedef struct {
    const char *in;
    const void *attr;      /* &(attr){...}, or NULL: zeros */
    bool        no_grad;   /* not differentiable here (a kink, an integer result) */
    double      tolerance; /* of the f32 kernel against plain; 0: 2e-6 relative to max */
} qp_sample;

struct qp_op {
    const char *name;
    const char *source; /* paper, equation or the PyTorch function it equals */
    int         min_in, max_in, nout;
    size_t      attr_bytes; /* size of its attributes, at most QP_MAX_ATTR */
    uint32_t    saves;      /* QP_SAVE_IN(i) | QP_SAVE_OUT(j): what the rule reads */
    uint32_t    hidden;     /* QP_SAVE_OUT bits of outputs that are there for the rule alone: they
                           take no gradient */
    /* Checks inputs (qp_call_fail) and sets dtype, ndim and shape of each output. NULL:
     * inputs broadcast together and the output has the first one's type. */
    void (*shape)(qp_call *call);
    /* For ops that move no data: sets shape, strides and data of out[0] within in[0]. Where
     * in[0]'s strides allow no view, data stays NULL and the core copies in[0] first. */
    void (*view)(qp_call *call);
    void (*plain)(const qp_call *call);
    void (*backward)(qp_rule *rule); /* NULL: not differentiable */
    size_t (*scratch)(const qp_call *call, int threads);
    double (*flops)(const qp_call *call); /* NULL: one for each output element */
    double (*bytes)(const qp_call *call); /* moved at least; NULL: each input and output once, what
                                             is written in place twice */
    const qp_sample *samples;             /* ends with {0} */
    uint64_t         mutates;     /* a bit for each input that it writes in place, the first among them; out[0]
                         is in[0]; never recorded */
    uint64_t         blocks;      /* a bit for each input that may be of a block type; 0: no output is either */
    bool             autocast;    /* a product: qp_call.compute is what qp_autocast says */
    bool             elementwise; /* `plain` wants QP_ELEMENTWISE views */
    bool             region;      /* a view whose parts do not overlap: gradients add into the parent's */
    qp_kernel        kernel;      /* for ops of host programs; the library's own come from the build */
};

/* Inside shape and view: stores "NAME: ..." in the context. */
QP_API void qp_call_fail(const qp_call *call, qp_code code, const char *format, ...) QP_PRINTF(3, 4);

/* Runs an op: outs[0..op->nout-1] are set (poison on failure). attr points to attr_bytes, NULL: zeros.
 * Trailing absent inputs may be left out. qp_apply is for one output. Errors, besides those of the op's
 * `shape`: ARGUMENT (the number of inputs, a missing one or another context's, a descriptor that is not
 * valid), STATE (elements that are not there; in place: read-only memory, or a value that backward needs; two
 * devices), TYPE (block types), UNSUPPORTED (no kernel of the device), MEMORY, CANCELLED. */
QP_API void qp_apply_many(const qp_op *op, int nin, const qp_tensor *ins, const void *attr, qp_tensor *outs);
QP_API qp_tensor qp_apply(const qp_op *op, int nin, const qp_tensor *ins, const void *attr);

/* What a call costs at least, by the op's own word. */
QP_API double qp_call_flops(const qp_call *call);
QP_API double qp_call_bytes(const qp_call *call);

/* fn(user, call, seconds) after each kernel or definition that this context runs, in the thread
 * that called the op: a profile. It may ask for costs and must run no op. fn NULL: no longer. */
typedef void qp_observer(void *user, const qp_call *call, double seconds);
QP_API void qp_observe(qp_ctx *ctx, qp_observer *fn, void *user);

/* Every op of the library, by index; NULL past the end. By name; NULL if unknown. */
QP_API const qp_op *qp_op_at(int index);
QP_API const qp_op *qp_op_find(const char *name);

/* ---- For plain loops: any type as double, any layout --------------------------------- */

QP_API double qp_load(const qp_view *v, int64_t offset); /* element at data + offset */
QP_API void qp_store(const qp_view *v, int64_t offset, double x);
QP_API int64_t qp_view_count(const qp_view *v);
/* Offset of the index-th element in C order. */
QP_API int64_t qp_view_offset(const qp_view *v, int64_t index);

/* out[0] = f(x, attr) elementwise, x[i] from input i (elementwise ops: views fit already). */
QP_API void qp_plain_map(const qp_call *call, double (*f)(const double *x, const void *attr));

/* Samples for elementwise ops of one input, and of two that broadcast. */
extern QP_API const qp_sample qp_binary_samples[];
extern QP_API const qp_sample qp_unary_samples[];
extern QP_API const qp_sample qp_unary_positive_samples[]; /* p instead of x */

#ifdef __cplusplus
}
#endif
#endif
