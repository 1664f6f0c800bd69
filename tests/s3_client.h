/* Signed requests to an S3 server through an HTTP adapter, with the tests' own signature, and replies that can be looked at. Not
 * for programs that contain the library's implementation: it takes the place of what an adapter calls in it. */
#ifndef PGQRS_TEST_S3_CLIENT_H
#define PGQRS_TEST_S3_CLIENT_H

#include <time.h>

#include "../pgqrs_s3.h"
#include "s3_signature.h"

struct pgqrs_http_reply {
    int status;
    s3_text fields; /* name, NUL, value, NUL */
    s3_text body;
    size_t room; /* the body that is taken; 0: any */
};

bool pgqrs_http_reply_field(pgqrs_http_reply *reply, const char *name, size_t name_size, const char *value, size_t value_size)
{
    s3_add(&reply->fields, name, name_size);
    s3_add(&reply->fields, "", 1);
    s3_add(&reply->fields, value, value_size);
    s3_add(&reply->fields, "", 1);
    return !reply->fields.failed;
}

bool pgqrs_http_reply_body(pgqrs_http_reply *reply, const void *data, size_t size)
{
    if (reply->room && reply->body.size + size > reply->room)
        return false;
    s3_add(&reply->body, data, size);
    return !reply->body.failed;
}

static void s3_reply_clear(pgqrs_http_reply *reply)
{
    s3_free(&reply->fields);
    s3_free(&reply->body);
    reply->status = 0;
}

/* The first field of that name; "": there is none. */
static const char *s3_reply_field(const pgqrs_http_reply *reply, const char *name)
{
    for (size_t at = 0; at < reply->fields.size;) {
        const char *found = reply->fields.data + at, *value = found + strlen(found) + 1;
        if (s3_same_name(found, name, strlen(name)))
            return value;
        at = (size_t)(value - reply->fields.data) + strlen(value) + 1;
    }
    return "";
}

typedef struct s3_client {
    pgqrs_http http;
    char endpoint[200]; /* http://127.0.0.1:1234 */
    const char *access_key, *secret_key, *token, *region;
    int64_t clock_s; /* the client's clock is off by this */
    int64_t timeout_ms;
    bool sign_body; /* otherwise UNSIGNED-PAYLOAD */
} s3_client;

/* One exchange. `target` begins with a slash and is percent-encoded; `more` are fields that are sent and not signed. */
static int s3_request_raw(const s3_client *client, const char *method, const char *target, const pgqrs_http_field *more, size_t more_count,
                          const void *body, size_t size, pgqrs_http_reply *reply)
{
    enum { MOST = 16 };
    pgqrs_http_field fields[MOST];
    s3_field signed_fields[4];
    size_t count = 0;
    char url[3000], authorization[600], hash[65], time_text[20], signature[65];
    const char *names = client->token ? "host;x-amz-content-sha256;x-amz-date;x-amz-security-token" : "host;x-amz-content-sha256;x-amz-date";
    time_t now = time(NULL) + (time_t)client->clock_s;
    struct tm parts;
    s3_text canonical = {NULL, 0, 0, false};
    pgqrs_http_request request;
    gmtime_r(&now, &parts);
    strftime(time_text, sizeof(time_text), "%Y%m%dT%H%M%SZ", &parts);
    snprintf(hash, sizeof(hash), "UNSIGNED-PAYLOAD");
    if (client->sign_body)
        s3_digest_hex(body, size, hash);
    signed_fields[count].name = "host", signed_fields[count++].value = strstr(client->endpoint, "://") + 3;
    signed_fields[count].name = "x-amz-content-sha256", signed_fields[count++].value = hash;
    signed_fields[count].name = "x-amz-date", signed_fields[count++].value = time_text;
    if (client->token)
        signed_fields[count].name = "x-amz-security-token", signed_fields[count++].value = client->token;
    s3_canonical_request(&canonical, method, target, signed_fields, count, names, hash);
    s3_signature(client->secret_key, time_text, client->region, &canonical, signature);
    s3_free(&canonical);
    snprintf(authorization, sizeof(authorization), "AWS4-HMAC-SHA256 Credential=%s/%.8s/%s/s3/aws4_request, SignedHeaders=%s, Signature=%s",
             client->access_key, time_text, client->region, names, signature);
    for (size_t i = 0; i < count; i++) {
        fields[i].name = signed_fields[i].name;
        fields[i].value = signed_fields[i].value;
    }
    fields[count].name = "Authorization";
    fields[count++].value = authorization;
    for (size_t i = 0; i < more_count && count < MOST; i++)
        fields[count++] = more[i];
    snprintf(url, sizeof(url), "%s%s", client->endpoint, target);
    memset(&request, 0, sizeof(request));
    request.method = method;
    request.url = url;
    request.fields = fields;
    request.field_count = count;
    request.body = body;
    request.body_size = size;
    request.timeout_ms = client->timeout_ms;
    s3_reply_clear(reply);
    reply->status = client->http.exchange(client->http.user, &request, reply);
    return reply->status;
}

/* With one more field, or none (NULL). */
static int s3_request(const s3_client *client, const char *method, const char *target, const char *name, const char *value, const char *body,
                      pgqrs_http_reply *reply)
{
    pgqrs_http_field more = {name, value};
    return s3_request_raw(client, method, target, &more, name ? 1 : 0, body, body ? strlen(body) : 0, reply);
}

#endif /* PGQRS_TEST_S3_CLIENT_H */
