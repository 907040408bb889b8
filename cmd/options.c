/*
 * Options that mean the same in every command, and how a command ends.
 */
#include "cmd/cmd.h"
#include "lib/math/math.h"

#include <errno.h>
#include <malloc.h>
#include <math.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

enum {
	KEY_BASE = 0x200,
	KEY_ADAPTER,
	KEY_CALIB,
	KEY_PROFILE,
	KEY_FORCE,
	KEY_JSON,
	KEY_SEED,
	KEY_THREADS,
	KEY_DEVICE,
	KEY_DRY_RUN,
	GROUP_SHARED = 10, /* behind the command's own options in the help */
	MAX_OPTIONS = 128,
	MAX_THREADS = 1024,
};

static const struct shared {
	unsigned bit; /* of the mask; 0: always */
	struct argp_option option;
} shared[] = {
	{ QD_OPT_BASE, { "base", KEY_BASE, "PATH", 0, "model: a diffusers folder, a checkpoint or an ONNX file", GROUP_SHARED } },
	{ QD_OPT_ADAPTER, { "adapter", KEY_ADAPTER, "[NAME=]PATH[@SCALE]", 0,
				  "adapter file or folder and its strength; may be repeated", GROUP_SHARED } },
	{ QD_OPT_CALIB, { "calib", KEY_CALIB, "FILE", 0, "calibration data: safetensors, .npz or a folder of .npy; may be repeated",
				GROUP_SHARED } },
	{ QD_OPT_PROFILE, { "profile", KEY_PROFILE, "FILE", 0, "profile.json with the shared encodings", GROUP_SHARED } },
	{ QD_OPT_OUTPUT, { "output", 'o', "PATH", 0, "where the result goes", GROUP_SHARED } },
	{ QD_OPT_OUTPUT, { "force", KEY_FORCE, NULL, 0, "replace an existing result", GROUP_SHARED } },
	{ QD_OPT_JSON, { "json", KEY_JSON, NULL, 0, "print one JSON document", GROUP_SHARED } },
	{ QD_OPT_SEED, { "seed", KEY_SEED, "N", 0, "seed of random numbers (0)", GROUP_SHARED } },
	{ QD_OPT_THREADS, { "threads", KEY_THREADS, "N", 0, "threads to compute with (one per processor)", GROUP_SHARED } },
	{ QD_OPT_THREADS, { "device", KEY_DEVICE, "cpu|cuda[:I]", 0, "where to compute (cpu)", GROUP_SHARED } },
	{ QD_OPT_DRY_RUN, { "dry-run", KEY_DRY_RUN, NULL, 0, "check everything, write nothing", GROUP_SHARED } },
	{ 0, { "quiet", 'q', NULL, 0, "no progress, no warnings", GROUP_SHARED } },
	{ 0, { "verbose", 'v', NULL, 0, "say more; twice for still more", GROUP_SHARED } },
};

/* ---- strict values ---- */

int64_t qd_parse_int(struct argp_state *state, const char *option, const char *arg, int64_t low, int64_t high)
{
	char *end = NULL;
	errno = 0;
	long long value = strtoll(arg, &end, 10);
	if (errno || end == arg || *end || value < low || value > high)
		argp_error(state, "--%s is '%s', needs a whole number from %lld to %lld", option, arg, (long long)low,
			(long long)high);
	return value;
}

double qd_parse_number(struct argp_state *state, const char *option, const char *arg, double low, double high)
{
	char *end = NULL;
	double value = strtod(arg, &end);
	if (end == arg || *end || !(value >= low && value <= high))
		argp_error(state, "--%s is '%s', needs a number from %g to %g", option, arg, low, high);
	return value;
}

