/* What a call of `attention` was asked for, for those who watch (qp_observe). */
#ifndef QUIPU_OPS_ATTENTION_H
#define QUIPU_OPS_ATTENTION_H

#include "quipu/op.h"

double qpi_attention_call_scale(const qp_call *call);
bool qpi_attention_call_causal(const qp_call *call);

#endif
