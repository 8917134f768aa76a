/* A checkpoint in several files: NAME.safetensors.index.json with {"weight_map": {tensor:
 * file}}. */
#include <stdlib.h>
#include <string.h>

#include "format/file.h"
#include "format/json.h"

/* Opens the shard unless it is open; *part is its number. Shards lie beside the index. */
static bool open_shard(qp_file *f, qpi_names *shards, const char *folder, const qpi_json *entry,
                       qpi_open_mode mode, uint32_t *part) {
    const char *name = json_string_value(entry->value);
    char        shown[QPI_SHOWN];
    if (!name || !qpi_name_is_plain(name)) {
        qpi_json_fail(entry, QP_ERR_FORMAT, "expected a file name without a path, found %s",
                      name ? qpi_shown(shown, name, strlen(name)) : qpi_json_kind(entry->value));
        return false;
    }
    if (!qpi_names_add(shards, name, strlen(name), (uint32_t)f->part_count, part))
        return qpi_fail_memory(entry->error, folder) == QP_OK;
    if (*part != QPI_NO_NAME) return true;
    *part = (uint32_t)f->part_count;
    size_t meta = f->meta_count;
    char  *path = qpi_path_join(folder, name, entry->error);
    bool   ok = path && qpi_file_add_part(f, path, mode, entry->error);
    if (ok && *part) f->meta_count = meta; /* the first shard speaks for all */
    free(path);
    return ok;
}

static bool open_shards(qp_file *f, const char *folder, const qpi_json *map, qpi_names *shards,
                        qpi_open_mode mode) {
    const char *key;
    json_t     *value;
    qpi_json_members(map->value, key, value) {
        qpi_json entry = {.value = value, .parent = map, .key = key, .error = map->error};
        uint32_t part;
        if (!open_shard(f, shards, folder, &entry, mode, &part)) return false;
    }
    return true;
}

/* Keeps the entries that the map assigns to the file they lie in. */
static void keep_listed(qp_file *f, const qpi_json *map, const qpi_names *shards) {
    size_t kept = 0;
    for (size_t i = 0; i < f->entry_count; i++) {
        const char *shard = json_string_value(json_object_get(map->value, f->entries[i].name));
        if (shard && qpi_names_find(shards, shard, strlen(shard)) == f->entries[i].part)
            f->entries[kept++] = f->entries[i];
    }
    f->entry_count = kept;
}

/* Are all names of the map among the entries? */
static bool all_there(const qp_file *f, const qpi_json *map) {
    const char *key;
    json_t     *value;
    qpi_json_members(map->value, key, value) {
        if (qp_file_find(f, key) >= 0) continue;
        qpi_json entry = {.value = value, .parent = map, .key = key, .error = map->error};
        char     shown[QPI_SHOWN];
        qpi_json_fail(&entry, QP_ERR_FORMAT, "there is no such tensor in %s",
                      qpi_shown(shown, json_string_value(value), json_string_length(value)));
        return false;
    }
    return true;
}

bool qpi_index_open(qp_file *f, const char *path, qpi_open_mode mode, qpi_error *e) {
    json_t   *document = qpi_json_load(path, e);
    char     *folder = document ? qpi_path_folder(path, e) : NULL;
    qpi_json  root = qpi_json_root(path, document, e), map;
    qpi_names shards = {0};
    bool      ok = folder && qpi_json_object(&root, "weight_map", QPI_REQUIRED, &map) &&
                   open_shards(f, folder, &map, &shards, mode);
    if (ok) keep_listed(f, &map, &shards);
    ok = ok && qpi_file_index(f, e) && all_there(f, &map);
    qpi_names_free(&shards);
    free(folder);
    json_decref(document);
    return ok;
}
