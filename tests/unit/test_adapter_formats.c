/*
 * lib/adapter: what each format's file comes to. First whole adapters, made here in every dialect, and the golden and the
 * real files, key by key; then small files made here, one for each rule of a format.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/unit/adapter_help.h"
#include "tests/unit/scratch.h"

static struct help_file file;

static void open_ok(struct qd_adapter *adapter, const char *path, double multiplier, const struct help_model *model)
{
	if (qd_adapter_open(adapter, "name", path, multiplier, &model->modules) != QD_OK)
		fail_msg("%s", qd_message());
}

/* ---- whole files: the tensors under the names that the format gives a layer ---- */

/* "PATH" -> names of down and up (printf formats of the path), and the scale. */
struct naming {
	void (*keys)(const char *path, char *down, char *up, char *alpha);
	double (*scale)(const char *path, int64_t rank);
};

#define KEY 256

static void flat_keys(const char *path, char *down, char *up, char *alpha)
{
	char flat[KEY - 40];
	size_t n = 0;

	for (; path[n] != '\0'; n++)
		flat[n] = path[n] == '.' ? '_' : path[n];
	flat[n] = '\0';
	snprintf(down, KEY, "lora_unet_%s.lora_down.weight", flat);
	snprintf(up, KEY, "lora_unet_%s.lora_up.weight", flat);
	snprintf(alpha, KEY, "lora_unet_%s.alpha", flat);
}

static void letter_keys(const char *path, char *down, char *up, char *alpha)
{
	snprintf(down, KEY, "unet.%s.lora_A.weight", path);
	snprintf(up, KEY, "unet.%s.lora_B.weight", path);
	*alpha = '\0';
}

static void word_keys(const char *path, char *down, char *up, char *alpha)
{
	snprintf(down, KEY, "unet.%s.lora.down.weight", path);
	snprintf(up, KEY, "unet.%s.lora.up.weight", path);
	*alpha = '\0';
}

/* "...attn1.to_out.0" -> "...attn1.processor.to_out_lora". */
static void processor_keys(const char *path, char *down, char *up, char *alpha)
{
	const char *last = strstr(path, ".to_");
	int block = (int)(last - path), word = (int)strcspn(last + 1, ".");

	snprintf(down, KEY, "%.*s.processor.%.*s_lora.down.weight", block, path, word, last + 1);
	snprintf(up, KEY, "%.*s.processor.%.*s_lora.up.weight", block, path, word, last + 1);
	*alpha = '\0';
}

/* save_lora_weights after training scripts' conversion: attention projections in the one style, all else in the other. */
static void saved_keys(const char *path, char *down, char *up, char *alpha)
{
	if (strstr(path, ".attn") != NULL)
		word_keys(path, down, up, alpha);
	else
		letter_keys(path, down, up, alpha);
}

static void peft_keys(const char *path, char *down, char *up, char *alpha)
{
	snprintf(down, KEY, "base_model.model.%s.lora_A.weight", path);
	snprintf(up, KEY, "base_model.model.%s.lora_B.weight", path);
	*alpha = '\0';
}

static double one(const char *path, int64_t rank)
{
	(void)path, (void)rank;
	return 1;
}

static double sixteen_by_rank(const char *path, int64_t rank)
{
	(void)path;
	return 16.0 / (double)rank;
}

static double three_by_root(const char *path, int64_t rank)
{
	(void)path;
	return 3 / sqrt((double)rank);
}

static double saved_scale(const char *path, int64_t rank)
{
	assert_int_equal(rank, qd_ends_with(path, "attn2.to_k") ? 6 : 4);
	return (qd_ends_with(path, "ff.net.0.proj") ? 6.0 : 2.0) / (double)rank;
}

static void assert_floats(const struct qd_safetensors *from, const char *key, const float *values, size_t n)
{
	const struct qd_tensor *tensor = qd_safetensors_find(from, key);
	float *expected;

	if (tensor == NULL)
		fail_msg("no tensor '%s'", key);
	assert_int_equal(qd_shape_elements(&tensor->shape), n);
	expected = malloc(n * sizeof(*expected));
	assert_int_equal(qd_tensor_to_f32(tensor, expected), QD_OK);
	assert_memory_equal(values, expected, n * sizeof(*expected));
	free(expected);
}

static void assert_lora(const struct qd_safetensors *from, const struct naming *naming, const struct qd_lora *lora)
{
	char down[KEY], up[KEY], alpha[KEY];
	double scale;
	float stored;

	naming->keys(lora->path, down, up, alpha);
	assert_floats(from, down, lora->down, (size_t)(lora->rank * lora->in * lora->kh * lora->kw));
	assert_floats(from, up, lora->up, (size_t)(lora->out * lora->rank));
	if (alpha[0] != '\0') {
		assert_int_equal(qd_tensor_to_f32(qd_safetensors_find(from, alpha), &stored), QD_OK);
		scale = (double)stored / (double)lora->rank;
	} else {
		scale = naming->scale(lora->path, lora->rank);
	}
	for (int64_t k = 0; k < lora->rank; k++)
		assert_true(lora->gain[k] == (float)scale);
}

