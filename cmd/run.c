/* quad run: samples with an adapter, in float, under a profile, or from an export; compares two engines step by step. */
#include "cmd/sampling_options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEY_SCHEDULER = 0x400, KEY_STEPS, KEY_ENGINE, KEY_ORT_LIB, KEY_ORT_PROFILE, KEY_TRACE, KEY_CHECK_TRACE, KEY_CHECK };

static const char *const schedulers[] = { "ddim", "euler", "lcm", "olss:FILE", NULL };
static const char *const engines[] = { "torch", "ort", NULL };

static const struct argp_option run_options[] = { QD_SAMPLING_OPTIONS,
	{ "scheduler", KEY_SCHEDULER, "NAME", 0, "ddim, euler (default), lcm, or olss:FILE, a sampler made by quad olss", 1 },
	{ "steps", KEY_STEPS, "N", 0, "steps (default 8, or those of the FILE)", 1 },
	{ "engine", KEY_ENGINE, "NAME", 0, "what executes an export: torch (default) or ort", 1 },
	{ "ort-lib", KEY_ORT_LIB, "FILE", 0,
		"the ONNX Runtime library (default: $QUAD_ORT_LIB, the system's, or beside the program)", 1 },
	{ "profile-ort", KEY_ORT_PROFILE, "PREFIX", 0, "let ONNX Runtime write operator times to PREFIX_*.json", 1 },
	{ "trace", KEY_TRACE, "FILE", 0, "store every step's model input and output", 1 },
	{ "check-trace", KEY_CHECK_TRACE, "FILE", 0,
		"instead of sampling, feed the inputs of a stored trace and compare the outputs", 1 },
	{ "check", KEY_CHECK, "TOL", 0,
		"largest difference allowed, as a part of the output's range, which is its encoding's where the trace was "
		"simulated (default 0.001)",
		1 },
	{ 0 } };

static const char doc[] =
	"Sample with an adapter: float, simulated under a profile, or from an export.\v"
	"--base is a model, an export folder or an ONNX file of a denoiser; of the last two --adapter is a name in the folder's "
	"adapters/, or [NAME=]FILE of its LoRA inputs.";

struct run {
	struct qd_sampling_options options;
	const char *check_trace;
	double tolerance;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct run *run = state->input;
	switch (key) {
	case KEY_SCHEDULER:
		if (!qd_starts_with(arg, "olss:"))
			qd_parse_choice(state, "scheduler", arg, schedulers);
		run->options.scheduler = arg;
		return 0;
	case KEY_STEPS:
		run->options.steps = (int)qd_parse_int(state, "steps", arg, 1, 999);
		return 0;
	case KEY_ENGINE:
		run->options.engine.ort = qd_parse_choice(state, "engine", arg, engines) == 1;
		return 0;
	case KEY_ORT_LIB:
		run->options.engine.ort_library = arg;
		return 0;
	case KEY_ORT_PROFILE:
		run->options.engine.ort_profile = arg;
		return 0;
	case KEY_TRACE:
		run->options.trace = arg;
		return 0;
	case KEY_CHECK_TRACE:
		run->check_trace = arg;
		return 0;
	case KEY_CHECK:
		run->tolerance = qd_parse_number(state, "check", arg, 0, 1e9);
		return 0;
	case ARGP_KEY_END:
		if (run->options.inputs == NULL)
			argp_error(state, "--inputs FILE is needed");
		return 0;
	default:
		return qd_sampling_parse(key, arg, state, &run->options);
	}
}

static enum qd_status sample_to_file(const struct qd_sampling_options *options, const struct qd_common *common)
{
	enum qd_status st;
	struct qd_output probe = { 0 };
	struct qd_tensor latents = { 0 };
	double begin = qd_now();
	int steps = 0;
	/* an output that cannot be written is found out before the work */
	QD_TRY(st, qd_output_open(&probe, common->output, common->force));
	qd_output_release(&probe);
	QD_TRY(st, qd_sampling_steps(options, &steps));
	QD_TRY(st, qd_sample_file(options, &latents));
	QD_TRY(st, qd_safetensors_write(common->output, &latents, 1, NULL, 0, common->force, NULL, NULL));
	double seconds = qd_now() - begin;
	if (common->json) {
		QD_TRY(st, qd_print_json(json_pack("{s:i,s:s,s:I,s:s,s:i,s:f}", "schema", 1, "output", common->output, "samples",
				   (json_int_t)latents.shape.dim[0], "scheduler", options->scheduler, "steps", steps, "seconds",
				   seconds)));
	} else {
		printf("%lld samples, %d %s steps, %.1f s: %s\n", (long long)latents.shape.dim[0], steps, options->scheduler,
			seconds, common->output);
	}
out:
	qd_output_release(&probe);
	qd_tensor_release(&latents);
	return st;
}

static enum qd_status print_trace(const struct qd_trace_step *steps, size_t n, double tolerance, bool as_json)
{
	double largest = n > 0 ? steps[qd_trace_worst(steps, n)].difference : 0;
	json_t *rows;

	if (!as_json) {
		for (size_t i = 0; i < n; i++)
			printf("step %3zu  timestep %7.2f  largest difference %.3e (root mean square %.1e) of the range %.4g\n", i,
				steps[i].timestep, steps[i].difference, steps[i].root_mean_square, steps[i].range);
		printf("largest difference %.3e of the output's range, allowed %g\n", largest, tolerance);
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
	enum qd_status st;
	qd_parse(argc, argv, doc, NULL,
		QD_OPT_BASE | QD_OPT_ADAPTER | QD_OPT_PROFILE | QD_OPT_OUTPUT | QD_OPT_JSON | QD_OPT_SEED | QD_OPT_THREADS,
		run_options, parse, &run, &common);
	run.options.engine.profile = common.profile;
	qd_need("run", "--base", common.base);
	if (run.check_trace == NULL)
		qd_need("run", "-o FILE, or --check-trace FILE,", common.output);
	st = qd_sampling_take(&run.options, &common);
	if (st == QD_OK)
		st = run.check_trace != NULL ? compare_traces(&run, &common) : sample_to_file(&run.options, &common);
	qd_common_release(&common);
	return qd_finish("run", st);
}
