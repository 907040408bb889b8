/*
 * Files out: a temporary file beside the target, flushed and renamed on commit; folders the same way as a whole. A device or a pipe
 * (/dev/null, /dev/stdout) is written to directly.
 */
#include "lib/base/owned.h"
#include "lib/base/pending.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BUFFER_BYTES = 1 << 16 };

static enum qd_status write_failed(const struct qd_output *out)
{
	if (errno == EFAULT)
		return qd_fail(QD_EIO, "cannot write '%s': a file that it is made from became shorter meanwhile", out->path);
	return qd_fail(QD_EIO, "cannot write '%s': %s", out->path, strerror(errno));
}

/* ---- opening ---- */

/* What lives at `path` decides: nothing or a file (a temporary will replace it), a device or pipe (`*direct`), or a refusal. */
static enum qd_status look_at_target(const char *path, bool force, bool *direct)
{
	struct stat info;
	*direct = false;
	if (*path == '\0')
		return qd_fail(QD_EIO, "cannot write a file without a name");
	/* /dev/stdout may well be a regular file, but nothing can be created and renamed beside it. */
	bool device_name = qd_starts_with(path, "/dev/") && !qd_starts_with(path, "/dev/shm/");
	if (stat(path, &info) != 0) {
		if (errno == ENOENT)
			return QD_OK;
		return qd_fail(QD_EIO, "cannot write '%s': %s", path, strerror(errno));
	}
	if (S_ISDIR(info.st_mode))
		return qd_fail(QD_EIO, "cannot write '%s': it is a folder, needs a file name", path);
	*direct = device_name || !S_ISREG(info.st_mode);
	if (!*direct && !force)
		return qd_fail(QD_EEXIST, "'%s' already exists; --force replaces it", path);
	return QD_OK;
}

