/* quad train: the plain objective, for all weights or for an adapter on the frozen model. */
#include "cmd/cmd.h"
#include "distill/distill.h"

#include <math.h>
#include <stdio.h>

struct train {
	struct qd_train_options options;
	struct qd_texts data;
};

/* Only a policy that needs no other adapters. */
static const char *slots_name(size_t i)
{
	return qd_slots_policy_name(i + 1);
}

#define FIELD(field) QD_FIELD(struct train, field)
static const int dtypes[] = { QD_F32, QD_F16, QD_VALUES_END };
static const char *const precisions[] = { "f32", "bf16", NULL }; /* by options.bfloat16 */
static const struct qd_option table[] = {
	{ "data", QD_OPT_TEXTS, FIELD(data), .required = true, .arg = "FILE",
		.help = "safetensors: latents [N,C,H,W], encoder_hidden_states [N,L,D], condition [N,C,H,W] where the model takes "
			"more channels; repeat for more" },
	{ "lora", QD_OPT_INT, FIELD(options.lora), .low = 1, .high = 4096, .arg = "RANK",
		.help = "train an adapter of this rank on the frozen model", .absent = "" },
	{ "alpha", QD_OPT_NUMBER, FIELD(options.alpha), .from = 1e-6, .to = 1e6, .arg = "A",
		.help = "the adapter's gain is A / RANK", .absent = "RANK" },
	{ "slots", QD_OPT_TEXT, FIELD(options.slots), .name_at = slots_name, .arg = "FILE",
		.help = "layers of the adapter; FILE has module paths" },
	{ "init-adapter", QD_OPT_TEXT, FIELD(options.init_adapter), .arg = "PATH",
		.help = "go on from this adapter, its layers and ranks" },
	{ "steps", QD_OPT_INT, FIELD(options.loop.steps), .low = 1, .high = INT32_MAX, .arg = "N", .help = "updates" },
	{ "batch", QD_OPT_INT, FIELD(options.loop.batch), .low = 1, .high = 65536, .arg = "N", .help = "samples per update" },
	{ "lr", QD_OPT_NUMBER, FIELD(options.loop.lr), .to = 1e3, .arg = "X", .help = "learning rate" },
	{ "schedule", QD_OPT_CHOICE, FIELD(options.loop.schedule), .names = qd_lr_schedule_names, .help = "of the learning rate" },
	{ "warmup", QD_OPT_INT, FIELD(options.loop.warmup), .high = INT32_MAX, .arg = "N",
		.help = "updates over which the learning rate rises" },
	{ "weight-decay", QD_OPT_NUMBER, FIELD(options.loop.weight_decay), .to = 1e3, .arg = "X",
		.help = "of matrices and kernels" },
	{ "beta1", QD_OPT_NUMBER, FIELD(options.loop.beta1), .to = 0.999999, .arg = "X", .help = "AdamW's average of gradients" },
	{ "beta2", QD_OPT_NUMBER, FIELD(options.loop.beta2), .to = 0.999999, .arg = "X",
		.help = "AdamW's average of their squares" },
	{ "clip", QD_OPT_NUMBER, FIELD(options.loop.clip), .to = 1e30, .arg = "X",
		.help = "largest global gradient norm, 0 for any" },
	{ "ema", QD_OPT_NUMBER, FIELD(options.ema), .to = 0.9999999, .arg = "DECAY", .help = "write averaged weights",
		.absent = "none" },
	{ "precision", QD_OPT_CHOICE, FIELD(options.bfloat16), .names = precisions,
		.help = "operands of convolutions and linear layers; bf16 is twice as fast where the CPU multiplies bfloat16" },
	{ "snr-gamma", QD_OPT_NUMBER, FIELD(options.snr_gamma), .to = 1e6, .arg = "G", .help = "min-SNR weighting of the loss",
		.absent = "none" },
	{ "prompt-dropout", QD_OPT_NUMBER, FIELD(options.prompt_dropout), .to = 1, .arg = "P",
		.help = "probability of an all-zero prompt" },
	{ "val", QD_OPT_TEXT, FIELD(options.validation), .arg = "FILE", .help = "data to report the loss on" },
	{ "val-every", QD_OPT_INT, FIELD(options.loop.evaluate_every), .low = 1, .high = INT32_MAX, .arg = "N",
		.help = "updates between such reports", .absent = "at the end only" },
	{ "checkpoint-every", QD_OPT_INT, FIELD(options.loop.checkpoint_every), .low = 1, .high = INT32_MAX, .arg = "N",
		.help = "updates between checkpoints, OUTPUT.ckpt, from which the same command goes on", .absent = "none" },
	{ "dtype", QD_OPT_DTYPE, FIELD(options.dtype), .values = dtypes, .help = "of what is written" },
	{ 0 },
};

