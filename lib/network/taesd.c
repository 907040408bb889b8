/*
 * TAESD as its author publishes it: two files without a configuration, whose tensors are named by their place in a sequence.
 *
 *   taesd_encoder.safetensors   0.weight                -> encoder.layers.0.weight
 *   taesd_decoder.safetensors   1.weight, 3.conv.0.bias -> decoder.layers.0.weight, decoder.layers.2.conv.0.bias
 *
 * The decoder's numbers are one higher, because its bounding of the input counts as a layer there. taesdxl_ in front serves as
 * well.
 */
#include "lib/network/component_internal.h"

#include <stdlib.h>
#include <string.h>

static const struct {
	const char *part;
	int shift; /* of the layers' numbers */
} parts[] = { { "encoder", 0 }, { "decoder", 1 } };
static const char *const stems[] = { "taesd", "taesdxl" };

static bool part_path(char *out, size_t bytes, const char *folder, const char *stem, const char *part)
{
	return snprintf(out, bytes, "%s/%s_%s.safetensors", folder, stem, part) < (int)bytes && qd_is_file(out);
}

/* The stem whose two files are there, or NULL. */
static const char *find_stem(const char *folder)
{
	char encoder[4096], decoder[4096];
	for (size_t i = 0; i < QD_COUNT(stems); i++) {
		if (part_path(encoder, sizeof(encoder), folder, stems[i], "encoder") &&
			part_path(decoder, sizeof(decoder), folder, stems[i], "decoder"))
			return stems[i];
	}
	return NULL;
}

bool qd_original_taesd(const char *folder)
{
	return find_stem(folder) != NULL;
}

/* A tensor of file `part` under its name in a folder of diffusers. */
static enum qd_status add_tensor(struct qd_weights *weights, const struct qd_tensor *tensor, size_t part)
{
	char *rest;
	struct qd_tensor *renamed = qd_arena_array(&weights->arena, 1, sizeof(*renamed));
	long number = strtol(tensor->name, &rest, 10) - parts[part].shift;
	if (!renamed)
		return QD_ENOMEM;
	if (rest == tensor->name || *rest != '.' || number < 0 || number > 1000)
		return qd_fail(
			QD_EINPUT, "'%s': tensor '%s', needs names that begin with a layer's number", weights->path, tensor->name);
	*renamed = *tensor;
	renamed->name = qd_arena_strf(&weights->arena, "%s.layers.%ld%s", parts[part].part, number, rest);
	enum qd_status st = renamed->name ? qd_strmap_put(&weights->by_name, renamed->name, (uint32_t)weights->n) : QD_ENOMEM;
	if (st == QD_OK)
		st = qd_grow(&weights->tensors, &weights->cap, weights->n + 1, sizeof(*weights->tensors));
	if (st == QD_OK)
		weights->tensors[weights->n++] = renamed;
	return st;
}

static enum qd_status open_part(struct qd_weights *weights, const char *folder, const char *stem, size_t part)
{
	struct qd_safetensors *file = &weights->files[weights->n_files];
	char *path = qd_arena_strf(&weights->arena, "%s/%s_%s.safetensors", folder, stem, parts[part].part);
	enum qd_status st = path ? qd_safetensors_open(file, path) : QD_ENOMEM;
	if (st != QD_OK)
		return st;
	weights->n_files++;
	weights->path = path;
	for (size_t i = 0; st == QD_OK && i < file->n; i++)
		st = add_tensor(weights, &file->tensors[i], part);
	return st;
}

enum qd_status qd_original_taesd_open(struct qd_component *component)
{
	struct qd_weights *weights = &component->weights;
	const char *stem = find_stem(component->folder);
	json_t *defaults = json_object();
	enum qd_status st;
	component->kind = QD_COMPONENT_TINY_VAE;
	if (qd_json_starved())
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	QD_TRY(st, qd_tiny_vae_config_parse(&component->vae, component->folder, defaults));
	weights->files = qd_arena_array(&weights->arena, QD_COUNT(parts), sizeof(*weights->files));
	if (!weights->files)
		QD_TRY(st, QD_ENOMEM);
	for (size_t i = 0; i < QD_COUNT(parts); i++)
		QD_TRY(st, open_part(weights, component->folder, stem, i));
	/* TAESD for other models differs in the number of latent channels alone. */
	const struct qd_tensor *first = qd_weights_find(weights, "decoder.layers.0.weight");
	if (first && first->shape.rank == 4 && first->shape.dim[1] >= 1 && first->shape.dim[1] <= QD_MAX_LATENTS)
		component->vae.latent_channels = first->shape.dim[1];
	weights->path = component->folder;
out:
	json_decref(defaults);
	return st;
}
