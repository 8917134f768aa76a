#include "data/around.h"

#include <stdlib.h>
#include <string.h>

#include "format/os.h"

bool qpi_around_add(qpi_around *t, const qpi_around_item *items, size_t n, qpi_error *e) {
    qpi_around_item *p = qpi_grown(t->items, &t->capacity, t->count + n, sizeof *p);
    if (!p) return qpi_fail_memory(e, "tokenizer") == QP_OK;
    t->items = p;
    memcpy(p + t->count, items, n * sizeof *p);
    t->count += n;
    return true;
}

static bool add(qpi_around *t, const qpi_json *at, int text, int64_t id, int64_t type) {
    return qpi_around_add(t, &(qpi_around_item){text, (int32_t)id, (int32_t)type}, 1, at->error);
}

bool qpi_around_default(qpi_around *single, qpi_around *pair, qpi_error *e) {
    static const qpi_around_item both[] = {{1, 0, 0}, {2, 0, 1}};
    return qpi_around_add(single, both, 1, e) && qpi_around_add(pair, both, 2, e);
}

void qpi_around_free(qpi_around *t) {
    free(t->items);
    *t = (qpi_around){0};
}

/* ---- TemplateProcessing ------------------------------------------------------------------ */

/* {"SpecialToken": {"id": NAME, "type_id": 0}}: the ids that special_tokens lists under the name. */
static bool add_special(qpi_around *t, const qpi_json *at, const qpi_json *special) {
    qpi_json    table, token, list;
    const char *name;
    int64_t     type = 0;
    if (!qpi_json_string(special, "id", QPI_REQUIRED, &name) ||
        !qpi_json_integer(special, "type_id", QPI_OPTIONAL, 0, INT32_MAX, &type) ||
        !qpi_json_object(at, "special_tokens", QPI_REQUIRED, &table) ||
        !qpi_json_object(&table, name, QPI_REQUIRED, &token) ||
        !qpi_json_array(&token, "ids", QPI_REQUIRED, &list))
        return false;
    for (size_t i = 0; i < json_array_size(list.value); i++) {
        qpi_json id = qpi_json_item(&list, i);
        int64_t  x = json_is_integer(id.value) ? json_integer_value(id.value) : -1;
        if (x < 0 || x >= INT32_MAX) {
            qpi_json_fail(&id, QP_ERR_FORMAT, "expected an id");
            return false;
        }
        if (!add(t, at, 0, x, type)) return false;
    }
    return true;
}

/* {"Sequence": {"id": "A", "type_id": 0}} */
static bool add_sequence(qpi_around *t, const qpi_json *at, const qpi_json *sequence) {
    const char *name;
    int64_t     type = 0;
    if (!qpi_json_string(sequence, "id", QPI_REQUIRED, &name) ||
        !qpi_json_integer(sequence, "type_id", QPI_OPTIONAL, 0, INT32_MAX, &type))
        return false;
    if (strcmp(name, "A") == 0) return add(t, at, 1, 0, type);
    if (strcmp(name, "B") == 0) return add(t, at, 2, 0, type);
    qpi_json_fail(sequence, QP_ERR_FORMAT, "expected A or B");
    return false;
}

static bool read_items(qpi_around *t, const qpi_json *at, const char *key) {
    qpi_json list;
    if (!qpi_json_array(at, key, QPI_REQUIRED, &list)) return false;
    for (size_t i = 0; i < json_array_size(list.value); i++) {
        qpi_json item = qpi_json_item(&list, i), special = {0}, sequence = {0};
        if (!qpi_json_object(&item, "SpecialToken", QPI_OPTIONAL, &special) ||
            !qpi_json_object(&item, "Sequence", QPI_OPTIONAL, &sequence))
            return false;
        if (!special.value == !sequence.value) {
            qpi_json_fail(&item, QP_ERR_FORMAT, "expected a Sequence or a SpecialToken");
            return false;
        }
        if (!(special.value ? add_special(t, at, &special) : add_sequence(t, at, &sequence))) return false;
    }
    return true;
}

