/*
 * The executor: walks the steps of a plan (plan.c), keeping each tensor as long as a later step needs it.
 *
 * A value's tensor is found in one of three places. `now` holds what belongs to the current run. `kept` holds what outlives it:
 * weights as the hook left them, and results that depend on such weights alone (they are computed in the first run only). `given`
 * holds what the caller put there: bound inputs and replaced weights, which pass the hook anew on each run, because they may change
 * or carry gradients.
 */
#include "lib/torch/lower.h"
#include "lib/torch/plan.h"

#include <stdlib.h>
#include <string.h>

struct qd_exec {
	const struct qd_graph *g;
	struct qd_exec_options options;
	struct qd_plan plan;
	qt_tensor *now, *kept, *given; /* per value */
	bool *steady;                  /* per value: a weight that was not replaced, or a result of such alone */
	bool stale;                    /* `steady` no longer fits `given` */
};

static void drop(qt_tensor *slot)
{
	qt_free(*slot);
	*slot = NULL;
}

static void drop_all(const struct qd_exec *exec, qt_tensor *slots)
{
	for (size_t i = 0; slots != NULL && i < exec->g->n_values; i++)
		drop(&slots[i]);
}

enum qd_status qd_exec_new(struct qd_exec **out, const struct qd_graph *g, const struct qd_exec_options *options)
{
	struct qd_exec *exec = calloc(1, sizeof(*exec));
	size_t n = g->n_values + 1;
	enum qd_status st = QD_OK;

	*out = NULL;
	if (exec == NULL)
		return qd_fail(QD_ENOMEM, "out of memory for an executor");
	exec->g = g;
	exec->stale = true;
	if (options != NULL)
		exec->options = *options;
	exec->now = calloc(n, sizeof(*exec->now));
	exec->kept = calloc(n, sizeof(*exec->kept));
	exec->given = calloc(n, sizeof(*exec->given));
	exec->steady = calloc(n, sizeof(*exec->steady));
	if (exec->now == NULL || exec->kept == NULL || exec->given == NULL || exec->steady == NULL)
		st = qd_fail(QD_ENOMEM, "out of memory for an executor of %zu values", g->n_values);
	if (st == QD_OK)
		st = qd_plan_init(&exec->plan, g, exec->options.see_all);
	if (st != QD_OK)
		qd_exec_free(exec);
	else
		*out = exec;
	return st;
}

void qd_exec_free(struct qd_exec *exec)
{
	if (exec == NULL)
		return;
	drop_all(exec, exec->now);
	drop_all(exec, exec->kept);
	drop_all(exec, exec->given);
	qd_plan_release(&exec->plan);
	free(exec->now);
	free(exec->kept);
	free(exec->given);
	free(exec->steady);
	free(exec);
}

/* ---- what the caller gives ---- */

static enum qd_status check_shape(const struct qd_value *value, const char *what, qt_tensor tensor)
{
	char found[QD_SHAPE_TEXT], needed[QD_SHAPE_TEXT];
	struct qd_shape shape;
	enum qd_status st;

	QD_TRY(st, qt_shape(tensor, &shape));
	if (!qd_shape_equal(&shape, &value->shape))
		return qd_fail(QD_EINPUT, "%s '%s' is %s, needs %s", what, value->name, qd_shape_text(&shape, found),
			qd_shape_text(&value->shape, needed));
out:
	return st;
}

static enum qd_status give(struct qd_exec *exec, qd_id id, enum qd_value_kind kind, const char *what, qt_tensor tensor)
{
	qt_tensor own = NULL;
	enum qd_status st;

	if (id >= exec->g->n_values || exec->g->values[id].kind != kind)
		return qd_fail(QD_EINPUT, "value %u is no %s of graph '%s'", id, what, exec->g->name);
	QD_TRY(st, check_shape(&exec->g->values[id], what, tensor));
	QD_TRY(st, qt_retain(tensor, &own));
	qt_free(exec->given[id]);
	exec->given[id] = own;
out:
	return st;
}

enum qd_status qd_exec_bind(struct qd_exec *exec, qd_id input, qt_tensor tensor)
{
	return give(exec, input, QD_INPUT, "input", tensor);
}

