/* Workflows from inside: steps, retries, sleeps, events, values, transactions, and being told to stop. */

/* --- done once --- */

static void run_of_three_steps_ends_in_success(void)
{
    const pgqrs_run_info *info;
    const pgqrs_steps *steps;
    size_t i;
    int64_t id;
    begin_runs();
    define();
    id = trigger();
    advance_ms(1500);
    serve(three_steps);
    RESULT(PGQRS_OK, W.status);
    EQ(1, W.executions);
    EQ(3, W.bodies);
    RUN("success", id);
    info = look_run(id);
    SAME("6", info->output);
    EQ(1, info->output_size);
    EQ(1, info->attempt);
    EQ(T.now_us, info->started_at_us);
    EQ(T.now_us, info->finished_at_us);
    YES(info->error_code == NULL && info->wait_name == NULL);
    STATE("archived", id);
    steps = steps_of(id);
    EQ(3, steps->count);
    for (i = 0; i < 3; i++) {
        static const char *const names[] = {"first", "second", "third"}, *const outputs[] = {"1", "2", "3"};
        EQ(i + 1, steps->items[i].number);
        EQ(PGQRS_STEP_BODY, steps->items[i].kind);
        EQ(PGQRS_STEP_DONE, steps->items[i].state);
        SAME(names[i], steps->items[i].name);
        SAME(outputs[i], steps->items[i].output);
        EQ(1, steps->items[i].output_size);
        EQ(0, steps->items[i].retries);
        EQ(T.now_us, steps->items[i].finished_at_us);
        YES(steps->items[i].key == NULL && steps->items[i].input == NULL && steps->items[i].error_code == NULL);
    }
    OK(pgqrs_verify(T.store));
}

static pgqrs_result look_at_run(pgqrs_run *r, void *user)
{
    const char **seen = (const char **)user;
    *seen = pgqrs_run_id(r) == W.id && strcmp(pgqrs_run_workflow(r), T.flow) == 0 &&
                    strcmp(pgqrs_run_input(r), SECRET_PAYLOAD) == 0 && pgqrs_run_attempt(r) == 1 &&
                    pgqrs_run_store(r) == T.store && pgqrs_run_status(r) == PGQRS_OK &&
                    pgqrs_run_error(r)->code == PGQRS_OK
                ? "as expected"
                : "different";
    return pgqrs_run_return(r, NULL);
}

static void function_sees_its_run(void)
{
    const char *seen = "nothing";
    pgqrs_work_desc desc = {.until_empty = true};
    begin_runs();
    define();
    W.id = trigger();
    OK(pgqrs_work_workflow(T.store, T.flow, look_at_run, (void *)&seen, &desc));
    SAME("as expected", seen);
    SAME("null", look_run(W.id)->output);
}

/* Fails as a whole between two steps, and hands out what the first one gave. */
static pgqrs_result fail_between(pgqrs_run *r, void *user)
{
    const char *output;
    (void)user;
    note_run(r);
    output = quick_step(r, "first", "{ \"a\" : [1, 2.50] }");
    note_text(output);
    if (W.executions <= W.fail_first) return pgqrs_run_fail(r, &(pgqrs_failure){.transient = true});
    output = quick_step(r, "second", "null");
    return pgqrs_run_return(r, output);
}

static void step_done_is_not_done_again(void)
{
    int64_t id;
    begin_runs();
    define();
    W.fail_first = 2;
    id = trigger();
    serve(fail_between);
    EQ(1, W.bodies);
    SAME("{ \"a\" : [1, 2.50] }", W.text);
    serve_after(1000, fail_between);
    SAME("{ \"a\" : [1, 2.50] }", W.text);
    serve_after(2000, fail_between);
    EQ(3, W.executions);
    EQ(2, W.bodies);
    SAME("{ \"a\" : [1, 2.50] }", W.text);
    RUN("success", id);
    SAME("null", look_run(id)->output);
    SAME("{ \"a\" : [1, 2.50] }", step_of(id, 1)->output);
}

static pgqrs_result keyed_steps(pgqrs_run *r, void *user)
{
    static const char *const keys[] = {"a", "b", "ab"};
    const char *output;
    char text[40];
    int64_t i;
    (void)user;
    note_run(r);
    for (i = 0; i < 3; i++)
        if (pgqrs_step_keyed(r, "send", keys[i], &output)) {
            W.bodies++;
            snprintf(text, sizeof(text), "\"%s\"", keys[i]);
            pgqrs_step_done(r, text);
        }
    for (i = -1; i < 40; i++) {
        if (pgqrs_step_indexed(r, "page", i, &output)) {
            W.bodies++;
            snprintf(text, sizeof(text), "%d", (int)(i * i));
            output = pgqrs_step_done(r, text);
        }
        if (output && strtoll(output, NULL, 10) != i * i) W.other++;
    }
    quick_step(r, "send", "\"none\"");
    if (W.executions <= W.fail_first) return pgqrs_run_fail(r, &(pgqrs_failure){.transient = true});
    return pgqrs_run_return(r, NULL);
}

static void steps_in_loops_have_keys(void)
{
    const pgqrs_steps *steps;
    int64_t id;
    begin_runs();
    define();
    W.fail_first = 1;
    id = trigger();
    serve(keyed_steps);
    EQ(45, W.bodies);
    serve_after(1000, keyed_steps);
    EQ(45, W.bodies);
    EQ(0, W.other);
    RUN("success", id);
    steps = steps_of(id);
    EQ(45, steps->count);
    SAME("send", steps->items[2].name);
    SAME("ab", steps->items[2].key);
    SAME("\"ab\"", steps->items[2].output);
    SAME("-1", steps->items[3].key);
    SAME("39", steps->items[43].key);
    YES(steps->items[44].key == NULL);
}

static pgqrs_result many_steps(pgqrs_run *r, void *user)
{
    const char *output;
    int i;
    (void)user;
    for (i = 0; i < 300; i++)
        if (pgqrs_step_indexed(r, "n", i, &output)) {
            W.bodies++;
            pgqrs_step_done(r, SECRET_PAYLOAD);
        }
    return pgqrs_run_return(r, NULL);
}

static void run_may_have_hundreds_of_steps(void)
{
    const pgqrs_steps *steps;
    int64_t id;
    int32_t i;
    begin_runs();
    define();
    id = trigger();
    serve(many_steps);
    RUN("success", id);
    EQ(300, W.bodies);
    steps = steps_of(id);
    EQ(300, steps->count);
    for (i = 0; i < 300; i++)
        EQ(i + 1, steps->items[i].number);
}

static pgqrs_result large_output(pgqrs_run *r, void *user)
{
    char *text = json_string_of(300000);
    const char *output = NULL;
    (void)user;
    if (pgqrs_step(r, "large", &output)) output = pgqrs_step_done(r, text);
    W.result = output && strcmp(output, text) == 0 ? PGQRS_OK : PGQRS_ERR_INTERNAL;
    free(text);
    quick_step(r, "next", "1");
    return pgqrs_run_return(r, output);
}

static void large_outputs_come_back_as_they_were(void)
{
    int64_t id;
    begin_runs();
    define();
    id = trigger();
    serve(large_output);
    RESULT(PGQRS_OK, W.result);
    RUN("success", id);
    EQ(300000, look_run(id)->output_size);
    EQ(300000, strlen(look_run(id)->output));
    EQ(300000, step_of(id, 1)->output_size);
}

static pgqrs_result strange_names(pgqrs_run *r, void *user)
{
    (void)user;
    quick_step(r, "Prüfung 100% \"x\" 'y' $1 \\", "\"\\u0000 \\ud83d\\ude00 ü\"");
    return pgqrs_run_return(r, "{\"ü\":\"\\\\\"}");
}

static void names_and_outputs_may_be_any_text(void)
{
    int64_t id;
    begin_runs();
    define();
    id = trigger_as("[\"\\u0000\", \"ü\"]", (pgqrs_trigger_desc){.idempotency_key = "Größe 'x'"});
    serve(strange_names);
    RUN("success", id);
    SAME("Prüfung 100% \"x\" 'y' $1 \\", step_of(id, 1)->name);
    SAME("\"\\u0000 \\ud83d\\ude00 ü\"", step_of(id, 1)->output);
    SAME("{\"ü\":\"\\\\\"}", look_run(id)->output);
    SAME("[\"\\u0000\", \"ü\"]", look_run(id)->input);
}

static pgqrs_result look_between_steps(pgqrs_run *r, void *user)
{
    (void)user;
    quick_step(r, "first", "1");
    if (pgqrs_step(r, "second", NULL)) {
        W.other = (int64_t)steps_on(W.admin, W.id)->count;
        W.seen = look_run_on(W.admin, W.id)->state;
        pgqrs_step_done(r, "2");
    }
    return pgqrs_run_return(r, NULL);
}

static void step_is_durable_before_the_next_body_begins(void)
{
    begin_runs();
    define();
    W.admin = another_store();
    W.id = trigger();
    serve(look_between_steps);
    EQ(1, W.other);
    EQ(PGQRS_RUN_RUNNING, W.seen);
    RUN("success", W.id);
}

static pgqrs_result flush_in_between(pgqrs_run *r, void *user)
{
    (void)user;
    quick_step(r, "first", "1");
    W.result = pgqrs_run_flush(r);
    W.other = (int64_t)steps_on(W.admin, W.id)->count;
    return pgqrs_run_return(r, NULL);
}

static void flush_makes_a_step_durable_at_once(void)
{
    begin_runs();
    define();
    W.admin = another_store();
    W.id = trigger();
    serve(flush_in_between);
    RESULT(PGQRS_OK, W.result);
    EQ(1, W.other);
}

static pgqrs_result use_own_store(pgqrs_run *r, void *user)
{
    pgqrs_store *store = pgqrs_run_store(r);
    (void)user;
    quick_step(r, "first", "1");
    W.result = pgqrs_enqueue(store, T.queue, "1", &(pgqrs_enqueue_desc){.delay_ms = 3600000}, NULL);
    if (pgqrs_step(r, "trigger", NULL)) {
        if (W.result == PGQRS_OK)
            W.result = pgqrs_workflow_trigger(store, T.flow, "2", &(pgqrs_trigger_desc){.delay_ms = 3600000}, &W.other);
        pgqrs_step_done(r, NULL);
    }
    return pgqrs_run_return(r, NULL);
}

static void function_may_use_the_store_that_runs_it(void)
{
    int64_t id;
    begin_runs();
    define();
    id = trigger();
    serve(use_own_store);
    RESULT(PGQRS_OK, W.result);
    RUN("success", id);
    RUN("queued", W.other);
    NUMBERS(0, 2, 0, 1, 0);
}

static pgqrs_result go_on_in_spite_of_a_failure(pgqrs_run *r, void *user)
{
    const char *output = "untouched";
    (void)user;
    note_run(r);
    quick_step(r, "first", "1");
    quick_step(r, "second", "2");
    if (W.executions > 1) return pgqrs_run_return(r, NULL);
    pgqrs_run_fail(r, &(pgqrs_failure){.transient = true});
    W.other = pgqrs_step(r, "third", &output) || output;
    output = "untouched";
    W.other |= pgqrs_run_sleep(r, "nap", 0);
    W.other |= pgqrs_run_wait_event(r, "paid", 0, &output) || output;
    W.result = pgqrs_run_error(r)->code;
    note_text(pgqrs_run_error(r)->message);
    return W.status = pgqrs_run_return(r, "1");
}

