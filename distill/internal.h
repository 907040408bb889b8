/*
 * What train.c and distill.c share and nobody else needs: the loop, named parameters under AdamW, the file that holds their state,
 * and the pool of what a student is taught.
 */
#ifndef QUAD_DISTILL_INTERNAL_H
#define QUAD_DISTILL_INTERNAL_H

#include "distill/distill.h"
#include "lib/torch/torch.h"

#include <stdio.h>

/* ---- optimizer.c ---- */
struct qd_param {
	const char *name; /* borrowed: the value's, which names it in the state's file */
	qd_id value;      /* of the graph: what it stands for */
	qt_tensor x;      /* the leaf */
	qt_tensor m, v;   /* AdamW's moments */
	qt_tensor kept;   /* what is used in the end: the running average, or the best state so far; NULL: x itself */
	double lr_scale;  /* factor on the learning rate */
	double decay;     /* factor on the weight decay: 0 for vectors, which are biases and norms */
	float low, high;  /* bounds; infinite: none */
};
struct qd_optimizer {
	struct qd_param *params;
	size_t n, cap;
	int64_t step; /* updates made */
	double beta1, beta2, eps, weight_decay, clip;
	double ema;     /* decay of the running average, 0: none */
	bool keep_best; /* `kept` is what qd_optimizer_keep last copied */
	double best;    /* the caller's measure of it */
	int64_t best_step;
};
/* Adds a parameter for a value of a graph (whose name is kept), starting from `start` of any float type: a leaf that requires
 * gradients, the last of o->params. */
QD_CHECK enum qd_status qd_optimizer_add(
	struct qd_optimizer *o, const struct qd_graph *g, qd_id value, const struct qd_tensor *start, double lr_scale);
/* From now on the parameter lies within [low, high]. */
QD_CHECK enum qd_status qd_param_bound(struct qd_param *p, float low, float high);
/* One update of every parameter from its gradient, clipped to a global norm, then the averages; gradients are dropped. `norm` (may
 * be NULL) receives the gradient's norm before clipping. */
QD_CHECK enum qd_status qd_optimizer_step(struct qd_optimizer *o, double lr, double *norm);
/* The present state, of the given measure, becomes the kept one. */
QD_CHECK enum qd_status qd_optimizer_keep(struct qd_optimizer *o, double measure);
/* What is used in the end of a parameter. */
qt_tensor qd_param_kept(const struct qd_param *p);
int64_t qd_optimizer_parameters(const struct qd_optimizer *o);
void qd_optimizer_release(struct qd_optimizer *o);

/* ---- state.c ---- */
/* "<output>.ckpt" in malloc'd memory; NULL when out of memory (the message is recorded). */
char *qd_training_state_path(const char *output);
/* Writes all parameters, moments and averages with the step, in one rename. `run` identifies the run: a hash of everything that
 * shapes it. */
QD_CHECK enum qd_status qd_training_state_write(const struct qd_optimizer *o, const char *path, const char *run);
/* Reads it back into the same parameters. `*found` is false when there is no file. One of another run: QD_EEXIST, or without effect
 * under `force`. */
QD_CHECK enum qd_status qd_training_state_read(struct qd_optimizer *o, const char *path, const char *run, bool force, bool *found);
void qd_training_state_remove(const char *path);

