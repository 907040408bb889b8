/*
 * quad eval: runs a graph once on the tensors of a file and compares. The graph is a model with an adapter in float, the same under
 * a profile's encodings (simulated), or an exported ONNX file read back.
 */
#include "cmd/eval.h"
#include "lib/math/math.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char doc[] =
	"Run a graph on given inputs, float or simulated, and check the result.\v"
	"FILE holds tensors under the names of the graph's inputs and, to compare with, of its outputs; a graph's only output is "
	"also "
	"compared with 'out'. A UNet takes sample, timestep, encoder_hidden_states (text_embeds and time_ids where the model does) "
	"and "
	"gives out; with --profile its encodings are simulated. A text encoder takes input_ids and gives last_hidden_state, "
	"pooler_output, hidden_states_m1, hidden_states_m2, text_embeds, and clip_skip_N where the file has a tensor of that name. "
	"A "
	"VAE's decoder takes z, its encoder x, and both give out. --base is a pipeline folder (--part unet, text_encoder, "
	"text_encoder_2, encoder or decoder; unet without it), a component's own folder, an export folder or an ONNX file; with "
	"those "
	"two --adapter is a name in the folder, or a file of its inputs.";

struct eval_options {
	struct qd_common common;
	const char *inputs, *part;
	double tolerance; /* negative: nothing is checked */
};

#define FIELD(field) QD_FIELD(struct eval_options, field)
static const struct qd_option table[] = {
	{ "inputs", QD_OPT_TEXT, FIELD(inputs), .required = true, .arg = "FILE", .help = "safetensors file of tensors to run on" },
	{ "part", QD_OPT_TEXT, FIELD(part), .arg = "NAME", .help = "which component of a pipeline, or which direction of a VAE" },
	{ "check", QD_OPT_NUMBER, FIELD(tolerance), .to = HUGE_VAL, .arg = "TOL",
		.help = "exit 1 when an output differs from the file's by more than TOL anywhere", .absent = "" },
	{ 0 },
};

struct result {
	const char *name;
	struct qd_tensor value;
	bool finite, compared;
	float low, high;
	struct qd_error error; /* against the file's tensor, when compared */
};

struct eval {
	const struct eval_options *options;
	struct qd_evaluated run;
	struct result *results; /* of the graph's outputs */
};

/* ---- outputs ---- */

/* What to compare output `name` with: the tensor of its name, or of a single output's other names; NULL when the file has none. */
static const struct qd_tensor *expected_of(const struct eval *e, const char *name)
{
	const char *const others[] = { "out", e->run.declared };
	const struct qd_tensor *tensor = qd_safetensors_find(&e->run.inputs, name);
	for (size_t i = 0; i < QD_COUNT(others) && !tensor && e->run.g->n_outputs == 1; i++)
		tensor = qd_safetensors_find(&e->run.inputs, others[i]);
	return tensor;
}

static enum qd_status compare(const struct eval *e, struct result *r)
{
	const struct qd_tensor *expected = expected_of(e, r->name);
	char found[QD_SHAPE_TEXT], need[QD_SHAPE_TEXT];
	enum qd_status st;
	if (!expected)
		return QD_OK;
	if (!qd_shape_equal(&expected->shape, &r->value.shape))
		return qd_fail(QD_EINPUT, "'%s': tensor '%s' is %s, needs %s", e->run.inputs.path, expected->name,
			qd_shape_text(&expected->shape, found), qd_shape_text(&r->value.shape, need));
	size_t n = (size_t)qd_shape_elements(&expected->shape);
	float *reference = malloc(n * sizeof(*reference) + 1);
	if (!reference)
		return qd_fail(QD_ENOMEM, "out of memory");
	QD_TRY(st, qd_tensor_check_finite(expected, e->run.inputs.path));
	QD_TRY(st, qd_tensor_to_f32(expected, reference));
	qd_error_add(&r->error, reference, r->value.data, n);
	r->compared = true;
out:
	free(reference);
	return st;
}

