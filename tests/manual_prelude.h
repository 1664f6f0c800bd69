/* What the fragments in the manual and the README may assume to be there. They are only compiled, never linked, so a
   declaration is enough: when a fragment uses a new name for something obvious, declare it here. */
#ifndef PGQRS_MANUAL_PRELUDE_H
#define PGQRS_MANUAL_PRELUDE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pgqrs.h"
#include "pgqrs_sqlite.h"

extern pgqrs_store *store;
extern pgqrs_error err;
extern pgqrs_result result;

#endif
