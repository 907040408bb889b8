/* The profile file and calibration files: what is written reads back equal, bytes are stable, and every refusal says what is wrong.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "lib/math/math.h"
#include "quant/internal.h"
#include "tests/unit/scratch.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- there and back ---- */

static struct qd_encoding *random_encoding(struct qd_profile *p, struct qd_random *random)
{
	bool symmetric = qd_random_below(random, 2) == 0;
	int axis = qd_random_below(random, 2) == 0 ? -1 : (int)qd_random_below(random, 3);
	size_t n = axis < 0 ? 1 : 1 + (size_t)qd_random_below(random, 6);
	struct qd_encoding *e;

	OK(qd_encoding_new(&p->arena, qd_random_below(random, 2) == 0 ? 8 : 16, symmetric, axis, n, &e));
	for (size_t i = 0; i < n; i++) {
		/* Any float32 that is a scale, the smallest included. */
		e->scale[i] = (float)fmax(exp(80 * qd_random_uniform(random) - 60), 0x1p-23);
		e->zero_point[i] = symmetric ? 0 : (float)qd_random_below(random, (uint64_t)qd_encoding_high(e));
	}
	return e;
}

static void random_profile(struct qd_profile *p, uint64_t seed)
{
	struct qd_random random;
	const enum qd_entry_kind kinds[] = { QD_ENTRY_ACTIVATION, QD_ENTRY_WEIGHT, QD_ENTRY_LORA };

	qd_random_init(&random, seed, 0);
	*p = (struct qd_profile){
		.options = qd_quant_options_default(), .method = "anchor", .anchor = "b\"\\\n\xc3\xa9", .reason = "because"
	};
	p->options.share = (enum qd_share)qd_random_below(&random, 2);
	p->options.align = (enum qd_align)qd_random_below(&random, 3);
	p->options.observer = (enum qd_observer_kind)qd_random_below(&random, 3);
	p->options.divergence = (enum qd_divergence)qd_random_below(&random, 4);
	p->options.weight_scheme = (enum qd_weight_scheme)qd_random_below(&random, 2);
	p->options.anchor = qd_random_below(&random, 2) == 0 ? NULL : "b";
	p->options.slots = qd_random_below(&random, 2) == 0 ? NULL : "attention";
	p->options.equal_level = qd_random_uniform(&random);
	strcpy(p->base_hash, "xxh3-128:00112233445566778899aabbccddeeff");
	p->n_adapters = 2;
	p->adapters = qd_arena_array(&p->arena, 2, sizeof(*p->adapters));
	for (size_t i = 0; i < 2; i++) {
		struct qd_adapter_score *a = &p->adapters[i];

		*a = (struct qd_adapter_score){ .name = i == 0 ? "a" : p->anchor, .rank = 4, .n_slots = 7, .n_samples = 3 };
		strcpy(a->hash, "xxh3-128:ff");
		a->qss = qd_random_uniform(&random) * 1e-9;
		a->standard_error = qd_random_uniform(&random) * 1e-10;
		a->output_sqnr_db = i == 0 ? INFINITY : 30 + qd_random_uniform(&random);
		a->update_own_db = qd_random_normal(&random);
		a->update_shared_db = -qd_random_uniform(&random);
		a->update_aligned_db = 1e2 * qd_random_uniform(&random);
		a->per_sample = qd_arena_array(&p->arena, 3, sizeof(double));
		for (size_t k = 0; k < 3; k++)
			a->per_sample[k] = qd_random_normal(&random) * 1e-7;
	}
	p->slots.n = 2;
	p->slots.items = qd_arena_array(&p->slots.arena, 2, sizeof(*p->slots.items));
	for (size_t i = 0; i < 2; i++) {
		p->slots.items[i] = (struct qd_slot){ .path = i == 0 ? "a.b" : "c",
			.rank = 4,
			.out = 10,
			.in = 3,
			.kh = i == 0 ? 3 : 1,
			.kw = 1,
			.conv = i == 0,
			.biased = i == 1 };
		OK(qd_strmap_put(&p->slots.by_path, p->slots.items[i].path, (uint32_t)i));
	}
	for (size_t i = 0; i < 40; i++)
		OK(qd_profile_add(p, kinds[i % 3], qd_arena_strf(&p->arena, "tensor.%zu", i), random_encoding(p, &random)));
}

