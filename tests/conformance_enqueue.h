/* Enqueueing: what is stored, what is refused, order, times, expiry, deduplication. */

static void enqueue_gives_increasing_ids(void)
{
    int64_t first = put(), second = put(), third = put();
    YES(first < second);
    YES(second < third);
    NUMBERS(3, 0, 0, 0, 0);
}

static void enqueue_needs_neither_desc_nor_receipt(void)
{
    OK(pgqrs_enqueue(T.store, T.queue, "{}", NULL, NULL));
    SAME("{}", must_take()->payload);
}

static void enqueue_delivers_the_same_bytes(void)
{
    static const char *const payloads[] = {
        "0",
        "-0",
        "null",
        "true",
        "\"\"",
        "[]",
        "{}",
        " {\"a\" :  1 }\n",
        "\t[1,2,3]\r\n",
        "1.0",
        "1e400",
        "12345678901234567890123456789",
        "{\"a\":1,\"a\":2}",
        "{\"b\":1,\"a\":2}",
        "\"\\u0000\"",
        "\"\\ud83d\\ude00\"",
        "\"\\/\\\"\\\\\\b\\f\\n\\r\\t\"",
        "\"caf\xC3\xA9 \xF0\x9F\x90\x98 \xE4\xB8\xAD\xE6\x96\x87\"",
        "{\"quote\":\"it's \\\"so\\\"; DROP TABLE messages; -- $1 ? %s %n\"}",
    };
    size_t i;
    for (i = 0; i < COUNT_OF(payloads); i++) {
        pgqrs_enqueue_desc desc = {0};
        int64_t id = put_into(T.queue, payloads[i], desc).id;
        const pgqrs_message *message = must_take();
        EQ(id, message->id);
        SAME(payloads[i], message->payload);
        EQ(strlen(payloads[i]), message->payload_size);
        SAME(payloads[i], must_look(id)->payload);
        OK(pgqrs_archive(T.store, message));
        SAME(payloads[i], must_look(id)->payload);
    }
}

static void enqueue_many_delivers_the_same_bytes(void)
{
    static const char *const payloads[] = {"{\"a,b\":\"{}\"}", "\"NULL\"", "null", "\"\\\\\\\"\"", "[\"\xC3\xBC\"]", "0"};
    pgqrs_enqueue_item items[COUNT_OF(payloads)];
    const pgqrs_messages *got;
    size_t i;
    memset(items, 0, sizeof(items));
    for (i = 0; i < COUNT_OF(payloads); i++)
        items[i].payload = payloads[i];
    OK(pgqrs_enqueue_many(T.store, T.queue, items, COUNT_OF(items), NULL));
    got = take_many(100);
    EQ(COUNT_OF(payloads), got->count);
    for (i = 0; i < COUNT_OF(payloads); i++) {
        SAME(payloads[i], got->items[i].payload);
        EQ(strlen(payloads[i]), got->items[i].payload_size);
    }
}

static void enqueue_takes_payload_size_at_its_word(void)
{
    pgqrs_enqueue_desc desc = {.payload_size = 7};
    const pgqrs_message *message;
    put_into(T.queue, "{\"a\":1}, and not this", desc);
    message = must_take();
    SAME("{\"a\":1}", message->payload);
    EQ(7, message->payload_size);
}

static void enqueue_takes_the_largest_payload(void)
{
    size_t size = 1024 * 1024;
    char *payload = json_string_of(size);
    pgqrs_result result = pgqrs_enqueue(T.store, T.queue, payload, NULL, NULL);
    const pgqrs_message *message;
    if (result == PGQRS_OK) {
        message = must_take();
        EQ(size, message->payload_size);
        EQ(0, memcmp(payload, message->payload, size + 1));
    }
    free(payload);
    OK(result);
}

static void enqueue_refuses_one_byte_too_many(void)
{
    char *payload = json_string_of(1024 * 1024 + 1);
    pgqrs_result result = pgqrs_enqueue(T.store, T.queue, payload, NULL, NULL);
    free(payload);
    FAILS_NAMING(ERR_PAYLOAD_TOO_LARGE, "1048576", result);
    NUMBERS(0, 0, 0, 0, 0);
}

static void enqueue_takes_large_unicode(void)
{
    static const char elephant[] = "\xF0\x9F\x90\x98";
    size_t count = 50000, size = count * 4 + 2, i;
    char *payload = json_string_of(size);
    pgqrs_result result;
    const pgqrs_message *message;
    for (i = 0; i < count; i++)
        memcpy(payload + 1 + 4 * i, elephant, 4);
    result = pgqrs_enqueue(T.store, T.queue, payload, NULL, NULL);
    if (result == PGQRS_OK) {
        message = must_take();
        EQ(size, message->payload_size);
        EQ(0, memcmp(payload, message->payload, size + 1));
    }
    free(payload);
    OK(result);
}

static void enqueue_refuses_malformed_json_with_the_position(void)
{
    static const struct {
        const char *payload;
        int offset; /* of the first byte that is wrong */
    } broken[] = {
        {"{", 1},
        {"[1,]", 3},
        {"{\"a\" 1}", 5},
        {"nul", 0},
        {"'a'", 0},
        {"{} x", 3},
        {"01", 1},
        {"\"\\x\"", 1},
        {"\"tab\there\"", 4},
        {"\"\xC3(\"", 1},
        {"\"\xED\xA0\x80\"", 1},
        {"\"\\ud800\"", 1},
        {"[1 " SECRET "]", 3},
        {"\xEF\xBB\xBF{}", 0},
    };
    size_t i;
    for (i = 0; i < COUNT_OF(broken); i++) {
        pgqrs_result result = pgqrs_enqueue(T.store, T.queue, broken[i].payload, NULL, NULL);
        if (result != PGQRS_ERR_JSON)
            fail_at(__FILE__, __LINE__, "payload %d gave %s", (int)i, pgqrs_result_name(result));
        FAILS(ERR_JSON, result);
        YES(digits_in(last_message(T.store)));
    }
    FAILS(ERR_JSON, pgqrs_enqueue(T.store, T.queue, "", NULL, NULL));
    FAILS(ERR_JSON, pgqrs_enqueue(T.store, T.queue, "  ", NULL, NULL));
    NUMBERS(0, 0, 0, 0, 0);
}

