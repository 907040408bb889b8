/*
 * The configuration of a UNet from the names and shapes of its tensors, in the original implementation's spelling:
 *
 *   input_blocks.0.0.weight [C0,in,k,k]    out.2.weight [out,C0,k,k]    time_embed.0.weight [te,C0]
 *   input_blocks.N.0.in_layers.2.weight    a resnet, [C,...]: the level's channels; N counts on through all levels
 *   input_blocks.N.0.op.weight             a downsampler: the next level begins behind it
 *   input_blocks.N.1.norm.weight           the resnet's transformer, with transformer_blocks.0, 1, ... inside
 *   output_blocks.N.1.norm.weight          the same on the way up, where a level has one resnet more
 *   middle_block.1.norm.weight             the transformer in the middle
 *   label_emb.0.0.weight [te,A]            pooled text and sizes are added to the time embedding (SDXL)
 *
 * What shapes do not say is the family's (lib/weights/families.c). The result is a set of config.json's fields, read as any other.
 */

#include "lib/model/internal.h"
#include <stdio.h>
#include <string.h>

struct reader {
	const struct qd_safetensors *file;
	const char *prefix;
};

/* What the walk over the tensors found. Levels count from the highest resolution; depth 0 stands for no transformer. */
struct found {
	int levels;
	int64_t channels[QD_MAX_BLOCKS];
	int layers[QD_MAX_BLOCKS];
	int64_t depth[QD_MAX_BLOCKS][QD_MAX_LAYERS], up_depth[QD_MAX_BLOCKS][QD_MAX_LAYERS], mid_depth;
	bool down_attention[QD_MAX_BLOCKS], up_attention[QD_MAX_BLOCKS], mid, mid_attention;
	int64_t context; /* features; 0: no attention anywhere */
	bool linear, scale_shift;
};

static const struct qd_tensor *find(const struct reader *r, const char *fmt, ...) QD_PRINTF(2, 3);
static const struct qd_tensor *find(const struct reader *r, const char *fmt, ...)
{
	char name[256];
	size_t n = strlen(r->prefix);
	va_list args;
	memcpy(name, r->prefix, n);
	va_start(args, fmt);
	vsnprintf(name + n, sizeof(name) - n, fmt, args);
	va_end(args);
	return qd_safetensors_find(r->file, name);
}

/* Size of an axis; 0 where the tensor is absent or has fewer. */
static int64_t size_of(const struct qd_tensor *tensor, int axis)
{
	return tensor && axis < tensor->shape.rank ? tensor->shape.dim[axis] : 0;
}

/* ---- transformers ---- */

/* Notes what one transformer at "<at>.1" (or "middle_block.1") tells; its depth, or -1 when there is none. */
static int64_t read_transformer(const struct reader *r, struct found *f, const char *at)
{
	int64_t depth = 0;
	if (!find(r, "%s.norm.weight", at))
		return -1;
	while (find(r, "%s.transformer_blocks.%lld.norm1.weight", at, (long long)depth))
		depth++;
	if (f->context == 0)
		f->context = size_of(find(r, "%s.transformer_blocks.0.attn2.to_k.weight", at), 1);
	const struct qd_tensor *proj = find(r, "%s.proj_in.weight", at);
	f->linear = f->linear || (proj && proj->shape.rank == 2);
	return depth;
}

/* ---- the walk ---- */

static enum qd_status too_many(const struct reader *r, const char *what)
{
	return qd_fail(QD_EUNSUPPORTED, "'%s' has a UNet of more than %d %s, which no known model has", r->file->path,
		strcmp(what, "levels") == 0 ? QD_MAX_BLOCKS : QD_MAX_LAYERS - 1, what);
}

/* Resnet N of the way down. */
static enum qd_status read_layer(const struct reader *r, struct found *f, int n)
{
	char at[64];
	int level = f->levels - 1, layer = f->layers[level];
	if (layer + 1 >= QD_MAX_LAYERS)
		return too_many(r, "layers in a level");
	f->channels[level] = size_of(find(r, "input_blocks.%d.0.in_layers.2.weight", n), 0);
	f->scale_shift =
		f->scale_shift || size_of(find(r, "input_blocks.%d.0.emb_layers.1.weight", n), 0) == 2 * f->channels[level];
	snprintf(at, sizeof(at), "input_blocks.%d.1", n);
	int64_t depth = read_transformer(r, f, at);
	f->down_attention[level] = f->down_attention[level] || depth >= 0;
	f->depth[level][layer] = depth > 0 ? depth : 0;
	f->layers[level]++;
	return QD_OK;
}

