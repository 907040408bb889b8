/*
 * quad inspect on a model.
 */
#include "cmd/inspect.h"

#include <stdio.h>
#include <string.h>

enum { FAMILY_TEXT = 64 };

/* "SD1.x", "SD2.x inpainting", "other". */
static const char *family_text(const struct qd_unet_config *c, char *out, size_t n)
{
	const struct qd_family *family = qd_family_of(c->cross_dim[0], c->channels[0], c->time_ids);
	bool inpaints = c->in_channels == QD_FAMILY_INPAINT;

	snprintf(out, n, "%s%s%s", family != NULL ? family->name : "other", inpaints && family == NULL ? "," : "",
		inpaints ? " inpainting" : "");
	return out;
}

char *qd_digits(uint64_t value, char *buffer)
{
	char plain[QD_DIGITS];
	int n = snprintf(plain, sizeof(plain), "%llu", (unsigned long long)value), out = 0;
	for (int i = 0; i < n; i++) {
		if (i > 0 && (n - i) % 3 == 0)
			buffer[out++] = ',';
		buffer[out++] = plain[i];
	}
	buffer[out] = 0;
	return buffer;
}

json_t *qd_module_sets_json(const struct qd_module_sets *sets)
{
	return json_pack("{s:I,s:I,s:I}", "attention", (json_int_t)sets->attention, "transformer", (json_int_t)sets->transformer,
		"all", (json_int_t)sets->all);
}

struct model_facts {
	const struct qd_model *model;
	struct qd_module_sets sets;
	struct qd_cost cost;
	int64_t side;
	struct qd_weight_facts weights;
};

void qd_weight_facts_add(struct qd_weight_facts *facts, const struct qd_tensor *tensor)
{
	const char *name = qd_dtype_name(tensor->dtype);
	size_t used = strlen(facts->dtypes);
	facts->parameters += (uint64_t)qd_shape_elements(&tensor->shape);
	facts->bytes += tensor->bytes;
	if (strstr(facts->dtypes, name) == NULL)
		snprintf(facts->dtypes + used, sizeof(facts->dtypes) - used, "%s%s", used ? " " : "", name);
}

/* Builds the graph at the native size: also checks every tensor's name and shape. */
static enum qd_status gather(struct model_facts *f)
{
	const struct qd_model *model = f->model;
	struct qd_graph g = { 0 };
	struct qd_modules modules = { 0 };
	enum qd_status st;
	struct qd_sizes sizes = qd_model_native_sizes(model);
	f->side = sizes.height;
	QD_TRY(st, qd_model_graph(&g, model, &sizes));
	qd_weights_note_unused(&model->weights, &g);
	QD_TRY(st, qd_modules_of(&modules, &g));
	QD_TRY(st, qd_graph_cost(&g, &f->cost));
	for (size_t i = 0; i < modules.n; i++)
		qd_module_sets_add(&f->sets, &modules.items[i]);
	for (size_t i = 0; i < model->weights.n; i++)
		qd_weight_facts_add(&f->weights, model->weights.tensors[i]);
out:
	qd_modules_release(&modules);
	qd_graph_release(&g);
	return st;
}

static void print_blocks(const struct qd_unet_config *c)
{
	for (int i = 0; i < c->blocks; i++) {
		qd_print("%s%lld x%lld", i ? ", " : "", (long long)c->channels[i], (long long)c->layers[i]);
		if (c->down_attention[i])
			qd_print(" attention (%lld heads, depth %lld)", (long long)c->heads[i], (long long)c->depth[i][0]);
	}
	qd_print("%s\n", !c->has_mid ? ", no mid" : c->mid_attention ? ", mid attention" : ", mid");
}

static enum qd_status print_text(const struct model_facts *f)
{
	const struct qd_unet_config *c = &f->model->config;
	double flop = f->cost.conv + f->cost.linear + f->cost.attention;
	char digits[QD_DIGITS], family[FAMILY_TEXT];
	bool single = f->model->kind == QD_MODEL_CHECKPOINT;
	qd_print("%s: %s, %s\n", f->model->folder, single ? "single-file checkpoint" : "UNet2DConditionModel",
		family_text(c, family, sizeof(family)));
	qd_print("  parameters  %s in %zu tensors, %s, %.3f GB\n", qd_digits(f->weights.parameters, digits), f->model->weights.n,
		f->weights.dtypes, (double)f->weights.bytes / 1e9);
	qd_print("  latents     %lld channels in, %lld out, native %lld x %lld\n", (long long)c->in_channels,
		(long long)c->out_channels, (long long)f->side, (long long)f->side);
	qd_print("  context     %lld features%s\n", (long long)(c->text_proj ? c->encoder_hid_dim : c->cross_dim[0]),
		c->text_time ? ", pooled text and sizes added" : "");
	qd_print("  blocks      ");
	print_blocks(c);
	qd_print("  modules     %zu that a LoRA can adapt: %zu in attention, %zu in transformers\n", f->sets.all, f->sets.attention,
		f->sets.transformer);
	qd_print("  compute     %.4g GFLOP a run at native size: convolutions %.4g, linears %.4g, attention %.4g\n", flop / 1e9,
		f->cost.conv / 1e9, f->cost.linear / 1e9, f->cost.attention / 1e9);
	qd_print("  memory      weights %.3f GB as F32, activations %.3f GB at most\n", (double)f->cost.weights * 4e-9,
		(double)f->cost.activations * 4e-9);
	if (single)
		qd_print_beside(f->model);
	else if (f->model->kind == QD_MODEL_FOLDER)
		qd_print_components(f->model->root);
	return QD_OK;
}

static enum qd_status print_json(const struct model_facts *f)
{
	const struct qd_unet_config *c = &f->model->config;
	char family[FAMILY_TEXT];
	json_t *root = json_pack("{s:i,s:s,s:s,s:s}", "schema", 1, "kind", "model", "path", f->model->folder, "family",
		family_text(c, family, sizeof(family)));
	json_object_set_new(root, "parameters", json_integer((json_int_t)f->weights.parameters));
	json_object_set_new(root, "tensors", json_integer((json_int_t)f->model->weights.n));
	json_object_set_new(root, "bytes", json_integer((json_int_t)f->weights.bytes));
	json_object_set_new(root, "dtypes", json_string(f->weights.dtypes));
	json_object_set_new(root, "native_size", json_integer(f->side));
	json_object_set_new(root, "modules", qd_module_sets_json(&f->sets));
	json_object_set_new(root, "flop",
		json_pack("{s:f,s:f,s:f}", "conv", f->cost.conv, "linear", f->cost.linear, "attention", f->cost.attention));
	json_object_set_new(root, "activation_bytes", json_integer((json_int_t)(f->cost.activations * 4)));
	json_object_set_new(root, "config", qd_unet_config_json(c));
	if (f->model->kind == QD_MODEL_CHECKPOINT)
		json_object_set_new(root, "beside", qd_beside_json(f->model));
	if (f->model->kind == QD_MODEL_FOLDER)
		json_object_set_new(root, "beside", qd_components_json(f->model->root));
	return qd_print_json(root);
}

enum qd_status qd_inspect_model(const char *path, const struct qd_common *common)
{
	struct qd_model model = { 0 };
	struct model_facts facts = { .model = &model };
	enum qd_status st;
	QD_TRY(st, qd_model_open(&model, path));
	QD_TRY(st, gather(&facts));
	QD_TRY(st, common->json ? print_json(&facts) : print_text(&facts));
out:
	qd_model_release(&model);
	return st;
}
