/* HTTP over plain POSIX sockets, for pgqrs_s3.h: copy this file, include it behind pgqrs_s3.h. It speaks http:// only, so it is for
 * a store on the same machine or on a network that is trusted; elsewhere use http_curl.h. Looking up a name may take longer than
 * the timeout; everything else keeps to it.
 *
 *     http_socket *http = http_socket_create();     NULL: no memory
 *     ... .http = http_socket_callback(http) ...
 *     http_socket_destroy(http);                    when the store is closed
 *
 * One http_socket makes one exchange at a time and keeps one connection open; it may move between threads. */
#ifndef HTTP_SOCKET_H
#define HTTP_SOCKET_H

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifdef MSG_NOSIGNAL
#define HTTP_SOCKET_QUIET MSG_NOSIGNAL
#else
#define HTTP_SOCKET_QUIET 0
#endif

typedef struct http_socket {
    int fd;                    /* -1: not connected */
    char host[256], port[8];   /* to whom */
    int64_t deadline_ms;
    char buffer[16384], line[8192];
    size_t at, end;            /* what was received and not used yet */
    int64_t body_size;         /* -1: up to the end of the connection */
    bool chunked, keep;
} http_socket;

static int64_t http_socket_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void http_socket_close(http_socket *http)
{
    if (http->fd >= 0)
        close(http->fd);
    http->fd = -1;
    http->at = http->end = 0;
}

static bool http_socket_wait(http_socket *http, short events)
{
    struct pollfd waiting = {http->fd, events, 0};
    for (;;) {
        int64_t left_ms = http->deadline_ms - http_socket_now_ms();
        int ready = left_ms <= 0 ? 0 : poll(&waiting, 1, left_ms > 60000 ? 60000 : (int)left_ms);
        if (ready > 0)
            return true;
        if (left_ms <= 0 || (ready < 0 && errno != EINTR))
            return false;
    }
}

