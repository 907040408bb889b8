/*
 * export/runtime: what runs. Whatever a path holds is opened as a runner (lib/model): a model in float or simulated, another
 * component, an export or another ONNX graph, in the built-in executor or in ONNX Runtime. Then sampling with it, comparing two of
 * them step by step, and fitting a sampler to it.
 */
#ifndef QUAD_EXPORT_RUNTIME_RUNTIME_H
#define QUAD_EXPORT_RUNTIME_RUNTIME_H

#include "lib/math/math.h"
#include "lib/sampler/sampler.h"
#include "quant/quant.h"

/* ---- opening what runs (open.c, onnx.c, ort_runner.c) ---- */
enum qd_executor {
	QD_EXECUTOR_BUILTIN, /* of a model the engine, of an exported file libtorch */
	QD_EXECUTOR_TORCH,   /* libtorch's operators: the reference */
	QD_EXECUTOR_ORT,     /* ONNX Runtime, for ONNX graphs */
};
extern const char *const qd_executor_names[]; /* of these; ends with NULL */
struct qd_runtime_options {
	const char *base; /* a pipeline's or a component's folder, a single-file model, an ONNX file, an export's folder */
	/* of a pipeline or VAE: unet, text_encoder, text_encoder_2, encoder, decoder; NULL: what `base` is, or a pipeline's UNet */
	const char *part;
	const char *adapter; /* of a model as qd_adapter_open_spec takes it, of an export as onnx.c has it; NULL: none (gain 0) */
	const char *profile; /* of a model: simulate under it; NULL: float */
	bool refit;          /* as qd_fit_adapter has it */
	enum qd_executor executor;
	const char *ort_library, *ort_profile;
	int threads;
	/* Sizes of what has none of its own, and must fit what has: the inputs to come. NULL: those of a UNet are `sizes`. */
	const struct qd_safetensors *inputs;
	struct qd_sizes sizes;
};
/* Stays where it was opened: its parts point at each other. */
struct qd_runtime {
	struct qd_runtime_options options;    /* what they point at must stay */
	struct qd_runner runner;              /* the adapter's tensors are fed */
	char name[64];                        /* "engine", "torch, simulated", "torch, exported file", "ONNX Runtime 1.30.0" */
	const char *root;                     /* the folder with scheduler/: of the pipeline or the export, or that of the file */
	const char *onnx_path, *adapter_path; /* of an ONNX graph; NULL: none */
	const char *output_name;              /* NULL, or what an ONNX file of a UNet calls its output "out" */
	struct qd_arena arena;
	/* what the runner stands on: a UNet ... */
	struct qd_opened opened;
	struct qd_slots slots;
	struct qd_profile profile;
	struct qd_net net;
	/* ... or another component ... */
	struct qd_component component;
	struct qd_graph component_graph;
	/* ... or an ONNX graph */
	struct qd_onnx onnx;
	struct qd_ort *ort;
};
/*
 * QD_EINPUT names what does not fit: a part that is not there, an adapter or profile of something else, an adapter's file that
 * lacks a LoRA input of the graph, or holds another tensor, or a number that is not finite.
 */
QD_CHECK enum qd_status qd_runtime_open(struct qd_runtime *rt, const struct qd_runtime_options *options);
void qd_runtime_release(struct qd_runtime *rt);
/* Feeds every input that is no LoRA tensor from the file. */
QD_CHECK enum qd_status qd_runtime_feed(struct qd_runtime *rt, const struct qd_safetensors *inputs);
/* ---- one run on the tensors of a file, its outputs beside those of the file (evaluate.c) ---- */
struct qd_evaluated {
	const char *name;
	struct qd_tensor value; /* F32, owned */
	bool finite;
	float low, high;
	const struct qd_tensor *expected; /* of the file; NULL: nothing to compare with */
	bool expected_finite;
	struct qd_error error; /* against `expected` */
};
struct qd_evaluation {
	struct qd_evaluated *outputs; /* of the graph */
	size_t n;
};
/* Runs on what was fed. An output is compared with the file's tensor of its name; the only one of a graph with 'out', too. QD_EINPUT
 * when that has another shape. */
