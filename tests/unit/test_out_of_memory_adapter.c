/*
 * Memory that runs out, adapters of every dialect and what is made of them: slots, profiles, exports, reports, with each allocation
 * failing in turn.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "export/file/file.h"
#include "export/report/report.h"
#include "quant/internal.h"
#include "tests/unit/adapter_help.h"
#include "tests/unit/failing_malloc.h"
#include "tests/unit/scratch.h"
#include "tests/unit/small_pipeline.h"

static const char *text_file(const char *name, const char *text)
{
	return scratch_file(name, text, strlen(text));
}

static struct small_pipeline all;

static int open_all(void **state)
{
	(void)state;
	small_pipeline_open(&all, "p");
	return 0;
}

static int close_all(void **state)
{
	(void)state;
	small_pipeline_close(&all);
	return 0;
}

static void see_graph(const struct qd_graph *g)
{
	failing_see(&g->n_values, sizeof(g->n_values));
	for (size_t i = 0; i < g->n_values; i++) {
		failing_see_text(g->values[i].name);
		failing_see(&g->values[i].shape, sizeof(g->values[i].shape));
		failing_see(g->values[i].data.data, g->values[i].data.bytes);
	}
}

/* ---- adapters ---- */

static struct help_file file;

static void see_adapter(const struct qd_adapter *a)
{
	failing_see(&a->n, sizeof(a->n));
	for (size_t i = 0; i < a->n; i++) {
		const struct qd_lora *l = &a->loras[i];

		failing_see_text(l->path);
		failing_see(l->down, (size_t)(l->rank * l->in * l->kh * l->kw) * sizeof(float));
		failing_see(l->up, (size_t)(l->out * l->rank) * sizeof(float));
		failing_see(l->gain, (size_t)l->rank * sizeof(float));
	}
	for (size_t i = 0; i < a->n_notes; i++)
		failing_see_text(a->notes[i]);
	failing_see_text(a->name);
	failing_see_text(a->hash);
}

static enum qd_status open_adapter(const void *spec)
{
	struct qd_adapter a = { 0 };
	enum qd_status st = qd_adapter_open_spec(&a, spec, &all.modules);

	if (st == QD_OK)
		see_adapter(&a);
	qd_adapter_release(&a);
	return st;
}

static enum qd_status map_adapter(const void *path)
{
	struct qd_adapter a = { 0 };
	enum qd_status st;

	QD_TRY(st, qd_adapter_map(&a, "a", path, 2, &all.modules));
	QD_TRY(st, qd_adapter_load(&a));
	see_adapter(&a);
out:
	qd_adapter_release(&a);
	return st;
}

static enum qd_status compare_adapter(const void *path)
{
	struct qd_adapter_diff diff = { 0 };
	enum qd_status st = qd_adapter_compare(&diff, path, &all.modules);

	for (size_t i = 0; st == QD_OK && i < diff.n; i++) {
		failing_see_text(diff.layers[i].name);
		failing_see_text(diff.layers[i].path);
		failing_see_text(diff.layers[i].fits ? "fits" : diff.layers[i].needed);
	}
	qd_adapter_diff_release(&diff);
	return st;
}

static enum qd_status write_adapter(const void *adapter)
{
	const char *path = scratch_path("written.safetensors");
	enum qd_status st = qd_adapter_write(adapter, path, QD_F32, true, true);

	if (st == QD_OK)
		failing_see_file(path);
	return st;
}

/* One layer of rank 2, down [2,4] and up [4,2], under the names of a dialect. */
static void pair(const char *down, const char *up)
{
	help_add(&file, down, 2, 2, 4);
	help_add(&file, up, 2, 4, 2);
}

static const char *peft(void)
{
	mkdir(scratch_path("peft"), 0777);
	text_file("peft/adapter_config.json", "{\"peft_type\": \"LORA\", \"r\": 2, \"lora_alpha\": 3, \"rank_pattern\": {\"to_q\": "
					      "2}, \"alpha_pattern\": {\"to_k\": 4},"
					      " \"target_modules\": [\"to_q\", \"to_k\"]}");
	pair("base_model.model." ATT ".to_q.lora_A.weight", "base_model.model." ATT ".to_q.lora_B.weight");
	pair("base_model.model." ATT ".to_k.lora_A.weight", "base_model.model." ATT ".to_k.lora_B.weight");
	help_write(&file, "peft/adapter_model.safetensors");
	return scratch_path("peft");
}

static const char *diffusers(void)
{
	pair("unet." ATT ".to_q.lora_A.weight", "unet." ATT ".to_q.lora_B.weight");
	pair("unet." ATT ".processor.to_k_lora.down.weight", "unet." ATT ".processor.to_k_lora.up.weight");
	pair("text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight",
		"text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_B.weight");
	file.metadata[0] = "lora_adapter_metadata";
	file.metadata[1] = "{\"unet.r\": 2, \"unet.lora_alpha\": 5, \"unet.target_modules\": [\"to_q\"]}";
	file.n_metadata = 2;
	return help_write(&file, "diffusers.safetensors");
}

