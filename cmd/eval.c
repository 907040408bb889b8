/*
 * quad eval: runs a graph once on the tensors of a file and compares. The graph is a model with an adapter in float, the same under
 * a profile's encodings (simulated), or an exported ONNX file read back.
 */
#include "cmd/cmd.h"
#include "lib/math/math.h"
#include "lib/model/onnx.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char doc[] =
	"Run a graph on given inputs, float or simulated, and check the result.\v"
	"FILE holds tensors under the names of the graph's inputs (sample, timestep, encoder_hidden_states; text_embeds and "
	"time_ids where the model takes them) and, to compare with, 'out'. With --profile the encodings are simulated. --base may "
	"also be an export folder or an ONNX file; --adapter is then a name in the folder, or a file of its inputs.";

enum { KEY_INPUTS = 0x400, KEY_CHECK };
static const struct argp_option options[] = {
	{ "inputs", KEY_INPUTS, "FILE", 0, "tensors to run on (safetensors)", 1 },
	{ "check", KEY_CHECK, "TOL", 0, "exit 1 when an output differs from the file's by more than TOL anywhere", 1 },
	{ 0 },
};

struct eval_options {
	struct qd_common common;
	const char *inputs;
	bool check;
	double tolerance;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct eval_options *o = state->input;
	switch (key) {
	case KEY_INPUTS:
		o->inputs = arg;
		return 0;
	case KEY_CHECK:
		o->check = true;
		o->tolerance = qd_parse_number(state, "check", arg, 0, HUGE_VAL);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* ---- what is run ---- */

struct result {
	const char *name;
	struct qd_tensor value;
	bool finite, compared;
	float low, high;
	struct qd_error error; /* against the file's tensor, when compared */
};

struct eval {
	const struct eval_options *options;
	struct qd_safetensors inputs;
	struct qd_opened opened; /* a model ... */
	struct qd_slots slots;
	struct qd_profile profile;
	struct qd_fitted fitted;
	struct qd_net net;
	struct qd_onnx onnx; /* ... or an exported file */
	const struct qd_graph *g;
	struct qd_exec *exec;
	struct result *results; /* of g->outputs */
};

static const struct qd_adapter *adapter_of(const struct eval *e)
{
	return e->opened.n_adapters ? e->opened.adapter_list[0] : NULL;
}

static enum qd_status input_shape(const struct eval *e, const char *name, int rank, const struct qd_shape **out)
{
	const struct qd_tensor *tensor = NULL;
	enum qd_status st = qd_safetensors_get(&e->inputs, name, &tensor);
	if (st != QD_OK)
		return st;
	*out = &tensor->shape;
	if (tensor->shape.rank != rank)
		return qd_fail(
			QD_EINPUT, "'%s': tensor '%s' has %d dimensions, needs %d", e->inputs.path, name, tensor->shape.rank, rank);
	return QD_OK;
}

static enum qd_status sizes_of(const struct eval *e, struct qd_sizes *sizes)
{
	const struct qd_shape *sample = NULL, *text = NULL;
	enum qd_status st;
	QD_TRY(st, input_shape(e, "sample", 4, &sample));
	QD_TRY(st, input_shape(e, "encoder_hidden_states", 3, &text));
	*sizes = (struct qd_sizes){ sample->dim[0], sample->dim[2], sample->dim[3], text->dim[1] };
out:
	return st;
}

/* The encodings of a profile on the net, the adapter fitted to them. */
static enum qd_status use_profile(struct eval *e)
{
	enum qd_status st;
	QD_TRY(st, qd_profile_apply(&e->profile, &e->net));
	if (adapter_of(e))
		QD_TRY(st, qd_fit_adapter(&e->fitted, adapter_of(e), &e->profile, e->profile.options.align));
out:
	return st;
}

static enum qd_status open_net(struct eval *e)
{
	const struct qd_common *common = &e->options->common;
	struct qd_sizes sizes = { 0 };
	enum qd_status st;
	QD_TRY(st, qd_open_all(&e->opened, common));
	QD_TRY(st, sizes_of(e, &sizes));
	if (common->profile) {
		QD_TRY(st, qd_profile_read(&e->profile, common->profile));
		QD_TRY(st, qd_profile_check_base(&e->profile, &e->opened.model));
	} else {
		QD_TRY(st, qd_slots_choose(&e->slots, &e->opened.modules, e->opened.adapter_list, e->opened.n_adapters, NULL, 0));
	}
	QD_TRY(st, qd_net_build(&e->net, &e->opened.model, &sizes, common->profile ? &e->profile.slots : &e->slots));
	if (common->profile)
		QD_TRY(st, use_profile(e));
	e->g = &e->net.graph;
out:
	return st;
}

/* ---- inputs ---- */

static bool is_lora_input(const char *name)
{
	return qd_ends_with(name, ".lora_down") || qd_ends_with(name, ".lora_up") || qd_ends_with(name, ".lora_gain");
}

/* Every input of the graph that is no LoRA tensor, from the file. */
static enum qd_status bind_inputs(struct eval *e)
{
	for (size_t i = 0; i < e->g->n_inputs; i++) {
		const char *name = e->g->values[e->g->inputs[i]].name;
		const struct qd_tensor *tensor = NULL;
		if (is_lora_input(name))
			continue;
		enum qd_status st = qd_safetensors_get(&e->inputs, name, &tensor);
		if (st == QD_OK)
			st = qd_tensor_check_finite(tensor, e->inputs.path);
		if (st == QD_OK)
			st = qd_prefix(qd_exec_bind_tensor(e->exec, name, tensor), "'%s'", e->inputs.path);
		if (st != QD_OK)
			return st;
	}
	return QD_OK;
}

/* LoRA inputs of an exported graph, from a file of them; those that it does not have (all, without a file) are zero. */
static enum qd_status bind_exported(struct eval *e, const struct qd_safetensors *adapter)
{
	struct qd_tensor zero = { 0 };
	enum qd_status st = QD_OK;
	for (size_t i = 0; i < e->g->n_inputs; i++) {
		const struct qd_value *value = &e->g->values[e->g->inputs[i]];
		if (!is_lora_input(value->name))
			continue;
		const struct qd_tensor *tensor = adapter ? qd_safetensors_find(adapter, value->name) : NULL;
		qd_tensor_release(&zero);
		QD_TRY(st, qd_tensor_new(&zero, value->name, value->dtype, &value->shape));
		QD_TRY(st, qd_exec_bind_tensor(e->exec, value->name, tensor ? tensor : &zero));
	}
out:
	qd_tensor_release(&zero);
	return st;
}

/* `--adapter` of an exported graph: a file, or a name in the folder's adapters/. */
static enum qd_status bind_export_adapter(struct eval *e)
{
	const struct qd_common *common = &e->options->common;
	struct qd_safetensors file = { 0 };
	char path[4096];
	enum qd_status st;
	if (!common->n_adapters)
		return bind_exported(e, NULL);
	snprintf(path, sizeof(path), "%s/adapters/%s.safetensors", common->base, common->adapters[0]);
	QD_TRY(st, qd_safetensors_open(&file, qd_is_file(common->adapters[0]) ? common->adapters[0] : path));
	QD_TRY(st, bind_exported(e, &file));
out:
	qd_safetensors_release(&file);
	return st;
}

static enum qd_status bind_adapter(struct eval *e)
{
	if (e->g == &e->onnx.graph)
		return bind_export_adapter(e);
	if (e->options->common.profile && adapter_of(e))
		return qd_net_bind_fitted(&e->net, e->exec, &e->fitted);
	return qd_net_bind_adapter(&e->net, e->exec, adapter_of(e));
}

/* ---- outputs ---- */

/* What to compare output `name` with: the tensor of its name, or 'out' when there is one output; NULL when the file has neither. */
static const struct qd_tensor *expected_of(const struct eval *e, const char *name)
{
	const struct qd_tensor *tensor = qd_safetensors_find(&e->inputs, name);
	return !tensor && e->g->n_outputs == 1 ? qd_safetensors_find(&e->inputs, "out") : tensor;
}

static enum qd_status compare(const struct eval *e, struct result *r)
{
	const struct qd_tensor *expected = expected_of(e, r->name);
	char found[QD_SHAPE_TEXT], need[QD_SHAPE_TEXT];
	enum qd_status st;
	if (!expected)
		return QD_OK;
	if (!qd_shape_equal(&expected->shape, &r->value.shape))
		return qd_fail(QD_EINPUT, "'%s': tensor '%s' is %s, needs %s", e->inputs.path, expected->name,
			qd_shape_text(&expected->shape, found), qd_shape_text(&r->value.shape, need));
	size_t n = (size_t)qd_shape_elements(&expected->shape);
	float *reference = malloc(n * sizeof(*reference) + 1);
	if (!reference)
		return qd_fail(QD_ENOMEM, "out of memory");
	QD_TRY(st, qd_tensor_check_finite(expected, e->inputs.path));
	QD_TRY(st, qd_tensor_to_f32(expected, reference));
	qd_error_add(&r->error, reference, r->value.data, n);
	r->compared = true;
out:
	free(reference);
	return st;
}

static enum qd_status take_output(struct eval *e, size_t i, qt_tensor tensor)
{
	const struct qd_value *value = &e->g->values[e->g->outputs[i]];
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
	qt_tensor *outputs = calloc(e->g->n_outputs + 1, sizeof(*outputs));
	enum qd_status st;
	e->results = calloc(e->g->n_outputs + 1, sizeof(*e->results));
	if (!outputs || !e->results)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	QD_TRY(st, qd_exec_run(e->exec, outputs));
	for (size_t i = 0; i < e->g->n_outputs; i++)
		QD_TRY(st, take_output(e, i, outputs[i]));
out:
	for (size_t i = 0; outputs && i < e->g->n_outputs; i++)
		qt_free(outputs[i]);
	free(outputs);
	return st;
}

/* ---- the verdict ---- */

static bool within(const struct result *r, double tolerance)
{
	return r->finite && r->error.largest <= tolerance;
}

/* QD_ECHECK when an output is too far off; QD_EINPUT when there is nothing to compare with. */
static enum qd_status verdict(const struct eval *e)
{
	size_t compared = 0;
	if (!e->options->check)
		return QD_OK;
	for (size_t i = 0; i < e->g->n_outputs; i++) {
		const struct result *r = &e->results[i];
		compared += r->compared;
		if (r->compared && !r->finite)
			return qd_fail(QD_ECHECK, "output '%s' has values that are not finite", r->name);
		if (r->compared && !within(r, e->options->tolerance))
			return qd_fail(QD_ECHECK, "output '%s' differs by up to %.3g, allowed is %.3g", r->name, r->error.largest,
				e->options->tolerance);
	}
	if (!compared)
		return qd_fail(QD_EINPUT, "'%s' has no tensor 'out' to check against", e->inputs.path);
	return QD_OK;
}

static void print_text(const struct eval *e)
{
	char shape[QD_SHAPE_TEXT];
	for (size_t i = 0; i < e->g->n_outputs; i++) {
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
		if (e->options->check)
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
	for (size_t i = 0; i < e->g->n_outputs; i++)
		json_array_append_new(list, result_json(e, &e->results[i]));
	json_object_set_new(root, "schema", json_integer(1));
	json_object_set_new(root, "outputs", list);
	return qd_print_json(root);
}

/* The inputs and the outputs together: a file that eval takes again. */
static enum qd_status write_results(const struct eval *e)
{
	const struct qd_common *common = &e->options->common;
	struct qd_tensor *tensors = calloc(e->inputs.n + e->g->n_outputs + 1, sizeof(*tensors));
	size_t n = 0;
	if (!tensors)
		return qd_fail(QD_ENOMEM, "out of memory");
	for (size_t i = 0; i < e->g->n_outputs; i++)
		tensors[n++] = e->results[i].value;
	for (size_t i = 0; i < e->inputs.n; i++) {
		bool replaced = false;
		for (size_t k = 0; k < e->g->n_outputs; k++)
			replaced = replaced || strcmp(e->inputs.tensors[i].name, tensors[k].name) == 0;
		if (!replaced)
			tensors[n++] = e->inputs.tensors[i];
	}
	enum qd_status st = qd_safetensors_write(common->output, tensors, n, NULL, 0, common->force, NULL, NULL);
	free(tensors);
	return st;
}

/* ---- all of it ---- */

/* An ONNX file, or a folder that holds an export. `*path` is empty when `base` is neither. */
static void find_export(const char *base, char *path, size_t bytes)
{
	snprintf(path, bytes, "%s", base);
	if (qd_ends_with(base, ".onnx") && qd_is_file(base))
		return;
	snprintf(path, bytes, "%s/model.onnx", base);
	if (!qd_is_directory(base) || !qd_is_file(path))
		path[0] = 0;
}

static enum qd_status open_graph(struct eval *e)
{
	const struct qd_common *common = &e->options->common;
	char exported[4096];
	find_export(common->base, exported, sizeof(exported));
	if (!exported[0])
		return open_net(e);
	if (common->profile)
		return qd_fail(QD_EINPUT, "'%s' carries its encodings, --profile does not apply", exported);
	enum qd_status st = qd_onnx_open(&e->onnx, exported, e->inputs.tensors, e->inputs.n);
	e->g = &e->onnx.graph;
	return st;
}

static enum qd_status evaluate(struct eval *e)
{
	const struct qd_common *common = &e->options->common;
	struct qd_exec_options exec_options = { .hook = common->profile ? qd_sim_hook : NULL, .see_all = common->profile != NULL };
	enum qd_status st;
	if (common->output && !common->force && (qd_is_file(common->output) || qd_is_directory(common->output)))
		return qd_fail(QD_EEXIST, "'%s' exists, needs --force to be replaced", common->output);
	QD_TRY(st, qd_safetensors_open(&e->inputs, e->options->inputs));
	QD_TRY(st, open_graph(e));
	qt_set_grad(false);
	QD_TRY(st, qd_exec_new(&e->exec, e->g, &exec_options));
	QD_TRY(st, bind_inputs(e));
	QD_TRY(st, bind_adapter(e));
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
	for (size_t i = 0; e->results && i < e->g->n_outputs; i++)
		qd_tensor_release(&e->results[i].value);
	free(e->results);
	qd_exec_free(e->exec);
	qd_net_release(&e->net);
	qd_onnx_release(&e->onnx);
	qd_fitted_release(&e->fitted);
	qd_profile_release(&e->profile);
	qd_slots_release(&e->slots);
	qd_opened_release(&e->opened);
	qd_safetensors_release(&e->inputs);
}

int qd_cmd_eval(int argc, char **argv)
{
	const unsigned mask = QD_OPT_BASE | QD_OPT_ADAPTER | QD_OPT_PROFILE | QD_OPT_OUTPUT | QD_OPT_JSON | QD_OPT_THREADS;
	struct eval_options o = { 0 };
	struct eval e = { .options = &o };
	qd_parse(argc, argv, doc, NULL, mask, options, parse, &o, &o.common);
	qd_need("eval", "--base", o.common.base);
	qd_need("eval", "--inputs", o.inputs);
	qd_need("eval", "one --adapter at most (join files with NAME=A+B)", o.common.n_adapters < 2 ? &o : NULL);
	enum qd_status st = evaluate(&e);
	release(&e);
	qd_common_release(&o.common);
	return qd_finish("eval", st);
}