/* One adapter of rank 2 for every layer (or every attention) of tiny15 in a dialect: down, up and, where it has a place, alpha. */
static size_t write_dialect(const struct help_model *model, const struct naming *naming, bool attention, const char *name)
{
	size_t n = 0;

	for (size_t i = 0; i < model->modules.n; i++) {
		const struct qd_module *m = &model->modules.items[i];
		char down[KEY], up[KEY], alpha[KEY];

		if (attention && strstr(m->path, ".attn") == NULL)
			continue;
		naming->keys(m->path, down, up, alpha);
		file.state = (uint32_t)i; /* the same numbers in every dialect */
		if (m->conv) {
			help_add(&file, down, 4, 2, (int)m->in, (int)m->kh, (int)m->kw);
			help_add(&file, up, 4, (int)m->out, 2, 1, 1);
		} else {
			help_add(&file, down, 2, 2, (int)m->in);
			help_add(&file, up, 2, (int)m->out, 2);
		}
		if (alpha[0] != '\0')
			*help_add(&file, alpha, 0) = 2;
		n++;
	}
	help_write(&file, name);
	return n;
}

static void assert_same_numbers(const struct qd_lora *a, const struct qd_lora *b)
{
	assert_non_null(b);
	assert_int_equal(a->rank, b->rank);
	assert_memory_equal(a->down, b->down, (size_t)(a->rank * a->in * a->kh * a->kw) * sizeof(float));
	assert_memory_equal(a->up, b->up, (size_t)(a->out * a->rank) * sizeof(float));
	assert_memory_equal(a->gain, b->gain, (size_t)a->rank * sizeof(float));
}

/* Whatever it was read from, and written again and read back. */
static void every_dialect_holds_the_same(void **state)
{
	static const struct {
		const char *path, *weights;
		enum qd_adapter_format format;
		bool attention;
		struct naming naming;
	} cases[] = {
		{ "flat.safetensors", "flat.safetensors", QD_ADAPTER_KOHYA, false, { flat_keys, NULL } },
		{ "letters.safetensors", "letters.safetensors", QD_ADAPTER_DIFFUSERS, false, { letter_keys, one } },
		{ "words.safetensors", "words.safetensors", QD_ADAPTER_DIFFUSERS, true, { word_keys, one } },
		{ "processor.safetensors", "processor.safetensors", QD_ADAPTER_DIFFUSERS, true, { processor_keys, one } },
		{ "both.safetensors", "both.safetensors", QD_ADAPTER_DIFFUSERS, false, { saved_keys, one } },
		{ "letters", "letters/adapter_model.safetensors", QD_ADAPTER_PEFT, false, { peft_keys, one } },
	};
	static const char config[] = "{\"peft_type\": \"LORA\", \"r\": 2, \"lora_alpha\": 2}";
	struct help_model model;
	struct qd_adapter first = { 0 };

	(void)state;
	help_model_open(&model, "tiny15");
	mkdir(scratch_path("letters"), 0700);
	scratch_file("letters/adapter_config.json", config, strlen(config));
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		struct qd_adapter adapter, back;
		struct qd_safetensors from;
		size_t n = write_dialect(&model, &cases[i].naming, cases[i].attention, cases[i].weights);

		open_ok(&adapter, scratch_path(cases[i].path), 1, &model);
		assert_int_equal(qd_safetensors_open(&from, scratch_path(cases[i].weights)), QD_OK);
		assert_int_equal(adapter.format, cases[i].format);
		assert_int_equal(adapter.n, n);
		assert_int_equal(adapter.n_notes, 0);
		OK(qd_adapter_write(&adapter, scratch_path("back.safetensors"), QD_F32, false, true));
		open_ok(&back, scratch_path("back.safetensors"), 1, &model);
		for (size_t k = 0; k < n; k++) {
			const struct qd_lora *lora = &adapter.loras[k];

			assert_lora(&from, &cases[i].naming, lora);
			assert_same_numbers(lora, i == 0 ? lora : qd_adapter_find(&first, lora->path));
			assert_same_numbers(lora, qd_adapter_find(&back, lora->path));
			assert_true(lora->gain[0] == 1);
		}
		qd_adapter_release(&back);
		qd_safetensors_release(&from);
		if (i == 0)
			first = adapter;
		else
			qd_adapter_release(&adapter);
	}
	qd_adapter_release(&first);
	help_model_close(&model);
}

