#define _GNU_SOURCE
#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "format/writer.h"

char folder[64];

const char byte_config[] =
    "{\"model_type\": \"llama\", \"vocab_size\": 257, \"hidden_size\": 32, \"intermediate_size\": 64, "
    "\"num_hidden_layers\": 2, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, "
    "\"max_position_embeddings\": 256, \"tie_word_embeddings\": true, \"initializer_range\": 0.15}";

/* ---- Files --------------------------------------------------------------------------------------- */

const char *in_folder(const char *name) {
    static char paths[4][512];
    static int  next;
    char       *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

void write_file(const char *name, const void *data, size_t bytes) {
    FILE *f = fopen(in_folder(name), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, bytes, f), bytes);
    assert_int_equal(fclose(f), 0);
}

void write_text(const char *name, const char *text) { write_file(name, text, strlen(text)); }

char *read_file(const char *path, size_t *bytes) {
    FILE *f = fopen(path, "rb");
    if (!f) fail_msg("%s: %s", path, strerror(errno));
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    *bytes = (size_t)ftell(f);
    rewind(f);
    char *data = malloc(*bytes + 1);
    assert_non_null(data);
    assert_int_equal(fread(data, 1, *bytes, f), *bytes);
    data[*bytes] = 0;
    fclose(f);
    return data;
}

int save_model(const char *name, const char *config) {
    qp_ctx   *ctx = qp_open((qp_options){.threads = 1, .seed = 3});
    qp_model *m = ctx ? qp_model_new(ctx, "config", config) : NULL;
    bool      ok = m && qp_model_save(m, in_folder(name)) == QP_OK;
    if (!ok) print_error("%s\n", ctx ? qp_error(ctx) : "out of memory");
    qp_close(ctx);
    return ok ? 0 : -1;
}

int make_folder(void **state) {
    (void)state;
    strcpy(folder, P_tmpdir "/quipu-test-XXXXXX");
    return mkdtemp(folder) ? save_model("bytes", byte_config) : -1;
}

int remove_folder(void **state) {
    (void)state;
    qpi_folder_remove(folder);
    return 0;
}

qp_ctx *ctx;

int make_context(void **state) {
    ctx = qp_open((qp_options){.threads = 1, .seed = 4});
    return ctx ? make_folder(state) : -1;
}

int remove_context(void **state) {
    qp_close(ctx);
    return remove_folder(state);
}

/* ---- Running --------------------------------------------------------------------------------------- */

static void redirect(int to, const char *path, int flags) {
    int fd = open(path, flags, 0600);
    if (fd < 0 || dup2(fd, to) < 0) _exit(126);
    close(fd);
}

outcome run_list(const void *input, size_t bytes, const char *const *arguments) {
    static outcome last;
    char           expanded[32][512];
    char          *argv[34] = {(char *)COMMAND};
    int            n = 0;
    for (; arguments[n]; n++) {
        assert_true(n < 32);
        if (arguments[n][0] == '%') snprintf(expanded[n], sizeof expanded[n], "%s%s", folder, arguments[n] + 1);
        argv[n + 1] = arguments[n][0] == '%' ? expanded[n] : (char *)arguments[n];
    }
    free(last.out);
    free(last.err);
    write_file("stdin", input ? input : "", bytes);
    char out[512], err[512];
    strcpy(out, in_folder("stdout"));
    strcpy(err, in_folder("stderr"));
    pid_t pid = fork();
    if (pid == 0) {
        redirect(0, in_folder("stdin"), O_RDONLY);
        redirect(1, out, O_WRONLY | O_CREAT | O_TRUNC);
        redirect(2, err, O_WRONLY | O_CREAT | O_TRUNC);
        execv(COMMAND, argv);
        _exit(127);
    }
    int status = 0;
    assert_true(pid > 0 && waitpid(pid, &status, 0) == pid);
    last.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    last.out = read_file(out, &last.out_bytes);
    last.err = read_file(err, &last.err_bytes);
    return last;
}

static outcome run_arguments(const void *input, size_t bytes, const char *first, va_list args) {
    const char *list[33] = {first};
    for (int n = 1; n < 33 && (list[n] = va_arg(args, const char *)); n++) {
    }
    return run_list(input, bytes, list);
}

outcome run(const char *first, ...) {
    va_list args;
    va_start(args, first);
    outcome o = run_arguments(NULL, 0, first, args);
    va_end(args);
    return o;
}

outcome run_with(const void *input, size_t bytes, const char *first, ...) {
    va_list args;
    va_start(args, first);
    outcome o = run_arguments(input, bytes, first, args);
    va_end(args);
    return o;
}

/* ---- Expectations ------------------------------------------------------------------------------------ */

void expect_message(outcome o, int status, const char *part) {
    const char *end = strchr(o.err, '\n');
    if (o.status != status) fail_msg("status %d, expected %d: %s", o.status, status, o.err);
    if (strncmp(o.err, "quipu: ", 7) || !end || end[1]) fail_msg("not one line of \"quipu: ...\": %s", o.err);
    if (part && !strstr(o.err, part)) fail_msg("expected \"%s\" in: %s", part, o.err);
    if (o.out_bytes) fail_msg("a failure wrote on stdout: %s", o.out);
}

void expect_success(outcome o) {
    if (o.status || o.err_bytes) fail_msg("status %d: %s", o.status, o.err);
}

json_t *expect_json(outcome o) {
    json_error_t error;
    expect_success(o);
    const char *end = strchr(o.out, '\n');
    if (!end || end[1]) fail_msg("not one line: %s", o.out);
    json_t *value = json_loads(o.out, JSON_REJECT_DUPLICATES, &error);
    if (!json_is_object(value)) fail_msg("not a JSON object: %s: %s", error.text, o.out);
    return value;
}

json_int_t integer_of(const json_t *o, const char *key) {
    if (!json_is_integer(json_object_get(o, key))) fail_msg("no integer \"%s\"", key);
    return json_integer_value(json_object_get(o, key));
}

double number_of(const json_t *o, const char *key) {
    if (!json_is_number(json_object_get(o, key))) fail_msg("no number \"%s\"", key);
    return json_number_value(json_object_get(o, key));
}

const char *text_of(const json_t *o, const char *key) {
    if (!json_is_string(json_object_get(o, key))) fail_msg("no text \"%s\"", key);
    return json_string_value(json_object_get(o, key));
}
