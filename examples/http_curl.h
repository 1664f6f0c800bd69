/* HTTP by libcurl (7.80 or newer), for pgqrs_s3.h: copy this file, include it behind pgqrs_s3.h, link with -lcurl.
 *
 *     http_curl *curl = http_curl_create();     NULL: no memory
 *     ... .http = http_curl_callback(curl) ...
 *     http_curl_destroy(curl);                  when the store is closed
 *
 * One http_curl makes one exchange at a time: one for each store, or for each thread. It may move between threads. A program with
 * threads calls curl_global_init before it starts any. Connections are kept open; nothing is repeated, redirected, or sent through
 * a proxy that an environment variable names. What libcurl offers beside that (a CA file, a proxy) is set on `handle` after
 * http_curl_create and stays. */
#ifndef HTTP_CURL_H
#define HTTP_CURL_H

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if LIBCURL_VERSION_NUM < 0x075000
#error "http_curl.h needs libcurl 7.80: older ones send a request again on their own when a kept connection turns out to be closed"
#endif

typedef struct http_curl {
    CURL *handle;
    /* Of the exchange under way. */
    const char *body;
    size_t body_left;
    pgqrs_http_reply *reply;
    int connections; /* the request was sent on so many */
    int status;      /* of the reply that is coming in */
    bool head_ended; /* with its empty line; libcurl takes a head that was cut off for a whole one */
} http_curl;

static int http_curl_before_request(void *user, char *remote, char *local, int remote_port, int local_port)
{
    http_curl *curl = (http_curl *)user;
    (void)remote, (void)local, (void)remote_port, (void)local_port;
    /* libcurl sends a request a second time when a kept connection was closed before any reply came. The server may have done
     * what the first one asked for, so that is not libcurl's to decide. */
    return curl->connections++ == 0 ? CURL_PREREQFUNC_OK : CURL_PREREQFUNC_ABORT;
}

static size_t http_curl_read(char *to, size_t size, size_t count, void *user)
{
    http_curl *curl = (http_curl *)user;
    size_t part = size * count < curl->body_left ? size * count : curl->body_left;
    if (part > 0)
        memcpy(to, curl->body, part);
    curl->body += part;
    curl->body_left -= part;
    return part;
}

static size_t http_curl_field(char *line, size_t size, size_t count, void *user)
{
    http_curl *curl = (http_curl *)user;
    const char *colon, *value, *end = line + size * count;
    if (size * count > 12 && memcmp(line, "HTTP/", 5) == 0 && memchr(line, ' ', 9))
        curl->status = atoi((const char *)memchr(line, ' ', 9));
    curl->head_ended = curl->head_ended || (curl->status >= 200 && (*line == '\r' || *line == '\n'));
    colon = (const char *)memchr(line, ':', size * count);
    if (!colon || curl->status < 200) /* "100 Continue" is not the reply yet */
        return size * count;
    for (value = colon + 1; value < end && (*value == ' ' || *value == '\t'); value++)
        continue;
    while (end > value && strchr(" \t\r\n", end[-1]))
        end--;
    return pgqrs_http_reply_field(curl->reply, line, (size_t)(colon - line), value, (size_t)(end - value)) ? size * count : 0;
}

static size_t http_curl_body(char *data, size_t size, size_t count, void *user)
{
    return pgqrs_http_reply_body(((http_curl *)user)->reply, data, size * count) ? size * count : 0;
}

/* NULL: no memory. */
static struct curl_slist *http_curl_append(struct curl_slist *list, const char *name, const char *value)
{
    size_t room = strlen(name) + strlen(value) + 3;
    char *line = (char *)malloc(room);
    struct curl_slist *longer = NULL;
    if (line) {
        snprintf(line, room, *value ? "%s: %s" : "%s;", name, value); /* libcurl's way to send an empty one */
        longer = curl_slist_append(list, line);
    }
    free(line);
    if (!longer)
        curl_slist_free_all(list);
    return longer;
}

static struct curl_slist *http_curl_fields(const pgqrs_http_request *request)
{
    /* Without a value: what libcurl would add on its own. */
    struct curl_slist *list = curl_slist_append(NULL, "Expect:");
    for (size_t i = 0; list && i < request->field_count; i++)
        list = http_curl_append(list, request->fields[i].name, request->fields[i].value);
    return list;
}