static void run_that_has_to_stop_skips_all_that_follows(void)
{
    int64_t id;
    begin_runs();
    define();
    id = trigger();
    serve(go_on_in_spite_of_a_failure);
    EQ(0, W.other);
    EQ(2, W.bodies);
    RESULT(PGQRS_ERR_RUN_WAITING, W.status);
    RESULT(PGQRS_ERR_RUN_WAITING, W.result);
    YES(W.text[0] != '\0');
    RUN("paused", id);
    EQ(2, steps_of(id)->count);
    serve_after(1000, go_on_in_spite_of_a_failure);
    RUN("success", id);
    EQ(2, W.bodies);
}

/* --- used in a way that cannot be right --- */

static pgqrs_result same_name_twice(pgqrs_run *r, void *user)
{
    (void)user;
    note_run(r);
    quick_step(r, "same", "1");
    quick_step(r, "same", "2");
    quick_step(r, "later", "3");
    return W.status = pgqrs_run_return(r, NULL);
}

static void same_name_twice_fails_the_run(void)
{
    int64_t id;
    begin_runs();
    define();
    id = trigger();
    serve(same_name_twice);
    RESULT(PGQRS_ERR_STEP_MISUSE, W.status);
    EQ(1, W.bodies);
    RUN_ERROR("MISUSE", NULL, id);
    YES(strstr(look_run(id)->error_message, "same") != NULL);
    /* For good: trying again would not help. */
    serve_after(3600000, same_name_twice);
    EQ(1, W.executions);
    STATE("archived", id);
}

static pgqrs_result same_key_twice(pgqrs_run *r, void *user)
{
    const char *output;
    int i;
    (void)user;
    for (i = 0; i < 2; i++)
        if (pgqrs_step_indexed(r, "page", 4, &output)) {
            W.bodies++;
            pgqrs_step_done(r, NULL);
        }
    return W.status = pgqrs_run_return(r, NULL);
}

static void same_key_twice_fails_the_run(void)
{
    int64_t id;
    begin_runs();
    define();
    id = trigger();
    serve(same_key_twice);
    RESULT(PGQRS_ERR_STEP_MISUSE, W.status);
    EQ(1, W.bodies);
    RUN_ERROR("MISUSE", NULL, id);
}

static pgqrs_result kinds_of_one_name(pgqrs_run *r, void *user)
{
    (void)user;
    note_run(r);
    quick_step(r, "name", "1");
    pgqrs_run_sleep(r, "name", 1000);
    pgqrs_run_wait_event(r, "name", 0, NULL);
    return pgqrs_run_return(r, NULL);
}

static void kinds_have_names_of_their_own(void)
{
    int64_t id;
    begin_runs();
    define();
    id = trigger();
    serve(kinds_of_one_name);
    serve_after(1000, kinds_of_one_name);
    RUN("success", id);
    EQ(3, steps_of(id)->count);
}

static void done_twice(pgqrs_run *r)
{
    pgqrs_step_done(r, "1");
    YES(pgqrs_step_done(r, "2") == NULL);
}

static void fail_after_done(pgqrs_run *r)
{
    pgqrs_step_done(r, "1");
    YES(pgqrs_step_fail(r, NULL) == NULL);
}

static void pause_after_done(pgqrs_run *r)
{
    pgqrs_step_done(r, "1");
    YES(pgqrs_step_pause(r, 5, NULL) == NULL);
}

static void step_in_a_step(pgqrs_run *r)
{
    NO(pgqrs_step(r, "inner", NULL));
    YES(pgqrs_step_done(r, "1") == NULL);
}

static void sleep_in_a_step(pgqrs_run *r)
{
    NO(pgqrs_run_sleep(r, "inner", 5));
}

static void return_in_a_step(pgqrs_run *r)
{
    pgqrs_run_return(r, "1");
}

static void nameless_step(pgqrs_run *r)
{
    pgqrs_step_done(r, "1");
    NO(pgqrs_step(r, "", NULL));
}

static void step_without_a_name(pgqrs_run *r)
{
    pgqrs_step_done(r, "1");
    NO(pgqrs_step(r, NULL, NULL));
}

static void step_with_a_long_name(pgqrs_run *r)
{
    char *name = text_of(256, 'n');
    pgqrs_step_done(r, "1");
    NO(pgqrs_step(r, name, NULL));
    free(name);
}

static void step_with_an_empty_key(pgqrs_run *r)
{
    pgqrs_step_done(r, "1");
    NO(pgqrs_step_keyed(r, "keyed", "", NULL));
}

static void step_with_a_bad_policy(pgqrs_run *r)
{
    pgqrs_step_done(r, "1");
    NO(pgqrs_step_with(r, "x", &(pgqrs_step_desc){.retry = {.max_retries = -5}}, NULL));
}

static void step_with_a_bad_timeout(pgqrs_run *r)
{
    pgqrs_step_done(r, "1");
    NO(pgqrs_step_with(r, "x", &(pgqrs_step_desc){.timeout_ms = -5}, NULL));
}

static void pause_for_a_negative_time(pgqrs_run *r)
{
    YES(pgqrs_step_pause(r, -1, NULL) == NULL);
}

static void negative_sleep(pgqrs_run *r)
{
    pgqrs_step_done(r, "1");
    NO(pgqrs_run_sleep(r, "x", -1));
}

static void negative_wait(pgqrs_run *r)
{
    pgqrs_step_done(r, "1");
    NO(pgqrs_run_wait_event(r, "x", -1, NULL));
}

static const struct {
    const char *what;
    void (*body)(pgqrs_run *r);
} misuses[] = {
    {"done twice", done_twice},
    {"fail after done", fail_after_done},
    {"pause after done", pause_after_done},
    {"step in a step", step_in_a_step},
    {"sleep in a step", sleep_in_a_step},
    {"return in a step", return_in_a_step},
    {"empty name", nameless_step},
    {"no name", step_without_a_name},
    {"long name", step_with_a_long_name},
    {"empty key", step_with_an_empty_key},
    {"bad policy", step_with_a_bad_policy},
    {"bad timeout", step_with_a_bad_timeout},
    {"negative pause", pause_for_a_negative_time},
    {"negative sleep", negative_sleep},
    {"negative wait", negative_wait},
};

static void misuse_fails_the_run_and_is_named(void)
{
    size_t i;
    begin_runs();
    define();
    for (i = 0; i < COUNT_OF(misuses); i++) {
        const pgqrs_run_info *info;
        int64_t id = trigger();
        W.body = misuses[i].body;
        W.status = PGQRS_OK;
        serve(around_work);
        info = look_run(id);
        if (info->state != PGQRS_RUN_ERROR || W.status != PGQRS_ERR_STEP_MISUSE ||
            strcmp(info->error_code ? info->error_code : "", "MISUSE") != 0)
            fail_at(__FILE__, __LINE__, "%s: the run is %s, code %s, and the function got %s", misuses[i].what,
                    pgqrs_run_state_name(info->state), info->error_code ? info->error_code : "-",
                    pgqrs_result_name(W.status));
        YES(info->error_message && info->error_message[0]);
    }
    OK(pgqrs_verify(T.store));
}

static pgqrs_result done_without_a_step(pgqrs_run *r, void *user)
{
    (void)user;
    YES(pgqrs_step_done(r, "1") == NULL);
    return W.status = pgqrs_run_return(r, NULL);
}

static void done_without_a_step_fails_the_run(void)
{
    int64_t id;
    begin_runs();
    define();
    id = trigger();
    serve(done_without_a_step);
    RESULT(PGQRS_ERR_STEP_MISUSE, W.status);
    RUN_ERROR("MISUSE", NULL, id);
}

static pgqrs_result step_after_return(pgqrs_run *r, void *user)
{
    (void)user;
    note_run(r);
    quick_step(r, "first", "1");
    W.result = pgqrs_run_return(r, "\"first answer\"");
    quick_step(r, "second", "2");
    return W.status = pgqrs_run_return(r, "\"second answer\"");
}

static void step_after_the_return_is_not_entered(void)
{
    int64_t id;
    begin_runs();
    define();
    id = trigger();
    serve(step_after_return);
    RESULT(PGQRS_OK, W.result);
    EQ(1, W.bodies);
    RESULT(PGQRS_ERR_STEP_MISUSE, W.status);
    /* It was told that it is done, and so it is. */
    RUN("success", id);
    SAME("\"first answer\"", look_run(id)->output);
    EQ(1, steps_of(id)->count);
}

static pgqrs_result changed_input(pgqrs_run *r, void *user)
{
    (void)user;
    note_run(r);
    if (pgqrs_step_with(r, "charge", &(pgqrs_step_desc){.input = W.text}, NULL)) {
        W.bodies++;
        pgqrs_step_done(r, "1");
    }
    if (W.executions <= W.fail_first) return pgqrs_run_fail(r, &(pgqrs_failure){.transient = true});
    return W.status = pgqrs_run_return(r, NULL);
}

static void input_of_a_step_is_kept_and_compared(void)
{
    int64_t id;
    begin_runs();
    define();
    W.fail_first = 2;
    note_text("{\"amount\":5}");
    id = trigger();
    serve(changed_input);
    SAME("{\"amount\":5}", step_of(id, 1)->input);
    serve_after(1000, changed_input);
    RUN("paused", id);
    note_text("{\"amount\":6}");
    serve_after(2000, changed_input);
    EQ(3, W.executions);
    EQ(1, W.bodies);
    RESULT(PGQRS_ERR_RUN_FAILED, W.status);
    RUN_ERROR("INPUT_CHANGED", "charge", id);
    SAME("{\"amount\":5}", step_of(id, 1)->input);
    EQ(PGQRS_STEP_DONE, step_of(id, 1)->state);
}

static void output_is_no_json(pgqrs_run *r)
{
    YES(pgqrs_step_done(r, "{" SECRET) == NULL);
}

static void output_is_too_large(pgqrs_run *r)
{
    char *text = json_string_of(1048577);
    YES(pgqrs_step_done(r, text) == NULL);
    free(text);
}

static void output_is_too_deep(pgqrs_run *r)
{
    char *text = text_of(200, '[');
    memset(text + 100, ']', 100);
    YES(pgqrs_step_done(r, text) == NULL);
    free(text);
}

static void bad_output_fails_the_run(void)
{
    static void (*const bodies[])(pgqrs_run *) = {output_is_no_json, output_is_too_large, output_is_too_deep};
    size_t i;
    begin_runs();
    define();
    for (i = 0; i < COUNT_OF(bodies); i++) {
        int64_t id = trigger();
        W.body = bodies[i];
        serve(around_work);
        RESULT(PGQRS_ERR_RUN_FAILED, W.status);
        RUN_ERROR("BAD_JSON", "work", id);
        NO(strstr(look_run(id)->error_message, SECRET) != NULL);
        STATE("archived", id);
    }
}

static pgqrs_result return_no_json(pgqrs_run *r, void *user)
{
    (void)user;
    note_run(r);
    quick_step(r, "first", "1");
    return W.status = pgqrs_run_return(r, "{");
}

static void return_that_is_no_json_fails_the_run(void)
{
    int64_t id;
    begin_runs();
    define();
    id = trigger();
    serve(return_no_json);
    RESULT(PGQRS_ERR_RUN_FAILED, W.status);
    RUN_ERROR("BAD_JSON", NULL, id);
    EQ(1, W.executions);
    EQ(1, steps_of(id)->count);
}

