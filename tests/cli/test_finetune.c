/* quipu finetune: what is learnt drafts, an interrupted training keeps what it has and goes on with the same bits. */
#define _GNU_SOURCE
#include "support.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

/* What guesses ahead is learnt into a folder, and drafts from there: the same text. */
static void finetune(void **state) {
    static const struct {
        const char *method, *file, *more;
    } methods[] = {{"medusa", "medusa_lm_head.safetensors", "--shared-head"},
                   {"mtp", "mtp.safetensors", "--heads=2"}};
    char lines[3000] = "", path[100];
    (void)state;
    for (int i = 0; i < 60; i++) strcat(lines, "{\"text\": \"Once upon a time, and once again\"}\n");
    write_text("lines.jsonl", lines);
    json_t *plain =
        expect_json(run("generate", "-m", "%/bytes", "-p", "Once", "-n", "40", "--temp", "0", "--json", NULL));
    for (int i = 0; i < 2; i++) {
        json_t *said =
            expect_json(run("finetune", "-m", "%/bytes", "--method", methods[i].method, "--data",
                            "%/lines.jsonl", "--out", "%/learnt", "--steps", "6", "-b", "2", "--length", "24",
                            "--lr", "3e-3", "--draft-tokens", "60", methods[i].more, "--json", NULL));
        assert_true(number_of(said, "loss") < number_of(said, "first_loss"));
        assert_true(number_of(said, "validation") < number_of(said, "validation_before"));
        double before = number_of(said, "validation");
        json_decref(said);
        said = expect_json(run("finetune", "-m", "%/bytes", "--method", methods[i].method, "--data",
                               "%/lines.jsonl", "--from", "%/learnt", "--out", "%/learnt", "--steps", "4", "-b",
                               "2", "--length", "24", "--lr", "1e-3", "--reuse", "2", methods[i].more, "--json",
                               NULL)); /* goes on from there */
        assert_true(fabs(number_of(said, "validation_before") - before) < 1e-3 * before);
        assert_true(number_of(said, "validation") < before);
        json_decref(said);
        said = expect_json(run("generate", "-m", "%/bytes", "--draft", "%/learnt", "-p", "Once", "-n", "40",
                               "--temp", "0", "--compare", "--json", NULL));
        assert_true(json_equal(json_object_get(said, "ids"), json_object_get(plain, "ids")));
        json_t *draft = json_object_get(said, "draft");
        assert_true(json_is_true(json_object_get(draft, "same_text")));
        assert_int_equal(integer_of(draft, "calls") + integer_of(draft, "accepted"), 39);
        json_decref(said);
        snprintf(path, sizeof path, "learnt/%s", methods[i].file);
        write_text(path, "not tensors");
        expect_message(run("generate", "-m", "%/bytes", "--draft", "%/learnt", "-p", "Once", NULL), 1,
                       methods[i].file);
        assert_int_equal(unlink(in_folder(path)), 0);
    }
    json_decref(plain);
    expect_message(
        run("finetune", "-m", "%/bytes", "--method", "hope", "--data", "%/lines.jsonl", "--out", "%/x", NULL),
        2, "hope");
    expect_message(run("finetune", "-m", "%/bytes", "--method", "mtp", "--data", "%/lines.jsonl", "--out",
                       "%/lines.jsonl/x", NULL),
                   1, "lines.jsonl/x");
    expect_message(run("finetune", "-m", "%/bytes", "--method", "mtp", "--data", "%/lines.jsonl", "--out",
                       "%/lines.jsonl", NULL),
                   1, "lines.jsonl: expected a folder");
    expect_message(run("finetune", "-m", "%/bytes", "--method", "mtp", "--data", "%/lines.jsonl", "--out",
                       "%/learnt", "--shared-head", NULL),
                   2, "--shared-head goes with --method medusa");
    write_text("learnt/mtp.safetensors", "what is drafted with");
    expect_message(run("finetune", "-m", "%/bytes", "--method", "medusa", "--data", "%/lines.jsonl", "--length",
                       "24", "--out", "%/learnt", NULL),
                   1, "holds what --method mtp made");
    assert_int_equal(unlink(in_folder("learnt/mtp.safetensors")), 0);
    size_t n, m;
    char  *config = read_file(in_folder("bytes/config.json"), &n); /* which is not lost */
    expect_message(run("finetune", "-m", "%/bytes", "--method", "medusa", "--data", "%/lines.jsonl", "--length",
                       "24", "--out", "%/bytes", NULL),
                   1, "a model is there already");
    char *after = read_file(in_folder("bytes/config.json"), &m);
    assert_true(n == m && !memcmp(config, after, n));
    free(config);
    free(after);
}

/* What does not learn is as good afterwards; a config tells of the heads that are there. */
static void finetune_nothing(void **state) {
    (void)state;
    char    text[4000];
    size_t  n;
    json_t *said, *config;
    for (int i = 0; i < (int)sizeof text; i++) text[i] = (char)('a' + i * i % 23 + i % 3);
    write_file("odd.txt", text, sizeof text);
    expect_success(run("finetune", "-m", "%/bytes", "--method", "medusa", "--data", "%/odd.txt", "--out",
                       "%/nothing", "--steps", "1", "-b", "2", "--length", "16", "--head-layers", "3",
                       "--holdout", "0.5", NULL));
    said = expect_json(run("finetune", "-m", "%/bytes", "--method", "medusa", "--data", "%/odd.txt", "--out",
                           "%/nothing", "--from", "%/nothing", "--steps", "2", "-b", "2", "--length", "16",
                           "--holdout", "0.5", "--lr", "0", "--json", NULL));
    assert_true(number_of(said, "validation") == number_of(said, "validation_before"));
    json_decref(said);
    char *json = read_file(in_folder("nothing/config.json"), &n);
    assert_non_null(config = json_loads(json, 0, NULL));
    assert_int_equal(integer_of(config, "medusa_num_layers"), 3);
    json_decref(config);
    free(json);
}

