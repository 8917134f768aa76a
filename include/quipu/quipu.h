/* quipu.h: everything. Each header is the manual of its subject. */
#ifndef QUIPU_H
#define QUIPU_H

#include "core.h"
#include "record.h"
#include "op.h"
#include "ops.h"
#include "nn.h"
#include "part.h"
#include "format.h"
#include "data.h"
#include "chat.h"
#include "model.h"
#include "session.h"
#include "train.h"
#include "infer.h"
#include "embed.h"

#endif
