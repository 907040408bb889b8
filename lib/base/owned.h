/* Inside lib/base: which folders this program wrote and may replace. */
#ifndef QUAD_LIB_BASE_OWNED_H
#define QUAD_LIB_BASE_OWNED_H

#include "lib/base/base.h"

/* QD_EEXIST names the first file in `folder` that this program did not write. */
QD_CHECK enum qd_status qd_owned_check(const char *folder);
/* Writes the index of a finished folder that has none. */
QD_CHECK enum qd_status qd_owned_write(const char *folder);

#endif
