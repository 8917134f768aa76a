/* quipu serve in a process of its own, and a client that speaks to it over sockets. */
#ifndef TESTS_CLI_SERVER_H
#define TESTS_CLI_SERVER_H

#include <sys/types.h>

#include "support.h"

extern pid_t server;
extern int   port;
extern bool  loud; /* the next writes its access log to `said` */
extern int   said;

double now(void); /* seconds */

/* Setup and teardown of a group of tests: a model "long" of bytes, with room for a million positions, is served. */
int make_server(void **state);
int end_server(void **state);

void start(const char *model, const char *key, const char *header_timeout);
void stop(void);

int call(void); /* a connection */
void say(int fd, const char *text);
int post(const char *path, const char *headers, const char *body); /* the connection */
/* The status; the body until the connection ends (chunks' sizes are left in it) in `text`. */
int hear(int fd);
int get(const char *path, const char *headers); /* the status, as of hear */
extern char text[1 << 20];

json_t *json(void); /* of text */
void expect_error_code(int status, int wanted, const char *words);
long metric(const char *name);
void await_metric(const char *name, long wanted);

#endif
