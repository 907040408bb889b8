/*
 * Calibration: the ranges of all activations over every adapter and every sample, for one encoding each that serves them all.
 *
 * Observed is the float base network under each adapter as it will run: aligned, and rounded to the shared encodings. Alignment
 * moves the ranges of "<path>.lora_down_out" and ".lora_gain_out", so neither an adapter's own tensors nor the base model alone
 * would do.
 *
 * A slot that no adapter uses yet (--slots) shows nothing. Its encodings are made for a later adapter that is aligned: down fills
 * its grid (observed with random codes), and the branch may give as much as its layer. With m the largest magnitude of the layer's
 * output and u that of up's grid:
 *
 *   up product [-m, m]      gain product [-m/u, m/u]      sum [-2m, 2m]
 */
#include "lib/math/math.h"
#include "quant/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- observing ---- */

enum qd_status qd_observers_new(
	struct qd_observers *observers, const enum qd_entry_kind *kinds, size_t n, const struct qd_quant_options *options)
{
	*observers = (struct qd_observers){ .kinds = kinds, .n = n };
	observers->of = calloc(n + 1, sizeof(*observers->of));
	observers->seen = calloc(n + 1, sizeof(*observers->seen));
	if (observers->of == NULL || observers->seen == NULL)
		return qd_fail(QD_ENOMEM, "out of memory");
	for (size_t i = 0; i < n; i++) {
		observers->of[i].kind = options->observer;
		observers->of[i].percentile = options->percentile;
		observers->seen[i] = kinds[i] == QD_ENTRY_ACTIVATION;
	}
	return QD_OK;
}

void qd_observers_reset(struct qd_observers *observers)
{
	for (size_t i = 0; i < observers->n; i++) {
		struct qd_observer o = observers->of[i];

		qd_observer_release(&observers->of[i]);
		observers->of[i].kind = o.kind;
		observers->of[i].percentile = o.percentile;
	}
}

void qd_observers_release(struct qd_observers *observers)
{
	for (size_t i = 0; i < observers->n; i++)
		qd_observer_release(&observers->of[i]);
	free(observers->of);
	free(observers->seen);
	*observers = (struct qd_observers){ 0 };
}

enum qd_status qd_observe(void *context, qd_id value, size_t n, const float *x)
{
	struct qd_observers *observers = context;

	return qd_observer_add(&observers->of[value], n, x);
}

enum qd_status qd_activation_encodings(
	struct qd_arena *arena, const struct qd_observers *observers, int bits, const struct qd_encoding **encodings)
{
	for (size_t v = 0; v < observers->n; v++) {
		struct qd_range range = qd_observer_range(&observers->of[v], bits);
		struct qd_encoding *e;
		enum qd_status st;

		if (observers->kinds[v] != QD_ENTRY_ACTIVATION)
			continue;
		st = qd_encoding_from_range(arena, range.low, range.high, bits, false, &e);
		if (st != QD_OK)
			return st;
		encodings[v] = e;
	}
	return QD_OK;
}

/* ---- running ---- */

enum qd_status qd_run_samples(
	struct qd_runner *runner, const struct qd_net *net, const struct qd_dataset *data, const char *note, float *out)
{
	const struct qd_value *output = &net->graph.values[net->graph.outputs[0]];
	int64_t batch = net->sizes.batch;
	size_t n = (size_t)qd_shape_elements(&output->shape);
	enum qd_status st = QD_OK;

	for (int64_t at = 0; st == QD_OK && at < data->n; at += batch) {
		st = qd_data_feed(data, runner, at, batch);
		if (st == QD_OK)
			st = qd_runner_run(runner);
		if (st == QD_OK && out != NULL)
			st = qd_runner_read(runner, output->name, n, out + (size_t)(at / batch) * n);
		if (st == QD_OK && out != NULL && !qd_all_finite(out + (size_t)(at / batch) * n, n))
			st = qd_fail(QD_EINPUT, "the model's output is not finite for samples %lld to %lld", (long long)at,
				(long long)(at + batch - 1));
		qd_progress(note, (uint64_t)(at + batch), (uint64_t)data->n, NULL);
	}
	return st;
}

