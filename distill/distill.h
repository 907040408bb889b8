/*
 * distill: training. One loop (loop.c) with two objectives: the plain one of a diffusion model, for all its weights or for a
 * low-rank adapter (train.c), and the fine-tuning of one adapter against a profile's fixed encodings, taught by the float model
 * (distill.c, pool.c). The loop stands on shuffled passes over the samples (shuffle.c), batches of noised latents (losses.c), AdamW
 * over named parameters (optimizer.c) and a state from which a killed run goes on to the same bytes (state.c).
 *
 * Everything random is a function of seed and step alone, so the same inputs, seed, thread count and libtorch give the same bytes.
 *
 * Dimension letters: B batch, N samples, Cl latent channels, Cc condition channels, H W latent pixels, L tokens, D context
 * features, R rank.
 */
#ifndef QUAD_DISTILL_DISTILL_H
#define QUAD_DISTILL_DISTILL_H

#include "lib/math/math.h"
#include "lib/sampler/sampler.h"
#include "quant/quant.h"

/* ---- passes over the data (shuffle.c) ---- */
/* Shuffled passes over 0..n-1 without end: position p belongs to pass p / n, whose order depends on seed and pass alone. */
struct qd_shuffle {
	int64_t n;
	uint64_t seed;
	int64_t pass; /* the one in `order`; -1: none */
	int64_t *order;
};
QD_CHECK enum qd_status qd_shuffle_init(struct qd_shuffle *shuffle, int64_t n, uint64_t seed);
/* The samples at positions [first, first + batch). */
void qd_shuffle_take(struct qd_shuffle *shuffle, int64_t first, int64_t batch, int64_t *index);
void qd_shuffle_release(struct qd_shuffle *shuffle);

/* ---- noised batches (losses.c) ---- */
/* How clean latents become something to learn from. */
struct qd_noising {
	const struct qd_schedule *schedule;
	double snr_gamma;      /* min-SNR weighting (Hang et al. 2023); 0: none */
	double prompt_dropout; /* probability that a sample's encoder_hidden_states are zeroed */
};
/* One batch, ready to be bound: buffers are owned, sized for the batch given to qd_batch_init. */
struct qd_batch {
	int64_t n;
	struct qd_tensor sample, timestep;                          /* [B,Cl+Cc,H,W], [B] */
	struct qd_tensor context, text_embeds, time_ids, time_cond; /* data NULL when the set has none */
	struct qd_tensor target;      /* [B,Cl,H,W]: what the network should say; data NULL when the set has no latents */
	struct qd_tensor root_weight; /* [B,1,1,1]: square roots of the loss weights */
	int64_t *index;               /* [B] */
	float *clean, *noise;         /* scratch, [B,Cl,H,W] */
};
QD_CHECK enum qd_status qd_batch_init(struct qd_batch *batch, const struct qd_dataset *data, int64_t n);
void qd_batch_release(struct qd_batch *batch);
/*
 * Fills the batch for the samples in batch->index. From `latents`: sample = [latents noised to t, condition], one t drawn uniformly
 * within each of B equal parts of the schedule, and the target of the schedule's prediction type (lib/sampler/sampler.h). From
 * `sample`: as stored. `random` is consumed in the same order whatever the options.
 */
QD_CHECK enum qd_status qd_batch_fill(
	struct qd_batch *batch, const struct qd_dataset *data, const struct qd_noising *noising, struct qd_random *random);
/* Only what goes beside sample and timestep: prompt and other inputs of the samples in batch->index. */
QD_CHECK enum qd_status qd_batch_fill_extra(struct qd_batch *batch, const struct qd_dataset *data);
/* Loss weight of one timestep: min(snr, gamma) over snr (epsilon), over snr + 1 (v), over 1 (sample), snr = a/(1-a); 1 without
 * gamma. */
double qd_loss_weight(const struct qd_noising *noising, int64_t t);

/* ---- learning rates ---- */
enum qd_lr_schedule { QD_LR_COSINE, QD_LR_CONSTANT, QD_LR_LINEAR };
extern const char *const qd_lr_schedule_names[]; /* NULL-terminated, in the order of the enum */
/* Factor on the learning rate at step (from 0) of steps: linear from 0 over `warmup` steps, then down to 0 by the schedule. */
double qd_lr_factor(enum qd_lr_schedule schedule, int64_t step, int64_t steps, int64_t warmup);