static int http_curl_exchange(void *user, const pgqrs_http_request *request, pgqrs_http_reply *reply)
{
    http_curl *curl = (http_curl *)user;
    bool head = strcmp(request->method, "HEAD") == 0, upload = request->body_size > 0 || strcmp(request->method, "PUT") == 0;
    struct curl_slist *fields = http_curl_fields(request);
    long status = 0;
    CURLcode code = fields ? CURLE_OK : CURLE_OUT_OF_MEMORY;
    curl->body = (const char *)request->body;
    curl->body_left = request->body_size;
    curl->reply = reply;
    curl->connections = 0;
    curl->status = 0;
    curl->head_ended = false;
    curl_easy_setopt(curl->handle, CURLOPT_HTTPGET, 1L); /* forgets the method of the exchange before */
    if (head)
        curl_easy_setopt(curl->handle, CURLOPT_NOBODY, 1L);
    if (upload) {
        curl_easy_setopt(curl->handle, CURLOPT_UPLOAD, 1L);
        curl_easy_setopt(curl->handle, CURLOPT_INFILESIZE_LARGE, (curl_off_t)request->body_size);
    }
    curl_easy_setopt(curl->handle, CURLOPT_TIMEOUT_MS, (long)(request->timeout_ms > 0 ? request->timeout_ms : 1));
    curl_easy_setopt(curl->handle, CURLOPT_HTTPHEADER, fields);
    if (code == CURLE_OK)
        code = curl_easy_setopt(curl->handle, CURLOPT_CUSTOMREQUEST, request->method);
    if (code == CURLE_OK)
        code = curl_easy_setopt(curl->handle, CURLOPT_URL, request->url);
    if (code == CURLE_OK)
        code = curl_easy_perform(curl->handle);
    if (code == CURLE_OK && curl->head_ended)
        curl_easy_getinfo(curl->handle, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_setopt(curl->handle, CURLOPT_HTTPHEADER, NULL);
    curl_slist_free_all(fields);
    return curl->connections == 0 ? -1 : (int)status; /* -1: no connection, so nothing was sent */
}

static inline void http_curl_destroy(http_curl *curl)
{
    if (curl)
        curl_easy_cleanup(curl->handle);
    free(curl);
}

static inline http_curl *http_curl_create(void)
{
    http_curl *curl = (http_curl *)calloc(1, sizeof(http_curl));
    CURL *handle = curl ? curl_easy_init() : NULL;
    bool good = handle != NULL;
    if (!curl)
        return NULL;
    curl->handle = handle;
    good = good && curl_easy_setopt(handle, CURLOPT_PROXY, "") == CURLE_OK; /* whatever http_proxy says */
#if LIBCURL_VERSION_NUM >= 0x075500
    good = good && curl_easy_setopt(handle, CURLOPT_PROTOCOLS_STR, "http,https") == CURLE_OK;
#endif
    good = good && curl_easy_setopt(handle, CURLOPT_NOSIGNAL, 1L) == CURLE_OK;
    good = good && curl_easy_setopt(handle, CURLOPT_FOLLOWLOCATION, 0L) == CURLE_OK;
    good = good && curl_easy_setopt(handle, CURLOPT_PATH_AS_IS, 1L) == CURLE_OK; /* as it was signed */
    good = good && curl_easy_setopt(handle, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1) == CURLE_OK;
    good = good && curl_easy_setopt(handle, CURLOPT_PREREQFUNCTION, http_curl_before_request) == CURLE_OK;
    good = good && curl_easy_setopt(handle, CURLOPT_PREREQDATA, curl) == CURLE_OK;
    good = good && curl_easy_setopt(handle, CURLOPT_READFUNCTION, http_curl_read) == CURLE_OK;
    good = good && curl_easy_setopt(handle, CURLOPT_READDATA, curl) == CURLE_OK;
    good = good && curl_easy_setopt(handle, CURLOPT_HEADERFUNCTION, http_curl_field) == CURLE_OK;
    good = good && curl_easy_setopt(handle, CURLOPT_HEADERDATA, curl) == CURLE_OK;
    good = good && curl_easy_setopt(handle, CURLOPT_WRITEFUNCTION, http_curl_body) == CURLE_OK;
    good = good && curl_easy_setopt(handle, CURLOPT_WRITEDATA, curl) == CURLE_OK;
    if (!good) {
        http_curl_destroy(curl);
        return NULL;
    }
    return curl;
}

static inline pgqrs_http http_curl_callback(http_curl *curl)
{
    pgqrs_http http = {http_curl_exchange, curl};
    return http;
}

#endif
