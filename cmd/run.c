/* quad run: samples with an adapter, in float, under a profile, or from an export; compares two engines step by step. */
#include "cmd/sampling_options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char doc[] =
	"Sample with an adapter: float, simulated under a profile, or from an export.\v"
	"--base is a model, an export folder or an ONNX file of a denoiser; of the last two --adapter is a name in the folder's "
	"adapters/, or [NAME=]FILE of its LoRA inputs.";

struct run {
	struct qd_sampling_options options;
	const char *images, *decode;
	const char *check_trace;
	double tolerance;
};

#define FIELD(field) QD_FIELD(struct run, field)
static const struct qd_option table[] = {
	{ "scheduler", QD_OPT_CHOICE, FIELD(options.scheduler), .name_at = qd_scheduler_name,
		.help = "how to sample; FILE is made by quad olss" },
	{ "steps", QD_OPT_INT, FIELD(options.steps), .low = 1, .high = 999, .arg = "N", .help = "steps",
		.absent = "8, or those of the FILE" },
	{ "engine", QD_OPT_CHOICE, FIELD(options.engine.executor), .names = qd_executor_names, .help = "what executes",
		.absent = "builtin: the engine, for exported files libtorch" },
	{ "ort-lib", QD_OPT_TEXT, FIELD(options.engine.ort_library), .untold = true, .arg = "FILE",
		.help = "the ONNX Runtime library", .absent = "$QUAD_ORT_LIB, the system's, or beside the program" },
	{ "profile-ort", QD_OPT_TEXT, FIELD(options.engine.ort_profile), .untold = true, .arg = "PREFIX",
		.help = "let ONNX Runtime write operator times to PREFIX_*.json" },
	{ "trace", QD_OPT_TEXT, FIELD(options.trace), .untold = true, .arg = "FILE",
		.help = "store every step's model input and output" },
	{ "images", QD_OPT_TEXT, FIELD(images), .untold = true, .arg = "DIR",
		.help = "decode the samples and write them as PNG files" },
	{ "decode", QD_OPT_TEXT, FIELD(decode), .untold = true, .arg = "DIR", .help = "pipeline or VAE whose decoder --images uses",
		.absent = "that of --base" },
	{ "check-trace", QD_OPT_TEXT, FIELD(check_trace), .untold = true, .arg = "FILE",
		.help = "instead of sampling, feed the inputs of a stored trace and compare the outputs" },
	{ "check", QD_OPT_NUMBER, FIELD(tolerance), .untold = true, .to = 1e9, .arg = "TOL",
		.help = "largest difference allowed, as a part of the output's range, which is its encoding's where the trace was "
			"simulated" },
	{ 0 },
};

/* What can fail without a sample fails before them. */
static enum qd_status open_decoder(struct qd_decoder *decoder, const struct run *run, const struct qd_common *common)
{
	const char *path = run->decode != NULL ? run->decode : common->base;
	struct qd_output_folder probe = { 0 };
	enum qd_status st;

	QD_TRY(st, qd_check_apart(common, run->images, &run->decode, 1));
	if (run->decode == NULL && !qd_has_decoder(path))
		QD_TRY(st,
			qd_fail(QD_EINPUT, "'%s' has no decoder, which images need: give --decode with a pipeline that has", path));
	QD_TRY(st, qd_output_folder_open(&probe, run->images, common->force));
	st = qd_decoder_open(decoder, path);
out:
	qd_output_folder_release(&probe);
	return st;
}

