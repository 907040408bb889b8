/*
 * Inside lib/base: the list of temporary files and folders that exist now, so that a signal handler can remove them.
 *
 * Records are allocated once, linked once and used again, never freed: the handler may walk the list at any moment. Each list
 * change happens with all signals blocked, together with the system call that makes it true.
 */
#ifndef QUAD_LIB_BASE_PENDING_H
#define QUAD_LIB_BASE_PENDING_H

#include "lib/base/base.h"

enum qd_pending_kind { QD_PENDING_NONE, QD_PENDING_FILE, QD_PENDING_FOLDER };

/*
 * Creates a new file (returned open in `*fd`) or folder beside `path`, named ".<name>.XXXXXX" with six random characters and the
 * permissions any new file would get, and lists it. `*temporary` (heap) is its path. QD_EIO, QD_ENOMEM.
 */
QD_CHECK enum qd_status qd_pending_create(
	struct qd_pending **out, enum qd_pending_kind kind, const char *path, char **temporary, int *fd);

/*
 * Renames the temporary to `path`, takes it off the list and sets `*owner` to NULL. With `replace` an older file or folder goes
 * away (a folder into the temporary's place, and from there); otherwise QD_EEXIST when something is at `path` by now.
 */
QD_CHECK enum qd_status qd_pending_rename(struct qd_pending **owner, const char *path, bool replace);

/* Removes the temporary and takes it off the list. */
void qd_pending_remove(struct qd_pending *pending);

#endif
