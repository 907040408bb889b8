/*
 * OLSS, Optimal Linear Subspace Search (Duan et al. 2023, arXiv 2305.14677): a sampler whose every step is one linear combination
 * of the starting noise and all outputs of the model so far,
 *
 *   x_(i+1) = wx[i] x_T + sum over j <= i of we[i][j] e_j
 *
 * with x_T the starting noise and e_j what the model said (guided) at step j, timestep t_j. Timesteps and coefficients come from
 * recorded runs of a reference scheduler with many steps; they absorb the prediction type and the guidance, and belong to the model
 * they were fitted on.
 *
 * Dimension letters: k steps of the fitted sampler, T steps of the reference.
 */
#ifndef QUAD_LIB_MODEL_OLSS_H
#define QUAD_LIB_MODEL_OLSS_H

#include "lib/base/base.h"

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

#endif
