/* A disk that refuses and a wall clock that is wrong, for one process and its children; see surroundings.py.
 *
 * Preloaded, it stands before libc. What is wrong is read from a mapped file at every call, so it changes while they run.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <time.h>
#include <unistd.h>

struct control {
    volatile int32_t disk_errno; /* 0: the disk works */
    volatile int32_t reads_too;  /* reading fails as well */
    volatile int32_t synced;     /* -1: as the kernel says */
    volatile int32_t reserved;
    volatile int64_t offset_ns; /* of the wall clock */
};

static struct control *control;
static const char *folder;
static size_t folder_length;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("SURROUNDINGS_FILE");
    folder = getenv("SURROUNDINGS_DISK");
    if (!path || !folder) return;
    folder_length = strlen(folder);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    void *mapped = mmap(NULL, sizeof *control, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (mapped != MAP_FAILED) control = mapped;
}

#define REAL(type, name, ...)                                    \
    static type (*real)(__VA_ARGS__);                            \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

static int is_there(const char *path) {
    return !strncmp(path, folder, folder_length) && (path[folder_length] == '/' || !path[folder_length]);
}

static int is_there_fd(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return is_there(path);
}

/* The error of a change to the disk, or of a read; 0: none. */
static int change_fails(void) { return control ? control->disk_errno : 0; }
static int read_fails(void) { return control && control->reads_too ? control->disk_errno : 0; }

#define FAIL_PATH(error, path) \
    if ((error) && is_there(path)) { errno = (error); return -1; }
#define FAIL_FD(error, fd) \
    if ((error) && is_there_fd(fd)) { errno = (error); return -1; }

#define OPEN(name)                                                                          \
    int name(const char *path, int flags, ...) {                                            \
        REAL(int, name, const char *, int, ...);                                            \
        va_list rest;                                                                       \
        va_start(rest, flags);                                                              \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;             \
        va_end(rest);                                                                       \
        int error = flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC) ? change_fails() : read_fails(); \
        FAIL_PATH(error, path)                                                              \
        return real(path, flags, mode);                                                     \
    }
OPEN(open)
OPEN(open64)

#define CHANGE_FD(type, name, parameters, arguments, ...) \
    type name parameters {                                \
        REAL(type, name, __VA_ARGS__);                    \
        FAIL_FD(change_fails(), fd)                       \
        return real arguments;                            \
    }
CHANGE_FD(ssize_t, write, (int fd, const void *data, size_t size), (fd, data, size), int, const void *, size_t)
CHANGE_FD(ssize_t, pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at), int, const void *,
          size_t, off_t)
CHANGE_FD(ssize_t, pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at), int,
          const void *, size_t, off64_t)
CHANGE_FD(int, ftruncate, (int fd, off_t size), (fd, size), int, off_t)
CHANGE_FD(int, ftruncate64, (int fd, off64_t size), (fd, size), int, off64_t)

#define SYNC(name)                                                            \
    int name(int fd) {                                                        \
        REAL(int, name, int);                                                 \
        FAIL_FD(change_fails() == EIO ? EIO : 0, fd) /* nothing to write is no error elsewhere */ \
        return real(fd);                                                      \
    }
SYNC(fsync)
SYNC(fdatasync)

#define READ_FD(name, parameters, arguments, ...) \
    ssize_t name parameters {                     \
        REAL(ssize_t, name, __VA_ARGS__);         \
        FAIL_FD(read_fails(), fd)                 \
        return real arguments;                    \
    }
READ_FD(read, (int fd, void *data, size_t size), (fd, data, size), int, void *, size_t)
READ_FD(pread, (int fd, void *data, size_t size, off_t at), (fd, data, size, at), int, void *, size_t, off_t)
READ_FD(pread64, (int fd, void *data, size_t size, off64_t at), (fd, data, size, at), int, void *, size_t, off64_t)

#define CHANGE_PATH(name, parameters, arguments, ...) \
    int name parameters {                             \
        REAL(int, name, __VA_ARGS__);                 \
        FAIL_PATH(change_fails(), path)               \
        return real arguments;                        \
    }
CHANGE_PATH(rename, (const char *path, const char *to), (path, to), const char *, const char *)
CHANGE_PATH(unlink, (const char *path), (path), const char *)
CHANGE_PATH(mkdir, (const char *path, mode_t mode), (path, mode), const char *, mode_t)
CHANGE_PATH(rmdir, (const char *path), (path), const char *)

int posix_fallocate64(int fd, off64_t at, off64_t size) {
    REAL(int, posix_fallocate64, int, off64_t, off64_t);
    return change_fails() && is_there_fd(fd) ? change_fails() : real(fd, at, size);
}

int clock_gettime(clockid_t id, struct timespec *now) {
    REAL(int, clock_gettime, clockid_t, struct timespec *);
    int result = real(id, now);
    if (!result && control && id == CLOCK_REALTIME && control->offset_ns) {
        int64_t ns = now->tv_nsec + control->offset_ns % 1000000000;
        now->tv_sec += control->offset_ns / 1000000000;
        if (ns < 0) { ns += 1000000000; now->tv_sec--; }
        if (ns >= 1000000000) { ns -= 1000000000; now->tv_sec++; }
        now->tv_nsec = ns;
    }
    return result;
}

time_t time(time_t *result) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (result) *result = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec spec;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &spec);
    *now = (struct timeval){spec.tv_sec, spec.tv_nsec / 1000};
    return 0;
}

int adjtimex(struct timex *state) {
    REAL(int, adjtimex, struct timex *);
    if (!control || control->synced < 0) return real(state);
    state->status = control->synced ? 0 : STA_UNSYNC;
    return control->synced ? TIME_OK : TIME_ERROR;
}
