/* Chat templates: the part of Jinja that they use, with the meaning that transformers gives it.
 *
 * template_lex.c cuts the source into tokens, template_parse.c (statements) and
 * template_parse_expr.c build nodes, template_run.c executes statements, template_eval.c
 * expressions; filters, tests, methods and functions are one table each. Nothing of it trusts the
 * template: steps, memory, output and depth are bounded, and values live in one arena that is freed
 * at the end.
 *
 * A text is an array of code points, as Python's are, each with one more bit: did it come from a
 * stranger (messages, tools, documents) or from the template? The bit stays with its character
 * through every operation, so what is rendered says of each place who wrote it. */
#ifndef QUIPU_DATA_TEMPLATE_H
#define QUIPU_DATA_TEMPLATE_H

#include <jansson.h>

#include "core/error.h"
#include "format/buffer.h"
#include "quipu/chat.h"

/* ---- Texts ------------------------------------------------------------------------------- */

typedef uint32_t qpi_code;
#define QPI_FOREIGN ((qpi_code)1 << 31)
#define QPI_CODE(c) ((c) & ~QPI_FOREIGN)

typedef struct {
    const qpi_code *codes;
    size_t          n;
} qpi_str;

bool qpi_str_is(qpi_str s, const char *ascii);
bool qpi_str_equal(qpi_str a, qpi_str b);
int qpi_str_compare(qpi_str a, qpi_str b);
bool qpi_code_is_space(qpi_code c); /* as Python's str.isspace */

/* ---- Values ------------------------------------------------------------------------------ */

typedef enum {
    QPI_T_UNDEFINED, /* str: what is undefined, for messages */
    QPI_T_NONE,
    QPI_T_BOOL,
    QPI_T_INT,
    QPI_T_FLOAT,
    QPI_T_STRING,
    QPI_T_LIST, /* any sequence but a string; flavour says which */
    QPI_T_DICT,
    QPI_T_NAMESPACE,
    QPI_T_LOOP,
    QPI_T_MACRO,
    QPI_T_METHOD,
    QPI_T_FUNCTION
} qpi_tkind;

typedef enum {
    QPI_F_LIST,
    QPI_F_TUPLE,
    QPI_F_RANGE,
    QPI_F_VIEW,     /* of a dictionary: no indices */
    QPI_F_GENERATOR /* no length, always true */
} qpi_flavour;
#define QPI_F_SAFE 1 /* of a string: what is added to it is escaped, as Markup does */

typedef struct qpi_tlist  qpi_tlist;
typedef struct qpi_tdict  qpi_tdict;
typedef struct qpi_tloop  qpi_tloop;
typedef struct qpi_tmacro qpi_tmacro;
typedef struct qpi_tbound qpi_tbound;

typedef struct {
    uint8_t kind, flavour;
    union {
        bool                        b;
        int64_t                     i;
        double                      f;
        qpi_str                     str;
        qpi_tlist                  *list;
        qpi_tdict                  *dict; /* also of a namespace */
        qpi_tloop                  *loop;
        qpi_tmacro                 *macro;
        qpi_tbound                 *bound;
        const struct qpi_tfunction *function;
    };
} qpi_tval;

struct qpi_tlist {
    qpi_tval *items;
    size_t    count, capacity;
};
struct qpi_tdict {
    qpi_tval *keys, *values;
    size_t    count, capacity;
};

/* ---- The tree ---------------------------------------------------------------------------- */

typedef enum {
    /* expressions */
    QPI_N_CONST,
    QPI_N_NAME,
    QPI_N_TUPLE, /* list */
    QPI_N_LIST,
    QPI_N_DICT,    /* list: keys and values in turn */
    QPI_N_ATTR,    /* a.name */
    QPI_N_ITEM,    /* a[b]; b may be a slice */
    QPI_N_SLICE,   /* a:b:c */
    QPI_N_CALL,    /* a(list) */
    QPI_N_KEYWORD, /* name=a, within a call */
    QPI_N_FILTER,  /* a | name(list) */
    QPI_N_TEST,    /* a is name(list); op: negated */
    QPI_N_NEGATE,
    QPI_N_PLUS,
    QPI_N_NOT,
    QPI_N_AND,
    QPI_N_OR,
    QPI_N_BINARY,  /* a op b */
    QPI_N_CONCAT,  /* list, joined by ~ */
    QPI_N_COMPARE, /* a, list of operands, each with its op */
    QPI_N_COND,    /* b if a else c */
    /* statements */
    QPI_N_TEXT,
    QPI_N_PRINT,
    QPI_N_IF, /* list: branches (a: condition or NULL, list: body) */
    QPI_N_BRANCH,
    QPI_N_FOR,      /* for a in b if c: list, else other; op: recursive */
    QPI_N_SET,      /* a = b */
    QPI_N_CAPTURE,  /* set a (| filters in b): list */
    QPI_N_MACRO,    /* name, other: parameters (name, a: default), list; op: asks for its caller */
    QPI_N_CALLER,   /* a call of a macro in a, which is given this: other, list as a macro's */
    QPI_N_SCOPE,    /* other: assignments, list: generation, with */
    QPI_N_FILTERED, /* filters in b around list */
    QPI_N_BREAK,
    QPI_N_CONTINUE,
    QPI_N_HOLE /* where a captured text enters its filters */
} qpi_nkind;

