/*
 * Temporary files and folders: made, renamed, removed, and removed all at once from a signal handler. Everything that
 * qd_outputs_abandon() reaches is a plain system call on memory that is already there.
 */
#include "lib/base/pending.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

struct qd_pending {
	struct qd_pending *next; /* set once, before the record is linked */
	volatile sig_atomic_t kind;
	bool taken; /* guarded by `lock`; the handler looks at `kind` only */
	char path[PATH_MAX];
};

static struct qd_pending *volatile all;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void block_signals(sigset_t *before)
{
	sigset_t every;
	sigfillset(&every);
	pthread_sigmask(SIG_SETMASK, &every, before);
}

static void restore_signals(const sigset_t *before)
{
	pthread_sigmask(SIG_SETMASK, before, NULL);
}

/* ---- removal, async-signal-safe ---- */

enum { TREE_DEPTH = 32, LISTING_BYTES = 2048 };

static void remove_tree(int parent, const char *name, int depth);

/* One reading of a folder, removing what it names; false when there was nothing. opendir allocates, so the system call is used. */
static bool remove_listed(int fd, int depth)
{
	_Alignas(struct dirent64) char listing[LISTING_BYTES];
	bool any = false;
	for (;;) {
		long n = syscall(SYS_getdents64, fd, listing, sizeof(listing));
		if (n <= 0)
			return any;
		for (long at = 0; at < n;) {
			const struct dirent64 *entry = (const struct dirent64 *)(const void *)(listing + at);
			at += entry->d_reclen;
			if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
				continue;
			remove_tree(fd, entry->d_name, depth + 1);
			any = true;
		}
	}
}

/* Removes a file, or a folder with what is in it; links are removed, not followed. */
static void remove_tree(int parent, const char *name, int depth)
{
	if (unlinkat(parent, name, 0) == 0 || (errno != EISDIR && errno != EPERM))
		return;
	int fd = depth < TREE_DEPTH ? openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : -1;
	if (fd >= 0) {
		/* Removing while reading may skip entries: read again, but not forever when something cannot be removed. */
		for (int pass = 0; pass < 8 && remove_listed(fd, depth); pass++)
			lseek(fd, 0, SEEK_SET);
		close(fd);
	}
	unlinkat(parent, name, AT_REMOVEDIR);
}

void qd_outputs_abandon(void)
{
	int saved = errno;
	for (struct qd_pending *pending = all; pending; pending = pending->next) {
		if (pending->kind == QD_PENDING_FILE)
			unlink(pending->path);
		else if (pending->kind == QD_PENDING_FOLDER)
			remove_tree(AT_FDCWD, pending->path, 0);
		pending->kind = QD_PENDING_NONE;
	}
	errno = saved;
}

/* ---- the list ---- */

static struct qd_pending *take_record(void)
{
	pthread_mutex_lock(&lock);
	struct qd_pending *pending = all;
	while (pending && pending->taken)
		pending = pending->next;
	if (pending) {
		pending->taken = true;
	} else if ((pending = calloc(1, sizeof(*pending)))) {
		pending->taken = true;
		pending->next = all;
		all = pending;
	}
	pthread_mutex_unlock(&lock);
	return pending;
}

static void give_record(struct qd_pending *pending)
{
	pending->kind = QD_PENDING_NONE;
	pthread_mutex_lock(&lock);
	pending->taken = false;
	pthread_mutex_unlock(&lock);
}

/* ---- creation ---- */

/* Writes "<folder>/.<name>.XXXXXX" for `path` with fresh random characters; false when that is too long. */
static bool temporary_name(char *out, const char *path)
{
	static const char letters[] = "abcdefghijklmnopqrstuvwxyz0123456789";
	unsigned char random[6];
	if (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random))
		return false;
	const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
	int n = snprintf(out, PATH_MAX, "%.*s.%s.", (int)(name - path), path, name);
	if (n < 0 || n > PATH_MAX - 7)
		return false;
	for (size_t i = 0; i < sizeof(random); i++)
		out[(size_t)n + i] = letters[random[i] % (sizeof(letters) - 1)];
	out[n + 6] = '\0';
	return true;
}

/* 0, or errno. Taken names are tried again with other characters. */
static int create_unique(struct qd_pending *pending, enum qd_pending_kind kind, const char *path, int *fd)
{
	for (int attempt = 0; attempt < 100; attempt++) {
		if (!temporary_name(pending->path, path))
			return ENAMETOOLONG;
		if (kind == QD_PENDING_FOLDER && mkdir(pending->path, 0777) == 0)
			return 0;
		if (kind == QD_PENDING_FILE && (*fd = open(pending->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666)) >= 0)
			return 0;
		if (errno != EEXIST)
			return errno;
	}
	return EEXIST;
}