static void function_that_does_not_finish_fails_the_run(void)
{
    int64_t id;
    begin_runs();
    define();
    id = trigger();
    serve(return_nothing);
    RUN_ERROR("UNFINISHED", NULL, id);
    EQ(1, W.executions);
    EQ(PGQRS_STEP_DONE, step_of(id, 1)->state);
    STATE("archived", id);
}

static pgqrs_result leave_in_a_step(pgqrs_run *r, void *user)
{
    (void)user;
    note_run(r);
    if (pgqrs_step(r, "open", NULL)) return PGQRS_OK;
    return pgqrs_run_return(r, NULL);
}

static void function_that_leaves_inside_of_a_step_fails_the_run(void)
{
    int64_t id;
    begin_runs();
    define();
    id = trigger();
    serve(leave_in_a_step);
    EQ(1, W.executions);
    RUN("error", id);
    SAME("UNFINISHED", look_run(id)->error_code);
}

static pgqrs_result error_of_its_own(pgqrs_run *r, void *user)
{
    (void)user;
    note_run(r);
    quick_step(r, "first", "1");
    return W.executions <= W.fail_first ? PGQRS_ERR_HANDLER : pgqrs_run_return(r, NULL);
}

static void error_of_the_function_is_a_transient_failure(void)
{
    int64_t id;
    begin_runs();
    define();
    W.fail_first = 2;
    id = trigger();
    serve(error_of_its_own);
    RUN("paused", id);
    EQ(PGQRS_WAIT_RETRY, look_run(id)->wait);
    EQ(T.now_us + SECOND_US, look_run(id)->wait_until_us);
    EQ(1, look_run(id)->retries);
    serve_after(1000, error_of_its_own);
    EQ(T.now_us + 2 * SECOND_US, look_run(id)->wait_until_us);
    serve_after(2000, error_of_its_own);
    EQ(3, W.executions);
    EQ(1, W.bodies);
    RUN("success", id);
}

static void error_of_the_function_ends_the_run_when_retries_are_used_up(void)
{
    int64_t id;
    begin_runs();
    define();
    W.fail_first = 100;
    id = trigger();
    serve(error_of_its_own);
    serve_after(1000, error_of_its_own);
    serve_after(2000, error_of_its_own);
    serve_after(3600000, error_of_its_own);
    EQ(3, W.executions);
    RUN("error", id);
    SAME("PGQRS_ERR_HANDLER", look_run(id)->error_code);
    EQ(2, look_run(id)->retries);
    STATE("archived", id);
}

static void input_that_cannot_be_read_fails_the_run_and_nothing_else(void)
{
    int64_t bad, good;
    begin_runs();
    define();
    bad = trigger();
    good = trigger();
    {
        char sql[160];
        snprintf(sql, sizeof(sql), "UPDATE @pgqrs_messages SET payload = '{broken' WHERE id = %" PRId64, bad);
        raw_exec(sql);
    }
    serve(three_steps);
    RUN_ERROR("BAD_INPUT", NULL, bad);
    RUN("success", good);
    EQ(1, W.executions);
    STATE("archived", bad);
}

/* --- retries --- */

static void transient_failure_is_tried_again_at_the_policys_time(void)
{
    const pgqrs_step_info *step;
    int64_t id;
    begin_runs();
    define();
    W.body = fail_with_failure;
    W.failure = (pgqrs_failure){.code = "DOWN", .message = "mail server is down", .transient = true};
    id = trigger();
    serve(around_work);
    RESULT(PGQRS_ERR_RUN_WAITING, W.status);
    RUN("paused", id);
    EQ(PGQRS_WAIT_RETRY, look_run(id)->wait);
    SAME("work", look_run(id)->wait_name);
    EQ(T.now_us + SECOND_US, look_run(id)->wait_until_us);
    EQ(T.now_us + SECOND_US, must_look(id)->due_at_us);
    STATE("delayed", id);
    step = step_of(id, 2);
    EQ(PGQRS_STEP_RETRYING, step->state);
    EQ(1, step->retries);
    SAME("DOWN", step->error_code);
    SAME("mail server is down", step->error_message);
    EQ(T.now_us + SECOND_US, step->due_at_us);
    serve_after(999, around_work);
    EQ(1, W.executions);
    serve_after(1, around_work);
    EQ(2, W.executions);
    EQ(T.now_us + 2 * SECOND_US, look_run(id)->wait_until_us);
    EQ(2, step_of(id, 2)->retries);
    W.body = give_good_data;
    serve_after(2000, around_work);
    RUN("success", id);
    EQ(5, W.bodies);
    EQ(1, look_run(id)->attempt);
    YES(step_of(id, 2)->error_code == NULL);
    EQ(PGQRS_STEP_DONE, step_of(id, 2)->state);
}

static void retries_cost_no_attempts(void)
{
    pgqrs_workflow_desc desc = test_workflow_desc();
    int64_t id;
    int i;
    begin_runs();
    desc.retry.max_retries = 20;
    desc.retry.backoff = PGQRS_BACKOFF_FIXED;
    define_as(desc);
    W.body = fail_with_failure;
    W.failure.transient = true;
    id = trigger();
    for (i = 0; i < 20; i++) {
        serve_after(1000, around_work);
        EQ(i + 1, W.executions);
        EQ(1, W.attempts[i]);
        EQ(T.now_us + SECOND_US, look_run(id)->wait_until_us);
    }
    W.body = give_good_data;
    serve_after(1000, around_work);
    RUN("success", id);
}

static void failure_that_lasts_ends_the_run(void)
{
    const pgqrs_run_info *info;
    int64_t id;
    begin_runs();
    define();
    W.body = fail_with_failure;
    W.failure = (pgqrs_failure){.code = "DOWN", .message = "mail server is down", .transient = true};
    id = trigger();
    serve(around_work);
    serve_after(1000, around_work);
    serve_after(2000, around_work);
    EQ(3, W.executions);
    RESULT(PGQRS_ERR_RUN_FAILED, W.status);
    RUN_ERROR("DOWN", "work", id);
    info = look_run(id);
    SAME("mail server is down", info->error_message);
    EQ(T.now_us, info->finished_at_us);
    EQ(PGQRS_WAIT_NONE, info->wait);
    EQ(PGQRS_STEP_FAILED, step_of(id, 2)->state);
    EQ(2, step_of(id, 2)->retries);
    EQ(T.now_us, step_of(id, 2)->finished_at_us);
    STATE("archived", id);
    serve_after(3600000, around_work);
    EQ(3, W.executions);
}

static void permanent_failure_ends_the_run_at_once(void)
{
    int64_t id;
    begin_runs();
    define();
    W.body = fail_with_failure;
    W.failure = (pgqrs_failure){.code = "CARD_DECLINED", .message = "no money"};
    id = trigger();
    serve(around_work);
    EQ(2, W.bodies);
    RUN_ERROR("CARD_DECLINED", "work", id);
    SAME("no money", look_run(id)->error_message);
    EQ(2, steps_of(id)->count);
}

static void fail_without_words(pgqrs_run *r)
{
    YES(pgqrs_step_fail(r, NULL) == NULL);
}

static void failure_without_words_is_permanent_and_named(void)
{
    int64_t id;
    begin_runs();
    define();
    W.body = fail_without_words;
    id = trigger();
    serve(around_work);
    RUN_ERROR("FAILED", "work", id);
    YES(look_run(id)->error_message == NULL);
}

static void long_failure_texts_are_cut(void)
{
    char *code = text_of(100, 'C'), *message = text_of(2000, 'm');
    int64_t id;
    begin_runs();
    define();
    W.body = fail_with_failure;
    W.failure = (pgqrs_failure){.code = code, .message = message};
    id = trigger();
    serve(around_work);
    free(code);
    free(message);
    RUN("error", id);
    EQ(64, strlen(look_run(id)->error_code));
    EQ(500, strlen(look_run(id)->error_message));
}

static void retry_after_wins_over_the_policy(void)
{
    int64_t id;
    begin_runs();
    define();
    W.body = fail_with_failure;
    W.failure = (pgqrs_failure){.transient = true, .retry_after_ms = 90000};
    id = trigger();
    serve(around_work);
    EQ(T.now_us + 90 * SECOND_US, look_run(id)->wait_until_us);
    EQ(1, step_of(id, 2)->retries);
    serve_after(89999, around_work);
    EQ(1, W.executions);
    W.body = give_good_data;
    serve_after(1, around_work);
    RUN("success", id);
}

static void retry_at_once_is_at_once_and_counts(void)
{
    int64_t id;
    begin_runs();
    define();
    W.body = fail_with_failure;
    W.failure = (pgqrs_failure){.transient = true, .retry_after_ms = -1};
    id = trigger();
    serve(around_work);
    EQ(3, W.executions);
    RUN_ERROR("FAILED", "work", id);
    EQ(2, step_of(id, 2)->retries);
}

static void step_has_a_policy_of_its_own(void)
{
    int64_t id;
    begin_runs();
    define();
    W.body = fail_with_failure;
    W.failure.transient = true;
    W.step.retry = (pgqrs_retry_policy){.max_retries = 1, .backoff = PGQRS_BACKOFF_FIXED, .base_ms = 5000};
    id = trigger();
    serve(around_work);
    EQ(T.now_us + 5 * SECOND_US, look_run(id)->wait_until_us);
    serve_after(5000, around_work);
    EQ(2, W.executions);
    RUN_ERROR("FAILED", "work", id);
    W.step.retry = (pgqrs_retry_policy){.max_retries = -1};
    id = trigger();
    serve(around_work);
    EQ(3, W.executions);
    RUN_ERROR("FAILED", "work", id);
}

static void every_step_counts_its_own_retries(void)
{
    int64_t id;
    size_t i;
    begin_runs();
    define();
    W.body = fail_with_failure;
    W.failure = (pgqrs_failure){.transient = true};
    id = trigger();
    serve(around_work);
    serve_after(1000, around_work);
    W.body = give_good_data;
    serve_after(2000, around_work);
    RUN("success", id);
    for (i = 0; i < 3; i++)
        EQ(i == 1 ? 2 : 0, step_of(id, (int32_t)i + 1)->retries);
    EQ(0, look_run(id)->retries);
}

static pgqrs_result fail_the_run(pgqrs_run *r, void *user)
{
    (void)user;
    note_run(r);
    quick_step(r, "first", "1");
    if (W.executions <= W.fail_first) return W.status = pgqrs_run_fail(r, &W.failure);
    return W.status = pgqrs_run_return(r, NULL);
}

static void run_fails_for_good_outside_of_a_step(void)
{
    int64_t id;
    begin_runs();
    define();
    W.fail_first = 1;
    W.failure = (pgqrs_failure){.code = "NO_STOCK", .message = "sold out"};
    id = trigger();
    serve(fail_the_run);
    RESULT(PGQRS_ERR_RUN_FAILED, W.status);
    RUN_ERROR("NO_STOCK", NULL, id);
    SAME("sold out", look_run(id)->error_message);
    EQ(PGQRS_STEP_DONE, step_of(id, 1)->state);
    EQ(0, look_run(id)->retries);
}