static int count_texts(const qpi_around *t, int text) {
    int count = 0;
    for (size_t i = 0; i < t->count; i++) count += t->items[i].text == text;
    return count;
}

static bool read_template(qpi_around *single, qpi_around *pair, const qpi_json *at) {
    if (!read_items(single, at, "single") || !read_items(pair, at, "pair")) return false;
    if (count_texts(single, 1) != 1 || count_texts(single, 2) != 0) {
        qpi_json_fail(at, QP_ERR_FORMAT, "single: expected one Sequence A and no B");
        return false;
    }
    if (count_texts(pair, 1) != 1 || count_texts(pair, 2) != 1) qpi_around_free(pair);
    return true;
}

/* ---- RobertaProcessing, BertProcessing ------------------------------------------------------ */

/* ["<s>", 0] */
static bool read_token(const qpi_json *at, const char *key, qpi_around_item *item) {
    qpi_json pair;
    if (!qpi_json_array(at, key, QPI_REQUIRED, &pair)) return false;
    json_t *number = json_array_get(pair.value, 1);
    int64_t id = json_is_integer(number) ? json_integer_value(number) : -1;
    *item = (qpi_around_item){0, (int32_t)id, 0};
    if (id >= 0 && id < INT32_MAX) return true;
    qpi_json_fail(&pair, QP_ERR_FORMAT, "expected a token and its id");
    return false;
}

/* <s> A </s>, and <s> A </s> </s> B </s>, all of one type. */
static bool read_roberta(qpi_around *single, qpi_around *pair, const qpi_json *at) {
    qpi_around_item first, last, a = {1, 0, 0}, b = {2, 0, 0};
    return read_token(at, "cls", &first) && read_token(at, "sep", &last) &&
           qpi_around_add(single, (qpi_around_item[]){first, a, last}, 3, at->error) &&
           qpi_around_add(pair, (qpi_around_item[]){first, a, last, last, b, last}, 6, at->error);
}

/* [CLS] A [SEP], and behind it B [SEP] of another type. */
static bool read_bert(qpi_around *single, qpi_around *pair, const qpi_json *at) {
    qpi_around_item first, last, last_b, a = {1, 0, 0}, b = {2, 0, 1};
    if (!read_token(at, "cls", &first) || !read_token(at, "sep", &last)) return false;
    last_b = (qpi_around_item){0, last.id, 1};
    return qpi_around_add(single, (qpi_around_item[]){first, a, last}, 3, at->error) &&
           qpi_around_add(pair, (qpi_around_item[]){first, a, last, b, last_b}, 5, at->error);
}

/* ---- The table ------------------------------------------------------------------------------- */

/* ByteLevel changes places in the text only. */
static bool read_nothing(qpi_around *single, qpi_around *pair, const qpi_json *at) {
    (void)single, (void)pair, (void)at;
    return true;
}

static const struct {
    const char *name;
    bool (*read)(qpi_around *single, qpi_around *pair, const qpi_json *at);
} types[] = {
    {"TemplateProcessing", read_template},
    {"RobertaProcessing", read_roberta},
    {"BertProcessing", read_bert},
    {"ByteLevel", read_nothing},
};

typedef struct {
    qpi_around *single, *pair;
} both;

static bool read_member(void *to, const qpi_json *at) {
    both *b = to;
    return qpi_around_read(b->single, b->pair, at);
}

bool qpi_around_read(qpi_around *single, qpi_around *pair, const qpi_json *at) {
    const char *name;
    if (!qpi_json_string(at, "type", QPI_REQUIRED, &name)) return false;
    if (strcmp(name, "Sequence") == 0)
        return qpi_json_each(at, "processors", &(both){single, pair}, read_member);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        if (strcmp(types[i].name, name) != 0) continue;
        if (single->count && types[i].read != read_nothing)
            return qpi_unsupported(at, "a component behind one that puts tokens around the text");
        return types[i].read(single, pair, at);
    }
    return qpi_unsupported(at, name);
}
