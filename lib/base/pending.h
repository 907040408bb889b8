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
 * Creates a new file (returned open in `*fd`) or folder beside `path`, named ".<name>.quad-XXXXXX" with six random characters and
 * the permissions any new file would get, and lists it. `*temporary` (heap) is its path. What killed runs left in that folder is
 * removed. QD_EIO, QD_ENOMEM.
 */
QD_CHECK enum qd_status qd_pending_create(
	struct qd_pending **out, enum qd_pending_kind kind, const char *path, char **temporary, int *fd);

/*
 * Renames the temporary to `path`, takes it off the list and sets `*owner` to NULL. With `replace` an older file or folder goes
 * away (a folder into the temporary's place, and from there); otherwise QD_EEXIST when something is at `path` by now.
 */
QD_CHECK enum qd_status qd_pending_rename(struct qd_pending **owner, const char *path, bool replace);

/* Where a program was killed while it put a folder in the place of the one at `path`: the older one comes back, or goes. */
void qd_pending_undo(const char *path);

/* Removes the temporary and takes it off the list. */
void qd_pending_remove(struct qd_pending *pending);

/* Removes a folder and all that is in it. */
void qd_remove_tree(const char *path);

/* Flushes the folder that holds `path`, so that a rename in it survives a power cut. */
QD_CHECK enum qd_status qd_sync_parent(const char *path);

#endif
