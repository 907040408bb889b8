/* Inside lib/base: what folders hold, and which of them this program wrote and may replace. */
#ifndef QUAD_LIB_BASE_OWNED_H
#define QUAD_LIB_BASE_OWNED_H

#include "lib/base/base.h"

/* Calls `visit` for all that lies below `folder` and is no folder, in the order of names; `name` is the path from `folder`. What
 * vanishes meanwhile is passed over. */
QD_CHECK enum qd_status qd_walk(
	const char *folder, enum qd_status (*visit)(void *context, const char *name, bool regular), void *context);
/* QD_EEXIST names the first file in `folder` that this program did not write. */
QD_CHECK enum qd_status qd_owned_check(const char *folder);
/* Writes the index of a finished folder that has none. */
QD_CHECK enum qd_status qd_owned_write(const char *folder);

#endif
