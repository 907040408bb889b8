/*
 * Simulation: a net under a profile's encodings, with an adapter fitted to them.
 */
#include "quant/quant.h"

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
