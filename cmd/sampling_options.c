/* What quad run and quad olss have in common on the command line. */
#include "cmd/sampling_options.h"

error_t qd_sampling_parse(int key, char *arg, struct argp_state *state, struct qd_sampling_options *o)
{
	switch (key) {
	case QD_KEY_INPUTS:
		o->inputs = arg;
		return 0;
	case QD_KEY_GUIDANCE:
		o->guidance = qd_parse_number(state, "guidance", arg, 0, 1000);
		return 0;
	case QD_KEY_LIMIT:
		o->limit = qd_parse_int(state, "limit", arg, 1, INT32_MAX);
		return 0;
	case QD_KEY_BATCH:
		o->batch = qd_parse_int(state, "batch", arg, 1, 4096);
		return 0;
	case QD_KEY_HEIGHT:
		o->height = qd_parse_int(state, "height", arg, 1, 16384);
		return 0;
	case QD_KEY_WIDTH:
		o->width = qd_parse_int(state, "width", arg, 1, 16384);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

enum qd_status qd_sampling_take(struct qd_sampling_options *o, const struct qd_common *common)
{
	o->seed = common->seed;
	o->engine.base = common->base;
	o->engine.threads = common->threads;
	o->engine.adapter = common->n_adapters > 0 ? common->adapters[0] : NULL;
	if (common->n_adapters > 1)
		return qd_fail(
			QD_EINPUT, "one sample has one adapter, %zu given: join files as NAME=PATH+PATH", common->n_adapters);
	return QD_OK;
}
