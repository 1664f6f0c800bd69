/* The library, compiled once for all parts of the tool. */
#define _GNU_SOURCE
#define PGQRS_IMPLEMENTATION
#include "pgqrs.h"
#include "pgqrs_sqlite.h"
#include "pgqrs_s3.h"
