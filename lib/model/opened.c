/*
 * What most of what uses adapters starts from: the model, its modules and the adapters.
 */
#include "lib/model/model.h"

#include <stdlib.h>

/* Layers are looked for in the smallest graph of the model: which they are does not depend on sizes. */
static enum qd_status open_modules(struct qd_opened *opened, const char *base)
{
	enum qd_status st;
	struct qd_sizes sizes;

	QD_TRY(st, qd_model_open(&opened->model, base));
	sizes = qd_model_least_sizes(&opened->model);
	QD_TRY(st, qd_model_graph(&opened->shape_graph, &opened->model, &sizes));
	qd_weights_note_unused(&opened->model.weights, &opened->shape_graph);
	QD_TRY(st, qd_modules_of(&opened->modules, &opened->shape_graph));
out:
	return st;
}

static enum qd_status map_adapters(struct qd_opened *opened, const char *const *specs, size_t n)
{
	enum qd_status st = QD_OK;

	opened->adapters = calloc(n + 1, sizeof(*opened->adapters));
	opened->adapter_list = calloc(n + 1, sizeof(*opened->adapter_list));
	if (opened->adapters == NULL || opened->adapter_list == NULL)
		return qd_fail(QD_ENOMEM, "out of memory");
	for (size_t i = 0; i < n; i++) {
		QD_TRY(st, qd_adapter_map_spec(&opened->adapters[i], specs[i], &opened->modules));
		opened->adapter_list[opened->n_adapters++] = &opened->adapters[i];
	}
out:
	return st;
}

enum qd_status qd_opened_map(struct qd_opened *opened, const char *base, const char *const *specs, size_t n)
{
	enum qd_status st;

	*opened = (struct qd_opened){ 0 };
	QD_TRY(st, open_modules(opened, base));
	QD_TRY(st, map_adapters(opened, specs, n));
out:
	if (st != QD_OK)
		qd_opened_release(opened);
	return st;
}

enum qd_status qd_opened_open(struct qd_opened *opened, const char *base, const char *const *specs, size_t n)
{
	enum qd_status st;

	QD_TRY(st, qd_opened_map(opened, base, specs, n));
	for (size_t i = 0; i < opened->n_adapters; i++)
		QD_TRY(st, qd_adapter_load(&opened->adapters[i]));
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