static void run_fails_transiently_and_waits_by_the_workflows_policy(void)
{
    int64_t id;
    begin_runs();
    define();
    W.fail_first = 2;
    W.failure = (pgqrs_failure){.transient = true};
    id = trigger();
    serve(fail_the_run);
    RESULT(PGQRS_ERR_RUN_WAITING, W.status);
    EQ(T.now_us + SECOND_US, look_run(id)->wait_until_us);
    W.failure.retry_after_ms = 40000;
    serve_after(1000, fail_the_run);
    EQ(T.now_us + 40 * SECOND_US, look_run(id)->wait_until_us);
    EQ(2, look_run(id)->retries);
    serve_after(40000, fail_the_run);
    RUN("success", id);
    EQ(1, W.bodies);
}

static void jitter_stays_within_its_percentage(void)
{
    pgqrs_workflow_desc desc = test_workflow_desc();
    int64_t id, low = INT64_MAX, high = 0, delay;
    int i;
    begin_runs();
    desc.retry.jitter_percent = 50;
    desc.retry.base_ms = 8000;
    define_as(desc);
    W.body = fail_with_failure;
    W.failure.transient = true;
    for (i = 0; i < 10; i++) {
        id = trigger();
        serve(around_work);
        delay = look_run(id)->wait_until_us - T.now_us;
        BETWEEN(4 * SECOND_US, 12 * SECOND_US, delay);
        low = delay < low ? delay : low;
        high = delay > high ? delay : high;
    }
    YES(low < 8 * SECOND_US && high > 8 * SECOND_US);
}

static void pause_the_step(pgqrs_run *r)
{
    YES(pgqrs_step_pause(r, 60000, "the file is not there yet") == NULL);
}

static void paused_step_costs_neither_a_retry_nor_an_attempt(void)
{
    int64_t id;
    int i;
    begin_runs();
    define();
    W.body = pause_the_step;
    id = trigger();
    for (i = 0; i < 10; i++) {
        serve(around_work);
        EQ(i + 1, W.executions);
        EQ(1, W.attempts[i]);
        RESULT(PGQRS_ERR_RUN_WAITING, W.status);
        RUN("paused", id);
        EQ(PGQRS_WAIT_PAUSE, look_run(id)->wait);
        SAME("work", look_run(id)->wait_name);
        EQ(T.now_us + MINUTE_US, look_run(id)->wait_until_us);
        EQ(PGQRS_STEP_WAITING, step_of(id, 2)->state);
        EQ(0, step_of(id, 2)->retries);
        SAME("the file is not there yet", step_of(id, 2)->error_message);
        advance_ms(60000);
    }
    W.body = give_good_data;
    serve(around_work);
    RUN("success", id);
    YES(step_of(id, 2)->error_message == NULL);
}

static void take_twelve_seconds(pgqrs_run *r)
{
    advance_ms(12000);
    W.result = pgqrs_step_done(r, "1") ? PGQRS_OK : pgqrs_run_status(r);
}

static void step_that_takes_too_long_has_failed_transiently(void)
{
    int64_t id;
    begin_runs();
    define();
    W.body = take_twelve_seconds;
    W.step.timeout_ms = 11999;
    id = trigger();
    serve(around_work);
    RESULT(PGQRS_ERR_RUN_WAITING, W.result);
    RUN("paused", id);
    SAME("TIMEOUT", step_of(id, 2)->error_code);
    EQ(1, step_of(id, 2)->retries);
    W.step.timeout_ms = 12000;
    serve_after(1000, around_work);
    RUN("success", id);
}

static void step_timeout_of_the_workflow_holds_for_its_steps(void)
{
    pgqrs_workflow_desc desc = test_workflow_desc();
    int64_t id;
    begin_runs();
    desc.step_timeout_ms = 10000;
    desc.retry.max_retries = -1;
    define_as(desc);
    W.body = take_twelve_seconds;
    id = trigger();
    serve(around_work);
    RUN_ERROR("TIMEOUT", "work", id);
    W.step.timeout_ms = 20000;
    id = trigger();
    serve(around_work);
    RUN("success", id);
}

static void take_longer_than_the_lease(pgqrs_run *r)
{
    advance_ms(3 * TEST_LEASE_MS);
    serve_on(W.admin, around_work);
    pgqrs_step_done(r, "1");
}

static void lease_lasts_as_long_as_the_steps_timeout(void)
{
    int64_t id;
    begin_runs();
    define();
    W.admin = another_store();
    W.body = take_longer_than_the_lease;
    W.step.timeout_ms = 4 * TEST_LEASE_MS;
    id = trigger();
    serve(around_work);
    EQ(1, W.executions);
    RUN("success", id);
}

static void take_all_the_time_there_is(pgqrs_run *r)
{
    advance_ms(4 * TEST_LEASE_MS);
    serve_on(W.admin, around_work);
    W.result = pgqrs_step_done(r, "1") ? PGQRS_OK : pgqrs_run_status(r);
}

static void lease_leaves_time_to_report_after_the_steps_timeout(void)
{
    int64_t id;
    begin_runs();
    define();
    W.admin = another_store();
    W.body = take_all_the_time_there_is;
    W.step.timeout_ms = 4 * TEST_LEASE_MS;
    id = trigger();
    serve(around_work);
    RESULT(PGQRS_OK, W.result);
    EQ(1, W.executions);
    RUN("success", id);
}

static pgqrs_result slow_steps(pgqrs_run *r, void *user)
{
    int i;
    (void)user;
    note_run(r);
    for (i = 0; i < 10; i++)
        if (pgqrs_step_indexed(r, "slow", i, NULL)) {
            W.bodies++;
            advance_ms(TEST_LEASE_MS * 4 / 10);
            serve_on(W.admin, just_return);
            pgqrs_step_done(r, "1");
        }
    return pgqrs_run_return(r, NULL);
}

static void every_stored_step_keeps_the_lease(void)
{
    int64_t id;
    begin_runs();
    define();
    W.admin = another_store();
    id = trigger();
    serve(slow_steps);
    EQ(1, W.executions);
    EQ(10, W.bodies);
    RUN("success", id);
}

static void extend_then_take_long(pgqrs_run *r)
{
    W.result = pgqrs_run_extend(r, 3 * TEST_LEASE_MS);
    EQ(T.now_us + 3 * TEST_LEASE_MS * 1000, look_run_on(W.admin, pgqrs_run_id(r))->lease_until_us);
    advance_ms(2 * TEST_LEASE_MS);
    serve_on(W.admin, just_return);
    pgqrs_step_done(r, "1");
}

static void extend_keeps_the_run(void)
{
    int64_t id;
    begin_runs();
    define();
    W.admin = another_store();
    W.body = extend_then_take_long;
    id = trigger();
    serve(around_work);
    RESULT(PGQRS_OK, W.result);
    EQ(1, W.executions);
    RUN("success", id);
}

static void note_lease(pgqrs_run *r)
{
    W.other = look_run_on(W.admin, pgqrs_run_id(r))->lease_until_us;
    pgqrs_step_done(r, "1");
}

static void worker_may_choose_the_lease(void)
{
    pgqrs_work_desc desc = {.until_empty = true, .lease_ms = 5000};
    begin_runs();
    define();
    W.admin = another_store();
    W.body = note_lease;
    trigger();
    OK(pgqrs_work_workflow(T.store, T.flow, around_work, NULL, &desc));
    EQ(T.now_us + 5 * SECOND_US, W.other);
}

/* --- the deadline of a run --- */

static void run_that_is_queued_too_long_times_out(void)
{
    pgqrs_workflow_desc desc = test_workflow_desc();
    int64_t id;
    begin_runs();
    desc.timeout_ms = 60000;
    define_as(desc);
    id = trigger();
    EQ(T.now_us + MINUTE_US, look_run(id)->deadline_at_us);
    serve_after(60000, three_steps);
    EQ(0, W.executions);
    RUN_ERROR("TIMEOUT", NULL, id);
    STATE("archived", id);
    id = trigger();
    serve_after(59999, three_steps);
    RUN("success", id);
}

static pgqrs_result sleep_an_hour(pgqrs_run *r, void *user)
{
    (void)user;
    note_run(r);
    quick_step(r, "before", "1");
    if (!pgqrs_run_sleep(r, "nap", 3600000)) return W.status = pgqrs_run_return(r, NULL);
    quick_step(r, "after", "2");
    return W.status = pgqrs_run_return(r, "\"awake\"");
}

static void run_that_sleeps_beyond_its_deadline_times_out_then(void)
{
    pgqrs_workflow_desc desc = test_workflow_desc();
    int64_t id, start = T.now_us;
    begin_runs();
    desc.timeout_ms = 60000;
    define_as(desc);
    id = trigger();
    serve(sleep_an_hour);
    RUN("paused", id);
    EQ(start + MINUTE_US, must_look(id)->due_at_us);
    serve_after(59999, sleep_an_hour);
    RUN("paused", id);
    serve_after(1, sleep_an_hour);
    EQ(1, W.executions);
    RUN_ERROR("TIMEOUT", NULL, id);
    EQ(start + MINUTE_US, look_run(id)->finished_at_us);
}

static void take_twenty_seconds(pgqrs_run *r)
{
    advance_ms(20000);
    pgqrs_step_done(r, "1");
}

static void deadline_is_looked_at_between_steps(void)
{
    pgqrs_workflow_desc desc = test_workflow_desc();
    int64_t id;
    begin_runs();
    desc.timeout_ms = 20000;
    define_as(desc);
    W.body = take_twenty_seconds;
    id = trigger();
    serve(around_work);
    EQ(2, W.bodies);
    RESULT(PGQRS_ERR_RUN_FAILED, W.status);
    RUN_ERROR("TIMEOUT", NULL, id);
    EQ(PGQRS_STEP_DONE, step_of(id, 2)->state);
}

static pgqrs_result return_late(pgqrs_run *r, void *user)
{
    (void)user;
    note_run(r);
    if (pgqrs_step(r, "only", NULL)) {
        advance_ms(20000);
        pgqrs_step_done(r, "1");
    }
    return W.status = pgqrs_run_return(r, "\"late\"");
}

static void run_that_returns_after_its_deadline_has_failed(void)
{
    pgqrs_workflow_desc desc = test_workflow_desc();
    int64_t id;
    begin_runs();
    desc.timeout_ms = 20000;
    define_as(desc);
    id = trigger();
    serve(return_late);
    RESULT(PGQRS_ERR_RUN_FAILED, W.status);
    RUN_ERROR("TIMEOUT", NULL, id);
    EQ(PGQRS_STEP_DONE, step_of(id, 1)->state);
    YES(look_run(id)->output == NULL);
}

static void open_runs_follow_new_settings(void)
{
    int64_t id;
    begin_runs();
    define();
    W.body = fail_with_failure;
    W.failure.transient = true;
    id = trigger();
    serve(around_work);
    EQ(T.now_us + SECOND_US, look_run(id)->wait_until_us);
    OK(pgqrs_workflow_update(T.store, T.flow, &(pgqrs_workflow_desc){.retry = {.base_ms = 3000}, .timeout_ms = 1}));
    serve_after(1000, around_work);
    EQ(T.now_us + 6 * SECOND_US, look_run(id)->wait_until_us);
    /* A deadline is set by the trigger. */
    EQ(0, look_run(id)->deadline_at_us);
    EQ(T.now_us + 1000, look_run(trigger())->deadline_at_us);
}