enum qd_status qd_exec_bind_tensor(struct qd_exec *exec, const char *input_name, const struct qd_tensor *tensor)
{
	qd_id input = qd_graph_find(exec->g, input_name);
	qt_tensor plain = NULL, typed = NULL;
	enum qd_status st;

	if (input == QD_NONE)
		return qd_fail(QD_EINPUT, "graph '%s' has no input '%s'", exec->g->name, input_name);
	QD_TRY(st, qt_from_tensor(tensor, &plain));
	QD_TRY(st, qt_cast(plain, exec->g->values[input].dtype, &typed));
	QD_TRY(st, qd_exec_bind(exec, input, typed));
out:
	qt_free(plain);
	qt_free(typed);
	return st;
}

enum qd_status qd_exec_set_weight(struct qd_exec *exec, qd_id weight, qt_tensor tensor)
{
	enum qd_status st;

	QD_TRY(st, give(exec, weight, QD_WEIGHT, "weight", tensor));
	drop(&exec->kept[weight]);
	exec->stale = true;
out:
	return st;
}

static enum qd_status load(const struct qd_exec *exec, qd_id weight, qt_tensor *out)
{
	const struct qd_value *v = &exec->g->values[weight];
	enum qd_status st = v->data.dtype == QD_F32 ? qt_borrow_tensor(&v->data, out) : qt_from_tensor(&v->data, out);

	return qd_prefix(st, "weight '%s'", v->name);
}

/* ---- a run ---- */

/* Works out `steady` and forgets kept results that no longer are. */
static void refresh(struct qd_exec *exec)
{
	const struct qd_graph *g = exec->g;

	for (size_t i = 0; i < g->n_values; i++)
		exec->steady[i] = g->values[i].kind == QD_WEIGHT && exec->given[i] == NULL;
	for (size_t s = 0; s < exec->plan.n; s++) {
		const struct qd_step *step = &exec->plan.steps[s];
		const struct qd_node *node = &g->nodes[step->node];
		bool steady = true;
		for (size_t i = 0; i < step->n_in; i++)
			steady = steady && (step->in[i] == QD_NONE || exec->steady[step->in[i]]);
		for (size_t i = 0; i < node->n_out; i++)
			exec->steady[node->out[i]] = steady;
	}
	for (size_t i = 0; i < g->n_values; i++)
		if (!exec->steady[i])
			drop(&exec->kept[i]);
	exec->stale = false;
}

static enum qd_status show(const struct qd_exec *exec, qd_id id, qt_tensor *tensor)
{
	const struct qd_value *v = &exec->g->values[id];

	if (exec->options.hook == NULL || v->dtype != QD_F32)
		return QD_OK;
	return qd_prefix(exec->options.hook(exec->options.hook_context, exec->g, id, tensor), "value '%s'", v->name);
}

/* The tensor of a value that a step needs, borrowed: inputs and weights are fetched at their first use. */
static enum qd_status fetch(struct qd_exec *exec, qd_id id, qt_tensor *out)
{
	const struct qd_value *v = &exec->g->values[id];
	qt_tensor *slot = exec->steady[id] ? &exec->kept[id] : &exec->now[id];
	enum qd_status st = QD_OK;

	*out = exec->now[id] != NULL ? exec->now[id] : exec->kept[id];
	if (*out != NULL)
		return QD_OK;
	if (v->kind == QD_INPUT && exec->given[id] == NULL)
		return qd_fail(QD_EINPUT, "input '%s' is not bound", v->name);
	QD_TRY(st, exec->given[id] != NULL ? qt_retain(exec->given[id], slot) : load(exec, id, slot));
	QD_TRY(st, show(exec, id, slot));
	*out = *slot;
out:
	return st;
}

/* Softmax of scaled q k^T, times v; k comes transposed, which costs nothing to undo. */
static enum qd_status attention(const struct qd_step *step, const qt_tensor *in, qt_tensor *out)
{
	static const int64_t swap[2][4] = { { 0, 2, 1 }, { 0, 1, 3, 2 } };
	struct qd_shape shape;
	qt_tensor k = NULL;
	enum qd_status st;

	QD_TRY(st, qt_shape(in[1], &shape));
	QD_TRY(st, qt_permute(in[1], (size_t)shape.rank, swap[shape.rank - 3], &k));
	QD_TRY(st, qt_attention(in[0], k, in[2], step->scale, out));
out:
	qt_free(k);
	return st;
}

