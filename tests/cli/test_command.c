/* The command as scripts see it: usage, messages, statuses, files that are not what they seem. */
#define _GNU_SOURCE
#include "support.h"

#include <dirent.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- Usage --------------------------------------------------------------------------------------- */

static void help(void **state) {
    (void)state;
    outcome o = run(NULL, NULL);
    assert_int_equal(o.status, 2);
    assert_int_equal(o.out_bytes, 0);
    assert_non_null(strstr(o.err, "usage: quipu VERB"));
    static const char *const words[] = {"help", "--help", "-h"};
    for (int i = 0; i < 3; i++) {
        o = run(words[i], NULL);
        expect_success(o);
        assert_non_null(strstr(o.out, "usage: quipu VERB"));
    }
    o = run("--version", NULL);
    expect_success(o);
    assert_string_equal(o.out, "quipu " QP_VERSION "\n");
}

static void help_of_each_verb(void **state) {
    (void)state;
    json_t *all = expect_json(run("list", "verbs", "--json", NULL)), *verb;
    size_t  i;
    assert_true(json_array_size(json_object_get(all, "verbs")) >= 8);
    json_array_foreach(json_object_get(all, "verbs"), i, verb) {
        const char *name = json_string_value(json_object_get(verb, "name"));
        char        usage[64];
        snprintf(usage, sizeof usage, "usage: quipu %s ", name);
        outcome o = run(name, "--help", NULL);
        expect_success(o);
        assert_non_null(strstr(o.out, usage));
        assert_non_null(strstr(o.out, "--threads"));
        assert_non_null(strstr(o.out, "examples:"));
        size_t n = o.out_bytes;
        o = run("help", name, NULL); /* the same */
        expect_success(o);
        assert_int_equal(o.out_bytes, n);
        o = run(name, "-h", NULL);
        expect_success(o);
        assert_int_equal(o.out_bytes, n);
    }
    json_decref(all);
}

