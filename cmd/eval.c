/*
 * quad eval: runs a graph once on the tensors of a file and compares. The graph is a model with an adapter in float, the same under
 * a profile's encodings (simulated), or an exported ONNX file read back.
 */
#include "cmd/cmd.h"
#include "export/runtime/runtime.h"
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
	"two --adapter is a name in the folder's adapters/, or [NAME=]FILE of its LoRA inputs.";

struct eval_options {
	struct qd_common common;
	const char *inputs, *part;
	enum qd_executor executor;
	double tolerance; /* negative: nothing is checked */
};

#define FIELD(field) QD_FIELD(struct eval_options, field)
static const struct qd_option table[] = {
	{ "inputs", QD_OPT_TEXT, FIELD(inputs), .required = true, .arg = "FILE", .help = "safetensors file of tensors to run on" },
	{ "engine", QD_OPT_CHOICE, FIELD(executor), .names = qd_executor_names, .help = "what executes",
		.absent = "builtin: the engine, for exported files libtorch" },
	{ "part", QD_OPT_TEXT, FIELD(part), .arg = "NAME", .help = "which component of a pipeline, or which direction of a VAE" },
	{ "check", QD_OPT_NUMBER, FIELD(tolerance), .to = HUGE_VAL, .arg = "TOL",
		.help = "exit 1 when an output differs from the file's by more than TOL anywhere", .absent = "" },
	{ 0 },
};

struct eval {
	const struct eval_options *options;
	struct qd_safetensors inputs;
	struct qd_runtime runtime;
	struct qd_evaluation evaluation;
};

/* ---- printing and writing ---- */

static void print_outputs(const struct eval *e)
{
	char shape[QD_SHAPE_TEXT];
	for (size_t i = 0; i < e->evaluation.n; i++) {
		const struct qd_evaluated *r = &e->evaluation.outputs[i];
		qd_print("%s %s  from %.6g to %.6g%s\n", r->name, qd_shape_text(&r->value.shape, shape), (double)r->low,
			(double)r->high, r->finite ? "" : ", not finite");
		if (r->expected != NULL)
			qd_print("  largest difference %.3g, SQNR %.2f dB\n", r->error.largest, qd_error_sqnr_db(&r->error));
	}
}

static json_t *result_json(const struct eval *e, const struct qd_evaluated *r)
{
	json_t *shape = json_array(), *item = json_object();
	for (int d = 0; d < r->value.shape.rank; d++)
		json_array_append_new(shape, json_integer(r->value.shape.dim[d]));
	json_object_set_new(item, "name", json_string(r->name));
	json_object_set_new(item, "shape", shape);
	json_object_set_new(item, "min", qd_finite_json((double)r->low));
	json_object_set_new(item, "max", qd_finite_json((double)r->high));
	json_object_set_new(item, "finite", json_boolean(r->finite));
	if (r->expected != NULL) {
		json_object_set_new(item, "max_abs_difference", qd_finite_json(r->error.largest));
		json_object_set_new(item, "sqnr_db", qd_finite_json(qd_error_sqnr_db(&r->error)));
		if (e->options->tolerance >= 0)
			json_object_set_new(item, "within", json_boolean(qd_evaluated_within(r, e->options->tolerance)));
	}
	return item;
}

static enum qd_status print_results(const struct eval *e)
{
	if (!e->options->common.json) {
		print_outputs(e);
		return QD_OK;
	}
	json_t *root = json_object(), *list = json_array();
	for (size_t i = 0; i < e->evaluation.n; i++)
		json_array_append_new(list, result_json(e, &e->evaluation.outputs[i]));
	json_object_set_new(root, "schema", json_integer(1));
	json_object_set_new(root, "outputs", list);
	return qd_print_json(root);
}

/* The inputs and the outputs together: a file that eval takes again. */
static enum qd_status write_results(const struct eval *e)
{
	const struct qd_common *common = &e->options->common;
	struct qd_tensor *tensors = calloc(e->inputs.n + e->evaluation.n + 1, sizeof(*tensors));
	size_t n = 0;
	if (tensors == NULL)
		return qd_fail(QD_ENOMEM, "out of memory");
	for (size_t i = 0; i < e->evaluation.n; i++)
		tensors[n++] = e->evaluation.outputs[i].value;
	for (size_t i = 0; i < e->inputs.n; i++) {
		bool replaced = false;
		for (size_t k = 0; k < e->evaluation.n; k++)
			replaced = replaced || strcmp(e->inputs.tensors[i].name, tensors[k].name) == 0;
		if (!replaced)
			tensors[n++] = e->inputs.tensors[i];
	}
	enum qd_status st = qd_safetensors_write(common->output, tensors, n, NULL, 0, common->force, NULL, NULL);
	free(tensors);
	return st;
}

/* ---- all of it ---- */

static enum qd_status evaluate(struct eval *e)
{
	const struct qd_common *common = &e->options->common;
	const struct qd_runtime_options what = { .base = common->base,
		.part = e->options->part,
		.executor = e->options->executor,
		.adapter = common->adapters.n > 0 ? common->adapters.items[0] : NULL,
		.profile = common->profile,
		.refit = common->refit,
		.inputs = &e->inputs };
	enum qd_status st;

	QD_TRY(st, qd_check_apart(common, common->output, &e->options->inputs, 1));
	if (common->output != NULL && !common->force && (qd_is_file(common->output) || qd_is_directory(common->output)))
		return qd_fail(QD_EEXIST, "'%s' exists, needs --force to be replaced", common->output);
	QD_TRY(st, qd_safetensors_open(&e->inputs, e->options->inputs));
	QD_TRY(st, qd_runtime_open(&e->runtime, &what));
	QD_TRY(st, qd_runtime_feed(&e->runtime, &e->inputs));
	QD_TRY(st, qd_evaluate(&e->evaluation, &e->runtime, &e->inputs));
	if (common->output != NULL)
		QD_TRY(st, write_results(e));
	QD_TRY(st, print_results(e));
	if (e->options->tolerance >= 0)
		QD_TRY(st, qd_evaluation_check(&e->evaluation, &e->inputs, e->options->tolerance));
out:
	return st;
}

static void release_eval(struct eval *e)
{
	qd_evaluation_release(&e->evaluation);
	qd_runtime_release(&e->runtime);
	qd_safetensors_release(&e->inputs);
}

int qd_cmd_eval(int argc, char **argv)
{
	struct eval_options o = { .tolerance = -1 };
	struct eval e = { .options = &o };
	enum qd_status st;

	qd_parse(argc, argv, doc, &(struct qd_options){ table, &o }, 1,
		QD_COMMON_BASE | QD_COMMON_ADAPTER | QD_COMMON_PROFILE | QD_COMMON_REFIT | QD_COMMON_OUTPUT | QD_COMMON_JSON |
			QD_COMMON_THREADS,
		QD_COMMON_BASE, &o.common);
	if (o.common.adapters.n > 1)
		qd_usage("needs one --adapter at most (join files with NAME=A+B)");
	st = evaluate(&e);
	release_eval(&e);
	qd_common_release(&o.common);
	return qd_finish("eval", st);
}
