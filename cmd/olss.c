/* quad olss: fits a sampler of a few steps to a model's own runs of many. */
#include "cmd/cmd.h"
#include "export/export.h"

#include <stdio.h>

static const char doc[] =
	"Fit a sampler of a few steps to a model's own runs of many (OLSS).\v"
	"The reference runs start from every sample of the inputs file; a dozen is enough. The result serves this model under this "
	"guidance: quad run --scheduler olss:FILE. What is printed is measured on the same samples: the mean squared difference of "
	"a latent from the reference's, with the fitted steps and with as many of the reference's own.";

enum { KEY_INPUTS = 0x400, KEY_STEPS, KEY_REFERENCE, KEY_GUIDANCE, KEY_LIMIT, KEY_BATCH, KEY_HEIGHT, KEY_WIDTH };
static const struct argp_option options[] = {
	{ "inputs", KEY_INPUTS, "FILE", 0, "what the samples are told, as for quad run", 1 },
	{ "steps", KEY_STEPS, "N", 0, "of the fitted sampler (default 8)", 1 },
	{ "reference-steps", KEY_REFERENCE, "N", 0, "DDIM steps that they replace (default 100)", 1 },
	{ "guidance", KEY_GUIDANCE, "G", 0, "classifier-free guidance, as for quad run (default 1: none)", 1 },
	{ "limit", KEY_LIMIT, "N", 0, "only the first N samples", 1 },
	{ "batch", KEY_BATCH, "N", 0, "samples per call (default: at most 8)", 1 },
	{ "height", KEY_HEIGHT, "N", 0, "of the latents, where the inputs do not tell", 1 },
	{ "width", KEY_WIDTH, "N", 0, "of the latents", 1 },
	{ 0 },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct qd_fit_sampler_options *fit = state->input;
	struct qd_sampling_options *o = &fit->reference;

	switch (key) {
	case KEY_INPUTS:
		o->inputs = arg;
		return 0;
	case KEY_STEPS:
		fit->steps = (int)qd_parse_int(state, "steps", arg, 1, 999);
		return 0;
	case KEY_REFERENCE:
		o->steps = (int)qd_parse_int(state, "reference-steps", arg, 1, 1000);
		return 0;
	case KEY_GUIDANCE:
		o->guidance = qd_parse_number(state, "guidance", arg, 0, 1000);
		return 0;
	case KEY_LIMIT:
		o->limit = qd_parse_int(state, "limit", arg, 1, INT32_MAX);
		return 0;
	case KEY_BATCH:
		o->batch = qd_parse_int(state, "batch", arg, 1, 4096);
		return 0;
	case KEY_HEIGHT:
		o->height = qd_parse_int(state, "height", arg, 1, 16384);
		return 0;
	case KEY_WIDTH:
		o->width = qd_parse_int(state, "width", arg, 1, 16384);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static enum qd_status print(const struct qd_fit_sampler_options *fit, const struct qd_fit_sampler_result *r, bool as_json)
{
	if (as_json)
		return qd_print_json(json_pack("{s:i,s:s,s:I,s:i,s:i,s:f,s:f,s:f,s:f}", "schema", 1, "output", fit->output,
			"samples", (json_int_t)r->samples, "steps", r->steps, "reference_steps", fit->reference.steps, "guidance",
			fit->reference.guidance, "error", r->error, "plain_error", r->plain, "energy", r->energy));
	printf("%d steps for %d on %lld samples: mean squared error %.3g, %d plain steps %.3g, latents' mean square %.3g: %s\n",
		r->steps, fit->reference.steps, (long long)r->samples, r->error, r->steps, r->plain, r->energy, fit->output);
	return QD_OK;
}

int qd_cmd_olss(int argc, char **argv)
{
	struct qd_fit_sampler_options fit = { .reference = { .scheduler = "ddim", .steps = 100, .guidance = 1 }, .steps = 8 };
	struct qd_fit_sampler_result result;
	struct qd_common common = { 0 };
	enum qd_status st;

	qd_parse(argc, argv, doc, NULL, QD_OPT_BASE | QD_OPT_ADAPTER | QD_OPT_OUTPUT | QD_OPT_JSON | QD_OPT_SEED | QD_OPT_THREADS,
		options, parse, &fit, &common);
	qd_need("olss", "--base", common.base);
	qd_need("olss", "--inputs", fit.reference.inputs);
	qd_need("olss", "-o", common.output);
	fit.reference.seed = common.seed;
	fit.reference.engine.base = common.base;
	fit.reference.engine.threads = common.threads;
	fit.reference.engine.adapter = common.n_adapters > 0 ? common.adapters[0] : NULL;
	fit.output = common.output;
	fit.force = common.force;
	if (common.n_adapters > 1)
		st = qd_fail(QD_EINPUT, "one sample has one adapter, %zu given: join files as NAME=PATH+PATH", common.n_adapters);
	else
		st = qd_fit_sampler(&fit, &result);
	if (st == QD_OK)
		st = print(&fit, &result, common.json);
	qd_common_release(&common);
	return qd_finish("olss", st);
}
