/* Stores: opening, settings, hooks, errors, install and verify, connections of the caller, configuration. */

static pgqrs_result open_fails_desc(const char *dsn, const pgqrs_store_desc *desc, char *message, size_t room)
{
    pgqrs_error err;
    pgqrs_store *store;
    pgqrs_store_desc standard = test_desc();
    memset(&err, 0x5A, sizeof(err));
    store = pgqrs_open(dsn, desc ? desc : &standard, &err);
    if (store) {
        pgqrs_close(store);
        fail_at(__FILE__, __LINE__, "%s was opened", dsn ? dsn : "NULL");
    }
    check_error(&err, err.code, "pgqrs_open", __FILE__, __LINE__);
    EQ(-1, err.index);
    EQ(0, err.retry_after_ms);
    snprintf(message, room, "%s", err.message);
    return err.code;
}

static pgqrs_result open_fails(const char *dsn, char *message, size_t room)
{
    return open_fails_desc(dsn, NULL, message, room);
}

static void results_have_names_texts_and_kinds(void)
{
    static const struct {
        pgqrs_result result;
        const char *name;
        pgqrs_error_kind kind;
    } all[] = {
#define ROW(name, value, kind, text) {PGQRS_##name, "PGQRS_" #name, PGQRS_KIND_##kind},
        PGQRS_RESULTS(ROW)
#undef ROW
    };
    size_t i, j;
    for (i = 0; i < COUNT_OF(all); i++) {
        SAME(all[i].name, pgqrs_result_name(all[i].result));
        EQ(all[i].kind, pgqrs_result_kind(all[i].result));
        YES(pgqrs_result_text(all[i].result)[0] != '\0');
        for (j = 0; j < i; j++)
            YES(all[i].result != all[j].result);
    }
    EQ(0, PGQRS_OK);
    EQ(PGQRS_KIND_NONE, pgqrs_result_kind(PGQRS_OK));
    YES(pgqrs_result_name((pgqrs_result)-9999)[0] != '\0');
    YES(pgqrs_result_text((pgqrs_result)12345)[0] != '\0');
    YES(pgqrs_result_kind((pgqrs_result)-9999) != PGQRS_KIND_NONE);
}

static void version_is_the_headers(void)
{
    char expected[32];
    snprintf(expected, sizeof(expected), "%d.%d.%d", PGQRS_VERSION_MAJOR, PGQRS_VERSION_MINOR, PGQRS_VERSION_PATCH);
    SAME(expected, PGQRS_VERSION);
    SAME(PGQRS_VERSION, pgqrs_version());
}

static void open_refuses_what_is_no_dsn(void)
{
    static const char *const bad[] = {"", "jobs.db", "://", "sqlite", "sqlite:", "sqlite://", "pgfoo://x", "mysql://x/y",
                                      "postgres:/x", " sqlite://x"};
    char message[PGQRS_ERROR_MESSAGE_SIZE];
    size_t i;
    for (i = 0; i < COUNT_OF(bad); i++) {
        pgqrs_result result = open_fails(bad[i], message, sizeof(message));
        if (result != PGQRS_ERR_BAD_DSN)
            fail_at(__FILE__, __LINE__, "\"%s\" gave %s (%s)", bad[i], pgqrs_result_name(result), message);
    }
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, open_fails(NULL, message, sizeof(message)));
    YES(strstr(message, "dsn") != NULL);
    YES(pgqrs_open("nonsense", NULL, NULL) == NULL);
}

static void open_names_the_scheme_it_does_not_know(void)
{
    char message[PGQRS_ERROR_MESSAGE_SIZE];
    RESULT(PGQRS_ERR_BAD_DSN, open_fails("mysql://root@host/jobs", message, sizeof(message)));
    YES(strstr(message, "mysql") != NULL);
}

static void open_hides_the_password(const char *dsn)
{
    char message[PGQRS_ERROR_MESSAGE_SIZE];
    pgqrs_store_desc desc = test_desc();
    desc.retry_limit = -1;
    desc.connect_timeout_ms = 1000;
    pgqrs_result result = open_fails_desc(dsn, &desc, message, sizeof(message));
    if (strstr(message, "hunter2") || strstr(message, "secret"))
        fail_at(__FILE__, __LINE__, "the password of %s is shown: %s", dsn, message);
    YES(result == PGQRS_ERR_BAD_DSN || result == PGQRS_ERR_CONNECTION);
}

static void open_never_shows_a_password(void)
{
    static const char *const dsns[] = {
        "mysql://root:hunter2secret@host/jobs",
        "://root:hunter2secret@host/jobs",
        "root:hunter2secret@host/jobs",
        "postgresql://root:hunter2secret@127.0.0.1:1/jobs?connect_timeout=1",
        "postgresql://root:hunter2secret@/jobs?host=/nonexistent-directory",
        "postgresql://127.0.0.1:1/jobs?user=root&password=hunter2secret&connect_timeout=1",
        "postgresql://root:hunter2secret@[::1/jobs",
        "postgresql://root:hunter2secret@host:notaport/jobs",
        "postgresql://root:hunter2secret@host/jobs?nosuchoption=1",
        "postgres://root:hunter2%zzsecret@host/jobs",
        "postgres://root:x: hunter2secret/x@host/jobs",
        "postgres://root:x: 28P01: hunter2secret/x@host/jobs",
        "postgres://root:x\"hunter2secret\"x/x@host/jobs",
        "postgres://root:x%22%3A%20hunter2secret/x@host/jobs",
        "postgres://root:hunter2secret/x@host/jobs",
        "postgres://root:1,hunter2secret/x@host/jobs",
        "postgres://root:x@hunter2secret@nosuch.invalid/jobs",
        "postgres://root:x@%22: hunter2secret@nosuch.invalid/jobs",
    };
    /* libpq's quotes are others in other languages, where its translations are installed. */
    static const char *const languages[] = {"C", "de", "fr"};
    size_t i;
    snprintf(run.password, sizeof(run.password), "hunter2");
    for (i = 0; i < COUNT_OF(dsns) * COUNT_OF(languages); i++) {
        setenv("LANGUAGE", languages[i / COUNT_OF(dsns)], 1);
        setlocale(LC_ALL, i < COUNT_OF(dsns) ? "C" : "C.UTF-8");
        open_hides_the_password(dsns[i % COUNT_OF(dsns)]);
    }
    unsetenv("LANGUAGE");
    setlocale(LC_ALL, "C");
    if (T.leak)
        fail_at(__FILE__, __LINE__, "the log shows %s", T.leak);
    remember_password(run.dsn);
}

static void open_refuses_a_server_that_is_not_there(void)
{
    char message[PGQRS_ERROR_MESSAGE_SIZE];
    pgqrs_store_desc desc = test_desc();
    desc.retry_limit = -1;
    RESULT(PGQRS_ERR_CONNECTION,
           open_fails_desc("postgresql://someone@127.0.0.1:1/jobs", &desc, message, sizeof(message)));
    YES(strstr(message, "127.0.0.1") != NULL);
}

/* "ada:12/rest@host/db": a password with a slash, of which libpq takes the first half for a port and the rest for a database. */
static void open_never_shows_half_a_password(void)
{
    char text[1300], dsn[1400];
    pgqrs_error err;
    pgqrs_store *store;
    char *user, *password, *host, *database;
    snprintf(text, sizeof(text), "%s", run.dsn);
    user = strstr(text, "://") + 3;
    password = strchr(user, ':');
    host = strchr(user, '@');
    database = strchr(host, '/');
    *password++ = *host++ = *database++ = '\0';
    setenv("PGUSER", user, 1);
    setenv("PGPASSWORD", password, 1);
    snprintf(dsn, sizeof(dsn), "postgresql://%s/QZ@somewhere/%s", host, database);
    store = pgqrs_open(dsn, NULL, &err);
    unsetenv("PGUSER");
    unsetenv("PGPASSWORD");
    assert_null(store);
    NO(strstr(err.message, "QZ") != NULL);
    YES(strstr(err.message, "%2F") != NULL);
}

static void open_refuses_a_wrong_password(void)
{
    char dsn[1200], message[PGQRS_ERROR_MESSAGE_SIZE];
    const char *at = strchr(run.dsn, '@');
    pgqrs_result result;
    assert_non_null(at);
    snprintf(dsn, sizeof(dsn), "postgresql://nosuchuser:wrongword%s", at);
    result = open_fails(dsn, message, sizeof(message));
    YES(result == PGQRS_ERR_ACCESS_DENIED || (on(ON_PGBOUNCER) && result == PGQRS_ERR_CONNECTION));
    YES(strstr(message, "wrongword") == NULL);
}

static void open_refuses_a_directory_that_is_not_there(void)
{
    char dsn[800], message[PGQRS_ERROR_MESSAGE_SIZE];
    pgqrs_result result;
    snprintf(dsn, sizeof(dsn), "sqlite://%s/no-such-directory/jobs.db", run.dir);
    result = open_fails(dsn, message, sizeof(message));
    RESULT(PGQRS_ERR_BAD_DSN, result);
    YES(strstr(message, "no-such-directory") != NULL);
}

