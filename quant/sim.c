/*
 * Simulation: the engine computes what integer hardware computes. Training needs gradients: there libtorch's executor, with
 * qd_sim_hook, rounds every value that carries an encoding to its grid, straight-through.
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

const struct qd_exec_options qd_student_options = { .hook = qd_sim_hook, .see_all = true };

enum qd_status qd_runner_feed_fitted(struct qd_runner *runner, const struct qd_slots *slots, const struct qd_fitted *fitted)
{
	enum qd_status st = QD_OK;

	if (fitted->n != slots->n)
		return qd_fail(QD_EINPUT, "an adapter fitted to %zu slots cannot be fed to a net of %zu", fitted->n, slots->n);
	for (size_t i = 0; st == QD_OK && i < fitted->n; i++)
		st = qd_runner_feed_slot(runner, &slots->items[i], fitted->slots[i].down, fitted->slots[i].up,
			fitted->slots[i].gain, fitted->slots[i].bias);
	return st;
}

enum qd_status qd_runner_open_simulated(struct qd_runner *runner, struct qd_net *net, const struct qd_profile *profile,
	const struct qd_adapter *adapter, bool refit, bool libtorch)
{
	const struct qd_run_options options = { .engine.simulate = true, .libtorch = libtorch };
	struct qd_fitted fitted = { 0 };
	enum qd_status st;

	*runner = (struct qd_runner){ 0 };
	QD_TRY(st, qd_profile_apply(profile, net));
	QD_TRY(st, qd_runner_open(runner, &net->graph, &options));
	if (adapter == NULL) {
		st = qd_runner_feed_adapter(runner, &net->slots, NULL);
		goto out;
	}
	QD_TRY(st, qd_fit_adapter(&fitted, adapter, profile, profile->options.align, refit));
	QD_TRY(st, qd_runner_feed_fitted(runner, &net->slots, &fitted));
out:
	qd_fitted_release(&fitted);
	if (st != QD_OK)
		qd_runner_release(runner);
	return st;
}
