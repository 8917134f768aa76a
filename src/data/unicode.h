/* What the patterns of tokenizers ask of a code point. */
#ifndef QUIPU_DATA_UNICODE_H
#define QUIPU_DATA_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum { QPI_OTHER, QPI_LETTER, QPI_NUMBER, QPI_SPACE } qpi_class; /* \p{L} \p{N} \s */

extern const uint8_t qpi_ascii_class[128];
qpi_class            qpi_code_class(uint32_t code);
bool                 qpi_code_is_word(uint32_t code); /* \w */

/* The class of what starts at p (before end), and its bytes. A byte that is not part of
 * UTF-8 is one code point of class OTHER. */
qpi_class               qpi_class_beyond_ascii(const uint8_t *p, const uint8_t *end, size_t *bytes);
static inline qpi_class qpi_class_at(const uint8_t *p, const uint8_t *end, size_t *bytes) {
    if (*p >= 0x80) return qpi_class_beyond_ascii(p, end, bytes);
    *bytes = 1;
    return (qpi_class)qpi_ascii_class[*p];
}

/* The bytes of white space at the end, or at the start, of a text. */
size_t qpi_spaces_at_end(const uint8_t *text, size_t n);
size_t qpi_spaces_at_start(const uint8_t *text, size_t n);

/* Does the text end, or start, with a \w? */
bool qpi_word_at_end(const uint8_t *text, size_t n);
bool qpi_word_at_start(const uint8_t *text, size_t n);

#endif