static void open_refuses_a_file_that_is_no_database(void)
{
    FILE *file = fopen(T.file, "w");
    pgqrs_error err;
    pgqrs_store_desc desc = test_desc();
    pgqrs_store *store;
    pgqrs_result result;
    int i;
    assert_non_null(file);
    for (i = 0; i < 5000; i++)
        fprintf(file, "this is not a database\n");
    fclose(file);
    store = pgqrs_open(T.dsn, &desc, &err);
    result = store ? pgqrs_install(store) : err.code;
    pgqrs_close(store);
    YES(result == PGQRS_ERR_DATABASE || result == PGQRS_ERR_SCHEMA_DAMAGED);
}

static void open_makes_the_file(void)
{
    struct stat info;
    YES(stat(T.file, &info) != 0);
    T.store = open_store(NULL);
    EQ(0, stat(T.file, &info));
}

static void schema_names_are_checked(void)
{
    static const char *const bad[] = {"1abc", "a-b", "a b", "a\"b", "a;DROP", "\xC3\xA9", "a.b", ""};
    char *longer = text_of(64, 's');
    char message[PGQRS_ERROR_MESSAGE_SIZE];
    pgqrs_store_desc desc = test_desc();
    pgqrs_result too_long;
    size_t i;
    desc.schema = longer;
    too_long = open_fails_desc(T.dsn, &desc, message, sizeof(message));
    free(longer);
    RESULT(PGQRS_ERR_BAD_NAME, too_long);
    for (i = 0; i < COUNT_OF(bad); i++) {
        desc.schema = bad[i];
        if (open_fails_desc(T.dsn, &desc, message, sizeof(message)) != PGQRS_ERR_BAD_NAME)
            fail_at(__FILE__, __LINE__, "schema \"%s\" gave another error: %s", bad[i], message);
    }
}

/* Quoting: such a schema is fine, and nothing of ours may break on it. */
static void schema_with_an_awkward_name_works(void)
{
    pgqrs_store_desc desc;
    pgqrs_queue_desc queue = test_queue_desc();
    snprintf(T.schema, sizeof(T.schema), "%.30s_Select$X", run.schema);
    desc = test_desc();
    T.store = open_store(&desc);
    OK(pgqrs_install(T.store));
    OK(pgqrs_queue_create(T.store, T.queue, &queue));
    put();
    OK(pgqrs_retry(T.store, must_take(), "r"));
    OK(pgqrs_verify(T.store));
    NUMBERS(0, 1, 0, 0, 0);
    OK(pgqrs_uninstall(T.store));
}

static void schemas_of_one_database_are_apart(void)
{
    char first[64], second[64];
    pgqrs_store *other;
    pgqrs_store_desc desc = test_desc();
    bool exists = true;
    snprintf(first, sizeof(first), "%s", T.schema);
    snprintf(second, sizeof(second), "%.40s_b", T.schema);
    desc.schema = second;
    other = open_store(&desc);
    OK_ON(other, pgqrs_install(other));
    OK_ON(other, pgqrs_queue_exists(other, T.queue, &exists));
    NO(exists);
    put();
    OK_ON(other, pgqrs_uninstall(other));
    NUMBERS(1, 0, 0, 0, 0);
    OK(pgqrs_verify(T.store));
    server_exec("SET client_min_messages TO warning; DROP SCHEMA IF EXISTS \"%s\" CASCADE", second);
    SAME(first, T.schema);
}

static void open_leaves_a_missing_file_missing_when_told(void)
{
    char message[PGQRS_ERROR_MESSAGE_SIZE];
    pgqrs_store_desc desc = test_desc();
    desc.sqlite_create = PGQRS_OFF;
    EQ(PGQRS_ERR_BAD_DSN, open_fails_desc(T.dsn, &desc, message, sizeof(message)));
    check_text_names(message, "there is no file ", "open", __FILE__, __LINE__);
    check_text_names(message, T.file, "open", __FILE__, __LINE__);
    assert_int_equal(-1, access(T.file, F_OK));
    T.store = open_store(NULL);
    OK(pgqrs_install(T.store));
    OK(pgqrs_queue_create(open_store(&desc), T.queue, NULL));
}

static void open_refuses_settings_out_of_range(void)
{
    pgqrs_store_desc wrong[12];
    char message[PGQRS_ERROR_MESSAGE_SIZE];
    size_t i;
    for (i = 0; i < COUNT_OF(wrong); i++)
        wrong[i] = test_desc();
    wrong[0].connect_timeout_ms = -1;
    wrong[1].retry_limit = -2;
    wrong[2].default_lease_ms = -1;
    wrong[3].default_max_attempts = -1;
    wrong[4].default_batch = -1;
    wrong[5].heartbeat_ms = -1;
    wrong[6].poll_ms = -1;
    wrong[7].pooler = (pgqrs_switch)7;
    wrong[8].sqlite_wal = (pgqrs_switch)-1;
    wrong[9].validation.max_depth = -1;
    wrong[10].validation.max_enqueue_per_second = -1;
    wrong[11].default_lease_ms = INT64_MAX;
    for (i = 0; i < COUNT_OF(wrong); i++) {
        pgqrs_result result = open_fails_desc(T.dsn, &wrong[i], message, sizeof(message));
        if (result != PGQRS_ERR_INVALID_ARGUMENT && result != PGQRS_ERR_BAD_CONFIG)
            fail_at(__FILE__, __LINE__, "settings %d gave %s", (int)i, pgqrs_result_name(result));
    }
}

static void settings_are_read_back_resolved(void)
{
    const pgqrs_store_desc *settings = pgqrs_store_settings(T.store);
    assert_non_null(settings);
    EQ(10000, settings->connect_timeout_ms);
    EQ(5, settings->retry_limit);
    EQ(30000, settings->default_lease_ms);
    EQ(5, settings->default_max_attempts);
    EQ(16, settings->default_batch);
    EQ(5000, settings->heartbeat_ms);
    EQ(250, settings->poll_ms);
    EQ(1048576, settings->validation.max_payload_bytes);
    EQ(64, settings->validation.max_depth);
    EQ(0, settings->validation.max_string_bytes);
    EQ(0, settings->validation.forbidden_key_count);
    EQ(0, settings->validation.max_enqueue_per_second);
    YES(settings->allocator.resize == test_resize);
    YES(settings->clock.now_us == test_now);
    YES(settings->schema != NULL);
    if (on(ON_SERVER))
        SAME(T.schema, settings->schema);
}

static void settings_are_copied(void)
{
    char schema[64];
    pgqrs_store_desc desc = test_desc();
    snprintf(schema, sizeof(schema), "%s", desc.schema ? desc.schema : "public");
    desc.schema = schema;
    T.store = open_store(&desc);
    memset(&desc, 0x5A, sizeof(desc));
    memset(schema, 'x', 5);
    OK(pgqrs_install(T.store));
    OK(pgqrs_verify(T.store));
    YES(pgqrs_store_settings(T.store)->schema[0] != 'x');
}

static void default_settings_work(void)
{
    pgqrs_error err;
    int64_t blocks = T.memory.blocks, now = 0;
    pgqrs_store *store = pgqrs_open(on(ON_SQLITE) ? T.dsn : run.dsn, NULL, &err);
    if (!store)
        fail_at(__FILE__, __LINE__, "pgqrs_open: %s", err.message);
    EQ(PGQRS_OK, err.code);
    EQ(30000, pgqrs_store_settings(store)->connect_timeout_ms);
    if (on(ON_SERVER))
        SAME("public", pgqrs_store_settings(store)->schema);
    RESULT(PGQRS_OK, pgqrs_store_now(store, &now));
    pgqrs_close(store);
    BETWEEN(real_us() - MINUTE_US, real_us() + MINUTE_US, now);
    EQ(blocks, T.memory.blocks);
}

static void backend_has_a_name(void)
{
    SAME(on(ON_SERVER) ? "postgres" : on(ON_BUCKET) ? "s3" : "sqlite", pgqrs_store_backend(T.store));
}

static void pooler_is_found_out(void)
{
    pgqrs_store_desc desc = test_desc();
    EQ(on(ON_PGBOUNCER), pgqrs_store_pooled(T.store));
    desc.pooler = PGQRS_ON;
    EQ(on(ON_SERVER), pgqrs_store_pooled(open_store(&desc)));
    desc.pooler = PGQRS_OFF;
    EQ(false, pgqrs_store_pooled(open_store(&desc)));
}

