/* quad olss: fits a sampler of a few steps to a model's own runs of many. */
#include "cmd/sampling_options.h"

#include <stdio.h>

static const char doc[] =
	"Fit a sampler of a few steps to a model's own runs of many (OLSS).\v"
	"The reference runs start from every sample of the inputs file; a dozen is enough. The result serves this model under this "
	"guidance: quad run --scheduler olss:FILE. What is printed is measured on the same samples: the mean squared difference of "
	"a latent from the reference's, with the fitted steps and with as many of the reference's own.";

enum { KEY_STEPS = 0x400, KEY_REFERENCE };
static const struct argp_option options[] = {
	QD_SAMPLING_OPTIONS,
	{ "steps", KEY_STEPS, "N", 0, "of the fitted sampler (default 8)", 1 },
	{ "reference-steps", KEY_REFERENCE, "N", 0, "DDIM steps that they replace (default 100)", 1 },
	{ 0 },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct qd_fit_sampler_options *fit = state->input;

	switch (key) {
	case KEY_STEPS:
		fit->steps = (int)qd_parse_int(state, "steps", arg, 1, 999);
		return 0;
	case KEY_REFERENCE:
		fit->reference.steps = (int)qd_parse_int(state, "reference-steps", arg, 1, 1000);
		return 0;
	default:
		return qd_sampling_parse(key, arg, state, &fit->reference);
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
	fit.output = common.output;
	fit.force = common.force;
	st = qd_sampling_take(&fit.reference, &common);
	if (st == QD_OK)
		st = qd_fit_sampler(&fit, &result);
	if (st == QD_OK)
		st = print(&fit, &result, common.json);
	qd_common_release(&common);
	return qd_finish("olss", st);
}