/* ---- the loop (loop.c) ---- */
/* What both kinds of training take; one run's identity is hashed from it. */
struct qd_loop_options {
	int64_t steps, batch; /* updates, and samples in each */
	double lr;
	enum qd_lr_schedule schedule;
	int64_t warmup;                               /* updates over which the learning rate rises */
	double beta1, beta2, eps, weight_decay, clip; /* AdamW; clip: largest global gradient norm, 0: none */
	int64_t evaluate_every;                       /* updates between looks at how good it is; 0: see the options of each */
	int64_t checkpoint_every;                     /* updates between saves of the state, "<output>.ckpt"; 0: none */
	uint64_t seed;
	const char *output;
	bool force;
};
struct qd_loop_options qd_loop_options_default(void);

/* ---- `quad train` (train.c) ---- */
struct qd_train_options {
	struct qd_loop_options loop; /* evaluate_every: reports of the validation loss, 0: at the end only */
	double ema;                  /* decay of the averaged weights that are written, 0: none */
	double snr_gamma, prompt_dropout;
	bool bfloat16;            /* operands of products are rounded to bfloat16 (qt_set_bfloat16) */
	int64_t lora;             /* rank of a fresh adapter; 0 trains all weights */
	double alpha;             /* gain = alpha / rank; 0: alpha = rank */
	const char *slots;        /* policy of qd_slots_choose for the fresh adapter */
	const char *init_adapter; /* adapter to go on from; NULL: down uniform in +-1/sqrt(fan in), up zero */
	const char *validation;   /* data file, or NULL */
	enum qd_dtype dtype;      /* of what is written: F32 or F16 */
};
struct qd_train_options qd_train_options_default(void);
struct qd_train_result {
	int64_t parameters, resumed_at;
	double loss, validation; /* mean over the last tenth of the steps; NAN where there was none */
	double seconds;          /* of this process's steps */
};
/*
 * Trains and writes the output: a diffusers folder (all weights) or an adapter file (lora > 0 or init_adapter). While it runs with
 * checkpoint_every > 0, "<output>.ckpt" holds its state; a run that finds one of the same options, model, noise schedule and data
 * goes on from it and says so through the log hook, one of others is QD_EEXIST without `force`. QD_EINPUT when the loss is no
 * longer finite.
 */
QD_CHECK enum qd_status qd_train(const struct qd_model *model, const struct qd_modules *modules, const char *const *data,
	size_t n_data, const struct qd_train_options *options, struct qd_train_result *result);

/* ---- `quad distill` (distill.c) ---- */
struct qd_distill_options {
	/* lr: of down and up in 1/127 of the shared range, which is one step of an 8-bit grid; 0: by the start, see distill.c.
	 * evaluate_every: judgements on held-out draws, 0: eight in all. */
	struct qd_loop_options loop;
	int64_t pool;           /* draws to learn from, rounded up to whole batches or trajectories, beside which one of eight
				   judges; 0: as many as the steps take, 64 to 512 in all */
	double lr_gain;         /* of the logarithm of the gain; negative: by the start */
	double task_weight;     /* of the training objective beside reconstruction, where the data has latents */
	const char *trajectory; /* "ddim" or "euler": draw the states that the teacher passes when sampling; NULL: noised latents */
	int trajectory_steps;
	bool exact_gradients; /* by products of float32, not of bfloat16 where the processor has those */
	bool libtorch;        /* the student on libtorch's operators */
};
struct qd_distill_options qd_distill_options_default(void);
struct qd_distill_result {
	int64_t parameters, resumed_at, draws, held_out; /* draws learned from, draws that judge */
	int64_t best_step;                               /* after which the state that was written came about; 0: the start */
	double before, after;       /* mean squared error over the teacher's variance, on the draws that judge */
	double before_db, after_db; /* the same as SQNR of the output in dB */
	double teacher_seconds, seconds;
};
/*
 * Fine-tunes one adapter under `profile`, whose encodings stay as they are. The student is the graph with every encoding active and
 * rounding straight through; its down, up and gain start from the adapter fitted by the profile's alignment; biases, where it has some, are
 * held as they are. The teacher is the
 * float graph with the adapter as it is. Loss: reconstruction (mean squared error over the teacher's variance) + task_weight * the
 * training objective. The state with the lowest error on held-out draws is written, the start included, so the
 * result is never worse than it there: a file in diffusers format whose tensors lie on the profile's grid, with the gain beside
 * them; fitting it under the profile gives the trained codes bit for bit.
 */
QD_CHECK enum qd_status qd_distill(const struct qd_model *model, const struct qd_profile *profile, const struct qd_adapter *adapter,
	const char *const *data, size_t n_data, const struct qd_distill_options *options, struct qd_distill_result *result);

#endif
