/* The HTTP interface of pgqrs_s3.h, for programs that test an adapter without the library. */
#ifndef PGQRS_TEST_S3_INTERFACE_H
#define PGQRS_TEST_S3_INTERFACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct pgqrs_http_field {
    const char *name, *value;
} pgqrs_http_field;

typedef struct pgqrs_http_request {
    const char *method, *url;
    const pgqrs_http_field *fields;
    size_t field_count;
    const void *body;
    size_t body_size;
    int64_t timeout_ms;
} pgqrs_http_request;

typedef struct pgqrs_http_reply pgqrs_http_reply;

typedef struct pgqrs_http {
    int (*exchange)(void *user, const pgqrs_http_request *request, pgqrs_http_reply *reply);
    void *user;
} pgqrs_http;

#ifdef __cplusplus
extern "C" {
#endif
extern bool pgqrs_http_reply_field(pgqrs_http_reply *reply, const char *name, size_t name_size, const char *value, size_t value_size);
extern bool pgqrs_http_reply_body(pgqrs_http_reply *reply, const void *data, size_t size);
#ifdef __cplusplus
}
#endif

#endif /* PGQRS_TEST_S3_INTERFACE_H */
