/*
 * An adapter's tensors as inputs of a net's executor, padded with zeros to the rank of each slot.
 */
#include "lib/model/model.h"

#include <stdlib.h>

/* The executor gets a copy of `data`, in the shape of the input. */
static enum qd_status bind(const struct qd_net *net, struct qd_exec *exec, qd_id input, const float *data)
{
	const struct qd_value *value = &net->graph.values[input];
	struct qd_tensor view = qd_tensor_view(value->name, QD_F32, value->shape, data);

	return qd_exec_bind_tensor(exec, value->name, &view);
}

static enum qd_status bind_slot(
	const struct qd_net *net, struct qd_exec *exec, const struct qd_slot *slot, const struct qd_lora *lora)
{
	size_t rank = (size_t)slot->rank, down = rank * (size_t)(slot->in * slot->kh * slot->kw), up = rank * (size_t)slot->out;
	float *buffer = calloc(down + up + rank, sizeof(*buffer));
	enum qd_status st;
	if (!buffer)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	QD_TRY(st, qd_slot_fill(slot, lora, buffer, buffer + down, buffer + down + up));
	QD_TRY(st, bind(net, exec, slot->down, buffer));
	QD_TRY(st, bind(net, exec, slot->up, buffer + down));
	QD_TRY(st, bind(net, exec, slot->gain, buffer + down + up));
out:
	free(buffer);
	return st;
}

enum qd_status qd_net_bind_adapter(const struct qd_net *net, struct qd_exec *exec, const struct qd_adapter *adapter)
{
	for (size_t i = 0; adapter && i < adapter->n; i++) {
		if (qd_strmap_get(&net->slots.by_path, adapter->loras[i].path) == QD_NONE)
			return qd_fail(
				QD_EINPUT, "adapter '%s' adapts '%s', which has no slot", adapter->name, adapter->loras[i].path);
	}
	for (size_t i = 0; i < net->slots.n; i++) {
		const struct qd_slot *slot = &net->slots.items[i];
		enum qd_status st = bind_slot(net, exec, slot, adapter ? qd_adapter_find(adapter, slot->path) : NULL);
		if (st != QD_OK)
			return st;
	}
	return QD_OK;
}
