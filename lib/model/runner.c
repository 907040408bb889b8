/*
 * Runners: what is fed is checked here, whatever executes it; then the two that are built in, the engine and libtorch's executor.
 */
#include "lib/model/model.h"

#include <stdlib.h>
#include <string.h>

/* ---- the engine ---- */

static enum qd_status engine_feed(struct qd_runner *runner, qd_id input, const struct qd_tensor *tensor)
{
	return qd_engine_feed(runner->engine, input, tensor);
}

static enum qd_status engine_run(struct qd_runner *runner)
{
	return qd_engine_run(runner->engine);
}

static enum qd_status engine_read(struct qd_runner *runner, size_t output, float *out)
{
	return qd_engine_read(runner->engine, output, out);
}

static void engine_release(struct qd_runner *runner)
{
	qd_engine_free(runner->engine);
}

static enum qd_status open_engine(struct qd_runner *runner, const struct qd_graph *g, const struct qd_engine_options *options)
{
	static const struct qd_runner_kind kind = { engine_feed, engine_run, engine_read, engine_release };

	*runner = (struct qd_runner){ .graph = g, .kind = &kind };
	return qd_engine_new(&runner->engine, g, options);
}

/* ---- libtorch ---- */

static enum qd_status exec_feed(struct qd_runner *runner, qd_id input, const struct qd_tensor *tensor)
{
	return qd_exec_bind_tensor(runner->exec, runner->graph->values[input].name, tensor);
}

static void drop_outputs(struct qd_runner *runner)
{
	for (size_t i = 0; i < runner->graph->n_outputs; i++) {
		qt_free(runner->outputs[i]);
		runner->outputs[i] = NULL;
	}
}

static enum qd_status exec_run(struct qd_runner *runner)
{
	bool grad = qt_get_grad();
	enum qd_status st;

	drop_outputs(runner);
	qt_set_grad(false);
	st = qd_exec_run(runner->exec, runner->outputs);
	qt_set_grad(grad);
	return st;
}

static enum qd_status exec_read(struct qd_runner *runner, size_t output, float *out)
{
	const struct qd_value *value = &runner->graph->values[runner->graph->outputs[output]];

	return qt_read(runner->outputs[output], out, (size_t)qd_shape_elements(&value->shape) * sizeof(*out));
}

static void exec_release(struct qd_runner *runner)
{
	if (runner->outputs != NULL)
		drop_outputs(runner);
	free(runner->outputs);
	qd_exec_free(runner->exec);
}

enum qd_status qd_runner_open_libtorch(struct qd_runner *runner, const struct qd_graph *g, const struct qd_exec_options *options)
{
	static const struct qd_runner_kind kind = { exec_feed, exec_run, exec_read, exec_release };
	enum qd_status st = QD_OK;

	*runner = (struct qd_runner){ .graph = g, .kind = &kind };
	runner->outputs = calloc(g->n_outputs + 1, sizeof(qt_tensor));
	if (runner->outputs == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory for %zu outputs", g->n_outputs));
	QD_TRY(st, qd_exec_new(&runner->exec, g, options));
out:
	if (st != QD_OK)
		qd_runner_release(runner);
	return st;
}

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

/* What the engine is asked for, as a hook of libtorch's executor. */
static enum qd_status see_and_round(void *context, const struct qd_graph *g, qd_id value, qt_tensor *tensor)
{
	struct qd_runner *runner = context;
	const struct qd_engine_options *o = &runner->options.engine;
	size_t n = (size_t)qd_shape_elements(&g->values[value].shape);
	float *x = NULL;
	enum qd_status st = QD_OK;

	if (o->see != NULL && runner->seen[value]) {
		x = malloc((n + 1) * sizeof(*x));
		if (x == NULL)
			QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory for %zu values", n));
		QD_TRY(st, qt_read(*tensor, x, n * sizeof(*x)));
		QD_TRY(st, o->see(o->context, value, n, x));
	}
	if (o->simulate)
		QD_TRY(st, qd_sim_hook(NULL, g, value, tensor));
out:
	free(x);
	return st;
}

enum qd_status qd_runner_open(struct qd_runner *runner, const struct qd_graph *g, const struct qd_run_options *options)
{
	const struct qd_run_options floats = { 0 };
	const struct qd_exec_options hook = { .hook = see_and_round, .hook_context = runner, .see_all = true };
	bool *seen = NULL;
	enum qd_status st = QD_EUNSUPPORTED;

