/* What most commands start with: the model of --base and its adapters. */
#include "cmd/cmd.h"

typedef enum qd_status (*opener)(struct qd_opened *opened, const char *base, const char *const *specs, size_t n);

static enum qd_status open_common(struct qd_opened *opened, const struct qd_common *common, opener open)
{
	*opened = (struct qd_opened){ 0 };
	if (common->base == NULL)
		return qd_fail(QD_EINPUT, "no model was given, needs --base");
	return open(opened, common->base, common->adapters.items, common->adapters.n);
}

enum qd_status qd_open_all(struct qd_opened *opened, const struct qd_common *common)
{
	return open_common(opened, common, qd_opened_open);
}

enum qd_status qd_open_mapped(struct qd_opened *opened, const struct qd_common *common)
{
	return open_common(opened, common, qd_opened_map);
}
