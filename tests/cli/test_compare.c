/* quipu compare: equal parameters, rows that fail and rows that run, what is kept, processes that share. */
#define _GNU_SOURCE
#include "support.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#define COMPARE(out, ...) \
    "compare", "--task", "selective_copying:tokens=3", "--length", "16", "--batch", "4", "--test-samples", \
        "16", "--set", "hidden_size=32", "--out", out, "-t", "1", __VA_ARGS__, NULL

static const json_t *row_at(const json_t *all, size_t i) {
    const json_t *row = json_array_get(json_object_get(all, "rows"), i);
    assert_non_null(row);
    return row;
}

static const char *text(const json_t *o, const char *key) {
    const char *value = json_string_value(json_object_get(o, key));
    return value ? value : "";
}

/* ---- The table ----------------------------------------------------------------------------------- */

static void check_csv(const char *csv) {
    int  columns[8] = {0}, line = 0;
    bool quoted = false;
    for (const char *p = csv; *p; p++) {
        quoted ^= *p == '"';
        if (*p == ',' && !quoted) columns[line]++;
        if (*p == '\n') line++;
    }
    assert_int_equal(line, 5);
    assert_int_equal(columns[0], columns[1]);
    assert_int_equal(columns[0], columns[4]);
    assert_memory_equal(csv, "part,length,status,why,parameters,", 34);
}

static void check_page(const char *page) {
    const char *outside[] = {"<script", "http:", "https:", "src=", "url(", "@import", ">nan", ">inf"};
    for (int i = 0; i < 8; i++)
        if (strstr(page, outside[i])) fail_msg("the report holds \"%s\"", outside[i]);
    assert_non_null(strstr(page, "<svg"));
    assert_non_null(strstr(page, "mixer={&quot;type&quot;:&quot;attention&quot;"));
}

static void test_rows(void **state) {
    (void)state;
    size_t  bytes;
    json_t *all = expect_json(run(COMPARE(
        "%/rows", "--steps", "4", "--parts", "mixer=attention,nosuch,{\"type\":\"attention\",\"kv_heads\":1}",
        "ffn=swiglu", "--test-length", "8,32", "--cost-length", "16,64", "--json")));
    assert_int_equal(json_array_size(json_object_get(all, "rows")), 4);
    assert_string_equal(text(all, "reference"), "mixer=attention");
    for (size_t i = 0; i < 4; i++) {
        const json_t *row = row_at(all, i), *tests = json_object_get(row, "tests");
        if (i == 1) {
            assert_string_equal(text(row, "status"), "failed");
            assert_non_null(strstr(text(row, "why"), "no part named \"nosuch\""));
            continue;
        }
        assert_string_equal(text(row, "status"), "done");
        assert_true(fabs(number_of(row, "parameters_off")) < 0.01);
        assert_true(number_of(row, "accuracy") >= 0 && number_of(row, "accuracy") <= 1);
        assert_true(number_of(row, "tokens_per_second") > 0 && number_of(row, "peak_bytes") > 0);
        assert_int_equal(json_array_size(tests), 2);
        assert_true(number_of(json_array_get(tests, 1), "loss") > 0);
    }
    /* two layers, heads of 8: keys and values of 16 positions in f32; a quarter of that with one head for keys
     */
    assert_int_equal(number_of(row_at(all, 0), "state_bytes"), 2 * 2 * 16 * 32 * 4);
    assert_int_equal(number_of(row_at(all, 2), "state_bytes"), 2 * 2 * 16 * 8 * 4);
    /* each weight of a product once, with two flops */
    double products = 2 * (2 * (4 * 32 * 32 + 2 * 32 * 256) + 32 * 16);
    assert_float_equal(number_of(row_at(all, 0), "projection_flops"), products, 1e-6 * products);
    assert_true(number_of(row_at(all, 0), "mixing_flops") > 0);
    json_decref(all);
    char *csv = read_file(in_folder("rows/compare.csv"), &bytes),
         *page = read_file(in_folder("rows/report.html"), &bytes);
    check_csv(csv);
    check_page(page);
    free(csv);
    free(page);
}