static void turso_dsn_is_served_too(void)
{
    char dsn[700];
    pgqrs_error err;
    pgqrs_store_desc desc = test_desc();
    pgqrs_queue_desc queue = test_queue_desc();
    snprintf(dsn, sizeof(dsn), "turso://%s", T.file);
    T.store = remember_store(pgqrs_open(dsn, &desc, &err));
    if (!T.store)
        fail_at(__FILE__, __LINE__, "pgqrs_open: %s", err.message);
    SAME("turso", pgqrs_store_backend(T.store));
    OK(pgqrs_install(T.store));
    OK(pgqrs_queue_create(T.store, T.queue, &queue));
    put();
    OK(pgqrs_archive(T.store, must_take()));
}

static void rollback_journal_works_too(void)
{
    pgqrs_store_desc desc = test_desc();
    pgqrs_queue_desc queue = test_queue_desc();
    pgqrs_store *other;
    char mode[32];
    desc.sqlite_wal = PGQRS_OFF;
    T.store = open_store(&desc);
    OK(pgqrs_install(T.store));
    OK(pgqrs_queue_create(T.store, T.queue, &queue));
    put();
    put();
    other = open_store(&desc);
    assert_non_null(take_with(other, T.queue, (pgqrs_dequeue_desc){0}));
    OK(pgqrs_archive(T.store, must_take()));
    raw_query("PRAGMA journal_mode", mode, sizeof(mode));
    SAME("delete", mode);
}

static void now_is_the_clocks(void)
{
    int64_t now = 0;
    pgqrs_store_desc desc;
    OK(pgqrs_store_now(T.store, &now));
    EQ(T.now_us, now);
    advance_ms(5);
    OK(pgqrs_store_now(T.store, &now));
    EQ(T.now_us, now);
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "now_us", pgqrs_store_now(T.store, NULL));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_store_now(NULL, &now));
    desc = real_time_desc();
    reopen_with(&desc);
    OK(pgqrs_store_now(T.store, &now));
    BETWEEN(real_us() - MINUTE_US, real_us() + MINUTE_US, now);
}

static void last_error_is_of_the_last_call(void)
{
    EQ(PGQRS_OK, pgqrs_last_error(T.store)->code);
    FAILS(ERR_QUEUE_NOT_FOUND, pgqrs_queue_pause(T.store, "nowhere"));
    EQ(-1, pgqrs_last_error(T.store)->index);
    EQ(0, pgqrs_last_error(T.store)->retry_after_ms);
    OK(pgqrs_queue_pause(T.store, T.queue));
    EQ(PGQRS_KIND_NONE, pgqrs_last_error(T.store)->kind);
    YES(pgqrs_last_error(NULL) != NULL);
}

static void close_of_nothing_is_fine(void)
{
    pgqrs_close(NULL);
    pgqrs_free(NULL);
    YES(T.store != NULL);
}

static void other_store_calls_refuse_null(void)
{
    int32_t version;
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_install(NULL));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_uninstall(NULL));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_verify(NULL));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_schema_version(NULL, &version));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "version", pgqrs_schema_version(T.store, NULL));
}

static void everything_is_allocated_by_the_hook(void)
{
    int64_t calls = T.memory.calls;
    const pgqrs_message *message;
    put();
    message = must_take();
    YES(T.memory.calls > calls);
    YES(T.memory.blocks > 0);
    calls = T.memory.calls;
    must_look(message->id);
    YES(T.memory.calls > calls);
}

/* What a program wrote to a descriptor while `action` ran. */
static size_t captured(int descriptor, void (*action)(void), char *out, size_t room)
{
    FILE *file = tmpfile();
    int saved;
    size_t size;
    assert_non_null(file);
    fflush(NULL);
    saved = dup(descriptor);
    dup2(fileno(file), descriptor);
    action();
    fflush(NULL);
    dup2(saved, descriptor);
    close(saved);
    rewind(file);
    size = fread(out, 1, room - 1, file);
    out[size] = '\0';
    fclose(file);
    return size;
}

static pgqrs_store *quiet;
static void be_noisy(void)
{
    pgqrs_message *message = NULL;
    pgqrs_enqueue(quiet, "nowhere", "{", NULL, NULL);
    pgqrs_install(quiet);
    pgqrs_install(quiet);
    pgqrs_queue_create(quiet, T.queue, NULL);
    pgqrs_enqueue(quiet, T.queue, SECRET_PAYLOAD, NULL, NULL);
    pgqrs_dequeue(quiet, T.queue, NULL, &message);
    if (message)
        pgqrs_retry(quiet, message, "r");
    pgqrs_free(message);
    pgqrs_verify(quiet);
}

static void log_is_silent_by_default(void)
{
    pgqrs_store_desc desc = test_desc();
    char text[4096];
    memset(&desc.logger, 0, sizeof(desc.logger));
    quiet = open_store(&desc);
    if (captured(2, be_noisy, text, sizeof(text)) != 0)
        fail_at(__FILE__, __LINE__, "written to stderr: %s", text);
    if (captured(1, be_noisy, text, sizeof(text)) != 0)
        fail_at(__FILE__, __LINE__, "written to stdout: %s", text);
}

static void write_a_log_line(void)
{
    pgqrs_log_stderr(PGQRS_LOG_WARN, "the cat is out", NULL);
}

static void log_stderr_writes_a_line(void)
{
    char text[512];
    YES(captured(2, write_a_log_line, text, sizeof(text)) > 0);
    YES(strstr(text, "the cat is out") != NULL);
    EQ('\n', text[strlen(text) - 1]);
}

static void log_level_is_respected(void)
{
    pgqrs_store_desc desc = test_desc();
    pgqrs_work_desc once = {.until_empty = true};
    (void)once;
    desc.logger.level = PGQRS_LOG_ERROR;
    reopen_with(&desc);
    OK(pgqrs_queue_create(T.store, T.queue, NULL));
    T.log_lines = 0;
    put();
    OK(pgqrs_archive(T.store, must_take()));
    EQ(0, T.log_lines);
}

static void random_comes_from_the_hook(void)
{
    int64_t calls;
    put();
    calls = T.random_calls;
    OK(pgqrs_retry(T.store, must_take(), NULL));
    YES(T.random_calls > calls);
}

static struct {
    int calls;
    bool refuse;
    size_t refuse_at;
} parser;

/* Accepts anything that begins with an exclamation mark, as one string. */
static bool parse_exclamation(const char *text, size_t size, pgqrs_json_report report, void *context,
                              size_t *error_offset, void *user)
{
    (void)user;
    parser.calls++;
    if (parser.refuse || size == 0 || text[0] != '!') {
        *error_offset = parser.refuse_at;
        return false;
    }
    return report(PGQRS_JSON_STRING, text + 1, size - 1, context);
}

static void json_comes_from_the_hook(void)
{
    pgqrs_store_desc desc = test_desc();
    pgqrs_queue_desc queue = test_queue_desc();
    desc.json.parse = parse_exclamation;
    desc.validation.max_string_bytes = 5;
    reopen_with(&desc);
    OK(pgqrs_queue_create(T.store, T.queue, &queue));
    memset(&parser, 0, sizeof(parser));
    OK(pgqrs_enqueue(T.store, T.queue, "!hello", NULL, NULL));
    EQ(1, parser.calls);
    SAME("!hello", must_take()->payload);
    /* The library's own rules hang on what the parser reports. */
    FAILS(ERR_STRING_TOO_LONG, pgqrs_enqueue(T.store, T.queue, "!hello you", NULL, NULL));
    parser.refuse_at = 31;
    FAILS_NAMING(ERR_JSON, "31", pgqrs_enqueue(T.store, T.queue, "this has more than thirty-one bytes", NULL, NULL));
    EQ(3, parser.calls);
}

static void install_may_be_repeated(void)
{
    int64_t id = put();
    OK(pgqrs_install(T.store));
    OK(pgqrs_install(T.store));
    STATE("ready", id);
    OK(pgqrs_verify(T.store));
}

static void schema_version_tells_what_is_there(void)
{
    int32_t version = -1;
    OK(pgqrs_schema_version(T.store, &version));
    EQ(0, version);
    OK(pgqrs_install(T.store));
    OK(pgqrs_schema_version(T.store, &version));
    EQ(PGQRS_SCHEMA_VERSION, version);
    OK(pgqrs_uninstall(T.store));
    OK(pgqrs_schema_version(T.store, &version));
    EQ(0, version);
}

