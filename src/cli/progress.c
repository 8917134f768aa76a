#define _GNU_SOURCE /* isatty, ioctl */
#include <stdarg.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cli/cli.h"
#include "core/core.h"

double cli_now(void) { return qpi_now(); }

const char *cli_duration(double seconds, char out[32]) {
    int64_t s = seconds > 0 && seconds < 1e9 ? (int64_t)(seconds + 0.5) : 0;
    if (s >= 3600) snprintf(out, 32, "%lldh %02lldm", (long long)(s / 3600), (long long)(s / 60 % 60));
    else if (s >= 60) snprintf(out, 32, "%lldm %02llds", (long long)(s / 60), (long long)(s % 60));
    else snprintf(out, 32, "%llds", (long long)s);
    return out;
}

const char *cli_bytes(double bytes, char out[32]) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    int                      i = 0;
    while (bytes >= 1024 && i < 4) bytes /= 1024, i++;
    snprintf(out, 32, bytes < 10 && i ? "%.1f %s" : "%.0f %s", bytes, units[i]);
    return out;
}

cli_progress cli_progress_start(const cli *c, int64_t total) {
    return (cli_progress){.on = isatty(2) && !cli_flag(c, "quiet"), .started = cli_now(), .total = total};
}

void cli_progress_show(cli_progress *p, int64_t done, const char *format, ...) {
    double now = cli_now();
    if (!p->on || (done != p->total && now - p->shown < 0.1)) return;
    struct winsize size = {0};
    char           text[256], eta[32], line[512];
    va_list        args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    p->shown = now;
    int width = ioctl(2, TIOCGWINSZ, &size) == 0 && size.ws_col ? size.ws_col : 80;
    if (width > 500) width = 500;
    double share = p->total > 0 ? (double)done / (double)p->total : 0;
    char   bar[21];
    for (int i = 0; i < 20; i++) bar[i] = i < (int)(share * 20) ? '#' : '.';
    bar[20] = 0;
    snprintf(line, sizeof line, "[%s] %lld/%lld %s eta %s", bar, (long long)done, (long long)p->total, text,
             cli_duration(done ? (now - p->started) * (1 - share) / share : 0, eta));
    fprintf(stderr, "\r%-*.*s", width - 1, width - 1, line);
    fflush(stderr);
}

void cli_progress_end(cli_progress *p) {
    if (p->on && p->shown > 0) fputc('\n', stderr);
    p->on = false;
}
