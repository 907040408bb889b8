/*
 * export/runtime: what runs. A model, simulated or in float, or an export, in the built-in executor or in ONNX Runtime; sampling
 * with it, comparing two of them step by step, and fitting a sampler to it.
 */
#ifndef QUAD_EXPORT_RUNTIME_RUNTIME_H
#define QUAD_EXPORT_RUNTIME_RUNTIME_H

#include "lib/model/model.h"
#include "lib/sampler/sampler.h"

/* ---- engines (engine.c): a model that can be called, whatever executes it ---- */
struct qd_engine;
struct qd_engine_options {
	const char *base;    /* a model folder, or the folder of an export */
	const char *adapter; /* model folder: NAME=PATH; export: NAME, or NAME=FILE of such tensors; NULL: none (gain 0) */
	const char *profile; /* model folder: simulate under it; NULL: float */
	bool ort;            /* execute an export's model.onnx with ONNX Runtime */
	const char *ort_library, *ort_profile;
	struct qd_sizes sizes; /* model folder only: an export's are its own */
	int threads;
};
QD_CHECK enum qd_status qd_engine_open(struct qd_engine **engine, const struct qd_engine_options *options);
void qd_engine_free(struct qd_engine *engine);
/* The graph that is executed: its inputs' names and shapes. */
const struct qd_graph *qd_engine_graph(const struct qd_engine *engine);
/* The folder with scheduler/ (a pipeline folder or the export). */
const char *qd_engine_root(const struct qd_engine *engine);
/* The class of the model's pipeline; "" of an export. */
const char *qd_engine_pipeline(const struct qd_engine *engine);
/* "torch", "torch, simulated", "ONNX Runtime 1.30.0" */
const char *qd_engine_name(const struct qd_engine *engine);
/* Hash of the float model (struct qd_profile.base_hash), of an export the one it was made from. `out`: QD_HASH_TEXT bytes. */
QD_CHECK enum qd_status qd_engine_base_hash(const struct qd_engine *engine, char *out);
/* One call: feeds by input name; `out` receives the first output, float32. The adapter's tensors are fed by the engine. */
QD_CHECK enum qd_status qd_engine_run(struct qd_engine *engine, const struct qd_tensor *feeds, size_t n, float *out);

/* ---- sampling from files (sampling.c) ---- */
struct qd_sampling_options {
	struct qd_engine_options engine;
	const char *inputs;    /* safetensors: condition [N,Cc,H,W], encoder_hidden_states [N,L,D], noise [N,Cl,H,W],
				  negative_hidden_states, ... */
	const char *scheduler; /* as qd_scheduler_new takes it */
	int steps;             /* 0: those of a fitted sampler, else 8 */
	double guidance;
	uint64_t seed;
	int64_t limit, batch, height, width; /* 0: all samples, at most 8, from the inputs */
	const char *trace;                   /* to be written: what went into the model and came out, each step */
};
/* The number of steps that will be taken. */
QD_CHECK enum qd_status qd_sampling_steps(const struct qd_sampling_options *options, int *steps);
/*
 * `latents` f32 [N,Cl,H,W], owned by the caller. QD_EINPUT names what does not fit: an input, or a sampler that was fitted for
 * another guidance or model.
 */
QD_CHECK enum qd_status qd_sample_file(const struct qd_sampling_options *options, struct qd_tensor *latents);
/*
 * The largest difference of one step and the root of the mean square, both relative to the output's range: what its encoding covers
 * where the trace was simulated (one range for all steps), else that of the step's stored values.
 */
struct qd_trace_step {
	double timestep, difference, root_mean_square, range;
};
/* Feeds the inputs stored in a trace, step by step, and compares the outputs; without a limit, for as many samples as the trace
 * holds. `*steps` is a heap array of *n. */
QD_CHECK enum qd_status qd_trace_check(
	const struct qd_sampling_options *options, const char *trace, struct qd_trace_step **steps, size_t *n);

/* ---- fitting a sampler (fit_sampler.c) ---- */
struct qd_fit_sampler_options {
	struct qd_sampling_options reference; /* its runs are recorded: scheduler "ddim", 100 steps */
	int steps;                            /* of the sampler to fit */
	const char *output;
	bool force;
};
struct qd_fit_sampler_result {
	int steps; /* fewer than asked where fewer do as well */
	int64_t samples;
	double error;  /* mean squared difference of an element from the reference's result, sampling with the fitted steps */
	double plain;  /* the same with as many of the reference scheduler's own steps */
	double energy; /* mean square of the reference's result */
};
/*
 * Records the reference on all samples of the inputs file, fits (lib/sampler/sampler.h), writes options->output and measures on the
 * same samples. Memory: one batch's latents and outputs of all steps. QD_EINPUT, QD_EEXIST.
 */
QD_CHECK enum qd_status qd_fit_sampler(const struct qd_fit_sampler_options *options, struct qd_fit_sampler_result *result);

#endif
