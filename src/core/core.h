/* What the files of src/core share: the context and the things it owns.
 *
 *   slot     what a handle names: a view of a storage, and the node it came from
 *   storage  a counted block of memory on a device
 *   node     one recorded call, or a leaf; counted by handles and by consumers
 */
#ifndef QUIPU_CORE_CORE_H
#define QUIPU_CORE_CORE_H

#include <stdatomic.h>

#include "core/error.h"
#include "core/threads.h"
#include "quipu/core.h"
#include "quipu/op.h"

#define QPI_NO_INDEX UINT32_MAX

/* ---- Devices and memory --------------------------------------------------------------- */

/* The seam for accelerators. The core reads and writes elements of a device that is not the
 * host through these alone. Copies are ordered with the kernels of the context; those to the
 * host wait for them. Pointers to elements are the device's own, but may be counted on from. */
struct qp_device {
    const char *name;
    bool        host; /* elements may be touched by the CPU: definitions of ops run, too */
    void *(*alloc)(qp_ctx *ctx, size_t bytes); /* 64-byte aligned; NULL: failure is stored */
    void (*free)(qp_ctx *ctx, void *p);
    void (*to_host)(qp_ctx *ctx, void *dst, const void *src, size_t bytes);
    void (*from_host)(qp_ctx *ctx, void *dst, const void *src, size_t bytes);
    void (*zero)(qp_ctx *ctx, void *dst, size_t bytes);
    const qp_kernel *(*kernel)(qp_ctx *ctx, const qp_op *op); /* NULL: none */
};
extern const qp_device qpi_cpu;

typedef struct qpi_heap qpi_heap; /* memory.c */
qpi_heap *qpi_heap_new(size_t cap);
void qpi_heap_free(qpi_heap *h);
void qpi_heap_stats(const qpi_heap *h, qp_stats *out);
void qpi_heap_reset_peak(qpi_heap *h);

/* From the context's heap, 64-byte aligned. NULL: ERR_MEMORY is stored. */
void *qpi_alloc(qp_ctx *ctx, size_t bytes);
void qpi_free(qp_ctx *ctx, void *p);
/* Whole pages straight from the system: zeros, and none is there before it is touched. */
void *qpi_map(qp_ctx *ctx, size_t bytes);
void qpi_unmap(qp_ctx *ctx, void *p, size_t bytes);

typedef struct { /* aligned as elements are, which may stand behind it */
    _Alignas(64) int32_t count;
    uint32_t         version; /* bumped by every write */
    bool             read_only;
    const qp_device *device;
    void            *data;
    size_t           bytes;
    void (*release)(void *user); /* of memory that is not ours */
    void *user;
    bool  owned, mapped; /* by the device's alloc, by qpi_map */
} qpi_storage;

qpi_storage *qpi_storage_new(qp_ctx *ctx, const qp_device *device, size_t bytes);
qpi_storage *qpi_storage_attach(qp_ctx *ctx, void *data, size_t bytes, bool read_only, void (*release)(void *),
                                void *user);
static inline qpi_storage *qpi_storage_retain(qpi_storage *s) {
    if (s) s->count++;
    return s;
}
qpi_storage *qpi_storage_map(qp_ctx *ctx, size_t bytes);
void qpi_storage_release(qp_ctx *ctx, qpi_storage *s);

/* ---- Views ------------------------------------------------------------------------------ */

typedef struct {          /* a view that holds its storage */
    qpi_storage *storage; /* NULL: a shape without elements. view.data tells which: NULL, they
                             are still to come (qpi_leaf_empty); otherwise they were not saved */
    qp_view      view;
} qpi_value;
extern const qpi_value qpi_absent; /* what an optional input that is not there has */
/* What is wrong with a value without elements, as the rest of a sentence. */
const char *qpi_no_elements(const qpi_value *v);

