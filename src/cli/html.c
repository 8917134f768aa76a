#include "cli/html.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "core/core.h"
#include "format/os.h"
#include "format/writer.h"

void html_put(html *h, const char *text) { qpi_put_text(h, text); }

void html_putf(html *h, const char *format, ...) {
    char    text[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    html_put(h, text);
}

void html_escaped(html *h, const char *text) {
    for (; *text; text++) {
        char one[2] = {*text, 0};
        switch (*text) {
        case '&': html_put(h, "&amp;"); break;
        case '<': html_put(h, "&lt;"); break;
        case '>': html_put(h, "&gt;"); break;
        case '"': html_put(h, "&quot;"); break;
        case '\'': html_put(h, "&#39;"); break;
        case '\r': break;
        default: html_put(h, (unsigned char)*text < 32 && !strchr("\n\t", *text) ? "&#xFFFD;" : one);
        }
    }
}

/* Colours of curves are --c0 to --c7: those of the light page, then of the dark one. */
static const char head[] =
    "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
    "<style>\n"
    ":root { color-scheme: light dark; --paper: #fbfaf8; --card: #fff; --ink: #22211f; --soft: #6d6a65; "
    "--line: #e4e1dc;\n"
    "  --c0: #2f6db3; --c1: #c2571a; --c2: #2e8b57; --c3: #8e4bab; --c4: #b03a52; --c5: #7a6a12; --c6: "
    "#178a94; "
    "--c7: #5b5f66; }\n"
    "@media (prefers-color-scheme: dark) { :root { --paper: #17181a; --card: #1f2124; --ink: #e8e6e3; --soft: "
    "#9c9a96;\n"
    "  --line: #34373b; --c0: #74a9e6; --c1: #ee9a5f; --c2: #6cc794; --c3: #c493df; --c4: #ec8497; --c5: "
    "#d0bd55; "
    "--c6: #5fc7cf;\n  --c7: #b3b7be; } }\n"
    "body { margin: 0 auto; padding: 2rem 1rem 4rem; max-width: 56rem; background: var(--paper); color: "
    "var(--ink);\n"
    "  font: 16px/1.5 system-ui, sans-serif; }\n"
    "h1 { font-size: 1.6rem; margin: 0 0 .2rem; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }\n"
    "h3 { font-size: .9rem; font-weight: normal; color: var(--soft); margin: 1rem 0 .3rem; }\n"
    "p { color: var(--soft); margin: 0; }\n"
    "dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .7rem; margin: "
    "1.4rem 0; }\n"
    "dl div, figure, pre, .table { background: var(--card); border: 1px solid var(--line); border-radius: 8px; "
    "}\n"
    "dl div { padding: .6rem .8rem; } dt { color: var(--soft); font-size: .8rem; }\n"
    "dd { margin: 0; font-size: 1.2rem; font-variant-numeric: tabular-nums; }\n"
    "figure { margin: 0 0 1rem; padding: .8rem; } figcaption { font-weight: 600; font-size: .95rem; }\n"
    ".key { display: inline-block; width: 1.2em; height: 0; margin: 0 .3em .25em 1em; border-top: 3px solid; "
    "}\n"
    ".k { font-weight: normal; white-space: nowrap; }\n"
    "svg { display: block; width: 100%; height: auto; margin-top: .4rem; }\n"
    "svg path { fill: none; stroke-linejoin: round; } svg text { fill: var(--soft); font-size: 12px; }\n"
    ".grid { stroke: var(--line); } .axis, .tick { stroke: var(--soft); }\n"
    ".left { text-anchor: end; } .below { text-anchor: middle; }\n"
    ".c0 { stroke: var(--c0); color: var(--c0); } .c1 { stroke: var(--c1); color: var(--c1); }\n"
    ".c2 { stroke: var(--c2); color: var(--c2); } .c3 { stroke: var(--c3); color: var(--c3); }\n"
    ".c4 { stroke: var(--c4); color: var(--c4); } .c5 { stroke: var(--c5); color: var(--c5); }\n"
    ".c6 { stroke: var(--c6); color: var(--c6); } .c7 { stroke: var(--c7); color: var(--c7); }\n"
    "path.curve { stroke-width: 2; } path.faint { stroke-width: 1; opacity: .35; } circle { fill: "
    "currentColor; }\n"
    "path.dashed { stroke-dasharray: 5 4; } .key.dashed { border-top-style: dashed; }\n"
    "pre { padding: .8rem; overflow: auto; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .85rem; "
    "}\n"
    ".table { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .85rem; }\n"
    "th, td { padding: .35rem .7rem; text-align: right; white-space: nowrap; font-variant-numeric: "
    "tabular-nums; }\n"
    "th { font-weight: 600; color: var(--soft); } tr + tr { border-top: 1px solid var(--line); }\n"
    "th:first-child, td:first-child { text-align: left; } td.why { text-align: left; white-space: normal; "
    "color: "
    "var(--c4); }\n"
    "</style>\n";

void html_begin(html *h, const char *title) {
    html_put(h, head);
    html_put(h, "<title>");
    html_escaped(h, title);
    html_put(h, "</title></head><body>\n");
}

void html_figure(html *h, const char *name, const char *format, ...) {
    char    text[128];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    html_putf(h, "<div><dt>%s</dt><dd>%s</dd></div>\n", name, text);
}

void html_text(html *h, const char *title, const char *text) {
    html_putf(h, "<h2>%s</h2>\n<pre>", title);
    html_escaped(h, text);
    html_put(h, "</pre>\n");
}

const char *html_processor(char name[256]) {
    char  line[256];
    FILE *file = fopen("/proc/cpuinfo", "r");
    name[0] = 0;
    while (file && !name[0] && fgets(line, sizeof line, file)) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) || !colon) continue;
        strcpy(name, colon + 1 + strspn(colon + 1, " "));
        name[strcspn(name, "\n")] = 0;
    }
    if (file) fclose(file);
    return name;
}

void html_machine(html *h, qp_ctx *ctx) {
    static const char *const isas[] = {[QP_ISA_BEST] = "best",
                                       [QP_ISA_BASE] = "baseline",
                                       [QP_ISA_AVX2] = "AVX2",
                                       [QP_ISA_AVX512] = "AVX-512"};
    char                     name[256];
    qp_stats                 s = qp_stats_of(ctx);
    html_put(h, "<h2>Machine</h2>\n<pre>");
    html_escaped(h, html_processor(name));
    html_putf(h, "%s%d threads, %s\nquipu %s</pre>\n", name[0] ? "\n" : "", s.threads, isas[s.isa],
              qp_version());
}

bool html_write(html *h, const char *path, qp_ctx *ctx) {
    html_put(h, "</body></html>\n");
    bool ok = !h->failed;
    if (!ok) qpi_fail_memory(&ctx->error, path);
    ok = ok && qpi_write_file(path, h->data, h->count, &ctx->error);
    qpi_buffer_free(h);
    return ok;
}
