// A disk that breaks: loaded before the C library, it lets LNCA_WRITES operations that change regular files pass
// (opening for writing, writing, renaming), and fails all that follow with the error LNCA_ERROR.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static atomic_long operations;

static int broken(void) {
    const char *most = getenv("LNCA_WRITES"), *error = getenv("LNCA_ERROR");
    if (!most || !error || atomic_fetch_add(&operations, 1) < atol(most)) return 0;
    errno = atoi(error);
    return 1;
}

ssize_t write(int file, const void *bytes, size_t count) {
    static ssize_t (*real)(int, const void *, size_t);
    struct stat about;
    if (!real) real = (ssize_t (*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
    if (!fstat(file, &about) && S_ISREG(about.st_mode) && broken()) return -1;
    return real(file, bytes, count);
}

int open64(const char *path, int flags, ...) {
    static int (*real)(const char *, int, ...);
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    if (!real) real = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open64");
    if ((flags & O_ACCMODE) != O_RDONLY && strncmp(path, "/dev/", 5) && strncmp(path, "/proc/", 6) && broken()) return -1;
    return real(path, flags, mode);
}

int rename(const char *from, const char *to) {
    static int (*real)(const char *, const char *);
    if (!real) real = (int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename");
    return broken() ? -1 : real(from, to);
}
