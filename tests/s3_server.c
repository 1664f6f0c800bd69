/* A small S3 server for tests, on the loopback interface: objects, conditions, AWS's error codes, signatures that are checked, and
 * everything that no real server does on demand. One thread per connection; all objects in memory; compare-and-swap is atomic.
 *
 *   s3_server [NAME=VALUE...]       prints "port N" when it listens; ends with SIGTERM
 *
 * The settings below are given on the command line, and at run time in the body of PUT /_control, one per line:
 *
 *   port=0 port_file=FILE           command line only; FILE gets the port; with until_eof=1 the server ends with its standard input
 *   access_key=test secret_key=... token=... region=us-east-1      what requests have to be signed with; token: only if it is set
 *   bucket=NAME                     creates it
 *   delay_ms=0 jitter_ms=0          a round trip: half of it before a request is applied, half after
 *   slow_ms=1000 late_ms=500 retry_after=1                         for the faults below
 *   clock_s=0                       the server's clock is off by this
 *   date=1                          0: no Date header
 *   honour=both                     none, if_match, if_none_match: the conditions that a PUT heeds; the others are accepted and ignored
 *   match=any                       quoted, bare: which form of the ETag a PUT's If-Match knows (bare: Ceph 16)
 *   etag=quoted                     bare, weak: how replies show it
 *   etag_from=content               version: another ETag for every PUT, also of the same bytes
 *   absent_match=404                412: what If-Match on an absent key gets
 *   write_interval_ms=0             a second PUT to a key within it gets 429
 *   read_only=0                     1: 403 for every write
 *   moved=REGION                    301 PermanentRedirect for everything: the bucket is in that region; "": it is here
 *   max_body=67108864 keys=TEXT     faults happen only to keys that contain TEXT
 *   seed=1 keep=DIR                 every version of every object is written to DIR, named by its number and key
 *   counters=0 objects=0 faults=0   sets all to zero; removes all objects; no more faults
 *   FAULT=[METHOD:]HOW              HOW: 0.12 a probability; x3 the next three; @5 only the fifth from now; 0 never
 *
 * GET /_control shows counters, /_raw/BUCKET/KEY reads, writes and deletes an object past signatures, conditions and faults. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#include "s3_signature.h"

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

enum { HEAD_ROOM = 65536, FIELDS = 64, BUCKETS = 16, SKEW_S = 15 * 60 };

typedef enum s3_fault {
    FAULT_NONE,
    FAULT_RESET,
    FAULT_LATE,
    FAULT_SLOW,
    FAULT_ERROR_BEFORE,
    FAULT_BUSY,
    FAULT_SLOW_DOWN,
    FAULT_EXPIRED,
    FAULT_CONFLICT,
    FAULT_FALSE_412,
    FAULT_FALSE_404,
    FAULT_STALE,
    FAULT_LOST_REPLY,
    FAULT_SLOW_REPLY,
    FAULT_ERROR_AFTER,
    FAULT_OWN_412,
    FAULT_CUT_HEAD,
    FAULT_GARBAGE,
    FAULT_TRUNCATED,
    FAULT_SHORTENED,
    FAULT_CORRUPTED,
    FAULT_COUNT
} s3_fault;

enum { ON_GET = 1, ON_PUT = 2, ON_HEAD = 4, ON_DELETE = 8, ON_WRITES = ON_PUT | ON_DELETE, ON_ALL = 15 };

static const char *const method_names[] = {"GET", "PUT", "HEAD", "DELETE"};

/* What happens, and to what by default. */
static const struct {
    const char *name;
    unsigned methods;
} fault_kinds[FAULT_COUNT] = {
    {"", 0},
    {"reset", ON_ALL},           /* not applied; the connection is reset */
    {"late", ON_WRITES},         /* the connection is reset, and late_ms later the request is applied */
    {"slow", ON_ALL},            /* applied after slow_ms, then answered */
    {"error_before", ON_ALL},    /* 500, not applied */
    {"busy", ON_ALL},            /* 429 with Retry-After, not applied */
    {"slow_down", ON_ALL},       /* 503 with Retry-After, not applied */
    {"expired", ON_ALL},         /* 400 ExpiredToken, not applied */
    {"conflict", ON_WRITES},     /* 409 for a conditional request, not applied */
    {"false_412", ON_WRITES},    /* 412 for a conditional request whose condition may well hold, not applied */
    {"false_404", ON_WRITES},    /* 404 for a conditional request, as if the object were not there, not applied */
    {"stale", ON_GET},           /* the version before the current one */
    {"lost_reply", ON_WRITES},   /* applied; the connection is closed without a reply */
    {"slow_reply", ON_ALL},      /* applied, and answered slow_ms later */
    {"error_after", ON_WRITES},  /* applied, and 500 */
    {"own_412", ON_WRITES},      /* applied, and 412: a proxy that tried it again */
    {"cut_head", ON_ALL},        /* applied; the connection is closed in the middle of the reply's head */
    {"garbage", ON_ALL},         /* applied; the reply is no HTTP */
    {"truncated", ON_GET},       /* half of the body, then the connection is closed */
    {"shortened", ON_GET},       /* half of the body, and a Content-Length that says that this is all */
    {"corrupted", ON_GET},       /* one bit of the body is another */
};

typedef struct s3_chance {
    unsigned methods;
    double probability;
    int64_t times;     /* the next so many */
    int64_t countdown; /* > 0: only that one */
    int64_t happened;
} s3_chance;

typedef struct s3_version {
    int references;
    size_t size;
    int64_t modified_s;
    char etag[65];
    unsigned char data[];
} s3_version;

typedef struct s3_object {
    char *name; /* bucket/key */
    s3_version *now, *before;
    int64_t written_us;
} s3_object;

static struct {
    pthread_mutex_t mutex;
    s3_object *objects; /* by name */
    size_t count, room;
    char buckets[BUCKETS][64];
    size_t bucket_count;
    s3_chance chances[FAULT_COUNT];
    uint64_t random;
    uint64_t versions;
    int64_t requests[4], bytes_in[4], bytes_out[4], statuses[600], connections;
    char access_key[129], secret_key[129], token[2049], region[64], moved[64], keep[512], keys[512];
    char honour[16], match[16], etag[16], etag_from[16];
    char port_file[512];
    int64_t port, until_eof, delay_ms, jitter_ms, slow_ms, late_ms, retry_after, clock_s, date, absent_match, write_interval_ms, read_only;
    int64_t max_body, seed;
} server = {.mutex = PTHREAD_MUTEX_INITIALIZER,
            .access_key = "test",
            .secret_key = "test-secret",
            .region = "us-east-1",
            .honour = "both",
            .match = "any",
            .etag = "quoted",
            .etag_from = "content",
            .slow_ms = 1000,
            .late_ms = 500,
            .retry_after = 1,
            .date = 1,
            .absent_match = 404,
            .max_body = 64 << 20,
            .seed = 1};

