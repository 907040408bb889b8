/* quad distill: fine-tunes one adapter against the profile's fixed encodings. */
#include "cmd/cmd.h"
#include "distill/distill.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	KEY_DATA = 0x400,
	KEY_STEPS,
	KEY_BATCH,
	KEY_POOL,
	KEY_LR,
	KEY_LR_GAIN,
	KEY_TASK_WEIGHT,
	KEY_SCHEDULE,
	KEY_WARMUP,
	KEY_TRAJECTORY,
	KEY_EVALUATE,
	KEY_CHECKPOINT
};

static const struct argp_option distill_options[] = {
	{ "data", KEY_DATA, "FILE", 0,
		"latents, condition, encoder_hidden_states, or a calibration file (as --calib); repeat for more", 1 },
	{ "steps", KEY_STEPS, "N", 0, "updates (default 120)", 1 },
	{ "batch", KEY_BATCH, "N", 0, "samples per update (default 16)", 1 },
	{ "pool", KEY_POOL, "N", 0,
		"draws to learn from, rounded up to whole batches or trajectories, beside which one of eight judges "
		"(default: as many as the steps take, 64 to 512 in all)",
		1 },
	{ "lr", KEY_LR, "X", 0, "of down and up in 1/127 of the shared range (default 0.3, or 4 from a start below 20 dB)", 1 },
	{ "lr-gain", KEY_LR_GAIN, "X", 0, "relative learning rate of the gain (default 0.003, or 0.1 from such a start)", 1 },
	{ "task-weight", KEY_TASK_WEIGHT, "W", 0, "of the noise-prediction objective beside reconstruction (default 0)", 1 },
	{ "schedule", KEY_SCHEDULE, "NAME", 0, "of the learning rate: cosine (default), constant or linear", 1 },
	{ "warmup", KEY_WARMUP, "N", 0, "updates over which the learning rate rises (default 0)", 1 },
	{ "trajectory", KEY_TRAJECTORY, "NAME:STEPS", 0,
		"learn at the states the float model passes when sampling, as euler:8 or ddim:20 (default: noised latents)", 1 },
	{ "eval-every", KEY_EVALUATE, "N", 0, "updates between judgements on held-out draws (default: eight in all)", 1 },
	{ "checkpoint-every", KEY_CHECKPOINT, "N", 0,
		"updates between checkpoints, OUTPUT.ckpt, from which the same command goes on (default 0: none)", 1 },
	{ 0 }
};

static const char *const trajectories[] = { "ddim", "euler", NULL };

struct distill {
	struct qd_distill_options options;
	const char **data;
	size_t n_data, cap_data;
};

static error_t add_data(struct distill *distill, const char *path)
{
	enum qd_status st;

	QD_PUSH(st, distill->data, distill->n_data, distill->cap_data, path);
out:
	return st == QD_OK ? 0 : ENOMEM;
}

