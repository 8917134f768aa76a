/* What reaches the arithmetic from caches and memory: reading, copying, adding. */
#include "cli/bench.h"

typedef struct {
    qp_tensor x, y, z;
} arrays;

static void run_read(void *arg) {
    const arrays *a = arg;
    qp_scope      s = qp_enter(a->x.ctx);
    qp_sum(a->x, 0, NULL, false);
    qp_leave(s);
}

static void run_copy(void *arg) {
    const arrays *a = arg;
    if (qp_copy_to(a->z, a->x)) return; /* the failure is stored */
}

static void run_add(void *arg) {
    const arrays *a = arg;
    qp_scope      s = qp_enter(a->x.ctx);
    qp_add(a->x, a->y);
    qp_leave(s);
}

static const struct {
    int arrays; /* that pass through memory */
    void (*run)(void *arg);
} forms[] = {{1, run_read}, {2, run_copy}, {3, run_add}};

static void run(bench *b) {
    bench_title(b, "%d threads, GB/s\n%-10s %10s %10s %10s", qp_stats_of(b->ctx).threads, "array", "read",
                "copy", "add");
    for (int64_t bytes = 64 << 10; bytes <= 256 << 20; bytes *= 8) {
        char     size[32];
        double   speed[3];
        int64_t  n = bytes / 4;
        qp_scope s = qp_enter(b->ctx);
        arrays   a = {qp_zeros(b->ctx, QP_F32, 1, &n), qp_zeros(b->ctx, QP_F32, 1, &n),
                      qp_zeros(b->ctx, QP_F32, 1, &n)};
        for (int i = 0; i < 3; i++)
            speed[i] = forms[i].arrays * (double)bytes / bench_seconds(b, forms[i].run, &a) * 1e-9;
        bench_row(b,
                  json_pack("{s:I, s:o, s:o, s:o}", "array_bytes", (json_int_t)bytes, "read_gbytes",
                            cli_json_number(speed[0]), "copy_gbytes", cli_json_number(speed[1]), "add_gbytes",
                            cli_json_number(speed[2])),
                  "%-10s %10.1f %10.1f %10.1f", cli_bytes((double)bytes, size), speed[0], speed[1], speed[2]);
        qp_leave(s);
    }
}

const bench_kind bench_memory = {"memory", run};
