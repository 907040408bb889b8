/*
 * quad init: a random-weight model in diffusers' layout, or an adapter for one, for dry runs, tests, sizing and training from
 * nothing.
 */
#include "cmd/cmd.h"
#include "lib/sampler/sampler.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char doc[] =
	"Make a random-weight model of a given architecture.\v"
	"The result is a diffusers folder: model_index.json, unet/ and scheduler/; for the config.json of a VAE or a "
	"text encoder it is that component's folder. Weights are drawn as PyTorch draws them; the same architecture, "
	"seed and type give the same bytes.";

/* Of no family: for trying things out. */
static const struct qd_family tiny = {
	.name = "tiny",
	.arch = "tiny",
	.config =
		"{\"sample_size\": 16, \"block_out_channels\": [32, 64, 64], \"layers_per_block\": 1, \"cross_attention_dim\": 32,"
		" \"attention_head_dim\": 4, \"down_block_types\": [\"CrossAttnDownBlock2D\", \"CrossAttnDownBlock2D\", "
		"\"DownBlock2D\"],"
		" \"up_block_types\": [\"UpBlock2D\", \"CrossAttnUpBlock2D\", \"CrossAttnUpBlock2D\"]}",
};

/* The families that have a name here, and tiny; NULL behind it. */
static const struct qd_family *arch_at(size_t i)
{
	for (size_t k = 0; k < QD_FAMILIES; k++)
		if (qd_families[k].arch != NULL && i-- == 0)
			return &qd_families[k];
	return i == 0 ? &tiny : NULL;
}

static const char *arch_name(size_t i)
{
	return arch_at(i) != NULL ? arch_at(i)->arch : NULL;
}

struct init_options {
	struct qd_common common;
	int arch; /* -1: none was named */
	const char *config;
	enum qd_dtype dtype;
	enum qd_prediction prediction;
	int64_t lora; /* rank; 0: a model */
};

#define FIELD(field) QD_FIELD(struct init_options, field)
static const int dtypes[] = { QD_F32, QD_F16, QD_BF16, QD_VALUES_END };
static const struct qd_option table[] = {
	{ "arch", QD_OPT_CHOICE, FIELD(arch), .name_at = arch_name, .help = "a known architecture" },
	{ "config", QD_OPT_TEXT, FIELD(config), .arg = "FILE",
		.help = "or the architecture of this config.json, of a UNet, a VAE or a text encoder" },
	{ "dtype", QD_OPT_DTYPE, FIELD(dtype), .values = dtypes, .help = "type of the weights" },
	{ "prediction", QD_OPT_CHOICE, FIELD(prediction), .names = qd_prediction_names, .help = "what the model predicts" },
	{ "lora", QD_OPT_INT, FIELD(lora), .low = 1, .high = 4096, .arg = "RANK",
		.help = "make an adapter of this rank for its transformers instead of the model", .absent = "" },
	{ 0 },
};

static enum qd_status read_config(const struct init_options *o, struct qd_unet_config *config)
{
	return o->config != NULL ? qd_unet_config_read(config, o->config) : qd_unet_config_family(config, arch_at((size_t)o->arch));
}

/* ---- the files beside the weights ---- */

/* The family whose pipelines take such a UNet. */
static const struct qd_family *family_like(const struct qd_unet_config *c)
{
	return &qd_families[c->text_time ? QD_FAMILY_SDXL : QD_FAMILY_SD1];
}

static json_t *component(const char *library, const char *class_name)
{
	return library != NULL ? json_pack("[s,s]", library, class_name) : json_pack("[n,n]");
}