/* Mixing grows with the square of the length, products do not. */
static void test_costs(void **state) {
    (void)state;
    json_t *all = expect_json(run(COMPARE("%/costs", "--steps", "1", "--parts", "mixer=attention", "ffn=none",
                                          "--cost-length", "64,256", "--json")));
    const json_t *costs = json_object_get(all, "costs"), *a = json_array_get(costs, 2),
                 *b = json_array_get(costs, 4);
    assert_int_equal(json_array_size(costs), 6); /* 16, 64, 256 of two */
    assert_int_equal(number_of(a, "length"), 64);
    assert_int_equal(number_of(b, "length"), 256);
    assert_float_equal(number_of(b, "projection_flops") / number_of(a, "projection_flops"), 4, 1e-9);
    double mixing = number_of(b, "mixing_flops") / number_of(a, "mixing_flops");
    assert_true(mixing > 12 && mixing <= 16);
    assert_true(number_of(b, "seconds") > number_of(a, "seconds"));
    /* without an inner width the model's is adjusted */
    assert_string_equal(text(row_at(all, 1), "adjusted"), "hidden_size");
    assert_true(fabs(number_of(row_at(all, 1), "parameters_off")) < 0.25);
    json_decref(all);
}

/* Costs that the test writes: the variant is dearer by 4 at 16 and cheaper by 4 at 64, so that they meet (but for the
 * 2% that count as noise) in the middle of the logarithms. */
static void test_crossover(void **state) {
    (void)state;
    size_t  i;
    json_t *row,
        *all =
            expect_json(run(COMPARE("%/cross", "--steps", "1", "--parts", "mixer=attention,attention:window=4",
                                    "--cost-length", "16,64", "--json")));
    json_decref(all);
    json_t *costs = json_load_file(in_folder("cross/costs.json"), 0, NULL);
    assert_int_equal(json_array_size(costs), 4);
    json_array_foreach(costs, i, row) {
        bool   reference = !strcmp(text(row, "part"), "mixer=attention");
        double by = reference ? 1 : number_of(row, "length") < 20 ? 4 : 0.25;
        json_object_set_new(row, "seconds", json_real(number_of(row, "length") * by));
    }
    assert_int_equal(json_dump_file(costs, in_folder("cross/costs.json"), 0), 0);
    json_decref(costs);
    all = expect_json(run(COMPARE("%/cross", "--steps", "1", "--parts", "mixer=attention,attention:window=4",
                                  "--cost-length", "16,64", "--json")));
    const json_t *crossings = json_object_get(all, "crossovers");
    double        up = log(4 * 1.02), down = log(0.25 * 1.02);
    assert_float_equal(number_of(json_array_get(crossings, 1), "length"), 16 * pow(4, up / (up - down)), 0.01);
    json_decref(all);
}

/* Several seeds and learning rates: a row is the mean over seeds at the best rate. */
static void test_means(void **state) {
    (void)state;
    json_t *all = expect_json(run(COMPARE("%/means", "--steps", "3", "--parts", "norm=rms_norm", "--seeds", "2",
                                          "--lr", "1e-3,1e-9", "--cost-seconds", "0", "--json")));
    const json_t *runs = json_object_get(all, "runs"), *row = row_at(all, 0);
    double        sum = 0, other = 0;
    assert_int_equal(json_array_size(runs), 4);
    for (size_t i = 0; i < 4; i++) {
        double loss = number_of(json_object_get(json_array_get(runs, i), "result"), "loss");
        *(number_of(json_array_get(runs, i), "lr") == 1e-3 ? &sum : &other) += loss;
    }
    assert_true(number_of(row, "lr") == (sum < other ? 1e-3 : 1e-9));
    assert_float_equal(number_of(row, "loss"), fmin(sum, other) / 2, 1e-12);
    assert_int_equal(number_of(row, "seeds"), 2);
    assert_true(number_of(row, "loss_spread") >= 0);
    json_decref(all);
}

/* A mixer that sees what follows cannot predict it, but can be asked for what is masked. */
static void test_directions(void **state) {
    (void)state;
    char words[3000];
    for (int i = 0; i < (int)sizeof words; i++) words[i] = (char)('a' + i * i % 19);
    write_file("words", words, sizeof words);
    const char *tasks[] = {"lm", "mlm"};
    for (int i = 0; i < 2; i++) {
        json_t *all = expect_json(run("compare", "--task", tasks[i], "--data", "%/words", "--length", "16",
                                      "--batch", "2", "--steps", "2", "--test-samples", "4", "--parts",
                                      "mixer=attention,attention:causal=false", "--cost-seconds", "0", "--out",
                                      i ? "%/mlm" : "%/lm", "-t", "1", "--json", NULL));
        assert_string_equal(text(all, "measure"), "bits_per_byte");
        assert_string_equal(text(row_at(all, 0), "status"), "done");
        assert_true(number_of(row_at(all, 0), "bits_per_byte") > 0);
        assert_string_equal(text(row_at(all, 1), "status"), i ? "done" : "failed");
        if (!i) assert_non_null(strstr(text(row_at(all, 1), "why"), "not causal"));
        if (i)
            assert_float_equal(number_of(row_at(all, 0), "loss"), number_of(row_at(all, 1), "loss"),
                               0); /* both see both sides */
        json_decref(all);
    }
}

