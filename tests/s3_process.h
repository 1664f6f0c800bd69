/* Starts tests/s3_server.c for a test program, sets it, and asks it; it ends with the program, however that ends. */
#ifndef PGQRS_TEST_S3_PROCESS_H
#define PGQRS_TEST_S3_PROCESS_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "s3_signature.h"

typedef struct s3_process {
    pid_t pid;
    int lifeline; /* the server's standard input: it ends when this does */
    int port;
} s3_process;

/* $PGQRS_TEST_S3_SERVER, or the program beside this one. */
static void s3_process_program(char *out, size_t room)
{
    const char *given = getenv("PGQRS_TEST_S3_SERVER");
    char self[1024];
    ssize_t size = readlink("/proc/self/exe", self, sizeof(self) - 1);
    self[size > 0 ? size : 0] = '\0';
    if (strrchr(self, '/'))
        *strrchr(self, '/') = '\0';
    snprintf(out, room, "%s", given ? given : "");
    if (!given)
        snprintf(out, room, "%s/s3_server", self);
    if (!given && access(out, X_OK) != 0)
        snprintf(out, room, "%s/../test/s3_server", self);
}

static void s3_process_exec(const char *program, const char *const *settings, int input, int output)
{
    const char *arguments[40] = {program, "until_eof=1"};
    size_t count = 2;
    while (*settings && count < 39)
        arguments[count++] = *settings++;
    dup2(input, 0);
    dup2(output, 1);
    execv(program, (char *const *)arguments);
    perror(program);
    _exit(127);
}

/* `settings` ends with a NULL. */
static bool s3_process_start(s3_process *process, const char *const *settings)
{
    char program[1200], line[64] = "";
    int input[2] = {-1, -1}, output[2] = {-1, -1};
    FILE *said;
    s3_process_program(program, sizeof(program));
    if (pipe(input) != 0 || pipe(output) != 0)
        return false;
    for (int i = 0; i < 2; i++) {
        fcntl(input[i], F_SETFD, FD_CLOEXEC);
        fcntl(output[i], F_SETFD, FD_CLOEXEC);
    }
    process->port = 0;
    process->pid = fork();
    if (process->pid == 0)
        s3_process_exec(program, settings, input[0], output[1]);
    close(input[0]);
    close(output[1]);
    process->lifeline = input[1];
    said = fdopen(output[0], "r");
    if (said && fgets(line, sizeof(line), said) && sscanf(line, "port %d", &process->port) != 1)
        process->port = 0;
    if (said)
        fclose(said);
    return process->pid > 0 && process->port > 0;
}

static void s3_process_stop(s3_process *process)
{
    int status;
    if (process->pid <= 0)
        return;
    close(process->lifeline);
    kill(process->pid, SIGTERM);
    while (waitpid(process->pid, &status, 0) < 0 && errno == EINTR)
        continue;
    process->pid = 0;
}

/* A test program's own: a server with the bucket "b", and a directory for what the stores keep, whose name ends with XXXXXX. */
static inline int s3_process_begin(s3_process *process, char *dir, char *endpoint, size_t room)
{
    static const char *const settings[] = {"bucket=b", NULL};
    if (!mkdtemp(dir) || !s3_process_start(process, settings))
        return -1;
    snprintf(endpoint, room, "http://127.0.0.1:%d", process->port);
    return 0;
}

static inline int s3_process_end(s3_process *process, const char *dir)
{
    char command[100];
    s3_process_stop(process);
    snprintf(command, sizeof(command), "rm -rf '%s'", dir);
    return system(command);
}

