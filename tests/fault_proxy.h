/* A thread between libpq and the server that can make the Nth statement fail: with an error of the server's own, or with the
 * connection lost before it, after it, or in the middle of the reply. It understands as much of the protocol as is needed to find
 * the statements: Query, Parse and Execute. A failing statement is replaced by one that raises the error, so that everything
 * around it, the transaction above all, behaves as the server does and not as a test imagines. */
#ifndef PGQRS_TEST_FAULT_PROXY_H
#define PGQRS_TEST_FAULT_PROXY_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

typedef enum proxy_fault {
    PROXY_NONE,
    PROXY_ERROR,       /* proxy.sqlstate */
    PROXY_TERMINATE,   /* the server ends the session: FATAL 57P01 */
    PROXY_LOSE_BEFORE, /* the statement does not arrive */
    PROXY_LOSE_AFTER,  /* it is done, up to the next Sync, and the reply does not arrive */
    PROXY_LOSE_MIDDLE  /* half of the reply does */
} proxy_fault;

enum { PROXY_LINKS = 24, PROXY_ROOM = 1 << 21 };

typedef struct proxy_link {
    int client, server;
    bool started;      /* the startup message is through */
    proxy_fault losing; /* when the server is ready again, the connection is lost; PROXY_NONE: it is not */
    unsigned char *in; /* from the client, not a whole message yet */
    size_t in_size;
    unsigned char *out; /* kept back from the client */
    size_t out_size;
} proxy_link;

static struct {
    int listener, port, server_port;
    pthread_t thread;
    pthread_mutex_t mutex;
    bool running, stop;
    proxy_fault fault;
    char sqlstate[6];
    int64_t countdown; /* statements until it happens */
    int64_t happened;
    proxy_link links[PROXY_LINKS];
} proxy;

static bool proxy_send(int to, const void *data, size_t size)
{
    const char *bytes = (const char *)data;
    while (size > 0) {
        ssize_t sent = send(to, bytes, size, MSG_NOSIGNAL);
        if (sent <= 0)
            return false;
        bytes += sent;
        size -= (size_t)sent;
    }
    return true;
}

static void proxy_drop(proxy_link *link)
{
    if (link->client >= 0)
        close(link->client);
    if (link->server >= 0)
        close(link->server);
    link->client = link->server = -1;
    link->started = false;
    link->losing = PROXY_NONE;
    link->in_size = link->out_size = 0;
}

static size_t proxy_message(unsigned char *out, char type, const void *body, size_t size)
{
    uint32_t length = htonl((uint32_t)size + 4);
    out[0] = (unsigned char)type;
    memcpy(out + 1, &length, 4);
    memcpy(out + 5, body, size);
    return size + 5;
}

/* The statement in place of the one that is to fail; as a Query, or as Parse, Bind and Execute without names: what the server
 * answers to the first two means nothing to libpq. */
static size_t proxy_failing(unsigned char *out, bool query, bool commit, proxy_fault fault, const char *sqlstate)
{
    char sql[200], parse[220];
    size_t size, used;
    if (fault == PROXY_TERMINATE)
        snprintf(sql, sizeof(sql), "SELECT pg_terminate_backend(pg_backend_pid())");
    else
        snprintf(sql, sizeof(sql), "%sDO $$ BEGIN RAISE EXCEPTION 'made to fail' USING ERRCODE = '%s'; END $$",
                 commit ? "ROLLBACK; " : "", sqlstate); /* a commit that fails ends the transaction */
    size = strlen(sql) + 1;
    if (query)
        return proxy_message(out, 'Q', sql, size);
    parse[0] = '\0';
    memcpy(parse + 1, sql, size);
    memset(parse + 1 + size, 0, 2);
    used = proxy_message(out, 'P', parse, size + 3);
    used += proxy_message(out + used, 'B', "\0\0\0\0\0\0\0\0", 8);
    used += proxy_message(out + used, 'E', "\0\0\0\0\0", 5);
    return used;
}

