/* quad calib: calibration data from a folder of images with captions, or from arrays. */
#include "cmd/cmd.h"

#include <stdio.h>
#include <string.h>

static const char doc[] =
	"Make calibration data from images with captions, or from arrays.\v"
	"FOLDER holds images (PNG, JPEG) and metadata.jsonl, a JSON object per line: file_name, text, for inpainting models "
	"mask_file_name (white is to be made), for editing models condition_file_name. The model's folder has a VAE and text "
	"encoders then. Or it is a .safetensors, an .npz or a folder of .npy with latents (and condition) or sample and timestep, "
	"and encoder_hidden_states. A killed run goes on from OUTPUT.partial and gives the same bytes.";

enum { KEY_MODEL = 0x400, KEY_DATA, KEY_COUNT, KEY_SIZE, KEY_TEXT, KEY_MODE, KEY_TRAJECTORY, KEY_GUIDANCE, KEY_DTYPE };
static const struct argp_option options[] = {
	{ "model", KEY_MODEL, "DIR", 0, "pipeline folder (as --base)", 1 },
	{ "data", KEY_DATA, "FOLDER|FILE", 0, "images with metadata.jsonl, or arrays", 1 },
	{ "count", KEY_COUNT, "N", 0, "samples (default: one per image; more go round)", 1 },
	{ "size", KEY_SIZE, "N|WxH", 0, "of images: resized and cut to it (default: the model's)", 1 },
	{ "text-column", KEY_TEXT, "NAME", 0, "field of metadata.jsonl with the caption (default text)", 1 },
	{ "mode", KEY_MODE, NULL, 0, "take the mean of the VAE's distribution instead of a draw", 1 },
	{ "trajectory", KEY_TRAJECTORY, "NAME:STEPS", 0,
		"samples along the model's own way from noise, with the adapters in turn, as euler:8, ddim:20 or olss:FILE "
		"(default: noised latents)",
		1 },
	{ "guidance", KEY_GUIDANCE, "G", 0, "classifier-free guidance of trajectories (default 1: none)", 1 },
	{ "dtype", KEY_DTYPE, "f32|f16", 0, "of what is written (default f32)", 1 },
	{ 0 },
};
static const char *const dtypes[] = { "f32", "f16", NULL };

struct calib {
	struct qd_prepare_options options;
	const char *model;
};

/* "512" or "768x512", width first. */
static void parse_size(struct qd_prepare_options *o, const char *arg, struct argp_state *state)
{
	const char *x = strchr(arg, 'x');
	char width[16];

	snprintf(width, sizeof(width), "%.*s", x != NULL ? (int)(x - arg) : 15, arg);
	o->width = qd_parse_int(state, "size", width, 1, 16384);
	o->height = x != NULL ? qd_parse_int(state, "size", x + 1, 1, 16384) : o->width;
}

static void parse_trajectory(struct qd_prepare_options *o, const char *arg, struct argp_state *state)
{
	static const char *const names[] = { "ddim", "euler", "lcm", "olss:FILE", NULL };

	o->trajectory = arg;
	if (qd_starts_with(arg, "olss:"))
		return;
	o->trajectory_steps = 8;
	o->trajectory = qd_parse_trajectory(state, arg, names, &o->trajectory_steps);
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct calib *calib = state->input;
	struct qd_prepare_options *o = &calib->options;

	switch (key) {
	case KEY_MODEL:
		calib->model = arg;
		return 0;
	case KEY_DATA:
		o->data = arg;
		return 0;
	case KEY_COUNT:
		o->count = qd_parse_int(state, "count", arg, 1, INT32_MAX);
		return 0;
	case KEY_SIZE:
		parse_size(o, arg, state);
		return 0;
	case KEY_TEXT:
		o->text_column = arg;
		return 0;
	case KEY_MODE:
		o->mode = true;
		return 0;
	case KEY_TRAJECTORY:
		parse_trajectory(o, arg, state);
		return 0;
	case KEY_GUIDANCE:
		o->guidance = qd_parse_number(state, "guidance", arg, 0, 1000);
		return 0;
	case KEY_DTYPE:
		o->dtype = qd_parse_choice(state, "dtype", arg, dtypes) == 0 ? QD_F32 : QD_F16;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static enum qd_status print(const struct qd_prepare_options *o, const struct qd_prepare_result *r, bool as_json)
{
	if (as_json)
		return qd_print_json(json_pack("{s:i,s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "schema", 1, "output", o->output, "samples",
			(json_int_t)r->samples, "rows", (json_int_t)r->rows, "prompts", (json_int_t)r->prompts, "height",
			(json_int_t)r->height, "width", (json_int_t)r->width, "tokens", (json_int_t)r->tokens, "kept",
			(json_int_t)r->kept));
	printf("%s%lld samples of %lld rows, latents %lld x %lld, %lld tokens: %s\n", o->dry_run ? "would make " : "",
		(long long)r->samples, (long long)r->rows, (long long)r->height, (long long)r->width, (long long)r->tokens,
		o->output);
	return QD_OK;
}

static enum qd_status run(const struct qd_prepare_options *o, const struct qd_common *common)
{
	struct qd_opened opened = { 0 };
	struct qd_prepare_result result;
	enum qd_status st;

	QD_TRY(st, qd_open_all(&opened, common));
	QD_TRY(st, qd_prepare_data(&opened.model, &opened.modules, opened.adapter_list, opened.n_adapters, o, &result));
	qd_progress_clear();
	st = print(o, &result, common->json);
out:
	qd_opened_release(&opened);
	return st;
}

int qd_cmd_calib(int argc, char **argv)
{
	struct calib calib = { .options = { .text_column = "text", .guidance = 1, .dtype = QD_F32 } };
	struct qd_common common = { 0 };
	enum qd_status st;

	qd_parse(argc, argv, doc, NULL,
		QD_OPT_BASE | QD_OPT_ADAPTER | QD_OPT_OUTPUT | QD_OPT_JSON | QD_OPT_SEED | QD_OPT_THREADS | QD_OPT_DRY_RUN, options,
		parse, &calib, &common);
	common.base = calib.model != NULL ? calib.model : common.base;
	qd_need("calib", "--model", common.base);
	qd_need("calib", "--data", calib.options.data);
	qd_need("calib", "-o", common.output);
	calib.options.output = common.output;
	calib.options.force = common.force;
	calib.options.dry_run = common.dry_run;
	calib.options.seed = common.seed;
	st = run(&calib.options, &common);
	qd_common_release(&common);
	return qd_finish("calib", st);
}
