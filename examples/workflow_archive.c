/* A workflow: list the files of a directory, copy them into one archive, return the archive's path. Every step is stored
 * when it is done. Should the process die, the next one goes on after the last step that was.
 *
 *     cc workflow_archive.c -lsqlite3 && ./a.out DIRECTORY
 */
#define PGQRS_IMPLEMENTATION
#include "pgqrs_sqlite.h"
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Two plain functions; nothing in them knows of workflows. What they return is JSON, for it is stored. */
static const char *list_directory(const char *directory);         /* ["a.txt","b.txt"] */
static const char *zip(const char *directory, const char *files); /* "inbox.archive"; NULL: it failed */

/* The workflow. Each step asks whether it is still to be done: then its body runs and says what came of it, otherwise the
 * variable has what was stored the first time. */
static pgqrs_result archive_files(pgqrs_run *run, void *user)
{
    const char *files, *archive;
    if (pgqrs_step(run, "list_files", &files))
        files = pgqrs_step_done(run, list_directory(user));
    if (pgqrs_step(run, "create_archive", &archive)) {
        const char *path = zip(user, files);
        archive = path ? pgqrs_step_done(run, path)
                       : pgqrs_step_fail(run, &(pgqrs_failure){.code = "DISK", .transient = true}); /* tried again */
    }
    return pgqrs_run_return(run, archive);
}

static void check(pgqrs_result result, pgqrs_store *store)
{
    if (result == PGQRS_OK)
        return;
    fprintf(stderr, "%s\n", pgqrs_last_error(store)->message);
    exit(1);
}

int main(int argc, char **argv)
{
    if (argc != 2 || access(argv[1], R_OK | X_OK) != 0) {
        fprintf(stderr, "usage: %s DIRECTORY\n", argv[0]);
        return 2;
    }
    pgqrs_error err;
    pgqrs_store *store = pgqrs_open("sqlite://jobs.db", NULL, &err);
    if (!store) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    check(pgqrs_install(store), store);
    check(pgqrs_workflow_create(store, "archive_files", NULL), store);

    int64_t run_id; /* a run that was triggered will end, one way or the other, whoever dies meanwhile */
    check(pgqrs_workflow_trigger(store, "archive_files", NULL, NULL, &run_id), store);

    pgqrs_work_desc until_empty = {.until_empty = true};
    check(pgqrs_work_workflow(store, "archive_files", archive_files, argv[1], &until_empty), store);

    pgqrs_run_info *ended; /* anybody may ask, from another process too, and wait for it */
    check(pgqrs_run_result(store, run_id, 0, &ended), store);
    printf("run %lld: %s\n", (long long)ended->id, ended->output);
    pgqrs_free(ended);
    pgqrs_close(store);
    return 0;
}

/* Not hidden, and a name that stands in JSON as it is. */
static int is_plain(const struct dirent *entry)
{
    return entry->d_name[0] != '.' && !strpbrk(entry->d_name, "\"\\");
}

static const char *list_directory(const char *directory)
{
    static char json[65536]; /* what does not fit is cut, which is no JSON any more, and the step is refused */
    struct dirent **entries;
    int count = scandir(directory, &entries, is_plain, alphasort);
    size_t used = (size_t)snprintf(json, sizeof json, "[");
    for (int i = 0; i < count; i++) {
        if (used < sizeof json)
            used += (size_t)snprintf(json + used, sizeof json - used, i ? ",\"%s\"" : "\"%s\"", entries[i]->d_name);
        free(entries[i]);
    }
    if (count >= 0)
        free(entries);
    if (used < sizeof json)
        snprintf(json + used, sizeof json - used, "]");
    printf("listed:   %s\n", json);
    return json;
}

static bool append(FILE *archive, const char *path)
{
    char bytes[4096];
    size_t size;
    FILE *file = fopen(path, "rb");
    if (!file)
        return false;
    fprintf(archive, "==> %s <==\n", path);
    while ((size = fread(bytes, 1, sizeof bytes, file)) > 0)
        fwrite(bytes, 1, size, archive);
    bool whole = !ferror(file) && !ferror(archive);
    fclose(file);
    return whole;
}

/* A crash in here means that it is done again from the start. So the archive gets its name when it is whole. */
static const char *zip(const char *directory, const char *files)
{
    static char path[1024];
    FILE *archive = fopen("archive.tmp", "wb");
    bool whole = archive != NULL;
    for (const char *name = strchr(files, '"'), *end; whole && name; name = strchr(end + 1, '"')) {
        end = strchr(name + 1, '"');
        snprintf(path, sizeof path, "%s/%.*s", directory, (int)(end - name - 1), name + 1);
        whole = append(archive, path);
    }
    if (archive)
        whole = fclose(archive) == 0 && whole;
    snprintf(path, sizeof path, "%s.archive", directory);
    if (!whole || rename("archive.tmp", path) != 0)
        return NULL;
    printf("archived: %s\n", path);
    snprintf(path, sizeof path, "\"%s.archive\"", directory);
    return path;
}