/* ---- slots that no adapter uses ---- */

static bool is_used(const struct qd_slot *slot, const struct qd_adapter *const *adapters, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (qd_adapter_find(adapters[i], slot->path) != NULL)
			return true;
	return false;
}

/* Random codes over the whole grid of a slot's down. */
static void fill_down(struct qd_fitted_slot *f, const struct qd_slot *slot, const struct qd_encoding *e, size_t index)
{
	int64_t n = slot->rank * slot->in * slot->kh * slot->kw;
	struct qd_random random;

	qd_random_init(&random, 0, qd_stream(QD_STREAM_FREE_SLOT, index));
	for (int64_t i = 0; i < n; i++)
		f->down[i] = (float)((2 * qd_random_uniform(&random) - 1) * qd_encoding_high(e) * e->scale[0]);
}

static void reserve(struct qd_observer *o, double reach)
{
	qd_observer_add_range(o, (float)-reach, (float)reach);
	o->kind = QD_OBSERVE_MINMAX;
}

/* The observers of values "<path><suffix>". */
static struct qd_observer *observer_of(
	struct qd_observers *observers, const struct qd_graph *g, const char *path, const char *suffix)
{
	char name[1024];
	qd_id v = QD_NONE;

	if ((size_t)snprintf(name, sizeof(name), "%s%s", path, suffix) < sizeof(name))
		v = qd_graph_find(g, name);
	return v == QD_NONE ? NULL : &observers->of[v];
}

static void reserve_branch(
	struct qd_observers *observers, const struct qd_net *net, const struct qd_slot *slot, const struct qd_encoding *up)
{
	const struct qd_range *base = &observers->of[slot->base].range;
	double m = fmax(-base->low, base->high), u = (double)qd_encoding_high(up) * up->scale[0];
	struct qd_observer *gain_out = observer_of(observers, &net->graph, slot->path, ".lora_gain_out");
	struct qd_observer *up_out = observer_of(observers, &net->graph, slot->path, ".lora_up_out");

	if (gain_out != NULL)
		reserve(gain_out, m / u);
	if (up_out != NULL)
		reserve(up_out, m);
	reserve(&observers->of[slot->sum], 2 * m);
}

/* ---- the profile's activations ---- */

struct calibration {
	struct qd_profile *profile;
	const struct qd_adapter *const *adapters;
	size_t n;
	const struct qd_dataset *data;
	struct qd_net net;
	enum qd_entry_kind *kinds;
	const struct qd_encoding **encodings; /* [n_values] */
	struct qd_observers observers;
};

static const struct qd_encoding *encoding_of(const struct calibration *c, qd_id value)
{
	return qd_profile_find(c->profile, c->net.graph.values[value].name);
}

/* What the profile holds so far goes onto the LoRA inputs, so that they run rounded; or off them, so that they run in float. */
static void hang_lora(struct calibration *c, bool on)
{
	for (qd_id v = 0; v < c->net.graph.n_values; v++)
		if (c->kinds[v] == QD_ENTRY_LORA)
			c->net.graph.values[v].encoding = on ? encoding_of(c, v) : NULL;
}

static enum qd_status observe_adapter(struct calibration *c, struct qd_runner *runner, const struct qd_adapter *adapter)
{
	struct qd_fitted fitted = { 0 };
	enum qd_status st;

	QD_TRY(st, qd_fit_adapter(&fitted, adapter, c->profile, c->profile->options.align, true));
	for (size_t i = 0; i < c->net.slots.n; i++)
		if (!is_used(&c->net.slots.items[i], c->adapters, c->n))
			fill_down(&fitted.slots[i], &c->net.slots.items[i], encoding_of(c, c->net.slots.items[i].down), i);
	QD_TRY(st, qd_runner_feed_fitted(runner, &c->net.slots, &fitted));
	QD_TRY(st, qd_run_samples(runner, &c->net, c->data, adapter->name, NULL));
out:
	qd_fitted_release(&fitted);
	return qd_prefix(st, "adapter '%s'", adapter->name);
}

