/* Durations and times, as people write and read them. */
#include "cli.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Nothing here asks for more than the library's ten years. */
#define DURATION_MAX_MS (INT64_C(10) * 366 * 24 * 3600 * 1000)

bool units_read_number(const char *text, int64_t *number)
{
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (errno != 0 || end == text || *end != 0 || strchr(" \t\n\v\f\r", *text)) return false;
    *number = value;
    return true;
}

static int64_t unit_ms(const char *text, size_t *length)
{
    static const struct {
        const char *name;
        int64_t ms;
    } units[] = {{"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}, {"d", 86400000}, {"w", 604800000}};
    *length = strspn(text, "abcdefghijklmnopqrstuvwxyz");
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++)
        if (strlen(units[i].name) == *length && strncmp(units[i].name, text, *length) == 0) return units[i].ms;
    return 0;
}

bool units_read_duration(const char *text, int64_t *ms)
{
    int64_t total = 0;
    if (*text == 0) return false;
    while (*text) {
        if (*text < '0' || *text > '9') return false;
        char *end;
        size_t length;
        errno = 0;
        long long value = strtoll(text, &end, 10);
        int64_t unit = *end == 0 && total == 0 ? 1000 : unit_ms(end, &length);
        if (*end == 0) length = 0;
        if (errno != 0 || unit == 0 || value > DURATION_MAX_MS / unit) return false;
        total += value * unit;
        if (total > DURATION_MAX_MS) return false;
        text = end + length;
    }
    *ms = total;
    return true;
}

/* The two largest units: 3d4h, 5m12s, 1.5s, 250ms. */
void units_write_duration(char *buffer, size_t size, int64_t ms)
{
    int64_t seconds = ms / 1000;
    if (ms < 1000)
        snprintf(buffer, size, "%dms", (int)ms);
    else if (ms < 10000 && ms % 1000 >= 100)
        snprintf(buffer, size, "%d.%ds", (int)seconds, (int)(ms % 1000 / 100));
    else if (seconds < 60)
        snprintf(buffer, size, "%ds", (int)seconds);
    else if (seconds < 3600 && seconds % 60 == 0)
        snprintf(buffer, size, "%dm", (int)(seconds / 60));
    else if (seconds < 3600)
        snprintf(buffer, size, "%dm%ds", (int)(seconds / 60), (int)(seconds % 60));
    else if (seconds < 86400 && seconds % 3600 < 60)
        snprintf(buffer, size, "%dh", (int)(seconds / 3600));
    else if (seconds < 86400)
        snprintf(buffer, size, "%dh%dm", (int)(seconds / 3600), (int)(seconds % 3600 / 60));
    else if (seconds % 86400 < 3600)
        snprintf(buffer, size, "%lldd", (long long)(seconds / 86400));
    else
        snprintf(buffer, size, "%lldd%dh", (long long)(seconds / 86400), (int)(seconds % 86400 / 3600));
}

/* 2026-01-31T23:59:59.123456Z: sorts as text, and every JSON reader's date function takes it. */
void units_write_iso(char *buffer, size_t size, int64_t time_us)
{
    time_t seconds = (time_t)(time_us / 1000000);
    int micros = (int)(time_us % 1000000);
    struct tm parts;
    if (micros < 0) {
        micros += 1000000;
        seconds--;
    }
    if (!gmtime_r(&seconds, &parts)) {
        snprintf(buffer, size, "%lld", (long long)time_us);
        return;
    }
    snprintf(buffer, size, "%04d-%02d-%02dT%02d:%02d:%02d.%06dZ", parts.tm_year + 1900, parts.tm_mon + 1, parts.tm_mday,
             parts.tm_hour, parts.tm_min, parts.tm_sec, micros);
}

void units_write_relative(char *buffer, size_t size, int64_t time_us, int64_t now_us)
{
    char duration[UNITS_ROOM];
    int64_t away_ms = (time_us - now_us) / 1000;
    units_write_duration(duration, sizeof duration, away_ms < 0 ? -away_ms : away_ms);
    snprintf(buffer, size, away_ms <= 0 ? "%s ago" : "in %s", duration);
}
