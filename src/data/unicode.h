/* What the patterns of tokenizers ask of a code point. */
#ifndef QUIPU_DATA_UNICODE_H
#define QUIPU_DATA_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum { QPI_OTHER, QPI_LETTER, QPI_NUMBER, QPI_SPACE } qpi_class; /* \p{L} \p{N} \s */

extern const uint8_t qpi_ascii_class[128];
qpi_class qpi_code_class(uint32_t code);

/* What `tokenizers` asks of a code point; each comes from another of its parts, and they know different
 * versions of Unicode. */
enum {
    QPI_WORD = 1,        /* \w */
    QPI_NUMERIC = 2,     /* pre-tokenizer Digits */
    QPI_PUNCTUATION = 4, /* pre-tokenizers Punctuation and BertPreTokenizer */
    QPI_CONTROL = 8,     /* dropped by BertNormalizer's clean_text */
    QPI_NONSPACING = 16, /* dropped by its strip_accents */
    QPI_MARK = 32,       /* dropped by StripAccents */
    QPI_OPAQUE = 64,     /* later than its normal forms, which pass it by */
};
uint8_t qpi_code_flags(uint32_t code);

/* Its lower case; *second is the code point that follows, 0 if there is but one. */
uint32_t qpi_code_lower(uint32_t code, uint32_t *second);

/* The class of what starts at p (before end), and its bytes. A byte that is not part of
 * UTF-8 is one code point of class OTHER. */
qpi_class qpi_class_beyond_ascii(const uint8_t *p, const uint8_t *end, size_t *bytes);
static inline qpi_class qpi_class_at(const uint8_t *p, const uint8_t *end, size_t *bytes) {
    if (*p >= 0x80) return qpi_class_beyond_ascii(p, end, bytes);
    *bytes = 1;
    return (qpi_class)qpi_ascii_class[*p];
}

/* The bytes of white space at the end, or at the start, of a text. */
size_t qpi_spaces_at_end(const uint8_t *text, size_t n);
bool qpi_space_at_end(const uint8_t *text, size_t n);
size_t qpi_spaces_at_start(const uint8_t *text, size_t n);

/* Does the text end, or start, with a \w? */
bool qpi_word_at_end(const uint8_t *text, size_t n);
bool qpi_word_at_start(const uint8_t *text, size_t n);

#endif
