/*
 * lib/adapter: every field of PEFT's configuration that changes what the file means, where it stands (adapter_config.json,
 * the header of diffusers files), and which tensors belong to text encoders.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/unit/adapter_help.h"
#include "tests/unit/scratch.h"

static struct help_file file;

/* A PEFT folder of one layer of rank 2 with this configuration. */
static const char *folder(const char *config)
{
	mkdir(scratch_path("peft"), 0700);
	scratch_file("peft/adapter_config.json", config, strlen(config));
	help_add(&file, "base_model.model." ATT ".to_q.lora_A.weight", 2, 2, 32);
	help_add(&file, "base_model.model." ATT ".to_q.lora_B.weight", 2, 32, 2);
	help_write(&file, "peft/adapter_model.safetensors");
	return scratch_path("peft");
}

/* The same as a diffusers file, the fields under "unet." in its header. */
static const char *header(const char *name, const char *value)
{
	static char text[256];
	snprintf(text, sizeof(text), "{\"unet.r\": 2, \"unet.lora_alpha\": 3, \"unet.%s\": %s}", name, value);
	help_add(&file, "unet." ATT ".to_q.lora_A.weight", 2, 2, 32);
	help_add(&file, "unet." ATT ".to_q.lora_B.weight", 2, 32, 2);
	file.metadata[0] = "lora_adapter_metadata";
	file.metadata[1] = text;
	file.n_metadata = 2;
	return help_write(&file, "header.safetensors");
}

static const struct field {
	const char *name, *value;
	bool refused;
} fields[] = {
	{ "peft_type", "\"ADALORA\"", true },
	{ "peft_type", "\"LOKR\"", true },
	{ "peft_type", "\"IA3\"", true },
	{ "use_dora", "true", true },
	{ "use_qalora", "true", true },
	{ "use_bdlora", "{\"a\":1}", true },
	{ "modules_to_save", "[\"conv_in\"]", true },
	{ "trainable_token_indices", "[5]", true },
	{ "target_parameters", "[\"w\"]", true },
	{ "layer_replication", "[[0,4]]", true },
	{ "alora_invocation_tokens", "[1]", true },
	{ "arrow_config", "{\"a\":1}", true },
	{ "kasa_config", "{\"a\":1}", true },
	{ "monteclora_config", "{\"a\":1}", true },
	{ "velora_config", "{\"a\":1}", true },
	{ "init_lora_weights", "\"pissa\"", true },
	{ "init_lora_weights", "\"pissa_niter_16\"", true },
	{ "init_lora_weights", "\"corda\"", true },
	{ "init_lora_weights", "\"olora\"", true },
	{ "init_lora_weights", "\"loftq\"", true },
	{ "init_lora_weights", "\"lora_ga\"", true },
	/* refused for what they say, not for being there */
	{ "peft_type", "\"LORA\"", false },
	{ "peft_type", "null", false },
	{ "use_dora", "false", false },
	{ "lora_bias", "true", false }, /* of which the file need not have any */
	{ "modules_to_save", "null", false },
	{ "modules_to_save", "[]", false },
	{ "arrow_config", "{}", false },
	{ "loftq_config", "{}", false },
	{ "lora_dropout", "0.1", false },
	{ "bias", "\"none\"", false },
	{ "fan_in_fan_out", "false", false },
	{ "init_lora_weights", "true", false },
	{ "init_lora_weights", "\"gaussian\"", false },
	{ "init_lora_weights", "\"eva\"", false },
	{ "init_lora_weights", "\"orthogonal\"", false },
	{ "init_lora_weights", "\"mica\"", false },
	{ "target_modules", "\"regular.*expression\"", false },
	{ "inference_mode", "true", false },
	{ "a_field_of_tomorrow", "{\"b\": [1]}", false },
};

/* `where` names the configuration in messages. */
static void check(const struct field *f, const char *path, const char *where)
{
	struct qd_adapter adapter;
	char message[160];
	enum qd_status st = qd_adapter_open(&adapter, "a", path, 1, &help_tiny15.modules);
	if (!f->refused) {
		if (st != QD_OK)
			fail_msg("%s %s: %s", f->name, f->value, qd_message());
		assert_int_equal(adapter.n, 1);
		assert_true(adapter.loras[0].gain[0] == 1.5F);
		qd_adapter_release(&adapter);
		return;
	}
	snprintf(message, sizeof(message), "'%s': field '%s' is %s, needs ", where, f->name, f->value);
	assert_int_equal(st, QD_EUNSUPPORTED);
	if (strstr(qd_message(), message) == NULL)
		fail_msg("says '%s', not '%s'", qd_message(), message);
}

static void fields_are_refused_for_their_value(void **state)
{
	(void)state;
	for (size_t i = 0; i < QD_COUNT(fields); i++) {
		char config[256];
		snprintf(config, sizeof(config), "{\"r\": 2, \"lora_alpha\": 3, \"%s\": %s}", fields[i].name, fields[i].value);
		check(&fields[i], folder(config), "adapter_config.json");
		check(&fields[i], header(fields[i].name, fields[i].value), "lora_adapter_metadata");
	}
}

