/*
 * Adapters that are not LoRA, by the keys that give them away. One such key refuses the file: a mixed file applied in part makes a
 * wrong image without a word.
 *
 *   LoHa   hada_*          LoKr     lokr_*           (IA)^3   ia3_l, on_input    DoRA   dora_scale, lora_magnitude_vector
 *   OFT    oft_*, rescale  BOFT     boft_*           full     diff, diff_b       norm   w_norm, b_norm
 *   GLoRA  a1 a2 b1 b2 bm  VeRA     vera_lambda_*    AdaLoRA  lora_E, ranknum
 *
 * A key is looked at component by component (between dots). Components that could also name a layer count only behind a flattened
 * name.
 */
#include "lib/weights/weights.h"

#include <string.h>

static const struct refusal {
	const char *component; /* ending in '*': its beginning */
	const char *algorithm;
	bool flat_only;
} refusals[] = {
	{ "hada_*", "LoHa", false },
	{ "lokr_*", "LoKr", false },
	{ "ia3_l", "(IA)^3", false },
	{ "on_input", "(IA)^3", true },
	{ "dora_scale", "DoRA", false },
	{ "lora_magnitude_vector", "DoRA", false },
	{ "oft_*", "OFT", false },
	{ "boft_*", "BOFT", false },
	{ "rescale", "OFT", true },
	{ "diff", "full-difference", true },
	{ "diff_b", "full-difference", true },
	{ "w_norm", "full-difference", true },
	{ "b_norm", "full-difference", true },
	{ "a1", "GLoRA", true },
	{ "a2", "GLoRA", true },
	{ "b1", "GLoRA", true },
	{ "b2", "GLoRA", true },
	{ "bm", "GLoRA", true },
	{ "vera_lambda_*", "VeRA", false },
	{ "lora_E", "AdaLoRA", false },
	{ "ranknum", "AdaLoRA", false },
	{ "lora_embedding_*", "embedding", false },
};

/* Wherever they stand in a key. */
static const char *const substrings[][2] = {
	{ "custom_diffusion", "Custom Diffusion" },
	{ "lora_controlnet", "Control-LoRA" },
	{ "add_k_proj_lora", "added-key-projection" },
	{ "add_v_proj_lora", "added-value-projection" },
};

static bool is_flat(const char *key)
{
	return qd_starts_with(key, "lora_unet_") || qd_starts_with(key, "lora_te") || qd_starts_with(key, "lycoris_");
}

static bool matches(const struct refusal *refusal, const char *component, size_t n)
{
	size_t want = strlen(refusal->component);
	if (refusal->component[want - 1] == '*')
		return n >= want - 1 && memcmp(component, refusal->component, want - 1) == 0;
	return n == want && memcmp(component, refusal->component, n) == 0;
}

static const char *algorithm_of_component(const char *component, size_t n, bool flat)
{
	for (size_t i = 0; i < QD_COUNT(refusals); i++)
		if ((flat || !refusals[i].flat_only) && matches(&refusals[i], component, n))
			return refusals[i].algorithm;
	return NULL;
}

static const char *algorithm_of(const char *key)
{
	const char *found = NULL;
	bool flat = is_flat(key);

	for (const char *at = key; at != NULL && found == NULL; at = strchr(at, '.')) {
		at += *at == '.';
		found = algorithm_of_component(at, strcspn(at, "."), flat);
	}
	for (size_t i = 0; i < QD_COUNT(substrings) && found == NULL; i++)
		if (strstr(key, substrings[i][0]) != NULL)
			found = substrings[i][1];
	return found;
}

enum qd_status qd_refuse_algorithms(const struct qd_safetensors *file)
{
	for (size_t i = 0; i < file->n; i++) {
		const char *algorithm = algorithm_of(file->tensors[i].name);
		if (algorithm != NULL)
			return qd_fail(QD_EUNSUPPORTED, "%s adapter (key '%s') is not supported, only LoRA and LoCon are",
				algorithm, file->tensors[i].name);
	}
	return QD_OK;
}

enum qd_status qd_refuse_others(const struct qd_safetensors *file)
{
	static const char *const inversion[] = { "emb_params", "string_to_param", "clip_l", "clip_g" };
	const char *first;

	if (file->n == 0)
		return qd_fail(QD_EINPUT, "not a LoRA file: it holds no tensors");
	first = file->tensors[0].name;
	for (size_t i = 0; i < QD_COUNT(inversion); i++)
		if (strstr(first, inversion[i]) != NULL)
			return qd_fail(QD_EUNSUPPORTED, "not a LoRA file: a textual inversion (key '%s')", first);
	for (size_t i = 0; i < file->n; i++) {
		const char *key = file->tensors[i].name;
		if (qd_ends_with(key, "conv_in.weight") || qd_starts_with(key, "model.diffusion_model."))
			return qd_fail(QD_EUNSUPPORTED, "not a LoRA file: a full model (key '%s')", key);
	}
	return QD_OK;
}

enum qd_status qd_refuse_pickle(const char *path)
{
	static const char *const endings[] = { ".pt", ".pth", ".bin", ".ckpt", ".pkl" };
	for (size_t i = 0; i < QD_COUNT(endings); i++)
		if (qd_ends_with(path, endings[i]))
			return qd_fail(
				QD_EUNSUPPORTED, "'%s' is a pickle, which can run code when read: convert it to safetensors", path);
	return QD_OK;
}
