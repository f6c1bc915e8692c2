/* Preloaded into a process that is to die at its n-th crash point, counted over all threads.
 *
 * Crash points lie before and after each call that makes something durable or lets others see it: flushes, renames,
 * and sends on network sockets. The process is killed there; or the power fails as well, and then what its open files
 * have got since their last flush is gone, and so are new names in folders that were not flushed since.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define MOST 4096
#define LONGEST 1024

static atomic_long passed, fatal = -1;
static int report = -1;
static char power[LONGEST];

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static struct { dev_t dev; ino_t ino; off_t size; } flushed[MOST];
static struct { char from[LONGEST], to[LONGEST]; } renamed[MOST];
static int files, renames;

/* Die at point n; 0: at none, but tell of all; -1: neither. `descriptor` gets a line for each point that is told of.
 * `folder`: where the power fails, "" if it does not. */
void crash_at(long n, int descriptor, const char *folder)
{
    report = descriptor;
    snprintf(power, sizeof power, "%s", folder);
    passed = 0;
    fatal = n;
}

static void say(const char *format, ...)
{
    char line[4 * LONGEST];
    va_list values;
    va_start(values, format);
    int length = vsnprintf(line, sizeof line, format, values);
    va_end(values);
    if (length >= (int)sizeof line)
        length = sizeof line - 1;
    syscall(SYS_write, report, line, length);
}

static int flushed_file(const struct stat *status)
{
    int i = 0;
    while (i < files && (flushed[i].dev != status->st_dev || flushed[i].ino != status->st_ino))
        i++;
    if (i == files && files < MOST) {
        flushed[i].dev = status->st_dev;
        flushed[i].ino = status->st_ino;
        flushed[i].size = 0;
        files++;
    }
    return i;
}

static const char *name_of(int descriptor, char *path)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, LONGEST - 1);
    path[length < 0 ? 0 : length] = 0;
    return path;
}

static void fail_power(void)
{
    struct stat status;
    char path[LONGEST];
    for (int descriptor = 3; descriptor < 1024; descriptor++) {
        /* The index of a write-ahead log is rebuilt from the log, and others still have it mapped. */
        if (fstat(descriptor, &status) || !S_ISREG(status.st_mode) ||
            (fcntl(descriptor, F_GETFL) & O_ACCMODE) == O_RDONLY ||
            strncmp(name_of(descriptor, path), power, strlen(power)) || strstr(path, "-shm"))
            continue;
        off_t size = flushed[flushed_file(&status)].size;
        if (size < status.st_size && ftruncate(descriptor, size))
            say("it cannot be cut: %s\n", path);
    }
    while (renames--)
        if (syscall(SYS_rename, renamed[renames].to, renamed[renames].from) && errno != ENOENT)
            say("it cannot be named again: %s\n", renamed[renames].to);
}

static void die(void)
{
    if (*power) {
        pthread_mutex_lock(&turn);
        fail_power();
    }
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;)
        pause();
}

static void point(const char *when, const char *what, const char *about, const char *more)
{
    if (fatal < 0)
        return;
    long n = atomic_fetch_add(&passed, 1) + 1;
    if (fatal == 0 || n == fatal)
        say("%s\t%s\t%s\t%s\n", when, what, about, more);
    if (n == fatal)
        die();
}

/* ---- flushes */

/* New names in this folder are durable. */
static void keep_names(const char *folder)
{
    int kept = 0;
    size_t length = strlen(folder);
    for (int i = 0; i < renames; i++)
        if (strncmp(renamed[i].to, folder, length) || strrchr(renamed[i].to, '/') != renamed[i].to + length)
            renamed[kept++] = renamed[i];
    renames = kept;
}

static int flush(int descriptor, int (*real)(int))
{
    char path[LONGEST];
    struct stat before;
    if (fatal < 0 || fstat(descriptor, &before))
        return real(descriptor);
    name_of(descriptor, path);
    point("before", "flush", path, "");
    /* Not for real: the disk would only take its time, for the kernel lives on. */
    pthread_mutex_lock(&turn);
    if (S_ISDIR(before.st_mode))
        keep_names(path);
    else
        flushed[flushed_file(&before)].size = before.st_size;
    pthread_mutex_unlock(&turn);
    point("after", "flush", path, "");
    return 0;
}

