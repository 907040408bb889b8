/*
 * cmd: the program. One table of commands (main.c), one file per command: parse, call, print; no arithmetic. Results go to stdout
 * (text, or with --json one document with a "schema" number), progress and messages to stderr.
 *
 * Exit codes: 0 done; 1 the check the command exists to make said no; 2 wrong usage; 3 could not do it (one line saying why).
 */
#ifndef QUAD_CMD_CMD_H
#define QUAD_CMD_CMD_H

#include "quant/quant.h"
#include <argp.h>

enum { QD_EXIT_DONE = 0, QD_EXIT_NO = 1, QD_EXIT_USAGE = 2, QD_EXIT_FAILED = 3 };

/* X(name, one-line summary): the one place that declares a command. Each has `int qd_cmd_<name>(int argc, char **argv)` in
 * cmd/<name>.c. */
#define QD_COMMANDS(X)                                                                                                             \
	X(inspect, "show what a model or adapter file holds")                                                                      \
	X(eval, "run a graph on given inputs, float or simulated, and check the result")                                           \
	X(calib, "make calibration data from images with captions, or from arrays")                                                \
	X(qss, "score adapters, choose the shared encodings, write profile.json")                                                  \
	X(export, "write one ONNX graph, encodings JSON and adapter files")                                                        \
	X(run, "sample images with an adapter, float, simulated or from an export")                                                \
	X(olss, "fit a sampler of a few steps to a model's own runs of many")                                                      \
	X(distill, "fine-tune one adapter against the profile's fixed encodings")                                                  \
	X(train, "train a model or a fresh LoRA on clean latents")                                                                 \
	X(init, "make a random-weight model of a given architecture")                                                              \
	X(tokenize, "print the token ids of prompts")                                                                              \
	X(report, "compare sampled outputs: PSNR table and contact sheet")
#define QD_COMMAND_DECLARE(name, summary) int qd_cmd_##name(int argc, char **argv);
QD_COMMANDS(QD_COMMAND_DECLARE)
#undef QD_COMMAND_DECLARE

/* Options that mean the same in every command; a command lists the ones it takes (QD_OPT_*) and adds its own. */
enum {
	QD_OPT_BASE = 1 << 0,    /* --base PATH */
	QD_OPT_ADAPTER = 1 << 1, /* --adapter NAME=PATH[@SCALE], repeated */
	QD_OPT_CALIB = 1 << 2,   /* --calib FILE, repeated */
	QD_OPT_PROFILE = 1 << 3, /* --profile FILE */
	QD_OPT_OUTPUT = 1 << 4,  /* -o, --output PATH; --force */
	QD_OPT_JSON = 1 << 5,
	QD_OPT_SEED = 1 << 6,
	QD_OPT_THREADS = 1 << 7, /* --threads N, --device cpu|cuda[:i] */
	QD_OPT_DRY_RUN = 1 << 8,
	QD_OPT_QUANT = 1 << 9, /* how to quantize: the fields of struct qd_quant_options, into common.quant */
};
struct qd_common {
	const char *base, *profile, *output, *device;
	const char **adapters; /* specs, in order */
	size_t n_adapters, cap_adapters;
	const char **calib; /* files, in order */
	size_t n_calib, cap_calib;
	struct qd_quant_options quant; /* the defaults without QD_OPT_QUANT */
	bool json, force, dry_run, quiet;
	int verbose, threads;
	uint64_t seed;
};
/*
 * Parses argv with argp: the shared options in `mask` (always -q, -v, --help) and the command's own `options` (argp's list with an
 * empty end, or NULL; keys from 0x400 up) through `parse` with `own` as its input. `doc` is the help's text, `args_doc` the usage
 * of positional arguments (NULL: none are taken; else each goes to `parse` as ARGP_KEY_ARG). Exits with QD_EXIT_USAGE on wrong
 * usage. Applies threads, device and verbosity.
 */
void qd_parse(int argc, char **argv, const char *doc, const char *args_doc, unsigned mask, const struct argp_option *options,
	error_t (*parse)(int key, char *arg, struct argp_state *state), void *own, struct qd_common *common);
void qd_common_release(struct qd_common *common);
/* Exits with QD_EXIT_USAGE when `value` is NULL: "quad COMMAND: needs OPTION". */
void qd_need(const char *command, const char *option, const void *value);
/* For the parse functions of commands: strict numbers; on a bad one argp_error (exit 2) naming "--<option>" and text. */
int64_t qd_parse_int(struct argp_state *state, const char *option, const char *arg, int64_t low, int64_t high);
double qd_parse_number(struct argp_state *state, const char *option, const char *arg, double low, double high);
/* Index of `arg` in NULL-terminated `names`, or argp_error listing them. */
int qd_parse_choice(struct argp_state *state, const char *option, const char *arg, const char *const *names);
/* "NAME:STEPS" or "NAME" (`*steps` stays), NAME among NULL-terminated `names`, whose text is returned; else argp_error. */
const char *qd_parse_trajectory(struct argp_state *state, const char *arg, const char *const *names, int *steps);
/* Prints "quad COMMAND: MESSAGE" to stderr and returns the exit code for `st` (QD_ECHECK 1, others 3; QD_OK 0). */
int qd_finish(const char *command, enum qd_status st);
/* Prints a JSON document to stdout (two-space indentation, newline) and drops the reference. QD_EIO when stdout fails. */
QD_CHECK enum qd_status qd_print_json(json_t *value);
/* A number, or null where it is not finite. */
json_t *qd_finite_json(double x);

/* The options behind QD_OPT_QUANT. `state` is for messages. ARGP_ERR_UNKNOWN for other keys. */
extern const struct argp_option qd_quant_argp_options[];
error_t qd_quant_parse(int key, char *arg, struct argp_state *state, struct qd_quant_options *options);

/*
 * Hooks for progress (one line on stderr, only on a terminal) and log lines (warnings always, more with -v, none with -q): what,
 * bar, count, rate, time left, note.
 */
void qd_progress_install(bool quiet, int verbose);
/* Ends the progress line, so that something else can be printed. */
void qd_progress_clear(void);

/* What most commands start with: common->base and common->adapters opened. QD_EINPUT without a base. */
QD_CHECK enum qd_status qd_open_all(struct qd_opened *opened, const struct qd_common *common);
/* The same, the adapters' matrices left in their mapped files (qd_adapter_map). */
QD_CHECK enum qd_status qd_open_mapped(struct qd_opened *opened, const struct qd_common *common);

#endif