/* One message of the client. False: the connection is lost. */
static bool proxy_statement(proxy_link *link, const unsigned char *message, size_t size)
{
    unsigned char failing[800];
    char sqlstate[6] = "";
    proxy_fault fault = PROXY_NONE;
    char type = (char)message[0];
    if (type == 'Q' || type == 'P' || type == 'E') {
        pthread_mutex_lock(&proxy.mutex);
        /* A Parse cannot be made to fail with an error of our choice, but it can be lost. */
        if (proxy.fault != PROXY_NONE && (type != 'P' || proxy.fault >= PROXY_LOSE_BEFORE) && proxy.countdown-- == 0) {
            fault = proxy.fault;
            memcpy(sqlstate, proxy.sqlstate, sizeof(sqlstate));
            proxy.happened++;
        }
        pthread_mutex_unlock(&proxy.mutex);
    }
    if (fault == PROXY_NONE)
        return proxy_send(link->server, message, size);
    if (fault == PROXY_LOSE_BEFORE)
        return false;
    if (fault == PROXY_ERROR || fault == PROXY_TERMINATE)
        return proxy_send(link->server, failing, proxy_failing(failing, type == 'Q', type == 'Q' && memcmp(message + 5, "COMMIT", 6) == 0,
                                                              fault, sqlstate));
    link->losing = fault;
    return proxy_send(link->server, message, size);
}

static bool proxy_from_client(proxy_link *link)
{
    ssize_t got = recv(link->client, link->in + link->in_size, PROXY_ROOM - link->in_size, 0);
    size_t at = 0;
    if (got <= 0)
        return false;
    link->in_size += (size_t)got;
    while (link->in_size - at >= 5) {
        size_t head = link->started ? 1 : 0;
        uint32_t length;
        memcpy(&length, link->in + at + head, 4);
        length = ntohl(length);
        if (length < 4 || length + head > PROXY_ROOM)
            return false;
        if (link->in_size - at < length + head)
            break;
        if (link->started ? !proxy_statement(link, link->in + at, length + head)
                          : !proxy_send(link->server, link->in + at, length))
            return false;
        link->started = true; /* no negotiation of encryption: the DSN says so */
        at += length + head;
    }
    memmove(link->in, link->in + at, link->in_size - at);
    link->in_size -= at;
    return true;
}

/* ReadyForQuery ends every reply to a Sync or a Query. */
static bool proxy_is_ready(const proxy_link *link)
{
    size_t at = 0;
    while (link->out_size - at >= 5) {
        uint32_t length;
        memcpy(&length, link->out + at + 1, 4);
        length = ntohl(length);
        if (link->out_size - at < length + 1)
            return false;
        if (link->out[at] == 'Z')
            return true;
        at += length + 1;
    }
    return false;
}

static bool proxy_from_server(proxy_link *link)
{
    ssize_t got;
    if (!link->losing) {
        unsigned char buffer[65536];
        got = recv(link->server, buffer, sizeof(buffer), 0);
        return got > 0 && proxy_send(link->client, buffer, (size_t)got);
    }
    got = recv(link->server, link->out + link->out_size, PROXY_ROOM - link->out_size, 0);
    if (got <= 0)
        return false;
    link->out_size += (size_t)got;
    if (!proxy_is_ready(link))
        return true;
    if (link->losing == PROXY_LOSE_MIDDLE)
        proxy_send(link->client, link->out, link->out_size / 2);
    return false;
}

