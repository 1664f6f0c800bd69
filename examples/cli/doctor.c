/* pgqrs doctor: looks at everything that goes wrong at night, and says the cure. Exit status 1 when something is broken; what only deserves
 * a look is a warning.
 *
 * One question is Postgres' own, not the library's: who keeps vacuum from its work? It is asked on a connection of this tool.
 */
#include "cli.h"
#include <inttypes.h>
#include <libpq-fe.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define STALE_MS 60000
#define TRANSACTION_MS 300000

typedef enum status { STATUS_OK = 1, STATUS_WARNING = 2, STATUS_PROBLEM = 3 } status;

static const char *status_name(int s)
{
    static const char *const names[] = {"unknown", "ok", "warning", "problem"};
    return s > 0 && s < 4 ? names[s] : names[0];
}

typedef struct finding {
    const char *check;
    int status;
    char text[400];
    char cure_text[200];
    const char *found;
    const char *cure; /* NULL: nothing to do */
} finding;

const field finding_fields[] = {{"check", FIELD_TEXT, offsetof(finding, check), FIELD_LISTED, NULL},
                                {"status", FIELD_NAME, offsetof(finding, status), FIELD_LISTED, status_name},
                                {"found", FIELD_TEXT, offsetof(finding, found), FIELD_LISTED | FIELD_CUT, NULL},
                                {"cure", FIELD_TEXT, offsetof(finding, cure), FIELD_LISTED | FIELD_CUT, NULL},
                                {NULL, FIELD_TEXT, 0, 0, NULL}};

typedef struct patient {
    cli *c;
    status worst;
    int64_t stale_ms;
    int64_t transaction_ms; /* older ones are too old */
} patient;

static void show_text(patient *p, const char *text)
{
    char *plain = output_plain(text);
    if (plain)
        fprintf(p->c->out.file, "%s\n", plain);
    else
        p->c->out.no_memory = true;
    free(plain);
}

/* For people: a table would cut the cures, and they are what is to be typed. */
static void show(patient *p, const finding *f)
{
    FILE *file = p->c->out.file;
    bool bold = f->status != STATUS_OK && p->c->out.color;
    fprintf(file, "%s%-8s%s %-8s ", bold ? "\033[1m" : "", status_name(f->status), bold ? "\033[0m" : "", f->check);
    show_text(p, f->found);
    if (!f->cure) return;
    fprintf(file, "%-8s %-8s cure: ", "", "");
    show_text(p, f->cure);
}

/* The text is "what\tcure"; without a tab there is no cure. */
static void report(patient *p, const char *check, status s, const char *format, ...) CLI_PRINTF(4, 5);
static void report(patient *p, const char *check, status s, const char *format, ...)
{
    finding f = {.check = check, .status = (int)s};
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(f.text, sizeof f.text, format, arguments);
    va_end(arguments);
    cli_reword(f.text, sizeof f.text);
    char *tab = strchr(f.text, '\t');
    if (tab) {
        *tab = 0;
        snprintf(f.cure_text, sizeof f.cure_text, "%s", tab + 1);
        f.cure = f.cure_text;
    }
    f.found = f.text;
    if (p->c->out.format == FORMAT_TABLE)
        show(p, &f);
    else
        output_rows(&p->c->out, &f, 1, sizeof f);
    if (s > p->worst) p->worst = s;
}

/* The check itself did not work: that is a finding, too. */
static void report_error(patient *p, const char *check)
{
    report(p, check, STATUS_PROBLEM, "%s", pgqrs_last_error(p->c->store)->message);
}

/* --- the tables */

static bool check_schema(patient *p)
{
    int32_t version = 0;
    if (pgqrs_schema_version(p->c->store, &version) != PGQRS_OK) {
        report_error(p, "schema");
        return false;
    }
    if (version == 0)
        report(p, "schema", STATUS_PROBLEM, "there are no tables\trun: pgqrs install");
    else if (version < PGQRS_SCHEMA_VERSION)
        report(p, "schema", STATUS_PROBLEM, "version %d is older than this tool's, %d\trun: pgqrs migrate",
               (int)version, PGQRS_SCHEMA_VERSION);
    else if (version > PGQRS_SCHEMA_VERSION)
        report(p, "schema", STATUS_PROBLEM, "version %d is newer than this tool's, %d\tupdate pgqrs", (int)version,
               PGQRS_SCHEMA_VERSION);
    else
        report(p, "schema", STATUS_OK, "version %d on %s", (int)version, pgqrs_store_backend(p->c->store));
    return version == PGQRS_SCHEMA_VERSION;
}

