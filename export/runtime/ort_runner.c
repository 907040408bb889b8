/* A runner in ONNX Runtime: feeds and outputs lie in tensors of our own, which every run is given. */
#include "export/runtime/internal.h"

#include <stdlib.h>
#include <string.h>

struct ort_state {
	struct qd_ort_session *session;
	struct qd_tensor *tensors; /* the graph's inputs, and behind them its outputs */
	bool *fed;                 /* per input */
};

static enum qd_status ort_feed(struct qd_runner *runner, qd_id input, const struct qd_tensor *tensor)
{
	const struct qd_graph *g = runner->graph;
	struct ort_state *state = runner->other;
	size_t at = 0;

	while (g->inputs[at] != input)
		at++;
	state->fed[at] = true;
	if (tensor->dtype == state->tensors[at].dtype) {
		memcpy(state->tensors[at].data, tensor->data, tensor->bytes);
		return QD_OK;
	}
	if (state->tensors[at].dtype == QD_F32)
		return qd_tensor_to_f32(tensor, state->tensors[at].data);
	return qd_fail(QD_EINPUT, "input '%s' is %s, needs %s", tensor->name, qd_dtype_name(tensor->dtype),
		qd_dtype_name(state->tensors[at].dtype));
}

static enum qd_status ort_run(struct qd_runner *runner)
{
	const struct qd_graph *g = runner->graph;
	struct ort_state *state = runner->other;

	for (size_t i = 0; i < g->n_inputs; i++)
		if (!state->fed[i])
			return qd_fail(QD_EINPUT, "input '%s' is not bound", state->tensors[i].name);
	return qd_ort_run(state->session, state->tensors, g->n_inputs, NULL, state->tensors + g->n_inputs, g->n_outputs);
}

static enum qd_status ort_read(struct qd_runner *runner, size_t output, float *out)
{
	struct ort_state *state = runner->other;
	const struct qd_tensor *tensor = &state->tensors[runner->graph->n_inputs + output];

	memcpy(out, tensor->data, tensor->bytes);
	return QD_OK;
}

static void ort_release(struct qd_runner *runner)
{
	struct ort_state *state = runner->other;

	if (state == NULL)
		return;
	for (size_t i = 0; state->tensors != NULL && i < runner->graph->n_inputs + runner->graph->n_outputs; i++)
		qd_tensor_release(&state->tensors[i]);
	qd_ort_session_free(state->session);
	free(state->tensors);
	free(state->fed);
	free(state);
}

static enum qd_status make_tensors(const struct qd_graph *g, struct ort_state *state)
{
	enum qd_status st = QD_OK;

	for (size_t i = 0; i < g->n_inputs + g->n_outputs; i++) {
		const struct qd_value *v = &g->values[i < g->n_inputs ? g->inputs[i] : g->outputs[i - g->n_inputs]];
		QD_TRY(st, qd_tensor_new(&state->tensors[i], v->name, v->dtype, &v->shape));
	}
out:
	return st;
}

enum qd_status qd_runner_open_ort(struct qd_runner *runner, const struct qd_graph *g, struct qd_ort *ort, const char *model,
	const struct qd_ort_options *options)
{
	static const struct qd_runner_kind kind = { ort_feed, ort_run, ort_read, ort_release };
	struct ort_state *state = calloc(1, sizeof(*state));
	enum qd_status st = QD_OK;

	*runner = (struct qd_runner){ .graph = g, .kind = &kind, .other = state };
	if (state != NULL) {
		state->tensors = calloc(g->n_inputs + g->n_outputs + 1, sizeof(*state->tensors));
		state->fed = calloc(g->n_inputs + 1, sizeof(*state->fed));
	}
	if (state == NULL || state->tensors == NULL || state->fed == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "cannot hold %zu inputs", g->n_inputs));
	QD_TRY(st, make_tensors(g, state));
	QD_TRY(st, qd_ort_session_new(&state->session, ort, model, options));
out:
	if (st != QD_OK)
		qd_runner_release(runner);
	return st;
}
