/* Asks what runs what a stored trace (see session.c) asked another, and compares the answers. */
#include "export/runtime/session.h"
#include "lib/math/math.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* A tensor of the trace as aligned floats in the session's arena. */
static enum qd_status trace_tensor(struct qd_session *s, const struct qd_safetensors *trace, int step, const char *what,
	struct qd_shape shape, const float **out)
{
	enum qd_status st;
	char name[64], found[QD_SHAPE_TEXT], needed[QD_SHAPE_TEXT];
	const struct qd_tensor *t;
	snprintf(name, sizeof(name), "step.%03d.%s", step, what);
	QD_TRY(st, qd_safetensors_get(trace, name, &t));
	if (!qd_shape_equal(&t->shape, &shape))
		return qd_fail(QD_EINPUT, "'%s': tensor '%s' is %s, needs %s (%lld samples of '%s')", trace->path, name,
			qd_shape_text(&t->shape, found), qd_shape_text(&shape, needed), (long long)s->n, s->options->inputs);
	float *values = qd_arena_array(&s->arena, (size_t)qd_shape_elements(&shape), sizeof(*values));
	if (values == NULL)
		return QD_ENOMEM;
	*out = values;
	QD_TRY(st, qd_tensor_to_f32(t, values));
out:
	return st;
}

/* `range` 0: that of the stored values. */
static void compare_step(const float *a, const float *b, size_t n, double range, struct qd_trace_step *step)
{
	double low = b[0], high = b[0], largest = 0, squares = 0;
	for (size_t i = 0; i < n; i++) {
		double difference = fabs((double)a[i] - b[i]);
		low = fmin(low, b[i]);
		high = fmax(high, b[i]);
		largest = fmax(largest, difference);
		squares += difference * difference;
	}
	step->range = range > 0 ? range : high > low ? high - low : 1;
	step->difference = largest / step->range;
	step->root_mean_square = sqrt(squares / (double)n) / step->range;
}

/* Of the output's encoding, from the trace's metadata; 0 where it has none. */
static enum qd_status encoded_range(const struct qd_safetensors *trace, double *range)
{
	const char *text = qd_safetensors_metadata(trace, QD_TRACE_RANGE);
	char *end = NULL;
	*range = text != NULL ? strtod(text, &end) : 0;
	if (text != NULL && (end == text || *end != '\0' || !isfinite(*range) || *range <= 0))
		return qd_fail(QD_EINPUT, "'%s': metadata '%s' is '%s', needs a number above 0", trace->path, QD_TRACE_RANGE, text);
	return QD_OK;
}

static enum qd_status check_step(
	struct qd_session *s, const struct qd_safetensors *trace, int step, double range, float *out, struct qd_trace_step *result)
{
	enum qd_status st;
	const float *sample, *timestep, *wanted;
	struct qd_shape shape = QD_SHAPE(s->n, s->latent_channels, s->sizes.height, s->sizes.width);
	QD_TRY(st, trace_tensor(s, trace, step, "sample", QD_SHAPE(s->n, s->channels, s->sizes.height, s->sizes.width), &sample));
	QD_TRY(st, trace_tensor(s, trace, step, "timestep", QD_SHAPE(1), &timestep));
	QD_TRY(st, trace_tensor(s, trace, step, "out", shape, &wanted));
	struct qd_denoise_call call = { .step = step, .timestep = *timestep, .conditional = true, .sample = sample, .out = out };
	size_t n = (size_t)qd_shape_elements(&shape);
	*result = (struct qd_trace_step){ call.timestep, INFINITY, INFINITY, range > 0 ? range : 1, NULL };
	if (!qd_all_finite(sample, n / (size_t)s->latent_channels * (size_t)s->channels) || !isfinite(*timestep)) {
		result->not_finite = "the stored input";
		return QD_OK;
	}
	QD_TRY(st, qd_session_denoise(s, &call));
	if (!qd_all_finite(wanted, n))
		result->not_finite = "the stored output";
	else if (!qd_all_finite(out, n))
		result->not_finite = "the output";
	else
		compare_step(out, wanted, n, range, result);
out:
	return st;
}

enum qd_status qd_trace_check(const struct qd_sampling_options *options, const char *path, struct qd_trace_step **steps, size_t *n)
{
	enum qd_status st;
	struct qd_session s = { 0 };
	struct qd_safetensors trace = { 0 };
	float *out = NULL;
	double range = 0;
	size_t n_steps;
	*steps = NULL;
	*n = 0;
	struct qd_sampling_options limited = *options;
	const struct qd_tensor *sample;
	QD_TRY(st, qd_safetensors_open(&trace, path));
	QD_TRY(st, encoded_range(&trace, &range));
	QD_TRY(st, qd_safetensors_get(&trace, "step.000.sample", &sample));
	if (limited.limit == 0 && sample->shape.rank > 0)
		limited.limit = sample->shape.dim[0];
	QD_TRY(st, qd_session_open(&s, &limited));
	/* three tensors a step; that one is missing is said when it is looked for */
	n_steps = (trace.n + 2) / 3;
	*steps = calloc(n_steps, sizeof(**steps));
	out = malloc((size_t)(s.n * s.latent_channels * s.sizes.height * s.sizes.width) * sizeof(float));
	if (*steps == NULL || out == NULL) {
		st = qd_fail(QD_ENOMEM, "cannot compare with '%s'", path);
		goto out;
	}
	for (; *n < n_steps; (*n)++)
		QD_TRY(st, check_step(&s, &trace, (int)*n, range, out, &(*steps)[*n]));
out:
	free(out);
	qd_safetensors_release(&trace);
	qd_session_release(&s);
	return st;
}

size_t qd_trace_worst(const struct qd_trace_step *steps, size_t n)
{
	size_t worst = 0;

	for (size_t i = 1; i < n; i++)
		if (steps[i].difference > steps[worst].difference)
			worst = i;
	return worst;
}

enum qd_status qd_trace_verdict(const struct qd_trace_step *steps, size_t n, double tolerance)
{
	size_t worst = qd_trace_worst(steps, n);

	if (n > 0 && steps[worst].not_finite != NULL)
		return qd_fail(QD_ECHECK, "step %zu: %s has values that are not finite", worst, steps[worst].not_finite);
	if (n > 0 && !(steps[worst].difference <= tolerance))
		return qd_fail(QD_ECHECK, "step %zu differs by %.3e of the output's range, allowed %g", worst,
			steps[worst].difference, tolerance);
	return QD_OK;
}