/* --- sleeping --- */

static void sleep_survives_and_costs_nothing(void)
{
    const pgqrs_step_info *step;
    int64_t id, start = T.now_us;
    begin_runs();
    define();
    id = trigger();
    serve(sleep_an_hour);
    RESULT(PGQRS_ERR_RUN_WAITING, W.status);
    RUN("paused", id);
    EQ(PGQRS_WAIT_SLEEP, look_run(id)->wait);
    SAME("nap", look_run(id)->wait_name);
    EQ(start + HOUR_US, look_run(id)->wait_until_us);
    EQ(start + HOUR_US, must_look(id)->due_at_us);
    NUMBERS(0, 1, 0, 0, 0);
    step = step_of(id, 2);
    EQ(PGQRS_STEP_SLEEP, step->kind);
    EQ(PGQRS_STEP_WAITING, step->state);
    EQ(start + HOUR_US, step->due_at_us);
    serve_after(3599999, sleep_an_hour);
    EQ(1, W.executions);
    RUN("paused", id);
    reopen_with(NULL);
    advance_ms(1);
    RUN("queued", id);
    EQ(0, runs_where((pgqrs_run_filter){.workflow = T.flow, .state = PGQRS_RUN_PAUSED}));
    serve(sleep_an_hour);
    EQ(2, W.executions);
    EQ(1, W.attempts[1]);
    RUN("success", id);
    SAME("\"awake\"", look_run(id)->output);
    EQ(PGQRS_STEP_DONE, step_of(id, 2)->state);
    EQ(T.now_us, step_of(id, 2)->finished_at_us);
    EQ(3, steps_of(id)->count);
}

static pgqrs_result sleep_until_given(pgqrs_run *r, void *user)
{
    (void)user;
    note_run(r);
    if (!pgqrs_run_sleep_until(r, "until", W.other)) return pgqrs_run_return(r, NULL);
    return pgqrs_run_return(r, "1");
}

static void sleep_until_a_time(void)
{
    int64_t id, start = T.now_us;
    begin_runs();
    define();
    W.other = start + 3 * 365 * DAY_US;
    id = trigger();
    serve(sleep_until_given);
    EQ(start + 3 * 365 * DAY_US, look_run(id)->wait_until_us);
    /* The time is set when it is reached first. */
    W.other = start + 1;
    T.now_us = start + 3 * 365 * DAY_US - 1;
    serve(sleep_until_given);
    EQ(1, W.executions);
    T.now_us++;
    serve(sleep_until_given);
    RUN("success", id);
    /* A time that is over already. */
    W.other = start;
    id = trigger();
    serve(sleep_until_given);
    EQ(3, W.executions);
    RUN("success", id);
}

static pgqrs_result many_naps(pgqrs_run *r, void *user)
{
    char name[20];
    int i;
    (void)user;
    note_run(r);
    for (i = 0; i < 8; i++) {
        snprintf(name, sizeof(name), "nap %d", i);
        if (!pgqrs_run_sleep(r, name, 1000 * (i + 1))) return pgqrs_run_return(r, NULL);
    }
    return pgqrs_run_return(r, "\"rested\"");
}

static void naps_one_after_the_other_cost_no_attempts(void)
{
    int64_t id;
    int i;
    begin_runs();
    define();
    id = trigger();
    serve(many_naps);
    for (i = 0; i < 8; i++) {
        EQ(T.now_us + (i + 1) * SECOND_US, look_run(id)->wait_until_us);
        serve_after(1000 * (i + 1), many_naps);
    }
    RUN("success", id);
    EQ(9, W.executions);
    for (i = 0; i < 9; i++)
        EQ(1, W.attempts[i]);
}

static void worker_is_free_while_a_run_sleeps(void)
{
    int64_t asleep, other;
    begin_runs();
    define();
    asleep = trigger();
    serve(sleep_an_hour);
    other = trigger();
    serve(three_steps);
    RUN("paused", asleep);
    RUN("success", other);
    EQ(2, W.executions);
}

/* --- events --- */

static pgqrs_result wait_a_minute(pgqrs_run *r, void *user)
{
    const char *payload = "untouched";
    (void)user;
    note_run(r);
    quick_step(r, "before", "1");
    if (!pgqrs_run_wait_event(r, "paid", 60000, &payload)) return W.status = pgqrs_run_return(r, NULL);
    note_text(payload);
    quick_step(r, "after", payload ? payload : "\"nothing came\"");
    if (W.executions <= W.fail_first) return pgqrs_run_fail(r, &(pgqrs_failure){.transient = true});
    return W.status = pgqrs_run_return(r, payload ? payload : "\"nothing came\"");
}

static void send_event(int64_t id, const char *payload, bool want)
{
    bool accepted = !want;
    OK(pgqrs_run_send_event(T.store, id, "paid", payload, &accepted));
    EQ(want, accepted);
}

static void run_waits_for_an_event(void)
{
    int64_t id;
    begin_runs();
    define();
    id = trigger();
    serve(wait_a_minute);
    RESULT(PGQRS_ERR_RUN_WAITING, W.status);
    RUN("paused", id);
    EQ(PGQRS_WAIT_EVENT, look_run(id)->wait);
    SAME("paid", look_run(id)->wait_name);
    EQ(T.now_us + MINUTE_US, look_run(id)->wait_until_us);
    EQ(PGQRS_STEP_EVENT, step_of(id, 2)->kind);
    EQ(PGQRS_STEP_WAITING, step_of(id, 2)->state);
    advance_ms(10000);
    send_event(id, SECRET_PAYLOAD, true);
    /* Woken long before the time. */
    serve(wait_a_minute);
    EQ(2, W.executions);
    EQ(1, W.attempts[1]);
    SAME(SECRET_PAYLOAD, W.text);
    RUN("success", id);
    SAME(SECRET_PAYLOAD, look_run(id)->output);
    SAME(SECRET_PAYLOAD, step_of(id, 2)->output);
    EQ(PGQRS_STEP_DONE, step_of(id, 2)->state);
}

static void event_may_come_before_the_wait(void)
{
    int64_t id;
    begin_runs();
    define();
    id = trigger();
    send_event(id, "{\"early\":true}", true);
    RUN("queued", id);
    serve(wait_a_minute);
    EQ(1, W.executions);
    RUN("success", id);
    SAME("{\"early\":true}", W.text);
}

static pgqrs_result event_comes_meanwhile(pgqrs_run *r, void *user)
{
    (void)user;
    if (W.executions == 0) pgqrs_run_send_event(W.admin, pgqrs_run_id(r), "paid", "\"meanwhile\"", NULL);
    return wait_a_minute(r, NULL);
}

static void event_that_comes_while_the_run_goes_on_is_not_missed(void)
{
    int64_t id;
    begin_runs();
    define();
    W.admin = another_store();
    id = trigger();
    serve(event_comes_meanwhile);
    RUN("success", id);
    SAME("\"meanwhile\"", W.text);
    EQ(1, W.attempts[W.executions - 1]);
}

static void first_event_of_a_name_counts(void)
{
    int64_t id;
    begin_runs();
    define();
    id = trigger();
    send_event(id, "1", true);
    send_event(id, "2", false);
    serve(wait_a_minute);
    SAME("1", W.text);
    OK(pgqrs_run_send_event(T.store, trigger(), "paid", NULL, NULL));
    serve(wait_a_minute);
    SAME("null", W.text);
}

static void wait_that_times_out_gives_nothing_for_ever(void)
{
    int64_t id;
    begin_runs();
    define();
    W.fail_first = 2;
    id = trigger();
    serve(wait_a_minute);
    serve_after(59999, wait_a_minute);
    EQ(1, W.executions);
    serve_after(1, wait_a_minute);
    EQ(2, W.executions);
    SAME("(null)", W.text);
    RUN("paused", id);
    EQ(PGQRS_STEP_DONE, step_of(id, 2)->state);
    YES(step_of(id, 2)->output == NULL);
    send_event(id, "\"late\"", false);
    note_text("");
    serve_after(1000, wait_a_minute);
    EQ(3, W.executions);
    SAME("(null)", W.text);
    RUN("success", id);
    SAME("\"nothing came\"", look_run(id)->output);
}

static pgqrs_result wait_for_ever(pgqrs_run *r, void *user)
{
    const char *payload = NULL;
    (void)user;
    note_run(r);
    if (!pgqrs_run_wait_event(r, "paid", PGQRS_FOREVER, &payload)) return pgqrs_run_return(r, NULL);
    return pgqrs_run_return(r, payload);
}

static void wait_without_a_limit(void)
{
    int64_t id;
    begin_runs();
    define();
    id = trigger();
    serve(wait_for_ever);
    RUN("paused", id);
    EQ(0, look_run(id)->wait_until_us);
    T.now_us += 5 * 365 * DAY_US;
    serve(wait_for_ever);
    EQ(1, W.executions);
    send_event(id, "1", true);
    serve(wait_for_ever);
    RUN("success", id);
}

static pgqrs_result ask_for_an_event(pgqrs_run *r, void *user)
{
    const char *payload = "untouched";
    (void)user;
    note_run(r);
    if (!pgqrs_run_wait_event(r, "paid", 0, &payload)) return pgqrs_run_return(r, NULL);
    note_text(payload);
    return pgqrs_run_return(r, NULL);
}

static void wait_of_no_time_just_looks(void)
{
    int64_t id;
    begin_runs();
    define();
    id = trigger();
    serve(ask_for_an_event);
    EQ(1, W.executions);
    SAME("(null)", W.text);
    RUN("success", id);
    id = trigger();
    send_event(id, "5", true);
    serve(ask_for_an_event);
    SAME("5", W.text);
}

static void events_of_other_names_and_runs_wake_nobody(void)
{
    int64_t id, other;
    begin_runs();
    define();
    id = trigger();
    other = trigger();
    serve(wait_a_minute);
    EQ(2, W.executions);
    OK(pgqrs_run_send_event(T.store, id, "unpaid", "1", NULL));
    send_event(other, "1", true);
    serve(wait_a_minute);
    RUN("paused", id);
    RUN("success", other);
    EQ(3, W.executions);
}

static void event_for_a_run_that_is_not_waiting_leaves_its_time(void)
{
    int64_t id;
    begin_runs();
    define();
    id = trigger();
    serve(sleep_an_hour);
    send_event(id, "1", true);
    serve(sleep_an_hour);
    EQ(1, W.executions);
    RUN("paused", id);
    id = trigger_as("1", (pgqrs_trigger_desc){.delay_ms = 5000});
    send_event(id, "1", true);
    STATE("delayed", id);
}

static void events_for_no_run_are_refused(void)
{
    bool accepted = true;
    int64_t id;
    begin_runs();
    define();
    id = trigger();
    FAILS(ERR_JSON, pgqrs_run_send_event(T.store, id, "paid", "{", NULL));
    FAILS(ERR_BAD_NAME, pgqrs_run_send_event(T.store, id, "", "1", NULL));
    FAILS(ERR_RUN_NOT_FOUND, pgqrs_run_send_event(T.store, id + 1000, "paid", "1", &accepted));
    serve(just_return);
    FAILS(ERR_RUN_STATE, pgqrs_run_send_event(T.store, id, "paid", "1", &accepted));
    id = put();
    FAILS(ERR_RUN_NOT_FOUND, pgqrs_run_send_event(T.store, id, "paid", "1", &accepted));
}