static int s3_connect(int port)
{
    struct sockaddr_in address;
    int to = socket(AF_INET, SOCK_STREAM, 0);
    memset(&address, 0, sizeof(address));
    address.sin_family = AF_INET;
    address.sin_port = htons((uint16_t)port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (to >= 0 && connect(to, (struct sockaddr *)&address, sizeof(address)) == 0)
        return to;
    if (to >= 0)
        close(to);
    return -1;
}

/* Bytes to the server, and all that comes back until it closes. */
static bool s3_exchange_bytes(int port, const void *data, size_t size, s3_text *reply)
{
    const char *bytes = (const char *)data;
    char buffer[16384];
    int to = s3_connect(port);
    ssize_t moved = to < 0 ? -1 : 1;
    while (moved > 0 && size > 0) {
        moved = send(to, bytes, size, MSG_NOSIGNAL);
        if (moved > 0) {
            bytes += moved;
            size -= (size_t)moved;
        }
    }
    s3_add(reply, "", 0);
    while (moved > 0) {
        moved = recv(to, buffer, sizeof(buffer), 0);
        if (moved > 0)
            s3_add(reply, buffer, (size_t)moved);
    }
    if (to >= 0)
        close(to);
    return moved == 0 && !reply->failed;
}

/* Head and body of one request to a port, and the status and body of the reply; 0: there is none. */
static int s3_ask(int port, s3_text *head, const void *data, size_t size, s3_text *body)
{
    s3_text reply = {NULL, 0, 0, false};
    const char *end = NULL;
    int status = 0;
    s3_add(head, data, size);
    if (!head->failed && s3_exchange_bytes(port, head->data, head->size, &reply))
        end = strstr(reply.data, "\r\n\r\n");
    if (!end || sscanf(reply.data, "HTTP/1.1 %d", &status) != 1)
        status = 0;
    if (body && end)
        s3_add(body, end + 4, reply.size - (size_t)(end + 4 - reply.data));
    s3_free(head);
    s3_free(&reply);
    return status;
}

/* An unsigned request: /_control, /_raw/bucket/key. The status, 0: no reply; `body` may be NULL. */
static int s3_raw(int port, const char *method, const char *path, const void *data, size_t size, s3_text *body)
{
    s3_text request = {NULL, 0, 0, false};
    char head[2000];
    snprintf(head, sizeof(head), "%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n", method, path, size);
    s3_put(&request, head);
    return s3_ask(port, &request, data, size, body);
}

/* A server on this machine that wants signatures. */
typedef struct s3_account {
    const char *endpoint; /* http://127.0.0.1:1234 */
    const char *access_key, *secret_key;
} s3_account;

/* The same, signed; for any server. `target`: /bucket/key, percent-encoded. */
static int s3_signed(const s3_account *account, const char *method, const char *target, const void *data, size_t size, s3_text *body)
{
    static const char names[] = "host;x-amz-content-sha256;x-amz-date", unsigned_payload[] = "UNSIGNED-PAYLOAD";
    const char *host = strstr(account->endpoint, "://") ? strstr(account->endpoint, "://") + 3 : account->endpoint;
    s3_text canonical = {NULL, 0, 0, false}, request = {NULL, 0, 0, false};
    char stamp[20], signature[65], head[2600];
    time_t now = time(NULL);
    struct tm parts;
    gmtime_r(&now, &parts);
    strftime(stamp, sizeof(stamp), "%Y%m%dT%H%M%SZ", &parts);
    {
        const s3_field fields[] = {{"host", host}, {"x-amz-content-sha256", unsigned_payload}, {"x-amz-date", stamp}};
        s3_canonical_request(&canonical, method, target, fields, 3, names, unsigned_payload);
    }
    s3_signature(account->secret_key, stamp, "us-east-1", &canonical, signature);
    s3_free(&canonical);
    snprintf(head, sizeof(head),
             "%s %s HTTP/1.1\r\nHost: %s\r\nx-amz-content-sha256: %s\r\nx-amz-date: %s\r\nAuthorization: AWS4-HMAC-SHA256 "
             "Credential=%s/%.8s/us-east-1/s3/aws4_request, SignedHeaders=%s, Signature=%s\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n",
             method, target, host, unsigned_payload, stamp, account->access_key, stamp, names, signature, size);
    s3_put(&request, head);
    return s3_ask(strrchr(host, ':') ? atoi(strrchr(host, ':') + 1) : 80, &request, data, size, body);
}

/* Settings as the head of s3_server.c lists them, one per line. */
static bool s3_control(int port, const char *lines)
{
    return s3_raw(port, "PUT", "/_control", lines, strlen(lines), NULL) == 200;
}

/* A counter by its name, such as requests.PUT, status.412 or fault.lost_reply; -1: the server does not answer. */
static int64_t s3_counter(int port, const char *name)
{
    s3_text body = {NULL, 0, 0, false};
    int64_t value = s3_raw(port, "GET", "/_control", NULL, 0, &body) == 200 ? 0 : -1;
    size_t length = strlen(name);
    for (const char *line = body.data; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
        if (strncmp(line, name, length) == 0 && line[length] == '=')
            value = (int64_t)strtoll(line + length + 1, NULL, 10);
    s3_free(&body);
    return value;
}

#endif /* PGQRS_TEST_S3_PROCESS_H */