static void enqueue_names_the_byte_where_the_json_went_wrong(void)
{
    FAILS_NAMING(ERR_JSON, "17", pgqrs_enqueue(T.store, T.queue, "[1,2,3,4,5,6,7,8,]", NULL, NULL));
}

static void enqueue_says_what_a_plain_text_lacks(void)
{
    FAILS_NAMING(ERR_JSON, "quotes", pgqrs_enqueue(T.store, T.queue, "hello", NULL, NULL));
    FAILS_NAMING(ERR_JSON, "quotes", pgqrs_enqueue(T.store, T.queue, " \n'hello'", NULL, NULL));
    FAILS_NAMING(ERR_JSON, "quotes", pgqrs_enqueue(T.store, T.queue, "true story", NULL, NULL));
    FAILS(ERR_JSON, pgqrs_enqueue(T.store, T.queue, "{hello}", NULL, NULL));
    NO(strstr(last_message(T.store), "quotes") != NULL);
}

static void enqueue_refuses_a_nul_inside(void)
{
    pgqrs_enqueue_desc desc = {.payload_size = 5};
    FAILS(ERR_JSON, pgqrs_enqueue(T.store, T.queue, "\"a\0b\"", &desc, NULL));
    desc.payload_size = 3;
    FAILS(ERR_JSON, pgqrs_enqueue(T.store, T.queue, "{}\0", &desc, NULL));
    NUMBERS(0, 0, 0, 0, 0);
}

static char *nested(size_t brackets)
{
    char *text = text_of(brackets * 2, '[');
    memset(text + brackets, ']', brackets);
    return text;
}

static void enqueue_limits_the_depth(void)
{
    /* The root is at depth 0, so 65 brackets end at depth 64. */
    char *deep = nested(65), *deeper = nested(66);
    pgqrs_result first = pgqrs_enqueue(T.store, T.queue, deep, NULL, NULL);
    pgqrs_result second = pgqrs_enqueue(T.store, T.queue, deeper, NULL, NULL);
    free(deep);
    free(deeper);
    RESULT(PGQRS_OK, first);
    FAILS_NAMING(ERR_JSON_TOO_DEEP, "64", second);
    NUMBERS(1, 0, 0, 0, 0);
}

static void enqueue_counts_a_scalar_as_a_level(void)
{
    pgqrs_store_desc desc = test_desc();
    desc.validation.max_depth = 2;
    reopen_with(&desc);
    OK(pgqrs_queue_create(T.store, T.queue, NULL));
    OK(pgqrs_enqueue(T.store, T.queue, "{\"a\":[1]}", NULL, NULL));
    FAILS(ERR_JSON_TOO_DEEP, pgqrs_enqueue(T.store, T.queue, "{\"a\":[[1]]}", NULL, NULL));
    FAILS(ERR_JSON_TOO_DEEP, pgqrs_enqueue(T.store, T.queue, "{\"a\":{\"b\":{\"c\":0}}}", NULL, NULL));
}

static void enqueue_refuses_very_deep_nesting_without_harm(void)
{
    char *deep = nested(500000);
    pgqrs_result result = pgqrs_enqueue(T.store, T.queue, deep, NULL, NULL);
    free(deep);
    FAILS(ERR_JSON_TOO_DEEP, result);
}

static void validation_limits_strings_and_keys(void)
{
    pgqrs_store_desc desc = test_desc();
    desc.validation.max_string_bytes = 8;
    reopen_with(&desc);
    OK(pgqrs_queue_create(T.store, T.queue, NULL));
    OK(pgqrs_enqueue(T.store, T.queue, "{\"12345678\":\"12345678\"}", NULL, NULL));
    FAILS(ERR_STRING_TOO_LONG, pgqrs_enqueue(T.store, T.queue, "{\"a\":[\"123456789\"]}", NULL, NULL));
    FAILS(ERR_STRING_TOO_LONG, pgqrs_enqueue(T.store, T.queue, "{\"123456789\":1}", NULL, NULL));
    /* Decoded: 8 escapes are 8 bytes; 3 characters of 3 bytes are too many. */
    OK(pgqrs_enqueue(T.store, T.queue, "\"\\n\\n\\n\\n\\n\\n\\n\\n\"", NULL, NULL));
    FAILS(ERR_STRING_TOO_LONG, pgqrs_enqueue(T.store, T.queue, "\"\\u4e2d\\u4e2d\\u4e2d\"", NULL, NULL));
    /* Numbers are not strings. */
    OK(pgqrs_enqueue(T.store, T.queue, "1234567890", NULL, NULL));
}

static void validation_refuses_forbidden_keys_at_any_depth(void)
{
    static const char *const keys[] = {"__proto__", "password"};
    pgqrs_store_desc desc = test_desc();
    desc.validation.forbidden_keys = keys;
    desc.validation.forbidden_key_count = COUNT_OF(keys);
    reopen_with(&desc);
    OK(pgqrs_queue_create(T.store, T.queue, NULL));
    FAILS_NAMING(ERR_FORBIDDEN_KEY, "password", pgqrs_enqueue(T.store, T.queue, "{\"password\":1}", NULL, NULL));
    FAILS(ERR_FORBIDDEN_KEY, pgqrs_enqueue(T.store, T.queue, "[{\"a\":[{\"__proto__\":0}]}]", NULL, NULL));
    /* Escapes do not hide it. */
    FAILS(ERR_FORBIDDEN_KEY, pgqrs_enqueue(T.store, T.queue, "{\"p\\u0061ssword\":1}", NULL, NULL));
    OK(pgqrs_enqueue(T.store, T.queue, "{\"a\":\"password\",\"passwords\":1}", NULL, NULL));
    NUMBERS(1, 0, 0, 0, 0);
}