enum qd_status qd_pending_create(struct qd_pending **out, enum qd_pending_kind kind, const char *path, char **temporary, int *fd)
{
	*out = NULL;
	struct qd_pending *pending = take_record();
	if (!pending)
		return qd_fail(QD_ENOMEM, "out of memory");
	sigset_t before;
	block_signals(&before);
	int error = create_unique(pending, kind, path, fd);
	if (!error)
		pending->kind = kind;
	restore_signals(&before);
	if (error) {
		give_record(pending);
		return qd_fail(QD_EIO, "cannot create '%s': %s", path, strerror(error));
	}
	*temporary = strdup(pending->path);
	if (!*temporary) {
		if (kind == QD_PENDING_FILE) {
			close(*fd);
			*fd = -1;
		}
		qd_pending_remove(pending);
		return qd_fail(QD_ENOMEM, "out of memory");
	}
	*out = pending;
	return QD_OK;
}

/* ---- the end of a temporary ---- */

/* A rename that fails with EEXIST when `to` is there, also on file systems that cannot promise that in one step. */
static int rename_new(const char *from, const char *to, bool folder)
{
	if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0)
		return 0;
	if (errno != EINVAL && errno != ENOSYS)
		return errno;
	if (!folder && link(from, to) == 0)
		return unlink(from) == 0 ? 0 : errno;
	if (!folder && errno == EEXIST)
		return EEXIST;
	if (access(to, F_OK) == 0)
		return EEXIST;
	return rename(from, to) == 0 ? 0 : errno;
}

/* Puts a folder in an older one's place and removes the older one. Where the two cannot be exchanged, the older is moved aside. */
static int replace_folder(const char *from, const char *to)
{
	if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_EXCHANGE) == 0) {
		remove_tree(AT_FDCWD, from, 0);
		return 0;
	}
	if (errno == ENOENT)
		return rename(from, to) == 0 ? 0 : errno;
	if (errno != EINVAL && errno != ENOSYS)
		return errno;
	char aside[PATH_MAX];
	if (!temporary_name(aside, to))
		return ENAMETOOLONG;
	if (rename(to, aside) != 0)
		return errno;
	if (rename(from, to) != 0) {
		int error = errno;
		return rename(aside, to) == 0 ? error : errno;
	}
	remove_tree(AT_FDCWD, aside, 0);
	return 0;
}

/* Flushes the folder that holds `path`, so that a rename in it survives a power cut. */
static enum qd_status sync_parent(const char *path)
{
	char folder[PATH_MAX];
	const char *slash = strrchr(path, '/');
	int n = slash ? snprintf(folder, sizeof(folder), "%.*s", slash == path ? 1 : (int)(slash - path), path)
		      : snprintf(folder, sizeof(folder), ".");
	if (n < 0 || n >= PATH_MAX)
		return qd_fail(QD_EIO, "cannot flush '%s': %s", path, strerror(ENAMETOOLONG));
	int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	/* Some file systems flush no folders (EINVAL), and a folder may be writable but not readable: neither loses the file. */
	if (fd < 0)
		return QD_OK;
	int error = fsync(fd) == 0 ? 0 : errno;
	close(fd);
	if (error == EIO || error == ENOSPC)
		return qd_fail(QD_EIO, "cannot flush '%s': %s", folder, strerror(error));
	return QD_OK;
}

enum qd_status qd_pending_rename(struct qd_pending **owner, const char *path, bool replace)
{
	struct qd_pending *pending = *owner;
	bool folder = pending->kind == QD_PENDING_FOLDER;
	sigset_t before;
	block_signals(&before);
	int error;
	if (!replace)
		error = rename_new(pending->path, path, folder);
	else if (folder)
		error = replace_folder(pending->path, path);
	else
		error = rename(pending->path, path) == 0 ? 0 : errno;
	if (!error)
		pending->kind = QD_PENDING_NONE;
	restore_signals(&before);
	if (error == EEXIST)
		return qd_fail(QD_EEXIST, "'%s' appeared while it was being written; --force replaces it", path);
	if (error)
		return qd_fail(QD_EIO, "cannot write '%s': %s", path, strerror(error));
	give_record(pending);
	*owner = NULL;
	return sync_parent(path);
}

void qd_pending_remove(struct qd_pending *pending)
{
	sigset_t before;
	block_signals(&before);
	if (pending->kind != QD_PENDING_NONE)
		remove_tree(AT_FDCWD, pending->path, 0);
	pending->kind = QD_PENDING_NONE;
	restore_signals(&before);
	give_record(pending);
}
