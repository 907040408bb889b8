/*
 * cmd: the program. One table of commands (main.c), one file per command: parse, call, print; no arithmetic. Results go to stdout
 * (text, or with --json one document with a "schema" number), progress and messages to stderr.
 *
 * Exit codes: 0 done; 1 the check the command exists to make said no; 2 wrong usage; 3 could not do it (one line saying why).
 *
 * A command more: its file, its row in QD_COMMANDS, and its line in README.md. An option more: its row in its command's table
 * (options.h), nothing else: help, man pages and completion are made from the rows.
 */
#ifndef QUAD_CMD_CMD_H
#define QUAD_CMD_CMD_H

#include "cmd/options.h"
#include "quant/quant.h"

#include <argp.h>

enum { QD_EXIT_DONE = 0, QD_EXIT_NO = 1, QD_EXIT_USAGE = 2, QD_EXIT_FAILED = 3 };

/*
 * X(name, one-line summary, two examples: what stands behind "quad NAME"): the one place that declares a command. Each has `int
 * qd_cmd_<name>(int argc, char **argv)` in cmd/<name>.c. The examples are one story, in the order of tests/e2e/help.sh, which runs it.
 */
#define QD_COMMANDS(X)                                                                                                             \
	X(inspect, "show what a model, an adapter or any other file of quad holds", "removal.safetensors --base sd15",             \
		"sd15 --adapter removal.safetensors --adapter sketch.safetensors")                                                 \
	X(eval, "run a graph on given inputs, float or simulated, and check the result",                                           \
		"--base sd15 --adapter removal.safetensors --inputs calib.safetensors -o out.safetensors",                         \
		"--base sd15 --adapter removal.safetensors --inputs out.safetensors --check 1e-4")                                 \
	X(calib, "make calibration data from images with captions, or from arrays",                                                \
		"--base sd15 --data images --count 128 -o calib.safetensors",                                                      \
		"--base sd15 --adapter removal.safetensors --data images --count 128 --trajectory euler:8 -o states.safetensors")  \
	X(qss, "score adapters, choose the shared encodings, write profile.json",                                                  \
		"--base sd15 --adapter removal=removal.safetensors --adapter sketch=sketch.safetensors@0.8 "                       \
		"--calib calib.safetensors -o profile.json",                                                                       \
		"--base sd15 --adapter removal=removal.safetensors --adapter sketch=sketch.safetensors --calib calib.safetensors " \
		"--compare")                                                                                                       \
	X(export, "write one ONNX graph, encodings JSON and adapter files",                                                        \
		"--base sd15 --adapter removal=removal.safetensors --profile profile.json -o export",                              \
		"--base sd15 --adapter sketch=sketch.safetensors@0.8 --profile profile.json --adapter-only -o export")             \
	X(run, "sample images with an adapter, float, simulated or from an export",                                                \
		"--base sd15 --adapter removal.safetensors --inputs calib.safetensors --limit 8 -o float.safetensors",             \
		"--base export --adapter removal --inputs calib.safetensors --limit 8 -o exported.safetensors")                    \
	X(olss, "fit a sampler of a few steps to a model's own runs of many",                                                      \
		"--base sd15 --inputs calib.safetensors --limit 12 --steps 4 -o sampler.safetensors",                              \
		"--base sd15 --adapter removal.safetensors --inputs calib.safetensors --limit 12 --reference-steps 50 "            \
		"--steps 8 -o removal-sampler.safetensors")                                                                        \
	X(distill, "fine-tune one adapter against the profile's fixed encodings",                                                  \
		"--base sd15 --adapter sketch=sketch.safetensors@0.8 --profile profile.json --data calib.safetensors "             \
		"-o sketch-distilled.safetensors",                                                                                 \
		"--base sd15 --adapter removal=removal.safetensors --profile profile.json --data calib.safetensors "               \
		"--steps 300 --trajectory euler:8 --checkpoint-every 50 -o removal-distilled.safetensors")                         \
	X(train, "train a model or a fresh LoRA on clean latents",                                                                 \
		"--base sd15 --data calib.safetensors --lora 8 --steps 2000 -o sticker.safetensors",                               \
		"--base sd15 --data calib.safetensors --init-adapter sticker.safetensors --lr 1e-4 -o sticker-2.safetensors")      \
	X(init, "make a random-weight model of a given architecture", "--arch sd15 --dry-run -o random",                           \
		"--config sd15/unet/config.json --lora 4 -o random.safetensors")                                                   \
	X(tokenize, "print the token ids of prompts", "--tokenizer sd15 prompts.jsonl",                                            \
		"--tokenizer sd15/tokenizer <prompts.jsonl >ids.jsonl")                                                            \
	X(report, "compare sampled outputs: PSNR table and contact sheet",                                                         \
		"--task removal --reference float.safetensors --column exported=exported.safetensors",                             \
		"--task removal --reference float.safetensors --column exported=exported.safetensors --decode sd15 --sheet "       \
		"sheet.png")
#define QD_COMMAND_DECLARE(name, ...) int qd_cmd_##name(int argc, char **argv);
QD_COMMANDS(QD_COMMAND_DECLARE)
#undef QD_COMMAND_DECLARE

