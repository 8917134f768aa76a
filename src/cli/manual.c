/* quipu manual: what --help says of all verbs, in the form of a man page or of a shell's completion
 * file. The build runs it and installs what it prints. */
#include <ctype.h>
#include <string.h>

#include "cli/cli.h"

/* ---- What both need to know of an option ---------------------------------------------------------- */

static bool takes_value(const cli_option *o) { return o->kind != CLI_FLAG; }

static bool takes_file(const cli_option *o) {
    static const char *const values[] = {"FILE", "DIR", "FOLDER", "MODEL", "WHAT"};
    for (size_t i = 0; takes_value(o) && o->value && i < sizeof values / sizeof values[0]; i++)
        if (!strcmp(o->value, values[i])) return true;
    return false;
}

/* "gemm|memory|ops" names words to choose from, "FILE|FOLDER" does not. */
static bool are_words(const char *text) { return islower((unsigned char)text[0]) && strchr(text, '|'); }

/* Inside '..' of a shell: ' ends the quotes and is given by itself. */
static void print_quoted(const char *text, const char *special) {
    for (; *text; text++)
        if (*text == '\'') fputs("'\\''", stdout);
        else printf("%s%c", strchr(special, *text) ? "\\" : "", *text);
}

/* ---- Man page ------------------------------------------------------------------------------------- */

static void roff(const char *text) {
    for (; *text; text++)
        if (*text == '\\') fputs("\\e", stdout);
        else printf("%s%c", *text == '-' ? "\\" : "", *text);
}

/* Lines as they are; those that begin with a dot or quote would be requests. */
static void roff_lines(const char *text) {
    for (bool start = true; *text; text++) {
        if (start && strchr(".'", *text)) fputs("\\&", stdout);
        start = *text == '\n';
        roff((char[]){*text, 0});
    }
}

static void man_option(const cli_option *o) {
    fputs(".TP\n", stdout);
    if (o->letter) printf("\\fB\\-%c\\fR, ", o->letter);
    fputs("\\fB\\-\\-", stdout);
    roff(o->name);
    fputs("\\fR", stdout);
    if (o->value) {
        fputs(" \\fI", stdout);
        roff(o->value);
        fputs("\\fR", stdout);
    }
    if (o->kind == CLI_LIST) fputs("...", stdout);
    fputs("\n\\&", stdout);
    roff(o->help);
    if (o->required) fputs(" (required)", stdout);
    else if (o->fallback && o->fallback[0]) {
        fputs(" [", stdout);
        roff(o->fallback);
        fputs("]", stdout);
    }
    fputs("\n", stdout);
}

static void man_page(void) {
    const cli_option *o;
    printf(".TH QUIPU 1 \"\" \"quipu %s\" \"User Commands\"\n", qp_version());
    fputs(".SH NAME\nquipu \\- train, run and compare sequence models\n"
          ".SH SYNOPSIS\n\\fBquipu\\fR \\fIVERB\\fR [\\fIoptions\\fR]\n"
          ".SH DESCRIPTION\nResults go to stdout, progress and messages to stderr.\n"
          "These options go with every verb:\n",
          stdout);
    for (int i = 0; (o = &cli_common[i])->name; i++) man_option(o);
    for (int v = 0; cli_verbs[v]; v++) {
        const cli_verb *verb = cli_verbs[v];
        printf(".SH \"QUIPU %s\"\n", verb->name);
        fputs("\\fBquipu ", stdout);
        roff(verb->name);
        fputs("\\fR ", stdout);
        roff(verb->arguments);
        fputs(" [\\fIoptions\\fR]\n.PP\n\\&", stdout);
        roff(verb->summary);
        fputs(".\n", stdout);
        for (int i = 0; verb->options && verb->options[i].name; i++) man_option(&verb->options[i]);
        if (!verb->examples) continue;
        fputs(".PP\nExamples:\n.PP\n.nf\n", stdout);
        roff_lines(verb->examples);
        fputs(".fi\n", stdout);
    }
    fputs(
        ".SH \"EXIT STATUS\"\n0: done. 1: failed, with one line on stderr. 2: wrong usage. 130: interrupted.\n",
        stdout);
}

/* ---- Completion -------------------------------------------------------------------------------------- */

static void print_words(const char *words) {
    for (; *words; words++) putchar(*words == '|' ? ' ' : *words);
}

/* Behind an option that takes one of a few words: these. */
static void bash_choices(const cli_verb *v) {
    const cli_option *o;
    for (int i = 0; (o = cli_option_at(v, i)); i++) {
        if (o->kind != CLI_CHOICE) continue;
        printf("        [[ $before == --%s ]] && arguments='", o->name);
        print_words(o->value);
        fputs("'\n", stdout);
    }
}

