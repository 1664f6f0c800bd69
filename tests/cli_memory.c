/* Preloaded into the command-line tool by tests/cli_memory.sh: the allocation number CLI_FAIL_AT of the tool and of the library in it fails,
 * and leaves the file CLI_FAIL_MARK. What other libraries allocate is theirs to test.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *pointer, size_t size);

static long seen;
static struct {
    ElfW(Addr) begin, end;
} ours; /* where the tool is loaded; empty in another program that a test starts */

static int look(struct dl_phdr_info *info, size_t size, void *user)
{
    (void)size;
    (void)user;
    ours.begin = (ElfW(Addr)) - 1;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        ElfW(Addr) begin = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
        if (info->dlpi_phdr[i].p_type != PT_LOAD) continue;
        if (begin < ours.begin) ours.begin = begin;
        if (begin + info->dlpi_phdr[i].p_memsz > ours.end) ours.end = begin + info->dlpi_phdr[i].p_memsz;
    }
    return 1; /* the first one is the program */
}

__attribute__((constructor)) static void find_the_tool(void)
{
    char path[1000];
    ssize_t size = readlink("/proc/self/exe", path, sizeof path);
    if (size > 6 && memcmp(path + size - 6, "/pgqrs", 6) == 0) dl_iterate_phdr(look, NULL);
}

static int is_ours(void *caller)
{
    ElfW(Addr) address = (ElfW(Addr))caller;
    return address >= ours.begin && address < ours.end;
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