static bool http_socket_try(http_socket *http, const struct addrinfo *address)
{
    int one = 1, error = 0;
    socklen_t size = sizeof(error);
    http->fd = socket(address->ai_family, address->ai_socktype, address->ai_protocol);
    if (http->fd < 0)
        return false;
    if (fcntl(http->fd, F_SETFD, FD_CLOEXEC) == 0 && fcntl(http->fd, F_SETFL, O_NONBLOCK) == 0 &&
        (connect(http->fd, address->ai_addr, address->ai_addrlen) == 0 || (errno == EINPROGRESS && http_socket_wait(http, POLLOUT))) &&
        getsockopt(http->fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error == 0) {
        setsockopt(http->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
#ifdef SO_NOSIGPIPE
        setsockopt(http->fd, SOL_SOCKET, SO_NOSIGPIPE, &one, sizeof(one));
#endif
        return true;
    }
    http_socket_close(http);
    return false;
}

static bool http_socket_connect(http_socket *http)
{
    struct addrinfo wanted, *found = NULL;
    memset(&wanted, 0, sizeof(wanted));
    wanted.ai_socktype = SOCK_STREAM;
    if (getaddrinfo(http->host, http->port, &wanted, &found) != 0)
        return false;
    for (const struct addrinfo *address = found; address && http->fd < 0; address = address->ai_next)
        http_socket_try(http, address);
    freeaddrinfo(found);
    return http->fd >= 0;
}

/* http://host:port/path. The connection that is open is kept when it leads there and nothing came in on it, not even its end. */
static bool http_socket_open(http_socket *http, const char *url, const char **path)
{
    char host[256], port[8] = "80";
    size_t size, host_size;
    const char *start = url + 7, *colon;
    struct pollfd quiet = {http->fd, POLLIN, 0};
    if (strncmp(url, "http://", 7) != 0)
        return false;
    size = strcspn(start, "/?#");
    *path = start[size] == '/' ? start + size : "/";
    host_size = *start == '[' ? strcspn(start, "]") : strcspn(start, ":/?#");
    colon = *start == '[' ? start + host_size + 1 : start + host_size;
    start += *start == '[';
    host_size -= start[-1] == '[';
    if (host_size >= sizeof(host) || (*colon == ':' && (size_t)(url + 7 + size - colon) > sizeof(port)))
        return false;
    snprintf(host, sizeof(host), "%.*s", (int)host_size, start);
    if (*colon == ':')
        snprintf(port, sizeof(port), "%.*s", (int)(url + 7 + size - colon - 1), colon + 1);
    if (http->fd >= 0 && strcmp(host, http->host) == 0 && strcmp(port, http->port) == 0 && poll(&quiet, 1, 0) == 0)
        return true;
    http_socket_close(http);
    memcpy(http->host, host, sizeof(host));
    memcpy(http->port, port, sizeof(port));
    return http_socket_connect(http);
}

static bool http_socket_send(http_socket *http, const char *data, size_t size)
{
    while (size > 0) {
        ssize_t sent = http_socket_wait(http, POLLOUT) ? send(http->fd, data, size, HTTP_SOCKET_QUIET) : -1;
        if (sent < 0 && (errno == EINTR || errno == EAGAIN) && http_socket_now_ms() < http->deadline_ms)
            continue;
        if (sent <= 0)
            return false;
        data += sent;
        size -= (size_t)sent;
    }
    return true;
}

static bool http_socket_send_request(http_socket *http, const pgqrs_http_request *request, const char *path)
{
    size_t room = strlen(request->method) + strlen(path) + strlen(http->host) + 100, used;
    bool has_host = false, has_length = false, sent;
    char *head;
    for (size_t i = 0; i < request->field_count; i++) {
        room += strlen(request->fields[i].name) + strlen(request->fields[i].value) + 4;
        has_host = has_host || strcasecmp(request->fields[i].name, "host") == 0;
        has_length = has_length || strcasecmp(request->fields[i].name, "content-length") == 0;
    }
    head = (char *)malloc(room);
    if (!head)
        return false;
    used = (size_t)snprintf(head, room, "%s %s HTTP/1.1\r\n", request->method, path);
    if (!has_host)
        used += (size_t)snprintf(head + used, room - used, strchr(http->host, ':') ? "Host: [%s]:%s\r\n" : "Host: %s:%s\r\n", http->host,
                                 http->port);
    if (!has_length && (request->body_size > 0 || strcmp(request->method, "PUT") == 0))
        used += (size_t)snprintf(head + used, room - used, "Content-Length: %zu\r\n", request->body_size);
    for (size_t i = 0; i < request->field_count; i++)
        used += (size_t)snprintf(head + used, room - used, "%s: %s\r\n", request->fields[i].name, request->fields[i].value);
    used += (size_t)snprintf(head + used, room - used, "\r\n");
    sent = http_socket_send(http, head, used) && http_socket_send(http, (const char *)request->body, request->body_size);
    free(head);
    return sent;
}

/* 1: there is something; 0: the other side is done; -1: an error, or no time left. */
static int http_socket_fill(http_socket *http)
{
    while (http->at == http->end) {
        ssize_t got = http_socket_wait(http, POLLIN) ? recv(http->fd, http->buffer, sizeof(http->buffer), 0) : -1;
        if (got < 0 && (errno == EINTR || errno == EAGAIN) && http_socket_now_ms() < http->deadline_ms)
            continue;
        if (got <= 0)
            return got == 0 ? 0 : -1;
        http->at = 0;
        http->end = (size_t)got;
    }
    return 1;
}

/* The next line, without its end, goes to http->line. */
static bool http_socket_line(http_socket *http)
{
    size_t size = 0;
    while (http_socket_fill(http) > 0 && size < sizeof(http->line)) {
        char c = http->buffer[http->at++];
        if (c == '\n') {
            if (size > 0 && http->line[size - 1] == '\r')
                size--;
            http->line[size] = '\0';
            return true;
        }
        http->line[size++] = c;
    }
    return false;
}

static bool http_socket_field(http_socket *http, pgqrs_http_reply *reply)
{
    char *colon = strchr(http->line, ':'), *value, *end = http->line + strlen(http->line);
    if (!colon)
        return false;
    *colon = '\0';
    for (value = colon + 1; *value == ' ' || *value == '\t'; value++)
        continue;
    while (end > value && (end[-1] == ' ' || end[-1] == '\t'))
        *--end = '\0';
    if (strcasecmp(http->line, "content-length") == 0) {
        char *rest;
        http->body_size = (int64_t)strtoll(value, &rest, 10);
        if (rest == value || *rest || http->body_size < 0)
            return false;
    } else if (strcasecmp(http->line, "transfer-encoding") == 0) {
        http->chunked = strcasecmp(value, "chunked") == 0;
    } else if (strcasecmp(http->line, "connection") == 0) {
        http->keep = http->keep && strcasecmp(value, "close") != 0;
    }
    return pgqrs_http_reply_field(reply, http->line, (size_t)(colon - http->line), value, (size_t)(end - value));
}

/* The status; 0: no complete head came. */
static int http_socket_head(http_socket *http, pgqrs_http_reply *reply)
{
    int minor, status = 0;
    do { /* "100 Continue" has a head as well */
        if (!http_socket_line(http) || sscanf(http->line, "HTTP/1.%1d %3d", &minor, &status) != 2 || status < 100)
            return 0;
        http->body_size = -1;
        http->chunked = false;
        http->keep = minor == 1;
        do {
            if (!http_socket_line(http) || (http->line[0] && status >= 200 && !http_socket_field(http, reply)))
                return 0;
        } while (http->line[0]);
    } while (status < 200);
    return status;
}

/* So many bytes, or all up to the end of the connection (-1). */
static bool http_socket_part(http_socket *http, int64_t size, pgqrs_http_reply *reply)
{
    while (size != 0) {
        int filled = http_socket_fill(http);
        size_t part = http->end - http->at;
        if (filled <= 0)
            return filled == 0 && size < 0;
        if (size > 0 && (int64_t)part > size)
            part = (size_t)size;
        if (!pgqrs_http_reply_body(reply, http->buffer + http->at, part))
            return false;
        http->at += part;
        if (size > 0)
            size -= (int64_t)part;
    }
    return true;
}

static bool http_socket_chunks(http_socket *http, pgqrs_http_reply *reply)
{
    for (;;) {
        char *rest;
        int64_t size;
        if (!http_socket_line(http))
            return false;
        size = (int64_t)strtoll(http->line, &rest, 16);
        if (rest == http->line || size < 0)
            return false;
        if (size == 0)
            break;
        if (!http_socket_part(http, size, reply) || !http_socket_line(http))
            return false;
    }
    do /* trailers */
        if (!http_socket_line(http))
            return false;
    while (http->line[0]);
    return true;
}

static int http_socket_exchange(void *user, const pgqrs_http_request *request, pgqrs_http_reply *reply)
{
    http_socket *http = (http_socket *)user;
    const char *path;
    int status = 0;
    bool complete = false;
    http->deadline_ms = http_socket_now_ms() + request->timeout_ms;
    if (!http_socket_open(http, request->url, &path))
        return -1; /* nothing was sent */
    if (http_socket_send_request(http, request, path))
        status = http_socket_head(http, reply);
    if (status == 204 || status == 304 || strcmp(request->method, "HEAD") == 0)
        complete = status != 0;
    else if (status)
        complete = http->chunked ? http_socket_chunks(http, reply) : http_socket_part(http, http->body_size, reply);
    if (!complete || !http->keep || http->at != http->end || (http->body_size < 0 && !http->chunked && status != 204 && status != 304))
        http_socket_close(http);
    return complete ? status : 0;
}

static inline void http_socket_destroy(http_socket *http)
{
    if (http)
        http_socket_close(http);
    free(http);
}

static inline http_socket *http_socket_create(void)
{
    http_socket *http = (http_socket *)calloc(1, sizeof(http_socket));
    if (http)
        http->fd = -1;
    return http;
}

static inline pgqrs_http http_socket_callback(http_socket *http)
{
    pgqrs_http http_calls = {http_socket_exchange, http};
    return http_calls;
}

#endif