static enum qd_status take_output(struct eval *e, size_t i, qt_tensor tensor)
{
	const struct qd_value *value = &e->run.g->values[e->run.g->outputs[i]];
	struct result *r = &e->results[i];
	enum qd_status st;
	r->name = value->name;
	if (value->dtype != QD_F32)
		return qd_fail(QD_EUNSUPPORTED, "output '%s' is %s, needs F32", r->name, qd_dtype_name(value->dtype));
	QD_TRY(st, qd_tensor_new(&r->value, r->name, QD_F32, &value->shape));
	QD_TRY(st, qt_read(tensor, r->value.data, r->value.bytes));
	r->finite = true;
	for (int64_t k = 0, n = qd_shape_elements(&value->shape); k < n; k++) {
		float x = ((const float *)r->value.data)[k];
		r->finite = r->finite && isfinite(x);
		r->low = k == 0 || x < r->low ? x : r->low;
		r->high = k == 0 || x > r->high ? x : r->high;
	}
	QD_TRY(st, compare(e, r));
out:
	return st;
}

static enum qd_status run(struct eval *e)
{
	qt_tensor *outputs = calloc(e->run.g->n_outputs + 1, sizeof(*outputs));
	enum qd_status st;
	e->results = calloc(e->run.g->n_outputs + 1, sizeof(*e->results));
	if (!outputs || !e->results)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	QD_TRY(st, qd_exec_run(e->run.exec, outputs));
	for (size_t i = 0; i < e->run.g->n_outputs; i++)
		QD_TRY(st, take_output(e, i, outputs[i]));
out:
	for (size_t i = 0; outputs && i < e->run.g->n_outputs; i++)
		qt_free(outputs[i]);
	free(outputs);
	return st;
}

/* ---- the verdict ---- */

static bool within(const struct result *r, double tolerance)
{
	return r->finite && r->error.largest <= tolerance;
}

static enum qd_status nothing_compared(const struct eval *e)
{
	const struct qd_graph *g = e->run.g;
	bool one = g->n_outputs == 1;
	return qd_fail(QD_EINPUT, "'%s' has no tensor '%s'%s to check against", e->run.inputs.path,
		one ? "out" : g->values[g->outputs[0]].name, one ? "" : " or of another output's name");
}

/* QD_ECHECK when an output is too far off; QD_EINPUT when there is nothing to compare with. */
static enum qd_status verdict(const struct eval *e)
{
	size_t compared = 0;
	if (e->options->tolerance < 0)
		return QD_OK;
	for (size_t i = 0; i < e->run.g->n_outputs; i++) {
		const struct result *r = &e->results[i];
		compared += r->compared;
		if (r->compared && !r->finite)
			return qd_fail(QD_ECHECK, "output '%s' has values that are not finite", r->name);
		if (r->compared && !within(r, e->options->tolerance))
			return qd_fail(QD_ECHECK, "output '%s' differs by up to %.3g, allowed is %.3g", r->name, r->error.largest,
				e->options->tolerance);
	}
	return compared ? QD_OK : nothing_compared(e);
}

static void print_text(const struct eval *e)
{
	char shape[QD_SHAPE_TEXT];
	for (size_t i = 0; i < e->run.g->n_outputs; i++) {
		const struct result *r = &e->results[i];
		printf("%s %s  from %.6g to %.6g%s\n", r->name, qd_shape_text(&r->value.shape, shape), (double)r->low,
			(double)r->high, r->finite ? "" : ", not finite");
		if (r->compared)
			printf("  largest difference %.3g, SQNR %.2f dB\n", r->error.largest, qd_error_sqnr_db(&r->error));
	}
}

/* JSON has no infinity: an exact match has sqnr_db null. */
static json_t *finite_number(double x)
{
	return isfinite(x) ? json_real(x) : json_null();
}

