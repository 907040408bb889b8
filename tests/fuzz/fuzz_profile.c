/*
 * Any bytes as profile.json: refused with a message, or a profile whose text reads back as the same text, that every entry is found
 * in, and that adapters can be fitted to.
 */
#include <assert.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "quant/quant.h"
#include "tests/unit/scratch.h"

/* Larger ranks only take time and memory. */
enum { MOST_RANK = 1 << 16 };

static const struct qd_module modules[] = {
	{ .path = "conv_in", .conv = true, .out = 2, .in = 2, .kh = 3, .kw = 3 },
	{ .path = "mid_block.attentions.0.proj_in", .out = 3, .in = 2, .kh = 1, .kw = 1 },
};

static void make_adapter(struct qd_adapter *adapter)
{
	const struct qd_module *list[] = { &modules[0], &modules[1] };

	if (qd_adapter_new(adapter, "a", list, QD_COUNT(list), 2, 0.5f) != QD_OK)
		abort();
	for (size_t i = 0; i < adapter->n; i++) {
		const struct qd_lora *l = &adapter->loras[i];
		for (int64_t k = 0; k < l->rank * l->in * l->kh * l->kw; k++)
			l->down[k] = 0.1f * (float)(k % 7 - 3);
		for (int64_t k = 0; k < l->out * l->rank; k++)
			l->up[k] = 0.3f * (float)(k % 5 - 2);
	}
}

/* An adapter whose layers are not the profile's is refused; what is fitted holds together. */
static void fit(const struct qd_profile *profile)
{
	struct qd_adapter adapter = { 0 };
	struct qd_fitted fitted = { 0 };
	double db;

	for (size_t i = 0; i < profile->slots.n; i++)
		if (profile->slots.items[i].rank > MOST_RANK)
			return;
	make_adapter(&adapter);
	if (qd_fit_adapter(&fitted, &adapter, profile, profile->options.align, true) != QD_OK)
		assert(*qd_message() != '\0');
	else if (qd_update_sqnr(&adapter, &fitted, profile, &db) != QD_OK)
		assert(*qd_message() != '\0');
	qd_fitted_release(&fitted);
	qd_adapter_release(&adapter);
}

static void check(const struct qd_profile *profile)
{
	char first[QD_HASH_TEXT], second[QD_HASH_TEXT];
	const char *path = scratch_path("again.json");
	struct qd_profile again;
	json_t *object = json_object();

	for (size_t i = 0; i < profile->n_entries; i++) {
		const struct qd_encoding *e = profile->entries[i].encoding;
		assert(qd_profile_find(profile, profile->entries[i].name) == e && e->n > 0);
		for (size_t k = 0; k < e->n; k++)
			assert(e->scale[k] > 0 && isfinite(e->scale[k]) && isfinite(e->zero_point[k]));
	}
	/* a slot without encodings has no grid */
	assert(qd_profile_encodings_id(profile, second) == QD_OK || *qd_message() != '\0');
	assert(qd_profile_run_hash(profile, first) == QD_OK);
	assert(qd_profile_describe(profile, object) == QD_OK);
	assert(qd_profile_write(profile, path, true) == QD_OK && qd_profile_read(&again, path) == QD_OK);
	assert(qd_profile_run_hash(&again, second) == QD_OK && strcmp(first, second) == 0);
	qd_profile_release(&again);
	json_decref(object);
	fit(profile);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct qd_profile profile;

	if (qd_profile_read(&profile, scratch_file("profile.json", data, size)) == QD_OK)
		check(&profile);
	else
		assert(*qd_message() != '\0');
	qd_profile_release(&profile);
	return 0;
}