int fsync(int descriptor) { return flush(descriptor, REAL(fsync)); }
int fdatasync(int descriptor) { return flush(descriptor, REAL(fdatasync)); }

/* ---- renames */

static int note_name(int result, const char *from, const char *to)
{
    struct stat status;
    if (fatal < 0 || result)
        return result;
    pthread_mutex_lock(&turn);
    if (!stat(to, &status) && S_ISREG(status.st_mode) && flushed[flushed_file(&status)].size < status.st_size)
        say("it was not flushed: %s\n", to);
    snprintf(renamed[renames].from, LONGEST, "%s", from);
    snprintf(renamed[renames].to, LONGEST, "%s", to);
    renames += renames < MOST - 1;
    pthread_mutex_unlock(&turn);
    point("after", "rename", from, to);
    return 0;
}

int rename(const char *from, const char *to)
{
    point("before", "rename", from, to);
    return note_name(REAL(rename)(from, to), from, to);
}
int renameat(int there, const char *from, int here, const char *to)
{
    point("before", "rename", from, to);
    return note_name(REAL(renameat)(there, from, here, to), from, to);
}
int renameat2(int there, const char *from, int here, const char *to, unsigned flags)
{
    point("before", "rename", from, to);
    return note_name(REAL(renameat2)(there, from, here, to, flags), from, to);
}

/* ---- sends */

/* Whether it leads to others: the event loop wakes itself through a socket, too. */
static int network(int descriptor)
{
    int domain;
    socklen_t size = sizeof domain;
    return fatal >= 0 && !getsockopt(descriptor, SOL_SOCKET, SO_DOMAIN, &domain, &size) &&
           (domain == AF_INET || domain == AF_INET6);
}

/* The method, if this is the beginning of a request. */
static const char *method(const struct iovec *piece, char *word)
{
    const char *data = piece->iov_base;
    size_t i;
    for (i = 0; i < piece->iov_len && i < 7 && data[i] >= 'A' && data[i] <= 'Z'; i++)
        word[i] = data[i];
    word[i] = 0;
    return word;
}

#define SENT(descriptor, piece, call)                       \
    do {                                                    \
        char word[8];                                       \
        if (!network(descriptor))                           \
            return call;                                    \
        struct iovec begin = piece;                         \
        point("before", "send", method(&begin, word), "");  \
        ssize_t result = call;                              \
        point("after", "send", word, "");                   \
        return result;                                      \
    } while (0)
#define PIECE(data, size) ((struct iovec){(void *)(data), size})

ssize_t send(int to, const void *data, size_t size, int flags)
{
    SENT(to, PIECE(data, size), REAL(send)(to, data, size, flags));
}
ssize_t sendto(int to, const void *data, size_t size, int flags, const struct sockaddr *address, socklen_t length)
{
    SENT(to, PIECE(data, size), REAL(sendto)(to, data, size, flags, address, length));
}
ssize_t sendmsg(int to, const struct msghdr *message, int flags)
{
    SENT(to, message->msg_iovlen ? *message->msg_iov : PIECE("", 0), REAL(sendmsg)(to, message, flags));
}
ssize_t write(int to, const void *data, size_t size)
{
    SENT(to, PIECE(data, size), REAL(write)(to, data, size));
}
ssize_t writev(int to, const struct iovec *pieces, int count)
{
    SENT(to, count ? *pieces : PIECE("", 0), REAL(writev)(to, pieces, count));
}
ssize_t sendfile(int to, int from, off_t *offset, size_t size)
{
    ssize_t (*real)(int, int, off_t *, size_t) = dlsym(RTLD_NEXT, "sendfile");
    SENT(to, PIECE("", 0), real(to, from, offset, size));
}
ssize_t sendfile64(int to, int from, off_t *offset, size_t size)
{
    ssize_t (*real)(int, int, off_t *, size_t) = dlsym(RTLD_NEXT, "sendfile64");
    SENT(to, PIECE("", 0), real(to, from, offset, size));
}