struct qd_command {
	const char *name, *summary, *examples[2];
	int (*run)(int argc, char **argv);
};
/* NULL: there is no command of that name. */
const struct qd_command *qd_command_find(const char *name);
/* Runs a command as if it had been called. */
int qd_command_run(const struct qd_command *command, int argc, char **argv);

/* ---- help (help.c) ---- */
/* How quad is called, and the commands. */
void qd_help_usage(FILE *to);
/* Says that there is no such command; returns the exit code. */
int qd_help_unknown(const char *name);
/* quad help `topic` [`of`, or NULL]. */
int qd_help(const char *topic, const char *of);
/* "quad NAME ..." and a line's end; long ones go on behind `fold`. */
void qd_print_example(FILE *to, const struct qd_command *command, size_t i, const char *fold);
/* The fields of every document of --json (json.c); a field more: its row there. `document` begins one, `field` tells of one. */
void qd_json_fields(
	void (*document)(const char *name, const char *text), void (*field)(const char *path, const char *type, const char *text));

/* Options that mean the same in every command; each says which it takes. */
enum {
	QD_COMMON_BASE = 1 << 0,    /* --base PATH */
	QD_COMMON_ADAPTER = 1 << 1, /* --adapter NAME=PATH[@SCALE], repeated */
	QD_COMMON_PROFILE = 1 << 2, /* --profile FILE */
	QD_COMMON_OUTPUT = 1 << 3,  /* -o, --output PATH; --force */
	QD_COMMON_FORCE = 1 << 4,   /* --force alone */
	QD_COMMON_JSON = 1 << 5,
	QD_COMMON_SEED = 1 << 6,
	QD_COMMON_THREADS = 1 << 7, /* --threads N, --device cpu|cuda[:i] */
	QD_COMMON_DRY_RUN = 1 << 8,
	QD_COMMON_REFIT = 1 << 9,
};
struct qd_common {
	const char *base, *profile, *output, *device;
	struct qd_texts adapters; /* specs */
	bool json, force, dry_run, quiet, refit;
	int verbose, threads;
	uint64_t seed;
	struct qd_provenance provenance; /* of what is written: the options; whoever opens an input adds it */
};
/*
 * Parses argv by the command's own `n` tables (at most QD_MOST_TABLES) and the common options in `takes`, of which those in `needs`
 * are required; -q, -v and --help are always there. Exits with QD_EXIT_USAGE on wrong usage. Applies threads, device and verbosity.
 */
enum { QD_MOST_TABLES = 3 };
void qd_parse(int argc, char **argv, const char *doc, const struct qd_options *own, size_t n, unsigned takes, unsigned needs,
	struct qd_common *common);
void qd_common_release(struct qd_common *common);
/* From now on qd_parse tells `fn` of the command's options and exits. */
void qd_describe_instead(void (*fn)(const char *doc, const struct qd_option_text *list, size_t n));
/* For `call` of an option: "NAME:STEPS" or "NAME" (`*steps` stays), NAME among the option's choices; those with a file bring their
 * steps, which are 0 then. `arg` is cut at the colon. */
QD_CHECK enum qd_status qd_parse_trajectory(const struct qd_option *option, char *arg, const char **name, int *steps);
/* Says before the work what writing the file `output` (NULL: none) would say after it. */
QD_CHECK enum qd_status qd_check_output(const struct qd_common *common, const char *output);
/* QD_EINPUT when `output` (NULL: none) is, holds or lies in one of the `n` inputs (NULLs are none) or common's base, profile and
 * adapters; wrong usage when it is "-". Every command asks this before it begins, for everything that it will write. */
QD_CHECK enum qd_status qd_check_apart(const struct qd_common *common, const char *output, const char *const *inputs, size_t n);
/* Prints "quad COMMAND: MESSAGE" to stderr and returns the exit code for `st` (QD_ECHECK 1, others 3; QD_OK 0). */
int qd_finish(const char *command, enum qd_status st);
/* What printf prints (conversions s d i c u g e f, ll, l, z), but names in it are escaped (qd_escape). */
void qd_print(const char *fmt, ...) QD_PRINTF(1, 2);
/* Prints a JSON document to stdout (two-space indentation, newline) and drops the reference. QD_EIO when stdout fails. */
QD_CHECK enum qd_status qd_print_json(json_t *value);
/* A number, or null where it is not finite. */
json_t *qd_finite_json(double x);

/*
 * Hooks for progress (one line on a terminal's stderr, elsewhere a line every half minute, or as QUAD_PROGRESS_SECONDS says) and log
 * lines (warnings always, more with -v, none with -q): what, bar, count, rate, time left, note.
 */
void qd_progress_install(bool quiet, int verbose);
/* Ends the progress line, so that something else can be printed. */
void qd_progress_clear(void);

/* What most commands start with: common->base and common->adapters opened. QD_EINPUT without a base. */
QD_CHECK enum qd_status qd_open_all(struct qd_opened *opened, const struct qd_common *common);
/* The same, the adapters' matrices left in their mapped files (qd_adapter_map). */
QD_CHECK enum qd_status qd_open_mapped(struct qd_opened *opened, const struct qd_common *common);

#endif