static void validation_wants_required_keys(void)
{
    static const char *const keys[] = {"to", "subject"};
    pgqrs_store_desc desc = test_desc();
    desc.validation.required_keys = keys;
    desc.validation.required_key_count = COUNT_OF(keys);
    reopen_with(&desc);
    OK(pgqrs_queue_create(T.store, T.queue, NULL));
    OK(pgqrs_enqueue(T.store, T.queue, "{\"subject\":1,\"to\":2}", NULL, NULL));
    FAILS_NAMING(ERR_MISSING_KEY, "subject", pgqrs_enqueue(T.store, T.queue, "{\"to\":2}", NULL, NULL));
    FAILS(ERR_MISSING_KEY, pgqrs_enqueue(T.store, T.queue, "{\"to\":2,\"inner\":{\"subject\":1}}", NULL, NULL));
    FAILS(ERR_MISSING_KEY, pgqrs_enqueue(T.store, T.queue, "{}", NULL, NULL));
    /* Only an object at the top must have them. */
    OK(pgqrs_enqueue(T.store, T.queue, "[1]", NULL, NULL));
    OK(pgqrs_enqueue(T.store, T.queue, "7", NULL, NULL));
}

static void validation_copies_its_keys(void)
{
    char key[] = "volatile";
    const char *keys[1];
    pgqrs_store_desc desc = test_desc();
    keys[0] = key;
    desc.validation.forbidden_keys = keys;
    desc.validation.forbidden_key_count = 1;
    reopen_with(&desc);
    OK(pgqrs_queue_create(T.store, T.queue, NULL));
    memset(key, 'x', 8);
    keys[0] = NULL;
    FAILS(ERR_FORBIDDEN_KEY, pgqrs_enqueue(T.store, T.queue, "{\"volatile\":1}", NULL, NULL));
}

static void validation_has_a_smaller_limit_when_told(void)
{
    pgqrs_store_desc desc = test_desc();
    desc.validation.max_payload_bytes = 10;
    reopen_with(&desc);
    OK(pgqrs_queue_create(T.store, T.queue, NULL));
    OK(pgqrs_enqueue(T.store, T.queue, "\"12345678\"", NULL, NULL));
    FAILS_NAMING(ERR_PAYLOAD_TOO_LARGE, "10", pgqrs_enqueue(T.store, T.queue, "\"123456789\"", NULL, NULL));
}

static void validation_strict_has_the_stricter_values(void)
{
    pgqrs_store_desc desc = test_desc();
    char *text = json_string_of(1024 + 2), *longer = json_string_of(1025 + 2);
    pgqrs_result first, second;
    desc.validation = pgqrs_validation_strict();
    reopen_with(&desc);
    OK(pgqrs_queue_create(T.store, T.queue, NULL));
    first = pgqrs_enqueue(T.store, T.queue, text, NULL, NULL);
    second = pgqrs_enqueue(T.store, T.queue, longer, NULL, NULL);
    free(text);
    free(longer);
    RESULT(PGQRS_OK, first);
    RESULT(PGQRS_ERR_STRING_TOO_LONG, second);
    FAILS(ERR_FORBIDDEN_KEY, pgqrs_enqueue(T.store, T.queue, "{\"__proto__\":1}", NULL, NULL));
    FAILS(ERR_FORBIDDEN_KEY, pgqrs_enqueue(T.store, T.queue, "{\"constructor\":1}", NULL, NULL));
    OK(pgqrs_enqueue(T.store, T.queue, "[[[[[1]]]]]", NULL, NULL));
    FAILS(ERR_JSON_TOO_DEEP, pgqrs_enqueue(T.store, T.queue, "[[[[[[1]]]]]]", NULL, NULL));
    EQ(1000, pgqrs_store_settings(T.store)->validation.max_enqueue_per_second);
    EQ(50, pgqrs_store_settings(T.store)->validation.max_enqueue_burst);
}

static void rate_limit_says_how_long_to_wait(void)
{
    pgqrs_store_desc desc = test_desc();
    int i;
    desc.validation.max_enqueue_per_second = 1;
    desc.validation.max_enqueue_burst = 3;
    reopen_with(&desc);
    OK(pgqrs_queue_create(T.store, T.queue, NULL));
    for (i = 0; i < 3; i++)
        OK(pgqrs_enqueue(T.store, T.queue, "1", NULL, NULL));
    FAILS(ERR_RATE_LIMITED, pgqrs_enqueue(T.store, T.queue, "1", NULL, NULL));
    BETWEEN(1, 1000, pgqrs_last_error(T.store)->retry_after_ms);
    EQ(PGQRS_KIND_RETRY, pgqrs_last_error(T.store)->kind);
    NUMBERS(3, 0, 0, 0, 0);
}

static void rate_limit_waiting_as_told_is_enough(void)
{
    pgqrs_store_desc desc = test_desc();
    desc.validation.max_enqueue_per_second = 20;
    desc.validation.max_enqueue_burst = 1;
    reopen_with(&desc);
    OK(pgqrs_queue_create(T.store, T.queue, NULL));
    OK(pgqrs_enqueue(T.store, T.queue, "1", NULL, NULL));
    if (pgqrs_enqueue(T.store, T.queue, "1", NULL, NULL) == PGQRS_ERR_RATE_LIMITED) {
        int64_t wait = pgqrs_last_error(T.store)->retry_after_ms;
        BETWEEN(1, 50, wait);
        sleep_ms(wait);
        OK(pgqrs_enqueue(T.store, T.queue, "1", NULL, NULL));
    } else {
        OK(pgqrs_last_error(T.store)->code); /* so slow a machine that a token came back meanwhile */
    }
}

static void rate_limit_takes_nothing_for_refused_payloads(void)
{
    pgqrs_store_desc desc = test_desc();
    int i;
    desc.validation.max_enqueue_per_second = 1;
    desc.validation.max_enqueue_burst = 2;
    desc.validation.max_payload_bytes = 4;
    reopen_with(&desc);
    OK(pgqrs_queue_create(T.store, T.queue, NULL));
    for (i = 0; i < 10; i++) {
        FAILS(ERR_JSON, pgqrs_enqueue(T.store, T.queue, "{", NULL, NULL));
        FAILS(ERR_PAYLOAD_TOO_LARGE, pgqrs_enqueue(T.store, T.queue, "\"1234\"", NULL, NULL));
    }
    OK(pgqrs_enqueue(T.store, T.queue, "1", NULL, NULL));
    OK(pgqrs_enqueue(T.store, T.queue, "1", NULL, NULL));
}

