/*
 * export/file, manifest: what a later adapter is checked against, and that adapters of a name replace each other.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "export/file/internal.h"
#include "tests/unit/ir_help.h"
#include "tests/unit/scratch.h"

static const char graph_text[] = "graph g\n"
				 "input %sample f32[1,2]\n"
				 "input %a.lora_down i8[1,2]\n"
				 "input %a.lora_up i8[3,1]\n"
				 "input %a.lora_gain f32[1]\n"
				 "%out = Relu(%sample)\n"
				 "output %out\n";

struct fixture {
	struct qd_graph g;
	struct qd_slot slot;
	struct qd_profile profile;
	struct qd_export_options options;
	char profile_path[4096];
	json_t *manifest;
};

static const struct qd_provenance made = { .program = "quad 9.9", .command = "export" };

static void make(struct fixture *f)
{
	memset(f, 0, sizeof(*f));
	ir_parse(&f->g, graph_text);
	f->slot = (struct qd_slot){ .path = "a", .rank = 1, .in = 2, .out = 3, .kh = 1, .kw = 1 };
	f->profile.slots.items = &f->slot;
	f->profile.slots.n = 1;
	f->profile.method = "unified";
	f->profile.options = qd_quant_options_default();
	snprintf(f->profile.base_hash, sizeof(f->profile.base_hash), "xxh3-128:00");
	snprintf(f->profile_path, sizeof(f->profile_path), "%s", scratch_file("profile.json", "{}", 2));
	f->options = (struct qd_export_options){ .profile_path = f->profile_path, .provenance = &made, .version = "9.9" };
	if (qd_manifest_make(NULL, &f->g, &f->profile, &f->options, &f->manifest) != QD_OK)
		fail_msg("%s", qd_message());
}

static void done(struct fixture *f)
{
	json_decref(f->manifest);
	qd_graph_release(&f->g);
}

static const char *text_at(const json_t *object, const char *key)
{
	return json_string_value(json_object_get(object, key));
}

static void describes_graph_and_slots(void **state)
{
	struct fixture f;
	(void)state;
	make(&f);
	const json_t *graph = json_object_get(f.manifest, "graph"), *inputs = json_object_get(graph, "inputs");
	const json_t *slot = json_array_get(json_object_get(f.manifest, "slots"), 0),
		     *up = json_array_get(json_object_get(slot, "inputs"), 1);
	assert_int_equal(json_integer_value(json_object_get(f.manifest, "schema")), 1);
	assert_string_equal(text_at(json_object_get(f.manifest, "provenance"), "program"), "quad 9.9");
	assert_string_equal(text_at(json_object_get(f.manifest, "provenance"), "command"), "export");
	assert_int_equal(json_array_size(inputs), 1); /* LoRA inputs belong to slots */
	assert_string_equal(text_at(json_array_get(inputs, 0), "name"), "sample");
	assert_string_equal(text_at(slot, "path"), "a");
	assert_int_equal(json_integer_value(json_object_get(slot, "rank")), 1);
	assert_string_equal(text_at(up, "name"), "a.lora_up");
	assert_string_equal(text_at(up, "dtype"), "I8");
	assert_int_equal(json_integer_value(json_array_get(json_object_get(up, "shape"), 0)), 3);
	assert_string_equal(text_at(json_object_get(f.manifest, "profile"), "method"), "unified");
	assert_string_equal(text_at(json_object_get(f.manifest, "profile"), "align"), "gain");
	done(&f);
}

static void an_adapter_replaces_one_of_its_name(void **state)
{
	struct fixture f;
	struct qd_exported_adapter two[] = { { "x", "h1", 30.5, 1 }, { "y", "h2", INFINITY, 0 } }, again = { "x", "h3", 31, 1 };
	(void)state;
	make(&f);
	assert_int_equal(qd_manifest_add_adapters(f.manifest, NULL, two, 2), QD_OK);
	assert_int_equal(qd_manifest_add_adapters(f.manifest, NULL, &again, 1), QD_OK);
	const json_t *list = json_object_get(f.manifest, "adapters");
	assert_int_equal(json_array_size(list), 2);
	assert_string_equal(text_at(json_array_get(list, 0), "name"), "y");
	assert_true(json_is_null(json_object_get(json_array_get(list, 0), "update_sqnr_db")));
	assert_string_equal(text_at(json_array_get(list, 1), "source"), "h3");
	assert_string_equal(
		json_string_value(json_array_get(json_object_get(json_array_get(list, 1), "files"), 1)), "adapters/x.onnx_adapter");
	done(&f);
}

