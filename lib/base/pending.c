/*
 * Temporary files and folders: made, renamed, removed, and removed all at once from a signal handler. Everything that
 * qd_outputs_abandon() reaches is a plain system call on memory that is already there.
 *
 * Each is locked (flock) for as long as its process lives, so that what a killed one left is known by its name and by nobody's
 * holding it: whoever makes a temporary in a folder removes such leftovers there first.
 */
#include "lib/base/pending.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

struct qd_pending {
	struct qd_pending *next; /* set once, before the record is linked */
	volatile sig_atomic_t kind;
	bool taken; /* guarded by `lock`; the handler looks at `kind` only */
	int held;   /* what keeps a folder locked, or -1; a file is locked by its own descriptor */
	char path[PATH_MAX];
};

static struct qd_pending *volatile all;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Threads that change the list right now, and whether a handler has begun to remove all that is on it. */
static atomic_int changing;
static atomic_bool abandoned;

/* Until end_change() no handler runs in this thread, and those in others wait. */
static void begin_change(sigset_t *before)
{
	sigset_t every;
	sigfillset(&every);
	pthread_sigmask(SIG_SETMASK, &every, before);
	atomic_fetch_add(&changing, 1);
	if (atomic_load(&abandoned)) {
		atomic_fetch_sub(&changing, 1);
		for (;;) /* the program is ending: nothing new is made */
			pause();
	}
}