static json_t *result_json(const struct eval *e, const struct result *r)
{
	json_t *shape = json_array(), *item = json_object();
	for (int d = 0; d < r->value.shape.rank; d++)
		json_array_append_new(shape, json_integer(r->value.shape.dim[d]));
	json_object_set_new(item, "name", json_string(r->name));
	json_object_set_new(item, "shape", shape);
	json_object_set_new(item, "min", finite_number((double)r->low));
	json_object_set_new(item, "max", finite_number((double)r->high));
	json_object_set_new(item, "finite", json_boolean(r->finite));
	if (r->compared) {
		json_object_set_new(item, "max_abs_difference", finite_number(r->error.largest));
		json_object_set_new(item, "sqnr_db", finite_number(qd_error_sqnr_db(&r->error)));
		if (e->options->tolerance >= 0)
			json_object_set_new(item, "within", json_boolean(within(r, e->options->tolerance)));
	}
	return item;
}

static enum qd_status print_results(const struct eval *e)
{
	if (!e->options->common.json) {
		print_text(e);
		return QD_OK;
	}
	json_t *root = json_object(), *list = json_array();
	for (size_t i = 0; i < e->run.g->n_outputs; i++)
		json_array_append_new(list, result_json(e, &e->results[i]));
	json_object_set_new(root, "schema", json_integer(1));
	json_object_set_new(root, "outputs", list);
	return qd_print_json(root);
}

/* The inputs and the outputs together: a file that eval takes again. */
static enum qd_status write_results(const struct eval *e)
{
	const struct qd_common *common = &e->options->common;
	struct qd_tensor *tensors = calloc(e->run.inputs.n + e->run.g->n_outputs + 1, sizeof(*tensors));
	size_t n = 0;
	if (!tensors)
		return qd_fail(QD_ENOMEM, "out of memory");
	for (size_t i = 0; i < e->run.g->n_outputs; i++)
		tensors[n++] = e->results[i].value;
	for (size_t i = 0; i < e->run.inputs.n; i++) {
		bool replaced = false;
		for (size_t k = 0; k < e->run.g->n_outputs; k++)
			replaced = replaced || strcmp(e->run.inputs.tensors[i].name, tensors[k].name) == 0;
		if (!replaced)
			tensors[n++] = e->run.inputs.tensors[i];
	}
	enum qd_status st = qd_safetensors_write(common->output, tensors, n, NULL, 0, common->force, NULL, NULL);
	free(tensors);
	return st;
}

/* ---- all of it ---- */

static enum qd_status evaluate(struct eval *e)
{
	const struct qd_common *common = &e->options->common;
	enum qd_status st;
	QD_TRY(st, qd_check_apart(common, common->output, &e->options->inputs, 1));
	if (common->output && !common->force && (qd_is_file(common->output) || qd_is_directory(common->output)))
		return qd_fail(QD_EEXIST, "'%s' exists, needs --force to be replaced", common->output);
	QD_TRY(st, qd_safetensors_open(&e->run.inputs, e->options->inputs));
	QD_TRY(st, qd_evaluated_open(&e->run));
	QD_TRY(st, run(e));
	if (common->output)
		QD_TRY(st, write_results(e));
	QD_TRY(st, print_results(e));
	QD_TRY(st, verdict(e));
out:
	return st;
}

static void release(struct eval *e)
{
	for (size_t i = 0; e->results && i < e->run.g->n_outputs; i++)
		qd_tensor_release(&e->results[i].value);
	free(e->results);
	qd_evaluated_release(&e->run);
}

int qd_cmd_eval(int argc, char **argv)
{
	struct eval_options o = { .tolerance = -1 };
	struct eval e = { .options = &o, .run = { .common = &o.common } };
	enum qd_status st;

	qd_parse(argc, argv, doc, &(struct qd_options){ table, &o }, 1,
		QD_COMMON_BASE | QD_COMMON_ADAPTER | QD_COMMON_PROFILE | QD_COMMON_OUTPUT | QD_COMMON_JSON | QD_COMMON_THREADS,
		QD_COMMON_BASE, &o.common);
	if (o.common.adapters.n > 1)
		qd_usage("needs one --adapter at most (join files with NAME=A+B)");
	e.run.part = o.part;
	st = evaluate(&e);
	release(&e);
	qd_common_release(&o.common);
	return qd_finish("eval", st);
}
