/* quad train: the plain objective, for all weights or for an adapter on the frozen model. */
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
	KEY_LR,
	KEY_SCHEDULE,
	KEY_WARMUP,
	KEY_DECAY,
	KEY_BETA1,
	KEY_BETA2,
	KEY_CLIP,
	KEY_EMA,
	KEY_SNR_GAMMA,
	KEY_DROPOUT,
	KEY_VAL,
	KEY_VAL_EVERY,
	KEY_CHECKPOINT,
	KEY_LORA,
	KEY_ALPHA,
	KEY_SLOTS,
	KEY_INIT,
	KEY_DTYPE,
	KEY_PRECISION
};

static const char *const dtypes[] = { "f32", "f16", NULL };
static const char *const precisions[] = { "f32", "bf16", NULL };

static const struct argp_option train_options[] = {
	{ "data", KEY_DATA, "FILE", 0,
		"safetensors: latents [N,C,H,W], encoder_hidden_states [N,L,D], condition [N,C,H,W] where the model takes more "
		"channels; repeat for more",
		1 },
	{ "steps", KEY_STEPS, "N", 0, "updates (default 1000)", 1 },
	{ "batch", KEY_BATCH, "N", 0, "samples per update (default 16)", 1 },
	{ "lr", KEY_LR, "X", 0, "learning rate (default 0.001)", 1 },
	{ "schedule", KEY_SCHEDULE, "NAME", 0, "of the learning rate: cosine (default), constant or linear", 1 },
	{ "warmup", KEY_WARMUP, "N", 0, "updates over which the learning rate rises (default 0)", 1 },
	{ "weight-decay", KEY_DECAY, "X", 0, "of matrices and kernels (default 0.01)", 1 },
	{ "beta1", KEY_BETA1, "X", 0, "AdamW's average of gradients (default 0.9)", 1 },
	{ "beta2", KEY_BETA2, "X", 0, "AdamW's average of their squares (default 0.999)", 1 },
	{ "clip", KEY_CLIP, "X", 0, "largest global gradient norm (default 1; 0: none)", 1 },
	{ "ema", KEY_EMA, "DECAY", 0, "write averaged weights (default 0: none)", 1 },
	{ "precision", KEY_PRECISION, "TYPE", 0,
		"operands of convolutions and linear layers: f32 (default), or bf16, twice as fast where the CPU multiplies "
		"bfloat16",
		1 },
	{ "snr-gamma", KEY_SNR_GAMMA, "G", 0, "min-SNR weighting of the loss (default 0: none)", 1 },
	{ "prompt-dropout", KEY_DROPOUT, "P", 0, "probability of an all-zero prompt (default 0)", 1 },
	{ "val", KEY_VAL, "FILE", 0, "data to report the loss on", 1 },
	{ "val-every", KEY_VAL_EVERY, "N", 0, "updates between such reports (default: at the end only)", 1 },
	{ "checkpoint-every", KEY_CHECKPOINT, "N", 0,
		"updates between checkpoints, OUTPUT.ckpt, from which the same command goes on (default 0: none)", 1 },
	{ "lora", KEY_LORA, "RANK", 0, "train an adapter of this rank on the frozen model", 2 },
	{ "alpha", KEY_ALPHA, "A", 0, "the adapter's gain is A / RANK (default: 1)", 2 },
	{ "slots", KEY_SLOTS, "WHICH", 0, "layers of the adapter: attention (default), transformer, all, or a file of module paths",
		2 },
	{ "init-adapter", KEY_INIT, "PATH", 0, "go on from this adapter, its layers and ranks", 2 },
	{ "dtype", KEY_DTYPE, "TYPE", 0, "of what is written: f32 (default) or f16", 1 }, { 0 }
};

struct train {
	struct qd_train_options options;
	const char **data;
	size_t n_data, cap_data;
};

static void add_data(struct train *train, const char *path, struct argp_state *state)
{
	enum qd_status st;

	QD_PUSH(st, train->data, train->n_data, train->cap_data, path);
	return;
out:
	argp_failure(state, QD_EXIT_FAILED, 0, "%s", qd_message());
}