/* Whatever is registered runs, or its row says why it cannot. */
static void test_all_parts(void **state) {
    (void)state;
    static const char *const kinds[][2] = {{"mixers", "mixer"}, {"ffn", "ffn"},      {"positions", "position"},
                                           {"norms", "norm"},   {"blocks", "block"}, {"init", "init"}};
    for (int kind = 0; kind < 6; kind++) {
        json_t *list = expect_json(run("list", kinds[kind][0], "--json", NULL)), *all, *part;
        char    parts[4000];
        int     n = snprintf(parts, sizeof parts, "%s=", kinds[kind][1]), done = 0;
        size_t  i, count = json_array_size(json_object_get(list, kinds[kind][0]));
        json_array_foreach(json_object_get(list, kinds[kind][0]), i, part) n +=
            snprintf(parts + n, sizeof parts - (size_t)n, "%s%s", i ? "," : "", text(part, "name"));
        json_decref(list);
        all = expect_json(
            run(COMPARE("%/parts", "--steps", "1", "--parts", parts, "--cost-length", "16", "--json")));
        assert_int_equal(json_array_size(json_object_get(all, "rows")), count);
        for (i = 0; i < count; i++) {
            const json_t *row = row_at(all, i);
            bool          ran = !strcmp(text(row, "status"), "done");
            if (!ran && !*text(row, "why")) fail_msg("%s neither ran nor said why", text(row, "part"));
            if (ran) assert_true(number_of(row, "loss") > 0 && number_of(row, "flops") > 0);
            done += ran;
        }
        assert_true(done * 2 > (int)count);
        json_decref(all);
    }
}

/* ---- Kept runs ----------------------------------------------------------------------------------- */

/* How many entries of the folder begin with name; the path of one. */
static int find_entry(const char *folder_path, const char *name, char path[1024]) {
    DIR           *dir = opendir(folder_path);
    struct dirent *entry;
    int            found = 0;
    if (!dir) fail_msg("no folder %s", folder_path);
    while ((entry = readdir(dir)))
        if (!strncmp(entry->d_name, name, strlen(name)))
            found++, snprintf(path, 1024, "%.700s/%.300s", folder_path, entry->d_name);
    closedir(dir);
    return found;
}

/* Path of what begins with `file` in the folder of the run that begins with `name`. */
static void path_of_run(const char *out, const char *name, const char *file, char path[1024]) {
    char run_folder[1024];
    if (!find_entry(in_folder(out), name, run_folder)) fail_msg("no run %s", name);
    if (strchr(file, '/')) snprintf(path, 1024, "%.900s/%.100s", run_folder, file);
    else if (!find_entry(run_folder, file, path)) fail_msg("no %s in %s", file, run_folder);
}

static void test_kept(void **state) {
    (void)state;
    char path[1024];
    expect_success(
        run(COMPARE("%/kept", "--steps", "3", "--parts", "ffn=mlp,swiglu", "--cost-seconds", "0", "--quiet")));
    path_of_run("kept/runs", "ffn=mlp", "result-", path);
    FILE *f = fopen(path, "w");
    fputs("{\"status\": \"done\", \"final\": true, \"loss\": 77, \"accuracy\": 0.125}", f);
    fclose(f);
    path_of_run("kept/runs", "ffn=swiglu", "result-", path);
    assert_int_equal(remove(path), 0);
    json_t *all = expect_json(
        run(COMPARE("%/kept", "--steps", "3", "--parts", "ffn=mlp,swiglu", "--cost-seconds", "0", "--json")));
    assert_float_equal(number_of(row_at(all, 0), "loss"), 77, 0); /* taken as it is */
    assert_true(number_of(row_at(all, 1), "loss") < 77);          /* found anew from its last state */
    json_decref(all);
    all = expect_json(
        run(COMPARE("%/kept", "--steps", "4", "--parts", "ffn=mlp", "--cost-seconds", "0", "--json")));
    assert_true(number_of(row_at(all, 0), "loss") < 77); /* another training */
    json_decref(all);
}