/* --- values --- */

static pgqrs_result set_values(pgqrs_run *r, void *user)
{
    const char *value;
    (void)user;
    note_run(r);
    W.result = pgqrs_run_set(r, "note", W.executions == 1 ? "{\"percent\":50}" : "{\"percent\":75}");
    if (W.executions == 1) pgqrs_run_set(r, "gone", "1");
    value = pgqrs_run_value(r, "note");
    snprintf(W.text, sizeof(W.text), "%s", value ? value : "(null)");
    if (W.admin) {
        value = value_on(W.admin, pgqrs_run_id(r), "note");
        W.other = value && strcmp(value, W.text) == 0;
    }
    pgqrs_run_set(r, "gone", NULL);
    quick_step(r, "first", "1");
    if (W.executions <= W.fail_first) return pgqrs_run_fail(r, &(pgqrs_failure){.transient = true});
    return pgqrs_run_return(r, pgqrs_run_value(r, "gone") ? "\"there\"" : "\"gone\"");
}

static void values_can_be_read_while_the_run_goes_on(void)
{
    int64_t id;
    begin_runs();
    define();
    W.admin = another_store();
    id = trigger();
    serve(set_values);
    RESULT(PGQRS_OK, W.result);
    SAME("{\"percent\":50}", W.text);
    EQ(1, W.other);
    RUN("success", id);
    SAME("\"gone\"", look_run(id)->output);
}

static void values_are_kept_as_last_set(void)
{
    pgqrs_run_values *values = NULL;
    int64_t id;
    begin_runs();
    define();
    W.fail_first = 1;
    id = trigger();
    serve(set_values);
    SAME("{\"percent\":50}", value_on(T.store, id, "note"));
    serve_after(1000, set_values);
    RUN("success", id);
    OK(pgqrs_run_values_get(T.store, id, &values));
    keep(values);
    EQ(1, values->count);
    SAME("note", values->items[0].name);
    SAME("{\"percent\":75}", values->items[0].value);
    EQ(14, values->items[0].value_size);
    EQ(T.now_us, values->items[0].set_at_us);
}

static pgqrs_result bad_value(pgqrs_run *r, void *user)
{
    (void)user;
    W.result = pgqrs_run_set(r, "note", "{");
    return W.status = pgqrs_run_return(r, NULL);
}

static void value_that_is_no_json_fails_the_run(void)
{
    int64_t id;
    begin_runs();
    define();
    id = trigger();
    serve(bad_value);
    RESULT(PGQRS_ERR_RUN_FAILED, W.result);
    RESULT(PGQRS_ERR_RUN_FAILED, W.status);
    RUN_ERROR("BAD_JSON", NULL, id);
    YES(value_on(T.store, id, "note") == NULL);
}

static pgqrs_result set_stores_steps_too(pgqrs_run *r, void *user)
{
    (void)user;
    quick_step(r, "first", "1");
    pgqrs_run_set(r, "note", "1");
    W.other = (int64_t)steps_on(W.admin, W.id)->count;
    return pgqrs_run_return(r, NULL);
}

static void setting_a_value_stores_the_step_before(void)
{
    begin_runs();
    define();
    W.admin = another_store();
    W.id = trigger();
    serve(set_stores_steps_too);
    EQ(1, W.other);
}

static void values_and_steps_of_no_run_are_refused(void)
{
    pgqrs_run_values *values = NULL;
    pgqrs_steps *steps = NULL;
    FAILS(ERR_RUN_NOT_FOUND, pgqrs_run_values_get(T.store, 123456789, &values));
    FAILS(ERR_RUN_NOT_FOUND, pgqrs_run_steps(T.store, 123456789, &steps));
    YES(values == NULL && steps == NULL);
}

/* --- transactional steps --- */

/* On the run's own connection. */
static pgqrs_result exec_in(const pgqrs_run *r, const char *sql)
{
    char text[400];
    bool good;
    qualify(text, sizeof(text), sql);
    if (on(ON_SERVER)) {
        PGresult *result = PQexec(pgqrs_run_pgconn(r), text);
        good = PQresultStatus(result) == PGRES_COMMAND_OK;
        PQclear(result);
    } else {
        good = sqlite3_exec(pgqrs_run_sqlite3(r), text, NULL, NULL, NULL) == SQLITE_OK;
    }
    return good ? PGQRS_OK : PGQRS_ERR_DATABASE;
}

static void write_ledger(const pgqrs_run *r)
{
    W.result = exec_in(r, "INSERT INTO @ledger VALUES (1)");
}

static int64_t ledger(void)
{
    return raw_int("SELECT count(*) FROM @ledger");
}

/* A step that writes the ledger and then does W.body. */
static pgqrs_result book(pgqrs_run *r, void *user)
{
    (void)user;
    note_run(r);
    quick_step(r, "before", "1");
    if (pgqrs_step_with(r, "book", &(pgqrs_step_desc){.transaction = true}, NULL)) {
        W.bodies++;
        write_ledger(r);
        if (W.body)
            W.body(r);
        else
            return PGQRS_ERR_HANDLER;
    }
    quick_step(r, "after", "3");
    return W.status = pgqrs_run_return(r, NULL);
}

static void begin_ledger(void)
{
    raw_exec("CREATE TABLE @ledger(n INTEGER)");
    begin_runs();
    define();
    W.body = give_good_data;
}

static void done_and_look(pgqrs_run *r)
{
    W.other = on(ON_SQLITE_MEMORY) ? 0 : ledger();
    pgqrs_step_done(r, "1");
    W.seen = ledger() == 1 && steps_on(W.admin, W.id)->count == 2 ? PGQRS_RUN_SUCCESS : PGQRS_RUN_ERROR;
}

static void transactional_step_commits_with_its_writes(void)
{
    begin_ledger();
    W.admin = another_store();
    W.body = done_and_look;
    W.id = trigger();
    serve(book);
    RESULT(PGQRS_OK, W.result);
    RESULT(PGQRS_OK, W.status);
    EQ(0, W.other);
    EQ(PGQRS_RUN_SUCCESS, W.seen);
    RUN("success", W.id);
    EQ(1, ledger());
    EQ(3, steps_of(W.id)->count);
    OK(pgqrs_verify(T.store));
}

static pgqrs_result look_at_connections(pgqrs_run *r, void *user)
{
    (void)user;
    W.other = (pgqrs_run_pgconn(r) != NULL) + 2 * (pgqrs_run_sqlite3(r) != NULL);
    return pgqrs_run_return(r, NULL);
}

static void connection_of_a_run_is_its_backends(void)
{
    begin_runs();
    define();
    trigger();
    serve(look_at_connections);
    EQ(on(ON_SERVER) ? 1 : 2, W.other);
}

static void transactional_step_that_fails_writes_nothing(void)
{
    int64_t id;
    begin_ledger();
    W.body = fail_with_failure;
    W.failure = (pgqrs_failure){.code = "DOWN", .transient = true};
    id = trigger();
    serve(book);
    RUN("paused", id);
    EQ(0, ledger());
    EQ(PGQRS_STEP_RETRYING, step_of(id, 2)->state);
    W.failure.transient = false;
    serve_after(1000, book);
    RUN_ERROR("DOWN", "book", id);
    EQ(0, ledger());
}

static void transactional_step_that_pauses_writes_nothing(void)
{
    int64_t id;
    begin_ledger();
    W.body = pause_the_step;
    id = trigger();
    serve(book);
    RUN("paused", id);
    EQ(0, ledger());
    W.body = give_good_data;
    serve_after(60000, book);
    RUN("success", id);
    EQ(1, ledger());
}

static void transactional_step_with_bad_output_writes_nothing(void)
{
    int64_t id;
    begin_ledger();
    W.body = output_is_no_json;
    id = trigger();
    serve(book);
    RUN_ERROR("BAD_JSON", "book", id);
    EQ(0, ledger());
}

static void commit_by_hand(pgqrs_run *r)
{
    W.result = exec_in(r, "COMMIT");
    pgqrs_step_done(r, "1");
}

static void ignore_a_failure(pgqrs_run *r)
{
    W.result = exec_in(r, "INSERT INTO no_such_table VALUES (1)");
    pgqrs_step_done(r, "1");
}

static void transaction_that_the_body_ended_fails_the_run(void)
{
    int64_t id;
    begin_ledger();
    W.body = commit_by_hand;
    id = trigger();
    serve(book);
    RUN_ERROR("MISUSE", NULL, id);
    EQ(2, W.bodies); /* with the step before */
    EQ(on(ON_S3) ? 0 : 1, ledger()); /* on S3 it was a commit on the copy, which is thrown away */
    if (on(ON_SQLITE) || on(ON_BUCKET))
        return; /* there a statement that failed takes back itself and nothing else */
    W.body = ignore_a_failure;
    id = trigger();
    serve(book);
    RUN_ERROR("MISUSE", NULL, id);
    EQ(4, W.bodies);
    EQ(1, ledger());
}

/* Both texts end with the next thing that is done on the connection, or with the store. */
static void fail_with_the_databases_words(pgqrs_run *r)
{
    pgqrs_failure failure = {.code = "DB"};
    pgqrs_enqueue(T.store, "no such queue", "1", NULL, NULL);
    failure.message = pgqrs_last_error(T.store)->message;
    if (on(ON_SERVER)) {
        exec_in(r, "INSERT INTO no_such_table VALUES (1)");
        failure.message = PQerrorMessage((PGconn *)pgqrs_run_pgconn(r));
    }
    pgqrs_step_fail(r, &failure);
}

static void failure_may_quote_the_database(void)
{
    int64_t id;
    begin_ledger();
    W.body = fail_with_the_databases_words;
    id = trigger();
    serve(book);
    RUN_ERROR("DB", "book", id);
    YES(strstr(look_run(id)->error_message, on(ON_SERVER) ? "no_such_table" : "no such queue"));
}

static void transactional_step_that_is_left_writes_nothing(void)
{
    int64_t id;
    begin_ledger();
    W.body = NULL;
    id = trigger();
    serve(book);
    EQ(0, ledger());
    RUN("paused", id);
    EQ(1, steps_of(id)->count);
    W.body = give_good_data;
    serve_after(1000, book);
    RUN("success", id);
    EQ(1, ledger());
    EQ(3, W.bodies - 1);
}

static void outlive_the_lease(pgqrs_run *r)
{
    advance_ms(TEST_LEASE_MS + 1);
    YES(pgqrs_step_done(r, "1") == NULL);
    W.seen = pgqrs_run_status(r) == PGQRS_ERR_LEASE_LOST ? PGQRS_RUN_ERROR : PGQRS_RUN_SUCCESS;
}

static void transactional_step_whose_lease_is_lost_writes_nothing(void)
{
    int64_t id;
    begin_ledger();
    W.body = outlive_the_lease;
    id = trigger();
    {
        pgqrs_workflow_entry entry = {T.flow, book, NULL};
        pgqrs_worker *worker = pgqrs_worker_open_workflows(T.store, &entry, 1, NULL);
        assert_non_null(worker);
        OK(pgqrs_worker_poll(worker, 0, NULL));
        OK(pgqrs_worker_close(worker));
    }
    EQ(PGQRS_RUN_ERROR, W.seen);
    EQ(0, ledger());
    EQ(1, steps_of(id)->count);
    W.body = give_good_data;
    serve(book);
    RUN("success", id);
    EQ(1, ledger());
    EQ(2, look_run(id)->attempt);
}