static void same_text(const char *a, const char *b)
{
	if (a == NULL || b == NULL)
		assert_true(a == b);
	else
		assert_string_equal(a, b);
}

static void same_encoding(const struct qd_encoding *a, const struct qd_encoding *b)
{
	assert_int_equal(a->bits, b->bits);
	assert_int_equal(a->is_signed, b->is_signed);
	assert_int_equal(a->symmetric, b->symmetric);
	assert_int_equal(a->axis, b->axis);
	assert_int_equal(a->n, b->n);
	assert_memory_equal(a->scale, b->scale, a->n * sizeof(float));
	assert_memory_equal(a->zero_point, b->zero_point, a->n * sizeof(float));
}

static void same_adapter(const struct qd_adapter_score *a, const struct qd_adapter_score *b)
{
	assert_string_equal(a->name, b->name);
	assert_string_equal(a->hash, b->hash);
	assert_int_equal(a->rank, b->rank);
	assert_int_equal(a->n_slots, b->n_slots);
	assert_int_equal(a->n_samples, b->n_samples);
	assert_true(a->qss == b->qss && a->standard_error == b->standard_error && a->output_sqnr_db == b->output_sqnr_db);
	assert_true(a->update_own_db == b->update_own_db && a->update_shared_db == b->update_shared_db &&
		    a->update_aligned_db == b->update_aligned_db);
	assert_memory_equal(a->per_sample, b->per_sample, a->n_samples * sizeof(double));
}

static void same_profile(const struct qd_profile *a, const struct qd_profile *b)
{
	const struct qd_quant_options *x = &a->options, *y = &b->options;

	same_text(a->method, b->method);
	same_text(a->anchor, b->anchor);
	same_text(a->reason, b->reason);
	assert_string_equal(a->base_hash, b->base_hash);
	assert_true(x->weight_bits == y->weight_bits && x->lora_bits == y->lora_bits && x->act_bits == y->act_bits &&
		    x->weight_scheme == y->weight_scheme && x->share == y->share && x->align == y->align &&
		    x->method == y->method && x->equal_level == y->equal_level && x->observer == y->observer &&
		    x->percentile == y->percentile && x->divergence == y->divergence && x->scope == y->scope && x->rank == y->rank);
	same_text(x->anchor, y->anchor);
	same_text(x->slots, y->slots);
	assert_int_equal(a->n_adapters, b->n_adapters);
	for (size_t i = 0; i < a->n_adapters; i++)
		same_adapter(&a->adapters[i], &b->adapters[i]);
	assert_int_equal(a->slots.n, b->slots.n);
	for (size_t i = 0; i < a->slots.n; i++) {
		const struct qd_slot *s = &a->slots.items[i], *t = &b->slots.items[i];

		assert_string_equal(s->path, t->path);
		assert_true(s->rank == t->rank && s->out == t->out && s->in == t->in && s->kh == t->kh && s->kw == t->kw &&
			    s->conv == t->conv && s->biased == t->biased);
		assert_int_equal(qd_strmap_get(&b->slots.by_path, s->path), i);
		assert_true(t->down == QD_NONE && t->sum == QD_NONE);
	}
	assert_int_equal(a->n_entries, b->n_entries);
	for (size_t i = 0; i < a->n_entries; i++) {
		assert_string_equal(a->entries[i].name, b->entries[i].name);
		assert_int_equal(a->entries[i].kind, b->entries[i].kind);
		same_encoding(a->entries[i].encoding, b->entries[i].encoding);
		assert_ptr_equal(qd_profile_find(b, a->entries[i].name), b->entries[i].encoding);
	}
}

