/*
 * export: what leaves the program. A net that carries a profile's encodings becomes one ONNX file whose LoRA tensors are inputs, an
 * encodings JSON, one set of files per adapter, and a manifest, in a folder that appears whole. What was exported is read back and
 * executed by the engines at the end of this header.
 *
 * The order of passes is pipeline.c, on one screen; the files are folder.c.
 */
#ifndef QUAD_EXPORT_EXPORT_H
#define QUAD_EXPORT_EXPORT_H

#include "lib/onnx/onnx.h"
#include "lib/ort/ort.h"
#include "quant/quant.h"

/* ---- passes (one file each) ---- */
/* Encodings become nodes: see pass_qdq.c. `context` is a struct qd_stored_weights. */
extern const struct qd_pass qd_pass_qdq;
/* Equal constants of at most 64 bytes become one. No context. */
extern const struct qd_pass qd_pass_share_constants;

/* ---- encodings JSON (encodings_json.c) ---- */
/* The document of version 1.0.0 for a graph whose values carry encodings (before qd_pass_qdq). A new reference. */
QD_CHECK enum qd_status qd_encodings_json(const struct qd_graph *g, const struct qd_quant_options *options, json_t **out);

/* ---- adapter files (adapter_files.c, onnx_adapter.c) ---- */
/* An adapter's tensors under their graph input names: codes (or, with `as_float`, the real numbers these stand for), gain float32.
 */
struct qd_adapter_tensors {
	struct qd_tensor *items;
	size_t n;
	struct qd_arena arena;
};
QD_CHECK enum qd_status qd_adapter_tensors_make(
	struct qd_adapter_tensors *tensors, const struct qd_fitted *fitted, const struct qd_profile *profile, bool as_float);
void qd_adapter_tensors_release(struct qd_adapter_tensors *tensors);
/* ONNX Runtime's adapter file with the given tensors. QD_EUNSUPPORTED names a tensor whose dtype ONNX has no number for, or a
 * scalar. */
QD_CHECK enum qd_status qd_onnx_adapter_write(
	const char *path, const struct qd_tensor *tensors, size_t n, int32_t adapter_version, int32_t model_version, bool force);

/* ---- the whole export (folder.c, manifest.c) ---- */
enum qd_export_format { QD_EXPORT_QDQ = 1, QD_EXPORT_FLOAT = 2, QD_EXPORT_BOTH = 3 };
struct qd_export_options {
	struct qd_sizes sizes;
	enum qd_export_format format;
	bool external, force, dry_run;
	const char *profile_path; /* hashed into the manifest */
	const char *command;      /* the command line, recorded */
	const char *version;      /* of the program */
	const char *dump_after;   /* a pass whose result is given to `dump`; NULL: none */
	void (*dump)(void *context, const char *text);
};
/*
 * Writes the folder `path`: model.onnx (QDQ), model_float.onnx (FLOAT), model.encodings.json, adapters/NAME.safetensors and
 * NAME.onnx_adapter, adapters_float/NAME.safetensors (FLOAT), lora_weight_list.txt, scheduler/scheduler_config.json where the model
 * has one, manifest.json. `manifest` (may be NULL) receives the manifest's document, a new reference. With dry_run everything but
 * writing is done. QD_EINPUT for a profile of another base or an adapter that does not fit the slots; QD_EEXIST.
 */
QD_CHECK enum qd_status qd_export(const char *path, const struct qd_model *model, const struct qd_profile *profile,
	const struct qd_adapter *const *adapters, size_t n, const struct qd_export_options *options, json_t **manifest);
/*
 * Adds adapters to an export without touching its graph. QD_EINPUT when the manifest's profile is another one, or a slot or rank
 * differs; QD_EEXIST when an adapter of that name is there and `force` is false. The manifest is replaced last.
 */
QD_CHECK enum qd_status qd_export_adapters(const char *path, const struct qd_profile *profile,
	const struct qd_adapter *const *adapters, size_t n, const struct qd_export_options *options, json_t **manifest);
/* True for a folder that an export wrote (it holds manifest.json). */
bool qd_is_export(const char *path);

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
 * Records the reference on all samples of the inputs file, fits (lib/model/olss.h), writes options->output and measures on the same
 * samples. Memory: one batch's latents and outputs of all steps. QD_EINPUT, QD_EEXIST.
 */
QD_CHECK enum qd_status qd_fit_sampler(const struct qd_fit_sampler_options *options, struct qd_fit_sampler_result *result);

/* ---- comparing samples (report.c, sheet.c) ---- */
/* Sampled latents stand for images in [0,1] by x = (1 + latent) / 2, their channels being pack x pack blocks of pixels
 * (PixelUnshuffle). */
struct qd_report_column {
	const char *name, *path; /* a file with `latents` [N,Cl,H,W] */
};
struct qd_report_task {
	const char *name;
	const char *reference; /* the float samples that columns are measured against */
	const char
		*input; /* NULL, or the file with `picture` [N,Cl,H,W], or `condition` [N,Cc,H,W], whose last Cl channels are one */
	const char *truth; /* NULL, or a file with the wanted `latents` [N,Cl,H,W]: every column is measured against it too */
	struct qd_report_column *columns;
	size_t n, cap;
};
/* Peak signal to noise ratio in dB of images clamped to [0,1], over samples; NaN where not measured. */
struct qd_report_cell {
	double mean, standard_error;             /* against the reference */
	double truth_mean, truth_standard_error; /* against the truth */
	double *each;                            /* [samples], against the reference */
	size_t n;
};
struct qd_report {
	struct qd_report_task *tasks;
	size_t n, cap;
	int pack; /* 1 or more */
	int show; /* samples of each task on the sheet */
	int zoom; /* pixels of the sheet per pixel of an image */
	/* filled by qd_report_measure */
	const char **columns; /* their names, in the order in which tasks give them */
	size_t n_columns;
	struct qd_report_cell *cells;     /* [n][n_columns]; each is NULL where a task lacks the column */
	struct qd_report_cell *reference; /* [n]: the reference itself against the truth */
	struct qd_arena arena;
};
/* QD_EINPUT names file, tensor, found and needed. */
QD_CHECK enum qd_status qd_report_measure(struct qd_report *report);
/* Draws rows of tasks and columns of images: input, float, then the columns; each cell's PSNR under its images. */
QD_CHECK enum qd_status qd_report_sheet(const struct qd_report *report, struct qd_image *sheet);
/* Aligned text, each line a row of a Markdown table; a heap string. A new reference of the same as JSON. */
QD_CHECK enum qd_status qd_report_text(const struct qd_report *report, char **text);
QD_CHECK enum qd_status qd_report_json(const struct qd_report *report, json_t **out);
void qd_report_release(struct qd_report *report);

/* n images f32 [n,3,h,w] or [n,1,h,w] made of a tensor [N,Cl,H,W], from channel `first` on `channels` of them; heap memory. */
struct qd_images {
	float *pixels;
	size_t n;
	int channels, height, width;
};
QD_CHECK enum qd_status qd_images_read(struct qd_images *images, const char *path, const char *tensor, int64_t channels, int pack);
void qd_images_release(struct qd_images *images);

#endif