static void enqueue_and_trigger(pgqrs_run *r)
{
    pgqrs_store *store = pgqrs_run_store(r);
    W.result = pgqrs_enqueue(store, T.queue, "1", &(pgqrs_enqueue_desc){.delay_ms = 3600000}, NULL);
    if (W.result == PGQRS_OK)
        W.result = pgqrs_workflow_trigger(store, T.flow, "1", &(pgqrs_trigger_desc){.delay_ms = 3600000}, &W.other);
    if (W.stop_at)
        pgqrs_step_fail(r, NULL);
    else
        pgqrs_step_done(r, "1");
}

static void begin_another_step(pgqrs_run *r)
{
    NO(pgqrs_step(r, "inner", NULL));
    /* The run has to stop: what comes now is the function's own affair. */
    W.result = pgqrs_enqueue(pgqrs_run_store(r), T.queue, "1", &(pgqrs_enqueue_desc){.delay_ms = 3600000}, NULL);
}

static void transaction_of_a_step_ends_when_the_run_has_to_stop(void)
{
    int64_t id;
    begin_ledger();
    W.body = begin_another_step;
    id = trigger();
    serve(book);
    RUN_ERROR("MISUSE", NULL, id);
    RESULT(PGQRS_OK, W.result);
    EQ(0, ledger());
    NUMBERS(0, 1, 0, 1, 0);
}

static void set_in_a_transaction(pgqrs_run *r)
{
    pgqrs_run_set(r, "note", "1");
    pgqrs_run_flush(r);
    pgqrs_run_extend(r, 60000);
    if (W.stop_at)
        pgqrs_step_fail(r, NULL);
    else
        pgqrs_step_done(r, "1");
}

static void values_set_in_a_transactional_step_are_part_of_it(void)
{
    int64_t id;
    begin_ledger();
    W.body = set_in_a_transaction;
    W.stop_at = 1;
    id = trigger();
    serve(book);
    RUN_ERROR("FAILED", "book", id);
    YES(value_on(T.store, id, "note") == NULL);
    W.stop_at = 0;
    id = trigger();
    serve(book);
    RUN("success", id);
    SAME("1", value_on(T.store, id, "note"));
    EQ(1, ledger());
}

static void what_the_store_does_in_a_transactional_step_is_part_of_it(void)
{
    int64_t id;
    begin_ledger();
    W.body = enqueue_and_trigger;
    W.stop_at = 1;
    id = trigger();
    serve(book);
    RESULT(PGQRS_OK, W.result);
    RUN("error", id);
    NUMBERS(0, 0, 0, 1, 0);
    YES(look_run_on(T.store, W.other) == NULL);
    W.stop_at = 0;
    id = trigger();
    serve(book);
    RUN("success", id);
    RUN("queued", W.other);
    NUMBERS(0, 2, 0, 2, 0);
    EQ(1, ledger());
}

static void transactional_step_inside_the_users_transaction_is_refused(void)
{
    pgqrs_store *store;
    int64_t id;
    begin_ledger();
    id = trigger();
    store = borrow_store();
    my_exec("BEGIN");
    serve_on(store, book);
    RESULT(PGQRS_ERR_TRANSACTION, W.status);
    EQ(1, W.bodies);
    YES(in_transaction());
    my_exec("COMMIT");
    EQ(0, ledger());
    RUN("queued", id);
    serve_after(60000, book);
    RUN("success", id);
    EQ(1, ledger());
}

static void transactional_step_on_a_borrowed_connection_commits(void)
{
    int64_t id;
    begin_ledger();
    id = trigger();
    serve_on(borrow_store(), book);
    RUN("success", id);
    NO(in_transaction());
    EQ(1, ledger());
}

static void roll_back_by_hand(pgqrs_run *r)
{
    W.result = exec_in(r, "ROLLBACK");
    pgqrs_step_done(r, "1");
}

/* Neither is the step recorded without its effects. */
static void transaction_ended_on_a_borrowed_connection_fails_the_run(void)
{
    int64_t id;
    begin_ledger();
    W.body = roll_back_by_hand;
    id = trigger();
    serve_on(borrow_store(), book);
    RUN_ERROR("MISUSE", NULL, id);
    EQ(0, ledger());
    EQ(1, steps_of(id)->count);
    NO(in_transaction());
}

static void let_another_worker_do_it(pgqrs_run *r)
{
    advance_ms(TEST_LEASE_MS + 1);
    W.body = give_good_data;
    serve_on(W.admin, book);
    W.other = ledger();
    pgqrs_step_done(r, "\"zombie\"");
    W.seen = pgqrs_run_status(r) == PGQRS_ERR_LEASE_LOST ? PGQRS_RUN_ERROR : PGQRS_RUN_SUCCESS;
}

static void transactional_step_of_a_zombie_writes_nothing(void)
{
    int64_t id;
    begin_ledger();
    W.admin = another_store();
    W.body = let_another_worker_do_it;
    id = trigger();
    serve(book);
    EQ(1, W.other);
    EQ(PGQRS_RUN_ERROR, W.seen);
    EQ(1, ledger());
    RUN("success", id);
    SAME("\"good\"", step_of(id, 2)->output);
}

static void cancel_before_done(pgqrs_run *r)
{
    OK_ON(W.admin, pgqrs_run_cancel(W.admin, pgqrs_run_id(r), NULL, &W.seen));
    pgqrs_step_done(r, "1");
}

static void transactional_step_that_is_cancelled_meanwhile_is_kept(void)
{
    int64_t id;
    begin_ledger();
    W.admin = another_store();
    W.body = cancel_before_done;
    id = trigger();
    serve(book);
    EQ(PGQRS_RUN_CANCELLING, W.seen);
    RUN("cancelled", id);
    EQ(1, ledger());
    EQ(2, steps_of(id)->count);
}

/* --- being told to stop --- */

static pgqrs_result stop_in_a_step(pgqrs_run *r, void *user)
{
    (void)user;
    note_run(r);
    quick_step(r, "first", "1");
    if (pgqrs_step(r, "second", NULL)) {
        W.bodies++;
        if (W.stop_at) pgqrs_stop(T.store);
        pgqrs_step_done(r, "2");
    }
    quick_step(r, "third", "3");
    return W.status = pgqrs_run_return(r, NULL);
}

static void stop_gives_the_run_back_at_the_next_step(void)
{
    int64_t id, other;
    begin_runs();
    define();
    W.stop_at = 1;
    id = trigger();
    other = trigger();
    OK(pgqrs_work_workflow(T.store, T.flow, stop_in_a_step, NULL, NULL));
    RESULT(PGQRS_ERR_RUN_STOPPED, W.status);
    EQ(1, W.executions);
    EQ(2, W.bodies);
    RUN("queued", id);
    STATE("ready", id);
    EQ(2, steps_of(id)->count);
    EQ(0, worker_rows());
    W.stop_at = 0;
    serve(stop_in_a_step);
    RUN("success", id);
    RUN("success", other);
    EQ(6, W.bodies);
    EQ(3, W.executions);
    EQ(1, look_run(id)->attempt);
    EQ(1, look_run(other)->attempt);
}

static pgqrs_result stop_at_the_end(pgqrs_run *r, void *user)
{
    (void)user;
    note_run(r);
    quick_step(r, "only", "1");
    pgqrs_stop(T.store);
    return W.status = pgqrs_run_return(r, NULL);
}

static void run_that_has_no_steps_left_ends_in_spite_of_a_stop(void)
{
    int64_t id;
    begin_runs();
    define();
    id = trigger();
    OK(pgqrs_work_workflow(T.store, T.flow, stop_at_the_end, NULL, NULL));
    RESULT(PGQRS_OK, W.status);
    RUN("success", id);
}

static void worker_ends_after_as_many_runs_as_it_was_told(void)
{
    pgqrs_work_desc desc = {.max_messages = 2};
    begin_runs();
    define();
    trigger();
    trigger();
    trigger();
    OK(pgqrs_work_workflow(T.store, T.flow, three_steps, NULL, &desc));
    EQ(2, W.executions);
    NUMBERS(1, 0, 0, 2, 0);
}

static void worker_until_empty_waits_for_its_retries(void)
{
    int64_t id, asleep, start = T.now_us;
    pgqrs_work_desc desc = {.until_empty = true};
    begin_runs();
    define();
    W.fail_first = 2;
    id = trigger();
    OK(pgqrs_work_workflow(T.store, T.flow, fail_between, NULL, &desc));
    RUN("success", id);
    YES(T.now_us >= start + 3 * SECOND_US);
    asleep = trigger();
    start = T.now_us;
    OK(pgqrs_work_workflow(T.store, T.flow, sleep_an_hour, NULL, &desc));
    RUN("paused", asleep);
    YES(T.now_us < start + MINUTE_US);
}

static void worker_takes_several_runs_at_once_when_told_to(void)
{
    pgqrs_work_desc desc = {.until_empty = true, .batch = 8, .settle_ms = 1000};
    pgqrs_trigger_item items[30];
    pgqrs_receipt receipts[30];
    size_t i;
    begin_runs();
    define();
    memset(items, 0, sizeof(items));
    OK(pgqrs_workflow_trigger_many(T.store, T.flow, items, 30, receipts));
    OK(pgqrs_work_workflow(T.store, T.flow, three_steps, NULL, &desc));
    EQ(30, W.executions);
    EQ(90, W.bodies);
    for (i = 0; i < 30; i++) {
        RUN("success", receipts[i].id);
        EQ(receipts[i].id, W.ids[i]);
        EQ(3, steps_of(receipts[i].id)->count);
    }
    NUMBERS(0, 0, 0, 30, 0);
}

static pgqrs_result stop_then_wait(pgqrs_run *r, void *user)
{
    pgqrs_message *message = NULL;
    pgqrs_dequeue_desc claim = {.wait_ms = PGQRS_FOREVER};
    (void)user;
    note_run(r);
    pgqrs_stop(T.store);
    W.result = pgqrs_dequeue(pgqrs_run_store(r), (const char *)user, &claim, &message);
    pgqrs_free(message);
    quick_step(r, "first", "1");
    return W.status = pgqrs_run_return(r, NULL);
}

static void stop_ends_what_the_function_waits_for_and_the_worker(void)
{
    char other[96];
    int64_t id;
    begin_runs();
    define();
    snprintf(other, sizeof(other), "%s", another_queue("other"));
    id = trigger();
    OK(pgqrs_work_workflow(T.store, T.flow, stop_then_wait, other, NULL));
    RESULT(PGQRS_OK, W.result);
    RESULT(PGQRS_ERR_RUN_STOPPED, W.status);
    EQ(1, W.executions);
    RUN("queued", id);
}

static void message_without_a_run_goes_to_the_dead_letters(void)
{
    int64_t message, id;
    begin_runs();
    define();
    message = put();
    id = trigger();
    serve(three_steps);
    STATE("dead", message);
    YES(must_look(message)->reason && must_look(message)->reason[0]);
    RUN("success", id);
    EQ(1, W.executions);
}

