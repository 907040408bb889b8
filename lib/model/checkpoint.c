/*
 * A single-file checkpoint as a configuration and weights under diffusers' names. The network that the configuration describes is
 * built without bytes; each of its weights is looked for under its original name (ldm_names.c) and must have its shape, and no
 * tensor of the UNet may be left over: what was inferred is right, or the file is refused.
 */
#include "lib/model/internal.h"

#include <stdlib.h>
#include <string.h>

static const char unet_prefix[] = "model.diffusion_model.", first_conv[] = "input_blocks.0.0.weight";

static const struct {
	const char *prefix;
	enum qd_checkpoint_section section;
} prefixes[] = {
	{ unet_prefix, QD_CHECKPOINT_UNET },
	{ "model_ema.", QD_CHECKPOINT_EMA },
	{ "first_stage_model.", QD_CHECKPOINT_VAE },
	{ "cond_stage_model.", QD_CHECKPOINT_TEXT },
	{ "conditioner.embedders.0.transformer.", QD_CHECKPOINT_TEXT },
	{ "conditioner.embedders.0.model.", QD_CHECKPOINT_TEXT_2 }, /* the refiner has only this one */
	{ "conditioner.embedders.1.model.", QD_CHECKPOINT_TEXT_2 },
};

static const char *const section_names[QD_CHECKPOINT_SECTIONS] = { "UNet", "averaged UNet", "VAE", "text encoder",
	"second text encoder", "noise schedule", "other" };

/* Tensors that are there to say something: how the network was trained. Their values, mostly none, do not matter. */
static const struct {
	const char *name;
	const char *refused; /* NULL: it means v-prediction */
} markers[] = {
	{ "v_pred", NULL },
	{ "ztsnr", "betas rescaled to end without signal" },
	{ "edm_mean", "EDM's noise levels" },
	{ "edm_std", "EDM's noise levels" },
	{ "edm_vpred.sigma_max", "EDM's noise levels" },
};

static bool is_marker(const char *name)
{
	for (size_t i = 0; i < QD_COUNT(markers); i++) {
		if (strcmp(name, markers[i].name) == 0)
			return true;
	}
	return false;
}

enum qd_status qd_checkpoint_marked_v(const struct qd_safetensors *file, bool *v)
{
	*v = false;
	for (size_t i = 0; i < QD_COUNT(markers); i++) {
		if (qd_safetensors_find(file, markers[i].name) == NULL)
			continue;
		if (markers[i].refused != NULL)
			return qd_fail(QD_EUNSUPPORTED, "'%s': tensor '%s' says %s, needs a schedule of plain betas", file->path,
				markers[i].name, markers[i].refused);
		*v = true;
	}
	return QD_OK;
}

const char *qd_checkpoint_section_name(enum qd_checkpoint_section section)
{
	return section_names[section];
}

/* What the UNet's names begin with; NULL: there is none. */
static const char *prefix_of(const struct qd_safetensors *file)
{
	for (size_t i = 0; i < file->n; i++) {
		if (qd_starts_with(file->tensors[i].name, unet_prefix))
			return unet_prefix;
	}
	return qd_safetensors_find(file, first_conv) != NULL ? "" : NULL;
}

bool qd_checkpoint_detect(const struct qd_safetensors *file)
{
	return prefix_of(file) != NULL;
}

static enum qd_checkpoint_section section_of(const char *name, bool bare)
{
	if (is_marker(name))
		return QD_CHECKPOINT_SCHEDULE;
	for (size_t i = 0; i < QD_COUNT(prefixes) && !bare; i++) {
		if (qd_starts_with(name, prefixes[i].prefix))
			return prefixes[i].section;
	}
	return bare ? QD_CHECKPOINT_UNET : QD_CHECKPOINT_OTHER;
}

void qd_checkpoint_contents(const struct qd_safetensors *file, struct qd_checkpoint_content contents[QD_CHECKPOINT_SECTIONS])
{
	const char *prefix = prefix_of(file);
	memset(contents, 0, QD_CHECKPOINT_SECTIONS * sizeof(*contents));
	for (size_t i = 0; i < file->n; i++) {
		const struct qd_tensor *tensor = &file->tensors[i];
		struct qd_checkpoint_content *c = &contents[section_of(tensor->name, prefix != NULL && !*prefix)];
		if (c->tensors++ == 0)
			c->first = tensor->name;
		c->bytes += tensor->bytes;
		c->parameters += (uint64_t)qd_shape_elements(&tensor->shape);
	}
}

/* ---- what a file without such a UNet is ---- */

