/* The first five minutes: three e-mails go into a queue, one of them fails once, one of them is hopeless.
 *
 *     cc quickstart.c -lsqlite3 -o quickstart && ./quickstart        (or, in the repository: make quickstart)
 */
#define PGQRS_IMPLEMENTATION
#include "pgqrs_sqlite.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Every call says whether it worked, and the store knows why it did not. */
static void check(pgqrs_result result, pgqrs_store *store)
{
    if (result == PGQRS_OK)
        return;
    fprintf(stderr, "quickstart: %s\n", pgqrs_last_error(store)->message);
    exit(1);
}

static bool domain_is_gone = true;

/* This is the work. What it returns decides what becomes of the message. */
static pgqrs_result send_email(const pgqrs_message *message, void *user)
{
    (void)user;
    printf("   try %d  %-30s  ", message->attempt, message->payload);

    if (strstr(message->payload, "grace") && message->attempt == 1) {
        printf("the mail server is busy: retry, a little later\n");
        return PGQRS_ERR_HANDLER;
    }
    if (strstr(message->payload, "alan") && domain_is_gone) {
        printf("no such domain: to the dead letters\n");
        return pgqrs_message_reject(message, "no such domain");
    }
    printf("sent: archived\n");
    return PGQRS_OK;
}

int main(void)
{
    pgqrs_error err;
    pgqrs_store *store = pgqrs_open("sqlite://jobs.db", NULL, &err);
    if (!store) {
        fprintf(stderr, "quickstart: %s\n", err.message);
        return 1;
    }

    printf("1. A queue is a name in a database; here the database is the file jobs.db. A failed message\n"
           "   comes back after 0.2 s, then 0.4 s, 0.8 s, ... and is given up after 5 tries.\n\n");
    check(pgqrs_install(store), store); /* makes the tables; harmless when they are there */
    pgqrs_queue_desc settings = {.backoff_ms = 200, .max_attempts = 5};
    check(pgqrs_queue_create(store, "emails", &settings), store);

    printf("2. Enqueue. When pgqrs_enqueue returns, the message is on the disk: pull the plug, it is still there.\n");
    const char *emails[] = {"{\"to\":\"ada@example.com\"}",
                            "{\"to\":\"grace@example.com\"}",
                            "{\"to\":\"alan@example.net\"}"};
    for (int i = 0; i < 3; i++) {
        check(pgqrs_enqueue(store, "emails", emails[i], NULL, NULL), store);
        printf("          %s\n", emails[i]);
    }

    printf("\n3. Work, until nothing is left to do. One function gets every message:\n");
    pgqrs_work_desc until_empty = {.until_empty = true};
    check(pgqrs_work(store, "emails", send_email, NULL, &until_empty), store);

    printf("\n4. What could not be done is not lost. It waits among the dead letters, with the reason:\n");
    pgqrs_messages *dead;
    check(pgqrs_dead_list(store, "emails", 0, 0, &dead), store);
    for (size_t i = 0; i < dead->count; i++)
        printf("   dead   %-30s  %s\n", dead->items[i].payload, dead->items[i].reason);
    pgqrs_free(dead);

    printf("\n5. Somebody registers the domain. Replay the dead letters and work again:\n");
    domain_is_gone = false;
    check(pgqrs_dead_replay_all(store, "emails", NULL), store);
    check(pgqrs_work(store, "emails", send_email, NULL, &until_empty), store);

    pgqrs_close(store);

    char directory[1024] = ".";
    printf("\nThat was all: no server, no daemon. Everything is in one SQLite file, open to plain SQL:\n\n"
           "   sqlite3 -box %s/jobs.db 'SELECT id, state, attempt, payload FROM pgqrs_message_view'\n\n"
           "The same program works on Postgres when you include pgqrs.h and open postgresql://...\n",
           getcwd(directory, sizeof directory) ? directory : ".");
    return 0;
}