/* ---- loop.c ---- */
/* What is learned. `context` is the objective's own. */
struct qd_objective {
	const char *name; /* "train" or "distill": in progress lines, and part of the run's identity */
	bool one_rate;    /* options->lr is the rate of all parameters; else each has its own, lr_scale */
	bool keep_best;   /* what counts is the state of the lowest measure, the start included; else the last one or its average */
	/* Writes as text whatever shapes the result beside the loop's options, the data and the noise that is put on it. */
	enum qd_status (*identify)(void *context, FILE *text);
	/* The loss of an update on samples `index` [B], and its gradients, which the parameters of the loop's optimizer receive. */
	enum qd_status (*learn)(void *context, int64_t step, const int64_t *index, double *loss);
	/* How good the present state is, lower is better; NAN where there is nothing to tell by. Without gradients. */
	enum qd_status (*measure)(void *context, double *measure);
	/* What the progress line says beside the count. */
	void (*note)(const void *context, char *text, size_t size);
	/* Writes what was learned. Without gradients. */
	enum qd_status (*write)(void *context);
};
struct qd_loop {
	const struct qd_objective *objective;
	void *context;
	const struct qd_loop_options *options;
	struct qd_dataset data;
	struct qd_schedule schedule;
	struct qd_batch batch;         /* of options->batch samples of the data, for the objective to fill */
	struct qd_optimizer optimizer; /* the objective adds the parameters */
	struct qd_shuffle shuffle;
	int64_t *index;         /* [B] the samples of an update */
	int64_t evaluate_every; /* as in the options, or by default; 0: at the end only */
	char run[QD_HASH_TEXT], *state;
	int64_t resumed_at;
	double loss, smooth; /* of the last update, and its running mean */
	double late_loss;    /* sum, in the end mean, over the last tenth of the updates; NAN: they were another process's */
	int64_t late_steps;
	double start, measure; /* the start's measure where the best state counts, and the latest; NAN: none */
	double seconds;        /* of this process's updates */
};
/* Opens the data, reads the model's noise schedule and makes the batch. `options` must outlive the loop, which is released whether
 * or not this succeeds. */
QD_CHECK enum qd_status qd_loop_open(struct qd_loop *loop, const struct qd_objective *objective, void *context,
	const struct qd_loop_options *options, const struct qd_model *model, const char *const *data, size_t n_data);
/* All updates on `samples` things to learn from, from where a killed run left off, and writing. QD_EEXIST: there is the state of a
 * run that is not this one (and no `force`); QD_EINPUT: the loss is no longer finite. */
QD_CHECK enum qd_status qd_loop_run(struct qd_loop *loop, int64_t samples);
void qd_loop_release(struct qd_loop *loop);
/* Feeds a batch's tensors to the inputs that have their names. */
QD_CHECK enum qd_status qd_batch_feed(const struct qd_batch *batch, struct qd_runner *runner);

/* ---- pool.c: what the student is taught ---- */
/* Draws from the data and what the teacher says to each, computed once. Draws [0, n_train) are learned from, the others judge. */
struct qd_pool {
	int64_t n, n_train;
	int64_t *index;  /* [n] sample of the data: for prompt and other inputs */
	float *sample;   /* [n, sample_row] */
	float *timestep; /* [n] */
	float *teacher;  /* [n, out_row] */
	float *target;   /* [n, out_row] of the training objective, or NULL */
	size_t sample_row, out_row;
	double variance, energy; /* of all teacher outputs: about their mean, and mean square */
};
struct qd_teacher {
	const struct qd_dataset *data;
	const struct qd_noising *noising;
	struct qd_runner *runner; /* float, the original adapter fed */
	const char *trajectory;   /* scheduler whose steps are the draws; NULL: noised latents, or samples as stored */
	int trajectory_steps;
	uint64_t seed;
};
/*
 * Makes draws in whole groups: batches of batch->n (which is used as scratch), along a trajectory a batch at every step of its way.
 * Of eight groups one judges, at least one in all. `learn` > 0: so many draws to learn from, rounded up to groups, and beside them
 * those that judge. 0: at least `all` draws, both kinds together. QD_EINPUT when the teacher's output is not finite, and for a
 * trajectory without latents.
 */
QD_CHECK enum qd_status qd_pool_make(
	struct qd_pool *pool, const struct qd_teacher *teacher, struct qd_batch *batch, int64_t learn, int64_t all);
/* Draws `draw[0..batch->n)` into the batch, inputs and target; their teacher outputs to `out` [B,out_row]. */
QD_CHECK enum qd_status qd_pool_take(
	const struct qd_pool *pool, const struct qd_dataset *data, const int64_t *draw, struct qd_batch *batch, float *out);
void qd_pool_release(struct qd_pool *pool);

#endif