static enum qd_status compute(const struct qd_exec *exec, size_t s, const qt_tensor *in, qt_tensor *out)
{
	const struct qd_step *step = &exec->plan.steps[s];
	const struct qd_node *node = &exec->g->nodes[step->node];
	const struct qd_lower lower = { exec->g, node, in, out };

	switch (step->kind) {
	case QD_STEP_SILU:
		return qt_unary(QT_SILU, in[0], out);
	case QD_STEP_ATTENTION:
		return attention(step, in, out);
	case QD_STEP_FAKE_QUANTIZE:
		return qd_lower_fake_quantize(in[0], in[1], in[2], qd_node_int(node, "axis", 1), step->codes, out);
	case QD_STEP_NODE:
		return qd_lowerings[node->op](&lower);
	}
	return QD_OK;
}

/* Puts a result where it belongs. What a gradient may flow through is never kept: its graph is good for one backward only. */
static enum qd_status settle(struct qd_exec *exec, const struct qd_step *step, bool gradient, qt_tensor *results)
{
	const struct qd_node *node = &exec->g->nodes[step->node];
	enum qd_status st = QD_OK;

	for (size_t i = 0; i < node->n_out; i++) {
		qd_id id = node->out[i];
		qt_tensor *slot = exec->steady[id] && !gradient ? &exec->kept[id] : &exec->now[id];
		*slot = results[i];
		results[i] = NULL;
		QD_TRY(st, show(exec, id, slot));
	}
out:
	return st;
}

static bool is_kept(const struct qd_exec *exec, const struct qd_node *node)
{
	for (size_t i = 0; i < node->n_out; i++)
		if (exec->kept[node->out[i]] == NULL)
			return false;
	return true;
}

static enum qd_status run_step(struct qd_exec *exec, size_t s)
{
	const struct qd_step *step = &exec->plan.steps[s];
	const struct qd_node *node = &exec->g->nodes[step->node];
	qt_tensor *in = calloc(step->n_in + node->n_out + 1, sizeof(*in)), *results = in + step->n_in;
	bool gradient = false;
	enum qd_status st = QD_OK;

	if (in == NULL)
		return qd_fail(QD_ENOMEM, "out of memory for a node's operands");
	for (size_t i = 0; i < step->n_in; i++) {
		if (step->in[i] == QD_NONE)
			continue;
		QD_TRY(st, fetch(exec, step->in[i], &in[i]));
		gradient = gradient || qt_wants_grad(in[i]);
	}
	QD_TRY(st, compute(exec, s, in, results));
	QD_TRY(st, settle(exec, step, gradient, results));
out:
	for (size_t i = 0; in != NULL && i < node->n_out; i++)
		qt_free(results[i]);
	free(in);
	return qd_prefix(st, "node '%s' (%s)", node->name, qd_op(node->op)->name);
}

static void bury(struct qd_exec *exec, size_t s)
{
	const struct qd_step *step = &exec->plan.steps[s];
	const struct qd_node *node = &exec->g->nodes[step->node];

	for (size_t i = 0; i < step->n_in; i++)
		if (step->in[i] != QD_NONE && exec->plan.last_use[step->in[i]] == s)
			drop(&exec->now[step->in[i]]);
	for (size_t i = 0; i < node->n_out; i++)
		if (exec->plan.last_use[node->out[i]] == s)
			drop(&exec->now[node->out[i]]);
}

enum qd_status qd_exec_run(struct qd_exec *exec, qt_tensor *outputs)
{
	const struct qd_graph *g = exec->g;
	enum qd_status st = QD_OK;
	qt_tensor last;

	memset(outputs, 0, g->n_outputs * sizeof(*outputs));
	if (exec->stale)
		refresh(exec);
	for (size_t s = 0; s < exec->plan.n; s++) {
		if (!is_kept(exec, &g->nodes[exec->plan.steps[s].node]))
			QD_TRY(st, run_step(exec, s));
		bury(exec, s);
	}
	for (size_t i = 0; i < g->n_outputs; i++) {
		QD_TRY(st, fetch(exec, g->outputs[i], &last));
		QD_TRY(st, qt_retain(last, &outputs[i]));
	}
out:
	drop_all(exec, exec->now);
	for (size_t i = 0; st != QD_OK && i < g->n_outputs; i++)
		drop(&outputs[i]);
	return st;
}
