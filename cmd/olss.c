/* quad olss: fits a sampler of a few steps to a model's own runs of many. */
#include "cmd/sampling_options.h"

#include <stdio.h>

static const char doc[] =
	"Fit a sampler of a few steps to a model's own runs of many (OLSS).\v"
	"The reference runs start from every sample of the inputs file; a dozen is enough. The result serves this model under this "
	"guidance: quad run --scheduler olss:FILE. What is printed is measured on the same samples: the mean squared difference of "
	"a latent from the reference's, with the fitted steps and with as many of the reference's own.";

#define FIELD(field) QD_FIELD(struct qd_fit_sampler_options, field)
static const struct qd_option table[] = {
	{ "steps", QD_OPT_INT, FIELD(steps), .low = 1, .high = 999, .arg = "N", .help = "of the fitted sampler" },
	{ "reference-steps", QD_OPT_INT, FIELD(reference.steps), .low = 1, .high = 1000, .arg = "N",
		.help = "DDIM steps that they replace" },
	{ 0 },
};

static enum qd_status print(const struct qd_fit_sampler_options *fit, const struct qd_fit_sampler_result *r, bool as_json)
{
	if (as_json)
		return qd_print_json(json_pack("{s:i,s:s,s:I,s:i,s:i,s:f,s:f,s:f,s:f}", "schema", 1, "output", fit->output,
			"samples", (json_int_t)r->samples, "steps", r->steps, "reference_steps", fit->reference.steps, "guidance",
			fit->reference.guidance, "error", r->error, "plain_error", r->plain, "energy", r->energy));
	qd_print("%d steps for %d on %lld samples: mean squared error %.3g, %d plain steps %.3g, latents' mean square %.3g: %s\n",
		r->steps, fit->reference.steps, (long long)r->samples, r->error, r->steps, r->plain, r->energy, fit->output);
	return QD_OK;
}

int qd_cmd_olss(int argc, char **argv)
{
	struct qd_fit_sampler_options fit = { .reference = { .scheduler = "ddim", .steps = 100, .guidance = 1 }, .steps = 8 };
	struct qd_fit_sampler_result result;
	struct qd_common common = { 0 };
	const struct qd_options options[] = { { qd_sampling_table, &fit.reference }, { table, &fit } };
	enum qd_status st;

	qd_parse(argc, argv, doc, options, QD_COUNT(options),
		QD_COMMON_BASE | QD_COMMON_ADAPTER | QD_COMMON_OUTPUT | QD_COMMON_JSON | QD_COMMON_SEED | QD_COMMON_THREADS,
		QD_COMMON_BASE | QD_COMMON_OUTPUT, &common);
	fit.output = common.output;
	fit.force = common.force;
	qd_sampling_take(&fit.reference, &common);
	QD_TRY(st, qd_check_apart(&common, common.output, &fit.reference.inputs, 1));
	QD_TRY(st, qd_fit_sampler(&fit, &result));
	st = print(&fit, &result, common.json);
out:
	qd_common_release(&common);
	return qd_finish("olss", st);
}
