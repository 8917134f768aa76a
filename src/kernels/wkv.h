/* The recurrence of RWKV 5, 6 and 7: a state S [K, V] for each head that decays, takes a product in and
 * is read (formulas: ops/wkv.c), and its gradient. f32, last axes contiguous, outputs contiguous. */
#ifndef QUIPU_KERNELS_WKV_H
#define QUIPU_KERNELS_WKV_H

#include "core/isa.h"
#include "quipu/op.h"

enum { QK_WKV_R, QK_WKV_W, QK_WKV_K, QK_WKV_V, QK_WKV_U, QK_WKV_A, QK_WKV_B, QK_WKV_STATE, QK_WKV_INPUTS };
enum { QK_WKV_DR, QK_WKV_DW, QK_WKV_DK, QK_WKV_DV, QK_WKV_DU, QK_WKV_DA, QK_WKV_DB, QK_WKV_GRADIENTS };

/* in: as the enum says; absent ones have data NULL. y [B, T, H, V], last [B, H, K, V]. */
void QK(qk_wkv_run)(const qp_exec *exec, const qp_view *in, const qp_view *y, const qp_view *last);
size_t qk_wkv_scratch(const qp_view *in, int threads);

/* out: gradients as the enum says, of the shapes of what they are gradients of, but du [B, H, K]. */
void QK(qk_wkv_grad_run)(const qp_exec *exec, const qp_view *in, const qp_view *dy, const qp_view *out);
size_t qk_wkv_grad_scratch(const qp_view *in, int threads);

/* RWKV 4 (ops/wkv4.c): w, u [D], k, v [B, T, D], state [B, 3, D] or absent; y [B, T, D], last [B, 3, D]. */
enum { QK_WKV4_W, QK_WKV4_U, QK_WKV4_K, QK_WKV4_V, QK_WKV4_STATE, QK_WKV4_INPUTS };
#define QK_WKV4_NOTHING -30000.0f /* the exponent of a sum that has nothing in it; a number of f16, too */
enum { QK_WKV4_DW, QK_WKV4_DU, QK_WKV4_DK, QK_WKV4_DV, QK_WKV4_GRADIENTS };

void QK(qk_wkv4_run)(const qp_exec *exec, const qp_view *in, const qp_view *y, const qp_view *last);
/* dw, du [B, D] */
void QK(qk_wkv4_grad_run)(const qp_exec *exec, const qp_view *in, const qp_view *dy, const qp_view *out);
size_t qk_wkv4_grad_scratch(const qp_view *in, int threads);

#endif