static void rate_limit_batch_is_all_or_nothing(void)
{
    pgqrs_store_desc desc = test_desc();
    pgqrs_enqueue_item items[4];
    size_t i;
    memset(items, 0, sizeof(items));
    for (i = 0; i < COUNT_OF(items); i++)
        items[i].payload = "1";
    desc.validation.max_enqueue_per_second = 1;
    desc.validation.max_enqueue_burst = 3;
    reopen_with(&desc);
    OK(pgqrs_queue_create(T.store, T.queue, NULL));
    OK(pgqrs_enqueue_many(T.store, T.queue, items, 2, NULL));
    FAILS(ERR_RATE_LIMITED, pgqrs_enqueue_many(T.store, T.queue, items, 2, NULL));
    OK(pgqrs_enqueue_many(T.store, T.queue, items, 1, NULL));
    NUMBERS(3, 0, 0, 0, 0);
}

/* Waiting would never help: that is a mistake of the caller, not a passing state. */
static void rate_limit_refuses_a_batch_above_the_burst_for_good(void)
{
    pgqrs_store_desc desc = test_desc();
    pgqrs_enqueue_item items[4];
    size_t i;
    memset(items, 0, sizeof(items));
    for (i = 0; i < COUNT_OF(items); i++)
        items[i].payload = "1";
    desc.validation.max_enqueue_per_second = 100;
    desc.validation.max_enqueue_burst = 3;
    reopen_with(&desc);
    OK(pgqrs_queue_create(T.store, T.queue, NULL));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "3", pgqrs_enqueue_many(T.store, T.queue, items, 4, NULL));
    NUMBERS(0, 0, 0, 0, 0);
}

static void enqueue_to_an_unknown_queue_names_it(void)
{
    FAILS_NAMING(ERR_QUEUE_NOT_FOUND, "no-such-queue", pgqrs_enqueue(T.store, "no-such-queue", "1", NULL, NULL));
}

static void enqueue_refuses_missing_arguments(void)
{
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "queue", pgqrs_enqueue(T.store, NULL, "1", NULL, NULL));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "payload", pgqrs_enqueue(T.store, T.queue, NULL, NULL, NULL));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "items", pgqrs_enqueue_many(T.store, T.queue, NULL, 1, NULL));
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "queue", pgqrs_enqueue_many(T.store, NULL, NULL, 0, NULL));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_enqueue(NULL, T.queue, "1", NULL, NULL));
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, pgqrs_enqueue_many(NULL, T.queue, NULL, 0, NULL));
}

static void enqueue_refuses_times_that_make_no_sense(void)
{
    const pgqrs_enqueue_desc wrong[] = {
        {.delay_ms = -1},
        {.delay_ms = INT64_MIN},
        {.delay_ms = INT64_MAX},
        {.delay_ms = INT64_MAX / 1000},
        {.at_us = -1},
        {.at_us = INT64_MIN},
        {.delay_ms = 1, .at_us = T.now_us},
        {.expire_ms = -1},
        {.expire_ms = INT64_MAX},
        {.expire_ms = INT64_MAX / 1000},
        {.expire_at_us = -5},
        {.expire_ms = 1, .expire_at_us = T.now_us},
    };
    size_t i;
    for (i = 0; i < COUNT_OF(wrong); i++) {
        pgqrs_result result = pgqrs_enqueue(T.store, T.queue, "1", &wrong[i], NULL);
        if (result != PGQRS_ERR_INVALID_ARGUMENT)
            fail_at(__FILE__, __LINE__, "desc %d gave %s", (int)i, pgqrs_result_name(result));
        FAILS(ERR_INVALID_ARGUMENT, result);
    }
    NUMBERS(0, 0, 0, 0, 0);
}

static void enqueue_names_the_argument_that_is_wrong(void)
{
    pgqrs_enqueue_desc desc = {.delay_ms = -1};
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "delay_ms", pgqrs_enqueue(T.store, T.queue, "1", &desc, NULL));
    memset(&desc, 0, sizeof(desc));
    desc.at_us = -1;
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "at_us", pgqrs_enqueue(T.store, T.queue, "1", &desc, NULL));
    memset(&desc, 0, sizeof(desc));
    desc.expire_ms = -1;
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "expire_ms", pgqrs_enqueue(T.store, T.queue, "1", &desc, NULL));
    memset(&desc, 0, sizeof(desc));
    desc.priority = 40000;
    FAILS_NAMING(ERR_INVALID_ARGUMENT, "priority", pgqrs_enqueue(T.store, T.queue, "1", &desc, NULL));
}

static void enqueue_limits_the_priority(void)
{
    pgqrs_enqueue_desc desc = {.priority = 32767};
    OK(pgqrs_enqueue(T.store, T.queue, "1", &desc, NULL));
    desc.priority = -32768;
    OK(pgqrs_enqueue(T.store, T.queue, "1", &desc, NULL));
    desc.priority = 32768;
    FAILS(ERR_INVALID_ARGUMENT, pgqrs_enqueue(T.store, T.queue, "1", &desc, NULL));
    desc.priority = -32769;
    FAILS(ERR_INVALID_ARGUMENT, pgqrs_enqueue(T.store, T.queue, "1", &desc, NULL));
    EQ(32767, must_take()->priority);
    EQ(-32768, must_take()->priority);
}