static void end_change(const sigset_t *before)
{
	atomic_fetch_sub(&changing, 1);
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

void qd_remove_tree(const char *path)
{
	remove_tree(AT_FDCWD, path, 0);
}

void qd_outputs_abandon(void)
{
	int saved = errno;
	atomic_store(&abandoned, true);
	for (int ms = 0; atomic_load(&changing) > 0 && ms < 1000; ms++)
		poll(NULL, 0, 1);
	for (struct qd_pending *pending = all; pending != NULL; pending = pending->next) {
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
	while (pending != NULL && pending->taken)
		pending = pending->next;
	if (pending != NULL) {
		pending->taken = true;
	} else if ((pending = calloc(1, sizeof(*pending))) != NULL) {
		pending->taken = true;
		pending->next = all;
		all = pending;
	}
	pthread_mutex_unlock(&lock);
	if (pending != NULL)
		pending->held = -1;
	return pending;
}

static void give_record(struct qd_pending *pending)
{
	pending->kind = QD_PENDING_NONE;
	if (pending->held >= 0)
		close(pending->held);
	pending->held = -1;
	pthread_mutex_lock(&lock);
	pending->taken = false;
	pthread_mutex_unlock(&lock);
}

/* ---- names ---- */

static const char letters[] = "abcdefghijklmnopqrstuvwxyz0123456789", mark[] = ".quad-";
enum { RANDOM_LETTERS = 6 };

/* Where the last part of a path begins. */
static const char *leaf_of(const char *path)
{
	const char *slash = strrchr(path, '/');
	return slash != NULL ? slash + 1 : path;
}

/* Writes "<folder>/.<name>.quad-XXXXXX" for `path` with fresh random characters; false when that is too long. */
static bool temporary_name(char *out, const char *path)
{
	unsigned char random[RANDOM_LETTERS];
	if (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random))
		return false;
	const char *name = leaf_of(path);
	int n = snprintf(out, PATH_MAX, "%.*s.%s%s", (int)(name - path), path, name, mark);
	if (n < 0 || n > PATH_MAX - RANDOM_LETTERS - 1)
		return false;
	for (size_t i = 0; i < sizeof(random); i++)
		out[(size_t)n + i] = letters[random[i] % (sizeof(letters) - 1)];
	out[n + RANDOM_LETTERS] = '\0';
	return true;
}

static bool is_temporary_name(const char *name)
{
	size_t n = strlen(name), tail = sizeof(mark) - 1 + RANDOM_LETTERS;
	return name[0] == '.' && n > tail && memcmp(name + n - tail, mark, sizeof(mark) - 1) == 0 &&
	       strspn(name + n - RANDOM_LETTERS, letters) == RANDOM_LETTERS;
}

/* The folder that `path` is in; false when that is too long. */
static bool folder_of(char *out, const char *path)
{
	int bytes = (int)(leaf_of(path) - path);
	int n = bytes > 0 ? snprintf(out, PATH_MAX, "%.*s", bytes > 1 ? bytes - 1 : 1, path) : snprintf(out, PATH_MAX, ".");
	return n >= 0 && n < PATH_MAX;
}

/* ---- leftovers ---- */

static bool is_at(int fd, int parent, const char *name)
{
	struct stat open_one, named;
	return fstat(fd, &open_one) == 0 && fstatat(parent, name, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
	       open_one.st_dev == named.st_dev && open_one.st_ino == named.st_ino;
}

static void remove_leftover(int parent, const char *name)
{
	enum { HOW = O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK };
	int fd = openat(parent, name, O_RDWR | HOW);
	if (fd < 0 && errno == EISDIR)
		fd = openat(parent, name, O_RDONLY | O_DIRECTORY | HOW);
	if (fd < 0)
		return;
	/* where nothing can be locked, nobody can be known to be gone */
	if (flock(fd, LOCK_EX | LOCK_NB) == 0 && is_at(fd, parent, name))
		remove_tree(parent, name, 0);
	close(fd);
}

void qd_leftovers_remove(const char *folder)
{
	DIR *dir = opendir(folder);
	if (dir == NULL)
		return;
	for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
		if (is_temporary_name(entry->d_name))
			remove_leftover(dirfd(dir), entry->d_name);
	closedir(dir);
}

/* Once for many files in a row in one folder: looking through it takes longer the more there are. */
static void remove_leftovers_beside(const char *path)
{
	static dev_t device;
	static ino_t inode;
	char folder[PATH_MAX];
	struct stat info;
	if (!folder_of(folder, path) || stat(folder, &info) != 0)
		return;
	pthread_mutex_lock(&lock);
	bool done = info.st_dev == device && info.st_ino == inode;
	device = info.st_dev;
	inode = info.st_ino;
	pthread_mutex_unlock(&lock);
	if (!done)
		qd_leftovers_remove(folder);
}

/* ---- creation ---- */

/* Locks a new temporary; false when it was taken for a leftover before that. */
static bool lock_new(int fd, const char *path)
{
	if (flock(fd, LOCK_EX | LOCK_NB) != 0)
		return errno != EWOULDBLOCK;
	return is_at(fd, AT_FDCWD, path);
}

/* 0, or errno. Taken names are tried again with other characters. */
static int create_unique(struct qd_pending *pending, enum qd_pending_kind kind, const char *path, int *fd)
{
	for (int attempt = 0; attempt < 100; attempt++) {
		if (!temporary_name(pending->path, path))
			return ENAMETOOLONG;
		*fd = kind == QD_PENDING_FILE ? open(pending->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666) : -1;
		if (*fd < 0 && (kind == QD_PENDING_FILE || mkdir(pending->path, 0777) != 0)) {
			if (errno != EEXIST)
				return errno;
			continue;
		}
		if (kind == QD_PENDING_FOLDER)
			*fd = open(pending->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (*fd < 0 ? errno != ENOENT : lock_new(*fd, pending->path))
			return 0;
		if (*fd >= 0)
			close(*fd);
	}
	return EEXIST;
}

enum qd_status qd_pending_create(struct qd_pending **out, enum qd_pending_kind kind, const char *path, char **temporary, int *fd)
{
	*out = NULL;
	struct qd_pending *pending = take_record();
	if (pending == NULL)
		return qd_fail(QD_ENOMEM, "out of memory");
	remove_leftovers_beside(path);
	sigset_t before;
	begin_change(&before);
	int error = create_unique(pending, kind, path, fd);
	if (!error)
		pending->kind = kind;
	end_change(&before);
	if (!error && kind == QD_PENDING_FOLDER)
		pending->held = *fd;
	if (error) {
		give_record(pending);
		return qd_fail(QD_EIO, "cannot create '%s': %s", path, strerror(error));
	}
	*temporary = strdup(pending->path);
	if (*temporary == NULL) {
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

/* Where an older folder is while the new one takes its place, on file systems that cannot exchange the two. */
static bool aside_name(char *out, const char *path)
{
	const char *name = leaf_of(path);
	int n = snprintf(out, PATH_MAX, "%.*s.%s%sold", (int)(name - path), path, name, mark);
	return n >= 0 && n < PATH_MAX;
}

void qd_pending_undo(const char *path)
{
	char aside[PATH_MAX];
	struct stat info;
	if (!aside_name(aside, path) || lstat(aside, &info) != 0)
		return;
	if (lstat(path, &info) != 0)
		(void)rename(aside, path); /* the new one did not come */
	else
		remove_tree(AT_FDCWD, aside, 0);
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
	if (!aside_name(aside, to))
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

enum qd_status qd_sync_parent(const char *path)
{
	char folder[PATH_MAX];
	if (!folder_of(folder, path))
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
	begin_change(&before);
	int error;
	if (!replace)
		error = rename_new(pending->path, path, folder);
	else if (folder)
		error = replace_folder(pending->path, path);
	else
		error = rename(pending->path, path) == 0 ? 0 : errno;
	if (!error)
		pending->kind = QD_PENDING_NONE;
	end_change(&before);
	if (error == EEXIST)
		return qd_fail(QD_EEXIST, "'%s' appeared while it was being written; --force replaces it", path);
	if (error)
		return qd_fail(QD_EIO, "cannot write '%s': %s", path, strerror(error));
	give_record(pending);
	*owner = NULL;
	return qd_sync_parent(path);
}

void qd_pending_remove(struct qd_pending *pending)
{
	sigset_t before;
	begin_change(&before);
	if (pending->kind != QD_PENDING_NONE)
		remove_tree(AT_FDCWD, pending->path, 0);
	pending->kind = QD_PENDING_NONE;
	end_change(&before);
	give_record(pending);
}
