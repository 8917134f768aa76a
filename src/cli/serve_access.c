/* Who may ask. */
#define _GNU_SOURCE
#include <microhttpd.h>
#include <string.h>

#include "cli/serve.h"

/* In time that does not tell how much of the key was right. */
static bool key_fits(const char *key, const char *given) {
    size_t          n = strlen(key), m = strlen(given);
    volatile size_t differs = n ^ m;
    for (size_t i = 0; i < m; i++) differs |= (size_t)(unsigned char)(given[i] ^ key[i % (n + 1)]);
    return differs == 0;
}

/* Without a key only this machine may ask, and no page of another site in its browser: neither by a
 * request of its own (Origin) nor under a name that it points here (Host). */
bool serve_is_local(struct MHD_Connection *c) {
    const char              *host = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Host");
    const char              *origin = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Origin");
    static const char *const names[] = {"localhost", "[::1]"};
    size_t digits = host ? strspn(host, "0123456789.") : 0; /* of an address, which is no name */
    bool   known = !host || (!strncmp(host, "127.", 4) && (!host[digits] || host[digits] == ':'));
    for (size_t i = 0; host && i < sizeof names / sizeof *names; i++) {
        size_t n = strlen(names[i]);
        known |= !strncasecmp(host, names[i], n) && (!host[n] || host[n] == ':');
    }
    return known && (!origin || (host && !strncmp(origin, "http://", 7) && !strcmp(origin + 7, host)));
}

bool serve_has_key(struct MHD_Connection *c, const char *key) {
    const char *given = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Authorization");
    return given && !strncasecmp(given, "Bearer ", 7) && key_fits(key, given + 7);
}
