/*
 * What the schedulers share: the row that each fills in, and the lists of timesteps. T training steps, n inference steps, abar(t)
 * the cumulative product of 1 - beta.
 */
#ifndef QUAD_LIB_SAMPLER_INTERNAL_H
#define QUAD_LIB_SAMPLER_INTERNAL_H

#include "lib/sampler/sampler.h"

struct qd_scheduler_kind {
	const char *name;
	const char *usage; /* how it is asked for, where that is not by its name alone: "olss:FILE" */
	bool noisy;        /* steps take noise */
	/* Kinds named "NAME:FILE": reads the file into s->own and sets s->steps; NULL: takes no file. */
	enum qd_status (*open)(struct qd_scheduler *s, const char *path);
	void (*close)(struct qd_scheduler *s); /* releases s->own */
	/* Fills s->timesteps (and sigmas, init_sigma); s->steps may shrink. */
	enum qd_status (*prepare)(struct qd_scheduler *s);
	/* What the model input is divided by; NULL: 1. */
	double (*input_scale)(const struct qd_scheduler *s, int i);
	enum qd_status (*step)(const struct qd_scheduler *s, int i, size_t n, float *x, const float *m, const float *noise);
};

/* X(name): the kinds, each struct qd_scheduler_kind qd_scheduler_<name> of a file of this folder. */
#define QD_SCHEDULER_LIST(X)                                                                                                       \
	X(ddim)                                                                                                                    \
	X(euler)                                                                                                                   \
	X(lcm)                                                                                                                     \
	X(olss)
#define QD_SCHEDULER_DECLARE(name) extern const struct qd_scheduler_kind qd_scheduler_##name;
QD_SCHEDULER_LIST(QD_SCHEDULER_DECLARE)
#undef QD_SCHEDULER_DECLARE

/* Timesteps by s->schedule's spacing, or `spacing` where it has none; `round`: linspace is rounded to whole steps. */
QD_CHECK enum qd_status qd_spaced_timesteps(struct qd_scheduler *s, const char *spacing, bool round);

#endif