static enum qd_status refuse(const struct qd_safetensors *file)
{
	for (size_t i = 0; i < file->n; i++) {
		const char *name = file->tensors[i].name;
		if (strstr(name, "lora_") != NULL || strstr(name, ".lora.") != NULL || strstr(name, "hada_") != NULL ||
			strstr(name, "lokr_") != NULL)
			return qd_fail(QD_EINPUT, "'%s' is an adapter (tensor '%s'), needs a model", file->path, name);
	}
	if (qd_safetensors_find(file, "conv_in.weight") != NULL &&
		qd_safetensors_find(file, "time_embedding.linear_1.weight") != NULL)
		return qd_fail(QD_EINPUT,
			"'%s' holds a UNet under diffusers' names (tensor 'conv_in.weight'), needs the folder with its config.json",
			file->path);
	return qd_fail(QD_EINPUT, "'%s' has no UNet, needs tensors named '%s...' (first tensor '%s')", file->path, unet_prefix,
		file->n ? file->tensors[0].name : "");
}

/* ---- configuration ---- */

/* NAME.config.json beside NAME.safetensors, or NULL where there is none. */
static const char *config_beside(struct qd_arena *arena, const char *path)
{
	static const char ending[] = ".safetensors";
	size_t n = strlen(path) - (qd_ends_with(path, ending) ? sizeof(ending) - 1 : 0);
	const char *config = qd_arena_strf(arena, "%.*s.config.json", (int)n, path);
	return config != NULL && qd_is_file(config) ? config : NULL;
}

static enum qd_status read_config(struct qd_unet_config *config, struct qd_weights *weights, const char *prefix)
{
	const char *beside = config_beside(&weights->arena, weights->path);
	return beside != NULL ? qd_unet_config_read(config, beside) : qd_checkpoint_infer(config, &weights->files[0], prefix);
}

/* ---- weights ---- */

/* Equal shapes, or a matrix where a 1x1 kernel is needed and the other way round. */
static bool fits(const struct qd_shape *found, const struct qd_shape *needed)
{
	const struct qd_shape *flat = found->rank == 2 ? found : needed, *kernel = found->rank == 2 ? needed : found;
	if (qd_shape_equal(found, needed))
		return true;
	return flat->rank == 2 && kernel->rank == 4 && flat->dim[0] == kernel->dim[0] && flat->dim[1] == kernel->dim[1] &&
	       kernel->dim[2] == 1 && kernel->dim[3] == 1;
}

static bool is_float(enum qd_dtype dtype)
{
	return dtype == QD_F32 || dtype == QD_F16 || dtype == QD_BF16 || dtype == QD_F64;
}

/* "path.leaf" in the original spelling, prefix included; false when it has none. */
static bool original_name(const struct qd_ldm_layout *layout, const char *prefix, const char *name, char *out, size_t size)
{
	char path[QD_PATH_TEXT], original[QD_PATH_TEXT];
	const char *leaf = strrchr(name, '.');
	int n = snprintf(path, sizeof(path), "%.*s", (int)(leaf - name), name);
	if (n >= (int)sizeof(path) || !qd_ldm_path(layout, path, original))
		return false;
	return snprintf(out, size, "%s%s%s", prefix, original, leaf) < (int)size;
}

/* The file's tensor for one weight of the network. */
static enum qd_status take(const struct qd_weights *weights, const struct qd_ldm_layout *layout, const char *prefix,
	const struct qd_value *needed, struct qd_tensor *out)
{
	const struct qd_safetensors *file = &weights->files[0];
	char name[2 * QD_PATH_TEXT], found[QD_SHAPE_TEXT], text[QD_SHAPE_TEXT];
	if (!original_name(layout, prefix, needed->name, name, sizeof(name)))
		return qd_fail(QD_EUNSUPPORTED, "'%s': '%s' has no name in a single-file checkpoint, needs a diffusers folder",
			file->path, needed->name);
	const struct qd_tensor *tensor = qd_safetensors_find(file, name);
	if (tensor == NULL)
		return qd_fail(QD_EINPUT, "'%s' has no tensor '%s', needs one of %s", file->path, name,
			qd_shape_text(&needed->shape, text));
	if (!fits(&tensor->shape, &needed->shape))
		return qd_fail(QD_EINPUT, "'%s': tensor '%s' is %s, needs %s", file->path, name,
			qd_shape_text(&tensor->shape, found), qd_shape_text(&needed->shape, text));
	if (!is_float(tensor->dtype))
		return qd_fail(QD_EUNSUPPORTED, "'%s': tensor '%s' is %s, needs F32, F16, BF16 or F64", file->path, name,
			qd_dtype_name(tensor->dtype));
	*out = *tensor;
	out->shape = needed->shape;
	return QD_OK;
}