static void reads_golden_files(void **state)
{
	static const struct {
		const char *model, *path, *weights;
		enum qd_adapter_format format;
		size_t n;
		struct naming naming;
	} cases[] = {
		{ "tiny15", "adapters/kohya.safetensors", "", QD_ADAPTER_KOHYA, 192, { flat_keys, NULL } },
		{ "tiny15", "adapters/kohya_locon.safetensors", "", QD_ADAPTER_KOHYA, 278, { flat_keys, NULL } },
		{ "tiny15", "adapters/diffusers.safetensors", "", QD_ADAPTER_DIFFUSERS, 128, { letter_keys, one } },
		{ "tiny15", "adapters/diffusers_down_up.safetensors", "", QD_ADAPTER_DIFFUSERS, 128, { word_keys, one } },
		{ "tiny15", "adapters/diffusers_processor.safetensors", "", QD_ADAPTER_DIFFUSERS, 128, { processor_keys, one } },
		{ "tiny15", "adapters/diffusers_saved.safetensors", "", QD_ADAPTER_DIFFUSERS, 188, { saved_keys, saved_scale } },
		{ "tiny15", "adapters/peft", "/adapter_model.safetensors", QD_ADAPTER_PEFT, 192, { peft_keys, sixteen_by_rank } },
		{ "tiny15", "adapters/peft_saved", "/adapter_model.safetensors", QD_ADAPTER_PEFT, 180,
			{ peft_keys, three_by_root } },
		{ "tinyxl", "adapters/diffusers_xl.safetensors", "", QD_ADAPTER_DIFFUSERS, 224, { letter_keys, one } },
		{ "sd15", "../adapters/weapons.safetensors", "", QD_ADAPTER_DIFFUSERS, 128, { processor_keys, one } },
	};

	(void)state;
	if (golden_path("adapters") == NULL)
		skip();
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		struct help_model model;
		struct qd_adapter adapter;
		struct qd_safetensors from;
		char weights[1024];
		if (golden_path(cases[i].path) == NULL)
			continue; /* the real adapters lie beside the golden data */
		snprintf(weights, sizeof(weights), "%s%s", golden_path(cases[i].path), cases[i].weights);
		help_model_open(&model, cases[i].model);
		open_ok(&adapter, golden_path(cases[i].path), 1, &model);
		assert_int_equal(qd_safetensors_open(&from, weights), QD_OK);
		assert_int_equal(adapter.format, cases[i].format);
		assert_int_equal(adapter.n, cases[i].n);
		for (size_t k = 0; k < adapter.n; k++)
			assert_lora(&from, &cases[i].naming, &adapter.loras[k]);
		qd_safetensors_release(&from);
		qd_adapter_release(&adapter);
		help_model_close(&model);
	}
}

/* The 16 transformers of SD1.5 in the positional order, and their layers in the old and the new order. */
static void position_path(size_t position, bool new_order, char *path, size_t bytes)
{
	static const char *const old_order[] = { "attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "ff.net.0.proj",
		"attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0" };
	size_t t = position / 9, m = position % 9;
	char attention[64];

	if (t < 6)
		snprintf(attention, sizeof(attention), "down_blocks.%zu.attentions.%zu", t / 2, t % 2);
	else if (t < 15)
		snprintf(attention, sizeof(attention), "up_blocks.%zu.attentions.%zu", (t - 6) / 3 + 1, (t - 6) % 3);
	else
		snprintf(attention, sizeof(attention), "mid_block.attentions.0");
	if (new_order)
		m = m < 4 ? m : m < 8 ? m + 1 : 4;
	snprintf(path, bytes, "%s.transformer_blocks.0.%s", attention, old_order[m]);
}

static void reads_positional_files(void **state)
{
	static const struct {
		const char *model, *path;
		size_t text, embeddings, notes;
		int64_t rank;
	} cases[] = { { "tiny15", "adapters/cloneofsimo.safetensors", 0, 0, 0, 4 },
		{ "sd15", "../adapters/analog.safetensors", 96, 0, 1, 4 },
		{ "sd15", "../adapters/disney.safetensors", 96, 2, 2, 1 } };

	(void)state;
	if (golden_path("adapters") == NULL)
		skip();
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		struct help_model model;
		struct qd_adapter adapter;
		struct qd_safetensors from;
		if (golden_path(cases[i].path) == NULL)
			continue;
		help_model_open(&model, cases[i].model);
		open_ok(&adapter, golden_path(cases[i].path), 0.5, &model);
		assert_int_equal(qd_safetensors_open(&from, golden_path(cases[i].path)), QD_OK);
		assert_int_equal(adapter.n, 144);
		assert_int_equal(adapter.text_tensors, cases[i].text);
		assert_int_equal(adapter.embeddings, cases[i].embeddings);
		assert_int_equal(adapter.n_notes, cases[i].notes);
		for (size_t n = 0; n < 144; n++) {
			char path[KEY], key[KEY];
			const struct qd_lora *lora;
			position_path(n, false, path, sizeof(path));
			lora = qd_adapter_find(&adapter, path);
			assert_non_null(lora);
			assert_int_equal(lora->rank, cases[i].rank);
			assert_true(lora->gain[0] == 0.5f);
			snprintf(key, sizeof(key), "unet:%zu:down", n);
			assert_floats(&from, key, lora->down, (size_t)(lora->rank * lora->in));
			snprintf(key, sizeof(key), "unet:%zu:up", n);
			assert_floats(&from, key, lora->up, (size_t)(lora->out * lora->rank));
		}
		qd_safetensors_release(&from);
		qd_adapter_release(&adapter);
		help_model_close(&model);
	}
}

/* ---- made here ---- */

#define ATT "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
#define LDM "input_blocks.1.1.transformer_blocks.0.attn1"
#define FLAT "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1"

/* The same numbers under two names each; file.state is set so that every format gets the same stream. */
static const char *pair_file(const char *down, const char *up, const char *name)
{
	file.state = 7;
	help_add(&file, down, 2, 2, 32);
	help_add(&file, up, 2, 32, 2);
	return help_write(&file, name);
}

static void assert_same_function(const struct qd_lora *a, const struct qd_lora *b)
{
	assert_non_null(a);
	assert_non_null(b);
	for (int64_t o = 0; o < a->out; o += 3)
		for (int64_t i = 0; i < a->in * a->kh * a->kw; i += 5)
			assert_true(help_delta(a, o, i) == help_delta(b, o, i));
}