static void calls_say_that_the_schema_is_missing(void)
{
    pgqrs_message *message = NULL, like;
    pgqrs_messages *messages = NULL;
    pgqrs_queue *queue = NULL;
    pgqrs_queues *queues = NULL;
    pgqrs_metrics *metrics = NULL;
    pgqrs_worker_ref worker = {1, 1};
    pgqrs_system_metrics system;
    int64_t count;
    memset(&like, 0, sizeof(like));
    like.id = like.lease = 1;
    FAILS_NAMING(ERR_SCHEMA_MISSING, "pgqrs_install", pgqrs_queue_create(T.store, "q", NULL));
    FAILS(ERR_SCHEMA_MISSING, pgqrs_enqueue(T.store, "q", "1", NULL, NULL));
    FAILS(ERR_SCHEMA_MISSING, pgqrs_dequeue(T.store, "q", NULL, &message));
    FAILS(ERR_SCHEMA_MISSING, pgqrs_archive(T.store, &like));
    FAILS(ERR_SCHEMA_MISSING, pgqrs_extend(T.store, &like, 1000));
    FAILS(ERR_SCHEMA_MISSING, pgqrs_queue_get(T.store, "q", &queue));
    FAILS(ERR_SCHEMA_MISSING, pgqrs_queue_list(T.store, 0, 0, &queues));
    FAILS(ERR_SCHEMA_MISSING, pgqrs_queue_delete(T.store, "q", true));
    FAILS(ERR_SCHEMA_MISSING, pgqrs_message_get(T.store, 1, &message));
    FAILS(ERR_SCHEMA_MISSING, pgqrs_message_list(T.store, NULL, &messages));
    FAILS(ERR_SCHEMA_MISSING, pgqrs_message_count(T.store, NULL, &count));
    FAILS(ERR_SCHEMA_MISSING, pgqrs_worker_register(T.store, "w", NULL, &worker));
    FAILS(ERR_SCHEMA_MISSING, pgqrs_worker_count(T.store, NULL, &count));
    FAILS(ERR_SCHEMA_MISSING, pgqrs_metrics_get(T.store, NULL, &metrics));
    FAILS(ERR_SCHEMA_MISSING, pgqrs_system_metrics_get(T.store, &system));
    FAILS(ERR_SCHEMA_MISSING, pgqrs_maintain(T.store, NULL));
    FAILS(ERR_SCHEMA_MISSING, pgqrs_verify(T.store));
    YES(pgqrs_worker_open(T.store, "q", handle, NULL, NULL, NULL) == NULL);
    check_error(pgqrs_last_error(T.store), PGQRS_ERR_SCHEMA_MISSING, "pgqrs_worker_open", __FILE__, __LINE__);
    /* And the same store works as soon as it is there. */
    OK(pgqrs_install(T.store));
    OK(pgqrs_queue_create(T.store, "q", NULL));
    OK(pgqrs_enqueue(T.store, "q", "1", NULL, NULL));
}

static void uninstall_removes_everything(void)
{
    int32_t version = -1;
    bool exists = true;
    put();
    enlist("w", T.queue);
    OK(pgqrs_uninstall(T.store));
    if (on(ON_SERVER)) {
        char sql[256];
        snprintf(sql, sizeof(sql),
                 "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = '%s'",
                 T.schema);
        EQ(0, raw_int(sql));
        snprintf(sql, sizeof(sql),
                 "SELECT count(*) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = '%s'",
                 T.schema);
        EQ(0, raw_int(sql));
        snprintf(sql, sizeof(sql), "SELECT count(*) FROM pg_namespace WHERE nspname = '%s'", T.schema);
        EQ(1, raw_int(sql));
    } else {
        EQ(0, raw_int("SELECT count(*) FROM sqlite_master WHERE name LIKE 'pgqrs%'"));
    }
    OK(pgqrs_schema_version(T.store, &version));
    EQ(0, version);
    OK(pgqrs_uninstall(T.store));
    OK(pgqrs_install(T.store));
    OK(pgqrs_queue_exists(T.store, T.queue, &exists));
    NO(exists);
}

static void uninstall_leaves_other_tables_alone(void)
{
    raw_exec("CREATE TABLE @users_own(id INTEGER)");
    raw_exec("INSERT INTO @users_own VALUES (7)");
    OK(pgqrs_uninstall(T.store));
    EQ(7, raw_int("SELECT id FROM @users_own"));
    OK(pgqrs_install(T.store));
    OK(pgqrs_verify(T.store));
    EQ(7, raw_int("SELECT id FROM @users_own"));
}

static void set_schema_version(int version)
{
    char sql[256];
    snprintf(sql, sizeof(sql), "UPDATE @pgqrs_meta SET value = %d WHERE key = 'schema_version'", version);
    raw_exec(sql);
}

static void newer_schema_is_refused(void)
{
    int32_t version = -1;
    int64_t count = -1;
    put();
    set_schema_version(PGQRS_SCHEMA_VERSION + 1);
    reopen_with(NULL);
    FAILS(ERR_SCHEMA_NEWER, pgqrs_enqueue(T.store, T.queue, "1", NULL, NULL));
    FAILS(ERR_SCHEMA_NEWER, pgqrs_message_count(T.store, NULL, &count));
    FAILS(ERR_SCHEMA_NEWER, pgqrs_install(T.store));
    FAILS(ERR_SCHEMA_NEWER, pgqrs_verify(T.store));
    OK(pgqrs_schema_version(T.store, &version));
    EQ(PGQRS_SCHEMA_VERSION + 1, version);
    set_schema_version(PGQRS_SCHEMA_VERSION);
    reopen_with(NULL);
    NUMBERS(1, 0, 0, 0, 0);
}

static void older_schema_asks_for_install(void)
{
    set_schema_version(0);
    reopen_with(NULL);
    {
        pgqrs_result result = pgqrs_enqueue(T.store, T.queue, "1", NULL, NULL);
        /* Version 0 is either "no tables" or "older": both say what to call. */
        YES(result == PGQRS_ERR_SCHEMA_OLDER || result == PGQRS_ERR_SCHEMA_MISSING);
        check_error(pgqrs_last_error(T.store), result, "pgqrs_enqueue", __FILE__, __LINE__);
        YES(strstr(last_message(T.store), "pgqrs_install") != NULL);
    }
    set_schema_version(PGQRS_SCHEMA_VERSION);
    reopen_with(NULL);
    put();
}

static void verify_is_content_with_every_state(void)
{
    int64_t ids[5];
    purge_fills(ids);
    put_batch(T.queue, 60, 2, NULL);
    take_many(20);
    enlist("w", T.queue);
    OK(pgqrs_verify(T.store));
    advance_ms(TEST_LEASE_MS + 1);
    OK(pgqrs_verify(T.store));
    maintain_all();
    OK(pgqrs_verify(T.store));
}

/* The name of the nth index that is not there because of a constraint. */
static bool index_name(int n, char *name, size_t room)
{
    char sql[512];
    if (on(ON_SERVER))
        snprintf(sql, sizeof(sql),
                 "SELECT i.indexrelid::regclass::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN "
                 "pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = '%s' AND NOT EXISTS (SELECT 1 FROM "
                 "pg_constraint k WHERE k.conindid = i.indexrelid) ORDER BY c.relname OFFSET %d LIMIT 1",
                 T.schema, n);
    else
        snprintf(sql, sizeof(sql),
                 "SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL ORDER BY name LIMIT 1 OFFSET %d",
                 n);
    raw_query(sql, name, room);
    return name[0] != '\0';
}

static void verify_misses_every_index(void)
{
    char name[200], sql[300];
    int n = 0;
    while (index_name(n, name, sizeof(name))) {
        snprintf(sql, sizeof(sql), "DROP INDEX %s", name);
        raw_exec(sql);
        reopen_with(NULL);
        if (pgqrs_verify(T.store) != PGQRS_ERR_SCHEMA_DAMAGED)
            fail_at(__FILE__, __LINE__, "index %s is missing, and verify gave %s", name,
                    pgqrs_result_name(pgqrs_verify(T.store)));
        check_error(pgqrs_last_error(T.store), PGQRS_ERR_SCHEMA_DAMAGED, "pgqrs_verify", __FILE__, __LINE__);
        OK(pgqrs_uninstall(T.store));
        OK(pgqrs_install(T.store));
        OK(pgqrs_verify(T.store));
        n++;
    }
    YES(n >= 3);
}

static bool table_name(int n, char *name, size_t room)
{
    char sql[512];
    if (on(ON_SERVER))
        snprintf(sql, sizeof(sql),
                 "SELECT tablename FROM pg_tables WHERE schemaname = '%s' ORDER BY tablename OFFSET %d LIMIT 1", T.schema,
                 n);
    else
        snprintf(sql, sizeof(sql),
                 "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'pgqrs%%' ORDER BY name LIMIT 1 OFFSET "
                 "%d",
                 n);
    raw_query(sql, name, room);
    return name[0] != '\0';
}

static void verify_misses_every_table(void)
{
    char name[200], sql[300];
    int n = 0;
    while (table_name(n, name, sizeof(name))) {
        pgqrs_result result;
        snprintf(sql, sizeof(sql), on(ON_SERVER) ? "DROP TABLE @%s CASCADE" : "PRAGMA foreign_keys=OFF; DROP TABLE %s", name);
        raw_exec(sql);
        reopen_with(NULL);
        result = pgqrs_verify(T.store);
        if (result != PGQRS_ERR_SCHEMA_DAMAGED && result != PGQRS_ERR_SCHEMA_MISSING)
            fail_at(__FILE__, __LINE__, "table %s is missing, and verify gave %s", name, pgqrs_result_name(result));
        check_error(pgqrs_last_error(T.store), result, "pgqrs_verify", __FILE__, __LINE__);
        OK(pgqrs_uninstall(T.store));
        OK(pgqrs_install(T.store));
        OK(pgqrs_verify(T.store));
        n++;
    }
    YES(n >= 3);
}

