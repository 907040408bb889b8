/* quad calib: calibration data from a folder of images with captions, or from arrays. */
#include "cmd/cmd.h"
#include "lib/sampler/sampler.h"

#include <stdio.h>
#include <string.h>

static const char doc[] =
	"Make calibration data from images with captions, or from arrays.\v"
	"FOLDER holds images (PNG, JPEG) and metadata.jsonl, a JSON object per line: file_name, text, for inpainting models "
	"mask_file_name (white is to be made), for editing models condition_file_name. The model's folder has a VAE and text "
	"encoders then. Or it is a .safetensors, an .npz or a folder of .npy with latents (and condition) or sample and timestep, "
	"and encoder_hidden_states. Samples are spread over prompts, adapters and timesteps, however many are asked for. A killed "
	"run goes on from OUTPUT.partial and gives the same bytes.";

struct calib {
	struct qd_prepare_options options;
	struct qd_common common;
};

/* "512" or "768x512", width first. */
static enum qd_status parse_size(void *into, const struct qd_option *option, char *arg)
{
	struct qd_prepare_options *o = &((struct calib *)into)->options;
	char *x = strchr(arg, 'x');
	enum qd_status st;

	if (x != NULL)
		*x = '\0';
	QD_TRY(st, qd_option_int(option, arg, 1, 16384, &o->width));
	QD_TRY(st, qd_option_int(option, x != NULL ? x + 1 : arg, 1, 16384, &o->height));
out:
	return st;
}

static enum qd_status parse_trajectory(void *into, const struct qd_option *option, char *arg)
{
	struct qd_prepare_options *o = &((struct calib *)into)->options;

	o->trajectory_steps = 8;
	return qd_parse_trajectory(option, arg, &o->trajectory, &o->trajectory_steps);
}

#define FIELD(field) QD_FIELD(struct calib, field)
static const int dtypes[] = { QD_F32, QD_F16, QD_VALUES_END };
static const struct qd_option table[] = {
	{ "model", QD_OPT_TEXT, FIELD(common.base), .untold = true, .required = true, .arg = "DIR",
		.help = "pipeline folder, as --base" },
	{ "data", QD_OPT_TEXT, FIELD(options.data), .untold = true, .required = true, .arg = "FOLDER|FILE",
		.help = "images with metadata.jsonl, or arrays" },
	{ "count", QD_OPT_INT, FIELD(options.count), .low = 1, .high = INT32_MAX, .arg = "N", .help = "samples; more go round",
		.absent = "one per image" },
	{ "size", QD_OPT_CALL, .call = parse_size, .arg = "N|WxH", .help = "of images: resized and cut to it",
		.absent = "the model's" },
	{ "text-column", QD_OPT_TEXT, FIELD(options.text_column), .arg = "NAME",
		.help = "field of metadata.jsonl with the caption" },
	{ "mode", QD_OPT_FLAG, FIELD(options.mode), .help = "take the mean of the VAE's distribution instead of a draw" },
	{ "trajectory", QD_OPT_CALL, .call = parse_trajectory, .name_at = qd_scheduler_name, .arg = "NAME:STEPS",
		.help = "samples along the model's own way from noise, with every adapter, as euler:8; NAME",
		.absent = "noised latents" },
	{ "guidance", QD_OPT_NUMBER, FIELD(options.guidance), .to = 1000, .arg = "G",
		.help = "classifier-free guidance of trajectories; 1 for none" },
	{ "dtype", QD_OPT_DTYPE, FIELD(options.dtype), .values = dtypes, .help = "of what is written" },
	{ 0 },
};

static enum qd_status print(const struct qd_prepare_options *o, const struct qd_prepare_result *r, size_t n_adapters, bool as_json)
{
	if (as_json)
		return qd_print_json(json_pack("{s:i,s:s,s:I,s:I,s:I,s:I,s:I,s:f,s:f,s:I,s:I,s:I,s:I}", "schema", 1, "output",
			o->output, "samples", (json_int_t)r->samples, "rows", (json_int_t)r->rows, "prompts",
			(json_int_t)r->prompts, "adapters", (json_int_t)r->adapters, "timesteps", (json_int_t)r->timesteps,
			"first_timestep", r->first_timestep, "last_timestep", r->last_timestep, "height", (json_int_t)r->height,
			"width", (json_int_t)r->width, "tokens", (json_int_t)r->tokens, "kept", (json_int_t)r->kept));
	qd_print("%s%lld samples of %lld rows, latents %lld x %lld, %lld tokens: %s\n", o->dry_run ? "would make " : "",
		(long long)r->samples, (long long)r->rows, (long long)r->height, (long long)r->width, (long long)r->tokens,
		o->output);
	qd_print("%lld prompt%s, ", (long long)r->prompts, r->prompts == 1 ? "" : "s");
	if (n_adapters > 0)
		qd_print("%lld of %zu adapters, ", (long long)r->adapters, n_adapters);
	qd_print("%lld timestep%s from %g to %g\n", (long long)r->timesteps, r->timesteps == 1 ? "" : "s", r->first_timestep,
		r->last_timestep);
	return QD_OK;
}

static enum qd_status run(const struct qd_prepare_options *o, const struct qd_common *common)
{
	struct qd_opened opened = { 0 };
	struct qd_prepare_result result;
	enum qd_status st;

	QD_TRY(st, qd_check_apart(common, common->output, &o->data, 1));
	QD_TRY(st, qd_open_all(&opened, common));
	QD_TRY(st, qd_prepare_data(&opened.model, &opened.modules, opened.adapter_list, opened.n_adapters, o, &result));
	qd_progress_clear();
	st = print(o, &result, opened.n_adapters, common->json);
out:
	qd_opened_release(&opened);
	return st;
}

int qd_cmd_calib(int argc, char **argv)
{
	struct calib calib = { .options = { .text_column = "text", .guidance = 1, .dtype = QD_F32 } };
	struct qd_common *common = &calib.common;
	enum qd_status st;

	qd_parse(argc, argv, doc, &(struct qd_options){ table, &calib }, 1,
		QD_COMMON_BASE | QD_COMMON_ADAPTER | QD_COMMON_OUTPUT | QD_COMMON_JSON | QD_COMMON_SEED | QD_COMMON_THREADS |
			QD_COMMON_DRY_RUN,
		QD_COMMON_OUTPUT, common);
	calib.options.output = common->output;
	calib.options.force = common->force;
	calib.options.dry_run = common->dry_run;
	calib.options.seed = common->seed;
	calib.options.provenance = &common->provenance;
	st = run(&calib.options, common);
	qd_common_release(common);
	return qd_finish("calib", st);
}