static void spellings_mean_the_same(void **state)
{
	static const char *const names[][2] = {
		{ "unet." ATT ".to_out.0.lora_A.weight", "unet." ATT ".to_out.0.lora_B.weight" },
		{ ATT ".to_out.0.lora_A.default.weight", ATT ".to_out.0.lora_B.default.weight" },
		{ "unet." ATT ".to_out.0.lora.down.weight", ATT ".to_out.0.lora_B.weight" },
		{ "unet." ATT ".to_out_lora.down.weight", "unet." ATT ".to_out_lora.up.weight" },
		{ ATT ".processor.to_out_lora.down.weight", "unet." ATT ".processor.to_out_lora.up.weight" },
		{ "unet." ATT ".to_out.0.lora_linear_layer.down.weight", "unet." ATT ".to_out.0.lora_linear_layer.up.weight" },
		{ "diffusion_model." ATT ".to_out.0.lora_A.weight", "diffusion_model." ATT ".to_out.0.lora_B.weight" },
		{ "diffusion_model." LDM ".to_out.0.lora_down.weight", "diffusion_model." LDM ".to_out.0.lora_up.weight" },
		{ "model.diffusion_model." LDM ".to_out.0.lora_A.weight", "model.diffusion_model." LDM ".to_out.0.lora_B.weight" },
		{ LDM ".to_out.0.lora_A.weight", LDM ".to_out.0.lora_B.weight" },
		{ FLAT "_to_out_0.lora_down.weight", FLAT "_to_out_0.lora_up.weight" },
		{ "lycoris_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0.lora_down.weight",
			"lycoris_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0.lora_up.weight" },
		{ "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_out_0.lora_down.weight",
			"lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_out_0.lora_up.weight" },
	};
	struct help_model model;
	struct qd_adapter first, other;

	(void)state;
	help_model_open(&model, "tiny15");
	open_ok(&first, pair_file(names[0][0], names[0][1], "first.safetensors"), 1, &model);
	for (size_t i = 1; i < QD_COUNT(names); i++) {
		open_ok(&other, pair_file(names[i][0], names[i][1], "other.safetensors"), 1, &model);
		assert_int_equal(other.n, 1);
		assert_string_equal(other.loras[0].path, ATT ".to_out.0");
		assert_same_function(&first.loras[0], &other.loras[0]);
		qd_adapter_release(&other);
	}
	qd_adapter_release(&first);
	help_model_close(&model);
}

/* alpha / rank; 0 and none are 1, and said to be. */
static void kohya_scales_by_alpha(void **state)
{
	static const struct {
		const char *alpha;
		float value, gain;
		size_t notes;
	} cases[] = { { FLAT "_to_q.alpha", 1, 1.5f, 0 }, { FLAT "_to_q.alpha", 0, 3, 1 }, { NULL, 0, 3, 1 } };
	struct help_model model;

	(void)state;
	help_model_open(&model, "tiny15");
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		struct qd_adapter adapter;
		help_add(&file, FLAT "_to_q.lora_down.weight", 4, 2, 32, 1, 1); /* four dimensions for a linear layer */
		help_add(&file, FLAT "_to_q.lora_up.weight", 2, 32, 2);
		help_add(&file, "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight", 2, 8, 2);
		help_add(&file, "bundle_emb.word.string_to_param.*", 2, 1, 8);
		if (cases[i].alpha != NULL)
			*help_add(&file, cases[i].alpha, i == 0 ? 0 : 1, 1) = cases[i].value;
		open_ok(&adapter, help_write(&file, "a.safetensors"), 3, &model);
		assert_true(adapter.loras[0].gain[0] == cases[i].gain && adapter.loras[0].gain[1] == cases[i].gain);
		assert_int_equal(adapter.n_notes, cases[i].notes + 2);
		assert_int_equal(adapter.text_tensors, 1);
		assert_int_equal(adapter.embeddings, 1);
		qd_adapter_release(&adapter);
	}
	help_model_close(&model);
}

/* up [o,R'] mid [R',R,kh,kw] down [R,i]: alpha is divided by the rows of down. */
static void kohya_collapses_the_middle(void **state)
{
	static const char name[] = "lora_unet_down_blocks_0_resnets_0_conv1";
	struct help_model model;
	struct qd_adapter adapter;
	char key[KEY];
	float down[96], mid[54], up[64];

	(void)state;
	help_model_open(&model, "tiny15");
	snprintf(key, sizeof(key), "%s.lora_down.weight", name);
	memcpy(down, help_add(&file, key, 4, 3, 32, 1, 1), sizeof(down));
	snprintf(key, sizeof(key), "%s.lora_mid.weight", name);
	memcpy(mid, help_add(&file, key, 4, 2, 3, 3, 3), sizeof(mid));
	snprintf(key, sizeof(key), "%s.lora_up.weight", name);
	memcpy(up, help_add(&file, key, 4, 32, 2, 1, 1), sizeof(up));
	snprintf(key, sizeof(key), "%s.alpha", name);
	*help_add(&file, key, 0) = 6;
	open_ok(&adapter, help_write(&file, "a.safetensors"), 1, &model);
	for (int o = 0; o < 32; o++)
		for (int c = 0; c < 32; c++)
			for (int k = 0; k < 9; k++) {
				double sum = 0;
				for (int i = 0; i < 2; i++)
					for (int j = 0; j < 3; j++)
						sum += 2.0 * (double)up[o * 2 + i] * (double)mid[(i * 3 + j) * 9 + k] *
						       (double)down[j * 32 + c];
				assert_true(fabs(sum - help_delta(&adapter.loras[0], o, c * 9 + k)) < 1e-5);
			}
	qd_adapter_release(&adapter);
	help_model_close(&model);
}