static const char *kohya(void)
{
	pair(FLAT "_to_q.lora_down.weight", FLAT "_to_q.lora_up.weight");
	*help_add(&file, FLAT "_to_q.alpha", 0) = 1;
	help_add(&file, "lora_unet_down_blocks_0_resnets_0_conv1.lora_down.weight", 4, 3, 4, 1, 1);
	help_add(&file, "lora_unet_down_blocks_0_resnets_0_conv1.lora_mid.weight", 4, 2, 3, 3, 3);
	help_add(&file, "lora_unet_down_blocks_0_resnets_0_conv1.lora_up.weight", 4, 4, 2, 1, 1);
	pair("lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight",
		"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight");
	help_add(&file, "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_v.lora_down.weight", 2, 2, 4);
	help_add(&file, "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_v.lora_up.weight", 2, 4, 2);
	return help_write(&file, "kohya.safetensors");
}

/* Every layer of the four transformers, by position. */
static const char *cloneofsimo(void)
{
	static const char *const transformers[] = { "down_blocks.0.attentions.0", "up_blocks.1.attentions.0",
		"up_blocks.1.attentions.1", "mid_block.attentions.0" };
	static const char *const layers[] = { "attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "ff.net.0.proj",
		"attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0" };
	size_t n = 0;

	for (size_t t = 0; t < QD_COUNT(transformers); t++)
		for (size_t i = 0; i < QD_COUNT(layers); i++, n++) {
			char name[256];
			const struct qd_module *m;

			snprintf(name, sizeof(name), "%s.transformer_blocks.0.%s", transformers[t], layers[i]);
			m = qd_modules_find(&all.modules, name);
			assert_non_null(m);
			snprintf(name, sizeof(name), "unet:%zu:down", n);
			help_add(&file, name, 2, 1, (int)m->in);
			snprintf(name, sizeof(name), "unet:%zu:up", n);
			help_add(&file, name, 2, (int)m->out, 1);
		}
	file.metadata[0] = "unet", file.metadata[1] = "[\"CrossAttention\", \"GEGLU\"]", file.n_metadata = 2;
	return help_write(&file, "positions.safetensors");
}

static void adapters(void **state)
{
	char joined[8192];
	struct qd_adapter a;

	(void)state;
	failing_each_on("an adapter of PEFT", open_adapter, peft());
	failing_each_on("an adapter of diffusers", open_adapter, diffusers());
	failing_each_on("an adapter of kohya", open_adapter, kohya());
	failing_each_on("an adapter of cloneofsimo", open_adapter, cloneofsimo());
	snprintf(
		joined, sizeof(joined), "both=%s@0.5+%s", scratch_path("diffusers.safetensors"), scratch_path("kohya.safetensors"));
	failing_each("two adapters in one", open_adapter, joined);
	failing_each_on("an adapter that stays in its file", map_adapter, scratch_path("kohya.safetensors"));
	pair("unet." ATT ".to_q.lora_A.weight", "unet." ATT ".to_q.lora_B.weight");
	pair("unet.nothing.to_q.lora_A.weight", "unet.nothing.to_q.lora_B.weight");
	failing_each_on("an adapter that does not fit", compare_adapter, help_write(&file, "other.safetensors"));
	OK(qd_adapter_open(&a, "a", scratch_path("kohya.safetensors"), 1, &all.modules));
	a.loras[0].gain[0] *= 2;
	failing_each("writing an adapter", write_adapter, &a);
	qd_adapter_release(&a);
}

static enum qd_status choose_slots(const void *policy)
{
	struct qd_adapter a = { 0 };
	const struct qd_adapter *list[] = { &a };
	struct qd_slots slots = { 0 };
	struct qd_graph g = { 0 };
	const struct qd_sizes least = { 1, 4, 4, 1 };
	enum qd_status st;

	QD_TRY(st, qd_adapter_map(&a, "a", scratch_path("diffusers.safetensors"), 1, &all.modules));
	QD_TRY(st, qd_slots_choose(&slots, &all.modules, list, 1, policy, 0));
	QD_TRY(st, qd_unet_graph(&g, &all.model.config, NULL, &least));
	QD_TRY(st, qd_slots_attach(&slots, &g));
	failing_see(&slots.n, sizeof(slots.n));
	see_graph(&g);
out:
	qd_slots_release(&slots);
	qd_graph_release(&g);
	qd_adapter_release(&a);
	return st;
}

