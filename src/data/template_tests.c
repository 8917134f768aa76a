/* Tests: what stands behind `is`. */
#include "data/template.h"

#define TEST(name, condition) \
    static bool name(qpi_trun *r, qpi_tval v, const qpi_targs *a) { return (void)r, (void)a, (condition); }

TEST(defined, v.kind != QPI_T_UNDEFINED)
TEST(undefined, v.kind == QPI_T_UNDEFINED)
TEST(none, v.kind == QPI_T_NONE)
TEST(boolean, v.kind == QPI_T_BOOL)
TEST(true_, v.kind == QPI_T_BOOL && v.b)
TEST(false_, v.kind == QPI_T_BOOL && !v.b)
TEST(integer, v.kind == QPI_T_INT)
TEST(float_, v.kind == QPI_T_FLOAT)
TEST(number, qpi_t_is_number(v))
TEST(string, v.kind == QPI_T_STRING)
TEST(mapping, v.kind == QPI_T_DICT)
TEST(iterable,
     v.kind == QPI_T_STRING || v.kind == QPI_T_LIST || v.kind == QPI_T_DICT || v.kind == QPI_T_UNDEFINED)
TEST(sequence, v.kind == QPI_T_STRING || (v.kind == QPI_T_LIST && v.flavour < QPI_F_VIEW) ||
                   v.kind == QPI_T_DICT || v.kind == QPI_T_UNDEFINED)
TEST(callable, v.kind >= QPI_T_MACRO || v.kind == QPI_T_UNDEFINED)

static bool operand(qpi_trun *r, const qpi_targs *a, qpi_tval *out) {
    if (a->count == 1) return *out = a->items[0], true;
    qpi_t_fail(r, QP_ERR_ARGUMENT, "a test: expected one value to compare with");
    return false;
}

static bool equal(qpi_trun *r, qpi_tval v, const qpi_targs *a) {
    qpi_tval b;
    return operand(r, a, &b) && qpi_t_equal(r, v, b);
}
static bool differs(qpi_trun *r, qpi_tval v, const qpi_targs *a) {
    qpi_tval b;
    return operand(r, a, &b) && !qpi_t_equal(r, v, b);
}
static bool less(qpi_trun *r, qpi_tval v, const qpi_targs *a) {
    qpi_tval b;
    return operand(r, a, &b) && qpi_t_order(r, v, b) == -1;
}
static bool greater(qpi_trun *r, qpi_tval v, const qpi_targs *a) {
    qpi_tval b;
    return operand(r, a, &b) && qpi_t_order(r, v, b) == 1;
}
static bool at_most(qpi_trun *r, qpi_tval v, const qpi_targs *a) {
    qpi_tval b;
    int      order = operand(r, a, &b) ? qpi_t_order(r, v, b) : 2;
    return order == -1 || order == 0;
}
static bool at_least(qpi_trun *r, qpi_tval v, const qpi_targs *a) {
    qpi_tval b;
    int      order = operand(r, a, &b) ? qpi_t_order(r, v, b) : 2;
    return order == 1 || order == 0;
}
static bool within(qpi_trun *r, qpi_tval v, const qpi_targs *a) {
    qpi_tval b;
    return operand(r, a, &b) && qpi_t_contains(r, b, v);
}
static bool same(qpi_trun *r, qpi_tval v, const qpi_targs *a) {
    qpi_tval b;
    return operand(r, a, &b) && v.kind == b.kind && qpi_t_equal(r, v, b);
}

/* v modulo the operand is `wanted`. */
static bool leaves(qpi_trun *r, qpi_tval v, int64_t by, int64_t wanted) {
    if (v.kind != QPI_T_INT && v.kind != QPI_T_BOOL)
        qpi_t_fail(r, QP_ERR_ARGUMENT, "a test: expected a whole number, found %s", qpi_t_kind(v));
    if (by == 0) qpi_t_fail(r, QP_ERR_ARGUMENT, "division by zero");
    if (r->failed) return false;
    int64_t x = v.kind == QPI_T_INT ? v.i : v.b;
    return by == -1 ? wanted == 0 : (x % by != 0) == (wanted != 0);
}
static bool odd(qpi_trun *r, qpi_tval v, const qpi_targs *a) { return (void)a, leaves(r, v, 2, 1); }
static bool even(qpi_trun *r, qpi_tval v, const qpi_targs *a) { return (void)a, leaves(r, v, 2, 0); }
static bool divisible(qpi_trun *r, qpi_tval v, const qpi_targs *a) {
    qpi_tval b;
    return operand(r, a, &b) && leaves(r, v, b.kind == QPI_T_INT ? b.i : 0, 0);
}

/* The text is not empty, has letters, and all are of this case. */
static bool all_in_case(qpi_trun *r, qpi_tval v, bool upper) {
    qpi_str  s = qpi_t_str(r, v);
    qpi_tval low = qpi_t_lower(r, s), high = qpi_t_upper(r, s);
    return !r->failed && qpi_str_equal(s, upper ? high.str : low.str) && !qpi_str_equal(low.str, high.str);
}
static bool lower(qpi_trun *r, qpi_tval v, const qpi_targs *a) { return (void)a, all_in_case(r, v, false); }
static bool upper(qpi_trun *r, qpi_tval v, const qpi_targs *a) { return (void)a, all_in_case(r, v, true); }

const qpi_ttest *qpi_t_test(qpi_str name) {
    static const qpi_ttest tests[] = {{"defined", defined},   {"undefined", undefined},
                                      {"none", none},         {"boolean", boolean},
                                      {"true", true_},        {"false", false_},
                                      {"integer", integer},   {"float", float_},
                                      {"number", number},     {"string", string},
                                      {"mapping", mapping},   {"iterable", iterable},
                                      {"sequence", sequence}, {"callable", callable},
                                      {"eq", equal},          {"equalto", equal},
                                      {"==", equal},          {"ne", differs},
                                      {"!=", differs},        {"lt", less},
                                      {"lessthan", less},     {"<", less},
                                      {"gt", greater},        {"greaterthan", greater},
                                      {">", greater},         {"le", at_most},
                                      {"<=", at_most},        {"ge", at_least},
                                      {">=", at_least},       {"in", within},
                                      {"sameas", same},       {"odd", odd},
                                      {"even", even},         {"divisibleby", divisible},
                                      {"lower", lower},       {"upper", upper}};
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++)
        if (qpi_str_is(name, tests[i].name)) return &tests[i];
    return NULL;
}