/* SDXL's names of the original implementation, against the table of both spellings. */
static void kohya_knows_original_names(void **state)
{
	static const struct {
		const char *flat, *path;
	} cases[] = {
		{ "input_blocks_4_1_transformer_blocks_0_attn1_to_q",
			"down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q" },
		{ "input_blocks_8_1_transformer_blocks_9_attn2_to_k",
			"down_blocks.2.attentions.1.transformer_blocks.9.attn2.to_k" },
		{ "middle_block_1_proj_in", "mid_block.attentions.0.proj_in" },
		{ "middle_block_2_out_layers_3", "mid_block.resnets.1.conv2" },
		{ "output_blocks_2_1_transformer_blocks_9_ff_net_0_proj",
			"up_blocks.0.attentions.2.transformer_blocks.9.ff.net.0.proj" },
		{ "input_blocks_1_0_in_layers_2", "down_blocks.0.resnets.0.conv1" },
		{ "input_blocks_3_0_op", "down_blocks.0.downsamplers.0.conv" },
		{ "input_blocks_4_0_skip_connection", "down_blocks.1.resnets.0.conv_shortcut" },
		{ "output_blocks_2_2_conv", "up_blocks.0.upsamplers.0.conv" },
		{ "output_blocks_8_0_emb_layers_1", "up_blocks.2.resnets.2.time_emb_proj" },
		{ "input_blocks_0_0", "conv_in" },
		{ "out_2", "conv_out" },
		{ "time_embed_2", "time_embedding.linear_2" },
		{ "label_emb_0_0", "add_embedding.linear_1" },
		{ "down_blocks_1_attentions_0_proj_out", "down_blocks.1.attentions.0.proj_out" },
	};
	struct help_model model;
	struct qd_adapter adapter;

	(void)state;
	help_model_open(&model, "sdxl");
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		const struct qd_module *module = qd_modules_find(&model.modules, cases[i].path);
		char key[KEY];
		assert_non_null(module);
		snprintf(key, sizeof(key), "lora_unet_%s.lora_down.weight", cases[i].flat);
		help_add(&file, key, 4, 1, (int)module->in, (int)module->kh, (int)module->kw);
		snprintf(key, sizeof(key), "lora_unet_%s.lora_up.weight", cases[i].flat);
		help_add(&file, key, 2, (int)module->out, 1);
	}
	open_ok(&adapter, help_write(&file, "a.safetensors"), 1, &model);
	assert_int_equal(adapter.n, QD_COUNT(cases));
	for (size_t i = 0; i < QD_COUNT(cases); i++)
		assert_non_null(qd_adapter_find(&adapter, cases[i].path));
	qd_adapter_release(&adapter);
	help_model_close(&model);
}

/* Where an upsampler's block has no attention its place in the block is 1, as in SD1.x's first up block. */
static void kohya_knows_blocks_without_attention(void **state)
{
	struct help_model model;
	struct qd_adapter adapter;

	(void)state;
	help_model_open(&model, "tiny15");
	help_add(&file, "lora_unet_output_blocks_2_1_conv.lora_down.weight", 4, 1, 96, 3, 3);
	help_add(&file, "lora_unet_output_blocks_2_1_conv.lora_up.weight", 4, 96, 1, 1, 1);
	open_ok(&adapter, help_write(&file, "a.safetensors"), 1, &model);
	assert_string_equal(adapter.loras[0].path, "up_blocks.0.upsamplers.0.conv");
	qd_adapter_release(&adapter);
	help_model_close(&model);
}

/* Every layer of a positional file, each with its own constant in up, in the order given. */
static void add_positions(bool new_order, const struct help_model *model, size_t first_resnet)
{
	for (size_t n = 0; n < first_resnet; n++) {
		char path[KEY], key[KEY];
		const struct qd_module *module;
		float *up;
		position_path(n, new_order, path, sizeof(path));
		module = qd_modules_find(&model->modules, path);
		snprintf(key, sizeof(key), "unet:%zu:down", n);
		help_add(&file, key, 2, 1, (int)module->in);
		snprintf(key, sizeof(key), "unet:%zu:up", n);
		up = help_add(&file, key, 2, (int)module->out, 1);
		up[0] = (float)n;
	}
}

/* The classes that a file lists tell which order it is in. */
static void reads_both_feed_forward_orders(void **state)
{
	static const char *const classes[] = { "[\"CrossAttention\", \"GEGLU\"]", "[\"Attention\", \"GEGLU\"]" };
	struct help_model model;

	(void)state;
	help_model_open(&model, "tiny15");
	for (size_t i = 0; i < QD_COUNT(classes); i++) {
		struct qd_adapter adapter;

		add_positions(i == 1, &model, 144);
		file.metadata[0] = "unet", file.metadata[1] = classes[i], file.n_metadata = 2;
		open_ok(&adapter, help_write(&file, "a.safetensors"), 0.5, &model);
		assert_int_equal(adapter.format, QD_ADAPTER_CLONEOFSIMO);
		assert_int_equal(adapter.n, 144);
		for (size_t n = 0; n < 144; n++) {
			const struct qd_lora *lora;
			char path[KEY];

			position_path(n, i == 1, path, sizeof(path));
			lora = qd_adapter_find(&adapter, path);
			assert_true(lora->up[0] == (float)n && lora->rank == 1 && lora->gain[0] == 0.5f);
		}
		qd_adapter_release(&adapter);
	}
	help_model_close(&model);
}