static int proxy_connect(void)
{
    struct sockaddr_in address;
    int one = 1, server = socket(AF_INET, SOCK_STREAM, 0);
    memset(&address, 0, sizeof(address));
    address.sin_family = AF_INET;
    address.sin_port = htons((uint16_t)proxy.server_port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (server >= 0 && connect(server, (struct sockaddr *)&address, sizeof(address)) != 0) {
        close(server);
        return -1;
    }
    setsockopt(server, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    return server;
}

static void proxy_accept(void)
{
    int one = 1, client = accept(proxy.listener, NULL, NULL);
    if (client < 0)
        return;
    setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    for (int i = 0; i < PROXY_LINKS; i++)
        if (proxy.links[i].client < 0) {
            proxy.links[i].client = client;
            proxy.links[i].server = proxy_connect();
            if (proxy.links[i].server < 0)
                proxy_drop(&proxy.links[i]);
            return;
        }
    close(client);
}

static void *proxy_run(void *user)
{
    (void)user;
    for (;;) {
        struct pollfd waiting[2 * PROXY_LINKS + 1];
        pthread_mutex_lock(&proxy.mutex);
        bool stop = proxy.stop;
        pthread_mutex_unlock(&proxy.mutex);
        if (stop)
            return NULL;
        for (int i = 0; i < PROXY_LINKS; i++) {
            waiting[2 * i].fd = proxy.links[i].client;
            waiting[2 * i + 1].fd = proxy.links[i].server;
            waiting[2 * i].events = waiting[2 * i + 1].events = POLLIN;
        }
        waiting[2 * PROXY_LINKS].fd = proxy.listener;
        waiting[2 * PROXY_LINKS].events = POLLIN;
        if (poll(waiting, 2 * PROXY_LINKS + 1, 50) <= 0)
            continue;
        for (int i = 0; i < PROXY_LINKS; i++) {
            proxy_link *link = &proxy.links[i];
            if (link->client >= 0 && waiting[2 * i].revents && !proxy_from_client(link))
                proxy_drop(link);
            if (link->client >= 0 && waiting[2 * i + 1].revents && !proxy_from_server(link))
                proxy_drop(link);
        }
        if (waiting[2 * PROXY_LINKS].revents)
            proxy_accept();
    }
}

static void proxy_end(void)
{
    pthread_mutex_lock(&proxy.mutex);
    proxy.stop = true;
    pthread_mutex_unlock(&proxy.mutex);
    pthread_join(proxy.thread, NULL);
    for (int i = 0; i < PROXY_LINKS; i++) {
        proxy_drop(&proxy.links[i]);
        free(proxy.links[i].in);
        free(proxy.links[i].out);
    }
    close(proxy.listener);
    pthread_mutex_destroy(&proxy.mutex);
    proxy.running = false;
}

/* Starts it in front of the server of `dsn` (host 127.0.0.1), and writes the DSN through it. */
static void proxy_start(const char *dsn, char *out, size_t room)
{
    struct sockaddr_in address;
    socklen_t size = sizeof(address);
    const char *colon = strrchr(dsn, ':'), *slash = colon ? strchr(colon, '/') : NULL;
    assert_non_null(slash);
    if (proxy.running)
        proxy_end(); /* of a test that failed */
    memset(&proxy, 0, sizeof(proxy));
    memset(&address, 0, sizeof(address));
    proxy.server_port = atoi(colon + 1);
    pthread_mutex_init(&proxy.mutex, NULL);
    for (int i = 0; i < PROXY_LINKS; i++) {
        proxy.links[i].client = proxy.links[i].server = -1;
        proxy.links[i].in = (unsigned char *)malloc(PROXY_ROOM);
        proxy.links[i].out = (unsigned char *)malloc(PROXY_ROOM);
        assert_true(proxy.links[i].in && proxy.links[i].out);
    }
    proxy.listener = socket(AF_INET, SOCK_STREAM, 0);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(0, bind(proxy.listener, (struct sockaddr *)&address, sizeof(address)));
    assert_int_equal(0, listen(proxy.listener, 16));
    assert_int_equal(0, getsockname(proxy.listener, (struct sockaddr *)&address, &size));
    proxy.port = ntohs(address.sin_port);
    assert_int_equal(0, pthread_create(&proxy.thread, NULL, proxy_run, NULL));
    proxy.running = true;
    snprintf(out, room, "%.*s:%d%s%csslmode=disable&gssencmode=disable", (int)(colon - dsn), dsn, proxy.port, slash,
             strchr(slash, '?') ? '&' : '?');
}

/* The statement after `countdown` others fails. */
static void proxy_arm(proxy_fault fault, const char *sqlstate, int64_t countdown)
{
    pthread_mutex_lock(&proxy.mutex);
    proxy.fault = fault;
    snprintf(proxy.sqlstate, sizeof(proxy.sqlstate), "%.5s", sqlstate ? sqlstate : "XX000");
    proxy.countdown = countdown;
    proxy.happened = 0;
    pthread_mutex_unlock(&proxy.mutex);
}

/* How often it happened. */
static int64_t proxy_disarm(void)
{
    int64_t happened;
    pthread_mutex_lock(&proxy.mutex);
    proxy.fault = PROXY_NONE;
    happened = proxy.happened;
    pthread_mutex_unlock(&proxy.mutex);
    return happened;
}

#endif /* PGQRS_TEST_FAULT_PROXY_H */
