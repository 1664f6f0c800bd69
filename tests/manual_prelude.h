/* What the fragments in the manual and the README may assume to be there. They are only compiled, never linked, so a
   declaration is enough: when a fragment uses a new name for something obvious, declare it here. */
#ifndef PGQRS_MANUAL_PRELUDE_H
#define PGQRS_MANUAL_PRELUDE_H

#define _POSIX_C_SOURCE 200809L /* poll(2), signal(3) */

#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pgqrs.h"
#include "pgqrs_sqlite.h"

/* Things of the library that a program around the fragment would have. */
extern pgqrs_store *store;
extern pgqrs_error err;
extern pgqrs_result result;
extern struct pg_conn *connection;
extern const char *payload;
pgqrs_result handler(const pgqrs_message *message, void *user);

/* Things of that program's own. */
extern int my_socket;
void serve_my_socket(void);
void try_again_later(void);
bool send_invoice(const char *text);
struct mailer;
enum { MAIL_SENT, MAIL_BUSY, MAIL_NO_SUCH_USER };
int mailer_send(struct mailer *mailer, const char *text);
const char *list_directory(const char *directory);
char *zip(const char *files);
bool move_money(struct pg_conn *database);

#endif