/* Does a block type's view hold whole blocks, contiguous along the last axis? Others always do. */
bool qpi_view_whole(const qp_view *v);
/* Checks axes, sizes, whole blocks, and the byte count for overflow. */
bool qpi_view_init(qp_view *v, qp_dtype dtype, int ndim, const int64_t *shape);
bool qpi_view_possible(const qp_view *v); /* the same checks of a type, axes and sizes alone */
bool qpi_view_contiguous(const qp_view *v);
bool qpi_view_same_shape(const qp_view *a, const qp_view *b);
void qpi_view_describe(const qp_view *v, char *out, size_t size); /* "f32 [3, 4]" */
/* In-place: axes of the n views (equal shapes) are merged and dropped where all allow it. */
void qpi_views_merge(qp_view **views, int n);
bool qpi_view_expand(qp_view *v, int ndim, const int64_t *shape);

/* Stores "ONE is .., TWO is ..: expected ..". */
void qpi_call_misfit(const qp_call *call, qp_code code, const char *one, const qp_view *a, const char *two,
                     const qp_view *b, const char *expected);

/* The default shape rule: all inputs broadcast together; those from `typed` on are of one
 * type, which out[0] gets. */
void qpi_broadcast_shape(qp_call *c, int typed);

/* ---- Nodes ------------------------------------------------------------------------------ */

typedef struct qpi_node qpi_node;

typedef struct {
    qpi_node *node; /* NULL: needs no gradient */
    int       out;
} qpi_edge;

typedef struct {
    qpi_value value;
    uint32_t  version;
} qpi_saved;

typedef struct {
    qpi_value value;
    bool      in_place; /* made to be added into, also where it is a region of another buffer */
    bool      ones;     /* the seed of a walk, all 1 */
} qpi_sum;

typedef struct qpi_hook {
    struct qpi_hook *next;
    int              id;
    void (*fn)(void *user, qp_tensor grad); /* NULL: taken off during a walk */
    void *user;
} qpi_hook;

typedef struct {
    qpi_node *first, *last;
} qpi_row;

struct qpi_node {
    const qp_op     *op;          /* NULL: a leaf */
    const qp_device *device;      /* of the outputs */
    qp_dtype         autocast;    /* of the call; its rule runs under the same */
    qpi_node        *prev, *next; /* in ctx->nodes; leaves with hooks in ctx->hooked */
    int32_t          refs;
    int32_t          nin, nout;
    int32_t          edges;   /* nin, and then the leaves that a checkpoint's fn uses by itself */
    uint64_t         walk;    /* the last walk that reached it */
    uint32_t         pending; /* contributions still to come in this walk */
    bool             spent;   /* walked: its saved values are gone */
    bool             wanted;  /* within qp_grad: leads to an x */
    qpi_edge        *in;
    qpi_saved       *saved; /* nin inputs, then nout outputs */
    qpi_sum         *grad;  /* of each output */
    qpi_hook        *hooks; /* of a leaf, in order of making */
    char             attr[QP_MAX_ATTR];
};

/* op NULL: a leaf. NULL on failure. */
qpi_node *qpi_node_new(qp_ctx *ctx, const qp_op *op, int nin, int nout, int edges);
void qpi_node_retain(qpi_node *n);
void qpi_node_release(qp_ctx *ctx, qpi_node *n);
void qpi_node_forget(qp_ctx *ctx, qpi_node *n); /* what it has saved */
void qpi_row_append(qpi_row *row, qpi_node *n);
void qpi_row_remove(qpi_row *row, qpi_node *n);

/* The leaves that ops have used since it was put into ctx->leaves; it holds them. */
typedef struct qpi_leaves {
    struct qpi_leaves *outer;
    qpi_node         **node;
    int                count, capacity;
    uint64_t           stamp; /* of the memory that they had and its versions */
    const qp_tensor   *xs;    /* whose leaves do not count for it */
    int                nx;
} qpi_leaves;
void qpi_leaf_used(qp_ctx *ctx, qpi_leaves *leaves, qpi_node *leaf, const qpi_value *value);
/* Lets go of them; what they are counts for the outer ones too. */
void qpi_leaves_end(qp_ctx *ctx, qpi_leaves *leaves);

/* Records a call if an input (or one of the extra leaves, if any) needs a gradient; sets the
 * node of each floating output. */
