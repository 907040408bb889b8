/*
 * One run, and what its outputs are beside those that the file of its inputs expects.
 */
#include "export/runtime/runtime.h"

#include <stdlib.h>

/* What to compare output `name` with: the tensor of its name, or of a single output's other names; NULL when the file has none. */
static const struct qd_tensor *expected_of(
	const struct qd_evaluation *e, const struct qd_runtime *rt, const struct qd_safetensors *inputs, const char *name)
{
	const char *const others[] = { "out", rt->output_name };
	const struct qd_tensor *tensor = qd_safetensors_find(inputs, name);

	for (size_t i = 0; i < QD_COUNT(others) && tensor == NULL && others[i] != NULL && e->n == 1; i++)
		tensor = qd_safetensors_find(inputs, others[i]);
	return tensor;
}

static enum qd_status compare_output(struct qd_evaluated *r, const struct qd_safetensors *inputs)
{
	char found[QD_SHAPE_TEXT], need[QD_SHAPE_TEXT];
	size_t n = (size_t)qd_shape_elements(&r->value.shape);
	float *reference;
	enum qd_status st;

	if (!qd_shape_equal(&r->expected->shape, &r->value.shape))
		return qd_fail(QD_EINPUT, "'%s': tensor '%s' is %s, needs %s", inputs->path, r->expected->name,
			qd_shape_text(&r->expected->shape, found), qd_shape_text(&r->value.shape, need));
	reference = malloc(n * sizeof(*reference) + 1);
	if (reference == NULL)
		return qd_fail(QD_ENOMEM, "out of memory");
	QD_TRY(st, qd_tensor_to_f32(r->expected, reference));
	r->expected_finite = qd_all_finite(reference, n);
	qd_error_add(&r->error, reference, r->value.data, n);
out:
	free(reference);
	return st;
}

static enum qd_status take_output(const struct qd_evaluation *e, struct qd_runtime *rt, const struct qd_safetensors *inputs,
	const struct qd_value *value, struct qd_evaluated *r)
{
	size_t n = (size_t)qd_shape_elements(&value->shape);
	const float *x;
	enum qd_status st;

	r->name = value->name;
	QD_TRY(st, qd_tensor_new(&r->value, r->name, QD_F32, &value->shape));
	QD_TRY(st, qd_runner_read(&rt->runner, r->name, n, r->value.data));
	x = r->value.data;
	r->finite = qd_all_finite(x, n);
	for (size_t i = 0; i < n; i++) {
		r->low = i == 0 || x[i] < r->low ? x[i] : r->low;
		r->high = i == 0 || x[i] > r->high ? x[i] : r->high;
	}
	r->expected = expected_of(e, rt, inputs, r->name);
	if (r->expected != NULL)
		QD_TRY(st, compare_output(r, inputs));
out:
	return st;
}

enum qd_status qd_evaluate(struct qd_evaluation *e, struct qd_runtime *rt, const struct qd_safetensors *inputs)
{
	const struct qd_graph *g = rt->runner.graph;
	enum qd_status st;

	*e = (struct qd_evaluation){ 0 };
	QD_TRY(st, qd_runner_run(&rt->runner));
	e->outputs = calloc(g->n_outputs + 1, sizeof(*e->outputs));
	if (e->outputs == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	e->n = g->n_outputs;
	for (size_t i = 0; i < e->n; i++)
		QD_TRY(st, take_output(e, rt, inputs, &g->values[g->outputs[i]], &e->outputs[i]));
out:
	if (st != QD_OK)
		qd_evaluation_release(e);
	return st;
}

void qd_evaluation_release(struct qd_evaluation *e)
{
	for (size_t i = 0; i < e->n; i++)
		qd_tensor_release(&e->outputs[i].value);
	free(e->outputs);
	*e = (struct qd_evaluation){ 0 };
}

bool qd_evaluated_within(const struct qd_evaluated *r, double tolerance)
{
	return r->finite && r->expected_finite && r->error.largest <= tolerance;
}

enum qd_status qd_evaluation_check(const struct qd_evaluation *e, const struct qd_safetensors *inputs, double tolerance)
{
	size_t compared = 0;

	for (size_t i = 0; i < e->n; i++) {
		const struct qd_evaluated *r = &e->outputs[i];
		if (r->expected == NULL)
			continue;
		compared++;
		if (!r->finite)
			return qd_fail(QD_ECHECK, "output '%s' has values that are not finite", r->name);
		if (!r->expected_finite)
			return qd_fail(QD_ECHECK,
				"output '%s' cannot equal tensor '%s' of '%s', which has values that are not finite", r->name,
				r->expected->name, inputs->path);
		if (!qd_evaluated_within(r, tolerance))
			return qd_fail(QD_ECHECK, "output '%s' differs by up to %.3g, allowed is %.3g", r->name, r->error.largest,
				tolerance);
	}
	if (compared > 0)
		return QD_OK;
	return qd_fail(QD_EINPUT, "'%s' has no tensor '%s'%s to check against", inputs->path,
		e->n == 1 ? "out" : e->outputs[0].name, e->n == 1 ? "" : " or of another output's name");
}