static error_t parse_optimizer(int key, char *arg, struct argp_state *state, struct qd_train_options *o)
{
	switch (key) {
	case KEY_STEPS:
		o->loop.steps = qd_parse_int(state, "steps", arg, 1, INT32_MAX);
		return 0;
	case KEY_BATCH:
		o->loop.batch = qd_parse_int(state, "batch", arg, 1, 65536);
		return 0;
	case KEY_LR:
		o->loop.lr = qd_parse_number(state, "lr", arg, 0, 1e3);
		return 0;
	case KEY_SCHEDULE:
		o->loop.schedule = (enum qd_lr_schedule)qd_parse_choice(state, "schedule", arg, qd_lr_schedule_names);
		return 0;
	case KEY_WARMUP:
		o->loop.warmup = qd_parse_int(state, "warmup", arg, 0, INT32_MAX);
		return 0;
	case KEY_DECAY:
		o->loop.weight_decay = qd_parse_number(state, "weight-decay", arg, 0, 1e3);
		return 0;
	case KEY_BETA1:
		o->loop.beta1 = qd_parse_number(state, "beta1", arg, 0, 0.999999);
		return 0;
	case KEY_BETA2:
		o->loop.beta2 = qd_parse_number(state, "beta2", arg, 0, 0.999999);
		return 0;
	case KEY_CLIP:
		o->loop.clip = qd_parse_number(state, "clip", arg, 0, 1e30);
		return 0;
	case KEY_PRECISION:
		o->bfloat16 = qd_parse_choice(state, "precision", arg, precisions) == 1;
		return 0;
	case KEY_EMA:
		o->ema = qd_parse_number(state, "ema", arg, 0, 0.9999999);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static error_t parse_adapter(int key, char *arg, struct argp_state *state, struct qd_train_options *o)
{
	switch (key) {
	case KEY_LORA:
		o->lora = qd_parse_int(state, "lora", arg, 1, 4096);
		return 0;
	case KEY_ALPHA:
		o->alpha = qd_parse_number(state, "alpha", arg, 1e-6, 1e6);
		return 0;
	case KEY_SLOTS:
		o->slots = arg;
		return 0;
	case KEY_INIT:
		o->init_adapter = arg;
		return 0;
	default:
		return parse_optimizer(key, arg, state, o);
	}
}

/* Options that only make sense together. */
static void check_usage(struct train *train, struct argp_state *state)
{
	const struct qd_train_options *o = &train->options;

	if (train->n_data == 0)
		argp_error(state, "--data FILE is needed");
	if (o->lora > 0 && o->init_adapter != NULL)
		argp_error(state, "--lora and --init-adapter exclude each other: the adapter has its ranks");
	if (o->lora == 0 && o->alpha > 0)
		argp_error(state, "--alpha needs --lora");
	if (o->loop.warmup > o->loop.steps)
		argp_error(state, "--warmup %lld is longer than --steps %lld", (long long)o->loop.warmup, (long long)o->loop.steps);
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct train *train = state->input;
	struct qd_train_options *o = &train->options;
	switch (key) {
	case KEY_DATA:
		add_data(train, arg, state);
		return 0;
	case KEY_SNR_GAMMA:
		o->snr_gamma = qd_parse_number(state, "snr-gamma", arg, 0, 1e6);
		return 0;
	case KEY_DROPOUT:
		o->prompt_dropout = qd_parse_number(state, "prompt-dropout", arg, 0, 1);
		return 0;
	case KEY_VAL:
		o->validation = arg;
		return 0;
	case KEY_VAL_EVERY:
		o->loop.evaluate_every = qd_parse_int(state, "val-every", arg, 1, INT32_MAX);
		return 0;
	case KEY_CHECKPOINT:
		o->loop.checkpoint_every = qd_parse_int(state, "checkpoint-every", arg, 1, INT32_MAX);
		return 0;
	case KEY_DTYPE:
		o->dtype = qd_parse_choice(state, "dtype", arg, dtypes) == 1 ? QD_F16 : QD_F32;
		return 0;
	case ARGP_KEY_END:
		check_usage(train, state);
		return 0;
	default:
		return parse_adapter(key, arg, state, o);
	}
}

static json_t *number_or_null(double x)
{
	return isfinite(x) ? json_real(x) : json_null();
}

static enum qd_status print_result(const struct train *train, const struct qd_train_result *r, const struct qd_common *common)
{
	int64_t done = train->options.loop.steps - r->resumed_at;
	double each = done > 0 ? r->seconds / (double)done : 0;

	if (common->json)
		return qd_print_json(json_pack("{s:i,s:s,s:I,s:I,s:I,s:o,s:o,s:f}", "schema", 1, "output", common->output,
			"parameters", (json_int_t)r->parameters, "steps", (json_int_t)train->options.loop.steps, "resumed_at",
			(json_int_t)r->resumed_at, "loss", number_or_null(r->loss), "validation", number_or_null(r->validation),
			"seconds", r->seconds));
	printf("%lld parameters, %lld steps, %.1f s (%.0f ms each), loss %.5f", (long long)r->parameters, (long long)done,
		r->seconds, 1e3 * each, r->loss);
	if (isfinite(r->validation))
		printf(", validation %.5f", r->validation);
	printf(": %s\n", common->output);
	return QD_OK;
}

static enum qd_status dry_run(const struct train *train, const struct qd_opened *opened)
{
	struct qd_dataset data = { 0 };
	enum qd_status st = qd_dataset_open(&data, train->data, train->n_data, &opened->model.config, QD_DATA_TRAIN);

	if (st == QD_OK)
		printf("%lld samples, %.1f passes\n", (long long)data.n,
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

	qd_parse(argc, argv, "Train all weights of a model, or an adapter on the frozen model, on clean latents.", NULL,
		QD_OPT_BASE | QD_OPT_OUTPUT | QD_OPT_JSON | QD_OPT_SEED | QD_OPT_THREADS | QD_OPT_DRY_RUN, train_options, parse,
		&train, &common);
	train.options.loop.seed = common.seed;
	train.options.loop.output = common.output;
	train.options.loop.force = common.force;
	if (common.base == NULL || common.output == NULL)
		QD_TRY(st, qd_fail(QD_EINPUT, "%s is needed", common.base == NULL ? "--base DIR" : "-o PATH"));
	QD_TRY(st, qd_open_all(&opened, &common));
	if (common.dry_run) {
		st = dry_run(&train, &opened);
		goto out;
	}
	QD_TRY(st, qd_train(&opened.model, &opened.modules, train.data, train.n_data, &train.options, &result));
	st = print_result(&train, &result, &common);
out:
	free(train.data);
	qd_opened_release(&opened);
	qd_common_release(&common);
	return qd_finish("train", st);
}