static void assert_same_bytes(const char *a, const char *b)
{
	struct qd_mapping x = { 0 }, y = { 0 };

	OK(qd_mapping_open(&x, a));
	OK(qd_mapping_open(&y, b));
	assert_int_equal(x.size, y.size);
	assert_memory_equal(x.data, y.data, x.size);
	qd_mapping_release(&x);
	qd_mapping_release(&y);
}

static void reads_back_equal(void **state)
{
	unsigned long long seed = test_seed();

	(void)state;
	for (unsigned long long i = 0; i < 20; i++) {
		struct qd_profile p, back;
		struct qd_mapping file;
		const char *first = scratch_path("first.json"), *second = scratch_path("second.json");

		random_profile(&p, seed + i);
		OK(qd_profile_write(&p, first, true));
		OK(qd_profile_read(&back, first));
		/* where there is no bias there is no word of it */
		OK(qd_mapping_open(&file, first));
		assert_non_null(memmem(file.data, file.size, "\"conv\": true }", 14));
		assert_non_null(memmem(file.data, file.size, "\"conv\": false, \"bias\": true }", 29));
		qd_mapping_release(&file);
		same_profile(&p, &back);
		OK(qd_profile_write(&back, second, true));
		assert_same_bytes(first, second);
		assert_int_equal(qd_profile_write(&back, second, false), QD_EEXIST);
		qd_profile_release(&back);
		qd_profile_release(&p);
	}
}

/* What shapes a run of training has another hash, and nothing else. */
static void training_knows_its_profile(void **state)
{
	struct qd_profile p;
	struct qd_encoding *e;
	char hash[QD_HASH_TEXT], other[QD_HASH_TEXT];

	(void)state;
	random_profile(&p, test_seed());
	p.options.align = QD_ALIGN_GAUGE;
	OK(qd_profile_run_hash(&p, hash));
	p.reason = "another";
	p.options.observer = QD_OBSERVE_MSE;
	p.options.equal_level = 0.25;
	p.options.batch = 3;
	p.adapters[0].qss *= 2;
	OK(qd_profile_run_hash(&p, other));
	assert_string_equal(hash, other);
	p.options.align = QD_ALIGN_GAIN;
	OK(qd_profile_run_hash(&p, other));
	assert_string_not_equal(hash, other);
	p.options.align = QD_ALIGN_GAUGE;
	OK(qd_encoding_from_range(&p.arena, -1, 2, 8, true, &e));
	p.entries[7].encoding = e;
	OK(qd_profile_run_hash(&p, other));
	assert_string_not_equal(hash, other);
	qd_profile_release(&p);
}

/* ---- members of a later schema ---- */

enum { OLD = 1, NEW = 2 };
struct grown {
	int64_t first, later;
};
static const struct qd_member grown_members[] = {
	{ "first", QD_MEMBER_WHOLE, .at = offsetof(struct grown, first), .in = OLD | NEW, .high = 9 },
	{ "later", QD_MEMBER_WHOLE, .at = offsetof(struct grown, later), .in = NEW, .high = 9 },
	{ 0 },
};

static enum qd_status read_grown(const char *text, unsigned in, struct grown *out)
{
	struct qd_arena arena = { 0 };
	json_t *json;
	enum qd_status st;

	OK(qd_json_parse("text", text, strlen(text), &json));
	st = qd_members_read(&(struct qd_members_in){ &arena, in }, grown_members, json, out);
	json_decref(json);
	qd_arena_release(&arena);
	return st;
}

static void an_older_file_means_the_default(void **state)
{
	struct grown g = { .later = 7 };

	(void)state;
	OK(read_grown("{\"first\": 3}", OLD, &g));
	assert_true(g.first == 3 && g.later == 7);
	assert_int_equal(read_grown("{\"first\": 3, \"later\": 5}", OLD, &g), QD_EINPUT);
	assert_string_equal(qd_message(), "unknown key 'later'");
	assert_int_equal(read_grown("{\"first\": 3}", NEW, &g), QD_EINPUT);
	assert_string_equal(qd_message(), "there is no 'later'");
	OK(read_grown("{\"first\": 3, \"later\": 5}", NEW, &g));
	assert_true(g.first == 3 && g.later == 5);
	assert_true((QD_SINCE(2) & QD_IN_SCHEMA(1)) == 0 && (QD_SINCE(2) & QD_IN_SCHEMA(2)) != 0 &&
		    (QD_SINCE(2) & QD_IN_SCHEMA(5)) != 0 && (QD_SINCE(1) & (QD_IN_RUN | QD_IN_MANIFEST)) == 0);
}