/* What is tested does not change what was trained: options for tests alone train nothing anew. */
static void test_test_options(void **state) {
    (void)state;
    char    path[1024];
    json_t *all;
    for (int i = 0; i < 2; i++) {
        all = expect_json(
            run(COMPARE("%/again", "--steps", "3", "--parts",
                        "position=rope,rope:test.scaling=yarn:test.factor=8,rope:test.scaling=nosuch",
                        "--cost-seconds", "0", "--test-length", i ? "16,64" : "64", "--json")));
        assert_int_equal(find_entry(in_folder("again/runs"), "position=rope", path), 1);
        const json_t *plain = json_object_get(row_at(all, 0), "tests"),
                     *yarn = json_object_get(row_at(all, 1), "tests");
        size_t last = json_array_size(plain) - 1;
        assert_float_equal(number_of(row_at(all, 0), "loss"), number_of(row_at(all, 1), "loss"), 0);
        assert_true(number_of(json_array_get(plain, last), "loss") !=
                    number_of(json_array_get(yarn, last), "loss"));
        assert_non_null(strstr(text(row_at(all, 2), "why"), "\"nosuch\""));
        json_decref(all);
    }
}

static pid_t start(const char *const *arguments, const char *rank) {
    const char *words[64] = {COMMAND};
    char        paths[64][600];
    int         n = 1;
    for (; arguments[n - 1]; n++) {
        snprintf(paths[n], sizeof paths[n], "%s%s", arguments[n - 1][0] == '%' ? folder : "",
                 arguments[n - 1] + (arguments[n - 1][0] == '%'));
        words[n] = paths[n];
    }
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid) return pid;
    int null = open("/dev/null", O_RDWR);
    for (int fd = 0; fd < 3; fd++) dup2(null, fd);
    if (rank) {
        setenv("OMPI_COMM_WORLD_RANK", rank, 1);
        setenv("OMPI_COMM_WORLD_SIZE", "2", 1);
    }
    execv(COMMAND, (char *const *)(const void *)words);
    _exit(126);
}

static int count_lines(const char *path) {
    FILE *f = fopen(path, "r");
    int   lines = 0, c;
    while (f && (c = getc(f)) != EOF) lines += c == '\n';
    if (f) fclose(f);
    return lines;
}