static void enqueue_limits_key_and_producer(void)
{
    char *longest = text_of(255, 'k'), *longer = text_of(256, 'k');
    pgqrs_enqueue_desc good = {.dedup_key = longest, .producer = longest};
    pgqrs_enqueue_desc bad_key = {.dedup_key = longer};
    pgqrs_enqueue_desc bad_producer = {.producer = longer};
    pgqrs_receipt receipt = {0, false};
    pgqrs_result first = pgqrs_enqueue(T.store, T.queue, "1", &good, &receipt);
    pgqrs_result second, third;
    const pgqrs_message *message = first == PGQRS_OK ? look(receipt.id) : NULL;
    bool same = message && message->dedup_key && message->producer && strcmp(message->dedup_key, longest) == 0 &&
                strcmp(message->producer, longest) == 0;
    second = pgqrs_enqueue(T.store, T.queue, "1", &bad_key, NULL);
    third = pgqrs_enqueue(T.store, T.queue, "1", &bad_producer, NULL);
    free(longest);
    free(longer);
    RESULT(PGQRS_OK, first);
    YES(same);
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, second);
    RESULT(PGQRS_ERR_INVALID_ARGUMENT, third);
    NUMBERS(1, 0, 0, 0, 0);
}

static void enqueue_keeps_key_and_producer_for_inspection(void)
{
    int64_t id = put_as((pgqrs_enqueue_desc){.dedup_key = "order-7", .producer = "shop \xC3\xA9 'x'"});
    const pgqrs_message *message = must_look(id);
    SAME("order-7", message->dedup_key);
    SAME("shop \xC3\xA9 'x'", message->producer);
    message = must_look(put());
    YES(message->dedup_key == NULL);
    YES(message->producer == NULL);
}

static void enqueue_many_of_nothing_is_fine(void)
{
    pgqrs_enqueue_item item = {.payload = "1"};
    OK(pgqrs_enqueue_many(T.store, T.queue, NULL, 0, NULL));
    OK(pgqrs_enqueue_many(T.store, T.queue, &item, 0, NULL));
    NUMBERS(0, 0, 0, 0, 0);
}

static void enqueue_many_gives_receipts_in_order(void)
{
    int64_t ids[20];
    const pgqrs_messages *got;
    size_t i;
    put_batch(T.queue, 20, 0, ids);
    for (i = 1; i < 20; i++)
        YES(ids[i - 1] < ids[i]);
    got = take_many(20);
    EQ(20, got->count);
    for (i = 0; i < 20; i++)
        EQ(ids[i], got->items[i].id);
}

static void enqueue_many_is_all_or_nothing_and_names_the_index(void)
{
    static const struct {
        const char *payload;
        pgqrs_enqueue_desc desc;
        pgqrs_result result;
    } bad[] = {
        {"{", {0}, PGQRS_ERR_JSON},
        {NULL, {0}, PGQRS_ERR_INVALID_ARGUMENT},
        {"1", {.priority = 99999}, PGQRS_ERR_INVALID_ARGUMENT},
        {"1", {.delay_ms = -3}, PGQRS_ERR_INVALID_ARGUMENT},
        {"1", {.delay_ms = 1, .at_us = 1}, PGQRS_ERR_INVALID_ARGUMENT},
        {"1", {.expire_ms = -3}, PGQRS_ERR_INVALID_ARGUMENT},
    };
    size_t i, j;
    for (i = 0; i < COUNT_OF(bad); i++) {
        pgqrs_enqueue_item items[9];
        memset(items, 0, sizeof(items));
        for (j = 0; j < COUNT_OF(items); j++)
            items[j].payload = SECRET_PAYLOAD;
        items[6].payload = bad[i].payload;
        items[6].desc = bad[i].desc;
        RESULT(bad[i].result, pgqrs_enqueue_many(T.store, T.queue, items, COUNT_OF(items), NULL));
        EQ(6, pgqrs_last_error(T.store)->index);
        check_error(pgqrs_last_error(T.store), bad[i].result, "enqueue_many", __FILE__, __LINE__);
    }
    NUMBERS(0, 0, 0, 0, 0);
}

static void enqueue_of_one_has_no_index(void)
{
    FAILS(ERR_JSON, pgqrs_enqueue(T.store, T.queue, "{", NULL, NULL));
    EQ(-1, pgqrs_last_error(T.store)->index);
}

static void enqueue_takes_ten_thousand_at_once(void)
{
    enum { many = 10000 };
    int64_t *ids = (int64_t *)calloc(many, sizeof(*ids));
    const pgqrs_messages *got;
    pgqrs_result result;
    pgqrs_message_filter filter = {.state = PGQRS_ARCHIVED};
    size_t i, wrong = 0;
    assert_non_null(ids);
    put_batch(T.queue, many, 0, ids);
    got = take_many(many);
    for (i = 0; i < got->count && i < many; i++)
        wrong += got->items[i].id != ids[i];
    free(ids);
    EQ(many, got->count);
    EQ(0, wrong);
    result = pgqrs_archive_many(T.store, got->items, got->count, NULL);
    OK(result);
    filter.queue = T.queue;
    EQ(many, count_where(filter));
}

static void delayed_message_comes_when_due_and_not_before(void)
{
    int64_t id = put_as((pgqrs_enqueue_desc){.delay_ms = 5000});
    STATE("delayed", id);
    EQ(T.now_us + 5 * SECOND_US, must_look(id)->due_at_us);
    NUMBERS(0, 1, 0, 0, 0);
    YES(take() == NULL);
    advance_ms(4999);
    YES(take() == NULL);
    advance_ms(1);
    STATE("ready", id);
    NUMBERS(1, 0, 0, 0, 0);
    EQ(id, must_take()->id);
}

static void message_at_a_time_comes_then(void)
{
    int64_t id = put_as((pgqrs_enqueue_desc){.at_us = T.now_us + 7});
    YES(take() == NULL);
    EQ(T.now_us + 7, must_look(id)->due_at_us);
    T.now_us += 6;
    YES(take() == NULL);
    T.now_us += 1;
    EQ(id, must_take()->id);
}

static void message_at_a_past_time_comes_at_once(void)
{
    int64_t id = put_as((pgqrs_enqueue_desc){.at_us = T.now_us - HOUR_US});
    STATE("ready", id);
    EQ(id, must_take()->id);
}

