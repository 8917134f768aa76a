/* What `quipu train` leaves beside the model, and what it says of its options. */
#include "support.h"

#include <dirent.h>

#define TRAIN(...) \
    run("train", "--data", "%/train.txt", "--tokenizer", "byte", "--set", "hidden_size=16", "--set", \
        "intermediate_size=32", "--set", "num_hidden_layers=1", "--set", "num_attention_heads=2", "--set", \
        "num_key_value_heads=2", "--batch", "2", "--length", "16", __VA_ARGS__, NULL)

static void write_data(void) {
    char text[4000];
    for (int i = 0; i < (int)sizeof text; i++) text[i] = i % 17 == 16 ? '\n' : (char)('a' + i * i % 19);
    write_file("train.txt", text, sizeof text);
}

static void test_report(void **state) {
    (void)state;
    write_data();
    expect_success(TRAIN("--out", "%/a<b>&\"c", "--steps", "20", "--validate-every", "5", "--quiet", "--set",
                         "transformers_version=\"<script>alert(1)</script>\""));
    size_t bytes;
    char  *page = read_file(in_folder("a<b>&\"c/report.html"), &bytes);
    assert_non_null(strstr(page, "<svg"));
    assert_non_null(strstr(page, "&lt;script&gt;alert(1)"));
    const char *outside[] = {"<script", "http:", "https:", "src=", "url(", "@import", "nan", "inf\""};
    for (int i = 0; i < 8; i++)
        if (strstr(page, outside[i])) fail_msg("the report holds \"%s\"", outside[i]);
    assert_non_null(strstr(page, " --steps 20 --batch 2 ")); /* the command, for a shell */
    assert_non_null(strstr(page, "--out &#39;"));
    free(page);
}

/* A step's line is as long as what its parts had to say: here of 4096 experts. */
static void test_long_lines(void **state) {
    (void)state;
    write_data();
    expect_success(TRAIN("--out", "%/long", "--steps", "2", "--quiet"));
    char *line = malloc(40000), *at = line;
    at += sprintf(at, "{\"step\": 1, \"loss\": 5, \"seconds\": 7200, \"tokens\": 5000000, "
                      "\"stat\": {\"load\": [0.001");
    for (int i = 1; i < 4096; i++) at += sprintf(at, ", 0.001");
    sprintf(at, "]}}\n");
    write_text("long/log.jsonl", line);
    free(line);
    expect_success(TRAIN("--out", "%/long", "--steps", "3", "--resume", "--quiet"));
    size_t bytes;
    char  *page = read_file(in_folder("long/report.html"), &bytes);
    assert_non_null(strstr(page, ">50000"));
    free(page);
}

/* Samples of before a resume stay, those behind the state that it goes on from go. */
static void test_samples(void **state) {
    (void)state;
    write_data();
    expect_success(
        TRAIN("--out", "%/w", "--steps", "6", "--sample-every", "2", "--save-every", "3", "--quiet"));
    size_t bytes;
    char  *lines = read_file(in_folder("w/samples.jsonl"), &bytes), *page;
    assert_non_null(strstr(lines, "{\"step\":2,\"prompt\":\""));
    assert_non_null(strstr(lines, "{\"step\":6,"));
    free(lines);
    write_file("w/samples.jsonl",
               "{\"step\":2,\"prompt\":\"<p>\",\"text\":\"two\"}\n{\"step\":5,\"text\":7}\n"
               "{\"step\":99,\"prompt\":\"\",\"text\":\"later\"}\n{\"step\":4,\"te",
               111);
    expect_success(TRAIN("--out", "%/w", "--steps", "8", "--resume", "--sample-every", "100", "--quiet"));
    page = read_file(in_folder("w/report.html"), &bytes);
    assert_non_null(strstr(page, "After step 2</h3><pre><b>&lt;p&gt;</b>two</pre>"));
    assert_non_null(strstr(page, "After step 8"));
    assert_null(strstr(page, "later"));
    free(page);
}