static int wait_for(pid_t pid) {
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

#define INTERRUPTED(out) COMPARE(out, "--steps", "400", "--parts", "ffn=mlp", "--cost-seconds", "0", "--quiet")

/* Ctrl-C saves, and the same command ends with the bits of one that was never stopped. */
static void test_interrupt(void **state) {
    (void)state;
    const char *command[] = {INTERRUPTED("%/stopped")};
    char        path[1024] = "", other[1024];
    pid_t       pid = start(command, NULL);
    for (int tries = 0; tries < 6000 && count_lines(path) < 5; tries++) {
        DIR *dir = opendir(in_folder("stopped/runs"));
        if (dir) {
            struct dirent *entry;
            while ((entry = readdir(dir)))
                if (!strncmp(entry->d_name, "ffn", 3))
                    snprintf(path, sizeof path, "%s/%s/log.jsonl", in_folder("stopped/runs"), entry->d_name);
            closedir(dir);
        }
        usleep(2000);
    }
    kill(pid, SIGINT);
    int status = wait_for(pid);
    if (count_lines(path) < 400) assert_int_equal(status, 130);
    expect_success(run(INTERRUPTED("%/stopped")));
    expect_success(run(INTERRUPTED("%/whole")));
    assert_int_equal(count_lines(path), 400);
    size_t a, b;
    path_of_run("stopped/runs", "ffn", "latest/model.safetensors", path);
    path_of_run("whole/runs", "ffn", "latest/model.safetensors", other);
    char *x = read_file(path, &a), *y = read_file(other, &b);
    assert_int_equal(a, b);
    assert_memory_equal(x, y, a);
    free(x);
    free(y);
}

/* Two processes: each run is made once, and the first prints all. */
static void test_processes(void **state) {
    (void)state;
    const char *command[] = {COMPARE("%/two", "--steps", "20", "--parts", "ffn=mlp,swiglu,geglu,mlp:act=relu",
                                     "--cost-seconds", "0", "--quiet")};
    pid_t       second = start(command, "1"), first = start(command, "0");
    assert_int_equal(wait_for(second), 0);
    assert_int_equal(wait_for(first), 0);
    static const char *const names[] = {"ffn=mlp-", "ffn=swiglu", "ffn=geglu", "ffn=mlp_act=relu"};
    for (int i = 0; i < 4; i++) {
        char path[1024];
        path_of_run("two/runs", names[i], "log.jsonl", path);
        assert_int_equal(count_lines(path), 20);
    }
    size_t  bytes;
    char   *text_of = read_file(in_folder("two/compare.json"), &bytes);
    json_t *all = json_loads(text_of, 0, NULL);
    free(text_of);
    for (size_t i = 0; i < 4; i++) assert_string_equal(text(row_at(all, i), "status"), "done");
    json_decref(all);
}

/* ---- What is wrong ------------------------------------------------------------------------------- */

static void test_usage(void **state) {
    (void)state;
    expect_message(run("compare", "--task", "listops", NULL), 2, "--parts is missing");
    expect_message(run(COMPARE("%/u", "--parts", "mixer")), 2, "expected KEY=NAME");
    expect_message(run(COMPARE("%/u", "--parts", "mixer=attention:heads")), 1,
                   "expected KEY=NAME:option=value");
    expect_message(run(COMPARE("%/u", "--parts", "mixer={\"type\"", "--quiet")), 1, "--parts mixer=");
    expect_message(run(COMPARE("%/u", "--parts", "ffn=mlp", "--lr", "x")), 2, "--lr is \"x\"");
    expect_message(run(COMPARE("%/u", "--parts", "ffn=mlp", "--test-length", "0")), 2,
                   "--test-length is \"0\"");
    expect_message(run("compare", "--parts", "ffn=mlp", "--task", "nosuch", NULL), 1, "no task \"nosuch\"");
    expect_message(run(COMPARE("%/u", "--parts", "ffn=nosuch", "--quiet")), 1,
                   "no run succeeded; the first: config: ffn: no part");
    expect_message(run("compare", "--parts", "ffn=mlp", "--task", "selective_copying", "--length", "20",
                       "--quiet", "--out", "%/u", NULL),
                   1, "shorter than the tokens");
    expect_message(run(COMPARE("%/u", "--parts", "ffn=mlp", "--lr", "1e-3,")), 2,
                   "expected different learning rates");
    static const char *const lengths[] = {"", "16,", "16,32,16", "16.5", "16777217", "16 32"};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        expect_message(run(COMPARE("%/u", "--parts", "ffn=mlp", "--cost-length", lengths[i])), 2,
                       "expected different lengths from 1 to 16777216, 64 at most");
    expect_message(run(COMPARE("%/u", "--parts", "ffn=mlp,swiglu", "ffn=mlp")), 1,
                   "--parts ffn=mlp is given twice");
    expect_message(run(COMPARE("%/u", "--parts", "vocab_size=9")), 1, "vocab_size follows from the task");
    expect_message(run(COMPARE("%/u", "--parts", "hidden_size=wide", "--quiet")), 1,
                   "from 1 to 16777216, found \"wide\"");
    expect_message(run(COMPARE("%/u", "--parts", "output=pooler", "--quiet")), 1,
                   "output: pooler makes no logits of tokens");
    expect_message(run("compare", "--parts", "ffn=mlp", "--task", "listops:depth=true", NULL), 1,
                   "depth of listops is \"true\", expected a whole number from 1 to 20");
}

/* Bytes that are not UTF-8, in the folder's name and in the message of a run. */
static void test_bytes(void **state) {
    (void)state;
    static const char *const out = "%/by\xfftes";
    char                     path[600];
    json_t                  *all =
        expect_json(run(COMPARE(out, "--parts", "ffn=mlp", "--steps", "2", "--cost-seconds", "0", "--json")));
    const json_t *one = json_array_get(json_object_get(all, "runs"), 0);
    const char   *folder = strstr(text(one, "folder"), "/runs/");
    assert_non_null(folder);
    snprintf(path, sizeof path, "by\xfftes%s/latest/config.json", folder);
    write_text(path, "\xff{");
    snprintf(path, sizeof path, "by\xfftes%s", folder);
    DIR           *d = opendir(in_folder(path));
    struct dirent *e;
    while (d && (e = readdir(d)))
        if (!strncmp(e->d_name, "result", 6)) assert_int_equal(unlinkat(dirfd(d), e->d_name, 0), 0);
    closedir(d);
    json_decref(all);
    expect_message(run(COMPARE(out, "--parts", "ffn=mlp", "--steps", "2", "--cost-seconds", "0", "--quiet")), 1,
                   "config.json: line 1 column 1: expected a value");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rows),       cmocka_unit_test(test_costs),
                                       cmocka_unit_test(test_crossover),  cmocka_unit_test(test_means),
                                       cmocka_unit_test(test_directions), cmocka_unit_test(test_all_parts),
                                       cmocka_unit_test(test_kept),       cmocka_unit_test(test_interrupt),
                                       cmocka_unit_test(test_processes),  cmocka_unit_test(test_test_options),
                                       cmocka_unit_test(test_usage),      cmocka_unit_test(test_bytes)};
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
