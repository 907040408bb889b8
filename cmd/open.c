/*
 * What most commands start with: the model, its modules and the adapters.
 */
#include "cmd/cmd.h"

#include <stdlib.h>

static enum qd_status open_model(struct qd_opened *opened, const char *base)
{
	enum qd_status st;
	QD_TRY(st, qd_model_open(&opened->model, base));
	struct qd_sizes sizes = qd_model_least_sizes(&opened->model);
	QD_TRY(st, qd_model_graph(&opened->shape_graph, &opened->model, &sizes));
	qd_weights_note_unused(&opened->model.weights, &opened->shape_graph);
	QD_TRY(st, qd_modules_of(&opened->modules, &opened->shape_graph));
out:
	return st;
}

static enum qd_status map_adapters(struct qd_opened *opened, const struct qd_common *common)
{
	enum qd_status st = QD_OK;
	opened->adapters = calloc(common->adapters.n + 1, sizeof(*opened->adapters));
	opened->adapter_list = calloc(common->adapters.n + 1, sizeof(*opened->adapter_list));
	if (!opened->adapters || !opened->adapter_list)
		return qd_fail(QD_ENOMEM, "out of memory");
	for (size_t i = 0; i < common->adapters.n; i++) {
		QD_TRY(st, qd_adapter_map_spec(&opened->adapters[i], common->adapters.items[i], &opened->modules));
		opened->adapter_list[opened->n_adapters++] = &opened->adapters[i];
	}
out:
	return st;
}

enum qd_status qd_open_all(struct qd_opened *opened, const struct qd_common *common)
{
	enum qd_status st;
	QD_TRY(st, qd_open_mapped(opened, common));
	for (size_t i = 0; i < opened->n_adapters; i++)
		QD_TRY(st, qd_adapter_load(&opened->adapters[i]));
out:
	if (st != QD_OK)
		qd_opened_release(opened);
	return st;
}

enum qd_status qd_open_mapped(struct qd_opened *opened, const struct qd_common *common)
{
	enum qd_status st;
	*opened = (struct qd_opened){ 0 };
	if (!common->base)
		QD_TRY(st, qd_fail(QD_EINPUT, "no model was given, needs --base"));
	QD_TRY(st, open_model(opened, common->base));
	QD_TRY(st, map_adapters(opened, common));
out:
	if (st != QD_OK)
		qd_opened_release(opened);
	return st;
}

void qd_opened_release(struct qd_opened *opened)
{
	for (size_t i = 0; i < opened->n_adapters; i++)
		qd_adapter_release(&opened->adapters[i]);
	free(opened->adapters);
	free(opened->adapter_list);
	qd_modules_release(&opened->modules);
	qd_graph_release(&opened->shape_graph);
	qd_model_release(&opened->model);
	*opened = (struct qd_opened){ 0 };
}
