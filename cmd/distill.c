/* quad distill: fine-tunes one adapter against the profile's fixed encodings. */
#include "cmd/cmd.h"
#include "distill/distill.h"

#include <stdio.h>

struct distill {
	struct qd_distill_options options;
	struct qd_texts data;
};

static enum qd_status parse_trajectory(void *into, const struct qd_option *option, char *arg)
{
	struct qd_distill_options *o = &((struct distill *)into)->options;

	return qd_parse_trajectory(option, arg, &o->trajectory, &o->trajectory_steps);
}

#define FIELD(field) QD_FIELD(struct distill, field)
static const char *const gradients[] = { "bf16", "f32", NULL };    /* by options.exact_gradients */
static const char *const engines[] = { "builtin", "torch", NULL }; /* by options.libtorch */
static const struct qd_option table[] = {
	{ "data", QD_OPT_TEXTS, FIELD(data), .required = true, .arg = "FILE",
		.help = "latents, condition, encoder_hidden_states, or a calibration file; repeat for more" },
	{ "calib", QD_OPT_TEXTS, FIELD(data), .arg = "FILE", .help = "the same as --data" },
	{ "steps", QD_OPT_INT, FIELD(options.loop.steps), .high = INT32_MAX, .arg = "N", .help = "updates" },
	{ "batch", QD_OPT_INT, FIELD(options.loop.batch), .low = 1, .high = 65536, .arg = "N", .help = "samples per update" },
	{ "pool", QD_OPT_INT, FIELD(options.pool), .low = 1, .high = INT32_MAX, .arg = "N",
		.help = "draws to learn from, rounded up to whole batches or trajectories, beside which one of eight judges",
		.absent = "as many as the steps take, 64 to 512 in all" },
	{ "lr", QD_OPT_NUMBER, FIELD(options.loop.lr), .to = 1e3, .arg = "X", .help = "of down and up in 1/127 of the shared range",
		.absent = "0.3, or 4 from a start below 20 dB" },
	{ "lr-gain", QD_OPT_NUMBER, FIELD(options.lr_gain), .to = 10, .arg = "X", .help = "relative learning rate of the gain",
		.absent = "0.003, or 0.1 from such a start" },
	{ "grad", QD_OPT_CHOICE, FIELD(options.exact_gradients), .names = gradients,
		.help = "products of gradients: rounded to bfloat16 where the processor has it, or float32" },
	{ "engine", QD_OPT_CHOICE, FIELD(options.libtorch), .names = engines,
		.help = "what trains: the engine, or libtorch's operators, the reference" },
	{ "task-weight", QD_OPT_NUMBER, FIELD(options.task_weight), .to = 1e6, .arg = "W",
		.help = "of the noise-prediction objective beside reconstruction" },
	{ "schedule", QD_OPT_CHOICE, FIELD(options.loop.schedule), .names = qd_lr_schedule_names, .help = "of the learning rate" },
	{ "warmup", QD_OPT_INT, FIELD(options.loop.warmup), .high = INT32_MAX, .arg = "N",
		.help = "updates over which the learning rate rises" },
	{ "trajectory", QD_OPT_CALL, .call = parse_trajectory, .name_at = qd_scheduler_plain_name, .arg = "NAME:STEPS",
		.help = "learn at the states the float model passes when sampling, as euler:8; NAME", .absent = "noised latents" },
	{ "eval-every", QD_OPT_INT, FIELD(options.loop.evaluate_every), .low = 1, .high = INT32_MAX, .arg = "N",
		.help = "updates between judgements on held-out draws", .absent = "eight in all" },
	{ "checkpoint-every", QD_OPT_INT, FIELD(options.loop.checkpoint_every), .low = 1, .high = INT32_MAX, .arg = "N",
		.help = "updates between checkpoints, OUTPUT.ckpt, from which the same command goes on", .absent = "none" },
	{ 0 },
};

static enum qd_status print_result(
	const struct distill *distill, const struct qd_distill_result *r, const struct qd_common *common, const char *adapter)
{
	if (common->json)
		return qd_print_json(json_pack("{s:i,s:s,s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:{s:f,s:o},s:{s:f,s:o},s:f,s:f}", "schema", 1,
			"adapter", adapter, "output", common->output, "parameters", (json_int_t)r->parameters, "steps",
			(json_int_t)distill->options.loop.steps, "resumed_at", (json_int_t)r->resumed_at, "best_step",
			(json_int_t)r->best_step, "draws", (json_int_t)r->draws, "held_out", (json_int_t)r->held_out, "before",
			"error", r->before, "sqnr_db", qd_finite_json(r->before_db), "after", "error", r->after, "sqnr_db",
			qd_finite_json(r->after_db), "teacher_seconds", r->teacher_seconds, "seconds", r->seconds));
	qd_print("%s: output SQNR %.2f dB -> %.2f dB on %lld held-out draws, learned from %lld, best after step %lld of %lld; "
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

	qd_parse(argc, argv, "Fine-tune one adapter against the profile's fixed encodings, taught by the float model.",
		&(struct qd_options){ table, &distill }, 1,
		QD_COMMON_BASE | QD_COMMON_ADAPTER | QD_COMMON_PROFILE | QD_COMMON_OUTPUT | QD_COMMON_JSON | QD_COMMON_SEED |
			QD_COMMON_THREADS,
		QD_COMMON_BASE | QD_COMMON_ADAPTER | QD_COMMON_PROFILE | QD_COMMON_OUTPUT, &common);
	if (common.adapters.n > 1)
		qd_usage("one adapter is distilled at a time, %zu given", common.adapters.n);
	if (distill.options.loop.warmup > distill.options.loop.steps)
		qd_usage("--warmup %lld is longer than --steps %lld", (long long)distill.options.loop.warmup,
			(long long)distill.options.loop.steps);
	distill.options.loop.seed = common.seed;
	distill.options.loop.output = common.output;
	distill.options.loop.force = common.force;
	QD_TRY(st, qd_check_apart(&common, common.output, distill.data.items, distill.data.n));
	QD_TRY(st, qd_profile_read(&profile, common.profile));
	QD_TRY(st, qd_open_all(&opened, &common));
	QD_TRY(st, qd_distill(&opened.model, &profile, &opened.adapters[0], distill.data.items, distill.data.n, &distill.options,
			   &result));
	st = print_result(&distill, &result, &common, opened.adapters[0].name);
out:
	qd_texts_release(&distill.data);
	qd_opened_release(&opened);
	qd_profile_release(&profile);
	qd_common_release(&common);
	return qd_finish("distill", st);
}
