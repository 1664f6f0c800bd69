/* Preloaded into a server: while the file named by PGQRS_PROOF_FULL is there, no file inside of the directory named by
 * PGQRS_PROOF_FULL_UNDER grows any more, as on a disk without room. What is there already can be overwritten. Needs no rights, no
 * small file system, and can be switched at any moment. Linux with glibc.
 *
 *   cc -shared -fPIC tests/proof_fulldisk.c -o fulldisk.so -ldl
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

/* The real function behind a name; a union because C does not cast data pointers to functions. */
#define REAL(type, name)                                                                                                              \
    static union {                                                                                                                    \
        void *found;                                                                                                                  \
        type call;                                                                                                                    \
    } real;                                                                                                                           \
    if (!real.found)                                                                                                                  \
    real.found = dlsym(RTLD_NEXT, name)

static int is_under(int file)
{
    const char *under = getenv("PGQRS_PROOF_FULL_UNDER");
    char link[64], name[4096];
    ssize_t size;
    snprintf(link, sizeof(link), "/proc/self/fd/%d", file);
    size = readlink(link, name, sizeof(name) - 1);
    if (size <= 0 || !under)
        return 0;
    name[size] = '\0';
    return strncmp(name, under, strlen(under)) == 0;
}

/* Would writing up to this offset need room that is not there? */
static int no_room(int file, off_t end)
{
    const char *full = getenv("PGQRS_PROOF_FULL");
    struct stat status;
    int before = errno, result;
    result = full && access(full, F_OK) == 0 && fstat(file, &status) == 0 && S_ISREG(status.st_mode) && end > status.st_size &&
             is_under(file);
    errno = before;
    return result;
}

static ssize_t refuse(void)
{
    errno = ENOSPC;
    return -1;
}

ssize_t pwrite64(int file, const void *data, size_t size, off64_t offset)
{
    typedef ssize_t (*function)(int, const void *, size_t, off64_t);
    REAL(function, "pwrite64");
    return no_room(file, (off_t)offset + (off_t)size) ? refuse() : real.call(file, data, size, offset);
}

ssize_t pwrite(int file, const void *data, size_t size, off_t offset)
{
    typedef ssize_t (*function)(int, const void *, size_t, off_t);
    REAL(function, "pwrite");
    return no_room(file, offset + (off_t)size) ? refuse() : real.call(file, data, size, offset);
}

static off_t size_of(const struct iovec *parts, int count)
{
    off_t size = 0;
    int i;
    for (i = 0; i < count; i++)
        size += (off_t)parts[i].iov_len;
    return size;
}

ssize_t pwritev64(int file, const struct iovec *parts, int count, off64_t offset)
{
    typedef ssize_t (*function)(int, const struct iovec *, int, off64_t);
    REAL(function, "pwritev64");
    return no_room(file, (off_t)offset + size_of(parts, count)) ? refuse() : real.call(file, parts, count, offset);
}

ssize_t pwritev(int file, const struct iovec *parts, int count, off_t offset)
{
    typedef ssize_t (*function)(int, const struct iovec *, int, off_t);
    REAL(function, "pwritev");
    return no_room(file, offset + size_of(parts, count)) ? refuse() : real.call(file, parts, count, offset);
}

int posix_fallocate64(int file, off64_t offset, off64_t size)
{
    typedef int (*function)(int, off64_t, off64_t);
    REAL(function, "posix_fallocate64");
    return no_room(file, (off_t)(offset + size)) ? ENOSPC : real.call(file, offset, size);
}

int posix_fallocate(int file, off_t offset, off_t size)
{
    typedef int (*function)(int, off_t, off_t);
    REAL(function, "posix_fallocate");
    return no_room(file, offset + size) ? ENOSPC : real.call(file, offset, size);
}