int qd_parse_choice(struct argp_state *state, const char *option, const char *arg, const char *const *names)
{
	char list[256] = "";
	for (int i = 0; names[i]; i++) {
		size_t used = strlen(list);
		if (strcmp(arg, names[i]) == 0)
			return i;
		snprintf(list + used, sizeof(list) - used, "%s%s", i ? ", " : "", names[i]);
	}
	argp_error(state, "--%s is '%s', needs one of %s", option, arg, list);
	return -1;
}

const char *qd_parse_trajectory(struct argp_state *state, const char *arg, const char *const *names, int *steps)
{
	const char *colon = strchr(arg, ':');
	size_t n = colon != NULL ? (size_t)(colon - arg) : strlen(arg);
	char name[16];

	snprintf(name, sizeof(name), "%.*s", (int)(n < sizeof(name) ? n : sizeof(name) - 1), arg);
	if (colon != NULL)
		*steps = (int)qd_parse_int(state, "trajectory", colon + 1, 1, 1000);
	return names[qd_parse_choice(state, "trajectory", name, names)];
}

/* ---- parsing ---- */

struct context {
	struct qd_common *common;
	unsigned mask;
	bool positional;
	error_t (*parse)(int key, char *arg, struct argp_state *state);
	void *own;
};

static error_t add(const char ***list, size_t *n, size_t *cap, const char *text)
{
	enum qd_status st;
	QD_PUSH(st, *list, *n, *cap, text);
out:
	return st == QD_OK ? 0 : ENOMEM;
}