/* Such a file of another model says by its layers' sizes whose it is. */
static void tells_the_family_of_positional_files(void **state)
{
	struct help_model sd15, tiny;
	struct qd_adapter adapter;

	(void)state;
	help_model_open(&sd15, "sd15");
	help_model_open(&tiny, "tiny15");
	add_positions(false, &sd15, 144);
	file.metadata[0] = "unet", file.metadata[1] = "[\"CrossAttention\", \"GEGLU\"]", file.n_metadata = 2;
	assert_int_equal(qd_adapter_open(&adapter, "a", help_write(&file, "a.safetensors"), 1, &tiny.modules), QD_EINPUT);
	if (!qd_ends_with(qd_message(), "needs [R,32]; the adapter looks made for Stable Diffusion 1.x"))
		fail_msg("says '%s'", qd_message());
	help_model_close(&tiny);
	help_model_close(&sd15);
}

/* The extended set: in every block the resnets' layers after all attentions; listed here for a model by plain loops over its paths.
 */
static void reads_the_extended_set(void **state)
{
	static const char *const blocks[] = { "down_blocks.0.", "down_blocks.1.", "down_blocks.2.", "down_blocks.3.",
		"up_blocks.0.", "up_blocks.1.", "up_blocks.2.", "up_blocks.3.", "mid_block." };
	static const char *const transformer[] = { "attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "ff.net.0.proj",
		"attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0" };
	static const char *const resnet[] = { "conv1", "time_emb_proj", "conv2", "conv_shortcut" };
	static char paths[300][KEY];
	struct help_model model;
	struct qd_adapter adapter;
	size_t n = 0;

	(void)state;
	help_model_open(&model, "tiny15");
	for (size_t b = 0; b < QD_COUNT(blocks); b++) {
		for (int a = 0; a < 3; a++)
			for (size_t m = 0; m < QD_COUNT(transformer); m++) {
				snprintf(paths[n], KEY, "%sattentions.%d.transformer_blocks.0.%s", blocks[b], a, transformer[m]);
				n += qd_modules_find(&model.modules, paths[n]) != NULL;
			}
		for (int a = 0; a < 3; a++)
			for (size_t m = 0; m < QD_COUNT(resnet); m++) {
				snprintf(paths[n], KEY, "%sresnets.%d.%s", blocks[b], a, resnet[m]);
				n += qd_modules_find(&model.modules, paths[n]) != NULL;
			}
	}
	assert_int_equal(n, 224);
	for (size_t i = 0; i < n; i++) {
		const struct qd_module *module = qd_modules_find(&model.modules, paths[i]);
		char key[KEY];
		snprintf(key, sizeof(key), "unet:%zu:down", i);
		if (module->conv)
			help_add(&file, key, 4, 1, (int)module->in, (int)module->kh, (int)module->kw);
		else
			help_add(&file, key, 2, 1, (int)module->in);
		snprintf(key, sizeof(key), "unet:%zu:up", i);
		help_add(&file, key, 2, (int)module->out, 1)[0] = (float)i;
	}
	file.metadata[0] = "unet", file.metadata[1] = "[\"CrossAttention\", \"GEGLU\", \"ResnetBlock2D\"]", file.n_metadata = 2;
	open_ok(&adapter, help_write(&file, "a.safetensors"), 1, &model);
	for (size_t i = 0; i < n; i++)
		assert_true(qd_adapter_find(&adapter, paths[i])->up[0] == (float)i);
	qd_adapter_release(&adapter);
	help_model_close(&model);
}

/* ---- PEFT's rules, in a folder and in a diffusers file's header ---- */

/* A file for four layers of ranks 2, 4, 2, 2 under a PEFT configuration; returns the folder. */
static const char *peft_folder(const char *config, const char *prefix)
{
	static const char *const paths[] = { ATT ".to_q", ATT ".to_k", "mid_block.attentions.0.proj_in", "conv_in" };
	static const int shapes[][3] = { { 2, 32, 32 }, { 4, 32, 32 }, { 2, 96, 96 }, { 2, 4, 32 } };
	char key[KEY];

	for (size_t i = 0; i < QD_COUNT(paths); i++) {
		snprintf(key, sizeof(key), "%s%s.lora_A.weight", prefix, paths[i]);
		if (i < 2)
			help_add(&file, key, 2, shapes[i][0], shapes[i][1]);
		else
			help_add(&file, key, 4, shapes[i][0], shapes[i][1], i == 3 ? 3 : 1, i == 3 ? 3 : 1);
		snprintf(key, sizeof(key), "%s%s.lora_B.weight", prefix, paths[i]);
		if (i < 2)
			help_add(&file, key, 2, shapes[i][2], shapes[i][0]);
		else
			help_add(&file, key, 4, shapes[i][2], shapes[i][0], 1, 1);
	}
	mkdir(scratch_path("peft"), 0700);
	mkdir(scratch_path("peft/unet"), 0700);
	scratch_file("peft/unet/adapter_config.json", config, strlen(config));
	help_write(&file, "peft/unet/adapter_model.safetensors");
	return scratch_path("peft");
}