/* Every file below the folder but the manifest, with its size and hash, in the order of names. */
static void lists_the_files(void **state)
{
	struct fixture f;
	char hash[QD_HASH_TEXT];
	(void)state;
	make(&f);
	scratch_file("manifest.json", "{}", 2);
	assert_int_equal(qd_manifest_add_adapters(f.manifest, scratch_dir(), NULL, 0), QD_OK);
	const json_t *files = json_object_get(f.manifest, "files");
	assert_int_equal(json_array_size(files), 1);
	assert_string_equal(text_at(json_array_get(files, 0), "path"), "profile.json");
	assert_int_equal(json_integer_value(json_object_get(json_array_get(files, 0), "bytes")), 2);
	qd_hash_bytes("{}", 2, hash);
	assert_string_equal(text_at(json_array_get(files, 0), "hash"), hash);
	remove(scratch_path("manifest.json"));
	done(&f);
}

static void accepts_its_own_profile(void **state)
{
	struct fixture f;
	(void)state;
	make(&f);
	assert_int_equal(qd_manifest_check(f.manifest, "m", &f.profile, f.profile_path), QD_OK);
	done(&f);
}

static void expect_refusal(struct fixture *f, const char *message)
{
	assert_int_equal(qd_manifest_check(f->manifest, "m", &f->profile, f->profile_path), QD_EINPUT);
	if (strncmp(qd_message(), message, strlen(message)) != 0)
		fail_msg("%s", qd_message());
	done(f);
}

static void refuses_another_schema(void **state)
{
	struct fixture f;
	(void)state;
	make(&f);
	json_object_set_new(f.manifest, "schema", json_integer(2));
	expect_refusal(&f, "'m' is not the manifest of an export with schema 1");
}

static void refuses_another_base(void **state)
{
	struct fixture f;
	(void)state;
	make(&f);
	snprintf(f.profile.base_hash, sizeof(f.profile.base_hash), "xxh3-128:11");
	expect_refusal(&f, "'m' was made from base xxh3-128:00, the profile from xxh3-128:11");
}

static void refuses_another_profile(void **state)
{
	struct fixture f;
	(void)state;
	make(&f);
	scratch_file("profile.json", "{ }", 3);
	expect_refusal(&f, "'m' was made under profile xxh3-128:");
}

static void refuses_other_slots(void **state)
{
	struct fixture f;
	struct qd_slot two[2];
	(void)state;
	make(&f);
	two[0] = two[1] = f.slot;
	f.profile.slots.items = two;
	f.profile.slots.n = 2;
	expect_refusal(&f, "'m' has 1 slots, the profile 2");
	make(&f);
	f.slot.path = "b";
	expect_refusal(&f, "'m': slot 0 is 'a', the profile has 'b'");
	make(&f);
	f.slot.rank = 4;
	expect_refusal(&f, "'m': slot 'a' has rank 1, the profile has 4");
}

static void refuses_a_graph_without_a_slot(void **state)
{
	struct fixture f;
	json_t *manifest;
	(void)state;
	make(&f);
	f.slot.path = "b";
	assert_int_equal(qd_manifest_make(NULL, &f.g, &f.profile, &f.options, &manifest), QD_EINPUT);
	assert_string_equal(qd_message(), "the graph has no input 'b.lora_down'");
	done(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(describes_graph_and_slots),
		cmocka_unit_test(an_adapter_replaces_one_of_its_name),
		cmocka_unit_test(lists_the_files),
		cmocka_unit_test(accepts_its_own_profile),
		cmocka_unit_test(refuses_another_schema),
		cmocka_unit_test(refuses_another_base),
		cmocka_unit_test(refuses_another_profile),
		cmocka_unit_test(refuses_other_slots),
		cmocka_unit_test(refuses_a_graph_without_a_slot),
	};
	return cmocka_run_group_tests_name("manifest", tests, NULL, NULL);
}