typedef struct qpi_tnode qpi_tnode;
struct qpi_tnode {
    uint8_t     kind;
    uint32_t    op; /* of BINARY, COMPARE's operands: QPI_OP; a flag of others */
    int         line;
    qpi_tnode  *a, *b, *c, *list, *other, *next;
    qpi_str     name;
    qpi_tval    value;
    const void *entry; /* of FILTER, TEST: the table's; NULL: there is none, which only matters if it runs */
};

/* ---- Tokens ------------------------------------------------------------------------------ */

typedef enum {
    QPI_TOK_END,
    QPI_TOK_TEXT,
    QPI_TOK_PRINT,     /* {{ */
    QPI_TOK_PRINT_END, /* }} */
    QPI_TOK_BLOCK,     /* {% */
    QPI_TOK_BLOCK_END, /* %} */
    QPI_TOK_NAME,
    QPI_TOK_STRING, /* with its quotes */
    QPI_TOK_INT,
    QPI_TOK_FLOAT,
    QPI_TOK_OP
} qpi_tok_kind;

#define QPI_OP(a, b) ((uint32_t)(a) << 8 | (uint32_t)(b)) /* QPI_OP('=', '='), QPI_OP(0, '+') */
#define QPI_OP_IN QPI_OP('i', 'n')
#define QPI_OP_NOT_IN QPI_OP('!', 'i')

typedef struct {
    uint8_t  kind;
    int      line;
    uint32_t op;
    qpi_str  text;
} qpi_tok;

typedef struct {
    qpi_tok *items;
    size_t   count, capacity;
} qpi_toks;

/* A template that has been read. */
typedef struct {
    const char *name; /* for messages */
    qpi_arena   arena;
    qpi_str     source;
    qpi_tnode  *body;
} qpi_template;

#define QPI_TEMPLATE_BYTES ((size_t)1 << 20) /* longest source */
#define QPI_TEMPLATE_DEPTH 200 /* of statements and expressions in the source; twice that at run time */

/* Reads a source (UTF-8); NULL after storing "NAME: line L: ...". */
qpi_template *qpi_template_parse(const char *name, const char *source, size_t n, qpi_error *e);
void qpi_template_free(qpi_template *t);

/* template_lex.c: appends the tokens of t's source. */
bool qpi_template_lex(qpi_template *t, qpi_toks *out, qpi_error *e);

typedef struct {
    qpi_template *t;
    qpi_toks      toks;
    size_t        at;
    int           depth, loops;
    int           choices; /* ifs around: what is in them may never run */
    bool          failed, caller;
    qpi_tnode     spare; /* what nodes are behind a failure */
    qpi_error    *error;
} qpi_tparser;

qpi_tnode *qpi_t_node(qpi_tparser *p, qpi_nkind kind); /* never NULL: behind a failure it is the spare one */
void *qpi_t_take_source(qpi_tparser *p, size_t bytes); /* from the template's arena; NULL: p failed */
void qpi_t_expected(qpi_tparser *p, const char *what); /* "expected WHAT, found ..." */
void qpi_t_unsupported(qpi_tparser *p, const char *what);
const qpi_tok *qpi_t_peek(const qpi_tparser *p);
bool qpi_t_at_name(const qpi_tparser *p, const char *name);
bool qpi_t_at_op(const qpi_tparser *p, uint32_t op);
bool qpi_t_skip_name(qpi_tparser *p, const char *name); /* if it is there */
bool qpi_t_skip_op(qpi_tparser *p, uint32_t op);
bool qpi_t_expect_op(qpi_tparser *p, uint32_t op, const char *what);
bool qpi_t_expect_name(qpi_tparser *p, qpi_str *out);
/* template_parse_expr.c */
qpi_tnode *qpi_t_expression(qpi_tparser *p, bool conditional);
qpi_tnode *qpi_t_tuple(qpi_tparser *p, bool conditional); /* a, b, c without brackets too */
qpi_tnode *qpi_t_filters(qpi_tparser *p, qpi_tnode *a);   /* | name ... */
qpi_tnode *qpi_t_primary(qpi_tparser *p);

/* ---- Running ----------------------------------------------------------------------------- */

typedef struct qpi_tscope {
    struct qpi_tscope *parent;
    qpi_str           *names;
    qpi_tval          *values;
    size_t             count, capacity;
} qpi_tscope;