/* PEFT adds its scale times the bias, as it does with the matrices. */
static void peft_scales_biases(void **state)
{
	static const char config[] = "{\"r\": 4, \"lora_alpha\": 6, \"use_rslora\": true, \"lora_bias\": true}";
	static const char *const keys[] = { "base_model.model." ATT ".to_q.lora_B.bias",
		"base_model.model." ATT ".to_q.lora_B.default.bias" };
	struct help_model model;
	struct qd_adapter adapter;

	(void)state;
	help_model_open(&model, "tiny15");
	mkdir(scratch_path("biased"), 0700);
	scratch_file("biased/adapter_config.json", config, strlen(config));
	for (size_t i = 0; i < QD_COUNT(keys); i++) {
		float *bias;
		help_add(&file, "base_model.model." ATT ".to_q.lora_A.weight", 2, 4, 32);
		help_add(&file, "base_model.model." ATT ".to_q.lora_B.weight", 2, 32, 4);
		bias = help_add(&file, keys[i], 1, 32);
		for (int o = 0; o < 32; o++)
			bias[o] = (float)o;
		help_write(&file, "biased/adapter_model.safetensors");
		if (qd_adapter_open(&adapter, "a", scratch_path("biased"), 2, &model.modules) != QD_OK)
			fail_msg("%s", qd_message());
		assert_int_equal(adapter.n, 1);
		for (int o = 0; o < 32; o++)
			assert_true(adapter.loras[0].bias[o] == 6 * (float)o);
		qd_adapter_release(&adapter);
	}
	help_model_close(&model);
}

static void peft_scales_by_patterns(void **state)
{
	static const struct {
		const char *config;
		double gains[4];
		size_t notes;
	} cases[] = {
		{ "{\"peft_type\": \"LORA\", \"r\": 2, \"lora_alpha\": 3, \"rank_pattern\": {\"to_k\": 4}, \"alpha_pattern\": {}}",
			{ 1.5, 0.75, 1.5, 1.5 }, 0 },
		{ "{\"r\": 2, \"lora_alpha\": 1.5, \"use_rslora\": true, \"rank_pattern\": {\"attn1.to_k\": 4, \"to_k\": 2},"
		  "\"alpha_pattern\": {\"^conv_in\": 6, \"^to_q\": 9, \"o_q\": 9, \"attn..to_q\": 5}, \"target_modules\": "
		  "[\"to_q\", \"conv_in\"]}",
			{ 3.5355339059327378, 0.75, 1.0606601717798212, 4.2426406871192848 }, 1 },
		{ "{\"r\": 2, \"rank_pattern\": {\"" ATT
		  ".to_k\": 4}, \"use_dora\": false, \"loftq_config\": {}, \"modules_to_save\": null,"
		  "\"init_lora_weights\": \"gaussian\", \"bias\": \"none\", \"unknown_field\": [1]}",
			{ 4, 2, 4, 4 }, 0 },
		/* Python's regular expressions: classes, alternatives, groups without number, whole and partial paths */
		{ "{\"r\": 2, \"lora_alpha\": 2, \"rank_pattern\": {\"attn\\\\d\\\\.to_(?:k|v)\": 4}, \"alpha_pattern\": "
		  "{\"^down_blocks\\\\.0\\\\..*attn1\\\\.to_q\": 100, \"o_k\": 9, \"(mid_block|up_blocks).*proj_in\": 6}, "
		  "\"target_modules\": \".*(to_q|to_k|proj_in)\"}",
			{ 50, 0.5, 3, 1 }, 1 },
	};
	struct help_model model;

	(void)state;
	help_model_open(&model, "tiny15");
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		static const char *const paths[] = { ATT ".to_q", ATT ".to_k", "mid_block.attentions.0.proj_in", "conv_in" };
		struct qd_adapter adapter;
		open_ok(&adapter, peft_folder(cases[i].config, i == 0 ? "" : "base_model.model."), 1, &model);
		assert_int_equal(adapter.format, QD_ADAPTER_PEFT);
		assert_int_equal(adapter.n_notes, cases[i].notes);
		for (size_t k = 0; k < 4; k++)
			assert_true(qd_adapter_find(&adapter, paths[k])->gain[0] == (float)cases[i].gains[k]);
		qd_adapter_release(&adapter);
		open_ok(&adapter, scratch_path("peft/unet/adapter_model.safetensors"), 1, &model);
		assert_int_equal(adapter.format, QD_ADAPTER_PEFT);
		qd_adapter_release(&adapter);
	}
	help_model_close(&model);
}

/* Text encoders in folders of their own beside unet/ are counted. */
static void peft_counts_text_folders(void **state)
{
	struct help_model model;
	struct qd_adapter adapter;
	const char *folder;

	(void)state;
	help_model_open(&model, "tiny15");
	folder = peft_folder("{\"r\": 2, \"rank_pattern\": {\"to_k\": 4}}", "");
	mkdir(scratch_path("peft/text_encoder"), 0700);
	help_add(&file, "base_model.model.text_model.encoder.layers.0.mlp.fc1.lora_A.weight", 2, 2, 8);
	help_write(&file, "peft/text_encoder/adapter_model.safetensors");
	open_ok(&adapter, folder, 1, &model);
	assert_int_equal(adapter.text_tensors, 1);
	assert_string_equal(adapter.notes[0], "1 tensors of text encoders are not used: only the UNet is adapted");
	qd_adapter_release(&adapter);
	remove(scratch_path("peft/text_encoder/adapter_model.safetensors"));
	help_model_close(&model);
}

