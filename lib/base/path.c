/*
 * Paths: glued together, followed through links, and compared by what they lead to (device and inode), however they are spelled.
 */
#include "lib/base/base.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST_LINKS = 40 };

enum qd_status qd_path_join(char *out, const char *folder, const char *name, ...)
{
	int used = snprintf(out, QD_PATH_BYTES, "%s/", folder), more = -1;
	va_list args;

	if (used >= 0 && used < QD_PATH_BYTES) {
		va_start(args, name);
		more = vsnprintf(out + used, (size_t)(QD_PATH_BYTES - used), name, args);
		va_end(args);
	}
	if (more >= 0 && more < QD_PATH_BYTES - used)
		return QD_OK;
	*out = '\0';
	return qd_fail(QD_EIO, "the path below '%.60s...' is too long", folder);
}

bool qd_has_file(const char *folder, const char *name)
{
	char path[QD_PATH_BYTES];

	return qd_path_join(path, folder, "%s", name) == QD_OK && qd_is_file(path);
}

static enum qd_status too_long(const char *path)
{
	return qd_fail(QD_EIO, "cannot use '%s': %s", path, strerror(ENAMETOOLONG));
}

enum qd_status qd_path_follow(char *out, const char *path)
{
	char link[QD_PATH_BYTES];
	ssize_t n;

	if (snprintf(out, QD_PATH_BYTES, "%s", path) >= QD_PATH_BYTES)
		return too_long(path);
	for (int i = 0; i < MOST_LINKS; i++) {
		char *slash = strrchr(out, '/');
		size_t before = slash != NULL ? (size_t)(slash - out) + 1 : 0;

		n = readlink(out, link, sizeof(link));
		if (n < 0)
			return QD_OK; /* nothing or no link: opening it says more */
		before = link[0] == '/' ? 0 : before;
		if (before + (size_t)n >= QD_PATH_BYTES)
			return too_long(path);
		memcpy(out + before, link, (size_t)n);
		out[before + (size_t)n] = '\0';
	}
	return qd_fail(QD_EIO, "cannot use '%s': %s", path, strerror(ELOOP));
}

/* ---- what lies where ---- */

/* Cuts an absolute path without links to the folder that it is in; false at the root. */
static bool go_up(char *path)
{
	char *slash = strrchr(path, '/');

	if (slash == NULL || (slash == path && slash[1] == '\0'))
		return false;
	slash[slash == path] = '\0';
	return true;
}

static bool same(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* Whether a folder that `path` (resolved; cut as it goes) is in is `outer`. */
static bool lies_in(char *path, const struct stat *outer)
{
	struct stat info;

	while (go_up(path))
		if (stat(path, &info) == 0 && same(&info, outer))
			return true;
	return false;
}

/* `path` as the system spells it; what is not there yet is where its folder is. False when even that is not there. */
static bool resolve(const char *path, char *out)
{
	char target[QD_PATH_BYTES], *slash;

	if (realpath(path, out) != NULL)
		return true;
	if (qd_path_follow(target, path) != QD_OK)
		return false;
	for (size_t n = strlen(target); n > 1 && target[n - 1] == '/'; n--)
		target[n - 1] = '\0';
	slash = strrchr(target, '/');
	if (slash != NULL)
		*slash = '\0';
	if (realpath(slash == NULL ? "." : *target != '\0' ? target : "/", out) == NULL)
		return false;
	if (strlen(out) + 2 >= PATH_MAX)
		return false;
	strcat(out, "/?"); /* a name that is cut off first */
	return true;
}

enum qd_status qd_output_check_apart(const char *output, const char *input)
{
	struct stat in, out;
	char path[PATH_MAX];
	bool there = stat(output, &out) == 0;

	if (stat(input, &in) != 0)
		return QD_OK; /* reading it says so */
	if (there && same(&in, &out))
		return strcmp(output, input) == 0 ? qd_fail(QD_EINPUT, "'%s' is an input, it cannot be the output too", input)
						  : qd_fail(QD_EINPUT, "the output '%s' is the input '%s'", output, input);
	if (there && S_ISDIR(out.st_mode) && realpath(input, path) != NULL && lies_in(path, &out))
		return qd_fail(QD_EINPUT, "the output '%s' holds the input '%s'", output, input);
	if (S_ISDIR(in.st_mode) && resolve(output, path) && lies_in(path, &in))
		return qd_fail(QD_EINPUT, "the output '%s' lies in the input '%s'", output, input);
	return QD_OK;
}