typedef struct {
    qpi_code *codes;
    size_t    count, capacity;
} qpi_codes;

typedef struct {
    const qpi_template *t;
    qpi_arena           arena;
    size_t              memory; /* bytes left */
    int64_t             steps;  /* left */
    size_t              most;   /* code points of the output */
    int64_t             now;    /* seconds since 1970, for strftime_now */
    int                 depth, line;
    bool                failed;
    enum { QPI_RUN, QPI_BREAK, QPI_CONTINUE } flow;
    qpi_tscope *scope;
    qpi_codes  *out;
    qpi_error  *error;
} qpi_trun;

/* What a rendering may use, and afterwards what it left: as in qpi_trun. */
typedef struct {
    size_t  memory;
    int64_t steps;
    size_t  most;
} qpi_tbudget;
/* qp_chat_render within a budget; NULL: the usual one. */
qp_status qpi_chat_render(qp_ctx *ctx, const qp_chat_template *t, const char *messages, size_t bytes,
                          qp_chat_options options, qpi_tbudget *budget, qp_rendered *out);

struct qpi_tloop {
    const qpi_tlist *items;
    const qpi_tnode *node;
    qpi_tscope      *outer;
    size_t           index;
    int              depth;
    bool             changed_set;
    qpi_tval         changed;
};
struct qpi_tmacro {
    const qpi_tnode *node;
    qpi_tscope      *scope;
};
struct qpi_tbound {
    qpi_tval                  self;
    const struct qpi_tmethod *method;
};

#define QPI_MAX_ARGS 16
typedef struct {
    qpi_tval items[QPI_MAX_ARGS];
    int      count;
    qpi_str  names[QPI_MAX_ARGS];
    qpi_tval named[QPI_MAX_ARGS];
    int      named_count;
} qpi_targs;

/* The tables. Methods and filters get self; functions do not. */
typedef struct qpi_tfunction {
    const char *name;
    qpi_tval (*call)(qpi_trun *r, const qpi_targs *a);
} qpi_tfunction;
typedef struct qpi_tfilter {
    const char *name;
    qpi_tval (*call)(qpi_trun *r, qpi_tval self, const qpi_targs *a);
} qpi_tfilter;
typedef struct qpi_tmethod {
    const char *name;
    qpi_tval (*call)(qpi_trun *r, qpi_tval self, const qpi_targs *a); /* NULL: Python has it, we not */
} qpi_tmethod;
typedef struct qpi_ttest {
    const char *name;
    bool (*call)(qpi_trun *r, qpi_tval self, const qpi_targs *a);
} qpi_ttest;
const qpi_tfunction *qpi_t_function(qpi_str name); /* NULL: none */
const qpi_tfilter *qpi_t_filter(qpi_str name);
const qpi_ttest *qpi_t_test(qpi_str name);
const qpi_tmethod *qpi_t_method(qpi_tval self, qpi_str name);

/* The first failure stays; the value is undefined. Texts are "NAME: line L: ...". */
qpi_tval qpi_t_fail(qpi_trun *r, qp_code code, const char *format, ...) QP_PRINTF(3, 4);
bool qpi_t_work(qpi_trun *r, size_t steps);  /* false when they are used up */
void *qpi_t_take(qpi_trun *r, size_t bytes); /* from the arena; NULL after a failure */
bool qpi_t_put(qpi_trun *r, qpi_codes *out, qpi_str s);
bool qpi_t_put_ascii(qpi_trun *r, qpi_codes *out, const char *text);
qpi_tval qpi_t_finish(qpi_trun *r, qpi_codes *b); /* the string; frees the buffer */
/* Code points of UTF-8, which is checked; mark is 0 or QPI_FOREIGN. */
bool qpi_t_from_utf8(qpi_trun *r, const char *text, size_t n, qpi_code mark, qpi_tval *out);
char *qpi_t_ascii(qpi_str s, char *out, size_t size); /* for messages: cut, control bytes as '?' */

