/* Options of the commands that sample: what samples are told, and how many at once. */
#ifndef QUAD_CMD_SAMPLING_OPTIONS_H
#define QUAD_CMD_SAMPLING_OPTIONS_H

#include "cmd/cmd.h"
#include "export/runtime/runtime.h"

/* The options of a struct qd_sampling_options. */
extern const struct qd_option qd_sampling_table[];
/* Takes base, seed, threads and adapter from the common options. Wrong usage: more than one adapter. */
void qd_sampling_take(struct qd_sampling_options *options, const struct qd_common *common);

#endif
