/* One signed request from the command line, for scripts: the status goes to standard error, the body to standard output.
 *
 *   PGQRS_TEST_S3_ENDPOINT=http://127.0.0.1:1234 PGQRS_TEST_S3_ACCESS_KEY=... PGQRS_TEST_S3_SECRET_KEY=... \
 *       s3_request METHOD /bucket/key [FILE]
 *
 * Exit status 0: the server answered with 2xx; 1: with something else; 2: it did not answer. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "s3_client.h"
#include "../examples/http_socket.h"

static bool read_file(const char *path, s3_text *out)
{
    char buffer[16384];
    size_t got;
    FILE *file = fopen(path, "rb");
    bool good;
    s3_add(out, "", 0);
    while (file && (got = fread(buffer, 1, sizeof(buffer), file)) > 0)
        s3_add(out, buffer, got);
    good = file && !ferror(file) && !out->failed;
    if (file)
        fclose(file);
    return good;
}

int main(int argc, char **argv)
{
    s3_client client;
    pgqrs_http_reply reply;
    s3_text body = {NULL, 0, 0, false};
    http_socket *http = http_socket_create();
    const char *endpoint = getenv("PGQRS_TEST_S3_ENDPOINT");
    int status;
    memset(&client, 0, sizeof(client));
    memset(&reply, 0, sizeof(reply));
    client.access_key = getenv("PGQRS_TEST_S3_ACCESS_KEY");
    client.secret_key = getenv("PGQRS_TEST_S3_SECRET_KEY");
    client.region = "us-east-1";
    client.timeout_ms = 60000;
    if (argc < 3 || argc > 4 || !http || !endpoint || !client.access_key || !client.secret_key || strncmp(endpoint, "http://", 7) != 0) {
        fprintf(stderr, "usage: s3_request METHOD /bucket/key [FILE], with PGQRS_TEST_S3_ENDPOINT, _ACCESS_KEY and _SECRET_KEY set\n");
        return 2;
    }
    snprintf(client.endpoint, sizeof(client.endpoint), "%s", endpoint);
    if (argc == 4 && !read_file(argv[3], &body)) {
        fprintf(stderr, "s3_request: %s cannot be read\n", argv[3]);
        return 2;
    }
    client.http = http_socket_callback(http);
    status = s3_request_raw(&client, argv[1], argv[2], NULL, 0, body.data, body.size, &reply);
    fprintf(stderr, "%d\n", status);
    if (reply.body.size > 0)
        fwrite(reply.body.data, 1, reply.body.size, stdout);
    s3_reply_clear(&reply);
    s3_free(&body);
    http_socket_destroy(http);
    return status == 0 ? 2 : status / 100 == 2 ? 0 : 1;
}