static enum qd_status walk_down(const struct reader *r, struct found *f)
{
	f->levels = 1;
	for (int n = 1;; n++) {
		enum qd_status st = QD_OK;
		if (find(r, "input_blocks.%d.0.in_layers.2.weight", n))
			st = read_layer(r, f, n);
		else if (!find(r, "input_blocks.%d.0.op.weight", n))
			return QD_OK;
		else if (++f->levels > QD_MAX_BLOCKS)
			st = too_many(r, "levels");
		if (st != QD_OK)
			return st;
	}
}

static void walk_up(const struct reader *r, struct found *f)
{
	char at[64];
	int n = 0;
	for (int block = 0; block < f->levels; block++) {
		for (int layer = 0; layer <= f->layers[f->levels - 1 - block]; layer++, n++) {
			snprintf(at, sizeof(at), "output_blocks.%d.1", n);
			int64_t depth = read_transformer(r, f, at);
			f->up_attention[block] = f->up_attention[block] || depth >= 0;
			f->up_depth[block][layer] = depth > 0 ? depth : 0;
		}
	}
}

static enum qd_status walk(const struct reader *r, struct found *f)
{
	enum qd_status st = walk_down(r, f);
	if (st != QD_OK)
		return st;
	int64_t depth = read_transformer(r, f, "middle_block.1");
	f->mid = find(r, "middle_block.0.in_layers.2.weight") != NULL;
	f->mid_attention = depth >= 0;
	f->mid_depth = depth > 0 ? depth : 0;
	walk_up(r, f);
	return QD_OK;
}

/* ---- as fields ---- */

static void put_int(json_t *o, const char *name, int64_t value)
{
	json_object_set_new(o, name, json_integer(value));
}

/* Depths of every layer of every block. Where a block has no transformers the number stands for nothing, but the last one's is the
 * middle's. */
static json_t *depth_lists(const struct found *f, bool up)
{
	json_t *blocks = json_array();
	for (int i = 0; i < f->levels; i++) {
		int level = up ? f->levels - 1 - i : i;
		bool attention = up ? f->up_attention[i] : f->down_attention[i];
		int64_t none = level == f->levels - 1 && f->mid_attention ? f->mid_depth : 1;
		json_t *list = json_array();
		for (int j = 0; j < f->layers[level] + (up ? 1 : 0); j++)
			json_array_append_new(list, json_integer(attention ? (up ? f->up_depth[i][j] : f->depth[i][j]) : none));
		json_array_append_new(blocks, list);
	}
	return blocks;
}

static json_t *type_list(const struct found *f, const char *stem, const bool *attention)
{
	json_t *list = json_array();
	for (int i = 0; i < f->levels; i++)
		json_array_append_new(list, json_sprintf("%s%s", attention[i] ? "CrossAttn" : "", stem));
	return list;
}

static void put_blocks(json_t *o, const struct found *f, const struct qd_family *family)
{
	json_t *channels = json_array(), *layers = json_array(), *heads = json_array();
	const char *mid = f->mid_attention ? "UNetMidBlock2DCrossAttn" : "UNetMidBlock2D";
	for (int i = 0; i < f->levels; i++) {
		json_array_append_new(channels, json_integer(f->channels[i]));
		json_array_append_new(layers, json_integer(f->layers[i]));
		json_array_append_new(heads, json_integer(family->heads > 0 ? family->heads : f->channels[i] / QD_FAMILY_HEAD));
	}
	json_object_set_new(o, "block_out_channels", channels);
	json_object_set_new(o, "layers_per_block", layers);
	json_object_set_new(o, "attention_head_dim", heads);
	json_object_set_new(o, "down_block_types", type_list(f, "DownBlock2D", f->down_attention));
	json_object_set_new(o, "up_block_types", type_list(f, "UpBlock2D", f->up_attention));
	json_object_set_new(o, "mid_block_type", f->mid ? json_string(mid) : json_null());
	json_object_set_new(o, "transformer_layers_per_block", depth_lists(f, false));
	json_object_set_new(o, "reverse_transformer_layers_per_block", depth_lists(f, true));
	json_object_set_new(o, "use_linear_projection", json_boolean(f->linear));
	if (f->context)
		put_int(o, "cross_attention_dim", f->context);
	if (f->scale_shift)
		json_object_set_new(o, "resnet_time_scale_shift", json_string("scale_shift"));
}

