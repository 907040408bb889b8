/*
 * lib/sampler: noise schedules and the arithmetic of diffusion, the schedulers that step a sample through time, samplers fitted to
 * a model (OLSS), and the one sampling loop.
 *
 * Dimension letters: N samples, Cl latent channels, Cc condition channels, C = Cl + Cc channels of the model's `sample` input, H W
 * pixels; k steps of a fitted sampler, T steps of the reference it was fitted to.
 *
 * A scheduler more: its file with its struct qd_scheduler_kind, its row in QD_SCHEDULER_LIST (both in internal.h), its cases in
 * tests/unit/test_scheduler.c.
 */
#ifndef QUAD_LIB_SAMPLER_SAMPLER_H
#define QUAD_LIB_SAMPLER_SAMPLER_H

#include "lib/base/base.h"

/* ---- schedulers (scheduler.c) ---- */
enum qd_prediction { QD_PREDICT_EPSILON, QD_PREDICT_V, QD_PREDICT_SAMPLE };
extern const char *const qd_prediction_names[]; /* as files spell them, in the order of the enum, NULL at the end */
/* The noise schedule of scheduler_config.json. */
struct qd_schedule {
	int train_steps;
	double *alphas_cumprod; /* [train_steps] */
	enum qd_prediction prediction;
	char spacing[16]; /* "leading", "trailing", "linspace" or "" (the class default) */
	int steps_offset;
	bool clip_sample, set_alpha_to_one, karras;
	double clip_range;
	int original_steps;          /* of the sampler that a consistency model was distilled from */
	double timestep_scaling;     /* of its boundary conditions */
	bool final_sigma_min;        /* Euler ends at the table's smallest sigma, not at 0 */
	double sigma_min, sigma_max; /* of Karras' spacing; 0: the first and last sigma of the plain one */
};
/* `root`: a pipeline folder with scheduler/scheduler_config.json; without one, SD1.5's values (and a note through the log hook).
 * `pipeline`: the class of the pipeline, which may override fields; "" when it is not known. */
QD_CHECK enum qd_status qd_schedule_read(struct qd_schedule *schedule, const char *root, const char *pipeline);
/* The configuration that this reads, with the fields that the pipeline overrides as it has them: one that needs no pipeline. A new
 * reference. */
QD_CHECK enum qd_status qd_schedule_json(json_t **out, const char *root, const char *pipeline);
void qd_schedule_release(struct qd_schedule *schedule);
/* What stands for scheduler_config.json where there is none, as a new document, with a prediction. NULL: out of memory. */
json_t *qd_schedule_default(enum qd_prediction prediction);
/* A hash over all that the schedule says: of whatever it shapes, part of the identity. `out`: QD_HASH_TEXT bytes. */
void qd_schedule_hash(const struct qd_schedule *schedule, char *out);

struct qd_scheduler {
	const struct qd_schedule *schedule;
	int kind; /* row of the scheduler table: "ddim", "euler", "lcm", "olss" */
	int steps;
	double *timesteps, *sigmas; /* [steps], [steps + 1] */
	double init_sigma;
	void *own; /* what the kind keeps between steps; NULL: nothing */
};
/*
 * `kind`: "ddim", "euler", "lcm", or "olss:FILE" with a fitted sampler (below), whose number of steps is taken for `steps` 0.
 * `schedule` must outlive it. QD_EINPUT for any other kind, and for a number of steps that the kind does not have.
 */
QD_CHECK enum qd_status qd_scheduler_new(struct qd_scheduler *s, const struct qd_schedule *schedule, const char *kind, int steps);
void qd_scheduler_release(struct qd_scheduler *s);
/* The kinds as they are asked for, "olss:FILE" where a file belongs to it; NULL behind the last. */
const char *qd_scheduler_name(size_t i);
/* The same of those kinds that need no file, and no noise after the first: a way that the model alone decides. */
const char *qd_scheduler_plain_name(size_t i);
/* Model input for step i: `in` and `out` of n floats (may be the same). */
void qd_scheduler_scale_input(const struct qd_scheduler *s, int i, size_t n, const float *in, float *out);
/* x (n floats, in place) from step i to i + 1 given the model's output; `noise` as long as x for stochastic schedulers, else NULL.
 */