/* The first tensor of the UNet that nothing took. */
static enum qd_status check_left_over(const struct qd_safetensors *file, const char *prefix, const bool *used)
{
	for (size_t i = 0; i < file->n; i++) {
		const char *name = file->tensors[i].name;
		if (!used[i] && qd_starts_with(name, prefix) && !is_marker(name))
			return qd_fail(QD_EUNSUPPORTED,
				"'%s': tensor '%s' has no place in the UNet that the others make: a network of another kind",
				file->path, name);
	}
	return QD_OK;
}

/* Adds one weight under diffusers' name. */
static enum qd_status add(struct qd_weights *weights, struct qd_tensor *tensor, const char *name)
{
	enum qd_status st;
	tensor->name = qd_arena_strdup(&weights->arena, name);
	if (tensor->name == NULL)
		return QD_ENOMEM;
	QD_TRY(st, qd_strmap_put(&weights->by_name, tensor->name, (uint32_t)weights->n));
	QD_PUSH(st, weights->tensors, weights->n, weights->cap, tensor);
out:
	return st;
}

static void layout_of(struct qd_ldm_layout *layout, const struct qd_unet_config *config)
{
	*layout = (struct qd_ldm_layout){ .blocks = config->blocks };
	for (int i = 0; i < config->blocks; i++) {
		layout->layers[i] = (int)config->layers[i];
		layout->up_attention[i] = config->up_attention[i];
	}
}

/* `g`: the network without bytes. */
static enum qd_status rename_all(
	struct qd_weights *weights, const struct qd_graph *g, const struct qd_unet_config *config, const char *prefix)
{
	const struct qd_safetensors *file = &weights->files[0];
	struct qd_tensor *tensors = qd_arena_array(&weights->arena, file->n, sizeof(*tensors));
	bool *used = calloc(file->n + 1, sizeof(*used));
	struct qd_ldm_layout layout;
	size_t n = 0;
	enum qd_status st = QD_OK;
	if (tensors == NULL || used == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	layout_of(&layout, config);
	for (size_t i = 0; i < g->n_values; i++) {
		const struct qd_value *needed = &g->values[i];
		struct qd_tensor tensor;
		if (needed->kind != QD_WEIGHT || needed->data.data != NULL)
			continue;
		QD_TRY(st, take(weights, &layout, prefix, needed, &tensor));
		/* names differ, so there are no more weights than tensors */
		used[qd_strmap_get(&file->by_name, tensor.name)] = true;
		tensors[n] = tensor;
		QD_TRY(st, add(weights, &tensors[n++], needed->name));
	}
	QD_TRY(st, check_left_over(file, prefix, used));
out:
	free(used);
	return st;
}

static enum qd_status open_file(struct qd_weights *weights, const char *path)
{
	enum qd_status st;
	QD_TRY(st, qd_refuse_pickle(path));
	weights->path = qd_arena_strdup(&weights->arena, path);
	weights->files = qd_arena_array(&weights->arena, 1, sizeof(*weights->files));
	if (weights->path == NULL || weights->files == NULL)
		QD_TRY(st, QD_ENOMEM);
	QD_TRY(st, qd_safetensors_open(&weights->files[0], path));
	weights->n_files = 1;
out:
	return st;
}

/* Says what of the file is not used. */
static void note_others(const struct qd_safetensors *file)
{
	struct qd_checkpoint_content contents[QD_CHECKPOINT_SECTIONS];
	qd_checkpoint_contents(file, contents);
	if (contents[QD_CHECKPOINT_EMA].tensors)
		qd_log(QD_LOG_INFO, "'%s': %zu averaged copies of weights (model_ema.) are not used", file->path,
			contents[QD_CHECKPOINT_EMA].tensors);
	if (contents[QD_CHECKPOINT_OTHER].tensors)
		qd_log(QD_LOG_INFO, "'%s': %zu tensors of no known component are not used (first '%s')", file->path,
			contents[QD_CHECKPOINT_OTHER].tensors, contents[QD_CHECKPOINT_OTHER].first);
}

enum qd_status qd_checkpoint_open(struct qd_unet_config *config, struct qd_weights *weights, const char *path)
{
	struct qd_graph g = { 0 };
	uint64_t parameters, tensors;
	enum qd_status st;
	*weights = (struct qd_weights){ 0 };
	QD_TRY(st, open_file(weights, path));
	const char *prefix = prefix_of(&weights->files[0]);
	if (prefix == NULL)
		QD_TRY(st, refuse(&weights->files[0]));
	QD_TRY(st, read_config(config, weights, prefix));
	QD_TRY(st, qd_unet_parameters(config, &g, &parameters, &tensors));
	QD_TRY(st, rename_all(weights, &g, config, prefix));
	note_others(&weights->files[0]);
out:
	qd_graph_release(&g);
	if (st != QD_OK)
		qd_weights_release(weights);
	return st;
}