/* ---- refusals: one change to a good file each ---- */

static const char good[] =
	"{\"schema\": 1, \"base_hash\": \"h\", \"method\": \"unified\", \"anchor\": null, \"reason\": \"r\",\n"
	"\"options\": {\"weight_bits\": 8, \"lora_bits\": 8, \"act_bits\": 16, \"weight_scheme\": \"per-channel\", \"share\": "
	"\"slot\","
	"\"align\": \"gain\", \"method\": \"auto\", \"anchor\": null, \"equal_level\": 0.05, \"observer\": \"minmax\", "
	"\"percentile\": 99.99,"
	"\"divergence\": \"js\", \"scope\": \"adapter\", \"slots\": null, \"rank\": 0},\n"
	"\"adapters\": [{\"name\": \"a\", \"hash\": \"h\", \"rank\": 4, \"slots\": 1, \"qss\": 1e-6, \"standard_error\": 1e-8,"
	"\"output_sqnr_db\": null, \"update_sqnr_db\": {\"own\": 1, \"shared\": 2, \"aligned\": 3}, \"per_sample\": [1, 2]}],\n"
	"\"slots\": [{\"path\": \"fc\", \"rank\": 4, \"out\": 8, \"in\": 8, \"kh\": 1, \"kw\": 1, \"conv\": false}],\n"
	"\"entries\": [{\"name\": \"x\", \"kind\": \"activation\", \"bits\": 16, \"signed\": false, \"symmetric\": false, "
	"\"axis\": null,"
	"\"scale\": 0.5, \"zero_point\": 3},\n"
	"{\"name\": \"w\", \"kind\": \"weight\", \"bits\": 8, \"signed\": true, \"symmetric\": true, \"axis\": 0, \"scale\": [0.5, "
	"0.25],"
	"\"zero_point\": 0}]}";