typedef struct s3_link {
    int socket;
    char *buffer; /* HEAD_ROOM + 1; what is behind the head begins the body */
    size_t used;
} s3_link;

typedef struct s3_request {
    const char *method, *target;
    int method_at; /* in method_names; -1: none of them */
    s3_field fields[FIELDS];
    size_t field_count;
    char *body;
    size_t body_size;
    unsigned char digest[32]; /* of the body */
    char name[2200]; /* bucket/key, decoded */
    char *key;       /* in name; "": the bucket */
    const char *query;
    bool wants_close;
} s3_request;

typedef struct s3_reply {
    int status;
    const char *code, *message; /* of an error */
    s3_text head;               /* fields */
    s3_text text;               /* a body that was made for this reply */
    s3_version *version;        /* or this one's */
    size_t from, size;          /* the part of it */
    size_t flipped;             /* 1 + the position of the byte that is another */
    size_t announced;           /* Content-Length */
    bool broken;                /* the connection ends with it */
    bool region;                /* the error names the right one */
} s3_reply;

/* ---- time and chance ---- */

static int64_t now_us(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static void sleep_us(int64_t us)
{
    struct timespec left = {(time_t)(us / 1000000), (long)(us % 1000000) * 1000};
    while (us > 0 && nanosleep(&left, &left) != 0 && errno == EINTR)
        continue;
}

static int64_t server_time_s(void)
{
    return now_us(CLOCK_REALTIME) / 1000000 + server.clock_s;
}

static uint64_t random_next(void)
{
    uint64_t z = server.random += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static bool by_chance(double probability)
{
    return (double)(random_next() >> 11) * 0x1p-53 < probability;
}

static void time_text(int64_t time_s, const char *format, char *out, size_t room)
{
    struct tm parts;
    time_t time = (time_t)time_s;
    gmtime_r(&time, &parts);
    if (!strftime(out, room, format, &parts))
        out[0] = '\0';
}

/* ---- objects; the mutex is held ---- */

static size_t object_place(const char *name)
{
    size_t low = 0, high = server.count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (strcmp(server.objects[middle].name, name) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static s3_object *object_find(const char *name)
{
    size_t at = object_place(name);
    return at < server.count && strcmp(server.objects[at].name, name) == 0 ? &server.objects[at] : NULL;
}

static s3_object *object_add(const char *name)
{
    size_t at = object_place(name), size = strlen(name) + 1;
    char *copy = (char *)malloc(size);
    if (copy && server.count == server.room) {
        size_t room = server.room * 2 + 64;
        s3_object *grown = (s3_object *)realloc(server.objects, room * sizeof(*grown));
        if (grown) {
            server.objects = grown;
            server.room = room;
        }
    }
    if (!copy || server.count == server.room) {
        free(copy);
        return NULL;
    }
    memcpy(copy, name, size);
    memmove(server.objects + at + 1, server.objects + at, (server.count - at) * sizeof(s3_object));
    memset(&server.objects[at], 0, sizeof(s3_object));
    server.objects[at].name = copy;
    server.count++;
    return &server.objects[at];
}

static void version_drop(s3_version *version)
{
    if (version && --version->references == 0)
        free(version);
}

static void object_remove(s3_object *object)
{
    size_t at = (size_t)(object - server.objects);
    version_drop(object->now);
    version_drop(object->before);
    free(object->name);
    memmove(object, object + 1, (server.count - at - 1) * sizeof(*object));
    server.count--;
}

static s3_version *version_new(const s3_request *request)
{
    size_t size = request->body_size;
    s3_version *version = (s3_version *)malloc(sizeof(*version) + size);
    unsigned char digest[32];
    if (!version)
        return NULL;
    version->references = 1;
    version->size = size;
    version->modified_s = server_time_s();
    if (size > 0)
        memcpy(version->data, request->body, size);
    memcpy(digest, request->digest, sizeof(digest));
    server.versions++;
    if (strcmp(server.etag_from, "version") == 0)
        memcpy(digest, &server.versions, sizeof(server.versions));
    s3_hex(digest, 16, version->etag);
    return version;
}

static void version_keep(const char *name, const s3_version *version)
{
    char path[3000];
    size_t start, wrote = 0;
    FILE *file;
    if (!server.keep[0])
        return;
    snprintf(path, sizeof(path), "%s/%08" PRIu64 "-", server.keep, server.versions);
    start = strlen(path);
    snprintf(path + start, sizeof(path) - start, "%s", name);
    for (char *c = path + start; *c; c++)
        if (*c == '/')
            *c = '+';
    file = fopen(path, "wb");
    if (file)
        wrote = fwrite(version->data, 1, version->size, file);
    if (!file || fclose(file) != 0 || wrote != version->size)
        fprintf(stderr, "s3_server: a version could not be kept in %s: %s\n", server.keep, strerror(errno));
}

static bool object_store(const s3_request *request)
{
    const char *name = request->name;
    s3_version *version = version_new(request);
    s3_object *object = version ? object_find(name) : NULL;
    if (version && !object)
        object = object_add(name);
    if (!object) {
        free(version);
        return false;
    }
    version_keep(name, version);
    version_drop(object->before);
    object->before = object->now;
    object->now = version;
    object->written_us = now_us(CLOCK_MONOTONIC);
    return true;
}

static bool bucket_exists(const char *name, size_t size)
{
    for (size_t i = 0; i < server.bucket_count; i++)
        if (strlen(server.buckets[i]) == size && memcmp(server.buckets[i], name, size) == 0)
            return true;
    return false;
}

static bool bucket_create(const char *name)
{
    if (!name[0] || strlen(name) >= sizeof(server.buckets[0]))
        return false;
    if (bucket_exists(name, strlen(name)))
        return true;
    if (server.bucket_count == BUCKETS)
        return false;
    snprintf(server.buckets[server.bucket_count++], sizeof(server.buckets[0]), "%s", name);
    return true;
}

/* ---- settings ---- */

static const struct {
    const char *name;
    int64_t *value;
} number_settings[] = {{"port", &server.port},
                       {"until_eof", &server.until_eof},
                       {"delay_ms", &server.delay_ms},
                       {"jitter_ms", &server.jitter_ms},
                       {"slow_ms", &server.slow_ms},
                       {"late_ms", &server.late_ms},
                       {"retry_after", &server.retry_after},
                       {"clock_s", &server.clock_s},
                       {"date", &server.date},
                       {"absent_match", &server.absent_match},
                       {"write_interval_ms", &server.write_interval_ms},
                       {"read_only", &server.read_only},
                       {"max_body", &server.max_body},
                       {"seed", &server.seed}};

static const struct {
    const char *name;
    char *value;
    size_t room;
    const char *allowed; /* " a b " */
} text_settings[] = {{"port_file", server.port_file, sizeof(server.port_file), NULL},
                     {"access_key", server.access_key, sizeof(server.access_key), NULL},
                     {"secret_key", server.secret_key, sizeof(server.secret_key), NULL},
                     {"token", server.token, sizeof(server.token), NULL},
                     {"region", server.region, sizeof(server.region), NULL},
                     {"moved", server.moved, sizeof(server.moved), NULL},
                     {"keep", server.keep, sizeof(server.keep), NULL},
                     {"keys", server.keys, sizeof(server.keys), NULL},
                     {"honour", server.honour, sizeof(server.honour), " both none if_match if_none_match "},
                     {"match", server.match, sizeof(server.match), " any quoted bare "},
                     {"etag", server.etag, sizeof(server.etag), " quoted bare weak "},
                     {"etag_from", server.etag_from, sizeof(server.etag_from), " content version "}};

static bool whole_number(const char *text, int64_t *out)
{
    char *end;
    long long value;
    errno = 0;
    value = strtoll(text, &end, 10);
    *out = (int64_t)value;
    return end != text && !*end && errno == 0;
}

static bool set_chance(s3_fault fault, const char *text)
{
    s3_chance chance = {fault_kinds[fault].methods, 0, 0, 0, server.chances[fault].happened};
    for (size_t i = 0; i < COUNT_OF(method_names); i++) {
        size_t size = strlen(method_names[i]);
        if (strncmp(text, method_names[i], size) == 0 && text[size] == ':') {
            chance.methods = 1u << i;
            text += size + 1;
            break;
        }
    }
    if (*text == 'x' || *text == '@') {
        if (!whole_number(text + 1, *text == 'x' ? &chance.times : &chance.countdown) || chance.times < 0 || chance.countdown < 0)
            return false;
    } else {
        char *end;
        chance.probability = strtod(text, &end);
        if (end == text || *end || !(chance.probability >= 0 && chance.probability <= 1))
            return false;
    }
    server.chances[fault] = chance;
    return true;
}

static void clear_counters(void)
{
    memset(server.requests, 0, sizeof(server.requests));
    memset(server.bytes_in, 0, sizeof(server.bytes_in));
    memset(server.bytes_out, 0, sizeof(server.bytes_out));
    memset(server.statuses, 0, sizeof(server.statuses));
    server.connections = 0;
    for (size_t i = 0; i < FAULT_COUNT; i++)
        server.chances[i].happened = 0;
}

static bool set_one(const char *name, const char *value)
{
    char spaced[80];
    for (size_t i = 0; i < COUNT_OF(number_settings); i++)
        if (strcmp(name, number_settings[i].name) == 0) {
            bool good = whole_number(value, number_settings[i].value);
            if (number_settings[i].value == &server.seed)
                server.random = (uint64_t)server.seed;
            return good;
        }
    for (size_t i = 0; i < COUNT_OF(text_settings); i++)
        if (strcmp(name, text_settings[i].name) == 0) {
            snprintf(spaced, sizeof(spaced), " %s ", value);
            if (text_settings[i].allowed && !strstr(text_settings[i].allowed, spaced))
                return false;
            return snprintf(text_settings[i].value, text_settings[i].room, "%s", value) < (int)text_settings[i].room;
        }
    for (int fault = 1; fault < FAULT_COUNT; fault++)
        if (strcmp(name, fault_kinds[fault].name) == 0)
            return set_chance((s3_fault)fault, value);
    if (strcmp(name, "bucket") == 0)
        return bucket_create(value);
    if (strcmp(name, "counters") == 0)
        clear_counters();
    else if (strcmp(name, "faults") == 0)
        for (int fault = 1; fault < FAULT_COUNT; fault++)
            set_chance((s3_fault)fault, "0");
    else if (strcmp(name, "objects") == 0)
        while (server.count > 0)
            object_remove(&server.objects[server.count - 1]);
    else
        return false;
    return true;
}

/* "name=value"; the text is cut. */
static bool set_line(char *line)
{
    char *equals = strchr(line, '=');
    if (!equals)
        return false;
    *equals = '\0';
    if (set_one(line, equals + 1))
        return true;
    *equals = '=';
    return false;
}

/* ---- replies ---- */

static void add_format(s3_text *text, const char *format, ...)
{
    char line[3000];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof(line), format, arguments);
    va_end(arguments);
    s3_put(text, line);
}

static void add_xml(s3_text *out, const char *text)
{
    for (; *text; text++)
        switch (*text) {
        case '&': s3_put(out, "&amp;"); break;
        case '<': s3_put(out, "&lt;"); break;
        case '>': s3_put(out, "&gt;"); break;
        case '"': s3_put(out, "&quot;"); break;
        default: s3_add(out, text, 1);
        }
}

static void refuse(s3_reply *reply, int status, const char *code, const char *message)
{
    reply->status = status;
    reply->code = code;
    reply->message = message;
}

static void add_etag(s3_reply *reply, const s3_version *version)
{
    const char *quote = strcmp(server.etag, "bare") == 0 ? "" : "\"", *weak = strcmp(server.etag, "weak") == 0 ? "W/" : "";
    add_format(&reply->head, "ETag: %s%s%s%s\r\n", weak, quote, version->etag, quote);
}

static const char *reason(int status)
{
    switch (status) {
    case 200: return "OK";
    case 204: return "No Content";
    case 206: return "Partial Content";
    case 304: return "Not Modified";
    case 400: return "Bad Request";
    case 301: return "Moved Permanently";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 409: return "Conflict";
    case 412: return "Precondition Failed";
    case 429: return "Too Many Requests";
    case 500: return "Internal Server Error";
    case 503: return "Service Unavailable";
    default: return "Other";
    }
}

/* ---- who may ask ---- */

static bool same_text(const char *a, const char *b)
{
    return a && b && strcmp(a, b) == 0;
}

/* 20130524T000000Z */
static bool parse_time(const char *text, int64_t *out)
{
    struct tm parts;
    char again[17];
    memset(&parts, 0, sizeof(parts));
    if (!text || strlen(text) != 16 ||
        sscanf(text, "%4d%2d%2dT%2d%2d%2dZ", &parts.tm_year, &parts.tm_mon, &parts.tm_mday, &parts.tm_hour, &parts.tm_min, &parts.tm_sec) != 6)
        return false;
    parts.tm_year -= 1900;
    parts.tm_mon -= 1;
    *out = (int64_t)timegm(&parts);
    time_text(*out, "%Y%m%dT%H%M%SZ", again, sizeof(again));
    return strcmp(again, text) == 0;
}

/* The part of the Authorization field behind `name`, up to a comma. */
static bool authorization_part(const char *authorization, const char *name, char *out, size_t room)
{
    const char *found = strstr(authorization, name);
    size_t size;
    if (!found)
        return false;
    found += strlen(name);
    size = strcspn(found, ", ");
    if (size == 0 || size >= room)
        return false;
    memcpy(out, found, size);
    out[size] = '\0';
    return true;
}

static bool is_signed(const char *signed_names, const char *name)
{
    for (const char *at = signed_names; *at;) {
        size_t size = strcspn(at, ";");
        if (s3_same_name(name, at, size))
            return true;
        at += size + (at[size] == ';');
    }
    return false;
}

static bool all_is_signed(const s3_request *request, const char *signed_names)
{
    if (!is_signed(signed_names, "host"))
        return false;
    for (size_t i = 0; i < request->field_count; i++)
        if (strncasecmp(request->fields[i].name, "x-amz-", 6) == 0 && !is_signed(signed_names, request->fields[i].name))
            return false;
    return true;
}

static void check_signature(const s3_request *request, s3_reply *reply, const char *signed_names, const char *given, const char *time,
                            const char *payload_hash)
{
    s3_text canonical = {NULL, 0, 0, false};
    char expected[65];
    s3_canonical_request(&canonical, request->method, request->target, request->fields, request->field_count, signed_names, payload_hash);
    s3_signature(server.secret_key, time, server.region, &canonical, expected);
    if (strcmp(expected, given) != 0)
        refuse(reply, 403, "SignatureDoesNotMatch",
               "The request signature we calculated does not match the signature you provided. Check your key and signing method.");
    s3_free(&canonical);
}

static void check_scope(s3_reply *reply, const char *credential, const char *time)
{
    char scope[200];
    const char *slash = strchr(credential, '/');
    size_t key = slash ? (size_t)(slash - credential) : 0;
    snprintf(scope, sizeof(scope), "/%.8s/%s/s3/aws4_request", time, server.region);
    if (!slash)
        refuse(reply, 400, "AuthorizationHeaderMalformed", "The authorization header is malformed; the credential has no scope.");
    else if (strlen(server.access_key) != key || memcmp(credential, server.access_key, key) != 0)
        refuse(reply, 403, "InvalidAccessKeyId", "The access key that was provided does not exist in our records.");
    else if (strcmp(slash, scope) != 0)
        refuse(reply, 400, "AuthorizationHeaderMalformed", "The authorization header is malformed; date or region is wrong.");
    reply->region = slash && reply->status == 400;
}

static void authenticate(const s3_request *request, s3_reply *reply)
{
    char credential[300], signed_names[1000], given[80], hash[65];
    const char *authorization = s3_find(request->fields, request->field_count, "authorization");
    const char *time = s3_find(request->fields, request->field_count, "x-amz-date");
    const char *payload_hash = s3_find(request->fields, request->field_count, "x-amz-content-sha256");
    const char *token = s3_find(request->fields, request->field_count, "x-amz-security-token");
    int64_t time_s = 0, away;
    if (!authorization) {
        refuse(reply, 403, "AccessDenied", "Access Denied");
        return;
    }
    if (strncmp(authorization, "AWS4-HMAC-SHA256 ", 17) != 0 || !authorization_part(authorization, "Credential=", credential, sizeof(credential)) ||
        !authorization_part(authorization, "SignedHeaders=", signed_names, sizeof(signed_names)) ||
        !authorization_part(authorization, "Signature=", given, sizeof(given))) {
        refuse(reply, 400, "AuthorizationHeaderMalformed", "The authorization header is malformed.");
        return;
    }
    if (!parse_time(time, &time_s)) {
        refuse(reply, 403, "AccessDenied", "AWS authentication requires a valid x-amz-date header");
        return;
    }
    if (!payload_hash) {
        refuse(reply, 400, "InvalidRequest", "Missing required header for this request: x-amz-content-sha256");
        return;
    }
    check_scope(reply, credential, time);
    away = time_s - server_time_s();
    if (reply->status)
        return;
    if (away > SKEW_S || away < -SKEW_S)
        refuse(reply, 403, "RequestTimeTooSkewed", "The difference between the request time and the current time is too large.");
    else if (!all_is_signed(request, signed_names))
        refuse(reply, 403, "AccessDenied", "There were headers present in the request which were not signed");
    else
        check_signature(request, reply, signed_names, given, time, payload_hash);
    if (reply->status)
        return;
    s3_hex(request->digest, sizeof(request->digest), hash);
    if (server.token[0] && !same_text(token, server.token))
        refuse(reply, 400, "InvalidToken", "The provided token is malformed or otherwise invalid.");
    else if (strcmp(payload_hash, "UNSIGNED-PAYLOAD") != 0 && strcmp(payload_hash, hash) != 0)
        refuse(reply, 400, "XAmzContentSHA256Mismatch", "The provided 'x-amz-content-sha256' header does not match what was computed.");
}

/* ---- conditions ---- */

/* Is the ETag among those of the field? `form`: any, quoted, bare. */
static bool etag_listed(const char *field, const char *etag, const char *form)
{
    size_t length = strlen(etag);
    while (*field) {
        size_t size;
        bool quoted;
        field += strspn(field, " ,\t");
        size = strcspn(field, " ,\t");
        if (size == 0)
            break;
        quoted = size == length + 2 && field[0] == '"' && field[size - 1] == '"';
        if (strcmp(form, "bare") != 0 && quoted && memcmp(field + 1, etag, length) == 0)
            return true;
        if (strcmp(form, "quoted") != 0 && size == length && memcmp(field, etag, length) == 0)
            return true;
        field += size;
    }
    return false;
}

static const char *condition(const s3_request *request, const char *name)
{
    return s3_find(request->fields, request->field_count, name);
}

/* False: the write is refused, and the reply says so. */
static bool may_write(const s3_request *request, s3_reply *reply, const s3_object *object)
{
    const char *match = condition(request, "if-match"), *none = condition(request, "if-none-match");
    bool heeds_match = strcmp(server.honour, "both") == 0 || strcmp(server.honour, "if_match") == 0;
    bool heeds_none = strcmp(server.honour, "both") == 0 || strcmp(server.honour, "if_none_match") == 0;
    int64_t since_us = object && object->written_us ? now_us(CLOCK_MONOTONIC) - object->written_us : INT64_MAX;
    if (none && strcmp(none, "*") != 0)
        refuse(reply, 501, "NotImplemented", "If-None-Match takes nothing but * here, as on S3");
    else if (none && heeds_none && object)
        refuse(reply, 412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold");
    else if (match && heeds_match && !object && server.absent_match == 404)
        refuse(reply, 404, "NoSuchKey", "The specified key does not exist.");
    else if (match && heeds_match && (!object || (strcmp(match, "*") != 0 && !etag_listed(match, object->now->etag, server.match))))
        refuse(reply, 412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold");
    else if (request->method_at == 1 && since_us < server.write_interval_ms * 1000) {
        add_format(&reply->head, "Retry-After: %" PRId64 "\r\n", server.retry_after);
        refuse(reply, 429, "TooManyRequests", "The object exceeded the rate limit for object mutation operations.");
    }
    return reply->status == 0;
}

static void put_object(const s3_request *request, s3_reply *reply)
{
    s3_object *object = object_find(request->name);
    if (!may_write(request, reply, object))
        return;
    if (!object_store(request)) {
        refuse(reply, 500, "InternalError", "Out of memory");
        return;
    }
    reply->status = 200;
    add_etag(reply, object_find(request->name)->now);
}

static void delete_object(const s3_request *request, s3_reply *reply)
{
    s3_object *object = object_find(request->name);
    if (!may_write(request, reply, object))
        return;
    if (object)
        object_remove(object);
    reply->status = 204;
}

/* bytes=1-2, bytes=1-, bytes=-2. False: the range is not in the object. */
static bool take_range(const char *range, s3_reply *reply)
{
    unsigned long long from = 0, to = reply->size ? reply->size - 1 : 0;
    if (sscanf(range, "bytes=-%llu", &to) == 1) {
        from = to < reply->size ? reply->size - to : 0;
        to = reply->size - 1;
    } else if (sscanf(range, "bytes=%llu-%llu", &from, &to) < 1) {
        return true; /* what is not understood is ignored */
    }
    if (from >= reply->size || to < from)
        return false;
    if (to >= reply->size)
        to = reply->size - 1;
    add_format(&reply->head, "Content-Range: bytes %llu-%llu/%zu\r\n", from, to, reply->size);
    reply->status = 206;
    reply->from = (size_t)from;
    reply->size = (size_t)(to - from + 1);
    return true;
}

static void get_object(const s3_request *request, s3_reply *reply, bool stale)
{
    const char *match = condition(request, "if-match"), *none = condition(request, "if-none-match"), *range = condition(request, "range");
    s3_object *object = object_find(request->name);
    s3_version *version = !object ? NULL : stale && object->before ? object->before : object->now;
    char modified[64];
    if (!version) {
        refuse(reply, 404, "NoSuchKey", "The specified key does not exist.");
        return;
    }
    if (match && strcmp(match, "*") != 0 && !etag_listed(match, version->etag, "any")) {
        refuse(reply, 412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold");
        return;
    }
    time_text(version->modified_s, "%a, %d %b %Y %H:%M:%S GMT", modified, sizeof(modified));
    add_etag(reply, version);
    add_format(&reply->head, "Last-Modified: %s\r\nAccept-Ranges: bytes\r\n", modified);
    if (none && (strcmp(none, "*") == 0 || etag_listed(none, version->etag, "any"))) {
        reply->status = 304;
        return;
    }
    reply->status = 200;
    reply->size = version->size;
    if (range && !take_range(range, reply)) {
        reply->head.size = 0;
        refuse(reply, 416, "InvalidRange", "The requested range is not satisfiable");
        return;
    }
    version->references++;
    reply->version = version;
    add_format(&reply->head, "Content-Type: application/octet-stream\r\n");
}

/* The decoded value of a parameter of the query; empty when it is not there. */
static void query_value(const s3_request *request, const char *name, char *out, size_t room)
{
    size_t length = strlen(name);
    out[0] = '\0';
    for (const char *at = request->query; at && *at;) {
        size_t size = strcspn(at, "&");
        if (size > length && memcmp(at, name, length) == 0 && at[length] == '=') {
            s3_text decoded = {NULL, 0, 0, false};
            s3_decode(&decoded, at + length + 1, size - length - 1);
            snprintf(out, room, "%s", decoded.data ? decoded.data : "");
            s3_free(&decoded);
        }
        at += size + (at[size] == '&');
    }
}

static void list_bucket(const s3_request *request, s3_reply *reply)
{
    char prefix[2200], after[1100], start[1100], most_text[24];
    size_t bucket = strlen(request->name), listed = 0, at;
    int64_t most = 1000;
    snprintf(prefix, sizeof(prefix), "%s", request->name);
    query_value(request, "prefix", prefix + bucket, sizeof(prefix) - bucket);
    query_value(request, "continuation-token", after, sizeof(after));
    query_value(request, "start-after", start, sizeof(start));
    query_value(request, "max-keys", most_text, sizeof(most_text));
    if (strcmp(start, after) > 0)
        memcpy(after, start, sizeof(after));
    if (most_text[0] && (!whole_number(most_text, &most) || most < 0 || most > 1000))
        most = 1000;
    reply->status = 200;
    s3_put(&reply->head, "Content-Type: application/xml\r\n");
    s3_put(&reply->text, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ListBucketResult><Prefix>");
    add_xml(&reply->text, prefix + bucket);
    s3_put(&reply->text, "</Prefix>");
    for (at = object_place(prefix); at < server.count && (int64_t)listed < most; at++) {
        const s3_object *object = &server.objects[at];
        if (strncmp(object->name, prefix, strlen(prefix)) != 0)
            break;
        if (after[0] && strcmp(object->name + bucket, after) <= 0)
            continue;
        s3_put(&reply->text, "<Contents><Key>");
        add_xml(&reply->text, object->name + bucket);
        add_format(&reply->text, "</Key><ETag>&quot;%s&quot;</ETag><Size>%zu</Size></Contents>", object->now->etag, object->now->size);
        snprintf(after, sizeof(after), "%.1099s", object->name + bucket);
        listed++;
    }
    bool more = at < server.count && strncmp(server.objects[at].name, prefix, strlen(prefix)) == 0;
    add_format(&reply->text, "<KeyCount>%zu</KeyCount><IsTruncated>%s</IsTruncated>", listed, more ? "true" : "false");
    if (more) {
        s3_put(&reply->text, "<NextContinuationToken>");
        add_xml(&reply->text, after);
        s3_put(&reply->text, "</NextContinuationToken>");
    }
    s3_put(&reply->text, "</ListBucketResult>");
}

static void on_bucket(s3_request *request, s3_reply *reply)
{
    size_t size = strcspn(request->name, "/");
    if (request->method_at == 1) {
        request->name[size] = '\0';
        if (bucket_create(request->name))
            reply->status = 200;
        else
            refuse(reply, 400, "InvalidBucketName", "The specified bucket is not valid, or there are too many.");
        request->name[size] = '/';
    } else if (!bucket_exists(request->name, size)) {
        refuse(reply, 404, "NoSuchBucket", "The specified bucket does not exist");
    } else if (request->method_at == 0) {
        list_bucket(request, reply);
    } else if (request->method_at == 2) {
        reply->status = 200;
    } else {
        refuse(reply, 501, "NotImplemented", "Buckets are not removed here");
    }
}

/* One request, atomically; the mutex is held. */
static void apply(s3_request *request, s3_reply *reply, bool stale)
{
    bool writes = request->method_at == 1 || request->method_at == 3;
    if (server.moved[0]) {
        refuse(reply, 301, "PermanentRedirect", "The bucket you are attempting to access must be addressed using the specified endpoint.");
        add_format(&reply->head, "x-amz-bucket-region: %s\r\n", server.moved);
    } else if (writes && server.read_only)
        refuse(reply, 403, "AccessDenied", "Access Denied");
    else if (!request->key[0])
        on_bucket(request, reply);
    else if (!bucket_exists(request->name, strcspn(request->name, "/")))
        refuse(reply, 404, "NoSuchBucket", "The specified bucket does not exist");
    else if (request->method_at == 1)
        put_object(request, reply);
    else if (request->method_at == 3)
        delete_object(request, reply);
    else
        get_object(request, reply, stale);
}

/* ---- faults ---- */

static bool happens(s3_fault fault, const s3_request *request)
{
    s3_chance *chance = &server.chances[fault];
    bool conditional = condition(request, "if-match") || condition(request, "if-none-match");
    if (!(chance->methods & 1u << request->method_at) || !strstr(request->key, server.keys))
        return false;
    if ((fault == FAULT_CONFLICT || fault == FAULT_FALSE_412 || fault == FAULT_FALSE_404) && !conditional)
        return false;
    if (chance->countdown > 0)
        return --chance->countdown == 0;
    if (chance->times > 0) {
        chance->times--;
        return true;
    }
    return chance->probability > 0 && by_chance(chance->probability);
}

static s3_fault choose_fault(const s3_request *request)
{
    if (!request->key[0])
        return FAULT_NONE;
    for (int fault = 1; fault < FAULT_COUNT; fault++)
        if (happens((s3_fault)fault, request)) {
            server.chances[fault].happened++;
            return (s3_fault)fault;
        }
    return FAULT_NONE;
}

/* True: the request got its reply and is not applied. */
static bool refused_by_fault(s3_fault fault, s3_reply *reply)
{
    if (fault == FAULT_ERROR_BEFORE)
        refuse(reply, 500, "InternalError", "We encountered an internal error. Please try again.");
    else if (fault == FAULT_BUSY)
        refuse(reply, 429, "TooManyRequests", "Please reduce your request rate.");
    else if (fault == FAULT_SLOW_DOWN)
        refuse(reply, 503, "SlowDown", "Please reduce your request rate.");
    else if (fault == FAULT_EXPIRED)
        refuse(reply, 400, "ExpiredToken", "The provided token has expired.");
    else if (fault == FAULT_CONFLICT)
        refuse(reply, 409, "ConditionalRequestConflict", "A conflicting operation occurred during the processing of this request.");
    else if (fault == FAULT_FALSE_412)
        refuse(reply, 412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold");
    else if (fault == FAULT_FALSE_404)
        refuse(reply, 404, "NoSuchKey", "The specified key does not exist.");
    else
        return false;
    if (fault == FAULT_BUSY || fault == FAULT_SLOW_DOWN)
        add_format(&reply->head, "Retry-After: %" PRId64 "\r\n", server.retry_after);
    return true;
}

/* What becomes of the reply of a request that was applied. */
static void spoil_reply(s3_fault fault, s3_reply *reply)
{
    bool has_body = reply->version && reply->size > 1;
    if (fault == FAULT_ERROR_AFTER) {
        reply->head.size = 0;
        refuse(reply, 500, "InternalError", "We encountered an internal error. Please try again.");
    } else if (fault == FAULT_OWN_412 && reply->status < 300) {
        reply->head.size = 0;
        refuse(reply, 412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold");
    } else if (fault == FAULT_TRUNCATED && has_body) {
        reply->announced = reply->size;
        reply->size /= 2;
        reply->broken = true;
    } else if (fault == FAULT_SHORTENED && has_body) {
        reply->size /= 2;
    } else if (fault == FAULT_CORRUPTED && has_body) {
        reply->flipped = 1 + (size_t)(random_next() % reply->size);
    }
}

/* ---- the wire ---- */

static bool send_all(int socket, const void *data, size_t size)
{
    const char *bytes = (const char *)data;
    while (size > 0) {
        ssize_t sent = send(socket, bytes, size, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent <= 0)
            return false;
        bytes += sent;
        size -= (size_t)sent;
    }
    return true;
}

static void make_error_text(const s3_request *request, s3_reply *reply)
{
    reply->text.size = 0;
    s3_put(&reply->head, "Content-Type: application/xml\r\n");
    add_format(&reply->text, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>%s</Code><Message>%s</Message><Resource>", reply->code,
               reply->message);
    add_xml(&reply->text, request->target);
    s3_put(&reply->text, "</Resource>");
    if (reply->region)
        add_format(&reply->text, "<Region>%s</Region>", server.region);
    s3_put(&reply->text, "<RequestId>0000000000000000</RequestId></Error>");
}

static bool send_reply(const s3_link *link, const s3_request *request, s3_reply *reply, s3_fault fault)
{
    s3_text out = {NULL, 0, 0, false};
    char date[64], flipped;
    const char *body;
    size_t size, announced;
    bool has_body = request->method_at != 2 && reply->status != 304 && reply->status != 204, sent;
    if (reply->code)
        make_error_text(request, reply);
    body = reply->code || !reply->version ? reply->text.data : (const char *)reply->version->data + reply->from;
    size = reply->code || !reply->version ? reply->text.size : reply->size;
    announced = reply->announced && !reply->code ? reply->announced : size;
    add_format(&out, "HTTP/1.1 %d %s\r\n", reply->status, reason(reply->status));
    time_text(server_time_s(), "%a, %d %b %Y %H:%M:%S GMT", date, sizeof(date));
    if (server.date)
        add_format(&out, "Date: %s\r\n", date);
    s3_add(&out, reply->head.data, reply->head.size);
    if (reply->status != 304 && reply->status != 204)
        add_format(&out, "Content-Length: %zu\r\n", announced);
    add_format(&out, "Server: s3_server\r\nx-amz-request-id: 0000000000000000\r\n%s\r\n", request->wants_close ? "Connection: close\r\n" : "");
    if (fault == FAULT_CUT_HEAD)
        out.size /= 2;
    if (fault == FAULT_GARBAGE) {
        out.size = 0;
        s3_put(&out, "\001\002 this is no reply \r\n\r\n");
    }
    pthread_mutex_lock(&server.mutex); /* whoever has the reply finds it counted */
    server.statuses[reply->status]++;
    if (request->method_at >= 0)
        server.bytes_out[request->method_at] += (int64_t)(out.size + (has_body ? size : 0));
    pthread_mutex_unlock(&server.mutex);
    if (out.failed || fault == FAULT_CUT_HEAD || fault == FAULT_GARBAGE) {
        send_all(link->socket, out.data, out.size);
        sent = false;
    } else if (!has_body || size == 0) {
        sent = send_all(link->socket, out.data, out.size);
    } else if (reply->flipped) {
        flipped = (char)(body[reply->flipped - 1] ^ 4);
        sent = send_all(link->socket, out.data, out.size) && send_all(link->socket, body, reply->flipped - 1) &&
               send_all(link->socket, &flipped, 1) && send_all(link->socket, body + reply->flipped, size - reply->flipped);
    } else {
        sent = send_all(link->socket, out.data, out.size) && send_all(link->socket, body, size);
    }
    s3_free(&out);
    return sent && !reply->broken && !request->wants_close;
}

/* The client sees a reset, not an orderly end. */
static void reset_link(s3_link *link)
{
    struct linger now = {1, 0};
    setsockopt(link->socket, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    close(link->socket);
    link->socket = -1;
}

static bool read_more(s3_link *link)
{
    ssize_t got;
    if (link->used == HEAD_ROOM)
        return false;
    do
        got = recv(link->socket, link->buffer + link->used, HEAD_ROOM - link->used, 0);
    while (got < 0 && errno == EINTR);
    if (got <= 0)
        return false;
    link->used += (size_t)got;
    return true;
}

/* The head's lines become strings; false: that is no request. */
static bool parse_head(char *head, s3_request *request)
{
    char *line = head, *end = strstr(line, "\r\n"), *space;
    *end = '\0';
    request->method = line;
    space = strchr(line, ' ');
    if (!space)
        return false;
    *space = '\0';
    request->target = space + 1;
    space = strchr(space + 1, ' ');
    if (!space || strncmp(space + 1, "HTTP/1.", 7) != 0 || request->target[0] != '/')
        return false;
    *space = '\0';
    for (line = end + 2; (end = strstr(line, "\r\n")) != NULL && end != line; line = end + 2) {
        char *colon;
        *end = '\0';
        colon = strchr(line, ':');
        if (!colon || request->field_count == FIELDS)
            return false;
        *colon = '\0';
        colon += 1 + strspn(colon + 1, " \t");
        while (end > colon && (end[-1] == ' ' || end[-1] == '\t'))
            *--end = '\0';
        end = colon + strlen(colon);
        request->fields[request->field_count].name = line;
        request->fields[request->field_count++].value = colon;
        while (*end != '\n')
            end++;
        end--;
    }
    return true;
}

static void find_name(s3_request *request)
{
    size_t path = strcspn(request->target, "?");
    s3_text decoded = {NULL, 0, 0, false};
    char *slash;
    s3_decode(&decoded, request->target + 1, path - 1);
    snprintf(request->name, sizeof(request->name) - 1, "%s", decoded.data ? decoded.data : "");
    s3_free(&decoded);
    slash = strchr(request->name, '/');
    if (!slash) {
        slash = request->name + strlen(request->name);
        slash[0] = '/';
        slash[1] = '\0';
    }
    request->key = slash + 1;
    request->query = request->target[path] ? request->target + path + 1 : NULL;
}

/* The body; what came behind it stays in the buffer. */
static bool read_body(s3_link *link, s3_request *request)
{
    const char *length = s3_find(request->fields, request->field_count, "content-length");
    const char *expect = s3_find(request->fields, request->field_count, "expect");
    int64_t size = 0;
    size_t have;
    if (s3_find(request->fields, request->field_count, "transfer-encoding") ||
        (length && (!whole_number(length, &size) || size < 0 || size > server.max_body)))
        return false;
    request->body = (char *)malloc((size_t)size + 1);
    if (!request->body)
        return false;
    request->body[size] = '\0';
    request->body_size = (size_t)size;
    have = link->used < request->body_size ? link->used : request->body_size;
    memcpy(request->body, link->buffer, have);
    memmove(link->buffer, link->buffer + have, link->used - have);
    link->used -= have;
    if (expect && have < request->body_size && !send_all(link->socket, "HTTP/1.1 100 Continue\r\n\r\n", 25))
        return false;
    while (have < request->body_size) {
        ssize_t got = recv(link->socket, request->body + have, request->body_size - have, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return false;
        have += (size_t)got;
    }
    return true;
}

/* False: the connection is at its end, or what came is no request of ours. `head` keeps the strings. */
static bool read_request(s3_link *link, s3_request *request, char **head)
{
    char *end;
    size_t size;
    const char *connection;
    memset(request, 0, sizeof(*request));
    request->method_at = -1;
    link->buffer[link->used] = '\0';
    while ((end = strstr(link->buffer, "\r\n\r\n")) == NULL) {
        if (!read_more(link))
            return false;
        link->buffer[link->used] = '\0';
    }
    size = (size_t)(end - link->buffer) + 4;
    *head = (char *)malloc(size + 1);
    if (!*head)
        return false;
    memcpy(*head, link->buffer, size);
    (*head)[size] = '\0';
    memmove(link->buffer, link->buffer + size, link->used - size);
    link->used -= size;
    if (!parse_head(*head, request) || !read_body(link, request))
        return false;
    for (size_t i = 0; i < COUNT_OF(method_names); i++)
        if (strcmp(request->method, method_names[i]) == 0)
            request->method_at = (int)i;
    s3_digest(request->body, request->body_size, request->digest);
    connection = s3_find(request->fields, request->field_count, "connection");
    request->wants_close = connection && strcasecmp(connection, "close") == 0;
    find_name(request);
    pthread_mutex_lock(&server.mutex);
    if (request->method_at >= 0 && request->target[1] != '_') {
        server.requests[request->method_at]++;
        server.bytes_in[request->method_at] += (int64_t)(size + request->body_size);
    }
    pthread_mutex_unlock(&server.mutex);
    return true;
}

/* ---- control ---- */

static void show_counters(s3_reply *reply)
{
    for (size_t i = 0; i < COUNT_OF(method_names); i++)
        add_format(&reply->text, "requests.%s=%" PRId64 "\nbytes_in.%s=%" PRId64 "\nbytes_out.%s=%" PRId64 "\n", method_names[i],
                   server.requests[i], method_names[i], server.bytes_in[i], method_names[i], server.bytes_out[i]);
    for (int i = 100; i < (int)COUNT_OF(server.statuses); i++)
        if (server.statuses[i])
            add_format(&reply->text, "status.%d=%" PRId64 "\n", i, server.statuses[i]);
    for (int i = 1; i < FAULT_COUNT; i++)
        if (server.chances[i].happened)
            add_format(&reply->text, "fault.%s=%" PRId64 "\n", fault_kinds[i].name, server.chances[i].happened);
    add_format(&reply->text, "connections=%" PRId64 "\nobjects=%zu\nversions=%" PRIu64 "\n", server.connections, server.count,
               server.versions);
}

static void change_settings(const s3_request *request, s3_reply *reply)
{
    char *line = request->body;
    while (*line) {
        char *end = line + strcspn(line, "\n"), last = *end;
        *end = '\0';
        if (*line && !set_line(line)) {
            refuse(reply, 400, "InvalidArgument", "A line is no setting; those before it were made.");
            return;
        }
        line = end + (last == '\n');
    }
}

static void raw_object(s3_request *request, s3_reply *reply)
{
    s3_object *object;
    size_t size = strlen(request->key) + 1;
    memmove(request->name, request->key, size); /* "_raw/" is gone */
    object = object_find(request->name);
    if (request->method_at == 1) {
        if (!object_store(request))
            refuse(reply, 500, "InternalError", "Out of memory");
    } else if (!object) {
        refuse(reply, 404, "NoSuchKey", "The specified key does not exist.");
    } else if (request->method_at == 3) {
        object_remove(object);
    } else {
        add_etag(reply, object->now);
        reply->version = object->now;
        reply->version->references++;
        reply->size = reply->version->size;
    }
}

static void control(s3_request *request, s3_reply *reply)
{
    reply->status = 200;
    if (strncmp(request->name, "_raw/", 5) == 0)
        raw_object(request, reply);
    else if (strcmp(request->name, "_control/") != 0)
        refuse(reply, 404, "NoSuchKey", "There is /_control and /_raw/BUCKET/KEY");
    else if (request->method_at == 1)
        change_settings(request, reply);
    else
        show_counters(reply);
}

/* ---- one request after the other ---- */

static void end_reply(s3_reply *reply)
{
    pthread_mutex_lock(&server.mutex);
    version_drop(reply->version);
    pthread_mutex_unlock(&server.mutex);
    s3_free(&reply->head);
    s3_free(&reply->text);
}

typedef struct s3_times {
    int64_t half_us, slow_us, late_us;
} s3_times;

/* What is to happen to the request; the reply is made when it gets no further. */
static s3_fault admit(const s3_request *request, s3_reply *reply, s3_times *times)
{
    s3_fault fault = FAULT_NONE;
    pthread_mutex_lock(&server.mutex);
    times->half_us = server.delay_ms * 500;
    if (server.jitter_ms > 0)
        times->half_us += (int64_t)(random_next() % (uint64_t)(server.jitter_ms * 500 + 1));
    times->slow_us = server.slow_ms * 1000;
    times->late_us = server.late_ms * 1000;
    authenticate(request, reply);
    if (!reply->status)
        fault = choose_fault(request);
    if (!reply->status)
        refused_by_fault(fault, reply);
    pthread_mutex_unlock(&server.mutex);
    return fault;
}

static bool serve_object(s3_link *link, s3_request *request, s3_reply *reply)
{
    s3_times times;
    s3_fault fault = admit(request, reply, &times);
    if (fault == FAULT_RESET || fault == FAULT_LATE)
        reset_link(link);
    if (fault == FAULT_RESET)
        return false;
    sleep_us(times.half_us + (fault == FAULT_SLOW ? times.slow_us : fault == FAULT_LATE ? times.late_us : 0));
    if (!reply->status) {
        pthread_mutex_lock(&server.mutex);
        apply(request, reply, fault == FAULT_STALE);
        spoil_reply(fault, reply);
        pthread_mutex_unlock(&server.mutex);
    }
    if (fault == FAULT_LATE || fault == FAULT_LOST_REPLY)
        return false;
    sleep_us(times.half_us + (fault == FAULT_SLOW_REPLY ? times.slow_us : 0));
    return send_reply(link, request, reply, fault);
}

static bool serve_request(s3_link *link)
{
    s3_request request;
    s3_reply reply;
    char *head = NULL;
    bool goes_on = false;
    memset(&reply, 0, sizeof(reply));
    if (read_request(link, &request, &head)) {
        if (request.method_at < 0) {
            refuse(&reply, 405, "MethodNotAllowed", "The specified method is not allowed against this resource.");
            goes_on = send_reply(link, &request, &reply, FAULT_NONE);
        } else if (request.name[0] == '_') {
            pthread_mutex_lock(&server.mutex);
            control(&request, &reply);
            pthread_mutex_unlock(&server.mutex);
            goes_on = send_reply(link, &request, &reply, FAULT_NONE);
        } else {
            goes_on = serve_object(link, &request, &reply);
        }
    }
    end_reply(&reply);
    free(request.body);
    free(head);
    return goes_on;
}

static void *serve_link(void *argument)
{
    s3_link link = {(int)(intptr_t)argument, (char *)malloc(HEAD_ROOM + 1), 0};
    int one = 1;
    setsockopt(link.socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    while (link.buffer && serve_request(&link))
        continue;
    if (link.socket >= 0)
        close(link.socket);
    free(link.buffer);
    return NULL;
}

static int listen_here(int port)
{
    struct sockaddr_in address;
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    memset(&address, 0, sizeof(address));
    address.sin_family = AF_INET;
    address.sin_port = htons((uint16_t)port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof(address)) != 0 || listen(listener, 256) != 0) {
        fprintf(stderr, "s3_server: port %d: %s\n", port, strerror(errno));
        exit(1);
    }
    return listener;
}

static void tell_port(int listener)
{
    struct sockaddr_in address;
    socklen_t size = sizeof(address);
    FILE *file;
    if (getsockname(listener, (struct sockaddr *)&address, &size) != 0)
        exit(1);
    if (server.port_file[0]) {
        char unfinished[600];
        snprintf(unfinished, sizeof(unfinished), "%s.new", server.port_file);
        file = fopen(unfinished, "w");
        if (!file || fprintf(file, "%d\n", ntohs(address.sin_port)) < 0 || fclose(file) != 0 || rename(unfinished, server.port_file) != 0) {
            fprintf(stderr, "s3_server: %s: %s\n", server.port_file, strerror(errno));
            exit(1);
        }
    }
    printf("port %d\n", ntohs(address.sin_port));
    fflush(stdout);
}

static void *wait_for_eof(void *unused)
{
    char byte;
    ssize_t got;
    (void)unused;
    do
        got = read(STDIN_FILENO, &byte, 1);
    while (got > 0 || (got < 0 && errno == EINTR));
    _exit(0);
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_attr_t attributes;
    pthread_t thread;
    int listener;
    signal(SIGPIPE, SIG_IGN);
    server.random = (uint64_t)server.seed;
    for (int i = 1; i < argc; i++)
        if (!set_line(argv[i])) {
            fprintf(stderr, "s3_server: '%s' is no setting\n", argv[i]);
            return 2;
        }
    listener = listen_here((int)server.port);
    tell_port(listener);
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, 512 << 10);
    if (server.until_eof && pthread_create(&thread, &attributes, wait_for_eof, NULL) != 0)
        return 1;
    for (;;) {
        int client = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (client < 0) {
            sleep_us(errno == EMFILE || errno == ENFILE ? 10000 : 0);
            continue;
        }
        pthread_mutex_lock(&server.mutex);
        server.connections++;
        pthread_mutex_unlock(&server.mutex);
        if (pthread_create(&thread, &attributes, serve_link, (void *)(intptr_t)client) != 0)
            close(client);
    }
}