static void wrong_usage(void **state) {
    static const struct {
        const char *arguments[10], *part;
    } cases[] = {
        {{"no-such-verb"}, "no verb \"no-such-verb\""},
        {{"help", "no-such-verb"}, "no verb"},
        {{""}, "no verb \"\""},
        {{"quantize", "x", "--out", "y"}, "--type is missing"},
        {{"verify", "--reference", "x"}, "expected MODEL"},
        {{"verify", "a", "b", "--reference", "x"}, "unexpected argument \"b\""},
        {{"verify", "a", "--reference"}, "--reference needs a value"},
        {{"generate"}, "--model is missing"},
        {{"generate", "-m"}, "-m needs a value"},
        {{"generate", "-m", "x", "--no-such"}, "unknown option --no-such"},
        {{"generate", "-m", "x", "-z"}, "unknown option -z"},
        {{"generate", "-m", "x", "--"}, NULL}, /* no usage error: see below */
        {{"generate", "-m", "x", "--", "-y"}, "unexpected argument \"-y\""},
        {{"generate", "-m", "x", "extra"}, "unexpected argument \"extra\""},
        {{"generate", "-m", "x", "-n", "many"}, "--tokens is \"many\", expected a whole number"},
        {{"generate", "-m", "x", "-n", "1.5"}, "expected a whole number"},
        {{"generate", "-m", "x", "-n", "-1"}, "expected a number from 0"},
        {{"generate", "-m", "x", "-n", ""}, "expected a whole number"},
        {{"generate", "-m", "x", "-n", "0x10"}, "expected a whole number"},
        {{"generate", "-m", "x", "-n", "5 "}, "expected a whole number"},
        {{"generate", "-m", "x", "-n", "99999999999999999999"}, "--tokens"},
        {{"generate", "-m", "x", "--temp", "nan"}, "expected a number"},
        {{"generate", "-m", "x", "--temp", "inf"}, "expected a number"},
        {{"generate", "-m", "x", "--temp", "-0.5"}, "expected a number from 0"},
        {{"generate", "-m", "x", "--top-p", "1.01"}, "from 0 to 1"},
        {{"generate", "-m", "x", "--top-k", "--json"}, "--top-k is \"--json\""},
        {{"generate", "-m", "x", "--quiet=1"}, "--quiet takes no value"},
        {{"generate", "-m", "x", "-qq"}, "--quiet takes no value"},
        {{"generate", "-m", "x", "-t", "-2"}, "--threads"},
        {{"generate", "-m", "x", "--seed", "1e300"}, "--seed"},
        {{"generate", "-m", "x", "--ids", "--stop", "a"}, "--stop"},
        {{"tokenize"}, "either --model or --train"},
        {{"tokenize", "-m", "x", "--train", "y"}, "either --model or --train"},
        {{"tokenize", "--train", "y"}, "needs --size and --out"},
        {{"tokenize", "--train", "y", "--size", "10", "--out", "z"}, "--size is 10"},
        {{"tokenize", "--train", "y", "--size", "300", "--out", "z", "--decode"}, "--decode"},
        {{"list", "no-such-section"}, "no section"},
        {{"inspect"}, "expected FILE|FOLDER"},
        {{"eval", "-m", "x"}, "--data is missing"},
        {{"eval", "-m", "x", "--data", "y", "--length", "0"}, "--length"},
        {{"bench"}, "expected gemm|"},
        {{"bench", "no-such-kind"}, "no kind"},
        {{"bench", "step", "--precision", "bad"}, "--precision is \"bad\""},
        {{"train"}, "is missing"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        if (cases[i].part) expect_message(run_list(NULL, 0, cases[i].arguments), 2, cases[i].part);
}

/* Texts from the command line cannot break the one line, nor reach the terminal's controls. */
static void messages_are_one_line(void **state) {
    (void)state;
    expect_message(run("generate", "-m", "x", "--a\nb\x1b[31m", NULL), 2, "--a?b?[31m");
    expect_message(run("a\r\nb", NULL), 2, "no verb");
    expect_message(run("inspect", "/no/such\nfile", NULL), 1, "/no/such?file");
    char *text = malloc(100001);
    memset(text, 'x', 100000);
    text[100000] = 0;
    expect_message(run(text, NULL), 2, "no verb");
    expect_message(run("inspect", text, NULL), 1, NULL);
    free(text);
}

static void forms_of_values(void **state) {
    (void)state;
    static const char *const forms[][8] = {
        {"generate", "-m", "%/bytes", "--ids", "-p", "1 2", "-n", "4"},
        {"generate", "-m%/bytes", "--ids", "-p1 2", "-n4", "-t1", "-s0", "-q"},
        {"generate", "--model=%/bytes", "--ids", "--prompt=1 2", "--tokens=4", "--quiet", "--seed=0", "-t=1"},
        {"generate", "--model", "%/bytes", "--ids", "-p", "1 2", "--tokens", "4e0"},
    };
    char first[200] = "";
    for (int i = 0; i < 4; i++) {
        char        path[256];
        const char *list[9] = {0};
        for (int k = 0; k < 8; k++) list[k] = forms[i][k];
        if (i == 1) list[1] = (snprintf(path, sizeof path, "-m%s", in_folder("bytes")), path);
        if (i == 2) {
            list[1] = (snprintf(path, sizeof path, "--model=%s", in_folder("bytes")), path);
            list[7] = NULL;
        }
        outcome o = run_list(NULL, 0, list);
        expect_success(o);
        if (i == 0) snprintf(first, sizeof first, "%s", o.out);
        assert_string_equal(o.out, first);
    }
    assert_true(strlen(first) > 4);
    expect_message(run("generate", "-m", "%/bytes", "-t=1", NULL), 2, "--threads is \"=1\"");
    /* the last one counts; a value may begin with a dash */
    outcome o = run("generate", "-m", "/nowhere", "-m", "%/bytes", "-p", "-x", "-n", "0", NULL);
    expect_success(o);
    assert_int_equal(o.out_bytes, 0);
}

/* ---- Files that are not what they seem --------------------------------------------------------------- */

static void copy_model(const char *from, const char *to) {
    char path[512], name[512];
    mkdir(in_folder(to), 0777);
    DIR *d = opendir(from);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) {
        size_t n;
        if (e->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%s", from, e->d_name);
        snprintf(name, sizeof name, "%s/%s", to, e->d_name);
        char *data = read_file(path, &n);
        write_file(name, data, n);
        free(data);
    }
    closedir(d);
}

static const char *golden(const char *name) {
    static char path[512];
    snprintf(path, sizeof path, "%s/tests/golden/models/%s", SOURCE_DIR, name);
    return path;
}

static void missing_files(void **state) {
    (void)state;
    expect_message(run("inspect", "%/nothing", NULL), 1, "nothing");
    expect_message(run("inspect", "%", NULL), 1, "folder without");
    expect_message(run("generate", "-m", "%/nothing", "-p", "x", NULL), 1, "nothing: no such folder");
    expect_message(run("generate", "-m", "%", "-p", "x", NULL), 1, "no tokenizer.json");
    expect_message(run("generate", "-m", "%/bytes/config.json", "-p", "x", NULL), 1,
                   "expected a model's folder");
    expect_message(run("tokenize", "-m", "%/nothing", NULL), 1, "nothing");
    expect_message(run("tokenize", "--train", "%/nothing", "--size", "300", "--out", "%/t.json", NULL), 1,
                   "nothing");
    expect_message(
        run("tokenize", "--train", "%/bytes/config.json", "--size", "300", "--out", "%/no/t.json", NULL), 1,
        "no/t.json");
    expect_message(run("eval", "-m", "%/bytes", "--data", "%/nothing", NULL), 1, "nothing");
    expect_message(run("verify", "%/bytes", "--reference", "%/nothing", NULL), 1, "nothing");
    expect_message(run("verify", "%/bytes", "--reference", "%/bytes/model.safetensors", NULL), 1, "input_ids");
    expect_message(run("bench", "step", "--preset", "no-such", NULL), 1, "no preset \"no-such\"");
    expect_message(run("bench", "gemm", "--shape", "3x4", NULL), 1, "--shape is \"3x4\"");
    write_text("empty", "");
    expect_message(run("inspect", "%/empty", NULL), 1, "empty");
    expect_message(run("eval", "-m", "%/bytes", "--data", "%/empty", NULL), 1, "no tokens");
    expect_message(run("finetune", "-m", "%/bytes", "--method", "mtp", "--data", "%/empty", "--out", "%/never",
                       "--holdout", "0", NULL),
                   1, "/empty: 0 ids are too few");
    /* a golden model without tokenizer and not of bytes */
    expect_message(run("generate", "-m", golden("gpt2"), "-p", "x", NULL), 1,
                   "a vocabulary of 61 is not that of bytes");
}

static void truncated_weights(void **state) {
    (void)state;
    size_t n;
    copy_model(golden("llama-mha"), "cut");
    char  *data = read_file(in_folder("cut/model.safetensors"), &n);
    size_t lengths[] = {0, 1, 7, 8, 9, 100, n / 2, n - 1};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        write_file("cut/model.safetensors", data, lengths[i]);
        expect_message(run("inspect", "%/cut/model.safetensors", NULL), 1, "model.safetensors");
        expect_message(run("generate", "-m", "%/cut", "--ids", "-p", "1", NULL), 1, "model.safetensors");
        expect_message(run("verify", "%/cut", "--reference", "%/cut/reference.safetensors", NULL), 1,
                       "model.safetensors");
    }
    memset(data, 0xff, 8); /* a header as long as 2^64 - 1 */
    write_file("cut/model.safetensors", data, n);
    expect_message(run("inspect", "%/cut/model.safetensors", NULL), 1, "model.safetensors");
    free(data);
}

/* The config with `from` replaced by `to`. */
static void with_config(const char *from, const char *to, const char *part) {
    size_t n;
    char  *data = read_file(in_folder("odd/config.json"), &n), changed[4096];
    char  *at = strstr(data, from);
    assert_non_null(at);
    int length = snprintf(changed, sizeof changed, "%.*s%s%s", (int)(at - data), data, to, at + strlen(from));
    write_file("odd/config.json", changed, (size_t)length);
    expect_message(run("generate", "-m", "%/odd", "--ids", "-p", "1", NULL), 1, part);
    write_file("odd/config.json", data, n);
    free(data);
}

static void odd_configs(void **state) {
    (void)state;
    copy_model(golden("llama-mha"), "odd");
    with_config("{", "{\"attention_sinks\": 4, ", "attention_sinks");
    with_config("{", "[", "config.json: line");
    with_config("}", "", "config.json: line");
    with_config("{", "{\"model_type\": \"llama\", ", "config.json"); /* a key twice */
    with_config("\"llama\"", "\"no-such-model\"", "no model type \"no-such-model\"");
    with_config("\"model_type\"", "\"model_kind\"", "model_type");
    with_config("\"silu\"", "\"relu\"", "hidden_act");
    with_config("\"hidden_size\": 24", "\"hidden_size\": 25", "25");
    with_config("\"hidden_size\": 24", "\"hidden_size\": \"wide\"", "hidden_size");
    with_config("\"hidden_size\": 24", "\"hidden_size\": -24", "hidden_size");
    with_config("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3", "missing");
    with_config("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1", "unexpected");
    with_config("\"vocab_size\": 67", "\"vocab_size\": 68", "[67, 24]");
    with_config("\"vocab_size\": 67", "\"vocab_size\": 99999999999", "vocab_size");
    /* an inspection tells instead of failing */
    outcome o = run("inspect", "%/odd", NULL);
    expect_success(o);
    assert_non_null(strstr(o.out, "parameters"));
}

static void odd_tokens(void **state) {
    (void)state;
    copy_model(in_folder("bytes"), "ends");
    static const char *const wrong[] = {"{\"eos_token_id\": \"x\"}", "{\"eos_token_id\": [1, null]}", "{", ""};
    for (int i = 0; i < 4; i++) {
        write_text("ends/generation_config.json", wrong[i]);
        expect_message(run("generate", "-m", "%/ends", "-p", "x", NULL), 1, "generation_config.json");
    }
    write_text("ends/generation_config.json", "{}");
    write_text("ends/tokenizer.json", "{\"model\": {\"type\": \"NoSuch\"}}");
    expect_message(run("generate", "-m", "%/ends", "-p", "x", NULL), 1, "tokenizer.json");
    expect_message(run("tokenize", "-m", "%/ends", NULL), 1, "tokenizer.json");
    expect_message(run("inspect", "%/ends", NULL), 1, "tokenizer.json");
    expect_message(run("generate", "-m", "%/bytes", "--ids", "-p", "1 x", NULL), 1,
                   "\"x\" is not a token's id");
    expect_message(run("generate", "-m", "%/bytes", "--ids", "-p", "257", NULL), 1,
                   "\"257\" is not a token's id");
    expect_message(run_with("1 2\n3 -4\n", 9, "tokenize", "-m", "%/bytes", "--decode", "--json", NULL), 1,
                   "line 2: \"-4\"");
    write_text("lines.jsonl", "{\"text\": \"ab\"}\n{\"text\": 5}\n");
    expect_message(run("eval", "-m", "%/bytes", "--data", "%/lines.jsonl", NULL), 1, "line 2");
    expect_message(
        run("eval", "-m", "%/bytes", "--data", "%/lines.jsonl", "--length", "4", "--stride", "5", NULL), 1,
        "--stride");
}

/* ---- The world ------------------------------------------------------------------------------------------ */

static void full_device(void **state) {
    (void)state;
    if (access("/dev/full", W_OK) != 0) skip();
    char                     command[1024];
    static const char *const verbs[] = {"list", "--help", "list ops --json", "generate -m %s/bytes -p x -n 20"};
    for (int i = 0; i < 4; i++) {
        char verb[600];
        snprintf(verb, sizeof verb, i == 3 ? verbs[i] : "%s", i == 3 ? folder : verbs[i]);
        snprintf(command, sizeof command, "'%s' %s >/dev/full 2>'%s/err'", COMMAND, verb, folder);
        int status = system(command);
        assert_int_equal(WEXITSTATUS(status), 1);
        size_t n;
        char  *err = read_file(in_folder("err"), &n);
        assert_non_null(strstr(err, "quipu: cannot write to stdout"));
        free(err);
    }
}

static void interrupted(void **state) {
    static const int signals[] = {SIGINT, SIGTERM};
    char             config[512], out[512], err[512];
    (void)state;
    write_text("config.json", byte_config);
    strcpy(config, in_folder("config.json"));
    strcpy(out, in_folder("stdout"));
    strcpy(err, in_folder("stderr"));
    for (int i = 0; i < 2; i++) {
        write_text("stdout", "");
        pid_t pid = fork();
        if (pid == 0) {
            if (!freopen(err, "w", stderr) || !freopen(out, "w", stdout)) _exit(126);
            execl(COMMAND, COMMAND, "bench", "step", "--config", config, "--steps", "1000000", "-r", "1",
                  (char *)NULL);
            _exit(127);
        }
        struct stat written = {0};
        for (int wait = 0; wait < 1200 && written.st_size == 0; wait++) { /* its first line: it is at work */
            usleep(50000);
            assert_int_equal(stat(out, &written), 0);
        }
        int status = 0;
        assert_int_equal(kill(pid, signals[i]), 0);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 130);
        size_t n;
        char  *text = read_file(err, &n);
        assert_string_equal(text, "quipu: interrupted\n");
        free(text);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(help),
        cmocka_unit_test(help_of_each_verb),
        cmocka_unit_test(wrong_usage),
        cmocka_unit_test(forms_of_values),
        cmocka_unit_test(messages_are_one_line),
        cmocka_unit_test(missing_files),
        cmocka_unit_test(truncated_weights),
        cmocka_unit_test(odd_configs),
        cmocka_unit_test(odd_tokens),
        cmocka_unit_test(full_device),
        cmocka_unit_test(interrupted),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
