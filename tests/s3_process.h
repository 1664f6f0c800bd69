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

/* An unsigned request: /_control, /_raw/bucket/key. The status, 0: no reply; `body` may be NULL. */
static int s3_raw(int port, const char *method, const char *path, const void *data, size_t size, s3_text *body)
{
    s3_text request = {NULL, 0, 0, false}, reply = {NULL, 0, 0, false};
    char head[600];
    const char *end = NULL;
    int status = 0;
    snprintf(head, sizeof(head), "%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n", method, path, size);
    s3_put(&request, head);
    s3_add(&request, data, size);
    if (!request.failed && s3_exchange_bytes(port, request.data, request.size, &reply))
        end = strstr(reply.data, "\r\n\r\n");
    if (!end || sscanf(reply.data, "HTTP/1.1 %d", &status) != 1)
        status = 0;
    if (body && end)
        s3_add(body, end + 4, reply.size - (size_t)(end + 4 - reply.data));
    s3_free(&request);
    s3_free(&reply);
    return status;
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
