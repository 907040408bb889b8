/*
 * What a choice of encodings costs, measured where it counts: the simulated model's output against the float one's. Three profiles
 * stand side by side, of the same options and scores:
 *
 *   own      of one adapter alone, not aligned: a graph for each adapter
 *   shared   of all, not aligned: one graph under the anchor's (or unified) encodings, as the paper does before it distils
 *   aligned  the profile itself
 */
#include "lib/math/math.h"
#include "quant/internal.h"

#include <math.h>
#include <stdlib.h>

struct comparing {
	const struct qd_profile *profile;
	const struct qd_model *model;
	const struct qd_adapter *const *adapters;
	size_t n;
	const struct qd_dataset *data;
	struct qd_sizes sizes;
	size_t outputs; /* floats of all samples' outputs */
	float **y;      /* [n]: float outputs [samples, ...] */
	float *z;       /* simulated ones, of one adapter */
};

static enum qd_status run_float(struct comparing *c)
{
	struct qd_net net = { 0 };
	struct qd_runner runner = { 0 };
	const struct qd_value *output;
	enum qd_status st;

	QD_TRY(st, qd_net_build(&net, c->model, &c->sizes, &c->profile->slots));
	output = &net.graph.values[net.graph.outputs[0]];
	c->outputs = (size_t)(qd_shape_elements(&output->shape) / c->sizes.batch) * (size_t)c->data->n;
	QD_TRY(st, qd_runner_open(&runner, &net.graph, NULL));
	c->z = malloc(c->outputs * sizeof(*c->z) + 1);
	if (c->z == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	for (size_t i = 0; i < c->n; i++) {
		c->y[i] = malloc(c->outputs * sizeof(*c->y[i]) + 1);
		if (c->y[i] == NULL)
			QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
		QD_TRY(st, qd_runner_feed_adapter(&runner, &net.slots, c->adapters[i]));
		QD_TRY(st, qd_run_samples(&runner, &net, c->data, c->adapters[i]->name, c->y[i]));
	}
out:
	qd_runner_release(&runner);
	qd_net_release(&net);
	return st;
}

/* Adapters [first, first + n) under a profile; db [n]. */
static enum qd_status simulate(struct comparing *c, const struct qd_profile *p, size_t first, size_t n, double *db)
{
	const struct qd_run_options simulated = { .engine.simulate = true };
	struct qd_net net = { 0 };
	struct qd_runner runner = { 0 };
	enum qd_status st;

	QD_TRY(st, qd_net_build(&net, c->model, &c->sizes, &p->slots));
	QD_TRY(st, qd_profile_apply(p, &net));
	QD_TRY(st, qd_runner_open(&runner, &net.graph, &simulated));
	for (size_t i = 0; i < n; i++) {
		const struct qd_adapter *adapter = c->adapters[first + i];
		struct qd_fitted fitted = { 0 };

		st = qd_fit_adapter(&fitted, adapter, p, p->options.align, true);
		if (st == QD_OK)
			st = qd_runner_feed_fitted(&runner, &net.slots, &fitted);
		qd_fitted_release(&fitted);
		if (st == QD_OK)
			st = qd_run_samples(&runner, &net, c->data, adapter->name, c->z);
		QD_TRY(st, qd_prefix(st, "adapter '%s'", adapter->name));
		db[i] = qd_sqnr_db(c->y[first + i], c->z, c->outputs);
	}
out:
	qd_runner_release(&runner);
	qd_net_release(&net);
	return st;
}

/* The same under a profile of those adapters without alignment, under the encodings of `anchor`, or unified ones where it is NULL. */
static enum qd_status simulate_plain(struct comparing *c, const char *anchor, size_t first, size_t n, double *db)
{
	struct qd_quant_options options = c->profile->options;
	struct qd_profile plain = { 0 };
	enum qd_status st;

	options.align = QD_ALIGN_NONE;
	options.anchor = anchor;
	options.method = anchor != NULL ? QD_METHOD_ANCHOR : QD_METHOD_UNIFIED;
	QD_TRY(st, qd_profile_score_as(&plain, c->profile, c->model, c->adapters + first, n, c->data, &options));
	QD_TRY(st, qd_profile_calibrate(&plain, c->model, c->adapters + first, n, c->data));
	QD_TRY(st, simulate(c, &plain, first, n, db));
out:
	qd_profile_release(&plain);
	return st;
}

enum qd_status qd_profile_compare(const struct qd_profile *profile, const struct qd_model *model,
	const struct qd_adapter *const *adapters, size_t n, const struct qd_dataset *calibration, struct qd_comparison *out)
{
	struct comparing c = { .profile = profile, .model = model, .adapters = adapters, .n = n, .data = calibration };
	double *db = calloc(n + 1, sizeof(*db));
	int64_t batch;
	enum qd_status st;

	c.y = calloc(n + 1, sizeof(*c.y));
	if (db == NULL || c.y == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	QD_TRY(st, qd_data_batch(calibration, &profile->options, &batch));
	c.sizes = qd_dataset_sizes(calibration, batch);
	QD_TRY(st, run_float(&c));
	QD_TRY(st, simulate(&c, profile, 0, n, db));
	for (size_t i = 0; i < n; i++)
		out[i].aligned = db[i];
	QD_TRY(st, simulate_plain(&c, profile->anchor, 0, n, db));
	for (size_t i = 0; i < n; i++) {
		out[i].shared = db[i];
		out[i].own = NAN;
		if (!profile->adapters[i].idle)
			QD_TRY(st, simulate_plain(&c, adapters[i]->name, i, 1, &out[i].own));
	}
out:
	for (size_t i = 0; c.y != NULL && i < n; i++)
		free(c.y[i]);
	free(c.y);
	free(c.z);
	free(db);
	return st;
}