/* "table.column" of every column, with a space between them. Whoever calls has to free it. */
static char *every_column(void)
{
    size_t room = 16384;
    char sql[512], *all = (char *)malloc(room);
    assert_non_null(all);
    if (on(ON_SERVER))
        snprintf(sql, sizeof(sql),
                 "SELECT string_agg(c.table_name || '.' || c.column_name, ' ') FROM information_schema.columns c JOIN pg_tables t "
                 "ON t.schemaname = c.table_schema AND t.tablename = c.table_name WHERE c.table_schema = '%s'",
                 T.schema);
    else
        snprintf(sql, sizeof(sql), "SELECT group_concat(t.name || '.' || c.name, ' ') FROM sqlite_master t, "
                                   "pragma_table_info(t.name) c WHERE t.type = 'table' AND t.name LIKE 'pgqrs%%'");
    raw_query(sql, all, room);
    YES(strlen(all) + 1 < room);
    return all;
}

static void rename_column(const char *table, const char *column, const char *to)
{
    char sql[400]; /* otherwise SQLite would not leave a view without its column */
    snprintf(sql, sizeof(sql), "%s%s RENAME COLUMN \"%s\" TO \"%s\"",
             on(ON_SERVER) ? "ALTER TABLE @" : "PRAGMA legacy_alter_table=ON; ALTER TABLE ", table, column, to);
    raw_exec(sql);
}

/* A server takes its time to make all tables anew, and SQLite cannot rename each column back. */
static void bring_column_back(const char *table, const char *column, const char *from)
{
    if (on(ON_SERVER)) {
        rename_column(table, from, column);
    } else {
        OK(pgqrs_uninstall(T.store));
        OK(pgqrs_install(T.store));
    }
}

static void verify_misses_every_column(void)
{
    char *all = every_column(), *rest = all, *name;
    int n = 0;
    while ((name = strtok(rest, " ")) != NULL) {
        char table[100];
        const char *column = strchr(name, '.') + 1;
        pgqrs_result result;
        rest = NULL;
        snprintf(table, sizeof(table), "%.*s", (int)(column - name - 1), name);
        rename_column(table, column, "elsewhere");
        reopen_with(NULL);
        result = pgqrs_verify(T.store);
        if (result != PGQRS_ERR_SCHEMA_DAMAGED && result != PGQRS_ERR_SCHEMA_MISSING)
            fail_at(__FILE__, __LINE__, "column %s is missing, and verify gave %s", name, pgqrs_result_name(result));
        check_error(pgqrs_last_error(T.store), result, "pgqrs_verify", __FILE__, __LINE__);
        bring_column_back(table, column, "elsewhere");
        n++;
    }
    free(all);
    OK(pgqrs_verify(T.store));
    YES(n >= 50);
}

/* Each statement makes rows contradict each other; verify has to see it, whichever it is. */
static void verify_notices_rows_that_contradict(void)
{
    static const char *const on_sqlite[] = {
        "UPDATE pgqrs_messages SET lease = 5 WHERE state = 1",
        "UPDATE pgqrs_messages SET lease = 0 WHERE state = 3",
        "UPDATE pgqrs_messages SET due_at = 0 WHERE state = 2",
        "UPDATE pgqrs_messages SET finished_at = 0 WHERE state = 5",
        "PRAGMA foreign_keys=OFF; UPDATE pgqrs_messages SET queue_id = 4711 WHERE state = 4",
        "PRAGMA foreign_keys=OFF; UPDATE pgqrs_workers SET queue_id = 4711",
    };
    static const char *const on_server[] = {
        "DELETE FROM @pgqrs_messages",
        "DELETE FROM @pgqrs_ready",
        "DELETE FROM @pgqrs_dead",
        "DELETE FROM @pgqrs_dedup",
        "INSERT INTO @pgqrs_ready(queue_id, prio, lo, n) SELECT queue_id, 0, id, 1 FROM @pgqrs_dead",
        "UPDATE @pgqrs_leases SET total = total + 1",
        "UPDATE @pgqrs_done SET total = total + 1",
        "UPDATE @pgqrs_workers SET queue_id = 4711",
        "INSERT INTO @pgqrs_dedup SELECT queue_id, 'nobody', 4711 FROM @pgqrs_dead",
        "INSERT INTO @pgqrs_failures SELECT 4711, queue_id, 1, now(), 'r' FROM @pgqrs_dead",
    };
    size_t i, count = on(ON_SERVER) ? COUNT_OF(on_server) : COUNT_OF(on_sqlite);
    for (i = 0; i < count; i++) {
        const char *sql = on(ON_SERVER) ? on_server[i] : on_sqlite[i];
        pgqrs_queue_desc queue = test_queue_desc();
        int64_t ids[5];
        purge_fills(ids);
        put_as((pgqrs_enqueue_desc){.dedup_key = "key"});
        enlist("w", T.queue);
        OK(pgqrs_verify(T.store));
        raw_exec(sql);
        if (pgqrs_verify(T.store) != PGQRS_ERR_SCHEMA_DAMAGED)
            fail_at(__FILE__, __LINE__, "verify did not see: %s", sql);
        FAILS(ERR_SCHEMA_DAMAGED, pgqrs_verify(T.store));
        OK(pgqrs_uninstall(T.store));
        OK(pgqrs_install(T.store));
        OK(pgqrs_queue_create(T.store, T.queue, &queue));
    }
}

/* For people with a database shell. What depends on the time goes by the real one, so only the finished are compared. */
static void view_shows_a_row_per_message(void)
{
    int64_t ids[5];
    char text[256];
    const pgqrs_messages *got;
    purge_fills(ids);
    put_batch(T.queue, 60, 0, NULL);
    got = take_many(61);
    OK(pgqrs_archive_many(T.store, got->items, 40, NULL));
    EQ(numbers().total, raw_int("SELECT count(*) FROM @pgqrs_message_view"));
    EQ(numbers().total, raw_int("SELECT count(DISTINCT id) FROM @pgqrs_message_view"));
    EQ(41, raw_int("SELECT count(*) FROM @pgqrs_message_view WHERE state = 'archived'"));
    EQ(1, raw_int("SELECT count(*) FROM @pgqrs_message_view WHERE state = 'dead'"));
    EQ(ids[1], raw_int("SELECT id FROM @pgqrs_message_view WHERE state = 'dead'"));
    raw_query("SELECT payload FROM @pgqrs_message_view WHERE state = 'dead'", text, sizeof(text));
    SAME(SECRET_PAYLOAD, text);
    raw_query("SELECT queue FROM @pgqrs_message_view WHERE state = 'dead'", text, sizeof(text));
    SAME(T.queue, text);
}

/* Concurrent installation: four processes, one database, no error. */
static int install_in_child(void *user)
{
    pgqrs_store_desc desc = real_time_desc();
    pgqrs_store *store = child_store(&desc);
    pgqrs_queue_desc queue = test_queue_desc();
    pgqrs_result result = pgqrs_install(store);
    (void)user;
    if (result == PGQRS_OK)
        result = pgqrs_queue_create(store, T.queue, &queue);
    if (result == PGQRS_OK)
        result = pgqrs_enqueue(store, T.queue, "1", NULL, NULL);
    if (result != PGQRS_OK)
        fprintf(stderr, "# child: %s\n", pgqrs_last_error(store)->message);
    pgqrs_close(store);
    return result == PGQRS_OK ? 0 : 1;
}

static void install_by_four_processes_at_once(void)
{
    pid_t children[4];
    size_t i;
    if (on(ON_SQLITE_FILE))
        unlink(T.file);
    for (i = 0; i < COUNT_OF(children); i++)
        children[i] = start_child(install_in_child, NULL);
    for (i = 0; i < COUNT_OF(children); i++)
        child_ended_well(children[i]);
    T.store = open_store(NULL);
    OK(pgqrs_verify(T.store));
    NUMBERS(4, 0, 0, 0, 0);
}

/* --- connections of the caller --- */

static struct {
    PGconn *connection;
    sqlite3 *database;
} mine;

static pgqrs_store *borrow_store(void)
{
    pgqrs_error err;
    pgqrs_store_desc desc = test_desc();
    pgqrs_store *store;
    if (on(ON_SERVER)) {
        mine.connection = open_connection(run.dsn);
        store = pgqrs_open_pgconn(mine.connection, &desc, &err);
    } else {
        mine.database = on(ON_SQLITE_MEMORY) ? T.databases[0] : open_database(T.file);
        store = pgqrs_open_sqlite3(mine.database, &desc, &err);
    }
    if (!store)
        fail_at(__FILE__, __LINE__, "cannot open on a connection: %s", err.message);
    return remember_store(store);
}

