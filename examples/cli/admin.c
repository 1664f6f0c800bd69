/* The tables: install, migrate, verify, uninstall. */
#include "cli.h"

typedef struct schema_state {
    const char *action;
    const char *backend;
    int32_t version;
    int32_t before; /* 0: there were no tables */
} schema_state;

const field schema_fields[] = {{"action", FIELD_TEXT, offsetof(schema_state, action), FIELD_LISTED, NULL},
                               {"backend", FIELD_TEXT, offsetof(schema_state, backend), FIELD_LISTED, NULL},
                               {"version", FIELD_INT32, offsetof(schema_state, version), FIELD_LISTED, NULL},
                               {"before", FIELD_INT32, offsetof(schema_state, before), FIELD_LISTED, NULL},
                               {NULL, FIELD_TEXT, 0, 0, NULL}};

static exit_code bring_up_to_date(cli *c, schema_state *s)
{
    exit_code code = cli_check(c, pgqrs_install(c->store));
    if (code == DONE) code = cli_check(c, pgqrs_schema_version(c->store, &s->version));
    if (code != DONE) return code;
    s->backend = pgqrs_store_backend(c->store);
    s->action = s->before == 0 ? "installed" : s->before < s->version ? "migrated" : "unchanged";
    output_said(&c->out, schema_fields, s,
                s->before == 0            ? "installed on %s, schema version %d"
                : s->before == s->version ? "nothing to do on %s, it has schema version %d"
                                          : "migrated on %s, to schema version %d",
                s->backend, (int)s->version);
    return DONE;
}

exit_code admin_install(cli *c)
{
    schema_state s = {0};
    exit_code code = given(c, OPT_AGAIN) ? cli_begin_again(c) : cli_check(c, pgqrs_schema_version(c->store, &s.before));
    return code == DONE ? bring_up_to_date(c, &s) : code;
}

exit_code admin_migrate(cli *c)
{
    schema_state s = {0};
    exit_code code = cli_check(c, pgqrs_schema_version(c->store, &s.before));
    if (code == DONE && s.before == 0) return cli_fail(FAILED, "there are no tables to migrate; run: pgqrs install");
    return code == DONE ? bring_up_to_date(c, &s) : code;
}

exit_code admin_verify(cli *c)
{
    schema_state s = {.action = "verified", .backend = pgqrs_store_backend(c->store)};
    exit_code code = cli_check(c, pgqrs_verify(c->store));
    if (code == DONE) code = cli_check(c, pgqrs_schema_version(c->store, &s.version));
    if (code != DONE) return code;
    s.before = s.version;
    output_said(&c->out, schema_fields, &s, "the tables are whole, schema version %d", (int)s.version);
    return DONE;
}

exit_code admin_uninstall(cli *c)
{
    pgqrs_system_metrics all;
    schema_state s = {.action = "uninstalled", .backend = pgqrs_store_backend(c->store)};
    exit_code code = cli_check(c, pgqrs_schema_version(c->store, &s.before));
    if (code != DONE) return code;
    if (s.before == 0) return cli_fail(NOT_FOUND, "there are no tables to drop");
    /* Tables that cannot be counted any more can be dropped all the same. */
    bool counted = pgqrs_system_metrics_get(c->store, &all) == PGQRS_OK;
    if (counted && !cli_confirmed(c, &code, "drop %lld queue%s with %lld message%s on %s", (long long)all.queues,
                                  plural(all.queues), (long long)all.total, plural(all.total), s.backend))
        return code;
    if (!counted && !cli_confirmed(c, &code, "drop all pgqrs tables on %s", s.backend)) return code;
    code = cli_check(c, pgqrs_uninstall(c->store));
    if (code == DONE) output_said(&c->out, schema_fields, &s, "dropped all tables on %s", s.backend);
    return code;
}