static void delayed_messages_come_in_the_order_they_fall_due(void)
{
    int64_t late = put_as((pgqrs_enqueue_desc){.delay_ms = 3000});
    int64_t early = put_as((pgqrs_enqueue_desc){.delay_ms = 1000});
    int64_t middle = put_as((pgqrs_enqueue_desc){.delay_ms = 2000});
    advance_ms(1000);
    EQ(early, must_take()->id);
    YES(take() == NULL);
    advance_ms(1000);
    EQ(middle, must_take()->id);
    advance_ms(1000);
    EQ(late, must_take()->id);
    YES(take() == NULL);
}

static void delayed_message_does_not_hold_up_the_others(void)
{
    int64_t delayed = put_as((pgqrs_enqueue_desc){.delay_ms = 1000, .priority = 100});
    int64_t plain = put();
    const pgqrs_messages *got = take_many(10);
    EQ(1, got->count);
    EQ(plain, got->items[0].id);
    STATE("delayed", delayed);
}

static void delay_is_counted_from_now_even_for_large_values(void)
{
    int64_t fifty_years_ms = INT64_C(50) * 365 * 86400 * 1000;
    int64_t id = put_as((pgqrs_enqueue_desc){.delay_ms = fifty_years_ms});
    EQ(T.now_us + fifty_years_ms * 1000, must_look(id)->due_at_us);
    YES(take() == NULL);
}

static void many_delayed_messages_all_come(void)
{
    enum { many = 1500 };
    pgqrs_enqueue_item *items = (pgqrs_enqueue_item *)calloc(many, sizeof(*items));
    size_t i, got = 0;
    pgqrs_result result;
    assert_non_null(items);
    for (i = 0; i < many; i++) {
        items[i].payload = "1";
        items[i].desc.delay_ms = 1000 + (int64_t)(i % 7);
    }
    result = pgqrs_enqueue_many(T.store, T.queue, items, many, NULL);
    free(items);
    OK(result);
    YES(take() == NULL);
    advance_ms(2000);
    for (;;) {
        const pgqrs_messages *batch = take_many(100);
        if (batch->count == 0)
            break;
        got += batch->count;
        YES(got <= many);
    }
    EQ(many, got);
}

static void expired_message_is_archived_and_says_so(void)
{
    int64_t id = put_as((pgqrs_enqueue_desc){.expire_ms = 1000});
    const pgqrs_message *message = must_look(id);
    EQ(T.now_us + SECOND_US, message->expires_at_us);
    advance_ms(1001);
    YES(take() == NULL);
    message = must_look(id);
    SAME("archived", state_name(message->state));
    SAME("expired", message->reason);
    EQ(0, message->attempt);
    YES(message->finished_at_us > 0);
    NUMBERS(0, 0, 0, 1, 0);
}

static void expiry_leaves_alone_what_was_started_in_time(void)
{
    int64_t id = put_as((pgqrs_enqueue_desc){.expire_ms = 1000});
    const pgqrs_message *message;
    advance_ms(999);
    message = must_take();
    advance_ms(5000);
    OK(pgqrs_archive(T.store, message));
    message = must_look(id);
    SAME("archived", state_name(message->state));
    YES(message->reason == NULL || strcmp(message->reason, "expired") != 0);
}

static void expiry_does_not_end_a_message_that_failed_meanwhile(void)
{
    int64_t id = put_as((pgqrs_enqueue_desc){.expire_ms = 1000});
    OK(pgqrs_release(T.store, must_take(), &(pgqrs_release_desc){.delay_ms = 5000}));
    advance_ms(5000);
    EQ(id, must_take()->id);
}

static void expiry_at_a_time(void)
{
    int64_t gone = put_as((pgqrs_enqueue_desc){.expire_at_us = T.now_us + 10 * SECOND_US});
    int64_t stays = put_as((pgqrs_enqueue_desc){.expire_at_us = T.now_us + 20 * SECOND_US});
    EQ(T.now_us + 10 * SECOND_US, must_look(gone)->expires_at_us);
    advance_ms(15000);
    EQ(stays, must_take()->id);
    STATE("archived", gone);
}

static void expiry_in_the_past_is_never_delivered(void)
{
    int64_t id = put_as((pgqrs_enqueue_desc){.expire_at_us = T.now_us - 1});
    YES(take() == NULL);
    STATE("archived", id);
}

static void expiry_before_the_delay_ends_wins(void)
{
    int64_t id = put_as((pgqrs_enqueue_desc){.delay_ms = 2000, .expire_ms = 1000});
    advance_ms(3000);
    YES(take() == NULL);
    STATE("archived", id);
}

static void expired_messages_do_not_make_a_claim_short(void)
{
    int64_t last[5];
    int i;
    for (i = 0; i < 120; i++)
        put_as((pgqrs_enqueue_desc){.expire_ms = 1000});
    put_batch(T.queue, 5, 0, last);
    advance_ms(2000);
    EQ(last[0], must_take()->id);
    EQ(4, take_many(10)->count);
    NUMBERS(0, 0, 5, 120, 0);
}

static void expired_messages_in_between_are_left_out(void)
{
    int64_t live[6];
    const pgqrs_messages *got;
    size_t i;
    for (i = 0; i < 6; i++) {
        live[i] = put();
        put_as((pgqrs_enqueue_desc){.expire_ms = 10});
    }
    advance_ms(20);
    got = take_many(6);
    EQ(6, got->count);
    for (i = 0; i < 6; i++)
        EQ(live[i], got->items[i].id);
}

static void dedup_gives_the_message_that_is_there(void)
{
    pgqrs_receipt first = put_into(T.queue, "1", (pgqrs_enqueue_desc){.dedup_key = "k"});
    pgqrs_receipt second = put_into(T.queue, "2", (pgqrs_enqueue_desc){.dedup_key = "k"});
    NO(first.duplicate);
    YES(second.duplicate);
    EQ(first.id, second.id);
    NUMBERS(1, 0, 0, 0, 0);
    SAME("1", must_take()->payload);
    YES(take() == NULL);
}