static void slots(void **state)
{
	char policy[4096];

	(void)state;
	failing_each("slots of an adapter", choose_slots, NULL);
	failing_each_on("slots of all attention", choose_slots, "attention");
	snprintf(policy, sizeof(policy), "%s", text_file("slots.txt", ATT ".to_q\n" ATT ".to_k\ndown_blocks.0.resnets.0.conv1\n"));
	failing_each("slots of a list", choose_slots, policy);
}

/* ---- profiles and exports ---- */

static struct qd_profile profile;
static struct qd_adapter adapter;

/* Encodings of everything, over ranges that need not fit. */
static void make_profile(void)
{
	const struct qd_adapter *list[] = { &adapter };
	const struct qd_sizes sizes = { 1, 4, 4, 3 };
	enum qd_entry_kind *kinds;
	struct qd_net net;

	OK(qd_adapter_open(&adapter, "a", scratch_path("diffusers.safetensors"), 1, &all.modules));
	profile = (struct qd_profile){
		.options = qd_quant_options_default(), .method = "anchor", .anchor = "a", .reason = "the only"
	};
	OK(qd_model_hash(&all.model, profile.base_hash));
	OK(qd_slots_choose(&profile.slots, &all.modules, list, 1, NULL, 0));
	profile.n_adapters = 1;
	profile.adapters = qd_arena_array(&profile.arena, 1, sizeof(*profile.adapters));
	profile.adapters[0] = (struct qd_adapter_score){ .name = "a", .rank = 2, .n_slots = 2, .n_samples = 1 };
	strcpy(profile.adapters[0].hash, adapter.hash);
	profile.adapters[0].per_sample = qd_arena_array(&profile.arena, 1, sizeof(double));
	OK(qd_net_build(&net, &all.model, &sizes, &profile.slots));
	kinds = calloc(net.graph.n_values, sizeof(*kinds));
	OK(qd_assign(&net.graph, kinds));
	for (qd_id v = 0; v < net.graph.n_values; v++) {
		const struct qd_value *value = &net.graph.values[v];
		struct qd_encoding *e;

		if (kinds[v] == QD_ENTRY_NONE)
			continue;
		if (kinds[v] == QD_ENTRY_WEIGHT)
			OK(qd_encoding_per_channel(&profile.arena, &value->data, 8, &e));
		else
			OK(qd_encoding_from_range(
				&profile.arena, -2, 2, kinds[v] == QD_ENTRY_LORA ? 8 : 16, kinds[v] == QD_ENTRY_LORA, &e));
		OK(qd_profile_add(&profile, kinds[v], qd_arena_strdup(&profile.arena, value->name), e));
	}
	free(kinds);
	qd_net_release(&net);
}

static enum qd_status write_profile(const void *path)
{
	enum qd_status st = qd_profile_write(&profile, path, true);

	if (st == QD_OK)
		failing_see_file(path);
	return st;
}

static enum qd_status read_profile(const void *path)
{
	struct qd_profile p = { 0 };
	char grid[QD_HASH_TEXT];
	enum qd_status st;

	QD_TRY(st, qd_profile_read(&p, path));
	QD_TRY(st, qd_profile_check_base(&p, &all.model));
	QD_TRY(st, qd_profile_encodings_id(&p, grid));
	failing_see_text(grid);
	for (size_t i = 0; i < p.n_entries; i++) {
		failing_see_text(p.entries[i].name);
		failing_see(p.entries[i].encoding->scale, p.entries[i].encoding->n * sizeof(float));
	}
out:
	qd_profile_release(&p);
	return st;
}

static enum qd_status fit(const void *context)
{
	struct qd_fitted fitted = { 0 };
	struct qd_adapter back = { 0 };
	double db;
	enum qd_status st;

	(void)context;
	QD_TRY(st, qd_fit_adapter(&fitted, &adapter, &profile, QD_ALIGN_GAIN, false));
	QD_TRY(st, qd_update_sqnr(&adapter, &fitted, &profile, &db));
	QD_TRY(st, qd_fitted_to_adapter(&fitted, &profile, "b", &back));
	see_adapter(&back);
	failing_see(&db, sizeof(db));
out:
	qd_adapter_release(&back);
	qd_fitted_release(&fitted);
	return st;
}

static const char *const exported[] = { "model.onnx", "model_float.onnx", "model.encodings.json", "lora_weight_list.txt",
	"adapters/a.safetensors", "adapters/a.onnx_adapter", "adapters_float/a.safetensors", "scheduler/scheduler_config.json",
	"manifest.json" };

static void see_export(const char *folder)
{
	for (size_t i = 0; i < QD_COUNT(exported); i++) {
		char path[4096];

		snprintf(path, sizeof(path), "%s/%s", folder, exported[i]);
		failing_see_file(path);
	}
}

static struct qd_export_options export_options(void)
{
	static const struct qd_provenance made = { .program = "quad 1", .command = "export" };
	static char path[4096];

