/*
 * What train.c and distill.c share and nobody else needs: named parameters under AdamW, and the checkpoint file that holds them.
 */
#ifndef QUAD_DISTILL_INTERNAL_H
#define QUAD_DISTILL_INTERNAL_H

#include "distill/distill.h"
#include "lib/torch/torch.h"

/* ---- optimizer.c ---- */
struct qd_param {
	const char *name; /* borrowed: unique, in the state's file */
	qt_tensor x;      /* the leaf */
	qt_tensor m, v;   /* AdamW's moments */
	qt_tensor kept;   /* what is used in the end: the running average, or the best state so far; NULL: x itself */
	double lr_scale;  /* factor on the learning rate */
	double decay;     /* factor on the weight decay: 0 for vectors, which are biases and norms */
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
/* Adds a leaf (a new reference is taken) and makes it require gradients. */
QD_CHECK enum qd_status qd_optimizer_add(struct qd_optimizer *o, const char *name, qt_tensor leaf, double lr_scale);
/* One update of every parameter from its gradient, clipped to a global norm, then the averages; gradients are dropped. `norm` (may
 * be NULL) receives the gradient's norm before clipping. */
QD_CHECK enum qd_status qd_optimizer_step(struct qd_optimizer *o, double lr, double *norm);
/* The present state, of the given measure, becomes the kept one. */
QD_CHECK enum qd_status qd_optimizer_keep(struct qd_optimizer *o, double measure);
/* What is used in the end of a parameter. */
qt_tensor qd_param_kept(const struct qd_param *p);
int64_t qd_optimizer_parameters(const struct qd_optimizer *o);
void qd_optimizer_release(struct qd_optimizer *o);

/* ---- batch.c ---- */
/* Binds a batch's tensors to the inputs of an executor that have their names. */
QD_CHECK enum qd_status qd_batch_bind(const struct qd_batch *batch, const struct qd_graph *g, struct qd_exec *exec);

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
	const struct qd_objective *objective;
	const struct qd_graph *graph;
	struct qd_exec *exec;   /* float, the original adapter bound */
	const char *trajectory; /* scheduler whose steps are the draws; NULL: noised latents, or samples as stored */
	int trajectory_steps;
	uint64_t seed;
};
/*
 * Makes at least `draws` draws in whole batches of batch->n (which is used as scratch); an eighth of the batches, at least one,
 * judge. QD_EINPUT when the teacher's output is not finite, and for a trajectory without latents.
 */
QD_CHECK enum qd_status qd_pool_make(struct qd_pool *pool, const struct qd_teacher *teacher, struct qd_batch *batch, int64_t draws);
/* Draws `draw[0..batch->n)` into the batch, inputs and target; their teacher outputs to `out` [B,out_row]. */
QD_CHECK enum qd_status qd_pool_take(
	const struct qd_pool *pool, const struct qd_dataset *data, const int64_t *draw, struct qd_batch *batch, float *out);
void qd_pool_release(struct qd_pool *pool);

#endif
