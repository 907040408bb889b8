/*
 * What commands have in common: their options, and how they end.
 */
#include "cmd/cmd.h"
#include "version.h"

#include <assert.h>
#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_THREADS = 1024 };

static const char *const devices[] = { "cpu", "cuda", "cuda:I", NULL };

#define FIELD(field) QD_FIELD(struct qd_common, field)
/* What a command reads, before its own options in the help. */
static const struct qd_option first[] = {
	{ "base", QD_OPT_TEXT, FIELD(base), .untold = true, .bit = QD_COMMON_BASE, .arg = "PATH",
		.help = "model: a diffusers folder, a checkpoint or an ONNX file" },
	{ "adapter", QD_OPT_TEXTS, FIELD(adapters), .untold = true, .bit = QD_COMMON_ADAPTER, .arg = "[NAME=]PATH[@SCALE]",
		.help = "adapter file or folder and its strength, several joined as PATH+PATH; may be repeated" },
	{ "profile", QD_OPT_TEXT, FIELD(profile), .untold = true, .bit = QD_COMMON_PROFILE, .arg = "FILE",
		.help = "profile.json with the shared encodings" },
	{ "refit", QD_OPT_FLAG, FIELD(refit), .bit = QD_COMMON_REFIT,
		.help = "align an adapter that was distilled for another profile to this one" },
	{ 0 },
};
/* What it writes and how, behind them. */
static const struct qd_option last[] = {
	{ "output", QD_OPT_TEXT, FIELD(output), .letter = 'o', .untold = true, .bit = QD_COMMON_OUTPUT, .arg = "PATH",
		.help = "where the result goes" },
	{ "force", QD_OPT_FLAG, FIELD(force), .untold = true, .bit = QD_COMMON_OUTPUT | QD_COMMON_FORCE,
		.help = "replace an existing result" },
	{ "dry-run", QD_OPT_FLAG, FIELD(dry_run), .untold = true, .bit = QD_COMMON_DRY_RUN,
		.help = "check everything, write nothing" },
	{ "json", QD_OPT_FLAG, FIELD(json), .untold = true, .bit = QD_COMMON_JSON, .help = "print one JSON document" },
	{ "seed", QD_OPT_INT, FIELD(seed), .bit = QD_COMMON_SEED, .high = INT64_MAX, .arg = "N", .help = "seed of random numbers" },
	{ "threads", QD_OPT_INT, FIELD(threads), .untold = true, .bit = QD_COMMON_THREADS, .low = 1, .high = MAX_THREADS,
		.arg = "N", .help = "threads to compute with", .absent = "one per processor that this process may use" },
	{ "device", QD_OPT_CHOICE, FIELD(device), .bit = QD_COMMON_THREADS, .names = devices, .help = "where to compute",
		.absent = "cpu" },
	{ "quiet", QD_OPT_FLAG, FIELD(quiet), .letter = 'q', .untold = true, .help = "no progress, no warnings" },
	{ "verbose", QD_OPT_REPEAT, FIELD(verbose), .letter = 'v', .untold = true, .help = "say more; twice for still more" },
	{ 0 },
};
#undef FIELD

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

static enum qd_status apply(const struct qd_common *common, bool computes)
{
	int threads = common->threads != 0 ? common->threads : qd_processors("");

	qd_progress_install(common->quiet, common->verbose);
	if (!computes)
		return QD_OK;
	keep_freed_memory();
	enum qd_status st = qt_set_threads(threads);
	return st == QD_OK && common->device != NULL ? qt_set_device(common->device) : st;
}

static void (*describe)(const char *doc, const struct qd_option_text *list, size_t n);

void qd_describe_instead(void (*fn)(const char *doc, const struct qd_option_text *list, size_t n))
{
	describe = fn;
}

static void run_description(const char *doc, const struct qd_options *options, size_t n, unsigned takes, unsigned needs)
{
	struct qd_arena texts = { 0 };
	struct qd_option_text *list;
	size_t n_list;
	enum qd_status st = qd_option_texts(options, n, takes, needs, &texts, &list, &n_list);

	if (st == QD_OK)
		describe(doc, list, n_list);
	if (st == QD_OK && fflush(stdout) != 0)
		st = qd_fail(QD_EIO, "cannot write to standard output: %s", strerror(errno));
	free(list);
	qd_arena_release(&texts);
	exit(qd_finish("help", st));
}