void qpi_record(const qp_call *call, const qpi_value *const *ins, const qpi_edge *edges, const qp_tensor *outs,
                const qpi_leaves *extra);

/* A handle to v, in the current scope. */
qp_tensor qpi_borrow(qp_ctx *ctx, const qpi_value *v);
/* The sum at e grows by g, which is of its shape. */
void qpi_contribute(qp_ctx *ctx, qpi_edge e, qp_tensor g);
/* Frees the hooks of a leaf that were taken off. */
void qpi_hooks_sweep(qp_ctx *ctx, qpi_node *leaf);

/* Walks back from ys; seeds NULL: ones, and each y has one element. xs NULL: leaves accumulate;
 * otherwise dxs[i] receives d(ys)/d(xs[i]) and leaves stay as they are. */
void qpi_walk(qp_ctx *ctx, int ny, const qp_tensor *ys, const qp_tensor *seeds, int nx, const qp_tensor *xs,
              qp_tensor *dxs, bool retain, const char *who);

/* ---- Handles ---------------------------------------------------------------------------- */

typedef struct {
    uint32_t  generation; /* odd: alive */
    uint32_t  next_free;
    uint32_t  live_index; /* place in ctx->live, QPI_NO_INDEX: kept */
    int       out;
    bool      parameter; /* made without elements, which are set later */
    bool      moving;    /* on its way to an outer scope */
    qpi_node *node;
    qpi_value value;
} qpi_slot;

#define QPI_SLOT_CHUNK 512

typedef struct { /* what code within a scope may set and the scope's end puts back */
    bool     no_grad;
    bool     shielded; /* qp_cancel waits */
    qp_dtype autocast;
} qpi_mode;

typedef struct {
    uint32_t live_start, serial;
    qpi_mode mode;
} qpi_scope_mark;

typedef struct qpi_interned qpi_interned; /* record.c */

typedef struct {
    const qp_op     *op;
    const qp_kernel *kernel;
} qpi_known_kernel;

#define QPI_KNOWN_KERNELS 256

struct qp_ctx {
    qpi_error         error;
    qp_options        options;
    qpi_heap         *heap;
    qp_pool          *pool;
    bool              pool_shared;
    qp_exec           exec;
    size_t            scratch_bytes;
    struct qpi_order *order;  /* order.c; NULL: nothing yet */
    const qp_device  *device; /* where new tensors are made: within a rule, where its call ran */

    qpi_slot      **chunks;
    uint32_t        chunk_count, free_slot;
    uint32_t       *live;
    uint32_t        live_count, live_capacity;
    qpi_scope_mark *scopes;
    uint32_t        scope_count, scope_capacity, scope_serial;

    qpi_row     nodes;  /* recorded calls in order of making */
    qpi_row     hooked; /* leaves with hooks */
    int         hook_ids, walk_depth;
    uint64_t    walk, first_walk; /* first_walk: the outermost one's number */
    bool        walk_selects;     /* inside qp_grad */
    qpi_mode    mode;
    qpi_leaves *leaves;

    uint64_t    seed, random_position;
    qp_dtype    param_dtype; /* of new parameters: f32; the harness of parts works in f64 */
    _Atomic int cancelled;   /* by qp_cancel, from any thread or signal handler */

    qpi_known_kernel kernels[QPI_KNOWN_KERNELS]; /* of the CPU that were asked for: by the op's address */

    qp_observer *observer; /* told of every call that has run; NULL: nobody */
    void        *observer_user;

    qpi_interned          *names; /* of fields of records */
    struct qpi_registered *parts; /* of the host program (nn/registry.c) */
    struct qpi_owned      *owned; /* things with a destructor, freed last made first */
};

/* Is the work in hand to stop? Ops and walks ask by themselves. */
static inline bool qpi_cancelled(const qp_ctx *ctx) {
    return atomic_load_explicit(&ctx->cancelled, memory_order_relaxed) && !ctx->mode.shielded;
}
/* For what must not be left half done (an optimiser's step, saving): until the scope is left,
 * a qp_cancel waits. */
static inline void qpi_shield(qp_ctx *ctx) { ctx->mode.shielded = true; }

