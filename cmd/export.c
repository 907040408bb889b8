/* quad export: one ONNX graph for all adapters, its encodings, and the adapters' files; or one more adapter for an existing export.
 */
#include "cmd/cmd.h"
#include "export/file/file.h"
#include "version.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEY_ADAPTER_ONLY = 0x400, KEY_BATCH, KEY_HEIGHT, KEY_WIDTH, KEY_TOKENS, KEY_FORMAT, KEY_EXTERNAL, KEY_DUMP_AFTER };

static const char *const formats[] = { "qdq", "float", "both", NULL };

static const struct argp_option export_options[] = {
	{ "adapter-only", KEY_ADAPTER_ONLY, NULL, 0, "add adapters to the export that -o names; its graph stays as it is", 1 },
	{ "batch", KEY_BATCH, "N", 0, "samples per call (default 1)", 1 },
	{ "height", KEY_HEIGHT, "N", 0, "of the latents (default: the model's sample_size)", 1 },
	{ "width", KEY_WIDTH, "N", 0, "of the latents", 1 },
	{ "tokens", KEY_TOKENS, "N", 0, "length of encoder_hidden_states (default 77)", 1 },
	{ "format", KEY_FORMAT, "NAME", 0,
		"qdq (default): quantized nodes; float: model_float.onnx to be read with the encodings JSON; or both", 1 },
	{ "external-data", KEY_EXTERNAL, NULL, 0, "weights in model.onnx.data even below 2 GB", 1 },
	{ "dump-after", KEY_DUMP_AFTER, "PASS", 0, "print the graph after a pass (dead-code, share-constants, qdq) to stderr", 2 },
	{ 0 }
};

struct export_args {
	struct qd_export_options options;
	bool adapter_only;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct export_args *args = state->input;
	struct qd_sizes *sizes = &args->options.sizes;
	switch (key) {
	case KEY_ADAPTER_ONLY:
		args->adapter_only = true;
		return 0;
	case KEY_BATCH:
		sizes->batch = qd_parse_int(state, "batch", arg, 1, 4096);
		return 0;
	case KEY_HEIGHT:
		sizes->height = qd_parse_int(state, "height", arg, 1, 16384);
		return 0;
	case KEY_WIDTH:
		sizes->width = qd_parse_int(state, "width", arg, 1, 16384);
		return 0;
	case KEY_TOKENS:
		sizes->tokens = qd_parse_int(state, "tokens", arg, 1, 16384);
		return 0;
	case KEY_FORMAT:
		args->options.format = (enum qd_export_format)(qd_parse_choice(state, "format", arg, formats) + 1);
		return 0;
	case KEY_EXTERNAL:
		args->options.external = true;
		return 0;
	case KEY_DUMP_AFTER:
		args->options.passes.dump_after = arg;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static void dump(void *context, const char *text)
{
	(void)context;
	fputs(text, stderr);
}

/* A distilled adapter lies on the grid already: quantizing it loses nothing, and its SQNR is infinite (null). */
static void print_adapter(const json_t *adapter)
{
	const char *name = json_string_value(json_object_get(adapter, "name"));
	const json_t *sqnr = json_object_get(adapter, "update_sqnr_db");
	if (json_is_number(sqnr))
		printf("  %-20s update SQNR %.1f dB\n", name, json_number_value(sqnr));
	else
		printf("  %-20s update exact: on the grid already\n", name);
}

static void print_summary(const char *path, const json_t *manifest, bool dry_run)
{
	const json_t *adapters = json_object_get(manifest, "adapters"), *files = json_object_get(manifest, "files");
	printf("%s: %zu slots, %zu adapter%s%s\n", path, json_array_size(json_object_get(manifest, "slots")),
		json_array_size(adapters), json_array_size(adapters) == 1 ? "" : "s", dry_run ? " (nothing written)" : "");
	for (size_t i = 0; i < json_array_size(adapters); i++)
		print_adapter(json_array_get(adapters, i));
	for (size_t i = 0; i < json_array_size(files); i++) {
		const json_t *file = json_array_get(files, i);
		printf("  %12lld  %s\n", (long long)json_integer_value(json_object_get(file, "bytes")),
			json_string_value(json_object_get(file, "path")));
	}
}

static void default_sizes(struct qd_sizes *sizes, const struct qd_model *model)
{
	struct qd_sizes native = qd_model_native_sizes(model);
	sizes->batch = sizes->batch > 0 ? sizes->batch : native.batch;
	sizes->height = sizes->height > 0 ? sizes->height : native.height;
	sizes->width = sizes->width > 0 ? sizes->width : native.width;
	sizes->tokens = sizes->tokens > 0 ? sizes->tokens : native.tokens;
}

static enum qd_status run(struct export_args *args, const struct qd_common *common)
{
	enum qd_status st;
	struct qd_opened opened = { 0 };
	struct qd_profile profile = { 0 };
	json_t *manifest = NULL;
	QD_TRY(st, qd_open_all(&opened, common));
	QD_TRY(st, qd_profile_read(&profile, common->profile));
	default_sizes(&args->options.sizes, &opened.model);
	if (args->adapter_only) {
		QD_TRY(st, qd_profile_check_base(&profile, &opened.model));
		QD_TRY(st, qd_export_adapters(
				   common->output, &profile, opened.adapter_list, opened.n_adapters, &args->options, &manifest));
	} else {
		QD_TRY(st, qd_export(common->output, &opened.model, &profile, opened.adapter_list, opened.n_adapters,
				   &args->options, &manifest));
	}
	if (common->json)
		QD_TRY(st, qd_print_json(json_incref(manifest)));
	else
		print_summary(common->output, manifest, common->dry_run);
out:
	json_decref(manifest);
	qd_profile_release(&profile);
	qd_opened_release(&opened);
	return st;
}

/* The command line as one text. */
static char *join(int argc, char **argv)
{
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);
	if (out == NULL)
		return NULL;
	for (int i = 0; i < argc; i++)
		fprintf(out, i > 0 ? " %s" : "%s", argv[i]);
	fclose(out);
	return text;
}

int qd_cmd_export(int argc, char **argv)
{
	struct export_args args = { .options = { .format = QD_EXPORT_QDQ, .version = QUAD_VERSION, .passes = { .dump = dump } } };
	struct qd_common common = { 0 };
	char *command = join(argc, argv);
	qd_parse(argc, argv, "Write one ONNX graph for all adapters, its encodings, and the adapters' files.", NULL,
		QD_OPT_BASE | QD_OPT_ADAPTER | QD_OPT_PROFILE | QD_OPT_OUTPUT | QD_OPT_JSON | QD_OPT_DRY_RUN, export_options, parse,
		&args, &common);
	qd_need("export", "--base DIR", common.base);
	qd_need("export", "--profile FILE", common.profile);
	qd_need("export", "-o DIR", common.output);
	args.options.command = command != NULL ? command : "";
	args.options.profile_path = common.profile;
	args.options.force = common.force;
	args.options.dry_run = common.dry_run;
	enum qd_status st = run(&args, &common);
	free(command);
	qd_common_release(&common);
	return qd_finish("export", st);
}