static const struct refusal {
	const char *from, *to, *message; /* the first `from` becomes `to`; the message is what follows the file's name */
} refusals[] = {
	{ "\"schema\": 1", "\"schema\": 3", "'schema' is 3, needs a whole number from 1 to 2" },
	{ "\"schema\": 1, ", "", "there is no 'schema'" },
	{ "\"schema\": 1", "\"schema\": 1, \"x\": 0", "unknown key 'x'" },
	{ "\"base_hash\": \"h\"", "\"base_hash\": 7", "'base_hash' is 7, needs a hash" },
	{ "\"method\": \"unified\"", "\"method\": \"best\"", "'method' is 'best', needs one of 'anchor' 'unified'" },
	{ "\"anchor\": null, \"reason\"", "\"anchor\": \"a\", \"reason\"",
		"'anchor' is 'a', needs a name with the method 'anchor' and null with 'unified'" },
	{ "\"options\"", "\"option\"", "unknown key 'option'" },
	{ "\"weight_bits\": 8", "\"weight_bits\": 7", "options: 'weight_bits' is 7, needs 4, 8, 16 or 32" },
	{ "\"act_bits\": 16", "\"act_bits\": \"16\"", "options: 'act_bits' is '16', needs a whole number from 0 to 32" },
	{ "\"per-channel\"", "\"per-row\"", "options: 'weight_scheme' is 'per-row', needs one of 'per-tensor' 'per-channel'" },
	{ "\"equal_level\": 0.05", "\"equal_level\": 5", "options: 'equal_level' is 5, needs a number from 0 to 1" },
	{ "\"hash\": \"h\"", "\"hash\": null", "adapters[0]: 'hash' is null, needs a hash" },
	{ "\"qss\": 1e-6", "\"qss\": true", "adapters[0]: 'qss' is a boolean, needs a number from -1e+300 to 1e+300" },
	{ "{\"own\": 1, ", "{", "adapters[0]: there is no 'own'" },
	{ "[1, 2]", "[1, \"2\"]", "adapters[0]: 'per_sample' is '2', needs numbers" },
	{ "[1, 2]", "{}", "adapters[0]: 'per_sample' is an object, needs an array" },
	{ "\"path\": \"fc\", \"rank\": 4", "\"path\": \"fc\", \"rank\": 0",
		"slots[0]: 'rank' is 0, needs a whole number from 1 to 1048576" },
	{ "\"conv\": false}",
		"\"conv\": false}, {\"path\": \"fc\", \"rank\": 4, \"out\": 8, \"in\": 8, \"kh\": 1, \"kw\": 1, \"conv\": false}",
		"slots[1]: two slots are called 'fc'" },
	{ "\"conv\": false", "\"conv\": 0", "slots[0]: 'conv' is 0, needs true or false" },
	{ "\"kind\": \"activation\"", "\"kind\": \"bias\"",
		"entries[0]: 'kind' is 'bias', needs one of 'activation' 'weight' 'lora'" },
	{ "\"bits\": 16", "\"bits\": 12", "entries[0]: 'bits' is 12, needs 4, 8, 16 or 32" },
	{ "\"scale\": 0.5", "\"scale\": 0", "entries[0]: 'scale' is 0, needs finite numbers above 0" },
	{ "\"scale\": 0.5", "\"scale\": 1e60", "entries[0]: 'scale' is 1e+60, needs finite numbers above 0" },
	{ "\"scale\": 0.5", "\"scale\": [0.5]", "entries[0]: 'scale' is an array, needs a number, because there is no axis" },
	{ "\"zero_point\": 3", "\"zero_point\": 3.5", "entries[0]: 'zero_point' is 3.5, needs whole numbers on the grid" },
	{ "\"zero_point\": 3", "\"zero_point\": 65536", "entries[0]: 'zero_point' is 65536, needs whole numbers on the grid" },
	{ "\"axis\": 0", "\"axis\": null", "entries[1]: 'scale' is an array, needs a number, because there is no axis" },
	{ "\"axis\": 0", "\"axis\": 9", "entries[1]: 'axis' is 9, needs a whole number from 0 to 7" },
	{ "\"scale\": [0.5, 0.25]", "\"scale\": 0.5", "entries[1]: 'scale' is 0.5, needs an array, because there is an axis" },
	{ "\"scale\": [0.5, 0.25]", "\"scale\": []", "entries[1]: 'scale' and 'zero_point' have different lengths, or none" },
	{ "\"zero_point\": 0", "\"zero_point\": [0]", "entries[1]: 'scale' and 'zero_point' have different lengths, or none" },
	{ "\"zero_point\": 0", "\"zero_point\": 1",
		"entries[1]: 'zero_point' is 1, needs 0 and a signed grid, because the entry is symmetric" },
	{ "\"name\": \"w\"", "\"name\": \"x\"", "entries[1]: two entries are called 'x'" },
	{ "\"name\": \"w\"", "\"name\": 4", "entries[1]: 'name' is 4, needs a string" },
};

static void refusals_name_the_cause(void **state)
{
	struct qd_profile p;

	(void)state;
	OK(qd_profile_read(&p, scratch_file("good.json", good, strlen(good))));
	assert_int_equal(p.n_entries, 2);
	qd_profile_release(&p);
	for (size_t i = 0; i < QD_COUNT(refusals); i++) {
		const struct refusal *r = &refusals[i];
		const char *at = strstr(good, r->from), *path;
		char text[4096], message[4096];

		assert_non_null(at);
		snprintf(text, sizeof(text), "%.*s%s%s", (int)(at - good), good, r->to, at + strlen(r->from));
		path = scratch_file("bad.json", text, strlen(text));
		snprintf(message, sizeof(message), "cannot use profile '%s': %s", path, r->message);
		assert_int_equal(qd_profile_read(&p, path), QD_EINPUT);
		assert_string_equal(qd_message(), message);
		assert_int_equal(p.n_entries, 0);
	}
}