/* A new handle in the current scope; takes over v's storage reference. Poison on failure. */
qp_tensor qpi_handle(qp_ctx *ctx, qpi_value v);
qp_tensor qpi_poison(qp_ctx *ctx);
/* The slot, or NULL after storing an error that names `who` (poison is one after qp_clear). */
qpi_slot *qpi_resolve(qp_tensor t, const char *who);
bool qpi_is_poison(qp_tensor t);

/* A tensor that has a shape and a type but no elements yet: qp_require_grad, qp_keep and
 * questions of shape take it, all else is a STATE error until qpi_set_storage. */
qp_tensor qpi_leaf_empty(qp_ctx *ctx, qp_dtype dtype, int ndim, const int64_t *shape);
/* Zeros on the CPU whose pages are not there before they are touched: for what may grow large. */
qp_tensor qpi_reserve(qp_ctx *ctx, qp_dtype dtype, int ndim, const int64_t *shape);

/* t's elements are now value's: memory shared, type and strides taken over; handle, node and
 * gradient of t stay. Other handles to t keep what they had. Errors: SHAPE (they differ), STATE
 * (t is computed, a recorded call has saved it, or it holds a gradient of another type), TYPE
 * (t takes a gradient and value has no float type). */
qp_status qpi_set_storage(qp_tensor t, qp_tensor value);

/* A fresh contiguous value. storage NULL on failure. */
qpi_value qpi_value_new(qp_ctx *ctx, const qp_device *device, const qp_view *shape);
/* A contiguous copy of v there. storage NULL on failure. */
qpi_value qpi_value_to(qp_ctx *ctx, const qpi_value *v, const qp_device *device);
/* One of the core's own in-place ops, on values of one device; false on failure. */
bool qpi_update(qp_ctx *ctx, const qp_op *op, const qpi_value *dst, const qpi_value *src);
void qpi_value_release(qp_ctx *ctx, qpi_value *v);
/* The recorded op that has saved v's elements, NULL if none. */
const qp_op *qpi_saved_by(const qp_ctx *ctx, const qpi_value *v);

/* Runs `destroy(thing)` when the context closes, last registered first. NULL: ERR_MEMORY is
 * stored and nothing is owned. A thing that may be closed earlier keeps the result, and its
 * close calls qpi_disown (NULL is allowed) and destroys the thing itself. */
typedef struct qpi_owned qpi_owned;
qpi_owned *qpi_own(qp_ctx *ctx, void *thing, void (*destroy)(void *));
void qpi_disown(qpi_owned *owned);

/* qp_apply_many with the first nout outputs alone, of an op whose rules look at qp_call.nout. */
void qpi_apply_some(const qp_op *op, int nin, const qp_tensor *ins, const void *attr, int nout,
                    qp_tensor *outs);

/* The three ops that the core itself needs (src/ops). */
extern const qp_op qp_op_copy, qp_op_accumulate, qp_op_fill;

/* Seconds of a clock that nobody sets. */
double qpi_now(void);
/* run(call) with its time to the observer. */
void qpi_run_observed(void (*run)(const qp_call *call), const qp_call *call);

/* ---- Registry (made by the build) --------------------------------------------------------- */

typedef struct {
    const qp_op     *op;
    const qp_kernel *kernels[4]; /* by qp_isa; NULL: none */
} qpi_op_entry;
extern const qpi_op_entry qpi_ops[];
extern const int          qpi_op_count;

qp_isa qpi_cpu_isa(void);             /* the best this machine has */
bool qpi_registered(const qp_op *op); /* false: a host program's */
/* Of the CPU; NULL: the definition runs. */
const qp_kernel *qpi_kernel_for(const qp_op *op, qp_isa isa);

/* ---- Random numbers ------------------------------------------------------------------------ */

/* Philox4x32-10 (Salmon et al. 2011): four words for (seed, stream, index). */
void qpi_philox(uint64_t seed, uint64_t stream, uint64_t index, uint32_t out[4]);
/* i64[2] {seed, position}; the position advances by one. The key of one random call. */
qp_tensor qpi_random_key(qp_ctx *ctx);

#endif