	snprintf(path, sizeof(path), "%s", scratch_path("profile.json"));
	return (struct qd_export_options){ .sizes = { 1, 4, 4, 3 },
		.format = QD_EXPORT_BOTH,
		.force = true,
		.profile_path = path,
		.provenance = &made,
		.version = "1" };
}

static enum qd_status export(const void *folder) {
	const struct qd_export_options options = export_options(); const struct qd_adapter * list[] = { &adapter };
	json_t *manifest = NULL;
	enum qd_status st = qd_export(folder, &all.model, &profile, list, 1, &options, &manifest);

	json_decref(manifest);
	if (st == QD_OK) see_export(folder);
	return st;
}

static enum qd_status export_more(const void *folder)
{
	const struct qd_export_options options = export_options();
	const struct qd_adapter *list[] = { &adapter };
	enum qd_status st = qd_export_adapters(folder, &profile, list, 1, &options, NULL);

	if (st == QD_OK)
		see_export(folder);
	return st;
}

static struct qd_safetensors marked;

/* A checkpoint whose tensor says that it predicts v, and no file: the export has one that says so. */
static enum qd_status export_of_v(const void *folder)
{
	const struct qd_export_options options = export_options();
	const struct qd_adapter *list[] = { &adapter };
	struct qd_model model = all.model;
	struct qd_schedule schedule = { 0 };
	char root[4096];
	enum qd_status st;

	snprintf(root, sizeof(root), "%s", scratch_path("no-schedule"));
	model.kind = QD_MODEL_CHECKPOINT;
	model.root = root;
	model.weights.files = &marked;
	QD_TRY(st, qd_export(folder, &model, &profile, list, 1, &options, NULL));
	QD_TRY(st, qd_schedule_read(&schedule, folder, ""));
	assert_int_equal(schedule.prediction, QD_PREDICT_V);
	see_export(folder);
out:
	qd_schedule_release(&schedule);
	return st;
}

static void profiles_and_exports(void **state)
{
	const struct qd_tensor marker = qd_tensor_view("v_pred", QD_F32, QD_SHAPE(0), NULL);

	(void)state;
	make_profile();
	failing_each_on("writing a profile", write_profile, scratch_path("profile.json"));
	failing_each_on("a profile", read_profile, scratch_path("profile.json"));
	failing_each("fitting an adapter", fit, NULL);
	failing_each_on("an export", export, scratch_path("export"));
	OK(qd_safetensors_write(scratch_path("marked.safetensors"), &marker, 1, NULL, 0, true, NULL, NULL));
	OK(qd_safetensors_open(&marked, scratch_path("marked.safetensors")));
	failing_each_on("an export of a checkpoint", export_of_v, scratch_path("marked"));
	qd_safetensors_release(&marked);
	failing_each_on("an adapter for an export", export_more, scratch_path("export"));
	qd_adapter_release(&adapter);
	qd_profile_release(&profile);
}

/* ---- reports ---- */

static enum qd_status report(const void *path)
{
	struct qd_report r = { .pack = 1, .show = 1, .zoom = 1 };
	struct qd_image sheet = { 0 };
	char *table = NULL, *as_json = NULL;
	json_t *json = NULL;
	enum qd_status st;

	r.tasks = calloc(1, sizeof(*r.tasks));
	if (r.tasks == NULL)
		return qd_fail(QD_ENOMEM, "out of memory");
	r.n = 1;
	r.tasks[0] = (struct qd_report_task){
		.name = "task", .reference = path, .truth = path, .columns = calloc(1, sizeof(*r.tasks[0].columns)), .n = 1
	};
	if (r.tasks[0].columns == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	r.tasks[0].columns[0] = (struct qd_report_column){ "same", path };
	QD_TRY(st, qd_report_measure(&r));
	QD_TRY(st, qd_report_text(&r, &table));
	QD_TRY(st, qd_report_json(&r, &json));
	QD_TRY(st, qd_json_text(json, JSON_COMPACT, &as_json));
	QD_TRY(st, qd_report_sheet(&r, &sheet));
	failing_see_text(table);
	failing_see_text(as_json);
	failing_see(sheet.rgb, 3 * (size_t)sheet.width * (size_t)sheet.height);
out:
	qd_image_release(&sheet);
	json_decref(json);
	free(as_json);
	free(table);
	qd_report_release(&r);
	return st;
}

static void reports(void **state)
{
	(void)state;
	help_add(&file, "latents", 4, 2, 3, 4, 4);
	failing_each_on("a report", report, help_write(&file, "latents.safetensors"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(adapters),
		cmocka_unit_test(slots),
		cmocka_unit_test(profiles_and_exports),
		cmocka_unit_test(reports),
	};
	return cmocka_run_group_tests_name("out_of_memory_adapter", tests, open_all, close_all);
}