static json_t *model_index(const struct qd_unet_config *c)
{
	static const char *const absent[] = { "vae", "text_encoder", "tokenizer" },
				 *const absent_xl[] = { "text_encoder_2", "tokenizer_2" },
				 *const absent_sd[] = { "safety_checker", "feature_extractor" };
	const struct qd_family *family = family_like(c);
	json_t *o = json_pack("{s:o}", "_class_name",
		json_sprintf("%s%sPipeline", family->pipeline, c->in_channels == QD_FAMILY_INPAINT ? "Inpaint" : ""));
	json_object_set_new(o, "unet", component("diffusers", "UNet2DConditionModel"));
	json_object_set_new(o, "scheduler", component("diffusers", family->scheduler));
	for (size_t i = 0; i < QD_COUNT(absent); i++)
		json_object_set_new(o, absent[i], component(NULL, NULL));
	for (size_t i = 0; i < 2; i++)
		json_object_set_new(o, c->text_time ? absent_xl[i] : absent_sd[i], component(NULL, NULL));
	return o;
}

/* The noise schedule of the Stable Diffusion models. */
static json_t *scheduler_config(const struct qd_unet_config *c, enum qd_prediction prediction)
{
	json_t *o = json_pack("{s:s,s:i,s:f,s:f,s:s,s:s,s:i,s:n}", "_class_name", family_like(c)->scheduler, "num_train_timesteps",
		1000, "beta_start", 0.00085, "beta_end", 0.012, "beta_schedule", "scaled_linear", "prediction_type",
		qd_prediction_names[prediction], "steps_offset", 1, "trained_betas");
	json_object_set_new(o, "timestep_spacing", json_string("leading"));
	if (c->text_time) {
		json_object_set_new(o, "use_karras_sigmas", json_false());
		json_object_set_new(o, "interpolation_type", json_string("linear"));
	} else {
		json_object_set_new(o, "clip_sample", json_false());
		json_object_set_new(o, "set_alpha_to_one", json_false());
	}
	return o;
}

/* ---- writing ---- */

/* Writes and drops `value`. */
static enum qd_status write_json(const char *folder, const char *name, json_t *value)
{
	char path[QD_PATH_BYTES];
	enum qd_status st;
	QD_TRY(st, value != NULL ? QD_OK : qd_fail(QD_ENOMEM, "out of memory"));
	QD_TRY(st, qd_path_join(path, folder, "%s", name));
	st = qd_json_write(path, value, false);
out:
	json_decref(value);
	return st;
}

static enum qd_status make_folder(const char *folder, const char *name)
{
	char path[QD_PATH_BYTES];
	enum qd_status st = qd_path_join(path, folder, "%s", name);
	if (st == QD_OK && mkdir(path, 0777) != 0)
		st = qd_fail(QD_EIO, "cannot make folder '%s'", path);
	return st;
}

static enum qd_status write_model(const struct init_options *o, const struct qd_unet_config *config)
{
	struct qd_output_folder out = { 0 };
	char path[QD_PATH_BYTES];
	enum qd_status st;
	QD_TRY(st, qd_output_folder_open(&out, o->common.output, o->common.force));
	if (o->common.dry_run)
		goto out;
	QD_TRY(st, make_folder(out.temporary, "unet"));
	QD_TRY(st, make_folder(out.temporary, "scheduler"));
	QD_TRY(st, write_json(out.temporary, "model_index.json", model_index(config)));
	QD_TRY(st, write_json(out.temporary, "scheduler/scheduler_config.json", scheduler_config(config, o->prediction)));
	QD_TRY(st, write_json(out.temporary, "unet/config.json", qd_unet_config_json(config)));
	QD_TRY(st, qd_path_join(path, out.temporary, "unet/diffusion_pytorch_model.safetensors"));
	QD_TRY(st, qd_unet_init(config, o->common.seed, o->dtype, path, false));
	QD_TRY(st, qd_output_folder_commit(&out));
out:
	qd_output_folder_release(&out);
	return st;
}