/* SDXL's added embeddings, by their width; those of other models mean something else. */
static enum qd_status put_added(const struct reader *r, json_t *o)
{
	const struct qd_tensor *label = find(r, "label_emb.0.0.weight");
	const int64_t xl = QD_FAMILY_POOLED + qd_families[QD_FAMILY_SDXL].time_ids * QD_FAMILY_TIME,
		      refiner = QD_FAMILY_POOLED + qd_families[QD_FAMILY_SDXL_REFINER].time_ids * QD_FAMILY_TIME;
	int64_t width = size_of(label, 1);

	if (label == NULL)
		return QD_OK;
	if (width != xl && width != refiner)
		return qd_fail(QD_EUNSUPPORTED,
			"'%s': tensor '%s' takes %lld features, needs %lld (SDXL) or %lld (its refiner): conditioning of another "
			"kind",
			r->file->path, label->name, (long long)width, (long long)xl, (long long)refiner);
	json_object_set_new(o, "addition_embed_type", json_string("text_time"));
	put_int(o, "addition_time_embed_dim", QD_FAMILY_TIME);
	put_int(o, "projection_class_embeddings_input_dim", width);
	return QD_OK;
}

/* The published family: everything that shapes do not say goes with it. */
static enum qd_status find_family(const struct reader *r, const struct found *f, const struct qd_family **family)
{
	static const char ending[] = ".safetensors";
	size_t stem = strlen(r->file->path) - (qd_ends_with(r->file->path, ending) ? strlen(ending) : 0);

	*family = qd_family_of_context(f->context);
	if (*family != NULL && (*family)->channels == f->channels[0] && (*family)->linear == f->linear)
		return QD_OK;
	return qd_fail(QD_EUNSUPPORTED,
		"'%s': a UNet of %lld channels and %lld context features is of no known family, whose heads its tensors do not "
		"tell: "
		"needs its configuration in '%.*s.config.json'",
		r->file->path, (long long)f->channels[0], (long long)f->context, (int)stem, r->file->path);
}

static json_t *fields(const struct reader *r, const struct found *f, const struct qd_family *family)
{
	const struct qd_tensor *in = find(r, "input_blocks.0.0.weight"), *out = find(r, "out.2.weight");
	json_t *o = json_object();
	put_int(o, "in_channels", size_of(in, 1));
	put_int(o, "conv_in_kernel", size_of(in, 2));
	put_int(o, "out_channels", size_of(out, 0));
	put_int(o, "conv_out_kernel", size_of(out, 2));
	put_int(o, "time_embedding_dim", size_of(find(r, "time_embed.0.weight"), 0));
	put_int(o, "sample_size", family->sample_size);
	put_blocks(o, f, family);
	return o;
}

/* What the walk starts from and the fields above are read from. */
static enum qd_status check_ends(const struct reader *r)
{
	static const char *const names[] = { "input_blocks.0.0.weight", "out.2.weight", "time_embed.0.weight" };
	for (size_t i = 0; i < QD_COUNT(names); i++) {
		if (!find(r, "%s", names[i]))
			return qd_fail(
				QD_EINPUT, "'%s' has no tensor '%s%s', needs it for a UNet", r->file->path, r->prefix, names[i]);
	}
	return QD_OK;
}

enum qd_status qd_checkpoint_infer(struct qd_unet_config *config, const struct qd_safetensors *file, const char *prefix)
{
	const struct reader r = { file, prefix };
	const struct qd_family *family;
	struct found found = { 0 };
	json_t *json = NULL;
	enum qd_status st;
	QD_TRY(st, check_ends(&r));
	QD_TRY(st, walk(&r, &found));
	QD_TRY(st, find_family(&r, &found, &family));
	json = fields(&r, &found, family);
	QD_TRY(st, put_added(&r, json));
	if (qd_json_starved())
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	QD_TRY(st, qd_unet_config_parse(config, file->path, json));
	if (found.mid_attention && config->mid_depth != found.mid_depth)
		st = qd_fail(QD_EUNSUPPORTED, "'%s': the middle has %lld transformer blocks and the last level %lld, needs as many",
			file->path, (long long)found.mid_depth, (long long)config->mid_depth);
out:
	json_decref(json);
	return st;
}