/* Options that only make sense together. */
static void check_usage(const struct qd_train_options *o)
{
	if (o->lora > 0 && o->init_adapter != NULL)
		qd_usage("--lora and --init-adapter exclude each other: the adapter has its ranks");
	if (o->lora == 0 && o->alpha > 0)
		qd_usage("--alpha needs --lora");
	if (o->loop.warmup > o->loop.steps)
		qd_usage("--warmup %lld is longer than --steps %lld", (long long)o->loop.warmup, (long long)o->loop.steps);
}

static enum qd_status print_result(const struct train *train, const struct qd_train_result *r, const struct qd_common *common)
{
	int64_t done = train->options.loop.steps - r->resumed_at;
	double each = done > 0 ? r->seconds / (double)done : 0;

	if (common->json)
		return qd_print_json(json_pack("{s:i,s:s,s:I,s:I,s:I,s:o,s:o,s:f}", "schema", 1, "output", common->output,
			"parameters", (json_int_t)r->parameters, "steps", (json_int_t)train->options.loop.steps, "resumed_at",
			(json_int_t)r->resumed_at, "loss", qd_finite_json(r->loss), "validation", qd_finite_json(r->validation),
			"seconds", r->seconds));
	qd_print("%lld parameters, %lld steps, %.1f s (%.0f ms each), loss %.5f", (long long)r->parameters, (long long)done,
		r->seconds, 1e3 * each, r->loss);
	if (isfinite(r->validation))
		qd_print(", validation %.5f", r->validation);
	qd_print(": %s\n", common->output);
	return QD_OK;
}

static enum qd_status dry_run(const struct train *train, const struct qd_opened *opened)
{
	struct qd_dataset data = { 0 };
	enum qd_status st = qd_dataset_open(&data, train->data.items, train->data.n, &opened->model.config, QD_DATA_TRAIN);

	if (st == QD_OK)
		qd_print("%lld samples, %.1f passes\n", (long long)data.n,
			(double)train->options.loop.steps * (double)train->options.loop.batch / (double)data.n);
	qd_dataset_release(&data);
	return st;
}

int qd_cmd_train(int argc, char **argv)
{
	struct train train = { .options = qd_train_options_default() };
	struct qd_common common = { 0 };
	struct qd_opened opened = { 0 };
	struct qd_train_result result;
	enum qd_status st;

	qd_parse(argc, argv, "Train all weights of a model, or an adapter on the frozen model, on clean latents.",
		&(struct qd_options){ table, &train }, 1,
		QD_COMMON_BASE | QD_COMMON_OUTPUT | QD_COMMON_JSON | QD_COMMON_SEED | QD_COMMON_THREADS | QD_COMMON_DRY_RUN,
		QD_COMMON_BASE | QD_COMMON_OUTPUT, &common);
	check_usage(&train.options);
	train.options.loop.seed = common.seed;
	train.options.loop.output = common.output;
	train.options.loop.force = common.force;
	const char *const inputs[] = { train.options.validation, train.options.init_adapter, train.options.slots };
	QD_TRY(st, qd_check_apart(&common, common.output, train.data.items, train.data.n));
	QD_TRY(st, qd_check_apart(&common, common.output, inputs, QD_COUNT(inputs)));
	QD_TRY(st, qd_open_all(&opened, &common));
	if (common.dry_run) {
		st = dry_run(&train, &opened);
		goto out;
	}
	QD_TRY(st, qd_train(&opened.model, &opened.modules, train.data.items, train.data.n, &train.options, &result));
	st = print_result(&train, &result, &common);
out:
	qd_texts_release(&train.data);
	qd_opened_release(&opened);
	qd_common_release(&common);
	return qd_finish("train", st);
}
