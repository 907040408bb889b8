/*
 * Opening component folders: what a folder holds is told from its config.json, in this order:
 *
 *   "_class_name"     diffusers: a class of the table below, or its Flax spelling
 *   "architectures"   transformers: a list of class names
 *   "model_type"      transformers: "clip_text_model"
 *   the fields        num_hidden_layers: a text encoder; num_encoder_blocks: AutoencoderTiny; latent_channels: AutoencoderKL;
 *                     down_block_types: a UNet
 */
#include "lib/network/component_internal.h"

#include <stdlib.h>
#include <string.h>

static const struct {
	const char *class_name;
	enum qd_component_kind kind;
} classes[] = {
	{ "UNet2DConditionModel", QD_COMPONENT_UNET },
	{ "AutoencoderKL", QD_COMPONENT_VAE },
	{ "AutoencoderTiny", QD_COMPONENT_TINY_VAE },
	{ "CLIPTextModel", QD_COMPONENT_TEXT },
	{ "CLIPTextModelWithProjection", QD_COMPONENT_TEXT },
};

/* The first that a file has decides. */
static const struct {
	const char *field;
	enum qd_component_kind kind;
} marks[] = {
	{ "num_hidden_layers", QD_COMPONENT_TEXT },
	{ "num_encoder_blocks", QD_COMPONENT_TINY_VAE },
	{ "latent_channels", QD_COMPONENT_VAE },
	{ "down_block_types", QD_COMPONENT_UNET },
};

static const char classes_text[] =
	"UNet2DConditionModel, AutoencoderKL, AutoencoderTiny, CLIPTextModel or CLIPTextModelWithProjection";

const char *qd_component_kind_name(enum qd_component_kind kind)
{
	for (size_t i = 0; i < QD_COUNT(classes); i++) {
		if (classes[i].kind == kind)
			return classes[i].class_name;
	}
	return "unknown";
}

/* ---- what a folder holds ---- */

static enum qd_status kind_of_class(const char *what, const char *field, const json_t *value, enum qd_component_kind *kind)
{
	const char *name = json_string_value(value);
	if (name && qd_starts_with(name, "Flax"))
		name += strlen("Flax");
	for (size_t i = 0; name && i < QD_COUNT(classes); i++) {
		*kind = classes[i].kind;
		if (strcmp(name, classes[i].class_name) == 0)
			return QD_OK;
	}
	return qd_fail(
		QD_EUNSUPPORTED, "'%s': field '%s' is '%.80s', needs %s", what, field, name ? name : "no string", classes_text);
}

/* What a config.json describes. QD_EUNSUPPORTED names the class; QD_EINPUT that it names none, `*kind` is a UNet then. */
static enum qd_status kind_of(const char *what, const json_t *json, enum qd_component_kind *kind)
{
	const json_t *class_name = json_object_get(json, "_class_name"), *model_type = json_object_get(json, "model_type");
	const json_t *architecture = json_array_get(json_object_get(json, "architectures"), 0);
	if (class_name)
		return kind_of_class(what, "_class_name", class_name, kind);
	if (architecture)
		return kind_of_class(what, "architectures", architecture, kind);
	*kind = QD_COMPONENT_TEXT;
	if (json_is_string(model_type) && strcmp(json_string_value(model_type), "clip_text_model") == 0)
		return QD_OK;
	if (json_is_string(model_type))
		return qd_fail(QD_EUNSUPPORTED, "'%s': field 'model_type' is '%.80s', needs 'clip_text_model'", what,
			json_string_value(model_type));
	for (size_t i = 0; i < QD_COUNT(marks); i++) {
		*kind = marks[i].kind;
		if (json_object_get(json, marks[i].field))
			return QD_OK;
	}
	*kind = QD_COMPONENT_UNET;
	return qd_fail(QD_EINPUT, "'%s' names no class, needs %s", what, classes_text);
}

enum qd_status qd_component_config_parse(struct qd_component *component, const char *what, const json_t *json)
{
	enum qd_status st = kind_of(what, json, &component->kind);
	if (st != QD_OK)
		return st;
	switch (component->kind) {
	case QD_COMPONENT_UNET:
		return qd_unet_config_parse(&component->unet, what, json);
	case QD_COMPONENT_VAE:
		return qd_vae_config_parse(&component->vae, what, json);
	case QD_COMPONENT_TINY_VAE:
		return qd_tiny_vae_config_parse(&component->vae, what, json);
	case QD_COMPONENT_TEXT:
		return qd_text_config_parse(&component->text, what, json);
	}
	return QD_OK;
}

/* ---- opening ---- */

static enum qd_status join(char **out, const char *folder, const char *name)
{
	if (asprintf(out, "%s/%s", folder, name) >= 0)
		return QD_OK;
	*out = NULL;
	return qd_fail(QD_ENOMEM, "out of memory");
}

static bool has_file(const char *folder, const char *name)
{
	char path[4096];
	return snprintf(path, sizeof(path), "%s/%s", folder, name) < (int)sizeof(path) && qd_is_file(path);
}

bool qd_is_component(const char *folder)
{
	return has_file(folder, "config.json") || qd_original_taesd(folder);
}