static void dedup_holds_while_delayed_and_while_leased(void)
{
    pgqrs_receipt first = put_into(T.queue, "1", (pgqrs_enqueue_desc){.dedup_key = "k", .delay_ms = 1000});
    YES(put_into(T.queue, "2", (pgqrs_enqueue_desc){.dedup_key = "k"}).duplicate);
    advance_ms(1000);
    EQ(first.id, must_take()->id);
    YES(put_into(T.queue, "3", (pgqrs_enqueue_desc){.dedup_key = "k"}).duplicate);
    NUMBERS(0, 0, 1, 0, 0);
}

static void dedup_holds_through_a_retry(void)
{
    pgqrs_receipt first = put_into(T.queue, "1", (pgqrs_enqueue_desc){.dedup_key = "k"});
    pgqrs_receipt second;
    OK(pgqrs_retry(T.store, must_take(), "no luck"));
    second = put_into(T.queue, "2", (pgqrs_enqueue_desc){.dedup_key = "k"});
    YES(second.duplicate);
    EQ(first.id, second.id);
}

static void dedup_key_is_free_after_the_end(void)
{
    static const pgqrs_verdict ends[] = {PGQRS_ARCHIVE, PGQRS_DELETE, PGQRS_REJECT};
    size_t i;
    int64_t before = 0;
    for (i = 0; i < COUNT_OF(ends) + 1; i++) {
        pgqrs_receipt receipt = put_into(T.queue, "1", (pgqrs_enqueue_desc){.dedup_key = "k"});
        NO(receipt.duplicate);
        YES(receipt.id > before);
        before = receipt.id;
        if (i < COUNT_OF(ends)) {
            pgqrs_settlement item = pgqrs_settlement_for(must_take(), ends[i]);
            OK(pgqrs_settle(T.store, &item, 1, NULL, NULL, NULL));
            RESULT(PGQRS_OK, item.result);
        }
    }
}

static void dedup_key_is_free_after_the_last_attempt(void)
{
    int i;
    put_into(T.queue, "1", (pgqrs_enqueue_desc){.dedup_key = "k"});
    for (i = 0; i < TEST_MAX_ATTEMPTS; i++)
        OK(pgqrs_release(T.store, must_take(), NULL));
    NUMBERS(0, 0, 0, 0, 1);
    NO(put_into(T.queue, "1", (pgqrs_enqueue_desc){.dedup_key = "k"}).duplicate);
}

static void dedup_key_is_free_after_expiry(void)
{
    put_into(T.queue, "1", (pgqrs_enqueue_desc){.dedup_key = "k", .expire_ms = 10});
    advance_ms(20);
    YES(take() == NULL);
    NO(put_into(T.queue, "1", (pgqrs_enqueue_desc){.dedup_key = "k"}).duplicate);
}

static void dedup_key_is_free_after_admin_removal(void)
{
    int64_t id = put_into(T.queue, "1", (pgqrs_enqueue_desc){.dedup_key = "k"}).id;
    OK(pgqrs_message_delete(T.store, &id, 1, false, NULL));
    NO(put_into(T.queue, "1", (pgqrs_enqueue_desc){.dedup_key = "k"}).duplicate);
    OK(pgqrs_queue_purge(T.store, T.queue, NULL, NULL));
    NO(put_into(T.queue, "1", (pgqrs_enqueue_desc){.dedup_key = "k"}).duplicate);
}

static void dedup_is_per_queue_and_byte_by_byte(void)
{
    const char *other = another_queue("other");
    NO(put_into(T.queue, "1", (pgqrs_enqueue_desc){.dedup_key = "k"}).duplicate);
    NO(put_into(other, "1", (pgqrs_enqueue_desc){.dedup_key = "k"}).duplicate);
    NO(put_into(T.queue, "1", (pgqrs_enqueue_desc){.dedup_key = "K"}).duplicate);
    NO(put_into(T.queue, "1", (pgqrs_enqueue_desc){.dedup_key = "k "}).duplicate);
    NO(put_into(T.queue, "1", (pgqrs_enqueue_desc){.dedup_key = "caf\xC3\xA9"}).duplicate);
    NO(put_into(T.queue, "1", (pgqrs_enqueue_desc){.dedup_key = "cafe\xCC\x81"}).duplicate);
}

static void dedup_inside_one_batch(void)
{
    pgqrs_enqueue_item items[5];
    pgqrs_receipt receipts[5];
    memset(items, 0, sizeof(items));
    items[0].payload = "0";
    items[1].payload = "1";
    items[2].payload = "2";
    items[3].payload = "3";
    items[4].payload = "4";
    items[0].desc.dedup_key = "a";
    items[2].desc.dedup_key = "a";
    items[3].desc.dedup_key = "b";
    items[4].desc.dedup_key = "a";
    OK(pgqrs_enqueue_many(T.store, T.queue, items, 5, receipts));
    NO(receipts[0].duplicate);
    NO(receipts[1].duplicate);
    YES(receipts[2].duplicate);
    NO(receipts[3].duplicate);
    YES(receipts[4].duplicate);
    EQ(receipts[0].id, receipts[2].id);
    EQ(receipts[0].id, receipts[4].id);
    SAME("0", must_take()->payload);
    SAME("1", must_take()->payload);
    SAME("3", must_take()->payload);
    YES(take() == NULL);
}

static void dedup_in_a_batch_against_stored_ones(void)
{
    pgqrs_receipt stored = put_into(T.queue, "9", (pgqrs_enqueue_desc){.dedup_key = "b"});
    pgqrs_enqueue_item items[3];
    pgqrs_receipt receipts[3];
    memset(items, 0, sizeof(items));
    items[0].payload = items[1].payload = items[2].payload = "1";
    items[0].desc.dedup_key = "a";
    items[1].desc.dedup_key = "b";
    items[2].desc.dedup_key = "c";
    OK(pgqrs_enqueue_many(T.store, T.queue, items, 3, receipts));
    NO(receipts[0].duplicate);
    YES(receipts[1].duplicate);
    EQ(stored.id, receipts[1].id);
    NO(receipts[2].duplicate);
    NUMBERS(3, 0, 0, 0, 0);
}

