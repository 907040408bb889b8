/*
 * Simulation: an executor with qd_sim_hook computes, in float32, what integer hardware computes, because every value that carries
 * an encoding is rounded to its grid. Rounding is straight-through for gradients, so the same hook serves training.
 */
#include "quant/quant.h"

enum qd_status qd_sim_hook(void *context, const struct qd_graph *g, qd_id value, qt_tensor *tensor)
{
	const struct qd_encoding *e = g->values[value].encoding;
	qt_tensor rounded = NULL;
	enum qd_status st;

	(void)context;
	if (e == NULL)
		return QD_OK;
	st = qt_fake_quantize(
		*tensor, e->n, e->scale, e->zero_point, e->n == 1 ? 0 : e->axis, qd_encoding_low(e), qd_encoding_high(e), &rounded);
	if (st != QD_OK)
		return st;
	qt_free(*tensor);
	*tensor = rounded;
	return QD_OK;
}

static enum qd_status bind(const struct qd_net *net, struct qd_exec *exec, qd_id input, const float *data)
{
	const struct qd_value *value = &net->graph.values[input];
	struct qd_tensor view = qd_tensor_view(value->name, QD_F32, value->shape, data);

	return qd_exec_bind_tensor(exec, value->name, &view);
}

enum qd_status qd_net_bind_fitted(const struct qd_net *net, struct qd_exec *exec, const struct qd_fitted *fitted)
{
	enum qd_status st = QD_OK;

	if (fitted->n != net->slots.n)
		return qd_fail(
			QD_EINPUT, "an adapter fitted to %zu slots cannot be bound to a net of %zu", fitted->n, net->slots.n);
	for (size_t i = 0; st == QD_OK && i < fitted->n; i++) {
		const struct qd_slot *slot = &net->slots.items[i];

		QD_TRY(st, bind(net, exec, slot->down, fitted->slots[i].down));
		QD_TRY(st, bind(net, exec, slot->up, fitted->slots[i].up));
		QD_TRY(st, bind(net, exec, slot->gain, fitted->slots[i].gain));
	}
out:
	return st;
}