static void run_of_another_workflow_is_given_back(void)
{
    const char *other = unique("other");
    int64_t id = 0;
    pgqrs_workflow_entry entry = {other, just_return, NULL};
    begin_runs();
    define();
    OK(pgqrs_workflow_create(T.store, other, &(pgqrs_workflow_desc){.queue = T.queue}));
    OK(pgqrs_workflow_trigger(T.store, other, "1", NULL, &id));
    serve(three_steps);
    EQ(0, W.executions);
    RUN("queued", id);
    EQ(0, look_run(id)->attempt);
    EQ(T.now_us + SECOND_US, must_look(id)->due_at_us);
    advance_ms(1000);
    serve_entries(T.store, &entry, 1);
    EQ(1, W.executions);
    EQ(1, W.attempts[0]);
    RUN("success", id);
}

static void run_of_another_workflow_does_not_count(void)
{
    const char *other = unique("other");
    pgqrs_work_desc desc = {.max_messages = 1};
    int64_t id;
    begin_runs();
    define();
    OK(pgqrs_workflow_create(T.store, other, &(pgqrs_workflow_desc){.queue = T.queue}));
    OK(pgqrs_workflow_trigger(T.store, other, "1", NULL, NULL));
    id = trigger();
    OK(pgqrs_work_workflow(T.store, T.flow, three_steps, NULL, &desc));
    RUN("success", id);
}

static void null_runs_are_refused(void)
{
    const char *output = "untouched";
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_run_status(NULL));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_run_flush(NULL));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_run_extend(NULL, 5));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_run_set(NULL, "a", "1"));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_run_return(NULL, NULL));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_run_fail(NULL, NULL));
    NO(pgqrs_step(NULL, "a", &output));
    YES(output == NULL);
    NO(pgqrs_run_sleep(NULL, "a", 1));
    NO(pgqrs_run_wait_event(NULL, "a", 1, &output));
    YES(pgqrs_step_done(NULL, "1") == NULL);
    YES(pgqrs_step_fail(NULL, NULL) == NULL);
    YES(pgqrs_step_pause(NULL, 1, NULL) == NULL);
    YES(pgqrs_run_value(NULL, "a") == NULL);
    YES(pgqrs_run_store(NULL) == NULL);
    YES(pgqrs_run_pgconn(NULL) == NULL);
    YES(pgqrs_run_sqlite3(NULL) == NULL);
    EQ(0, pgqrs_run_id(NULL));
    YES(pgqrs_run_input(NULL) != NULL);
    YES(pgqrs_run_error(NULL) != NULL);
}

static pgqrs_result quoting(pgqrs_run *r, void *user)
{
    static const char plain[] = "a \"b\" \\ \x01 \xc3\xa9\n";
    const char *quoted = pgqrs_run_quote(r, plain);
    (void)user;
    SAME("\"a \\\"b\\\" \\\\ \\u0001 \xc3\xa9\\u000a\"", quoted);
    SAME(plain, pgqrs_run_unquote(r, quoted));
    SAME("/tmp", pgqrs_run_unquote(r, " \"\\/tm\\u0070\" "));
    SAME("", pgqrs_run_unquote(r, pgqrs_run_quote(r, "")));
    YES(pgqrs_run_quote(r, NULL) == NULL);
    YES(pgqrs_run_quote(r, "\xff") == NULL);
    YES(pgqrs_run_unquote(r, NULL) == NULL);
    YES(pgqrs_run_unquote(r, "17") == NULL);
    YES(pgqrs_run_unquote(r, "[\"a\"]") == NULL);
    YES(pgqrs_run_unquote(r, "\"a") == NULL);
    YES(pgqrs_run_unquote(r, "\"a\\u0000b\"") == NULL);
    YES(pgqrs_run_quote(NULL, "a") == NULL);
    YES(pgqrs_run_unquote(NULL, "\"a\"") == NULL);
    return pgqrs_run_return(r, quoted);
}

static void texts_are_quoted_and_unquoted(void)
{
    int64_t id;
    begin_runs();
    define();
    id = trigger();
    serve(quoting);
    RUN("success", id);
}

static const test_case step_cases[] = {
    CASE(run_of_three_steps_ends_in_success, FRESH),
    CASE(function_sees_its_run, PLAIN),
    CASE(step_done_is_not_done_again, PLAIN),
    CASE(steps_in_loops_have_keys, PLAIN),
    CASE(run_may_have_hundreds_of_steps, PLAIN),
    CASE(large_outputs_come_back_as_they_were, PLAIN),
    CASE(names_and_outputs_may_be_any_text, PLAIN),
    CASE(step_is_durable_before_the_next_body_begins, TWO),
    CASE(flush_makes_a_step_durable_at_once, TWO),
    CASE(function_may_use_the_store_that_runs_it, PLAIN),
    CASE(run_that_has_to_stop_skips_all_that_follows, PLAIN),
    CASE(same_name_twice_fails_the_run, PLAIN),
    CASE(same_key_twice_fails_the_run, PLAIN),
    CASE(kinds_have_names_of_their_own, PLAIN),
    CASE(misuse_fails_the_run_and_is_named, FRESH),
    CASE(done_without_a_step_fails_the_run, PLAIN),
    CASE(step_after_the_return_is_not_entered, PLAIN),
    CASE(input_of_a_step_is_kept_and_compared, PLAIN),
    CASE(bad_output_fails_the_run, PLAIN),
    CASE(return_that_is_no_json_fails_the_run, PLAIN),
    CASE(function_that_does_not_finish_fails_the_run, PLAIN),
    CASE(function_that_leaves_inside_of_a_step_fails_the_run, PLAIN),
    CASE(error_of_the_function_is_a_transient_failure, PLAIN),
    CASE(error_of_the_function_ends_the_run_when_retries_are_used_up, PLAIN),
    CASE(input_that_cannot_be_read_fails_the_run_and_nothing_else, TWO),
    CASE(transient_failure_is_tried_again_at_the_policys_time, FRESH),
    CASE(retries_cost_no_attempts, FRESH),
    CASE(failure_that_lasts_ends_the_run, PLAIN),
    CASE(permanent_failure_ends_the_run_at_once, PLAIN),
    CASE(failure_without_words_is_permanent_and_named, PLAIN),
    CASE(long_failure_texts_are_cut, PLAIN),
    CASE(retry_after_wins_over_the_policy, PLAIN),
    CASE(retry_at_once_is_at_once_and_counts, PLAIN),
    CASE(step_has_a_policy_of_its_own, PLAIN),
    CASE(every_step_counts_its_own_retries, PLAIN),
    CASE(run_fails_for_good_outside_of_a_step, PLAIN),
    CASE(run_fails_transiently_and_waits_by_the_workflows_policy, PLAIN),
    CASE(jitter_stays_within_its_percentage, FRESH),
    CASE(paused_step_costs_neither_a_retry_nor_an_attempt, FRESH),
    CASE(step_that_takes_too_long_has_failed_transiently, PLAIN),
    CASE(step_timeout_of_the_workflow_holds_for_its_steps, PLAIN),
    CASE(lease_lasts_as_long_as_the_steps_timeout, TWO | FRESH),
    CASE(lease_leaves_time_to_report_after_the_steps_timeout, TWO | FRESH),
    CASE(every_stored_step_keeps_the_lease, TWO | FRESH),
    CASE(extend_keeps_the_run, TWO),
    CASE(worker_may_choose_the_lease, TWO),
    CASE(run_that_is_queued_too_long_times_out, PLAIN),
    CASE(run_that_sleeps_beyond_its_deadline_times_out_then, PLAIN),
    CASE(deadline_is_looked_at_between_steps, PLAIN),
    CASE(run_that_returns_after_its_deadline_has_failed, PLAIN),
    CASE(open_runs_follow_new_settings, PLAIN),
    CASE(sleep_survives_and_costs_nothing, TWO),
    CASE(sleep_until_a_time, PLAIN),
    CASE(naps_one_after_the_other_cost_no_attempts, PLAIN),
    CASE(worker_is_free_while_a_run_sleeps, PLAIN),
    CASE(run_waits_for_an_event, PLAIN),
    CASE(event_may_come_before_the_wait, PLAIN),
    CASE(event_that_comes_while_the_run_goes_on_is_not_missed, TWO),
    CASE(first_event_of_a_name_counts, PLAIN),
    CASE(wait_that_times_out_gives_nothing_for_ever, PLAIN),
    CASE(wait_without_a_limit, PLAIN),
    CASE(wait_of_no_time_just_looks, PLAIN),
    CASE(events_of_other_names_and_runs_wake_nobody, PLAIN),
    CASE(event_for_a_run_that_is_not_waiting_leaves_its_time, PLAIN),
    CASE(events_for_no_run_are_refused, PLAIN),
    CASE(values_can_be_read_while_the_run_goes_on, TWO),
    CASE(values_are_kept_as_last_set, PLAIN),
    CASE(value_that_is_no_json_fails_the_run, PLAIN),
    CASE(setting_a_value_stores_the_step_before, TWO),
    CASE(values_and_steps_of_no_run_are_refused, PLAIN),
    CASE(transactional_step_commits_with_its_writes, TWO | FRESH),
    CASE(connection_of_a_run_is_its_backends, PLAIN),
    CASE(transactional_step_that_fails_writes_nothing, TWO | FRESH),
    CASE(transactional_step_that_pauses_writes_nothing, TWO | FRESH),
    CASE(transactional_step_with_bad_output_writes_nothing, TWO | FRESH),
    CASE(transactional_step_that_is_left_writes_nothing, TWO | FRESH),
    CASE(transactional_step_whose_lease_is_lost_writes_nothing, TWO | FRESH),
    CASE(transaction_of_a_step_ends_when_the_run_has_to_stop, TWO | FRESH),
    CASE(values_set_in_a_transactional_step_are_part_of_it, TWO | FRESH),
    CASE(what_the_store_does_in_a_transactional_step_is_part_of_it, TWO | FRESH),
    CASE_ON(transactional_step_inside_the_users_transaction_is_refused, TWO | FRESH, ON_LENT),
    CASE_ON(transactional_step_on_a_borrowed_connection_commits, TWO | FRESH, ON_LENT),
    CASE_ON(transactional_step_of_a_zombie_writes_nothing, TWO | FRESH, ON_SERVER),
    CASE_ON(transactional_step_that_is_cancelled_meanwhile_is_kept, TWO | FRESH, ON_SERVER),
    CASE(stop_gives_the_run_back_at_the_next_step, PLAIN),
    CASE(run_that_has_no_steps_left_ends_in_spite_of_a_stop, PLAIN),
    CASE(worker_ends_after_as_many_runs_as_it_was_told, PLAIN),
    CASE(worker_until_empty_waits_for_its_retries, PLAIN),
    CASE(worker_takes_several_runs_at_once_when_told_to, PLAIN),
    CASE(stop_ends_what_the_function_waits_for_and_the_worker, PLAIN),
    CASE(message_without_a_run_goes_to_the_dead_letters, PLAIN),
    CASE(run_of_another_workflow_is_given_back, PLAIN),
    CASE(run_of_another_workflow_does_not_count, PLAIN),
    CASE(texts_are_quoted_and_unquoted, PLAIN),
    CASE_ON(transaction_ended_on_a_borrowed_connection_fails_the_run, TWO | FRESH, ON_LENT),
    CASE(failure_may_quote_the_database, TWO | FRESH),
    CASE(transaction_that_the_body_ended_fails_the_run, TWO | FRESH),
    CASE(null_runs_are_refused, NO_STORE),
};