#define LEARN(out) \
    "finetune", "-m", in_place[0], "--method", "mtp", "--data", in_place[1], "--out", out, "-b", "2", \
        "--length", "24", "--steps", "300", "--reuse", "3"

#define SPACES ((size_t)64 << 20)

/* A Ctrl-C after so many microseconds; 0: no step had been made, 1: it was interrupted after a step, 2: it was done. */
static useconds_t interrupt(char in_place[3][100], bool resume, useconds_t wait) {
    pid_t pid = fork();
    if (pid == 0) {
        if (!freopen(in_folder("stderr"), "w", stderr)) _exit(126);
        execl(COMMAND, COMMAND, LEARN(in_place[2]), resume ? "--resume" : (char *)NULL, (char *)NULL);
        _exit(127);
    }
    int    status = 0;
    size_t n;
    usleep(wait);
    kill(pid, SIGINT);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    char *text = read_file(in_folder("stderr"), &n);
    bool  after = strstr(text, "interrupted after step ");
    free(text);
    return after ? 1 : status == 0 ? 2 : 0;
}

/* Interrupted and resumed the weights are, bit for bit, those of a training that nobody interrupted. */
static void finetune_resumed(void **state) {
    (void)state;
    char in_place[3][100], path[100];
    strcpy(in_place[0], in_folder("bytes"));
    strcpy(in_place[1], in_folder("lines.jsonl"));
    strcpy(in_place[2], in_folder("parts"));
    expect_success(run(LEARN("%/whole"), NULL));
    for (useconds_t wait = 160000, done; (done = interrupt(in_place, false, wait)) != 1;
         wait = done == 2 ? wait * 2 / 3 : wait * 5 / 4)
        assert_true(wait > 100 && wait < 60000000);
    /* a Ctrl-C while the state is read, which takes long, leaves it as it is */
    size_t n, m;
    char  *json = read_file(in_folder("parts/unfinished/state.json"), &n), *much = malloc(n + SPACES);
    memset(much, ' ', n + SPACES);
    memcpy(much + SPACES, json, n);
    write_file("parts/unfinished/state.json", much, n + SPACES);
    free(much);
    free(json);
    int idle = 0;
    for (useconds_t wait = 10000; interrupt(in_place, true, wait) == 0; wait += 10000) idle++;
    assert_true(idle > 0);
    free(read_file(in_folder("parts/unfinished/state.json"), &m));
    assert_true(m < n + SPACES / 2);
    assert_true(access(in_folder("parts/unfinished-0"), F_OK) != access(in_folder("parts/unfinished-1"), F_OK));
    expect_message(run(LEARN("%/parts"), NULL), 1, "--resume goes on");
    expect_message(run(LEARN("%/parts"), "--resume", "--lr", "2e-3", NULL), 1,
                   "lr was 0.001 when the state was saved");
    expect_success(run(LEARN("%/parts"), "--resume", NULL));
    char *whole = read_file(in_folder("whole/mtp.safetensors"), &n);
    strcpy(path, in_folder("parts/mtp.safetensors"));
    char *parts = read_file(path, &m);
    assert_true(n == m && !memcmp(whole, parts, n));
    const char *const gone[] = {"parts/unfinished", "parts/unfinished-0", "parts/unfinished-1"};
    for (int i = 0; i < 3; i++) assert_int_not_equal(access(in_folder(gone[i]), F_OK), 0);
    free(whole);
    free(parts);
}

/* What whole steps have learnt by a Ctrl-C is kept; one before the first step leaves nothing. */
static void finetune_interrupted(void **state) {
    (void)state;
    char  out[100], model[100], data[100];
    char *text = NULL;
    strcpy(out, in_folder("half"));
    strcpy(model, in_folder("bytes"));
    strcpy(data, in_folder("lines.jsonl"));
    for (useconds_t wait = 100000; !text || !strstr(text, "interrupted after step "); wait *= 2) {
        free(text);
        assert_true(wait < 60000000);
        pid_t pid = fork();
        if (pid == 0) {
            if (!freopen(in_folder("stderr"), "w", stderr)) _exit(126);
            execl(COMMAND, COMMAND, "finetune", "-m", model, "--method", "mtp", "--data", data, "--out", out,
                  "-b", "2", "--length", "24", "--steps", "1000000", (char *)NULL);
            _exit(127);
        }
        usleep(wait);
        int    status = 0;
        size_t n;
        kill(pid, SIGINT);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        text = read_file(in_folder("stderr"), &n);
        if (WIFSIGNALED(status)) continue; /* before the command has begun */
        assert_int_equal(WEXITSTATUS(status), 130);
        assert_true(strstr(text, " of 1000000; what was learnt is in ") || access(out, F_OK) != 0);
    }
    free(text);
    expect_success(run("finetune", "-m", "%/bytes", "--method", "mtp", "--data", "%/lines.jsonl", "--from",
                       "%/half", "--out", "%/half", "--steps", "1", "-b", "2", "--length", "24", NULL));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finetune),
        cmocka_unit_test(finetune_nothing),
        cmocka_unit_test(finetune_resumed),
        cmocka_unit_test(finetune_interrupted),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
