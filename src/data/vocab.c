#include "data/vocab.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "format/os.h"
#include "format/utf8.h"

bool qpi_vocab_add(qpi_vocab *v, const char *who, const char *text, size_t n, int64_t id, uint32_t flags,
                   qpi_error *e) {
    bool again = flags & QPI_TOKEN_AGAIN;
    flags &= ~(uint32_t)QPI_TOKEN_AGAIN;
    char     shown[QPI_SHOWN];
    uint32_t before;
    qpi_shown(shown, text, n);
    if (id < 0 || id >= v->id_limit || id >= INT32_MAX)
        return qpi_fail(e, QP_ERR_FORMAT, "%s: token \"%s\": id %" PRId64 " is out of range", who, shown, id) ==
               QP_OK;
    if ((size_t)id >= v->size) {
        qpi_token *p = qpi_grown(v->tokens, &v->capacity, (size_t)id + 1, sizeof *p);
        if (!p) return qpi_fail_memory(e, who) == QP_OK;
        v->tokens = p;
        memset(p + v->size, 0, ((size_t)id + 1 - v->size) * sizeof *p);
        v->size = (size_t)id + 1;
    }
    qpi_token *t = &v->tokens[id];
    if (t->text)
        return qpi_fail(e, QP_ERR_FORMAT, "%s: token \"%s\": id %" PRId64 " belongs to another token already",
                        who, shown, id) == QP_OK;
    const char *copy = qpi_arena_text(&v->arena, text, n);
    if (!copy || !qpi_names_add(&v->by_text, copy, n, (uint32_t)id, &before))
        return qpi_fail_memory(e, who) == QP_OK;
    if (before != QPI_NO_NAME && again) qpi_names_replace(&v->by_text, text, n, (uint32_t)id);
    else if (before != QPI_NO_NAME)
        return qpi_fail(e, QP_ERR_FORMAT, "%s: token \"%s\" occurs twice", who, shown) == QP_OK;
    *t = (qpi_token){.text = copy, .text_size = (uint32_t)n, .flags = flags};
    v->count++;
    return true;
}

int32_t qpi_vocab_find(const qpi_vocab *v, const char *text, size_t n) {
    uint32_t id = qpi_names_find(&v->by_text, text, n);
    return id == QPI_NO_NAME ? QPI_NO_TOKEN : (int32_t)id;
}

const qpi_token *qpi_vocab_at(const qpi_vocab *v, int64_t id) {
    return id >= 0 && (size_t)id < v->size && v->tokens[id].text ? &v->tokens[id] : NULL;
}

void qpi_vocab_set_plain(qpi_vocab *v, int32_t id) {
    qpi_token *t = &v->tokens[id];
    t->bytes = t->text;
    t->bytes_size = t->text_size;
}

/* A text with a character outside the alphabet stands for itself. */
bool qpi_vocab_set_byte_level(qpi_vocab *v, int32_t id, qpi_error *e) {
    qpi_token *t = &v->tokens[id];
    char      *bytes = qpi_arena_take(&v->arena, t->text_size);
    if (!bytes) return qpi_fail_memory(e, "vocabulary") == QP_OK;
    uint32_t n = 0;
    for (size_t at = 0, step; at < t->text_size; at += step) {
        uint32_t code = UINT32_MAX; /* what is not UTF-8 stands for no byte */
        step = qpi_utf8_decode(t->text + at, t->text_size - at, &code);
        int byte = qpi_code_to_byte(code);
        if (byte < 0) {
            qpi_vocab_set_plain(v, id);
            return true;
        }
        bytes[n++] = (char)byte;
    }
    t->bytes = bytes;
    t->bytes_size = n;
    return true;
}

void qpi_vocab_free(qpi_vocab *v) {
    free(v->tokens);
    qpi_names_free(&v->by_text);
    qpi_arena_free(&v->arena);
    *v = (qpi_vocab){0};
}

/* ---- The byte-level alphabet ---------------------------------------------------------- */

static bool stands_for_itself(uint8_t c) { return (c >= 0x21 && c <= 0x7E) || (c >= 0xA1 && c != 0xAD); }

uint32_t qpi_byte_to_code(uint8_t byte) {
    if (stands_for_itself(byte)) return byte;
    if (byte <= 0x20) return 0x100 + byte;
    return byte == 0xAD ? 0x143 : 0x121 + (byte - 0x7F);
}

int qpi_code_to_byte(uint32_t code) {
    if (code < 0x100) return stands_for_itself((uint8_t)code) ? (int)code : -1;
    if (code <= 0x120) return (int)code - 0x100;
    if (code <= 0x142) return (int)code - 0x121 + 0x7F;
    return code == 0x143 ? 0xAD : -1;
}

bool qpi_byte_level(qpi_buffer *out, const uint8_t *bytes, size_t n) {
    if (!qpi_buffer_reserve(out, 2 * n)) return false;
    for (size_t i = 0; i < n; i++)
        out->count += qpi_utf8_encode(qpi_byte_to_code(bytes[i]), out->data + out->count);
    return true;
}