static error_t parse_optimizer(int key, char *arg, struct argp_state *state, struct qd_distill_options *o)
{
	switch (key) {
	case KEY_STEPS:
		o->loop.steps = qd_parse_int(state, "steps", arg, 0, INT32_MAX);
		return 0;
	case KEY_BATCH:
		o->loop.batch = qd_parse_int(state, "batch", arg, 1, 65536);
		return 0;
	case KEY_POOL:
		o->pool = qd_parse_int(state, "pool", arg, 1, INT32_MAX);
		return 0;
	case KEY_LR:
		o->loop.lr = qd_parse_number(state, "lr", arg, 0, 1e3);
		return 0;
	case KEY_LR_GAIN:
		o->lr_gain = qd_parse_number(state, "lr-gain", arg, 0, 10);
		return 0;
	case KEY_TASK_WEIGHT:
		o->task_weight = qd_parse_number(state, "task-weight", arg, 0, 1e6);
		return 0;
	case KEY_SCHEDULE:
		o->loop.schedule = (enum qd_lr_schedule)qd_parse_choice(state, "schedule", arg, qd_lr_schedule_names);
		return 0;
	case KEY_WARMUP:
		o->loop.warmup = qd_parse_int(state, "warmup", arg, 0, INT32_MAX);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct distill *distill = state->input;
	struct qd_distill_options *o = &distill->options;
	switch (key) {
	case KEY_DATA:
		return add_data(distill, arg);
	case KEY_TRAJECTORY:
		o->trajectory = qd_parse_trajectory(state, arg, trajectories, &o->trajectory_steps);
		return 0;
	case KEY_EVALUATE:
		o->loop.evaluate_every = qd_parse_int(state, "eval-every", arg, 1, INT32_MAX);
		return 0;
	case KEY_CHECKPOINT:
		o->loop.checkpoint_every = qd_parse_int(state, "checkpoint-every", arg, 1, INT32_MAX);
		return 0;
	case ARGP_KEY_END:
		if (o->loop.warmup > o->loop.steps)
			argp_error(state, "--warmup %lld is longer than --steps %lld", (long long)o->loop.warmup,
				(long long)o->loop.steps);
		return 0;
	default:
		return parse_optimizer(key, arg, state, o);
	}
}

static enum qd_status check_common(const struct qd_common *common, size_t n_data)
{
	const char *missing = common->base == NULL      ? "--base DIR"
			      : common->profile == NULL ? "--profile FILE"
			      : common->output == NULL  ? "-o PATH"
			      : n_data == 0             ? "--data FILE or --calib FILE"
							: NULL;

	if (missing != NULL)
		return qd_fail(QD_EINPUT, "%s is needed", missing);
	if (common->n_adapters != 1)
		return qd_fail(QD_EINPUT, "one adapter is distilled at a time, %zu given", common->n_adapters);
	return QD_OK;
}

/* SQNR that JSON can hold: an exact student has none. */
static json_t *number_or_null(double x)
{
	return isfinite(x) ? json_real(x) : json_null();
}

static enum qd_status print_result(
	const struct distill *distill, const struct qd_distill_result *r, const struct qd_common *common, const char *adapter)
{
	if (common->json)
		return qd_print_json(json_pack("{s:i,s:s,s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:{s:f,s:o},s:{s:f,s:o},s:f,s:f}", "schema", 1,
			"adapter", adapter, "output", common->output, "parameters", (json_int_t)r->parameters, "steps",
			(json_int_t)distill->options.loop.steps, "resumed_at", (json_int_t)r->resumed_at, "best_step",
			(json_int_t)r->best_step, "draws", (json_int_t)r->draws, "held_out", (json_int_t)r->held_out, "before",
			"error", r->before, "sqnr_db", number_or_null(r->before_db), "after", "error", r->after, "sqnr_db",
			number_or_null(r->after_db), "teacher_seconds", r->teacher_seconds, "seconds", r->seconds));
	printf("%s: output SQNR %.2f dB -> %.2f dB on %lld held-out draws, learned from %lld, best after step %lld of %lld; "
	       "teacher %.1f s, student %.1f s: %s\n",
		adapter, r->before_db, r->after_db, (long long)r->held_out, (long long)r->draws, (long long)r->best_step,
		(long long)distill->options.loop.steps, r->teacher_seconds, r->seconds, common->output);
	return QD_OK;
}

int qd_cmd_distill(int argc, char **argv)
{
	struct distill distill = { .options = qd_distill_options_default() };
	struct qd_common common = { 0 };
	struct qd_opened opened = { 0 };
	struct qd_profile profile = { 0 };
	struct qd_distill_result result;
	enum qd_status st;

	qd_parse(argc, argv, "Fine-tune one adapter against the profile's fixed encodings, taught by the float model.", NULL,
		QD_OPT_BASE | QD_OPT_ADAPTER | QD_OPT_CALIB | QD_OPT_PROFILE | QD_OPT_OUTPUT | QD_OPT_JSON | QD_OPT_SEED |
			QD_OPT_THREADS,
		distill_options, parse, &distill, &common);
	distill.options.loop.seed = common.seed;
	distill.options.loop.output = common.output;
	distill.options.loop.force = common.force;
	for (size_t i = 0; i < common.n_calib; i++)
		if (add_data(&distill, common.calib[i]) != 0)
			QD_TRY(st, QD_ENOMEM);
	QD_TRY(st, check_common(&common, distill.n_data));
	QD_TRY(st, qd_profile_read(&profile, common.profile));
	QD_TRY(st, qd_open_all(&opened, &common));
	QD_TRY(st,
		qd_distill(&opened.model, &profile, &opened.adapters[0], distill.data, distill.n_data, &distill.options, &result));
	st = print_result(&distill, &result, &common, opened.adapters[0].name);
out:
	free(distill.data);
	qd_opened_release(&opened);
	qd_profile_release(&profile);
	qd_common_release(&common);
	return qd_finish("distill", st);
}