static void my_exec(const char *sql)
{
    char text[1024];
    qualify(text, sizeof(text), sql);
    if (on(ON_SERVER)) {
        PGresult *result = PQexec(mine.connection, text);
        ExecStatusType status = PQresultStatus(result);
        PQclear(result);
        if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK)
            fail_at(__FILE__, __LINE__, "%s: %s", text, PQerrorMessage(mine.connection));
    } else {
        char *problem = NULL;
        if (sqlite3_exec(mine.database, text, NULL, NULL, &problem) != SQLITE_OK)
            fail_at(__FILE__, __LINE__, "%s: %s", text, problem);
    }
}

static bool in_transaction(void)
{
    return on(ON_SERVER) ? PQtransactionStatus(mine.connection) == PQTRANS_INTRANS
                         : sqlite3_get_autocommit(mine.database) == 0;
}

static void borrowed_connection_does_everything(void)
{
    pgqrs_store *store = borrow_store();
    pgqrs_message *message = NULL;
    pgqrs_receipt receipt;
    OK_ON(store, pgqrs_enqueue(store, T.queue, "1", NULL, &receipt));
    OK_ON(store, pgqrs_dequeue(store, T.queue, NULL, &message));
    keep(message);
    assert_non_null(message);
    EQ(receipt.id, message->id);
    OK_ON(store, pgqrs_archive(store, message));
    STATE("archived", receipt.id);
    NO(in_transaction());
    OK_ON(store, pgqrs_verify(store));
    NO(in_transaction());
}

static void borrowed_connection_stays_open(void)
{
    pgqrs_store *store = borrow_store();
    OK_ON(store, pgqrs_enqueue(store, T.queue, "1", NULL, NULL));
    close_store(store);
    my_exec("SELECT 1");
    my_exec("BEGIN");
    YES(in_transaction());
    my_exec("ROLLBACK");
    NUMBERS(1, 0, 0, 0, 0);
}

static pgqrs_result handle_nothing(const pgqrs_message *message, void *user)
{
    (void)message;
    (void)user;
    return PGQRS_ERR_INTERNAL;
}

/* What the program itself listens for on its connection is none of a waiting consumer's business. */
static void borrowed_connection_keeps_its_notifications(void)
{
    pgqrs_store *store = borrow_store();
    pgqrs_message *message = NULL;
    size_t handled = 0;
    my_exec("LISTEN mine");
    my_exec("NOTIFY mine, 'first'");
    OK_ON(store, pgqrs_dequeue(store, T.queue, &(pgqrs_dequeue_desc){.wait_ms = 600}, &message));
    YES(message == NULL);
    my_exec("NOTIFY mine, 'second'");
    pgqrs_worker *worker = pgqrs_worker_open(store, T.queue, handle_nothing, NULL, NULL, NULL);
    assert_non_null(worker);
    OK_ON(store, pgqrs_worker_poll(worker, 600, &handled));
    OK_ON(store, pgqrs_worker_close(worker));
    for (int i = 0; i < 2; i++) {
        PGnotify *notice = PQnotifies(mine.connection);
        assert_non_null(notice);
        SAME(i ? "second" : "first", notice->extra);
        PQfreemem(notice);
    }
}

static void transactional_enqueue_commits_with_the_caller(void)
{
    pgqrs_store *store = borrow_store();
    pgqrs_receipt receipt;
    my_exec("CREATE TABLE @orders(id INTEGER)");
    my_exec("BEGIN");
    my_exec("INSERT INTO @orders VALUES (42)");
    OK_ON(store, pgqrs_enqueue(store, T.queue, "1", NULL, &receipt));
    YES(in_transaction());
    if (!on(ON_SQLITE_MEMORY))
        YES(look(receipt.id) == NULL);
    my_exec("COMMIT");
    STATE("ready", receipt.id);
    EQ(42, raw_int("SELECT id FROM @orders"));
    EQ(receipt.id, must_take()->id);
}

static void transactional_enqueue_rolls_back_with_the_caller(void)
{
    pgqrs_store *store = borrow_store();
    pgqrs_receipt receipt;
    my_exec("BEGIN");
    OK_ON(store, pgqrs_enqueue(store, T.queue, "1", NULL, &receipt));
    OK_ON(store, pgqrs_enqueue(store, T.queue, "2", &(pgqrs_enqueue_desc){.dedup_key = "k", .delay_ms = 5}, NULL));
    my_exec("ROLLBACK");
    NUMBERS(0, 0, 0, 0, 0);
    YES(take() == NULL);
    NO(put_into(T.queue, "1", (pgqrs_enqueue_desc){.dedup_key = "k"}).duplicate);
    EQ(1, take_many(10)->count);
}

static void transactional_settle_follows_the_caller(void)
{
    pgqrs_store *store = borrow_store();
    const pgqrs_message *message;
    int64_t id = put();
    message = must_take();
    my_exec("BEGIN");
    OK_ON(store, pgqrs_archive(store, message));
    my_exec("ROLLBACK");
    STATE("leased", id);
    my_exec("BEGIN");
    OK_ON(store, pgqrs_archive(store, message));
    my_exec("COMMIT");
    STATE("archived", id);
}

static void transactional_claim_rolls_back(void)
{
    pgqrs_store *store = borrow_store();
    pgqrs_message *message = NULL;
    int64_t id = put();
    my_exec("BEGIN");
    OK_ON(store, pgqrs_dequeue(store, T.queue, NULL, &message));
    keep(message);
    assert_non_null(message);
    EQ(id, message->id);
    my_exec("ROLLBACK");
    STATE("ready", id);
    EQ(0, must_look(id)->attempt);
    FAILS(ERR_LEASE_LOST, pgqrs_archive(T.store, message));
    EQ(1, must_take()->attempt);
}

static int64_t dequeue_id(pgqrs_store *store)
{
    pgqrs_message *message = NULL;
    OK_ON(store, pgqrs_dequeue(store, T.queue, NULL, &message));
    keep(message);
    return message ? message->id : 0;
}

/* Whatever was learned in the transaction about where the queue begins is over with it. */
static void transactional_claims_that_roll_back_keep_their_places(void)
{
    pgqrs_store *store = borrow_store();
    int64_t ids[8];
    int i;
    for (i = 0; i < 8; i++)
        ids[i] = put();
    my_exec("BEGIN");
    for (i = 0; i < 5; i++)
        EQ(ids[i], dequeue_id(store));
    my_exec("ROLLBACK");
    for (i = 0; i < 8; i++)
        EQ(ids[i], dequeue_id(store));
}

/* The claim needs two rounds, because the first row promises more than the next ones have, and the second round meets what somebody else
 * deleted: nothing of the first is left then. */
static void transactional_claim_that_fails_halfway_fails(void)
{
    pgqrs_store *store = borrow_store();
    pgqrs_dequeue_desc claim = {.limit = 21};
    pgqrs_messages *messages = NULL;
    int64_t ids[10], singles[4];
    size_t i;
    put_batch(T.queue, COUNT_OF(ids), 0, ids);
    for (i = 0; i < COUNT_OF(singles); i++)
        singles[i] = put();
    my_exec("BEGIN ISOLATION LEVEL REPEATABLE READ");
    my_exec("SELECT count(*) FROM pg_class");
    OK(pgqrs_message_delete(T.store, &singles[2], 1, true, NULL));
    FAILS_ON(store, ERR_CONFLICT, pgqrs_dequeue_many(store, T.queue, &claim, &messages));
    keep(messages);
    my_exec("ROLLBACK");
    NUMBERS(13, 0, 0, 0, 0);
}

static void failed_call_inside_a_transaction_leaves_it_usable(void)
{
    pgqrs_store *store = borrow_store();
    pgqrs_receipt receipt;
    pgqrs_enqueue_item items[2] = {{.payload = "1"}, {.payload = "{"}};
    my_exec("CREATE TABLE @orders(id INTEGER)");
    my_exec("BEGIN");
    my_exec("INSERT INTO @orders VALUES (1)");
    FAILS_ON(store, ERR_QUEUE_NOT_FOUND, pgqrs_enqueue(store, "nowhere", "1", NULL, NULL));
    FAILS_ON(store, ERR_JSON, pgqrs_enqueue_many(store, T.queue, items, 2, NULL));
    YES(in_transaction());
    OK_ON(store, pgqrs_enqueue(store, T.queue, "1", NULL, &receipt));
    my_exec("COMMIT");
    EQ(1, raw_int("SELECT count(*) FROM @orders"));
    NUMBERS(1, 0, 0, 0, 0);
}