QD_CHECK enum qd_status qd_scheduler_step(
	const struct qd_scheduler *s, int i, size_t n, float *x, const float *model_out, const float *noise);

/*
 * ---- the arithmetic of diffusion (diffusion.c) ----
 * The arithmetic of diffusion, in one place: noising, what a network is taught to say, and back from what it says. With abar =
 * alphas_cumprod[t], clean latents x0 and noise e ~ N(0,1):
 *
 *   x_t = sqrt(abar) x0 + sqrt(1 - abar) e                                              (Ho et al. 2020, eq. 4)
 *   target   epsilon: e    v: sqrt(abar) e - sqrt(1 - abar) x0    sample: x0            (Salimans & Ho 2022, appendix D)
 *
 * Everything is computed in double and rounded by the caller, but for the functions named _f32: training noises whole batches in
 * float32, and its results are kept bit for bit.
 */
/* How much of a state is signal and how much noise. */
struct qd_noise_level {
	double signal, noise; /* sqrt(abar), sqrt(1 - abar) */
};
struct qd_noise_level qd_noise_level_of(double abar);

/* x_t. */
double qd_noised(struct qd_noise_level level, double x0, double e);
/* The noise that is left in a state x, whatever way it came about, once x0 is known. */
double qd_noise_in(struct qd_noise_level level, double x, double x0);
/* What the network should say to x_t. */
double qd_target(enum qd_prediction prediction, struct qd_noise_level level, double x0, double e);

/* x_t and the target of n numbers, evaluated in float32. */
void qd_noised_f32(struct qd_noise_level level, size_t n, const float *x0, const float *e, float *out);
void qd_target_f32(
	enum qd_prediction prediction, struct qd_noise_level level, size_t n, const float *x0, const float *e, float *out);

/* x0 and the noise e that explain a state x and a network's answer m to it. */
struct qd_prediction_terms {
	double x0_x, x0_m, e_x, e_m; /* x0 = x0_x x + x0_m m; e = e_x x + e_m m */
};
struct qd_prediction_terms qd_predict(enum qd_prediction prediction, double abar);
/* x0 alone, of a state x = x0 + sigma e whose scaled form x / sqrt(sigma^2 + 1) the network answered. */
struct qd_prediction_terms qd_predict_sigma(enum qd_prediction prediction, double sigma);

/*
 * ---- OLSS (olss.c, olss_fit.c) ----
 * OLSS, Optimal Linear Subspace Search (Duan et al. 2023, arXiv 2305.14677): a sampler whose every step is one linear combination
 * of the starting noise and all outputs of the model so far,
 *
 *   x_(i+1) = wx[i] x_T + sum over j <= i of we[i][j] e_j
 *
 * with x_T the starting noise and e_j what the model said (guided) at step j, timestep t_j. Timesteps and coefficients come from
 * recorded runs of a reference scheduler with many steps; they absorb the prediction type and the guidance, and belong to the model
 * they were fitted on.
 */
struct qd_olss {
	int steps;                    /* k */
	double *timesteps;            /* [k], decreasing */
	double *wx;                   /* [k] */
	double *we;                   /* [k,k], row i is used up to column i, 0 behind */
	double error;                 /* of the last fit: mean squared error of an element of the final latents */
	double guidance;              /* that the recorded outputs were made with */
	int reference_steps;          /* T */
	char base_hash[QD_HASH_TEXT]; /* of the model the runs were recorded on; "" when that is not known */
	char *notes;                  /* free text, for people; NULL: none */
};
void qd_olss_release(struct qd_olss *olss);

