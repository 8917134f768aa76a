#include "data/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    qpi_error     e = {0};
    qp_ids        ids = {0};
    qpi_buffer    out = {0};
    qp_tokenizer *t = qpi_tokenizer_parse("input", data, size, &e);
    if (!t != (e.code != QP_OK)) __builtin_trap();
    if (t) {
        qpi_piece  item = {.text = data, .size = size < 4096 ? size : 4096, .whole = true};
        qpi_pieces pieces = {.items = &item, .count = 1, .capacity = 1};
        if (qpi_pieces_encode(t, NULL, &pieces, size & 1, &ids, &e))
            for (int64_t i = 0; i < ids.count; i++)
                if (!qpi_vocab_at(&t->vocab, ids.data[i])) __builtin_trap();
        if (!qpi_tokenizer_print(t, &out)) __builtin_trap();
        qp_tokenizer *again = qpi_tokenizer_parse("printed", out.data, out.count, &e);
        qpi_tokenizer_free(again);
    }
    qp_ids_free(&ids);
    qpi_buffer_free(&out);
    qpi_tokenizer_free(t);
    return 0;
}
