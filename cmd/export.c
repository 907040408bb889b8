/* quad export: one ONNX graph for all adapters, its encodings, and the adapters' files; or one more adapter for an existing export.
 */
#include "cmd/cmd.h"
#include "export/file/file.h"
#include "export/pass/pass.h"
#include "version.h"

#include <stdio.h>

struct export_args {
	struct qd_export_options options;
	bool adapter_only;
};

#define FIELD(field) QD_FIELD(struct export_args, field)
static const struct qd_option table[] = {
	{ "adapter-only", QD_OPT_FLAG, FIELD(adapter_only), .untold = true,
		.help = "add adapters to the export that -o names; its graph stays as it is" },
	{ "batch", QD_OPT_INT, FIELD(options.sizes.batch), .low = 1, .high = 4096, .arg = "N", .help = "samples per call",
		.absent = "1" },
	{ "height", QD_OPT_INT, FIELD(options.sizes.height), .low = 1, .high = 16384, .arg = "N", .help = "of the latents",
		.absent = "the model's sample_size" },
	{ "width", QD_OPT_INT, FIELD(options.sizes.width), .low = 1, .high = 16384, .arg = "N", .help = "of the latents",
		.absent = "the model's sample_size" },
	{ "tokens", QD_OPT_INT, FIELD(options.sizes.tokens), .low = 1, .high = 16384, .arg = "N",
		.help = "length of encoder_hidden_states", .absent = "77" },
	{ "format", QD_OPT_CHOICE, FIELD(options.format), .names = qd_export_format_names, .low = QD_EXPORT_QDQ,
		.help = "quantized nodes, model_float.onnx to be read with the encodings JSON, or both" },
	{ "external-data", QD_OPT_FLAG, FIELD(options.external), .help = "weights in model.onnx.data even below 2 GB" },
	{ "dump-after", QD_OPT_CHOICE, FIELD(options.passes.dump_after), .untold = true, .name_at = qd_pipeline_pass_name,
		.help = "print the graph after a pass to stderr" },
	{ 0 },
};

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
		qd_print("  %-20s update SQNR %.1f dB\n", name, json_number_value(sqnr));
	else
		qd_print("  %-20s update exact: on the grid already\n", name);
}

static void print_summary(const char *path, const json_t *manifest, bool dry_run)
{
	const json_t *adapters = json_object_get(manifest, "adapters"), *files = json_object_get(manifest, "files");
	qd_print("%s: %zu slots, %zu adapter%s%s\n", path, json_array_size(json_object_get(manifest, "slots")),
		json_array_size(adapters), json_array_size(adapters) == 1 ? "" : "s", dry_run ? " (nothing written)" : "");
	for (size_t i = 0; i < json_array_size(adapters); i++)
		print_adapter(json_array_get(adapters, i));
	for (size_t i = 0; i < json_array_size(files); i++) {
		const json_t *file = json_array_get(files, i);
		qd_print("  %12lld  %s\n", (long long)json_integer_value(json_object_get(file, "bytes")),
			json_string_value(json_object_get(file, "path")));
	}
}

static enum qd_status run(struct export_args *args, struct qd_common *common)
{
	enum qd_status st;
	struct qd_opened opened = { 0 };
	struct qd_profile profile = { 0 };
	json_t *manifest = NULL;
	QD_TRY(st, qd_check_apart(common, common->output, NULL, 0));
	QD_TRY(st, qd_open_all(&opened, common));
	QD_TRY(st, qd_profile_read(&profile, common->profile));
	/* adapters may come and go: the manifest names the source of each */
	QD_TRY(st, qd_provenance_input(&common->provenance, "base", NULL, profile.base_hash));
	QD_TRY(st, qd_provenance_file(&common->provenance, "profile", common->profile));
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

int qd_cmd_export(int argc, char **argv)
{
	struct export_args args = { .options = { .format = QD_EXPORT_QDQ, .version = QUAD_VERSION, .passes = { .dump = dump } } };
	struct qd_common common = { 0 };
	enum qd_status st;

	qd_parse(argc, argv, "Write one ONNX graph for all adapters, its encodings, and the adapters' files.",
		&(struct qd_options){ table, &args }, 1,
		QD_COMMON_BASE | QD_COMMON_ADAPTER | QD_COMMON_PROFILE | QD_COMMON_REFIT | QD_COMMON_OUTPUT | QD_COMMON_JSON |
			QD_COMMON_DRY_RUN,
		QD_COMMON_BASE | QD_COMMON_PROFILE | QD_COMMON_OUTPUT, &common);
	args.options.provenance = &common.provenance;
	args.options.profile_path = common.profile;
	args.options.force = common.force;
	args.options.refit = common.refit;
	args.options.dry_run = common.dry_run;
	st = run(&args, &common);
	qd_common_release(&common);
	return qd_finish("export", st);
}