/* The file's layout stands in olss.c. QD_EIO; QD_EINPUT names file, tensor or key, found and needed. */
QD_CHECK enum qd_status qd_olss_read(struct qd_olss *olss, const char *path);
/* QD_EEXIST, QD_EIO. Equal values give equal bytes. */
QD_CHECK enum qd_status qd_olss_write(const struct qd_olss *olss, const char *path, bool force);

/*
 * All inner products of what reference runs passed through: everything the fit needs, whatever the runs' size. Rows 0 to T are the
 * latents before each step and at the end, rows T + 1 to 2 T the outputs of the model.
 */
struct qd_olss_gram {
	int steps;         /* T */
	double *products;  /* [2T+1,2T+1] */
	uint64_t elements; /* of a latent, over all runs */
};
QD_CHECK enum qd_status qd_olss_gram_init(struct qd_olss_gram *gram, int steps);
void qd_olss_gram_release(struct qd_olss_gram *gram);
/* Adds runs: recorded f32 [2T+1,n], n latent elements of all samples in a row. QD_EINPUT when a value is not finite. QD_ENOMEM. */
QD_CHECK enum qd_status qd_olss_gram_add(struct qd_olss_gram *gram, size_t n, const float *recorded);

/*
 * Chooses at most `steps` of the reference's timesteps [T] and their coefficients (the algorithm stands in olss_fit.c). Fills all
 * of `olss` but guidance, base_hash and notes; olss->steps is smaller than asked where fewer reach the end as exactly. QD_EINPUT:
 * `steps` not in [1, T], nothing recorded. QD_ENOMEM.
 */
QD_CHECK enum qd_status qd_olss_fit(struct qd_olss *olss, const struct qd_olss_gram *gram, const double *timesteps, int steps);

/*
 * ---- sampling (sample.c) ----
 * Sampling: noise becomes latents by calling a model once (with guidance: twice) for each step of a scheduler. The model is a
 * function, so that every engine that can execute it is driven by this one loop.
 */
/* One call of the model. `conditional` is false for the pass under the negative prompt of classifier-free guidance. */
struct qd_denoise_call {
	int step;
	double timestep;
	bool conditional;
	const float *sample; /* [N,C,H,W]: scaled latents, then the condition's channels */
	float *out;          /* [N,Cl,H,W]: to be written */
};
typedef enum qd_status (*qd_denoise)(void *context, const struct qd_denoise_call *call);

/* What each step starts from and hears: `latents` [N,Cl,H,W] before the step, unscaled, and `out` [N,Cl,H,W], guided. */
typedef void (*qd_sample_hook)(void *context, int step, const float *latents, const float *out);

struct qd_sampling {
	const struct qd_scheduler *scheduler;
	int64_t n, latent_channels, condition_channels, height, width;
	const float *condition; /* [N,Cc,H,W]; NULL when Cc is 0 */
	double guidance;        /* out = uncond + guidance (cond - uncond) (Ho & Salimans 2022); 1: one pass, no guidance */
	uint64_t seed;          /* of the noise that stochastic schedulers add; sample i's noise depends on seed and i alone */
	bool quiet;             /* no progress: the caller counts runs */
	int steps;              /* so many of the scheduler's are enough; 0: all */
	qd_sample_hook observe; /* NULL: none */
	void *observe_context;
};

/*
 * Standard normal numbers for `n` samples of `each` floats; sample i's depend on `seed`, `draw` and i alone. Draw 0 is what
 * sampling starts from, draw s + 1 what step s of a stochastic scheduler adds.
 */
void qd_sample_noise(uint64_t seed, uint64_t draw, int64_t n, int64_t each, float *out);

/*
 * Runs the loop. `latents` f32 [N,Cl,H,W] holds standard normal noise on entry (it is scaled by the scheduler's initial sigma) and
 * the sample on return. Returns the first failure of `denoise`; QD_ENOMEM; QD_EINPUT naming the step when the model's output is not
 * finite.
 */
QD_CHECK enum qd_status qd_sample(const struct qd_sampling *sampling, qd_denoise denoise, void *context, float *latents);

#endif
