/* Vocabularies of SentencePiece models and GGUF files: what loads encodes to ids that are tokens. */
#include "data/made.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *folder;
    static char        path[100];
    if (!folder) snprintf(path, sizeof path, "%s/x.gguf", folder = fuzz_folder());
    static const uint8_t text[] = "a b  ab\xC3\xA9\xE2\x96\x81<x>\n\xFF 12";
    qpi_error            e = {0};
    bool                 gguf = size > 4 && memcmp(data, "GGUF", 4) == 0;
    if (gguf) fuzz_write(path, data, size);
    qp_tokenizer *t =
        gguf ? qpi_tokenizer_gguf(path, &e) : qpi_tokenizer_sentencepiece("input", data, size, &e);
    if (!t != (e.code != QP_OK)) __builtin_trap();
    if (t) {
        qp_ids     ids = {0};
        qpi_piece  item = {.text = text, .size = sizeof text - 1, .whole = true, .first = true};
        qpi_pieces pieces = {.items = &item, .count = 1, .capacity = 1};
        qpi_pieces_encode(t, NULL, &pieces, size & 1, &ids, &e);
        for (int64_t i = 0; i < ids.count; i++)
            if (!qpi_vocab_at(&t->vocab, ids.data[i])) __builtin_trap();
        qp_ids_free(&ids);
    }
    qpi_tokenizer_free(t);
    return 0;
}