/* Options with a value to keep. ARGP_ERR_UNKNOWN for all others. */
static error_t parse_value(int key, char *arg, struct argp_state *state, struct qd_common *common)
{
	switch (key) {
	case KEY_BASE:
		common->base = arg;
		return 0;
	case KEY_ADAPTER:
		return add(&common->adapters, &common->n_adapters, &common->cap_adapters, arg);
	case KEY_CALIB:
		return add(&common->calib, &common->n_calib, &common->cap_calib, arg);
	case KEY_PROFILE:
		common->profile = arg;
		return 0;
	case 'o':
		common->output = arg;
		return 0;
	case KEY_SEED:
		common->seed = (uint64_t)qd_parse_int(state, "seed", arg, 0, INT64_MAX);
		return 0;
	case KEY_THREADS:
		common->threads = (int)qd_parse_int(state, "threads", arg, 1, MAX_THREADS);
		return 0;
	case KEY_DEVICE:
		common->device = arg;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static error_t parse_switch(int key, struct qd_common *common)
{
	switch (key) {
	case KEY_FORCE:
		common->force = true;
		return 0;
	case KEY_JSON:
		common->json = true;
		return 0;
	case KEY_DRY_RUN:
		common->dry_run = true;
		return 0;
	case 'q':
		common->quiet = true;
		return 0;
	case 'v':
		common->verbose++;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static error_t parse_own(int key, char *arg, struct argp_state *state)
{
	struct context *context = state->input;
	if (key == ARGP_KEY_ARG && !context->positional)
		argp_error(state, "unexpected argument '%s'", arg);
	if (!context->parse)
		return ARGP_ERR_UNKNOWN;
	state->input = context->own;
	error_t error = context->parse(key, arg, state);
	state->input = context;
	return error;
}

static error_t parse_any(int key, char *arg, struct argp_state *state)
{
	struct context *context = state->input;
	error_t error = parse_value(key, arg, state, context->common);
	if (error == ARGP_ERR_UNKNOWN)
		error = parse_switch(key, context->common);
	if (error == ARGP_ERR_UNKNOWN && (context->mask & QD_OPT_QUANT))
		error = qd_quant_parse(key, arg, state, &context->common->quant);
	return error == ARGP_ERR_UNKNOWN ? parse_own(key, arg, state) : error;
}

static size_t append(struct argp_option *list, size_t n, const struct argp_option *more)
{
	for (size_t i = 0; more && (more[i].name || more[i].key || more[i].doc) && n + 1 < MAX_OPTIONS; i++)
		list[n++] = more[i];
	return n;
}

/* One per processor that this process may use. */
static int default_threads(void)
{
	cpu_set_t set;
	int n = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
	return n > 0 ? n : 1;
}

/*
 * A run makes and frees the same tensors over and over. By default the C library gives such blocks back to the system each time,
 * and every page is then cleared anew: a tenth of a training step.
 */
static void keep_freed_memory(void)
{
	mallopt(M_MMAP_THRESHOLD, 32 << 20);
	mallopt(M_TRIM_THRESHOLD, 1 << 30);
	mallopt(M_TOP_PAD, 64 << 20);
}

static enum qd_status apply(const struct qd_common *common, unsigned mask)
{
	int threads = common->threads ? common->threads : default_threads();
	qd_progress_install(common->quiet, common->verbose);
	/* libtorch and the kernels call BLAS from within their own threads. OpenBLAS's pool under theirs waits in sched_yield:
	 * sampling took 1.6 times as long with it. */
	qd_set_blas_threads(mask & QD_OPT_THREADS ? 1 : threads);
	if (!(mask & QD_OPT_THREADS))
		return QD_OK;
	keep_freed_memory();
	enum qd_status st = qt_set_threads(threads);
	return st == QD_OK && common->device ? qt_set_device(common->device) : st;
}

void qd_parse(int argc, char **argv, const char *doc, const char *args_doc, unsigned mask, const struct argp_option *options,
	error_t (*parse)(int key, char *arg, struct argp_state *state), void *own, struct qd_common *common)
{
	struct argp_option list[MAX_OPTIONS] = { { 0 } };
	struct context context = { common, mask, args_doc != NULL, parse, own };
	struct argp argp = { .options = list, .parser = parse_any, .args_doc = args_doc, .doc = doc };
	*common = (struct qd_common){ .quant = qd_quant_options_default() };
	size_t n = append(list, 0, options);
	if (mask & QD_OPT_QUANT)
		n = append(list, n, qd_quant_argp_options);
	for (size_t i = 0; i < QD_COUNT(shared) && n + 1 < MAX_OPTIONS; i++) {
		if (!shared[i].bit || (mask & shared[i].bit))
			list[n++] = shared[i].option;
	}
	error_t error = argp_parse(&argp, argc, argv, 0, NULL, &context);
	if (error) {
		fprintf(stderr, "%s: %s\n", argv[0], strerror(error));
		exit(QD_EXIT_USAGE);
	}
	enum qd_status st = apply(common, mask);
	if (st != QD_OK) {
		fprintf(stderr, "%s: %s\n", argv[0], qd_message());
		exit(QD_EXIT_FAILED);
	}
}

void qd_common_release(struct qd_common *common)
{
	free(common->adapters);
	free(common->calib);
	*common = (struct qd_common){ 0 };
}

void qd_need(const char *command, const char *option, const void *value)
{
	if (value)
		return;
	fprintf(stderr, "quad %s: needs %s; see 'quad help %s'\n", command, option, command);
	exit(QD_EXIT_USAGE);
}

/* ---- ending ---- */

int qd_finish(const char *command, enum qd_status st)
{
	qd_progress_clear();
	if (st == QD_OK)
		return QD_EXIT_DONE;
	fflush(stdout);
	fprintf(stderr, "quad %s: %s\n", command, qd_message());
	return st == QD_ECHECK ? QD_EXIT_NO : QD_EXIT_FAILED;
}

enum qd_status qd_print_json(json_t *value)
{
	enum qd_status st = QD_OK;
	if (qd_json_starved() || !value) {
		json_decref(value);
		return qd_fail(QD_ENOMEM, "out of memory");
	}
	qd_progress_clear();
	if (json_dumpf(value, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(17)) != 0 || putchar('\n') == EOF || fflush(stdout) != 0)
		st = qd_fail(QD_EIO, "cannot write to standard output: %s", strerror(errno));
	json_decref(value);
	return st;
}