static enum qd_status observe_all(struct calibration *c)
{
	struct qd_run_options options = { .engine = { .simulate = true, .see = qd_observe, .context = &c->observers } };
	struct qd_runner runner = { 0 };
	enum qd_status st;

	hang_lora(c, true);
	QD_TRY(st, qd_observers_new(&c->observers, c->kinds, c->net.graph.n_values, &c->profile->options));
	options.engine.seen = c->observers.seen;
	QD_TRY(st, qd_runner_open(&runner, &c->net.graph, &options));
	for (size_t i = 0; i < c->n; i++)
		QD_TRY(st, observe_adapter(c, &runner, c->adapters[i]));
	/* Where adapters may be clipped, the ranges must also hold what they are meant to compute: training can bring it back. */
	hang_lora(c, false);
	for (size_t i = 0; i < c->n && qd_align_may_clip(c->profile->options.align); i++)
		QD_TRY(st, observe_adapter(c, &runner, c->adapters[i]));
	hang_lora(c, true);
	for (size_t i = 0; i < c->net.slots.n; i++) {
		const struct qd_slot *slot = &c->net.slots.items[i];

		if (!is_used(slot, c->adapters, c->n))
			reserve_branch(&c->observers, &c->net, slot, encoding_of(c, slot->up));
	}
	QD_TRY(st, qd_activation_encodings(&c->profile->arena, &c->observers, c->profile->options.act_bits, c->encodings));
out:
	qd_runner_release(&runner);
	qd_observers_release(&c->observers);
	return st;
}

/* In the order of the graph's values; what the profile has already stays. */
static enum qd_status add_entries(struct calibration *c)
{
	enum qd_status st = QD_OK;

	for (qd_id v = 0; st == QD_OK && v < c->net.graph.n_values; v++) {
		const char *name = c->net.graph.values[v].name;

		if (c->encodings[v] != NULL && qd_profile_find(c->profile, name) == NULL)
			st = qd_profile_add(c->profile, c->kinds[v], name, c->encodings[v]);
	}
	return st;
}

enum qd_status qd_profile_calibrate(struct qd_profile *profile, const struct qd_model *model,
	const struct qd_adapter *const *adapters, size_t n, const struct qd_dataset *calibration)
{
	struct calibration c = { .profile = profile, .adapters = adapters, .n = n, .data = calibration };
	struct qd_sizes sizes;
	int64_t batch;
	enum qd_status st;

	QD_TRY(st, qd_data_batch(calibration, &profile->options, &batch));
	sizes = qd_dataset_sizes(calibration, batch);
	QD_TRY(st, qd_net_build(&c.net, model, &sizes, &profile->slots));
	c.kinds = calloc(c.net.graph.n_values + 1, sizeof(*c.kinds));
	c.encodings = calloc(c.net.graph.n_values + 1, sizeof(*c.encodings));
	if (c.kinds == NULL || c.encodings == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	QD_TRY(st, qd_assign(&c.net.graph, c.kinds));
	for (qd_id v = 0; v < c.net.graph.n_values; v++)
		c.encodings[v] = encoding_of(&c, v);
	QD_TRY(st, qd_weight_encodings(&profile->arena, &c.net.graph, c.kinds, &profile->options, c.encodings));
	if (profile->options.act_bits > 0)
		QD_TRY(st, observe_all(&c));
	QD_TRY(st, add_entries(&c));
	QD_TRY(st, qd_model_hash(model, profile->base_hash));
out:
	free(c.kinds);
	free(c.encodings);
	qd_net_release(&c.net);
	return st;
}