static void dedup_batch_of_duplicates_only(void)
{
    pgqrs_enqueue_item items[2];
    pgqrs_receipt stored = put_into(T.queue, "9", (pgqrs_enqueue_desc){.dedup_key = "b"}), receipts[2];
    memset(items, 0, sizeof(items));
    items[0].payload = items[1].payload = "1";
    items[0].desc.dedup_key = items[1].desc.dedup_key = "b";
    OK(pgqrs_enqueue_many(T.store, T.queue, items, 2, receipts));
    YES(receipts[0].duplicate && receipts[1].duplicate);
    EQ(stored.id, receipts[0].id);
    EQ(stored.id, receipts[1].id);
    NUMBERS(1, 0, 0, 0, 0);
}

static void enqueue_does_not_keep_the_callers_memory(void)
{
    char payload[] = "{\"a\":1}", queue[80], key[] = "key", producer[] = "me";
    int64_t id;
    snprintf(queue, sizeof(queue), "%s", T.queue);
    id = put_into(queue, payload, (pgqrs_enqueue_desc){.dedup_key = key, .producer = producer}).id;
    memset(payload, 'x', sizeof(payload) - 1);
    memset(queue, 'x', sizeof(queue) - 1);
    memset(key, 'x', 3);
    SAME("{\"a\":1}", must_look(id)->payload);
    SAME("key", must_look(id)->dedup_key);
}

static const test_case enqueue_cases[] = {
    CASE(enqueue_gives_increasing_ids, PLAIN),
    CASE(enqueue_needs_neither_desc_nor_receipt, PLAIN),
    CASE(enqueue_delivers_the_same_bytes, PLAIN),
    CASE(enqueue_many_delivers_the_same_bytes, PLAIN),
    CASE(enqueue_takes_payload_size_at_its_word, PLAIN),
    CASE(enqueue_takes_the_largest_payload, PLAIN),
    CASE(enqueue_refuses_one_byte_too_many, PLAIN),
    CASE(enqueue_takes_large_unicode, PLAIN),
    CASE(enqueue_refuses_malformed_json_with_the_position, PLAIN),
    CASE(enqueue_names_the_byte_where_the_json_went_wrong, PLAIN),
    CASE(enqueue_says_what_a_plain_text_lacks, PLAIN),
    CASE(enqueue_refuses_a_nul_inside, PLAIN),
    CASE(enqueue_limits_the_depth, PLAIN),
    CASE(enqueue_counts_a_scalar_as_a_level, PLAIN),
    CASE(enqueue_refuses_very_deep_nesting_without_harm, PLAIN),
    CASE(validation_limits_strings_and_keys, PLAIN),
    CASE(validation_refuses_forbidden_keys_at_any_depth, PLAIN),
    CASE(validation_wants_required_keys, PLAIN),
    CASE(validation_copies_its_keys, PLAIN),
    CASE(validation_has_a_smaller_limit_when_told, PLAIN),
    CASE(validation_strict_has_the_stricter_values, PLAIN),
    CASE(rate_limit_says_how_long_to_wait, PLAIN),
    CASE(rate_limit_waiting_as_told_is_enough, PLAIN),
    CASE(rate_limit_takes_nothing_for_refused_payloads, PLAIN),
    CASE(rate_limit_batch_is_all_or_nothing, PLAIN),
    CASE(rate_limit_refuses_a_batch_above_the_burst_for_good, PLAIN),
    CASE(enqueue_to_an_unknown_queue_names_it, PLAIN),
    CASE(enqueue_refuses_missing_arguments, PLAIN),
    CASE(enqueue_refuses_times_that_make_no_sense, PLAIN),
    CASE(enqueue_names_the_argument_that_is_wrong, PLAIN),
    CASE(enqueue_limits_the_priority, PLAIN),
    CASE(enqueue_limits_key_and_producer, PLAIN),
    CASE(enqueue_keeps_key_and_producer_for_inspection, PLAIN),
    CASE(enqueue_many_of_nothing_is_fine, PLAIN),
    CASE(enqueue_many_gives_receipts_in_order, PLAIN),
    CASE(enqueue_many_is_all_or_nothing_and_names_the_index, PLAIN),
    CASE(enqueue_of_one_has_no_index, PLAIN),
    CASE(enqueue_takes_ten_thousand_at_once, PLAIN),
    CASE(delayed_message_comes_when_due_and_not_before, PLAIN),
    CASE(message_at_a_time_comes_then, PLAIN),
    CASE(message_at_a_past_time_comes_at_once, PLAIN),
    CASE(delayed_messages_come_in_the_order_they_fall_due, PLAIN),
    CASE(delayed_message_does_not_hold_up_the_others, PLAIN),
    CASE(delay_is_counted_from_now_even_for_large_values, PLAIN),
    CASE(many_delayed_messages_all_come, PLAIN),
    CASE(expired_message_is_archived_and_says_so, PLAIN),
    CASE(expiry_leaves_alone_what_was_started_in_time, PLAIN),
    CASE(expiry_does_not_end_a_message_that_failed_meanwhile, PLAIN),
    CASE(expiry_at_a_time, PLAIN),
    CASE(expiry_in_the_past_is_never_delivered, PLAIN),
    CASE(expiry_before_the_delay_ends_wins, PLAIN),
    CASE(expired_messages_do_not_make_a_claim_short, PLAIN),
    CASE(expired_messages_in_between_are_left_out, PLAIN),
    CASE(dedup_gives_the_message_that_is_there, PLAIN),
    CASE(dedup_holds_while_delayed_and_while_leased, PLAIN),
    CASE(dedup_holds_through_a_retry, PLAIN),
    CASE(dedup_key_is_free_after_the_end, PLAIN),
    CASE(dedup_key_is_free_after_the_last_attempt, PLAIN),
    CASE(dedup_key_is_free_after_expiry, PLAIN),
    CASE(dedup_key_is_free_after_admin_removal, PLAIN),
    CASE(dedup_is_per_queue_and_byte_by_byte, PLAIN),
    CASE(dedup_inside_one_batch, PLAIN),
    CASE(dedup_in_a_batch_against_stored_ones, PLAIN),
    CASE(dedup_batch_of_duplicates_only, PLAIN),
    CASE(enqueue_does_not_keep_the_callers_memory, PLAIN),
};
