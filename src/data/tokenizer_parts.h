/* The components of a tokenizer.json other than its model. Each reads its value (NULL: absent)
 * into the tokenizer; what quipu has not is an error that names it. */
#ifndef QUIPU_DATA_TOKENIZER_PARTS_H
#define QUIPU_DATA_TOKENIZER_PARTS_H

#include "data/tokenizer.h"
#include "format/json.h"

bool qpi_read_normalizer(qp_tokenizer *t, const qpi_json *at);
bool qpi_read_pretokenizer(qp_tokenizer *t, const qpi_json *at);
bool qpi_read_post_processor(qp_tokenizer *t, const qpi_json *at);
bool qpi_read_decoder(qp_tokenizer *t, const qpi_json *at);
bool qpi_read_added(qp_tokenizer *t, const qpi_json *at);

#endif
