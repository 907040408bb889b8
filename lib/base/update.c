/*
 * Files of a folder that change together, whatever ends the program in between. They are written below a temporary folder in it,
 * which one rename makes FOLDER/.quad-update: from then on they are the folder's, and are moved to their places one by one. Whoever
 * opens a folder with a .quad-update moves what is left of it; moving twice, or two at once, comes to the same.
 */
#include "lib/base/owned.h"
#include "lib/base/pending.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static const char update_name[] = ".quad-update";

struct moving {
	const char *from, *to; /* folders */
};

static enum qd_status move_failed(const struct moving *m, const char *name)
{
	return qd_fail(QD_EIO, "cannot finish changing '%s', which was cut off: cannot move '%s' from '%s' to its place: %s", m->to,
		name, m->from, strerror(errno));
}

static enum qd_status move_file(void *context, const char *name, bool regular)
{
	const struct moving *m = context;
	char from[QD_PATH_BYTES], to[QD_PATH_BYTES];
	struct stat info;
	enum qd_status st;

	if (!regular) {
		errno = EINVAL;
		return move_failed(m, name);
	}
	QD_TRY(st, qd_path_join(to, m->to, "%s", name));
	for (char *slash = strchr(to + strlen(m->to) + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		if (mkdir(to, 0777) != 0 && errno != EEXIST)
			return move_failed(m, name);
		/* a link could lead out of the folder */
		if (lstat(to, &info) != 0 || !S_ISDIR(info.st_mode)) {
			errno = ENOTDIR;
			return move_failed(m, name);
		}
		*slash = '/';
	}
	QD_TRY(st, qd_path_join(from, m->from, "%s", name));
	if (rename(from, to) != 0 && errno != ENOENT)
		return move_failed(m, name);
	st = qd_sync_parent(to);
out:
	return st;
}

enum qd_status qd_output_update_settle(const char *folder)
{
	char from[QD_PATH_BYTES];
	struct moving moving = { from, folder };
	enum qd_status st;

	QD_TRY(st, qd_path_join(from, folder, update_name));
	if (!qd_is_directory(from))
		goto out;
	QD_TRY(st, qd_walk(from, move_file, &moving));
	qd_remove_tree(from);
out:
	return st;
}

enum qd_status qd_output_update_open(struct qd_output_update *out, const char *folder)
{
	char path[QD_PATH_BYTES];
	enum qd_status st = QD_OK;
	int unused;

	*out = (struct qd_output_update){ .lock = -1, .folder = strdup(folder) };
	if (out->folder == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	out->lock = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (out->lock < 0)
		QD_TRY(st, qd_fail(QD_EIO, "cannot read '%s': %s", folder, strerror(errno)));
	/* One at a time: each begins with what the other left. Where files cannot be locked they are not. */
	while (flock(out->lock, LOCK_EX) != 0 && errno == EINTR)
		;
	QD_TRY(st, qd_output_update_settle(folder));
	QD_TRY(st, qd_path_join(path, folder, update_name));
	st = qd_pending_create(&out->pending, QD_PENDING_FOLDER, path, &out->temporary, &unused);
out:
	if (st != QD_OK)
		qd_output_update_release(out);
	return st;
}

enum qd_status qd_output_update_commit(struct qd_output_update *out)
{
	char path[QD_PATH_BYTES];
	enum qd_status st;

	QD_TRY(st, qd_path_join(path, out->folder, update_name));
	QD_TRY(st, qd_pending_rename(&out->pending, path, false));
	st = qd_output_update_settle(out->folder);
	/* The new files are all there, under the update's name: a want of memory that has passed must not leave that to the next one. */
	if (st != QD_OK)
		st = qd_output_update_settle(out->folder);
out:
	return st;
}

void qd_output_update_release(struct qd_output_update *out)
{
	if (out->pending != NULL)
		qd_pending_remove(out->pending);
	if (out->folder != NULL && out->lock >= 0)
		close(out->lock);
	free(out->folder);
	free(out->temporary);
	*out = (struct qd_output_update){ .lock = -1 };
}