static void diffusers_scales(void **state)
{
	static const struct {
		const char *metadata;
		float alpha;
		double gain;
	} cases[] = {
		{ NULL, 0, 1 },
		{ NULL, 3, 1.5 },
		{ "{\"unet.r\": 2, \"unet.lora_alpha\": 5, \"text_encoder.r\": 9, \"unet.target_modules\": [\"to_q\"]}", 0, 2.5 },
		{ "{\"unet.r\": 2, \"unet.lora_alpha\": 5}", 5, 2.5 },
		{ "{\"r\": 8, \"lora_alpha\": 4, \"rank_pattern\": {\"to_q\": 2}, \"use_rslora\": true}", 0, 2.8284271247461903 },
		{ "{\"text_encoder.r\": 9, \"text_encoder.lora_alpha\": 5}", 0, 1 },
	};
	struct help_model model;

	(void)state;
	help_model_open(&model, "tiny15");
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		struct qd_adapter adapter;
		help_add(&file, "unet." ATT ".to_q.lora_A.weight", 2, 2, 32);
		help_add(&file, "unet." ATT ".to_q.lora.up.weight", 4, 32, 2, 1, 1);
		help_add(&file, "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.down.weight", 2, 2, 8);
		help_add(&file, "bundle_emb.word.clip_l", 2, 1, 8);
		if (cases[i].alpha > 0)
			*help_add(&file, "unet." ATT ".to_q.alpha", 0) = cases[i].alpha;
		if (i == 0)
			memcpy(help_add(&file, "unet." ATT ".to_q.lora_gain", 1, 2), (float[]){ -2, 0.5f }, 2 * sizeof(float));
		if (cases[i].metadata != NULL)
			file.metadata[0] = "lora_adapter_metadata", file.metadata[1] = cases[i].metadata, file.n_metadata = 2;
		open_ok(&adapter, help_write(&file, "a.safetensors"), 1, &model);
		assert_true(adapter.loras[0].gain[0] == (float)(cases[i].gain * (i == 0 ? -2 : 1)));
		assert_true(adapter.loras[0].gain[1] == (float)(cases[i].gain * (i == 0 ? 0.5 : 1)));
		assert_int_equal(adapter.text_tensors, 1);
		assert_int_equal(adapter.embeddings, 1);
		qd_adapter_release(&adapter);
	}
	help_model_close(&model);
}

static void keep_warning(void *context, enum qd_log_level level, const char *text)
{
	if (level == QD_LOG_WARNING)
		snprintf(context, 256, "%s", text);
}

/* Whoever reads an adapter says what of it is not used. */
static void what_is_left_out_is_told(void **state)
{
	struct help_model model;
	struct qd_adapter adapter;
	char warning[256] = "";

	(void)state;
	help_model_open(&model, "tiny15");
	help_add(&file, ATT ".to_q.lora_A.weight", 2, 2, 32);
	help_add(&file, ATT ".to_q.lora_B.weight", 2, 32, 2);
	help_add(&file, "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.lora_A.weight", 2, 2, 8);
	qd_set_log_hook(keep_warning, warning);
	open_ok(&adapter, help_write(&file, "a.safetensors"), 1, &model);
	qd_set_log_hook(NULL, NULL);
	assert_string_equal(warning, "adapter 'name': 1 tensors of text encoders are not used: only the UNet is adapted");
	qd_adapter_release(&adapter);
	help_model_close(&model);
}

/* A folder as save_lora_weights makes it. */
static void reads_a_folder_of_weights(void **state)
{
	struct help_model model;
	struct qd_adapter adapter;

	(void)state;
	help_model_open(&model, "tiny15");
	mkdir(scratch_path("saved"), 0700);
	pair_file("unet." ATT ".to_q.lora_A.weight", "unet." ATT ".to_q.lora_B.weight", "saved/pytorch_lora_weights.safetensors");
	open_ok(&adapter, scratch_path("saved"), 1, &model);
	assert_int_equal(adapter.n, 1);
	qd_adapter_release(&adapter);
	help_model_close(&model);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_dialect_holds_the_same),
		cmocka_unit_test(reads_golden_files),
		cmocka_unit_test(reads_positional_files),
		cmocka_unit_test(spellings_mean_the_same),
		cmocka_unit_test(kohya_scales_by_alpha),
		cmocka_unit_test(kohya_collapses_the_middle),
		cmocka_unit_test(kohya_knows_original_names),
		cmocka_unit_test(kohya_knows_blocks_without_attention),
		cmocka_unit_test(reads_both_feed_forward_orders),
		cmocka_unit_test(tells_the_family_of_positional_files),
		cmocka_unit_test(reads_the_extended_set),
		cmocka_unit_test(peft_scales_biases),
		cmocka_unit_test(peft_scales_by_patterns),
		cmocka_unit_test(peft_counts_text_folders),
		cmocka_unit_test(diffusers_scales),
		cmocka_unit_test(what_is_left_out_is_told),
		cmocka_unit_test(reads_a_folder_of_weights),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
