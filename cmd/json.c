/*
 * quad help json: every field of every document that --json prints. The one place that tells them; tests/e2e/json.sh compares it with
 * what is printed.
 *
 * A path has a dot before each member and [] for what is in a list. Types: text, integer, number (with a point), boolean, null, list,
 * object; "any" for whatever is below. A document that is there in another one is told once.
 */
#include "cmd/cmd.h"

struct row {
	const char *path, *type, *text; /* type NULL: a document begins, `path` is its name */
};

/* clang-format off */
#define DOCUMENT(name, text) { name, NULL, text }, { "schema", "integer", "1; another number when a field goes or changes its meaning" },
#define INSPECTED(kind, text) DOCUMENT("inspect " kind, text) { "kind", "text", "\"" kind "\"" }, { "path", "text", "what was looked at" },
#define TOLD(kind, text) INSPECTED(kind, text) { "holds", "text", "what it is, in words" },
#define MODULES(path, text) \
	{ path, "object", text }, \
	{ path ".attention", "integer", "those in attention" }, \
	{ path ".transformer", "integer", "those in transformers, attention included" }, \
	{ path ".all", "integer", "all" },
#define VALUES(path, text) \
	{ path, "list", text }, \
	{ path "[]", "object", "one of them" }, \
	{ path "[].name", "text", "its name" }, \
	{ path "[].dtype", "text", "type of its elements" }, \
	{ path "[].shape", "list", "its dimensions" }, \
	{ path "[].shape[]", "integer", "one of them" },
#define COST(path) \
	{ path "flop", "object", "floating-point operations of a run at native size" }, \
	{ path "flop.conv", "number", "in convolutions" }, \
	{ path "flop.linear", "number", "in linear layers" }, \
	{ path "flop.attention", "number", "in products of attention" }, \
	{ path "activation_bytes", "integer", "memory for values in between, as float32, at most" },
#define RANGE(path, text) \
	{ path, "list", text ", lowest and highest" }, \
	{ path "[]", "number", "one of the two" },
#define ADAPTER_ROWS(path) \
	{ path "parameters", "integer", "elements of down and up" }, \
	RANGE(path "down", "values of down") RANGE(path "up", "values of up") RANGE(path "gain", "values of the gain (scale times alpha / rank)")
#define FOUND(path) \
	{ path "error", "number", "mean square difference from the teacher on held-out draws" }, \
	{ path "sqnr_db", "number|null", "the same as a ratio in dB; null: no difference" },