static void bash_completion(void) {
    const cli_option *o;
    fputs("# bash completion of quipu\n_quipu() {\n"
          "    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} arguments= options=\n"
          "    case ${COMP_WORDS[1]} in\n",
          stdout);
    for (int v = 0; cli_verbs[v]; v++) {
        printf("    %s)\n        options='", cli_verbs[v]->name);
        for (int i = 0; (o = cli_option_at(cli_verbs[v], i)); i++) printf("%s--%s", i ? " " : "", o->name);
        fputs("'\n", stdout);
        if (are_words(cli_verbs[v]->arguments)) {
            fputs("        arguments='", stdout);
            print_words(cli_verbs[v]->arguments);
            fputs("'\n", stdout);
        }
        bash_choices(cli_verbs[v]);
        fputs("        ;;\n", stdout);
    }
    fputs("    esac\n    if ((COMP_CWORD == 1)); then\n        arguments='", stdout);
    for (int v = 0; cli_verbs[v]; v++) printf("%s ", cli_verbs[v]->name);
    fputs("help'\n        options='--help --version'\n    fi\n"
          "    [[ $word == -* ]] && arguments=$options\n"
          "    mapfile -t COMPREPLY < <(compgen -W \"$arguments\" -- \"$word\")\n"
          "}\ncomplete -o default -F _quipu quipu\n",
          stdout);
}

static void zsh_option(const cli_option *o) {
    fputs(" \\\n            ", stdout);
    const char *repeat = o->kind == CLI_LIST ? "*" : "";
    if (o->letter) printf("'%s(-%c --%s)'{-%c,--%s}'[", repeat, o->letter, o->name, o->letter, o->name);
    else printf("'%s--%s[", repeat, o->name);
    print_quoted(o->help, "[]\\");
    fputs("]", stdout);
    if (o->kind == CLI_CHOICE) {
        printf(":%s:(", o->name);
        print_words(o->value);
        fputs(")", stdout);
    } else if (takes_value(o)) {
        printf(":%s:%s", o->value, takes_file(o) ? "_files" : " ");
    }
    fputs("'", stdout);
}

static void zsh_completion(void) {
    const cli_option *o;
    fputs("#compdef quipu\n_quipu() {\n    local -a verbs=(\n", stdout);
    for (int v = 0; cli_verbs[v]; v++) {
        printf("        '%s:", cli_verbs[v]->name);
        print_quoted(cli_verbs[v]->summary, ":\\");
        fputs("'\n", stdout);
    }
    fputs("    )\n    if ((CURRENT == 2)); then\n        _describe verb verbs\n        return\n    fi\n"
          "    local verb=$words[2]\n    shift words\n    ((CURRENT--))\n    case $verb in\n",
          stdout);
    for (int v = 0; cli_verbs[v]; v++) {
        printf("    %s)\n        _arguments", cli_verbs[v]->name);
        for (int i = 0; (o = cli_option_at(cli_verbs[v], i)); i++) zsh_option(o);
        if (are_words(cli_verbs[v]->arguments)) {
            fputs(" \\\n            '*:argument:(", stdout);
            print_words(cli_verbs[v]->arguments);
            fputs(")'", stdout);
        } else if (cli_verbs[v]->max_arguments) {
            fputs(" \\\n            '*:file:_files'", stdout);
        }
        fputs("\n        ;;\n", stdout);
    }
    fputs("    esac\n}\n_quipu \"$@\"\n", stdout);
}

static void fish_completion(void) {
    const cli_option *o;
    fputs("# fish completion of quipu\n", stdout);
    for (int v = 0; cli_verbs[v]; v++) {
        const cli_verb *verb = cli_verbs[v];
        printf("complete -c quipu -n __fish_use_subcommand -f -a %s -d '", verb->name);
        print_quoted(verb->summary, "\\");
        fputs("'\n", stdout);
        if (are_words(verb->arguments)) {
            printf("complete -c quipu -n '__fish_seen_subcommand_from %s' -f -a '", verb->name);
            print_words(verb->arguments);
            fputs("'\n", stdout);
        }
        for (int i = 0; (o = cli_option_at(verb, i)); i++) {
            printf("complete -c quipu -n '__fish_seen_subcommand_from %s' -l %s", verb->name, o->name);
            if (o->letter) printf(" -s %c", o->letter);
            if (takes_value(o)) fputs(takes_file(o) ? " -r -F" : " -x", stdout);
            if (o->kind == CLI_CHOICE) {
                fputs(" -a '", stdout);
                print_words(o->value);
                fputs("'", stdout);
            }
            fputs(" -d '", stdout);
            print_quoted(o->help, "\\");
            fputs("'\n", stdout);
        }
    }
}

static int run(cli *c) {
    static const struct {
        const char *name;
        void (*print)(void);
    } forms[] = {
        {"man", man_page}, {"bash", bash_completion}, {"zsh", zsh_completion}, {"fish", fish_completion}};
    const char *form = cli_argument(c, 0);
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++)
        if (!strcmp(form, forms[i].name)) {
            forms[i].print();
            return 0;
        }
    return cli_usage(c, "manual: no form \"%s\": man, bash, zsh or fish", form);
}

QP_VERB(manual) = {.name = "manual",
                   .summary = "all of --help as a man page, or as completion for a shell",
                   .arguments = "man|bash|zsh|fish",
                   .min_arguments = 1,
                   .max_arguments = 1,
                   .examples = "  quipu manual man | man -l -\n"
                               "  source <(quipu manual bash)\n",
                   .run = run};