static enum qd_status print_summary(const struct init_options *o, uint64_t parameters, uint64_t tensors)
{
	uint64_t bytes = parameters * qd_dtype_bits(o->dtype) / 8;
	if (o->common.json)
		return qd_print_json(json_pack("{s:i,s:s,s:I,s:I,s:I,s:s,s:b}", "schema", 1, "path", o->common.output, "parameters",
			(json_int_t)parameters, "tensors", (json_int_t)tensors, "bytes", (json_int_t)bytes, "dtype",
			qd_dtype_name(o->dtype), "written", !o->common.dry_run));
	qd_print("%s%s: %llu parameters in %llu tensors, %.3f GB as %s\n", o->common.dry_run ? "would write " : "",
		o->common.output, (unsigned long long)parameters, (unsigned long long)tensors, (double)bytes / 1e9,
		qd_dtype_name(o->dtype));
	return QD_OK;
}

static enum qd_status make_model(const struct init_options *o)
{
	struct qd_unet_config config;
	struct qd_graph shape = { 0 };
	uint64_t parameters = 0, tensors = 0;
	enum qd_status st;
	QD_TRY(st, read_config(o, &config));
	QD_TRY(st, qd_unet_parameters(&config, &shape, &parameters, &tensors));
	QD_TRY(st, write_model(o, &config));
	QD_TRY(st, print_summary(o, parameters, tensors));
out:
	qd_graph_release(&shape);
	return st;
}

static enum qd_status make_adapter(const struct init_options *o)
{
	struct qd_unet_config config;
	enum qd_status st = read_config(o, &config);
	if (st != QD_OK || o->common.dry_run)
		return st;
	return qd_lora_init(&config, o->lora, o->common.seed, o->dtype, o->common.output, o->common.force);
}

/* ---- another component ---- */

static enum qd_status write_component(const struct init_options *o, const struct qd_component *component)
{
	struct qd_output_folder out = { 0 };
	json_t *json = NULL;
	char path[QD_PATH_BYTES];
	enum qd_status st;
	QD_TRY(st, qd_output_folder_open(&out, o->common.output, o->common.force));
	if (o->common.dry_run)
		goto out;
	QD_TRY(st, qd_json_read(o->config, &json));
	QD_TRY(st, write_json(out.temporary, "config.json", json_incref(json)));
	QD_TRY(st, qd_path_join(path, out.temporary, "%s.safetensors", qd_component_stem(component->kind)));
	QD_TRY(st, qd_component_init(component, o->common.seed, o->dtype, path, false));
	QD_TRY(st, qd_output_folder_commit(&out));
out:
	json_decref(json);
	qd_output_folder_release(&out);
	return st;
}

/* `*done` is false for a UNet, and for a file that names no class: it is read as a UNet's. */
static enum qd_status make_component(const struct init_options *o, bool *done)
{
	struct qd_component component;
	uint64_t parameters, tensors;
	enum qd_status st = qd_component_config_read(&component, o->config);
	*done = component.kind != QD_COMPONENT_UNET;
	if (!*done)
		return QD_OK;
	if (st == QD_OK)
		st = qd_component_parameters(&component, &parameters, &tensors);
	if (st == QD_OK)
		st = write_component(o, &component);
	return st == QD_OK ? print_summary(o, parameters, tensors) : st;
}

static enum qd_status make(const struct init_options *o)
{
	bool done = false;
	enum qd_status st = o->config != NULL ? make_component(o, &done) : QD_OK;
	return st == QD_OK && !done ? make_model(o) : st;
}

int qd_cmd_init(int argc, char **argv)
{
	struct init_options o = { .arch = -1, .dtype = QD_F32 };
	enum qd_status st;

	qd_parse(argc, argv, doc, &(struct qd_options){ table, &o }, 1,
		QD_COMMON_OUTPUT | QD_COMMON_JSON | QD_COMMON_SEED | QD_COMMON_DRY_RUN, QD_COMMON_OUTPUT, &o.common);
	if (o.arch < 0 && o.config == NULL)
		qd_usage("needs --arch or --config");
	if (o.arch >= 0 && o.config != NULL)
		qd_usage("needs only one of --arch and --config");
	QD_TRY(st, qd_check_apart(&o.common, o.common.output, &o.config, 1));
	st = o.lora > 0 ? make_adapter(&o) : make(&o);
out:
	qd_common_release(&o.common);
	return qd_finish("init", st);
}