static const struct row rows[] = {
	DOCUMENT("inspect model", "a UNet: folder, checkpoint or ONNX file")
	{ "kind", "text", "\"model\"" },
	{ "path", "text", "its folder or file" },
	{ "family", "text", "of Stable Diffusion, or other" },
	{ "parameters", "integer", "elements of its weights" },
	{ "tensors", "integer", "weights" },
	{ "bytes", "integer", "their size in the file" },
	{ "dtypes", "text", "types of their elements" },
	{ "native_size", "integer", "height and width of the latents that it was made for" },
	MODULES("modules", "layers that a LoRA can adapt")
	COST("")
	{ "config", "object", "its configuration as diffusers spells it in config.json, with defaults filled in" },
	{ "config.*", "any", "a member of it" },
	{ "beside", "list", "what else is in the pipeline's folder or the checkpoint" },
	{ "beside[]", "object", "one of them" },
	{ "beside[].part", "text", "folder (--part NAME) or section" },
	{ "beside[].class", "text", "of a folder: its class" },
	{ "beside[].tensors", "integer", "of a section: its tensors" },
	{ "beside[].parameters", "integer", "of a section: elements of its tensors" },
	{ "beside[].bytes", "integer", "of a section: their size" },
	{ "beside[].first", "text", "of a section: name of the first" },

	INSPECTED("component", "a VAE or a text encoder")
	{ "class", "text", "its class" },
	{ "parameters", "integer", "elements of its weights" },
	{ "tensors", "integer", "weights" },
	{ "bytes", "integer", "their size in the file" },
	{ "dtypes", "text", "types of their elements" },
	{ "config", "object", "what shapes it" },
	{ "config.features", "integer", "text encoder: features of a token" },
	{ "config.layers", "integer", "text encoder: layers" },
	{ "config.heads", "integer", "text encoder: heads of attention" },
	{ "config.positions", "integer", "text encoder: tokens of a prompt" },
	{ "config.vocabulary", "integer", "text encoder: different tokens" },
	{ "config.act", "text", "text encoder: activation function" },
	{ "config.projection", "integer", "text encoder: features of the projected text; 0: none" },
	{ "config.eos", "integer", "text encoder: id of the token that ends a prompt" },
	{ "config.attention_mask", "boolean", "text encoder: whether it takes a mask" },
	{ "config.in_channels", "integer", "VAE: channels of a picture" },
	{ "config.out_channels", "integer", "VAE: channels that the decoder gives" },
	{ "config.latent_channels", "integer", "VAE: channels of latents" },
	{ "config.factor", "integer", "VAE: pixels to a latent, in each direction" },
	{ "config.scaling_factor", "number", "VAE: by which latents are multiplied" },
	{ "config.mid_attention", "boolean", "VAE: whether the middle block attends" },
	{ "config.latents_mean", "list|null", "VAE: per channel, where latents are normalized" },
	{ "config.latents_mean[]", "number", "of a channel" },
	{ "config.latents_std", "list|null", "VAE: per channel, where latents are normalized" },
	{ "config.latents_std[]", "number", "of a channel" },
	{ "graphs", "list", "what can be run: the text encoder, or encoder and decoder" },
	{ "graphs[]", "object", "one of them" },
	{ "graphs[].part", "text", "name for eval --part" },
	VALUES("graphs[].inputs", "what it takes")
	VALUES("graphs[].outputs", "what it gives")
	{ "graphs[].modules", "integer", "layers that a LoRA could adapt" },
	COST("graphs[].")

	INSPECTED("adapter", "an adapter and the model it fits")
	{ "name", "text", "name for other commands" },
	{ "format", "text", "dialect of the file" },
	{ "hash", "text", "of its tensors" },
	{ "family", "text", "the model: a family's name, or its folder" },
	{ "rank", "list", "lowest and highest rank" },
	{ "rank[]", "integer", "one of the two" },
	MODULES("modules", "layers that it adapts")
	MODULES("modules_of_model", "layers that it could adapt")
	ADAPTER_ROWS("")
	{ "text_tensors", "integer", "tensors for text encoders, which are left out" },
	{ "embeddings", "integer", "embeddings of the file, which are left out" },
	{ "notes", "list", "what else was found" },
	{ "notes[]", "text", "one of them" },
	{ "slots", "list", "the layers" },
	{ "slots[]", "object", "one of them" },
	{ "slots[].path", "text", "the module's path" },
	{ "slots[].rank", "integer", "rank there" },
	{ "slots[].out", "integer", "channels out" },
	{ "slots[].in", "integer", "channels in" },
	{ "slots[].kh", "integer", "height of a convolution's kernel, or 1" },
	{ "slots[].kw", "integer", "width of a convolution's kernel, or 1" },
	ADAPTER_ROWS("slots[].")

	INSPECTED("misfit", "an adapter that does not fit --base (exit code 3)")
	{ "looks_made_for", "text|null", "a family that it fits; null: none" },
	{ "fits", "integer", "layers that fit" },
	{ "layers", "list", "the file's layers" },
	{ "layers[]", "object", "one of them" },
	{ "layers[].name", "text", "as in the file" },
	{ "layers[].path", "text|null", "the module's path; null: the model has none" },
	{ "layers[].fits", "boolean", "whether its shapes are the module's" },
	{ "layers[].tensor", "text", "where it does not fit: the first tensor" },
	{ "layers[].found", "text", "its shape" },
	{ "layers[].needed", "text", "the shape that it should have" },

	INSPECTED("joint", "a model with several adapters (inspect MODEL --adapter ...)")
	{ "slots", "integer", "layers that some adapter touches" },
	{ "rank", "list", "lowest and highest rank of a slot" },
	{ "rank[]", "integer", "one of the two" },
	{ "elements", "integer", "of all LoRA inputs together" },
	MODULES("modules", "layers that are slots")
	MODULES("modules_of_model", "layers that could be")
	{ "adapters", "list", "each adapter" },
	{ "adapters[]", "object", "one of them" },
	{ "adapters[].name", "text", "its name" },
	{ "adapters[].path", "text", "its file or folder" },
	{ "adapters[].format", "text", "dialect of the file" },
	{ "adapters[].slots", "integer", "layers that it adapts" },
	{ "adapters[].rank", "integer", "its highest rank" },
	{ "adapters[].text_tensors", "integer", "tensors for text encoders, which are left out" },

	INSPECTED("onnx", "an ONNX graph that is no UNet")
	{ "inputs", "list", "what it takes" },
	{ "inputs[]", "object", "one of them" },
	{ "inputs[].name", "text", "its name" },
	{ "inputs[].dtype", "text", "type of its elements" },
	{ "inputs[].shape", "list|null", "its dimensions; null: any" },
	{ "inputs[].shape[]", "integer|null", "one of them; null: open" },
	{ "output", "text", "name of its output" },

	INSPECTED("export", "the folder of an export, or its manifest.json")
	{ "manifest", "object", "the manifest, which is the document of quad export" },
	{ "manifest.*", "any", "a member of it" },

	TOLD("tensors", "a list of tensors: safetensors, arrays; so are the kinds sampler, state and onnx_adapter")
	{ "metadata", "object", "texts that the file says about itself" },
	{ "metadata.*", "text", "one of them" },
	{ "tensors", "list", "its tensors" },
	{ "tensors[]", "object", "one of them" },
	{ "tensors[].name", "text", "its name" },
	{ "tensors[].dtype", "text", "type of its elements" },
	{ "tensors[].shape", "list", "its dimensions" },
	{ "tensors[].shape[]", "integer", "one of them" },
	{ "tensors[].min", "number|null", "lowest finite value; null: there is none" },
	{ "tensors[].max", "number|null", "highest finite value; null: there is none" },
	{ "tensors[].not_finite", "integer", "values that are infinite or no number" },

	TOLD("profile", "a profile.json")
	{ "base_hash", "text", "of the model that it was made for" },
	{ "method", "text", "how the encodings were chosen: anchor or unified" },
	{ "anchor", "text|null", "the adapter whose encodings they are" },
	{ "reason", "text", "why" },
	{ "adapters", "list", "names of the adapters that were scored" },
	{ "adapters[]", "text", "one of them" },
	{ "slots", "integer", "layers with LoRA inputs" },
	{ "encodings", "integer", "encodings it holds" },

	TOLD("encodings", "the encodings JSON of an export")
	{ "version", "text|null", "of the format" },
	{ "activations", "integer", "encodings of activations" },
	{ "params", "integer", "encodings of weights" },

	TOLD("config", "the configuration of a model, a component, a scheduler, an adapter or a tokenizer")
	{ "class", "text", "the class that it configures, where it says" },
	{ "members", "integer", "of adapters and tokenizers: how many it has" },

	TOLD("index", "the index of a model in several files, or of the files that quad wrote in a folder")
	{ "entries", "integer", "tensors, or files" },

	TOLD("json", "JSON that says nothing to quad")
	{ "members", "integer", "how many it has" },

	TOLD("text", "text: slots, captions")
	{ "lines", "integer", "how many it has" },

	TOLD("picture", "a picture")
	{ "width", "integer", "in pixels" },
	{ "height", "integer", "in pixels" },

	TOLD("images", "a folder of images for quad calib")
	{ "images", "integer", "how many there are" },
	{ "captions", "integer", "those with a caption" },
	{ "masks", "integer", "those with a mask" },
	{ "conditions", "integer", "those with a condition" },

	TOLD("tokenizer", "a tokenizer's folder")
	{ "symbols", "integer", "different tokens" },
	{ "length", "integer", "tokens of a prompt" },

	TOLD("parts", "the folder of an unfinished quad calib")

	DOCUMENT("eval", "what a graph gave")
	{ "outputs", "list", "its outputs" },
	{ "outputs[]", "object", "one of them" },
	{ "outputs[].name", "text", "its name" },
	{ "outputs[].shape", "list", "its dimensions" },
	{ "outputs[].shape[]", "integer", "one of them" },
	{ "outputs[].min", "number|null", "lowest value" },
	{ "outputs[].max", "number|null", "highest value" },
	{ "outputs[].finite", "boolean", "whether all values are finite numbers" },
	{ "outputs[].max_abs_difference", "number|null", "where there is a tensor to compare with: the largest difference" },
	{ "outputs[].sqnr_db", "number|null", "the same: signal to noise in dB; null: no difference" },
	{ "outputs[].within", "boolean", "with --check: whether the largest difference is allowed" },

	DOCUMENT("calib", "what was written")
	{ "output", "text", "the file" },
	{ "samples", "integer", "samples in it" },
	{ "rows", "integer", "rows of the data" },
	{ "prompts", "integer", "different prompts among the samples" },
	{ "adapters", "integer", "different adapters among them" },
	{ "timesteps", "integer", "different timesteps among them" },
	{ "first_timestep", "number", "the lowest" },
	{ "last_timestep", "number", "the highest" },
	{ "height", "integer", "of the latents" },
	{ "width", "integer", "of the latents" },
	{ "tokens", "integer", "of the context" },
	{ "kept", "integer", "records found finished from an earlier run" },

	DOCUMENT("qss", "the scores")
	{ "method", "text", "how the encodings were chosen: anchor or unified" },
	{ "anchor", "text|null", "the most sensitive adapter, whose encodings are shared; null: unified" },
	{ "reason", "text", "why" },
	{ "adapters", "list", "each adapter" },
	{ "adapters[]", "object", "one of them" },
	{ "adapters[].name", "text", "its name" },
	{ "adapters[].rank", "integer", "its highest rank" },
	{ "adapters[].slots", "integer", "layers that it adapts" },
	{ "adapters[].qss", "number", "Quantization Sensitivity Score, mean over the samples" },
	{ "adapters[].standard_error", "number", "of that mean" },
	{ "adapters[].output_sqnr_db", "number|null", "the output under the adapter's own encodings, in dB; null: no difference" },
	{ "adapters[].update_sqnr_db", "object", "the update up diag(gain) down, in dB" },
	{ "adapters[].update_sqnr_db.own", "number|null", "under its own encodings; null: exact" },
	{ "adapters[].update_sqnr_db.shared", "number|null", "under the shared ones; null: exact" },
	{ "adapters[].update_sqnr_db.aligned", "number|null", "aligned to the shared ones; null: exact" },
	{ "adapters[].simulated_sqnr_db", "object", "with --compare: the simulated model's output against the float one, in dB" },
	{ "adapters[].simulated_sqnr_db.own", "number|null", "a graph for this adapter alone, under its own encodings" },
	{ "adapters[].simulated_sqnr_db.shared", "number|null", "one graph for all, under the shared ones, not aligned" },
	{ "adapters[].simulated_sqnr_db.aligned", "number|null", "the same, aligned" },
	{ "adapters[].per_sample", "list", "the score of each sample" },
	{ "adapters[].per_sample[]", "number", "one of them" },

	DOCUMENT("export", "the manifest, which is also manifest.json")
	{ "program", "text", "name and version" },
	{ "provenance", "object", "what the graph was made from" },
	{ "provenance.program", "text", "name and version" },
	{ "provenance.command", "text", "the command" },
	{ "provenance.options", "object", "options that shape the output, as they are spelled" },
	{ "provenance.options.*", "text", "one of them" },
	{ "provenance.inputs", "list", "each input" },
	{ "provenance.inputs[]", "object", "one of them" },
	{ "provenance.inputs[].role", "text", "what it is for" },
	{ "provenance.inputs[].hash", "text", "of what it holds" },
	{ "base", "text", "hash of the model" },
	{ "profile", "object", "the profile" },
	{ "profile.hash", "text", "of the profile" },
	{ "profile.method", "text", "how its encodings were chosen" },
	{ "profile.anchor", "text|null", "the adapter whose encodings they are" },
	{ "profile.align", "text", "how adapters are aligned to them" },
	{ "graph", "object", "the graph's inputs and outputs, those of slots apart" },
	VALUES("graph.inputs", "what it takes")
	VALUES("graph.outputs", "what it gives")
	{ "slots", "list", "layers with LoRA inputs" },
	{ "slots[]", "object", "one of them" },
	{ "slots[].path", "text", "the module's path" },
	{ "slots[].rank", "integer", "its rank" },
	VALUES("slots[].inputs", "its down, up and gain, and its bias where it has one")
	{ "adapters", "list", "each adapter" },
	{ "adapters[]", "object", "one of them" },
	{ "adapters[].name", "text", "its name" },
	{ "adapters[].source", "text", "hash of what it was made from" },
	{ "adapters[].slots", "integer", "layers that it adapts" },
	{ "adapters[].update_sqnr_db", "number|null", "its update in codes against that of the source, in dB; null: exact" },
	{ "adapters[].files", "list", "its files" },
	{ "adapters[].files[]", "text", "one of them" },
	{ "files", "list", "every file of the folder, but the manifest" },
	{ "files[]", "object", "one of them" },
	{ "files[].path", "text", "in the folder" },
	{ "files[].bytes", "integer", "its size" },
	{ "files[].hash", "text", "of its bytes" },

	DOCUMENT("run", "what was sampled")
	{ "output", "text", "the file" },
	{ "samples", "integer", "samples in it" },
	{ "scheduler", "text", "how it was sampled" },
	{ "steps", "integer", "in so many steps" },
	{ "seconds", "number", "it took" },

	DOCUMENT("run --check-trace", "a trace compared")
	{ "steps", "list", "each step" },
	{ "steps[]", "object", "one of them" },
	{ "steps[].step", "integer", "which, from 0" },
	{ "steps[].timestep", "number|null", "its timestep" },
	{ "steps[].difference", "number|null", "largest difference of the output, of its encoding's range; null: not finite" },
	{ "steps[].root_mean_square", "number|null", "the same, root mean square" },
	{ "steps[].range", "number|null", "the range" },
	{ "largest", "number|null", "the largest of all steps" },
	{ "tolerance", "number", "what is allowed" },

	DOCUMENT("olss", "the sampler that was fitted")
	{ "output", "text", "the file" },
	{ "samples", "integer", "runs it was fitted to" },
	{ "steps", "integer", "its steps" },
	{ "reference_steps", "integer", "steps of the runs it was fitted to" },
	{ "guidance", "number", "classifier-free guidance that it is for" },
	{ "error", "number", "mean square difference from the ends of those runs" },
	{ "plain_error", "number", "the same, of as many plain steps" },
	{ "energy", "number", "mean square of those ends" },

	DOCUMENT("distill", "the adapter that was distilled")
	{ "output", "text", "the file" },
	{ "adapter", "text", "its name" },
	{ "parameters", "integer", "elements that were trained" },
	{ "draws", "integer", "draws learned from" },
	{ "held_out", "integer", "draws that judge" },
	{ "steps", "integer", "updates" },
	{ "resumed_at", "integer", "the update that an earlier run had come to; 0: none" },
	{ "best_step", "integer", "the update that was kept" },
	{ "before", "object", "before the first update" },
	FOUND("before.")
	{ "after", "object", "of what was kept" },
	FOUND("after.")
	{ "teacher_seconds", "number", "it took to run the teacher" },
	{ "seconds", "number", "it took to train" },

	DOCUMENT("train", "what was trained")
	{ "output", "text", "the file or folder" },
	{ "parameters", "integer", "elements that were trained" },
	{ "steps", "integer", "updates" },
	{ "resumed_at", "integer", "the update that an earlier run had come to; 0: none" },
	{ "loss", "number|null", "mean of the last updates" },
	{ "validation", "number|null", "on held-out data; null: there is none" },
	{ "seconds", "number", "it took" },

	DOCUMENT("init", "the model or adapter that was made")
	{ "path", "text", "its folder or file" },
	{ "parameters", "integer", "elements of its weights" },
	{ "tensors", "integer", "weights" },
	{ "bytes", "integer", "their size" },
	{ "dtype", "text", "type of their elements" },
	{ "written", "boolean", "false: --dry-run" },

	DOCUMENT("report", "the table")
	{ "tasks", "list", "its rows" },
	{ "tasks[]", "object", "one of them" },
	{ "tasks[].name", "text", "its name" },
	{ "tasks[].float_truth_psnr_db", "number|null", "the reference against --truth, where there is one; null: no difference" },
	{ "tasks[].float_truth_sqnr_db", "number|null", "the same of latents that are no images" },
	{ "tasks[].float_truth_standard_error", "number|null", "of that mean" },
	{ "tasks[].columns", "list", "its columns" },
	{ "tasks[].columns[]", "object", "one of them" },
	{ "tasks[].columns[].name", "text", "its name" },
	{ "tasks[].columns[].psnr_db", "number|null", "against the reference, mean over the samples; null: no difference" },
	{ "tasks[].columns[].sqnr_db", "number|null", "the same of latents that are no images" },
	{ "tasks[].columns[].standard_error", "number|null", "of that mean" },
	{ "tasks[].columns[].truth_psnr_db", "number|null", "against --truth, where there is one; null: no difference" },
	{ "tasks[].columns[].truth_sqnr_db", "number|null", "the same of latents that are no images" },
	{ "tasks[].columns[].truth_standard_error", "number|null", "of that mean" },
	{ "tasks[].columns[].samples", "list", "of each sample" },
	{ "tasks[].columns[].samples[]", "number|null", "one of them" },
};
/* clang-format on */

void qd_json_fields(
	void (*document)(const char *name, const char *text), void (*field)(const char *path, const char *type, const char *text))
{
	for (size_t i = 0; i < QD_COUNT(rows); i++)
		if (rows[i].type == NULL)
			document(rows[i].path, rows[i].text);
		else
			field(rows[i].path, rows[i].type, rows[i].text);
}