static void check_tables(patient *p)
{
    if (pgqrs_verify(p->c->store) == PGQRS_OK)
        report(p, "tables", STATUS_OK, "tables, columns, indexes and rows are whole");
    else
        report(p, "tables", STATUS_PROBLEM,
               "%.250s\trestore a backup, or move what can be read to a new store: pgqrs copy",
               pgqrs_last_error(p->c->store)->message);
}

/* --- queues */

static void check_queue(patient *p, const pgqrs_queue_metrics *m)
{
    char age[UNITS_ROOM];
    const char *waiting = m->ready == 1 ? " waits" : "s wait";
    units_write_duration(age, sizeof age, m->oldest_ready_ms);
    if (m->paused && m->ready > 0)
        report(p, "queues", STATUS_WARNING,
               "\"%s\" is paused, %" PRId64 " message%s, the oldest for %s\tpgqrs queue resume %s", m->queue, m->ready,
               waiting, age, m->queue);
    if (!m->paused && m->ready > 0 && m->live_workers == 0)
        report(p, "queues", STATUS_WARNING,
               "nobody works on \"%s\", %" PRId64
               " message%s, the oldest for %s\tstart a worker, or look: pgqrs worker list -q %s",
               m->queue, m->ready, waiting, age, m->queue);
    if (m->dead > 0)
        report(p, "queues", STATUS_WARNING,
               "\"%s\" has %" PRId64 " dead letter%s\tpgqrs dead list %s, then pgqrs dead replay %s --all", m->queue,
               m->dead, plural(m->dead), m->queue, m->queue);
}

static void check_queues(patient *p)
{
    pgqrs_metrics *metrics = NULL;
    status before = p->worst;
    if (pgqrs_metrics_get(p->c->store, NULL, &metrics) != PGQRS_OK) {
        report_error(p, "queues");
        return;
    }
    p->worst = STATUS_OK;
    for (size_t i = 0; i < metrics->count; i++)
        check_queue(p, &metrics->items[i]);
    if (p->worst == STATUS_OK)
        report(p, "queues", STATUS_OK, "%zu queue%s, nothing waits without a worker", metrics->count,
               plural((int64_t)metrics->count));
    if (before > p->worst) p->worst = before;
    pgqrs_free(metrics);
}

/* --- workers and leases */

static void check_workers(patient *p)
{
    pgqrs_workers *workers = NULL;
    pgqrs_worker_filter filter = {.stale_ms = p->stale_ms, .limit = 1000};
    if (pgqrs_worker_list(p->c->store, &filter, &workers) != PGQRS_OK) {
        report_error(p, "workers");
        return;
    }
    int64_t now_us = 0;
    (void)pgqrs_store_now(p->c->store, &now_us);
    for (size_t i = 0; i < workers->count; i++) {
        const pgqrs_worker_info *w = &workers->items[i];
        char age[UNITS_ROOM];
        units_write_relative(age, sizeof age, w->heartbeat_at_us, now_us);
        report(p, "workers", STATUS_PROBLEM,
               "worker %" PRId64 " (\"%s\") was alive %s, and has %" PRId64 " message%s\tpgqrs worker reclaim", w->id,
               w->name, age, w->held, plural(w->held));
    }
    if (workers->count == 0) report(p, "workers", STATUS_OK, "no heartbeat is old");
    pgqrs_free(workers);
}

/* A lease of hours keeps a message from everybody else for hours when its holder dies. */
#define LONG_LEASE_MS (INT64_C(3600) * 1000)

static bool check_lease(patient *p, const pgqrs_message *m, int64_t now_us)
{
    char left[UNITS_ROOM];
    int64_t left_ms = (m->lease_until_us - now_us) / 1000;
    if (left_ms < LONG_LEASE_MS) return false;
    units_write_duration(left, sizeof left, left_ms);
    report(p, "leases", STATUS_WARNING,
           "message %" PRId64 " of \"%s\" is held for another %s\tpgqrs message explain %s %" PRId64, m->id, m->queue,
           left, m->queue, m->id);
    return true;
}