static void queues_made_in_a_transaction_that_rolls_back_are_forgotten(void)
{
    pgqrs_store *store = borrow_store();
    bool exists = true;
    my_exec("BEGIN");
    OK_ON(store, pgqrs_queue_create(store, "fleeting", NULL));
    OK_ON(store, pgqrs_enqueue(store, "fleeting", "1", NULL, NULL));
    my_exec("ROLLBACK");
    FAILS_ON(store, ERR_QUEUE_NOT_FOUND, pgqrs_enqueue(store, "fleeting", "1", NULL, NULL));
    OK_ON(store, pgqrs_queue_exists(store, "fleeting", &exists));
    NO(exists);
    OK_ON(store, pgqrs_queue_create(store, "fleeting", NULL));
    OK_ON(store, pgqrs_enqueue(store, "fleeting", "1", NULL, NULL));
}

static void failed_transaction_of_the_caller_is_refused(void)
{
    pgqrs_store *store = borrow_store();
    PGresult *result;
    my_exec("BEGIN");
    result = PQexec(mine.connection, "SELECT nonsense");
    YES(PQresultStatus(result) == PGRES_FATAL_ERROR);
    PQclear(result);
    FAILS_ON(store, ERR_TRANSACTION, pgqrs_enqueue(store, T.queue, "1", NULL, NULL));
    my_exec("ROLLBACK");
    OK_ON(store, pgqrs_enqueue(store, T.queue, "1", NULL, NULL));
    NUMBERS(1, 0, 0, 0, 0);
}

static void borrowed_install_rolls_back_too(void)
{
    pgqrs_store *store = borrow_store();
    int32_t version = -1;
    my_exec("BEGIN");
    OK_ON(store, pgqrs_install(store));
    my_exec("ROLLBACK");
    OK_ON(store, pgqrs_schema_version(store, &version));
    EQ(0, version);
    FAILS_ON(store, ERR_SCHEMA_MISSING, pgqrs_queue_create(store, "q", NULL));
    OK_ON(store, pgqrs_install(store));
    OK_ON(store, pgqrs_queue_create(store, "q", NULL));
}

static void open_on_nothing_is_refused(void)
{
    pgqrs_error err;
    YES(pgqrs_open_pgconn(NULL, NULL, &err) == NULL);
    check_error(&err, PGQRS_ERR_INVALID_ARGUMENT, "pgqrs_open_pgconn", __FILE__, __LINE__);
    YES(pgqrs_open_sqlite3(NULL, NULL, &err) == NULL);
    check_error(&err, PGQRS_ERR_INVALID_ARGUMENT, "pgqrs_open_sqlite3", __FILE__, __LINE__);
    YES(pgqrs_open_sqlite3(NULL, NULL, NULL) == NULL);
}

static void memory_stores_are_apart(void)
{
    pgqrs_store *other = open_store(NULL);
    bool exists = true;
    OK_ON(other, pgqrs_install(other));
    OK_ON(other, pgqrs_queue_exists(other, T.queue, &exists));
    NO(exists);
}

static void users_own_busy_handler_and_settings_survive(void)
{
    pgqrs_store *store;
    char text[64];
    sqlite3_stmt *statement = NULL;
    mine.database = on(ON_SQLITE_MEMORY) ? T.databases[0] : open_database(T.file);
    sqlite3_exec(mine.database, "PRAGMA busy_timeout=1234; PRAGMA foreign_keys=OFF; PRAGMA cache_size=77", NULL, NULL, NULL);
    store = pgqrs_open_sqlite3(mine.database, NULL, NULL);
    assert_non_null(store);
    remember_store(store);
    OK_ON(store, pgqrs_enqueue(store, T.queue, "1", NULL, NULL));
    close_store(store);
    EQ(SQLITE_OK, sqlite3_prepare_v2(mine.database, "PRAGMA busy_timeout", -1, &statement, NULL));
    EQ(SQLITE_ROW, sqlite3_step(statement));
    EQ(1234, sqlite3_column_int(statement, 0));
    sqlite3_finalize(statement);
    EQ(SQLITE_OK, sqlite3_prepare_v2(mine.database, "PRAGMA foreign_keys", -1, &statement, NULL));
    EQ(SQLITE_ROW, sqlite3_step(statement));
    EQ(0, sqlite3_column_int(statement, 0));
    sqlite3_finalize(statement);
    EQ(SQLITE_OK, sqlite3_prepare_v2(mine.database, "PRAGMA cache_size", -1, &statement, NULL));
    EQ(SQLITE_ROW, sqlite3_step(statement));
    snprintf(text, sizeof(text), "%d", sqlite3_column_int(statement, 0));
    sqlite3_finalize(statement);
    SAME("77", text);
}

/* --- backends --- */

static uint32_t toy_capabilities(void *self)
{
    (void)self;
    return 0;
}

static char toy_dsn[64];
static pgqrs_result toy_open(pgqrs_store *store, const pgqrs_backend_open *request, void **self)
{
    snprintf(toy_dsn, sizeof(toy_dsn), "%s", request->dsn ? request->dsn : "");
    *self = store;
    if (strstr(toy_dsn, "broken"))
        return pgqrs_backend_fail(store, PGQRS_ERR_CONNECTION, 5, "08001", "the toy %s is broken", "box");
    return PGQRS_OK;
}

static void toy_close(void *self)
{
    (void)self;
}

static pgqrs_result toy_now(void *self, int64_t *now_us)
{
    (void)self;
    *now_us = 99;
    return PGQRS_OK;
}

static void foreign_backend_is_found_by_its_scheme(void)
{
    static const char *const schemes[] = {"toy", NULL};
    static pgqrs_backend toy;
    static pgqrs_backend other_version;
    pgqrs_error err;
    pgqrs_store_desc desc = test_desc();
    int64_t now = 0;
    toy = *pgqrs_sqlite_backend();
    toy.name = "toy";
    toy.header = "toy.h";
    toy.schemes = schemes;
    toy.capabilities = toy_capabilities;
    toy.open = toy_open;
    toy.close = toy_close;
    toy.now = toy_now;
    other_version = toy;
    other_version.version = PGQRS_BACKEND_VERSION + 1;
    RESULT(PGQRS_ERR_UNSUPPORTED, pgqrs_backend_register(&other_version));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_backend_register(NULL));
    RESULT(PGQRS_OK, pgqrs_backend_register(&toy));
    RESULT(PGQRS_OK, pgqrs_backend_register(&toy));
    T.store = remember_store(pgqrs_open("toy:box", &desc, &err));
    assert_non_null(T.store);
    SAME("toy:box", toy_dsn);
    SAME("toy", pgqrs_store_backend(T.store));
    YES(pgqrs_open("toy:broken", &desc, &err) == NULL);
    check_error(&err, PGQRS_ERR_CONNECTION, "pgqrs_open", __FILE__, __LINE__);
    SAME("the toy box is broken", err.message);
    EQ(5, err.native_code);
    SAME("08001", err.sqlstate);
    memset(&desc.clock, 0, sizeof(desc.clock));
    close_store(T.store);
    T.store = remember_store(pgqrs_open("toy:box", &desc, NULL));
    assert_non_null(T.store);
    RESULT(PGQRS_OK, pgqrs_store_now(T.store, &now));
}

static void built_in_backends_may_be_registered_again(void)
{
    RESULT(PGQRS_OK, pgqrs_backend_register(pgqrs_sqlite_backend()));
    RESULT(PGQRS_OK, pgqrs_backend_register(pgqrs_postgres_backend()));
    EQ(PGQRS_BACKEND_VERSION, pgqrs_sqlite_backend()->version);
    EQ(PGQRS_BACKEND_VERSION, pgqrs_postgres_backend()->version);
    SAME("pgqrs_sqlite.h", pgqrs_sqlite_backend()->header);
}

static void services_for_backends_work(void)
{
    int64_t before = pgqrs_backend_monotonic(), blocks = T.memory.blocks, sleeps = T.sleeps;
    char *memory = (char *)pgqrs_backend_alloc(T.store, 100);
    void *result;
    char *text;
    size_t i;
    assert_non_null(memory);
    for (i = 0; i < 100; i++)
        EQ(0, memory[i]);
    memory[99] = 'x';
    memory = (char *)pgqrs_backend_resize(T.store, memory, 100, 5000);
    assert_non_null(memory);
    EQ('x', memory[99]);
    pgqrs_backend_free(T.store, memory, 5000);
    pgqrs_backend_free(T.store, NULL, 0);
    EQ(blocks, T.memory.blocks);
    YES(pgqrs_backend_monotonic() >= before);
    EQ(T.now_us, pgqrs_backend_clock(T.store));
    YES(pgqrs_backend_random(T.store) != pgqrs_backend_random(T.store));
    pgqrs_backend_sleep(T.store, 10);
    EQ(sleeps + 1, T.sleeps);
    result = pgqrs_backend_result_new(T.store, 64, 1000);
    assert_non_null(result);
    for (i = 0; i < 300; i++) {
        memory = (char *)pgqrs_backend_result_alloc(result, 33);
        assert_non_null(memory);
        EQ(0, (uintptr_t)memory % sizeof(void *));
        EQ(0, memory[32]);
        memset(memory, 0x7E, 33);
    }
    text = pgqrs_backend_result_text(result, "abc\0def", 7);
    EQ(0, memcmp(text, "abc\0def", 8));
    SAME("whole", pgqrs_backend_result_text(result, "whole", -1));
    YES(pgqrs_backend_result_text(result, NULL, -1) == NULL);
    pgqrs_free(result);
    EQ(blocks, T.memory.blocks);
}