static enum qd_status sample_to_file(const struct run *run, const struct qd_common *common)
{
	const struct qd_sampling_options *options = &run->options;
	enum qd_status st;
	struct qd_tensor latents = { 0 }, images = { 0 };
	struct qd_decoder decoder = { 0 };
	double begin = qd_now();
	int steps = 0;
	char *made = NULL;
	const char *metadata[] = { QD_PROVENANCE_KEY, NULL };
	const char *file = strchr(options->scheduler, ':'), *inputs[] = { options->inputs, file != NULL ? file + 1 : NULL };
	QD_TRY(st, qd_check_apart(common, common->output, inputs, QD_COUNT(inputs)));
	QD_TRY(st, qd_check_apart(common, options->trace, inputs, QD_COUNT(inputs)));
	QD_TRY(st, qd_check_output(common, common->output));
	QD_TRY(st, qd_check_output(common, options->trace));
	if (run->images != NULL)
		QD_TRY(st, open_decoder(&decoder, run, common));
	QD_TRY(st, qd_sampling_steps(options, &steps));
	QD_TRY(st, qd_sample_file(options, &latents));
	QD_TRY(st, qd_provenance_text(options->provenance, &made));
	metadata[1] = made;
	QD_TRY(st, qd_safetensors_write(common->output, &latents, 1, metadata, 1, common->force, NULL, NULL));
	if (run->images != NULL) {
		QD_TRY(st, qd_decode(&decoder, &latents, &images));
		QD_TRY(st, qd_write_images(run->images, &images, common->force));
	}
	double seconds = qd_now() - begin;
	if (common->json) {
		QD_TRY(st, qd_print_json(json_pack("{s:i,s:s,s:I,s:s,s:i,s:f}", "schema", 1, "output", common->output, "samples",
				   (json_int_t)latents.shape.dim[0], "scheduler", options->scheduler, "steps", steps, "seconds",
				   seconds)));
	} else {
		qd_print("%lld samples, %d %s steps, %.1f s: %s\n", (long long)latents.shape.dim[0], steps, options->scheduler,
			seconds, common->output);
	}
out:
	free(made);
	qd_decoder_release(&decoder);
	qd_tensor_release(&images);
	qd_tensor_release(&latents);
	return st;
}

static enum qd_status print_trace(const struct qd_trace_step *steps, size_t n, double tolerance, bool as_json)
{
	double largest = n > 0 ? steps[qd_trace_worst(steps, n)].difference : 0;
	json_t *rows;

	if (!as_json) {
		for (size_t i = 0; i < n; i++)
			qd_print("step %3zu  timestep %7.2f  largest difference %.3e (root mean square %.1e) of the range %.4g\n",
				i, steps[i].timestep, steps[i].difference, steps[i].root_mean_square, steps[i].range);
		qd_print("largest difference %.3e of the output's range, allowed %g\n", largest, tolerance);
		return QD_OK;
	}
	rows = json_array();
	for (size_t i = 0; i < n; i++)
		json_array_append_new(
			rows, json_pack("{s:i,s:o,s:o,s:o,s:o}", "step", (int)i, "timestep", qd_finite_json(steps[i].timestep),
				      "difference", qd_finite_json(steps[i].difference), "root_mean_square",
				      qd_finite_json(steps[i].root_mean_square), "range", qd_finite_json(steps[i].range)));
	return qd_print_json(json_pack(
		"{s:i,s:o,s:o,s:f}", "schema", 1, "steps", rows, "largest", qd_finite_json(largest), "tolerance", tolerance));
}

static enum qd_status compare_traces(const struct run *run, const struct qd_common *common)
{
	struct qd_trace_step *steps = NULL;
	size_t n = 0;
	enum qd_status st;

	QD_TRY(st, qd_trace_check(&run->options, run->check_trace, &steps, &n));
	QD_TRY(st, print_trace(steps, n, run->tolerance, common->json));
	QD_TRY(st, qd_trace_verdict(steps, n, run->tolerance));
out:
	free(steps);
	return st;
}

int qd_cmd_run(int argc, char **argv)
{
	struct run run = { .options = { .scheduler = "euler", .guidance = 1 }, .tolerance = 1e-3 };
	struct qd_common common = { 0 };
	const struct qd_options options[] = { { qd_sampling_table, &run.options }, { table, &run } };
	enum qd_status st;

	qd_parse(argc, argv, doc, options, QD_COUNT(options),
		QD_COMMON_BASE | QD_COMMON_ADAPTER | QD_COMMON_PROFILE | QD_COMMON_REFIT | QD_COMMON_OUTPUT | QD_COMMON_JSON |
			QD_COMMON_SEED | QD_COMMON_THREADS,
		QD_COMMON_BASE, &common);
	if (run.check_trace == NULL && common.output == NULL)
		qd_usage("needs -o PATH, or --check-trace FILE");
	run.options.engine.profile = common.profile;
	run.options.engine.refit = common.refit;
	run.options.provenance = &common.provenance;
	qd_sampling_take(&run.options, &common);
	st = run.check_trace != NULL ? compare_traces(&run, &common) : sample_to_file(&run, &common);
	qd_common_release(&common);
	return qd_finish("run", st);
}