/* More than a handful say the same thing. */
#define LEASES_SHOWN 5

static void check_leases(patient *p)
{
    pgqrs_messages *leased = NULL;
    pgqrs_message_filter filter = {.state = PGQRS_LEASED, .oldest_first = true, .limit = 1000};
    int64_t now_us, found = 0;
    if (pgqrs_store_now(p->c->store, &now_us) != PGQRS_OK ||
        pgqrs_message_list(p->c->store, &filter, &leased) != PGQRS_OK) {
        report_error(p, "leases");
        return;
    }
    for (size_t i = 0; i < leased->count && found < LEASES_SHOWN; i++)
        found += check_lease(p, &leased->items[i], now_us);
    if (found == 0)
        report(p, "leases", STATUS_OK, "%s%zu message%s leased, none for long",
               leased->count == 1000 ? "at least " : "", leased->count, leased->count == 1 ? " is" : "s are");
    pgqrs_free(leased);
}

/* --- Postgres */

/* What is older than $1 seconds: transactions that hold back the horizon, also those prepared for two-phase commit, and sessions
 * that began one and are idle, which keep their locks. The last row counts the sessions whose transactions this user may not see. */
static const char pins[] =
    "SELECT what, seconds, cure, pins FROM ("
    " SELECT 'session ' || pid || ' of ' || coalesce(usename, '?') || ' (' || coalesce(state, '?') || ')' AS what,"
    " extract(epoch FROM clock_timestamp() - xact_start)::bigint AS seconds,"
    " 'SELECT pg_terminate_backend(' || pid || ')' AS cure,"
    " (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)::int AS pins"
    " FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()"
    " AND backend_type = 'client backend' AND xact_start < clock_timestamp() - $1::float8 * interval '1 second'"
    " UNION ALL SELECT 'prepared transaction ' || quote_literal(gid),"
    " extract(epoch FROM clock_timestamp() - prepared)::bigint, 'ROLLBACK PREPARED ' || quote_literal(gid), 1"
    " FROM pg_prepared_xacts WHERE database = current_database()"
    " AND prepared < clock_timestamp() - $1::float8 * interval '1 second'"
    " ORDER BY pins DESC, seconds DESC LIMIT 5) AS pin"
    " UNION ALL SELECT 'hidden', count(*), '', -1 FROM pg_stat_activity WHERE datname = current_database()"
    " AND NOT pg_has_role(usesysid, 'USAGE') AND NOT pg_has_role('pg_read_all_stats', 'USAGE') ORDER BY pins DESC";

static void report_pin(patient *p, const char *what, int64_t seconds, const char *cure, bool keeps_vacuum)
{
    char age[UNITS_ROOM];
    units_write_duration(age, sizeof age, seconds * 1000);
    report(p, "vacuum", keeps_vacuum ? STATUS_PROBLEM : STATUS_WARNING,
           "%.200s has a transaction open for %s, %s\t%.150s", what, age,
           keeps_vacuum ? "so vacuum cleans up nothing and tables grow" : "and keeps the locks that it has", cure);
}

static void report_no_pins(patient *p, int64_t hidden)
{
    char age[UNITS_ROOM];
    units_write_duration(age, sizeof age, p->transaction_ms);
    if (hidden > 0)
        report(p, "vacuum", STATUS_OK,
               "no transaction that this user may see is older than %s; those of %" PRId64
               " session%s he may not\tGRANT pg_read_all_stats to him",
               age, hidden, plural(hidden));
    else
        report(p, "vacuum", STATUS_OK, "no transaction is older than %s", age);
}

static void report_pins(patient *p, const PGresult *result)
{
    int count = PQntuples(result);
    for (int i = 0; i < count; i++) {
        int64_t number = 0;
        const char *keeps_vacuum = PQgetvalue(result, i, 3);
        (void)units_read_number(PQgetvalue(result, i, 1), &number);
        if (*keeps_vacuum != '-')
            report_pin(p, PQgetvalue(result, i, 0), number, PQgetvalue(result, i, 2), *keeps_vacuum == '1');
        else if (count == 1)
            report_no_pins(p, number);
    }
}

/* A standby with hot_standby_feedback keeps what its queries may still read; without the standby that stays so for ever. How old that
 * is nobody writes down: it is counted in transactions. */