/* The command's own text, and examples below. */
static enum qd_status write_doc(struct qd_text *text, const char *doc, const struct qd_command *command)
{
	enum qd_status st = qd_text_open(text);

	if (st != QD_OK)
		return st;
	fprintf(text->stream, "%s%sExamples:\n", doc, strchr(doc, '\v') != NULL ? "\n\n" : "\v");
	for (size_t i = 0; i < QD_COUNT(command->examples); i++) {
		fputs("  ", text->stream);
		qd_print_example(text->stream, command, i, " \\\n      ");
	}
	return qd_text_end(text);
}

void qd_parse(int argc, char **argv, const char *doc, const struct qd_options *own, size_t n, unsigned takes, unsigned needs,
	struct qd_common *common)
{
	struct qd_options options[QD_MOST_TABLES + 2] = { { first, common } };
	struct qd_text text = { 0 };
	enum qd_status st;

	assert(n <= QD_MOST_TABLES);
	memcpy(options + 1, own, n * sizeof(*options));
	options[n + 1] = (struct qd_options){ last, common };
	common->provenance = (struct qd_provenance){ .program = "quad " QUAD_VERSION, .command = strrchr(argv[0], ' ') + 1 };
	if (describe != NULL)
		run_description(doc, options, n + 2, takes, needs);
	QD_TRY(st, write_doc(&text, doc, qd_command_find(common->provenance.command)));
	qd_options_parse(argc, argv, text.bytes, options, n + 2, takes, needs, &common->provenance);
	st = apply(common, (takes & QD_COMMON_THREADS) != 0);
out:
	qd_text_release(&text);
	if (st != QD_OK) {
		fprintf(stderr, "%s: %s\n", argv[0], qd_message());
		exit(QD_EXIT_FAILED);
	}
}

void qd_common_release(struct qd_common *common)
{
	qd_texts_release(&common->adapters);
	qd_provenance_release(&common->provenance);
	*common = (struct qd_common){ 0 };
}

enum qd_status qd_parse_trajectory(const struct qd_option *option, char *arg, const char **name, int *steps)
{
	char *colon = strchr(arg, ':');
	int64_t number = 0;
	size_t i;
	enum qd_status st = qd_option_choice(option, arg, &i);

	if (st != QD_OK && colon != NULL) {
		*colon = '\0';
		st = qd_option_choice(option, arg, &i);
		if (st == QD_OK)
			st = qd_option_int(option, colon + 1, 1, 1000, &number);
	}
	if (colon != NULL)
		*steps = (int)number;
	*name = arg;
	return st;
}

/* ---- beginning and ending ---- */

enum qd_status qd_check_output(const struct qd_common *common, const char *output)
{
	struct qd_output probe = { 0 };
	enum qd_status st = output != NULL ? qd_output_open(&probe, output, common->force) : QD_OK;

	qd_output_release(&probe);
	return st;
}

static enum qd_status check_adapter_file(void *output, const char *path)
{
	return qd_output_check_apart(output, path);
}

enum qd_status qd_check_apart(const struct qd_common *common, const char *output, const char *const *inputs, size_t n)
{
	const char *const own[] = { common->base, common->profile };
	enum qd_status st = QD_OK;

	if (output != NULL && strcmp(output, "-") == 0)
		qd_usage("'-' names no output: /dev/stdout is standard output, './-' a file of that name");
	for (size_t i = 0; output != NULL && i < QD_COUNT(own) + n; i++) {
		const char *input = i < QD_COUNT(own) ? own[i] : inputs[i - QD_COUNT(own)];
		QD_TRY(st, input != NULL ? qd_output_check_apart(output, input) : QD_OK);
	}
	for (size_t i = 0; output != NULL && i < common->adapters.n; i++)
		QD_TRY(st, qd_adapter_spec_each(common->adapters.items[i], check_adapter_file, (void *)(uintptr_t)output));
out:
	return st;
}

int qd_finish(const char *command, enum qd_status st)
{
	qd_progress_clear();
	if (st == QD_OK)
		return QD_EXIT_DONE;
	fflush(stdout);
	fprintf(stderr, "quad %s: %s\n", command, qd_message());
	return st == QD_ECHECK ? QD_EXIT_NO : QD_EXIT_FAILED;
}