/* Of what the files hold test_events.c speaks. */
static void test_tensorboard(void **state) {
    (void)state;
    write_data();
    for (int steps = 4; steps <= 8; steps += 4) {
        char text[16];
        snprintf(text, sizeof text, "%d", steps);
        expect_success(TRAIN("--out", "%/board", "--steps", text, "--quiet", "--tensorboard", "--histograms",
                             "2", "--resume"));
    }
    DIR           *dir = opendir(in_folder("board/tensorboard"));
    struct dirent *entry;
    int            files = 0;
    assert_non_null(dir);
    while ((entry = readdir(dir))) files += strncmp(entry->d_name, "events.out.tfevents.", 20) == 0;
    closedir(dir);
    assert_int_equal(files, 2);
}

/* --keep: the newest states, and nothing that is half removed. */
static void test_keep(void **state) {
    (void)state;
    write_data();
    expect_success(TRAIN("--out", "%/k", "--steps", "8", "--quiet", "--save-every", "2", "--keep", "2"));
    DIR           *dir = opendir(in_folder("k"));
    struct dirent *entry;
    int            found = 0;
    assert_non_null(dir);
    while ((entry = readdir(dir)))
        if (!strncmp(entry->d_name, "step-", 5))
            found += entry->d_name[5] == '6' || entry->d_name[5] == '8' ? 1 : 100;
    closedir(dir);
    assert_int_equal(found, 2);
}

static void test_usage(void **state) {
    (void)state;
    write_data();
    expect_message(TRAIN("--out", "%/u", "--precision", "fp8"), 2,
                   "--precision is \"fp8\", expected one of fp32|bf16|fp16");
    expect_message(TRAIN("--out", "%/u", "--precision", "fp"), 2, "--precision is \"fp\"");
    expect_message(TRAIN("--out", "%/u", "--optimizer", "adam"), 2, "--optimizer is \"adam\"");
    expect_message(TRAIN("--out", "%/u", "--schedule", ""), 2, "--schedule is \"\"");
    expect_message(TRAIN("--out", "%/u", "--group", "embed.*"), 2, "--group embed.*: expected");
    expect_message(TRAIN("--out", "%/u", "--group", "embed.*:lr=x"), 2, "--group");
    expect_message(TRAIN("--out", "%/u", "--group", "nothing:lr=1"), 1,
                   "no parameter matches the group \"nothing\"");
}

/* What is wrong in a config is known before a tokenizer is learnt from gigabytes. */
static void test_config_first(void **state) {
    (void)state;
    write_data();
    const char *pairs[][2] = {{"--preset", "no-such"},
                              {"--config", "%/no-such.json"},
                              {"--config", "%/list.json"},
                              {"--set", "rope.a=1"}};
    write_text("list.json", "[1]");
    for (int i = 0; i < 4; i++) {
        outcome o = run("train", "--data", "%/train.txt", "--out", "%/c", pairs[i][0], pairs[i][1], NULL);
        assert_int_equal(o.status, 1);
        assert_null(strstr(o.err, "training a tokenizer"));
    }
}

/* A state is resumed by the run that it is of. */
static void test_other_options(void **state) {
    (void)state;
    write_data();
    expect_success(TRAIN("--out", "%/s", "--steps", "2", "--quiet", "--ema", "0.9", "--precision", "bf16"));
    expect_message(TRAIN("--out", "%/s", "--steps", "4", "--quiet", "--resume", "--precision", "bf16"), 1,
                   "ema");
    expect_message(TRAIN("--out", "%/s", "--steps", "4", "--quiet", "--resume", "--ema", "0.9"), 1,
                   "the state is of bf16");
    expect_success(
        TRAIN("--out", "%/s", "--steps", "4", "--quiet", "--resume", "--ema", "0.9", "--precision", "bf16"));
    expect_success(run("generate", "-m", "%/s/latest/ema", "-p", "a", "-n", "2", NULL));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_report),       cmocka_unit_test(test_long_lines),
        cmocka_unit_test(test_samples),      cmocka_unit_test(test_tensorboard),
        cmocka_unit_test(test_keep),         cmocka_unit_test(test_usage),
        cmocka_unit_test(test_config_first), cmocka_unit_test(test_other_options)};
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