enum qd_status qd_output_open(struct qd_output *out, const char *path, bool force)
{
	*out = (struct qd_output){ .fd = -1, .force = force };
	enum qd_status st;
	bool direct;
	char target[QD_PATH_BYTES];
	QD_TRY(st, look_at_target(path, force, &direct));
	if (!direct) {
		QD_TRY(st, qd_path_follow(target, path));
		path = target;
	}
	out->path = strdup(path);
	out->buffer = malloc(BUFFER_BYTES);
	if (out->path == NULL || out->buffer == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	if (direct)
		out->fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
	else
		QD_TRY(st, qd_pending_create(&out->pending, QD_PENDING_FILE, path, &out->temporary, &out->fd));
	if (out->fd < 0)
		QD_TRY(st, write_failed(out));
out:
	if (st != QD_OK)
		qd_output_release(out);
	return st;
}

/* ---- writing ---- */

static enum qd_status write_all(struct qd_output *out, const char *data, size_t bytes)
{
	while (bytes) {
		ssize_t n = write(out->fd, data, bytes < (1u << 30) ? bytes : 1u << 30);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return write_failed(out);
		data += n;
		bytes -= (size_t)n;
	}
	return QD_OK;
}

static enum qd_status drain(struct qd_output *out)
{
	size_t bytes = out->buffered;
	out->buffered = 0;
	return write_all(out, out->buffer, bytes);
}

enum qd_status qd_output_write(struct qd_output *out, const void *data, size_t bytes)
{
	enum qd_status st = QD_OK;
	if (bytes > BUFFER_BYTES - out->buffered)
		st = drain(out);
	if (st == QD_OK && bytes >= BUFFER_BYTES) {
		st = write_all(out, data, bytes);
	} else if (st == QD_OK && bytes) {
		memcpy(out->buffer + out->buffered, data, bytes);
		out->buffered += bytes;
	}
	if (st == QD_OK)
		out->written += bytes;
	return st;
}

enum qd_status qd_output_printf(struct qd_output *out, const char *fmt, ...)
{
	char *text = NULL;
	va_list args;
	va_start(args, fmt);
	int n = vasprintf(&text, fmt, args);
	va_end(args);
	if (n < 0)
		return qd_fail(QD_ENOMEM, "out of memory");
	enum qd_status st = qd_output_write(out, text, (size_t)n);
	free(text);
	return st;
}

/* ---- the end ---- */

static enum qd_status close_output(struct qd_output *out)
{
	int fd = out->fd;
	out->fd = -1;
	return close(fd) == 0 || errno == EINTR ? QD_OK : write_failed(out);
}

enum qd_status qd_output_commit(struct qd_output *out)
{
	enum qd_status st = drain(out);
	if (st == QD_OK && out->pending != NULL && fsync(out->fd) != 0)
		st = write_failed(out);
	/* closed behind the rename: until then it is locked */
	if (st == QD_OK && out->pending != NULL)
		st = qd_pending_rename(&out->pending, out->path, out->force);
	if (st == QD_OK)
		st = close_output(out);
	return st;
}

void qd_output_release(struct qd_output *out)
{
	if (out->path != NULL && out->fd >= 0)
		close(out->fd);
	if (out->pending != NULL)
		qd_pending_remove(out->pending);
	free(out->path);
	free(out->temporary);
	free(out->buffer);
	*out = (struct qd_output){ .fd = -1 };
}

enum qd_status qd_write_file(const char *path, const void *data, size_t bytes, bool force)
{
	struct qd_output output = { 0 };
	enum qd_status st;
	QD_TRY(st, qd_output_open(&output, path, force));
	QD_TRY(st, qd_output_write(&output, data, bytes));
	QD_TRY(st, qd_output_commit(&output));
out:
	qd_output_release(&output);
	return st;
}

/* ---- folders ---- */

static enum qd_status look_at_name(const char *path)
{
	const char *slash = strrchr(path, '/'), *name = slash != NULL ? slash + 1 : path;
	if (*name == '\0' || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return qd_fail(QD_EIO, "cannot write the folder '%s': it has no name of its own", path);
	return QD_OK;
}

static enum qd_status look_at_folder(const char *path, bool force)
{
	struct stat info;
	if (stat(path, &info) != 0) {
		if (errno == ENOENT)
			return QD_OK;
		return qd_fail(QD_EIO, "cannot write '%s': %s", path, strerror(errno));
	}
	if (!S_ISDIR(info.st_mode))
		return qd_fail(QD_EIO, "cannot write the folder '%s': it is not a folder", path);
	if (!force)
		return qd_fail(QD_EEXIST, "'%s' already exists; --force replaces it", path);
	enum qd_status st = qd_output_update_settle(path);
	qd_leftovers_remove(path);
	return st == QD_OK ? qd_owned_check(path) : st;
}

enum qd_status qd_output_folder_open(struct qd_output_folder *out, const char *path, bool force)
{
	*out = (struct qd_output_folder){ .force = force };
	enum qd_status st;
	char target[QD_PATH_BYTES], *plain = strdup(path);
	QD_TRY(st, plain != NULL ? QD_OK : qd_fail(QD_ENOMEM, "out of memory"));
	for (size_t n = strlen(plain); n > 1 && plain[n - 1] == '/'; n--)
		plain[n - 1] = '\0';
	QD_TRY(st, look_at_name(plain));
	QD_TRY(st, qd_path_follow(target, plain));
	qd_pending_undo(target);
	QD_TRY(st, look_at_folder(target, force));
	out->path = strdup(target);
	if (out->path == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	int unused;
	QD_TRY(st, qd_pending_create(&out->pending, QD_PENDING_FOLDER, out->path, &out->temporary, &unused));
out:
	free(plain);
	if (st != QD_OK)
		qd_output_folder_release(out);
	return st;
}

enum qd_status qd_output_folder_commit(struct qd_output_folder *out)
{
	enum qd_status st;

	QD_TRY(st, qd_owned_write(out->temporary));
	/* again: the work took its time */
	if (out->force && qd_is_directory(out->path))
		QD_TRY(st, qd_owned_check(out->path));
	st = qd_pending_rename(&out->pending, out->path, out->force);
out:
	return st;
}

void qd_output_folder_release(struct qd_output_folder *out)
{
	if (out->pending != NULL)
		qd_pending_remove(out->pending);
	free(out->path);
	free(out->temporary);
	*out = (struct qd_output_folder){ 0 };
}