/* The component's own folder: `path`, or a subfolder of it. */
static enum qd_status locate(struct qd_component *component, const char *path, const char *name)
{
	enum qd_status st;
	if (!qd_is_directory(path))
		return qd_fail(QD_EINPUT, "'%s' is no folder, needs one with config.json", path);
	if (qd_is_component(path)) {
		component->folder = strdup(path);
		return component->folder ? QD_OK : qd_fail(QD_ENOMEM, "out of memory");
	}
	st = join(&component->folder, path, name ? name : "unet");
	if (st == QD_OK && !qd_is_component(component->folder))
		st = qd_fail(QD_EINPUT, "'%s' has no config.json, needs it or '%s/config.json'", path, name ? name : "unet");
	return st;
}

/* A model whose file does not name its class has a projection when it has the weights of one. */
static void find_projection(struct qd_component *component, const json_t *json)
{
	const struct qd_tensor *tensor = qd_weights_find(&component->weights, "text_projection.weight");
	if (component->kind == QD_COMPONENT_TEXT && !json_object_get(json, "architectures") && tensor && tensor->shape.rank == 2)
		component->text.projection = tensor->shape.dim[0];
}

const char *qd_component_stem(enum qd_component_kind kind)
{
	return kind == QD_COMPONENT_TEXT ? "model" : "diffusion_pytorch_model";
}

static enum qd_status open_folder(struct qd_component *component)
{
	char *path = NULL;
	json_t *json = NULL;
	enum qd_status st;
	QD_TRY(st, join(&path, component->folder, "config.json"));
	QD_TRY(st, qd_json_read(path, &json));
	QD_TRY(st, qd_component_config_parse(component, path, json));
	QD_TRY(st, qd_weights_open(&component->weights, component->folder, qd_component_stem(component->kind)));
	find_projection(component, json);
out:
	json_decref(json);
	free(path);
	return st;
}

enum qd_status qd_component_open(struct qd_component *component, const char *path, const char *name)
{
	enum qd_status st;
	*component = (struct qd_component){ 0 };
	QD_TRY(st, locate(component, path, name));
	QD_TRY(st, has_file(component->folder, "config.json") ? open_folder(component) : qd_original_taesd_open(component));
out:
	if (st != QD_OK)
		qd_component_release(component);
	return st;
}

enum qd_status qd_component_config_read(struct qd_component *component, const char *path)
{
	json_t *json = NULL;
	enum qd_status st;
	*component = (struct qd_component){ 0 };
	QD_TRY(st, qd_json_read(path, &json));
	QD_TRY(st, qd_component_config_parse(component, path, json));
out:
	json_decref(json);
	return st;
}

enum qd_status qd_component_peek(const char *path, const char *name, enum qd_component_kind *kind)
{
	struct qd_component component = { 0 };
	char *config = NULL;
	json_t *json = NULL;
	enum qd_status st;
	QD_TRY(st, locate(&component, path, name));
	QD_TRY(st, join(&config, component.folder, "config.json"));
	*kind = QD_COMPONENT_TINY_VAE;
	if (!qd_is_file(config))
		goto out;
	QD_TRY(st, qd_json_read(config, &json));
	QD_TRY(st, kind_of(config, json, kind));
out:
	json_decref(json);
	free(config);
	qd_component_release(&component);
	return st;
}

void qd_component_release(struct qd_component *component)
{
	free(component->folder);
	qd_weights_release(&component->weights);
	*component = (struct qd_component){ 0 };
}

enum qd_status qd_component_graph(struct qd_graph *g, const struct qd_component *component, const struct qd_component_sizes *sizes)
{
	const struct qd_sizes unet = { sizes->batch, sizes->height, sizes->width, sizes->tokens };
	switch (component->kind) {
	case QD_COMPONENT_UNET:
		return qd_unet_graph(g, &component->unet, &component->weights, &unet);
	case QD_COMPONENT_VAE:
	case QD_COMPONENT_TINY_VAE:
		return qd_vae_graph(g, &component->vae, &component->weights, sizes);
	case QD_COMPONENT_TEXT:
		return qd_text_graph(g, &component->text, &component->weights, sizes);
	}
	return QD_OK;
}

/* ---- fields that several classes have ---- */

enum qd_op qd_config_act(struct qd_fields *r, const char *name, enum qd_op absent)
{
	static const char *const names[] = { "silu", "swish", "mish", "gelu", "relu", NULL };
	static const enum qd_op ops[] = { QD_OP_SIGMOID, QD_OP_SIGMOID, QD_OP_MISH, QD_OP_GELU, QD_OP_RELU };
	size_t found = qd_field_needed_choice(r, name, names, QD_COUNT(ops));

	return found < QD_COUNT(ops) ? ops[found] : absent;
}

int64_t qd_config_size(struct qd_fields *r, const char *name)
{
	const json_t *value = qd_field(r, name);

	if (json_is_array(value))
		value = json_array_get(value, 0);
	return value == NULL || json_is_null(value) ? 0 : qd_field_as_int(r, name, value, 1, QD_FIELD_MAX_CHANNELS);
}

int64_t qd_config_groups(struct qd_fields *r, const char *name)
{
	const json_t *value = qd_field(r, name);

	if (json_is_null(value))
		qd_field_refuse(r, QD_EUNSUPPORTED, name, value, "a number");
	return qd_field_needed_int(r, name, 1, QD_FIELD_MAX_CHANNELS, 32);
}