	options = options != NULL ? options : &floats;
	if (!options->libtorch && qt_on_cpu())
		st = open_engine(runner, g, &options->engine);
	if (st != QD_EUNSUPPORTED)
		return st;
	/* It is the slower by far, and its codes are not quite the same. */
	if (!options->libtorch && qt_on_cpu())
		qd_log(QD_LOG_WARNING, "libtorch executes graph '%s', which the engine cannot: %s", g->name, qd_message());
	if (!options->engine.simulate && options->engine.see == NULL)
		return qd_runner_open_libtorch(runner, g, NULL);
	if (options->engine.see != NULL) {
		seen = malloc((g->n_values + 1) * sizeof(*seen));
		if (seen == NULL)
			return qd_fail(QD_ENOMEM, "out of memory");
		memcpy(seen, options->engine.seen, g->n_values * sizeof(*seen));
	}
	st = qd_runner_open_libtorch(runner, g, &hook);
	runner->options = *options;
	runner->seen = seen;
	if (st != QD_OK)
		qd_runner_release(runner);
	return st;
}

/* ---- whatever executes ---- */

void qd_runner_release(struct qd_runner *runner)
{
	if (runner->kind != NULL)
		runner->kind->release(runner);
	free(runner->seen);
	*runner = (struct qd_runner){ 0 };
}

enum qd_status qd_runner_feed(struct qd_runner *runner, const struct qd_tensor *tensor)
{
	const struct qd_graph *g = runner->graph;
	qd_id input = qd_graph_find(g, tensor->name);
	char found[QD_SHAPE_TEXT], needed[QD_SHAPE_TEXT];
	enum qd_status st;

	if (input == QD_NONE || g->values[input].kind != QD_INPUT)
		return qd_fail(QD_EINPUT, "graph '%s' has no input '%s'", g->name, tensor->name);
	if (!qd_shape_equal(&tensor->shape, &g->values[input].shape))
		return qd_fail(QD_EINPUT, "input '%s' is %s, needs %s", tensor->name, qd_shape_text(&tensor->shape, found),
			qd_shape_text(&g->values[input].shape, needed));
	QD_TRY(st, qd_tensor_check_finite(tensor, NULL));
	QD_TRY(st, runner->kind->feed(runner, input, tensor));
out:
	return st;
}

/* A tensor of `data`, in the shape of the input. */
static enum qd_status feed_data(struct qd_runner *runner, qd_id input, const float *data)
{
	const struct qd_value *value = &runner->graph->values[input];
	struct qd_tensor view = qd_tensor_view(value->name, QD_F32, value->shape, data);

	return qd_runner_feed(runner, &view);
}

enum qd_status qd_runner_feed_slot(struct qd_runner *runner, const struct qd_slot *slot, const float *down, const float *up,
	const float *gain, const float *bias)
{
	enum qd_status st;

	QD_TRY(st, feed_data(runner, slot->down, down));
	QD_TRY(st, feed_data(runner, slot->up, up));
	QD_TRY(st, feed_data(runner, slot->gain, gain));
	if (slot->biased)
		QD_TRY(st, feed_data(runner, slot->bias, bias));
out:
	return st;
}

/* Padded with zeros to the rank of the slot; all zeros without `lora`. */
static enum qd_status feed_lora(struct qd_runner *runner, const struct qd_slot *slot, const struct qd_lora *lora)
{
	size_t rank = (size_t)slot->rank, down = rank * (size_t)(slot->in * slot->kh * slot->kw), up = rank * (size_t)slot->out;
	float *buffer = calloc(down + up + rank + (size_t)slot->out, sizeof(*buffer)), *gain = buffer + down + up;
	enum qd_status st;

	if (buffer == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	QD_TRY(st, qd_slot_fill(slot, lora, buffer, buffer + down, gain, gain + rank));
	QD_TRY(st, qd_runner_feed_slot(runner, slot, buffer, buffer + down, gain, gain + rank));
out:
	free(buffer);
	return st;
}

enum qd_status qd_runner_feed_adapter(struct qd_runner *runner, const struct qd_slots *slots, const struct qd_adapter *adapter)
{
	enum qd_status st = QD_OK;

	for (size_t i = 0; adapter != NULL && i < adapter->n; i++) {
		if (qd_strmap_get(&slots->by_path, adapter->loras[i].path) == QD_NONE)
			return qd_fail(
				QD_EINPUT, "adapter '%s' adapts '%s', which has no slot", adapter->name, adapter->loras[i].path);
	}
	for (size_t i = 0; i < slots->n && st == QD_OK; i++)
		st = feed_lora(runner, &slots->items[i], adapter != NULL ? qd_adapter_find(adapter, slots->items[i].path) : NULL);
	return st;
}

enum qd_status qd_runner_run(struct qd_runner *runner)
{
	return runner->kind->run(runner);
}

enum qd_status qd_runner_read(struct qd_runner *runner, const char *output, size_t n, float *out)
{
	const struct qd_graph *g = runner->graph;

	for (size_t i = 0; i < g->n_outputs; i++) {
		const struct qd_value *value = &g->values[g->outputs[i]];
		size_t found = (size_t)qd_shape_elements(&value->shape);
		if (strcmp(value->name, output) != 0)
			continue;
		if (value->dtype != QD_F32)
			return qd_fail(QD_EUNSUPPORTED, "output '%s' is %s, needs F32", output, qd_dtype_name(value->dtype));
		if (found != n)
			return qd_fail(QD_EINPUT, "output '%s' has %zu values, needs %zu", output, found, n);
		return runner->kind->read(runner, i, out);
	}
	return qd_fail(QD_EINPUT, "graph '%s' has no output '%s'", g->name, output);
}
