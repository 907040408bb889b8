/* A batch's way into an executor. */
#include "distill/internal.h"

static enum qd_status bind_one(const struct qd_tensor *tensor, const struct qd_graph *g, struct qd_exec *exec)
{
	if (tensor->data == NULL || qd_graph_find(g, tensor->name) == QD_NONE)
		return QD_OK;
	return qd_exec_bind_tensor(exec, tensor->name, tensor);
}

enum qd_status qd_batch_bind(const struct qd_batch *batch, const struct qd_graph *g, struct qd_exec *exec)
{
	const struct qd_tensor *inputs[] = { &batch->sample, &batch->timestep, &batch->context, &batch->text_embeds,
		&batch->time_ids, &batch->time_cond };
	enum qd_status st = QD_OK;

	for (size_t i = 0; st == QD_OK && i < QD_COUNT(inputs); i++)
		st = bind_one(inputs[i], g, exec);
	return st;
}