static void a_missing_profile_is_named(void **state)
{
	struct qd_profile p;

	(void)state;
	assert_int_equal(qd_profile_read(&p, scratch_path("none.json")), QD_EIO);
	assert_non_null(strstr(qd_message(), "none.json"));
}

/* ---- on a graph ---- */

static void net_of(struct qd_net *net)
{
	static float data[8];
	struct qd_tensor w = qd_tensor_view("w", QD_F32, QD_SHAPE(2, 4), data);

	memset(net, 0, sizeof(*net));
	qd_graph_init(&net->graph, "g");
	qd_id x = qd_graph_input(&net->graph, "x", QD_F32, QD_SHAPE(1, 4)), id = qd_graph_weight(&net->graph, "w", &w);
	qd_graph_output(&net->graph, qd_build_linear(&net->graph, "y", x, id, QD_NONE));
	OK(qd_graph_status(&net->graph));
}

static struct qd_encoding *plain_encoding(struct qd_profile *p, int axis, size_t n)
{
	struct qd_encoding *e;

	OK(qd_encoding_new(&p->arena, 8, true, axis, n, &e));
	for (size_t i = 0; i < n; i++)
		e->scale[i] = 1;
	return e;
}

static void applies_to_exactly_its_graph(void **state)
{
	struct qd_profile p = { .options = qd_quant_options_default() };
	struct qd_net net;

	(void)state;
	net_of(&net);
	OK(qd_profile_add(&p, QD_ENTRY_WEIGHT, "w", plain_encoding(&p, 0, 2)));
	assert_int_equal(qd_profile_apply(&p, &net), QD_EINPUT);
	assert_string_equal(qd_message(), "tensor 'x' of the graph has no entry in the profile");
	p.options.act_bits = 0;
	OK(qd_profile_apply(&p, &net));
	p.options.act_bits = 16;
	OK(qd_profile_add(&p, QD_ENTRY_ACTIVATION, "x", plain_encoding(&p, -1, 1)));
	OK(qd_profile_add(&p, QD_ENTRY_ACTIVATION, "y", plain_encoding(&p, -1, 1)));
	OK(qd_profile_apply(&p, &net));
	assert_ptr_equal(net.graph.values[qd_graph_find(&net.graph, "w")].encoding, qd_profile_find(&p, "w"));
	p.entries[0].encoding = plain_encoding(&p, 1, 2);
	assert_int_equal(qd_profile_apply(&p, &net), QD_EINPUT);
	assert_string_equal(qd_message(), "tensor 'w' is [2,4], its entry has 2 scales along axis 1");
	p.entries[0].encoding = plain_encoding(&p, 0, 2);
	p.entries[1].kind = QD_ENTRY_WEIGHT;
	assert_int_equal(qd_profile_apply(&p, &net), QD_EINPUT);
	assert_string_equal(qd_message(), "the profile has an entry for 'x', the graph has no such tensor");
	p.entries[1].kind = QD_ENTRY_ACTIVATION;
	OK(qd_profile_add(&p, QD_ENTRY_ACTIVATION, "z", plain_encoding(&p, -1, 1)));
	assert_int_equal(qd_profile_apply(&p, &net), QD_EINPUT);
	assert_string_equal(qd_message(), "the profile has an entry for 'z', the graph has no such tensor");
	assert_int_equal(qd_profile_add(&p, QD_ENTRY_LORA, "z", plain_encoding(&p, -1, 1)), QD_EINPUT);
	assert_string_equal(qd_message(), "two entries are called 'z'");
	qd_net_release(&net);
	qd_profile_release(&p);
}

/* ---- calibration files ---- */