static void refuses_pointers_in_place_of_files(void **state)
{
	static const char pointer[] = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
	struct qd_adapter adapter;
	(void)state;
	folder("{\"r\": 2}");
	scratch_file("peft/adapter_config.json", pointer, strlen(pointer));
	assert_int_equal(qd_adapter_open(&adapter, "a", scratch_path("peft"), 1, &help_tiny15.modules), QD_EINPUT);
	assert_non_null(strstr(qd_message(), "adapter_config.json' is a Git-LFS pointer"));
	folder("{\"r\": 2}");
	scratch_file("peft/adapter_model.safetensors", pointer, strlen(pointer));
	assert_int_equal(qd_adapter_open(&adapter, "a", scratch_path("peft"), 1, &help_tiny15.modules), QD_EINPUT);
	assert_non_null(strstr(qd_message(), "adapter_model.safetensors': this is a Git-LFS pointer"));
}

/* Layers of text encoders under every name that writers give them. */
static void knows_text_encoders(void **state)
{
	static const struct {
		const char *unet, *text, *suffix[2];
	} cases[] = {
		{ "unet." ATT ".to_q", "text_encoder.text_model.encoder.layers.0.self_attn.q_proj",
			{ ".lora_A.weight", ".lora_B.weight" } },
		{ ATT ".to_q", "text_model.encoder.layers.0.mlp.fc1", { ".lora_A.weight", ".lora_B.weight" } },
		{ ATT ".to_q", "encoder.layers.0.mlp.fc1", { ".lora_A.weight", ".lora_B.weight" } },
		{ "unet." ATT ".to_q", "text_encoder_2.encoder.layers.0.mlp.fc2", { ".lora.down.weight", ".lora.up.weight" } },
		{ "unet." ATT ".to_q", "text_encoder_2.text_projection", { ".lora.down.weight", ".lora.up.weight" } },
		{ "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
			"lora_te_text_model_encoder_layers_0_mlp_fc1", { ".lora_down.weight", ".lora_up.weight" } },
		{ "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
			"lora_te2_text_model_encoder_layers_31_mlp_fc1", { ".lora_down.weight", ".lora_up.weight" } },
		{ "lycoris_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q", "lycoris_encoder_layers_0_mlp_fc1",
			{ ".lora_down.weight", ".lora_up.weight" } },
		{ "lycoris_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
			"lycoris_text_model_encoder_layers_0_mlp_fc1", { ".lora_down.weight", ".lora_up.weight" } },
	};
	(void)state;
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		struct qd_adapter adapter;
		char name[192];
		for (int up = 0; up < 2; up++) {
			snprintf(name, sizeof(name), "%s%s", cases[i].unet, cases[i].suffix[up]);
			help_add(&file, name, 2, up ? 32 : 2, up ? 2 : 32);
			snprintf(name, sizeof(name), "%s%s", cases[i].text, cases[i].suffix[up]);
			help_add(&file, name, 2, up ? 8 : 2, up ? 2 : 8);
		}
		if (qd_adapter_open(&adapter, "a", help_write(&file, "text.safetensors"), 1, &help_tiny15.modules) != QD_OK)
			fail_msg("%s: %s", cases[i].text, qd_message());
		assert_int_equal(adapter.n, 1);
		assert_int_equal(adapter.text_tensors, 2);
		assert_non_null(strstr(adapter.notes[adapter.n_notes - 1], "2 tensors of text encoders are not used"));
		qd_adapter_release(&adapter);
	}
}

/* Matrices may stay in the file; then all but them is there, and loading gives what opening gives. */
static void maps_and_loads(void **state)
{
	struct qd_adapter mapped, opened;
	const char *path = folder("{\"r\": 2, \"lora_alpha\": 3}");
	(void)state;
	assert_int_equal(qd_adapter_map(&mapped, "a", path, 2, &help_tiny15.modules), QD_OK);
	assert_int_equal(qd_adapter_open(&opened, "a", path, 2, &help_tiny15.modules), QD_OK);
	assert_true(mapped.n == 1 && mapped.loras[0].rank == 2 && mapped.loras[0].gain[1] == 3);
	assert_null(mapped.loras[0].down);
	assert_null(mapped.loras[0].up);
	assert_string_equal(mapped.hash, opened.hash);
	assert_int_equal(qd_adapter_load(&mapped), QD_OK);
	assert_int_equal(qd_adapter_load(&mapped), QD_OK);
	assert_memory_equal(mapped.loras[0].down, opened.loras[0].down, 2 * 32 * sizeof(float));
	assert_memory_equal(mapped.loras[0].up, opened.loras[0].up, 32 * 2 * sizeof(float));
	qd_adapter_release(&mapped);
	qd_adapter_release(&opened);
	/* one that is never loaded is released whole, and what is wrong with numbers is found without loading */
	assert_int_equal(qd_adapter_map(&mapped, "a", path, 1, &help_tiny15.modules), QD_OK);
	qd_adapter_release(&mapped);
	help_add(&file, ATT ".to_q.lora_A.weight", 2, 2, 32)[7] = (float)(0.0 / 0.0);
	help_add(&file, ATT ".to_q.lora_B.weight", 2, 32, 2);
	assert_int_equal(qd_adapter_map(&mapped, "a", help_write(&file, "nan.safetensors"), 1, &help_tiny15.modules), QD_EINPUT);
	assert_non_null(strstr(qd_message(), "tensor '" ATT ".to_q.lora_A.weight' is infinite or not a number at element 7"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(fields_are_refused_for_their_value),
		cmocka_unit_test(refuses_pointers_in_place_of_files),
		cmocka_unit_test(knows_text_encoders),
		cmocka_unit_test(maps_and_loads),
	};
	return cmocka_run_group_tests_name("adapter_config", tests, help_tiny15_open, help_tiny15_close);
}
