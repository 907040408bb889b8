/*
 * A sampling session: what runs, the file with everything the model is told, and calls of the model for rows of it. Private to the
 * files that sample.
 *
 * Dimension letters as in lib/sampler/sampler.h; B is the batch of the graph.
 */
#ifndef QUAD_EXPORT_RUNTIME_SESSION_H
#define QUAD_EXPORT_RUNTIME_SESSION_H

#include "export/runtime/runtime.h"
#include "lib/sampler/sampler.h"

/* A tensor of the inputs file that goes to the graph input `name`. */
struct qd_column {
	const char *name;
	struct qd_tensor tensor; /* f32, owned */
};

/* Metadata key of a trace. */
#define QD_TRACE_RANGE "range"

struct qd_session {
	const struct qd_sampling_options *options;
	struct qd_tensor_set file;
	struct qd_runtime runtime;
	struct qd_sizes sizes; /* of the graph */
	int64_t n;             /* samples */
	int64_t channels, latent_channels;
	struct qd_column *columns;
	size_t n_columns;
	struct qd_column negative; /* encoder_hidden_states of the unconditional pass */
	struct qd_column condition;
	int64_t first, count; /* the samples that calls are about: [0, n) unless narrowed */
	/* per call */
	struct qd_tensor *feeds; /* sample, timestep, then the columns; f32 [B,...], owned */
	float *out;              /* [B,Cl,H,W] */
	/* the trace */
	struct qd_arena arena;
	struct qd_tensor *traced;
	size_t n_traced, cap_traced;
};

/* Opens options->inputs and what runs, checks that they fit, reads the rows. `s` is zeroed by the caller, who releases it. */
QD_CHECK enum qd_status qd_session_open(struct qd_session *s, const struct qd_sampling_options *options);
void qd_session_release(struct qd_session *s);
/* Reads a tensor of rows [N or 1, shape of `like` without its first dimension] as float32; owned by the caller. */
QD_CHECK enum qd_status qd_session_rows(
	const struct qd_session *s, const char *name, const struct qd_shape *like, struct qd_tensor *out);
/* Makes the condition [N,Cc,H,W], where one row serves all samples. */
QD_CHECK enum qd_status qd_session_spread_condition(struct qd_session *s);
/* The starting noise, f32 [N,Cl,H,W]: the file's `noise`, or drawn from the seed. Owned by the caller. */
QD_CHECK enum qd_status qd_session_noise(const struct qd_session *s, struct qd_tensor *latents);
/* What the loop needs for samples [s->first, s->first + s->count), with the condition made by the function above. */
struct qd_sampling qd_session_sampling(const struct qd_session *s, const struct qd_scheduler *scheduler);
/* A qd_denoise over samples [s->first, s->first + s->count); `context` is the session. */
QD_CHECK enum qd_status qd_session_denoise(void *context, const struct qd_denoise_call *call);

#endif