/* Two samples of a model with 4 channels and 6 context features; `change` spoils one thing. */
enum change { FINE, NO_TIMESTEP, CHANNELS, RANK, SAMPLES, DTYPE, NOT_FINITE };

static const char *write_data(enum change change)
{
	static float data[64];
	struct qd_tensor tensors[] = {
		qd_tensor_view("sample", change == DTYPE ? QD_I32 : QD_F32,
			change == RANK ? QD_SHAPE(2, 16) : QD_SHAPE(2, change == CHANNELS ? 8 : 4, 2, change == CHANNELS ? 1 : 2),
			data),
		qd_tensor_view("encoder_hidden_states", QD_F32, QD_SHAPE(change == SAMPLES ? 1 : 2, 1, 6), data),
		qd_tensor_view("timestep", QD_F32, QD_SHAPE(2), data),
	};
	const char *path = scratch_path("data.safetensors");

	data[1] = change == NOT_FINITE ? NAN : 1;
	OK(qd_safetensors_write(path, tensors, change == NO_TIMESTEP ? 2 : 3, NULL, 0, true, NULL, NULL));
	return path;
}

static void calibration_files_must_fit(void **state)
{
	static const struct {
		enum change change;
		const char *message;
	} cases[] = {
		{ NO_TIMESTEP, "cannot use '%s': has no tensor 'timestep'" },
		{ CHANNELS, "cannot use '%s': tensor 'sample' has samples of [8,2,1], the model takes [4,?,?]" },
		{ RANK, "cannot use '%s': tensor 'sample' has 2 dimensions, needs 4" },
		{ SAMPLES, "cannot use '%s': tensor 'encoder_hidden_states' has 1 samples, the file's others have 2" },
		{ DTYPE, "cannot use '%s': tensor 'sample' is I32, needs F32, F16, BF16 or F64" },
	};
	struct qd_unet_config config = { .in_channels = 4, .out_channels = 4, .cross_dim = { 6 } };
	struct qd_quant_options options = qd_quant_options_default();
	struct qd_dataset data;
	struct qd_sizes sizes;
	int64_t batch;
	char message[1024];

	(void)state;
	OK(qd_dataset_open(&data, (const char *const[]){ write_data(FINE) }, 1, &config, QD_DATA_CALIBRATE));
	assert_int_equal(data.n, 2);
	sizes = qd_dataset_sizes(&data, 2);
	assert_true(sizes.batch == 2 && sizes.height == 2 && sizes.width == 2 && sizes.tokens == 1);
	OK(qd_data_batch(&data, &options, &batch));
	assert_int_equal(batch, 2);
	options.batch = 3;
	assert_int_equal(qd_data_batch(&data, &options, &batch), QD_EINPUT);
	snprintf(message, sizeof(message), "a batch of 3 does not divide the 2 samples of '%s'", data.files[0].path);
	assert_string_equal(qd_message(), message);
	qd_dataset_release(&data);
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		const char *path = write_data(cases[i].change);

		assert_int_equal(qd_dataset_open(&data, &path, 1, &config, QD_DATA_CALIBRATE), QD_EINPUT);
		/* The pattern is one of the table's own. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
		snprintf(message, sizeof(message), cases[i].message, path);
#pragma GCC diagnostic pop
		assert_string_equal(qd_message(), message);
	}
	assert_int_equal(
		qd_dataset_open(&data, (const char *const[]){ write_data(NOT_FINITE) }, 1, &config, QD_DATA_CALIBRATE), QD_EINPUT);
	assert_non_null(strstr(qd_message(), "data.safetensors"));
	assert_non_null(strstr(qd_message(), "'sample'"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_back_equal),
		cmocka_unit_test(training_knows_its_profile),
		cmocka_unit_test(an_older_file_means_the_default),
		cmocka_unit_test(refusals_name_the_cause),
		cmocka_unit_test(a_missing_profile_is_named),
		cmocka_unit_test(applies_to_exactly_its_graph),
		cmocka_unit_test(calibration_files_must_fit),
	};
	return cmocka_run_group_tests_name("profile", tests, NULL, NULL);
}
