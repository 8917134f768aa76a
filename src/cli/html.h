/* Pages that need no other: text, figures, the style that all share. Curves: plot.h. */
#ifndef QUIPU_CLI_HTML_H
#define QUIPU_CLI_HTML_H

#include "cli/cli.h"
#include "format/buffer.h"

/* What is missing for want of memory is found by html_write. */
typedef qpi_buffer html;

void html_put(html *h, const char *text);
void html_putf(html *h, const char *format, ...) QP_PRINTF(2, 3); /* at most 2 KB */
void html_escaped(html *h, const char *text);                     /* as text, whatever it holds */

void html_begin(html *h, const char *title);
void html_figure(html *h, const char *name, const char *format, ...) QP_PRINTF(3, 4); /* within <dl> */
void html_text(html *h, const char *title, const char *text);
/* What the system calls its processor, threads and instruction set, quipu's version. */
void html_machine(html *h, qp_ctx *ctx);
/* The system's name of its processor, "" if it has none. */
const char *html_processor(char name[256]);

/* Ends the page, writes it and frees it. False after storing an error. */
bool html_write(html *h, const char *path, qp_ctx *ctx);

#endif
