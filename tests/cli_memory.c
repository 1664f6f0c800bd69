/* Preloaded into the command-line tool by tests/cli_memory.sh: the allocation number CLI_FAIL_AT of the tool and of the library in it fails,
 * and leaves the file CLI_FAIL_MARK. What other libraries allocate is theirs to test.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *pointer, size_t size);

static long seen;

static int is_ours(void *caller)
{
    static __thread int asking; /* dladdr may allocate */
    Dl_info info;
    if (asking) return 0;
    asking = 1;
    int ours = dladdr(caller, &info) && info.dli_fname && strstr(info.dli_fname, "pgqrs") != NULL;
    asking = 0;
    return ours;
}

static int fails(void *caller)
{
    const char *at = getenv("CLI_FAIL_AT"), *mark = getenv("CLI_FAIL_MARK");
    if (!at || !mark || !is_ours(caller)) return 0;
    if (__atomic_add_fetch(&seen, 1, __ATOMIC_RELAXED) != atol(at)) return 0;
    int file = open(mark, O_CREAT | O_WRONLY, 0600);
    if (file >= 0) close(file);
    errno = ENOMEM;
    return 1;
}

void *malloc(size_t size)
{
    return fails(__builtin_return_address(0)) ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    return fails(__builtin_return_address(0)) ? NULL : __libc_calloc(count, size);
}

void *realloc(void *pointer, size_t size)
{
    return fails(__builtin_return_address(0)) ? NULL : __libc_realloc(pointer, size);
}

char *strdup(const char *text)
{
    size_t size = strlen(text) + 1;
    char *copy = fails(__builtin_return_address(0)) ? NULL : __libc_malloc(size);
    return copy ? memcpy(copy, text, size) : NULL;
}