/* --- configuration --- */

static void config_takes_the_dsn_from_code_first(void)
{
    pgqrs_error err;
    pgqrs_config_desc desc;
    pgqrs_config *config;
    pgqrs_store *store;
    memset(&desc, 0, sizeof(desc));
    desc.dsn = T.dsn;
    desc.no_environment = true;
    desc.no_file = true;
    desc.allocator = test_desc().allocator;
    config = pgqrs_config_load(&desc, &err);
    if (!config)
        fail_at(__FILE__, __LINE__, "pgqrs_config_load: %s", err.message);
    keep(config);
    SAME(T.dsn, config->dsn);
    EQ(16, config->max_connections);
    if (on(ON_BUCKET))
        config->store.s3 = test_s3_desc();
    store = remember_store(pgqrs_open(config->dsn, &config->store, &err));
    assert_non_null(store);
}

static void config_reads_the_environment(void)
{
    pgqrs_error err;
    pgqrs_config_desc desc;
    pgqrs_config *config;
    memset(&desc, 0, sizeof(desc));
    desc.no_file = true;
    setenv("PGQRS_DSN", "sqlite://from-the-environment.db", 1);
    setenv("PGQRS_POLL_INTERVAL_MS", "77", 1);
    config = pgqrs_config_load(&desc, &err);
    keep(config);
    unsetenv("PGQRS_DSN");
    unsetenv("PGQRS_POLL_INTERVAL_MS");
    if (!config)
        fail_at(__FILE__, __LINE__, "pgqrs_config_load: %s", err.message);
    SAME("sqlite://from-the-environment.db", config->dsn);
    EQ(77, config->store.poll_ms);
}

static void config_names_the_variable_that_is_wrong(void)
{
    pgqrs_error err;
    pgqrs_config_desc desc;
    memset(&desc, 0, sizeof(desc));
    desc.no_file = true;
    desc.dsn = "sqlite://x.db";
    setenv("PGQRS_POLL_INTERVAL_MS", "soon", 1);
    keep(pgqrs_config_load(&desc, &err));
    unsetenv("PGQRS_POLL_INTERVAL_MS");
    EQ(0, T.result_count);
    check_error(&err, PGQRS_ERR_BAD_CONFIG, "pgqrs_config_load", __FILE__, __LINE__);
    YES(strstr(err.message, "PGQRS_POLL_INTERVAL_MS") != NULL);
}

static void config_without_a_dsn_is_an_error(void)
{
    pgqrs_error err;
    pgqrs_config_desc desc;
    memset(&desc, 0, sizeof(desc));
    desc.no_environment = true;
    desc.no_file = true;
    YES(pgqrs_config_load(&desc, &err) == NULL);
    check_error(&err, PGQRS_ERR_BAD_CONFIG, "pgqrs_config_load", __FILE__, __LINE__);
}

static const test_case store_cases[] = {
    CASE(results_have_names_texts_and_kinds, NO_STORE),
    CASE(version_is_the_headers, NO_STORE),
    CASE(open_refuses_what_is_no_dsn, NO_STORE),
    CASE(open_names_the_scheme_it_does_not_know, NO_STORE),
    CASE(open_never_shows_a_password, NO_STORE),
    CASE(open_refuses_a_server_that_is_not_there, NO_STORE),
    CASE_ON(open_never_shows_half_a_password, NO_STORE, ON_SERVER),
    CASE_ON(open_refuses_a_wrong_password, NO_STORE, ON_SERVER),
    CASE_ON(open_refuses_a_directory_that_is_not_there, NO_STORE, ON_SQLITE_FILE),
    CASE_ON(open_refuses_a_file_that_is_no_database, NO_STORE, ON_SQLITE_FILE),
    CASE_ON(open_makes_the_file, NO_STORE, ON_SQLITE_FILE),
    CASE_ON(open_leaves_a_missing_file_missing_when_told, NO_STORE, ON_SQLITE_FILE),
    CASE(schema_names_are_checked, NO_STORE),
    CASE_ON(schema_with_an_awkward_name_works, NO_STORE | FRESH, ON_SERVER),
    CASE_ON(schemas_of_one_database_are_apart, FRESH, ON_SERVER),
    CASE(open_refuses_settings_out_of_range, NO_STORE),
    CASE(settings_are_read_back_resolved, PLAIN),
    CASE(settings_are_copied, NO_STORE),
    CASE_ON(default_settings_work, NO_STORE, ON_LENT),
    CASE(backend_has_a_name, PLAIN),
    CASE(pooler_is_found_out, PLAIN),
    CASE_ON(turso_dsn_is_served_too, NO_STORE, ON_SQLITE_FILE),
    CASE_ON(rollback_journal_works_too, NO_STORE, ON_SQLITE_FILE),
    CASE(now_is_the_clocks, PLAIN),
    CASE(last_error_is_of_the_last_call, PLAIN),
    CASE(close_of_nothing_is_fine, PLAIN),
    CASE(other_store_calls_refuse_null, PLAIN),
    CASE(everything_is_allocated_by_the_hook, PLAIN),
    CASE(log_is_silent_by_default, FRESH),
    CASE(log_stderr_writes_a_line, NO_STORE),
    CASE(log_level_is_respected, PLAIN),
    CASE(random_comes_from_the_hook, PLAIN),
    CASE(json_comes_from_the_hook, PLAIN),
    CASE(install_may_be_repeated, FRESH),
    CASE(schema_version_tells_what_is_there, UNINSTALLED),
    CASE(calls_say_that_the_schema_is_missing, UNINSTALLED),
    CASE(uninstall_removes_everything, FRESH | TWO),
    CASE(uninstall_leaves_other_tables_alone, FRESH | TWO),
    CASE(newer_schema_is_refused, FRESH | TWO),
    CASE(older_schema_asks_for_install, FRESH | TWO),
    CASE(verify_is_content_with_every_state, FRESH),
    CASE(verify_misses_every_index, FRESH | TWO),
    CASE(verify_misses_every_table, FRESH | TWO),
    CASE(verify_misses_every_column, FRESH | TWO),
    CASE(verify_notices_rows_that_contradict, FRESH | TWO),
    CASE(view_shows_a_row_per_message, FRESH | TWO),
    CASE_ON(install_by_four_processes_at_once, NO_STORE | FRESH, ON_SHARED),
    CASE_ON(borrowed_connection_does_everything, TWO, ON_LENT),
    CASE_ON(borrowed_connection_stays_open, TWO, ON_LENT),
    CASE_ON(borrowed_connection_keeps_its_notifications, TWO, ON_POSTGRES),
    CASE_ON(transactional_enqueue_commits_with_the_caller, TWO | FRESH, ON_LENT),
    CASE_ON(transactional_enqueue_rolls_back_with_the_caller, TWO, ON_LENT),
    CASE_ON(transactional_settle_follows_the_caller, TWO, ON_LENT),
    CASE_ON(transactional_claim_rolls_back, TWO, ON_LENT),
    CASE_ON(transactional_claim_that_fails_halfway_fails, TWO, ON_SERVER),
    CASE_ON(transactional_claims_that_roll_back_keep_their_places, TWO, ON_LENT),
    CASE_ON(failed_call_inside_a_transaction_leaves_it_usable, TWO | FRESH, ON_LENT),
    CASE_ON(queues_made_in_a_transaction_that_rolls_back_are_forgotten, TWO | FRESH, ON_LENT),
    CASE_ON(failed_transaction_of_the_caller_is_refused, TWO, ON_SERVER),
    CASE(borrowed_install_rolls_back_too, TWO | UNINSTALLED),
    CASE(open_on_nothing_is_refused, NO_STORE),
    CASE_ON(memory_stores_are_apart, PLAIN, ON_SQLITE_MEMORY),
    CASE_ON(users_own_busy_handler_and_settings_survive, TWO, ON_SQLITE),
    CASE(foreign_backend_is_found_by_its_scheme, NO_STORE),
    CASE(built_in_backends_may_be_registered_again, NO_STORE),
    CASE(services_for_backends_work, PLAIN),
    CASE(config_takes_the_dsn_from_code_first, NO_STORE),
    CASE(config_reads_the_environment, NO_STORE),
    CASE(config_names_the_variable_that_is_wrong, NO_STORE),
    CASE(config_without_a_dsn_is_an_error, NO_STORE),
};