QD_CHECK enum qd_status qd_evaluate(struct qd_evaluation *evaluation, struct qd_runtime *rt, const struct qd_safetensors *inputs);
void qd_evaluation_release(struct qd_evaluation *evaluation);
/* Whether an output is finite and nowhere farther from what was expected. */
bool qd_evaluated_within(const struct qd_evaluated *output, double tolerance);
/* QD_ECHECK names an output that is too far off; QD_EINPUT: there is nothing to compare with. */
QD_CHECK enum qd_status qd_evaluation_check(
	const struct qd_evaluation *evaluation, const struct qd_safetensors *inputs, double tolerance);

/* The noise schedule of what runs: the model's, or the one that lies in the export. */
QD_CHECK enum qd_status qd_runtime_schedule(const struct qd_runtime *rt, struct qd_schedule *schedule);
/* Hash of the float model (struct qd_profile.base_hash), of an export the one it was made from. `out`: QD_HASH_TEXT bytes. */
QD_CHECK enum qd_status qd_runtime_base_hash(const struct qd_runtime *rt, char *out);
/* Adds what runs: a model as "base", or the files of an ONNX graph, adapter and profile. */
QD_CHECK enum qd_status qd_runtime_note(const struct qd_runtime *rt, struct qd_provenance *made);

/* ---- latents to images (decode.c) ---- */
struct qd_decoder {
	const char *path; /* as it was opened */
	struct qd_component component;
	struct qd_component_sizes sizes; /* of the graph; zeros: there is none yet */
	struct qd_graph graph;
	struct qd_runner runner;
};
/* Whether it is a pipeline's folder with a VAE, or a VAE's. */
bool qd_has_decoder(const char *base);
/* Opens it; the path must stay. QD_EINPUT: it is neither. */
QD_CHECK enum qd_status qd_decoder_open(struct qd_decoder *decoder, const char *base);
void qd_decoder_release(struct qd_decoder *decoder);
/* The images f32 [N,C,H,W] of a UNet's latents f32 [N,Z,h,w], in [-1,1] and not clamped; owned by the caller. */
QD_CHECK enum qd_status qd_decode(struct qd_decoder *decoder, const struct qd_tensor *latents, struct qd_tensor *images);
/* Writes the folder `path`: 000000.png and on, of images f32 [N,C,H,W] as qd_decode gives them. */
QD_CHECK enum qd_status qd_write_images(const char *path, const struct qd_tensor *images, bool force);

/* ---- sampling from files (sampling.c) ---- */
struct qd_sampling_options {
	struct qd_runtime_options engine;
	const char *inputs;    /* safetensors: condition [N,Cc,H,W], encoder_hidden_states [N,L,D], noise [N,Cl,H,W],
				  negative_hidden_states, ... */
	const char *scheduler; /* as qd_scheduler_new takes it */
	int steps;             /* 0: those of a fitted sampler, else 8 */
	double guidance;
	uint64_t seed;
	int64_t limit, batch, height, width; /* 0: all samples, at most 8, from the inputs */
	const char *trace;                   /* to be written: what went into the model and came out, each step */
	struct qd_provenance *provenance; /* goes into the trace; what shapes the samples is added. NULL, without a trace: none */
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
 * where the trace was simulated (one range for all steps), else that of the step's stored values. Infinite where a value is not
 * finite.
 */
struct qd_trace_step {
	double timestep, difference, root_mean_square, range;
	const char *not_finite; /* NULL, or whose values are not: "the output", "the stored output", "the stored input" */
};
/* Feeds the inputs stored in a trace, step by step, and compares the outputs; without a limit, for as many samples as the trace
 * holds. `*steps` is a heap array of *n. */
QD_CHECK enum qd_status qd_trace_check(
	const struct qd_sampling_options *options, const char *trace, struct qd_trace_step **steps, size_t *n);
/* The step that differs most; 0 when there is none. */
size_t qd_trace_worst(const struct qd_trace_step *steps, size_t n);
/* QD_ECHECK names that step when it differs by more than `tolerance`, or has values that are not finite. */
QD_CHECK enum qd_status qd_trace_verdict(const struct qd_trace_step *steps, size_t n, double tolerance);

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