static const char slots[] =
    "SELECT slot_name, age(xmin), active::int FROM pg_replication_slots"
    " WHERE xmin IS NOT NULL AND (NOT active OR age(xmin) > 1000000) ORDER BY active, age(xmin) DESC LIMIT 5";

static void report_slots(patient *p, const PGresult *result)
{
    for (int i = 0; i < PQntuples(result); i++) {
        const char *name = PQgetvalue(result, i, 0), *age = PQgetvalue(result, i, 1);
        if (*PQgetvalue(result, i, 2) == '1')
            report(p, "vacuum", STATUS_WARNING,
                   "replication slot \"%s\" keeps what is dead since %s transactions: its standby has a query as old"
                   "\tlook for it in the standby's pg_stat_activity",
                   name, age);
        else
            report(p, "vacuum", STATUS_PROBLEM,
                   "replication slot \"%s\", which nobody uses, keeps all that is dead since %s transaction%s"
                   "\tSELECT pg_drop_replication_slot('%s')",
                   name, age, strcmp(age, "1") == 0 ? "" : "s", name);
    }
}

static void look(patient *p, PGconn *connection, const char *sql, int count, const char *const *values,
                 void (*report_found)(patient *p, const PGresult *result))
{
    PGresult *result = PQexecParams(connection, sql, count, NULL, values, NULL, NULL, 0);
    if (PQresultStatus(result) == PGRES_TUPLES_OK)
        report_found(p, result);
    else
        report(p, "vacuum", STATUS_WARNING, "cannot look what keeps it from its work: %.200s",
               PQresultErrorMessage(result));
    PQclear(result);
}

static void check_vacuum(patient *p)
{
    char seconds[UNITS_ROOM];
    const char *values[] = {seconds};
    PGconn *connection = PQconnectdb(p->c->config->dsn);
    snprintf(seconds, sizeof seconds, "%.3f", (double)p->transaction_ms / 1000);
    if (PQstatus(connection) != CONNECTION_OK) { /* libpq's own words may hold parts of the DSN */
        report(p, "vacuum", STATUS_WARNING, "a second connection for this check was refused");
    } else {
        look(p, connection, pins, 1, values, report_pins);
        look(p, connection, slots, 0, NULL, report_slots);
    }
    PQfinish(connection);
}

/* What the library finds out by itself, against what the configuration says. */
static void check_pooler(patient *p)
{
    pgqrs_error error;
    pgqrs_store_desc desc = p->c->config->store;
    pgqrs_switch setting = desc.pooler;
    desc.pooler = PGQRS_AUTO;
    pgqrs_store *store = pgqrs_open(p->c->config->dsn, &desc, &error);
    bool between = pgqrs_store_pooled(store);
    if (!store)
        report(p, "pooler", STATUS_WARNING, "cannot be looked for: %.200s", error.message);
    else if (between && setting == PGQRS_OFF)
        report(p, "pooler", STATUS_PROBLEM,
               "there is a pooler between, and the configuration says there is none\tpooler: auto");
    else if (!between && setting == PGQRS_ON)
        report(p, "pooler", STATUS_WARNING,
               "there is none, and the configuration says there is: sleeping consumers are woken by polling "
               "only\tpooler: auto");
    else
        report(p, "pooler", STATUS_OK, "%s",
               between ? "a pooler stands between; consumers poll instead of being woken" : "none");
    pgqrs_close(store);
}

exit_code doctor(cli *c)
{
    patient p = {.c = c,
                 .worst = STATUS_OK,
                 .stale_ms = given(c, OPT_MAX_AGE) ? number_of(c, OPT_MAX_AGE) : STALE_MS,
                 .transaction_ms = given(c, OPT_TRANSACTION_AGE) ? number_of(c, OPT_TRANSACTION_AGE) : TRANSACTION_MS};
    bool listed = c->out.format != FORMAT_TABLE;
    if (listed) output_begin(&c->out, finding_fields);
    if (check_schema(&p)) {
        check_tables(&p);
        check_queues(&p);
        check_workers(&p);
        check_leases(&p);
    }
    if (strcmp(pgqrs_store_backend(c->store), "postgres") == 0) {
        check_vacuum(&p);
        check_pooler(&p);
    }
    if (listed) output_end(&c->out);
    return p.worst == STATUS_PROBLEM ? FAILED : DONE;
}