/* template_value.c */
extern const qpi_tval qpi_t_none;
qpi_tval qpi_t_undefined(qpi_str what);
qpi_tval qpi_t_bool(bool b);
qpi_tval qpi_t_int(int64_t i);
qpi_tval qpi_t_float(double f);
qpi_tval qpi_t_string(qpi_str s);
qpi_tval qpi_t_text(qpi_trun *r, const char *ascii);
qpi_tval qpi_t_list(qpi_trun *r, qpi_flavour f, size_t reserve);
bool qpi_t_append(qpi_trun *r, qpi_tval list, qpi_tval item);
qpi_tval qpi_t_dict(qpi_trun *r);
bool qpi_t_store(qpi_trun *r, qpi_tdict *d, qpi_tval key, qpi_tval value);
bool qpi_t_find(qpi_trun *r, const qpi_tdict *d, qpi_tval key, qpi_tval *out);
bool qpi_t_is_number(qpi_tval v);
double qpi_t_number(qpi_tval v); /* of bool, int, float */
bool qpi_t_truth(qpi_tval v);
bool qpi_t_equal(qpi_trun *r, qpi_tval a, qpi_tval b);
int qpi_t_order(qpi_trun *r, qpi_tval a, qpi_tval b); /* fails for what has no order */
bool qpi_t_contains(qpi_trun *r, qpi_tval where, qpi_tval what);
const char *qpi_t_kind(qpi_tval v); /* Python's name of the type */
/* str(v) and repr(v) */
bool qpi_t_print(qpi_trun *r, qpi_codes *out, qpi_tval v);
bool qpi_t_repr(qpi_trun *r, qpi_codes *out, qpi_tval v);
qpi_str qpi_t_str(qpi_trun *r, qpi_tval v); /* str(v) */
/* The items of anything that can be walked through, NULL after a failure. */
const qpi_tlist *qpi_t_items(qpi_trun *r, qpi_tval v);
bool qpi_t_length(qpi_trun *r, qpi_tval v, int64_t *n); /* fails for what has none */

/* template_json.c */
qpi_tval qpi_t_from_json(qpi_trun *r, const json_t *value, qpi_code mark);
bool qpi_t_put_real(qpi_trun *r, qpi_codes *out, double x);
qpi_tval qpi_t_tojson(qpi_trun *r, qpi_tval self, const qpi_targs *a);

/* template_eval.c */
qpi_tval qpi_t_eval(qpi_trun *r, const qpi_tnode *n);
qpi_tval qpi_t_call(qpi_trun *r, const qpi_tnode *n, qpi_tmacro *caller); /* of a CALL; caller NULL: none */
qpi_tval qpi_t_attribute(qpi_trun *r, qpi_tval v, qpi_str name);
qpi_tval qpi_t_item(qpi_trun *r, qpi_tval v, qpi_tval key);
qpi_tval qpi_t_path(qpi_trun *r, qpi_tval v, qpi_str path); /* "a.b.0" of map, selectattr, ... */
qpi_tval qpi_t_add(qpi_trun *r, qpi_tval a, qpi_tval b);
/* A parameter by place or name; false if it was not given. */
bool qpi_t_argument(qpi_trun *r, const qpi_targs *a, int place, const char *name, qpi_tval *out);
/* Fails if there are more arguments by place than `most`. */
bool qpi_t_at_most(qpi_trun *r, const qpi_targs *a, int most, const char *what);

/* template_strings.c: what filters and methods share */
qpi_str qpi_t_strip(qpi_str s, const qpi_str *set, bool left, bool right);
qpi_tval qpi_t_replace(qpi_trun *r, qpi_str s, qpi_str old, qpi_str with, int64_t most);
size_t qpi_t_search(qpi_trun *r, qpi_str s, qpi_str what, size_t from); /* SIZE_MAX: not there */
qpi_tval qpi_t_escape(qpi_trun *r, qpi_tval v);                         /* for HTML; QPI_F_SAFE */
qpi_tval qpi_t_lower(qpi_trun *r, qpi_str s);
qpi_tval qpi_t_upper(qpi_trun *r, qpi_str s);
qpi_tval qpi_t_capital(qpi_trun *r, qpi_str s);
qpi_tval qpi_t_title(qpi_trun *r, qpi_str s);       /* the method's way */
qpi_tval qpi_t_title_words(qpi_trun *r, qpi_str s); /* the filter's */
qpi_tval qpi_t_lines(qpi_trun *r, qpi_str s, bool keep);
/* most: cuts, -1: all */
qpi_tval qpi_t_words(qpi_trun *r, qpi_str s, int64_t most);
qpi_tval qpi_t_split(qpi_trun *r, qpi_str s, qpi_str by, int64_t most);
qpi_tval qpi_t_split_right(qpi_trun *r, qpi_str s, qpi_str by, int64_t most);
qpi_tval qpi_t_format(qpi_trun *r, qpi_str pattern, const qpi_tval *items, size_t n); /* "%s" % .. */
bool qpi_code_is_alpha(qpi_code c);

/* template_run.c */
qpi_tscope *qpi_t_scope(qpi_trun *r, qpi_tscope *parent);
bool qpi_t_define(qpi_trun *r, qpi_tscope *s, qpi_str name, qpi_tval value);
void qpi_t_run(qpi_trun *r, const qpi_tnode *list);
qpi_tval qpi_t_call_macro(qpi_trun *r, const qpi_tmacro *m, const qpi_targs *a);
qpi_tval qpi_t_call_loop(qpi_trun *r, const qpi_tloop *l,
                         const qpi_targs *a); /* loop(items) of a recursive one */

#endif
