/* tokenizer.model: SentencePiece's protocol buffer (sentencepiece_model.proto). Its messages are numbered fields;
 * those that matter are read, the others passed over. */
#include <string.h>

#include "data/made.h"
#include "format/os.h"
#include "format/reader.h"

typedef struct {
    uint64_t       number, value; /* of varints and fixed ones */
    const uint8_t *data;          /* of texts and messages */
    uint64_t       size;
} field;

static uint64_t varint(qpi_reader *r) {
    uint64_t value = 0, at = r->at;
    for (int shift = 0; shift < 64 && !r->failed; shift += 7) {
        uint8_t byte = qpi_read_u8(r, "number");
        value |= (uint64_t)(byte & 0x7F) << shift;
        if (!(byte & 0x80)) return value;
    }
    qpi_read_fail(r, at, "expected a number of at most 10 bytes");
    return 0;
}

/* The next field; false at the end and after a failure. */
static bool next_field(qpi_reader *r, field *f) {
    *f = (field){0};
    if (!qpi_reader_left(r)) return false;
    uint64_t at = r->at, key = varint(r);
    f->number = key >> 3;
    switch (key & 7) {
    case 0: f->value = varint(r); break;
    case 1: f->value = qpi_read_u64(r, "field"); break;
    case 5: f->value = qpi_read_u32(r, "field"); break;
    case 2:
        f->size = varint(r);
        f->data = r->failed ? NULL : qpi_read_span(r, f->size, "field");
        break;
    default: qpi_read_fail(r, at, "expected a field of a kind 0, 1, 2 or 5, found %d", (int)(key & 7));
    }
    return !r->failed;
}

static qpi_reader inside(const qpi_reader *r, const field *f) {
    return qpi_reader_over(r->name, f->data ? f->data : r->data, f->size, r->error);
}

typedef struct {
    size_t   count;
    uint64_t model;               /* 1: Unigram, 2: pair merges */
    int64_t  unknown, begin, end; /* ids */
    bool     byte_fallback, prefix, single_spaces, escape;
    field    charsmap;
} header;

/* trainer_spec */
static bool read_trainer(qpi_reader r, header *h) {
    field f;
    while (next_field(&r, &f)) {
        if (f.number == 3) h->model = f.value;
        if (f.number == 35) h->byte_fallback = f.value != 0;
        if (f.number == 40) h->unknown = (int32_t)f.value;
        if (f.number == 41) h->begin = (int32_t)f.value;
        if (f.number == 42) h->end = (int32_t)f.value;
    }
    return !r.failed;
}

/* normalizer_spec */
static bool read_normalizer(qpi_reader r, header *h) {
    field f;
    while (next_field(&r, &f)) {
        if (f.number == 2) h->charsmap = f;
        if (f.number == 3) h->prefix = f.value != 0;
        if (f.number == 4) h->single_spaces = f.value != 0;
        if (f.number == 5) h->escape = f.value != 0;
    }
    return !r.failed;
}

static bool read_header(qpi_reader r, header *h) {
    field f;
    bool  ok = true;
    *h = (header){.model = 1, .begin = 1, .end = 2, .prefix = true, .single_spaces = true, .escape = true};
    while (ok && next_field(&r, &f)) {
        h->count += f.number == 1;
        if (f.number == 2) ok = read_trainer(inside(&r, &f), h);
        if (f.number == 3) ok = read_normalizer(inside(&r, &f), h);
    }
    return ok && !r.failed;
}

static bool read_piece(qpi_reader r, qpi_made *m) {
    field    f, text = {0};
    uint64_t type = QPI_NORMAL;
    float    score = 0;
    while (next_field(&r, &f)) {
        uint32_t bits = (uint32_t)f.value;
        if (f.number == 1) text = f;
        if (f.number == 2) memcpy(&score, &bits, sizeof score);
        if (f.number == 3) type = f.value;
    }
    if (r.failed) return false;
    if (type < QPI_NORMAL || type > QPI_BYTE || !(score > -1e30f && score < 1e30f))
        return qpi_fail(m->error, QP_ERR_FORMAT, "%s: token %zu: its type or score is out of range", m->name,
                        m->t->vocab.size) == QP_OK;
    return qpi_made_token(m, (const char *)text.data, text.size, score, (qpi_piece_type)type);
}

static bool read_pieces(qpi_reader r, qpi_made *m) {
    field f;
    bool  ok = true;
    while (ok && next_field(&r, &f))
        if (f.number == 1) ok = read_piece(inside(&r, &f), m);
    return ok; /* the fields themselves have been read before */
}

qp_tokenizer *qpi_tokenizer_sentencepiece(const char *name, const void *data, size_t n, qpi_error *e) {
    qpi_reader r = qpi_reader_over(name, data, n, e);
    header     h;
    qpi_made   m;
    if (!read_header(r, &h)) return NULL;
    if (h.model != 1 && h.model != 2) {
        qpi_fail(e, QP_ERR_UNSUPPORTED, "%s: a model of words or characters is not supported", name);
        return NULL;
    }
    if (!h.escape) {
        qpi_fail(e, QP_ERR_UNSUPPORTED, "%s: spaces that are not escaped are not supported", name);
        return NULL;
    }
    if (!qpi_made_start(&m, name, h.model == 1 ? &qpi_tokenizer_unigram : &qpi_tokenizer_bpe, h.count, e))
        return NULL;
    m.prefix_space = h.prefix;
    m.single_spaces = h.single_spaces;
    m.byte_fallback = h.byte_fallback;
    m.charsmap = h.charsmap.data;
    m.charsmap_size = h.charsmap.size;
    /* What is put around a text is not in the file: a beginning for pair merges (Llama), an end for Unigram (T5). */
    if (h.model == 2) m.begin = h.begin;
    else m.end = h.end;
    return qpi_made_finish(&m, read_pieces(r, &m) && qpi_made_sentencepiece(&m));
}
