#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/unit/ldm_help.h"
#include "tests/unit/scratch.h"

/* ---- names ---- */

static void add(struct help_names *names, struct qd_shape shape, const char *original, const char *diffusers, const char *leaf)
{
	assert_true(names->n < LDM_TENSORS);
	snprintf(names->original[names->n], sizeof(names->original[0]), "%s.%s", original, leaf);
	snprintf(names->diffusers[names->n], sizeof(names->diffusers[0]), "%s.%s", diffusers, leaf);
	names->shapes[names->n++] = shape;
}

/* Weight and bias of a layer; both names are below a path. */
static void layer(struct help_names *names, struct qd_shape shape, const char *original, const char *diffusers, const char *o,
	const char *d, bool bias)
{
	char first[96], second[96];
	snprintf(first, sizeof(first), "%s%s%s", original, *original && *o ? "." : "", o);
	snprintf(second, sizeof(second), "%s%s%s", diffusers, *diffusers && *d ? "." : "", d);
	add(names, shape, first, second, "weight");
	if (bias)
		add(names, QD_SHAPE(shape.dim[0]), first, second, "bias");
}

static void resnet(struct help_names *t, const char *o, const char *d, int64_t in, int64_t out, int64_t time)
{
	layer(t, QD_SHAPE(in), o, d, "in_layers.0", "norm1", true);
	layer(t, QD_SHAPE(out, in, 3, 3), o, d, "in_layers.2", "conv1", true);
	layer(t, QD_SHAPE(out, time), o, d, "emb_layers.1", "time_emb_proj", true);
	layer(t, QD_SHAPE(out), o, d, "out_layers.0", "norm2", true);
	layer(t, QD_SHAPE(out, out, 3, 3), o, d, "out_layers.3", "conv2", true);
	if (in != out)
		layer(t, QD_SHAPE(out, in, 1, 1), o, d, "skip_connection", "conv_shortcut", true);
}

static void same(struct help_names *t, const char *o, const char *d, const char *name, struct qd_shape shape, bool bias)
{
	layer(t, shape, o, d, name, name, bias);
}

static void transformer(struct help_names *t, const struct help_ldm *net, const char *o, const char *d, int64_t c, int depth)
{
	struct qd_shape proj = net->linear ? QD_SHAPE(c, c) : QD_SHAPE(c, c, 1, 1);
	same(t, o, d, "norm", QD_SHAPE(c), true);
	same(t, o, d, "proj_in", proj, true);
	for (int k = 0; k < depth; k++) {
		char a[80], b[80];
		snprintf(a, sizeof(a), "%s.transformer_blocks.%d", o, k);
		snprintf(b, sizeof(b), "%s.transformer_blocks.%d", d, k);
		for (int n = 1; n <= 2; n++) {
			char name[32];
			int64_t from = n == 1 ? c : net->context;
			snprintf(name, sizeof(name), "attn%d.to_q", n);
			same(t, a, b, name, QD_SHAPE(c, c), false);
			snprintf(name, sizeof(name), "attn%d.to_k", n);
			same(t, a, b, name, QD_SHAPE(c, from), false);
			snprintf(name, sizeof(name), "attn%d.to_v", n);
			same(t, a, b, name, QD_SHAPE(c, from), false);
			snprintf(name, sizeof(name), "attn%d.to_out.0", n);
			same(t, a, b, name, QD_SHAPE(c, c), true);
		}
		same(t, a, b, "ff.net.0.proj", QD_SHAPE(8 * c, c), true);
		same(t, a, b, "ff.net.2", QD_SHAPE(c, 4 * c), true);
		same(t, a, b, "norm1", QD_SHAPE(c), true);
		same(t, a, b, "norm2", QD_SHAPE(c), true);
		same(t, a, b, "norm3", QD_SHAPE(c), true);
	}
	same(t, o, d, "proj_out", proj, true);
}

/* Names of layer `n` of the original's list `list`, place `slot`, and of diffusers' block. */
struct place {
	char original[64], diffusers[64];
};

static struct place place(const char *list, int n, int slot, const char *block, int level, const char *kind, int layer_number)
{
	struct place p;
	snprintf(p.original, sizeof(p.original), "%s.%d.%d", list, n, slot);
	snprintf(p.diffusers, sizeof(p.diffusers), "%s.%d.%s.%d", block, level, kind, layer_number);
	return p;
}

static void ends(struct help_names *t, const struct help_ldm *net, int64_t time)
{
	layer(t, QD_SHAPE(time, net->channels), "", "", "time_embed.0", "time_embedding.linear_1", true);
	layer(t, QD_SHAPE(time, time), "", "", "time_embed.2", "time_embedding.linear_2", true);
	if (net->added) {
		layer(t, QD_SHAPE(time, net->added), "", "", "label_emb.0.0", "add_embedding.linear_1", true);
		layer(t, QD_SHAPE(time, time), "", "", "label_emb.0.2", "add_embedding.linear_2", true);
	}
	layer(t, QD_SHAPE(net->channels, net->in, 3, 3), "", "", "input_blocks.0.0", "conv_in", true);
	layer(t, QD_SHAPE(net->channels), "", "", "out.0", "conv_norm_out", true);
	layer(t, QD_SHAPE(net->out, net->channels, 3, 3), "", "", "out.2", "conv_out", true);
}

static void middle(struct help_names *t, const struct help_ldm *net, int64_t c, int64_t time)
{
	if (net->mid_depth < 0)
		return;
	resnet(t, "middle_block.0", "mid_block.resnets.0", c, c, time);
	if (net->mid_depth == 0)
		return;
	transformer(t, net, "middle_block.1", "mid_block.attentions.0", c, net->mid_depth);
	resnet(t, "middle_block.2", "mid_block.resnets.1", c, c, time);
}

struct help_names *help_ldm_names(const struct help_ldm *net)
{
	struct help_names *t = calloc(1, sizeof(*t));
	int64_t time = 4 * net->channels, x = net->channels, skips[64];
	int n = 1, n_skips = 0;
	assert_non_null(t);
	ends(t, net, time);
	skips[n_skips++] = x;
	for (int level = 0; level < net->levels; level++) {
		int64_t c = net->channels * net->mult[level];
		for (int j = 0; j < net->layers; j++, n++) {
			struct place p = place("input_blocks", n, 0, "down_blocks", level, "resnets", j);
			resnet(t, p.original, p.diffusers, x, c, time);
			p = place("input_blocks", n, 1, "down_blocks", level, "attentions", j);
			if (net->depth[level][j])
				transformer(t, net, p.original, p.diffusers, c, net->depth[level][j]);
			skips[n_skips++] = x = c;
		}
		if (level + 1 == net->levels)
			break;
		struct place p = place("input_blocks", n++, 0, "down_blocks", level, "downsamplers", 0);
		layer(t, QD_SHAPE(c, c, 3, 3), p.original, p.diffusers, "op", "conv", true);
		skips[n_skips++] = c;
	}
	middle(t, net, x, time);
	n = 0;
	for (int level = net->levels - 1, up = 0; level >= 0; level--, up++) {
		int64_t c = net->channels * net->mult[level];
		for (int j = 0; j <= net->layers; j++, n++) {
			struct place p = place("output_blocks", n, 0, "up_blocks", up, "resnets", j);
			int slot = 1;
			resnet(t, p.original, p.diffusers, x + skips[--n_skips], c, time);
			if (net->up_depth[up][j]) {
				p = place("output_blocks", n, slot++, "up_blocks", up, "attentions", j);
				transformer(t, net, p.original, p.diffusers, c, net->up_depth[up][j]);
			}
			p = place("output_blocks", n, slot, "up_blocks", up, "upsamplers", 0);
			if (level > 0 && j == net->layers)
				layer(t, QD_SHAPE(c, c, 3, 3), p.original, p.diffusers, "conv", "conv", true);
			x = c;
		}
	}
	return t;
}

/* ---- networks ---- */

void help_ldm_depth(struct help_ldm *net, int level, int depth)
{
	for (int j = 0; j < 4; j++)
		net->depth[level][j] = net->up_depth[net->levels - 1 - level][j] = depth;
}

#define SDXL_TYPES                                                                                                                 \
	"\"down_block_types\": [\"DownBlock2D\", \"CrossAttnDownBlock2D\", \"CrossAttnDownBlock2D\"],"                             \
	"\"up_block_types\": [\"CrossAttnUpBlock2D\", \"CrossAttnUpBlock2D\", \"UpBlock2D\"], \"use_linear_projection\": true,"    \
	"\"addition_embed_type\": \"text_time\","

static const struct known {
	const char *name;
	int levels;
	int64_t in, out, channels, mult[8], context, added;
	int layers, depth[8], mid_depth;
	bool linear;
	const char *config;
} known[] = {
	{ "sd15", 4, 4, 4, 320, { 1, 2, 4, 4 }, 768, 0, 2, { 1, 1, 1, 0 }, 1, false, "{\"cross_attention_dim\": 768}" },
	{ "sd15-inpainting", 4, 9, 4, 320, { 1, 2, 4, 4 }, 768, 0, 2, { 1, 1, 1, 0 }, 1, false,
		"{\"cross_attention_dim\": 768, \"in_channels\": 9, \"sample_size\": 64}" },
	{ "sd-small", 4, 4, 4, 320, { 1, 2, 4, 4 }, 768, 0, 1, { 1, 1, 1, 0 }, -1, false,
		"{\"cross_attention_dim\": 768, \"layers_per_block\": 1, \"mid_block_type\": null}" },
	{ "sd2", 4, 4, 4, 320, { 1, 2, 4, 4 }, 1024, 0, 2, { 1, 1, 1, 0 }, 1, true,
		"{\"cross_attention_dim\": 1024, \"attention_head_dim\": [5, 10, 20, 20], \"use_linear_projection\": true,"
		" \"sample_size\": 96}" },
	{ "sdxl", 3, 4, 4, 320, { 1, 2, 4 }, 2048, 2816, 2, { 0, 2, 10 }, 10, true,
		"{" SDXL_TYPES "\"block_out_channels\": [320, 640, 1280], \"attention_head_dim\": [5, 10, 20],"
		"\"transformer_layers_per_block\": [1, 2, 10], \"cross_attention_dim\": 2048, \"addition_time_embed_dim\": 256,"
		"\"projection_class_embeddings_input_dim\": 2816, \"sample_size\": 128}" },
	{ "refiner", 4, 4, 4, 384, { 1, 2, 4, 4 }, 1280, 2560, 2, { 0, 4, 4, 0 }, 4, true,
		"{\"block_out_channels\": [384, 768, 1536, 1536], \"attention_head_dim\": [6, 12, 24, 24],"
		"\"down_block_types\": [\"DownBlock2D\", \"CrossAttnDownBlock2D\", \"CrossAttnDownBlock2D\", \"DownBlock2D\"],"
		"\"up_block_types\": [\"UpBlock2D\", \"CrossAttnUpBlock2D\", \"CrossAttnUpBlock2D\", \"UpBlock2D\"],"
		"\"transformer_layers_per_block\": 4, \"cross_attention_dim\": 1280, \"use_linear_projection\": true,"
		"\"addition_embed_type\": \"text_time\", \"addition_time_embed_dim\": 256,"
		"\"projection_class_embeddings_input_dim\": 2560}" },
	{ "tiny15", 4, 4, 4, 32, { 1, 2, 3, 3 }, 48, 0, 2, { 1, 1, 1, 0 }, 1, false,
		"{\"block_out_channels\": [32, 64, 96, 96], \"cross_attention_dim\": 48, \"attention_head_dim\": 4}" },
	{ "tinyxl", 3, 4, 4, 32, { 1, 2, 3 }, 40, 120, 2, { 0, 2, 3 }, 3, true,
		"{" SDXL_TYPES "\"block_out_channels\": [32, 64, 96], \"attention_head_dim\": [2, 4, 6],"
		"\"transformer_layers_per_block\": [1, 2, 3], \"cross_attention_dim\": 40, \"addition_time_embed_dim\": 16,"
		"\"projection_class_embeddings_input_dim\": 120}" },
};

static const struct known *find_known(const char *name)
{
	size_t i = 0;
	while (strcmp(known[i].name, name) != 0)
		i++;
	return &known[i];
}

struct help_ldm help_ldm_of(const char *name)
{
	const struct known *k = find_known(name);
	struct help_ldm net = { .in = k->in,
		.out = k->out,
		.channels = k->channels,
		.levels = k->levels,
		.layers = k->layers,
		.mid_depth = k->mid_depth,
		.context = k->context,
		.added = k->added,
		.linear = k->linear };
	memcpy(net.mult, k->mult, sizeof(net.mult));
	for (int level = 0; level < k->levels; level++)
		help_ldm_depth(&net, level, k->depth[level]);
	return net;
}

const char *help_ldm_config(const char *name)
{
	return find_known(name)->config;
}

/* ---- files ---- */

static size_t bytes_of(const struct qd_shape *shape)
{
	return 2 * (size_t)qd_shape_elements(shape);
}

/* One member of a safetensors header. */
static void member(FILE *out, const char *name, const char *dtype, const struct qd_shape *shape, size_t *at)
{
	char text[QD_SHAPE_TEXT];
	fprintf(out, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}", *at ? "," : "{", name, dtype,
		qd_shape_text(shape, text), *at, *at + bytes_of(shape));
	*at += bytes_of(shape);
}

const char *help_ldm_hole(const char *file, const struct help_names *names, const char *prefix, const struct help_edit *edit)
{
	static const struct help_edit none;
	const struct help_edit *e = edit != NULL ? edit : &none;
	const char *path = scratch_path(file);
	char *header = NULL;
	size_t length = 0, at = 0;
	FILE *text = open_memstream(&header, &length), *out = fopen(path, "wb");
	for (size_t i = 0; i < names->n; i++) {
		const char *name = names->original[i];
		char full[192];
		if (e->without != NULL && strcmp(e->without, name) == 0)
			continue;
		bool reshaped = e->reshaped != NULL && strcmp(e->reshaped, name) == 0,
		     retyped = e->retyped != NULL && strcmp(e->retyped, name) == 0;
		snprintf(full, sizeof(full), "%s%s", prefix, name);
		member(text, full, retyped ? "I16" : "F16", reshaped ? &e->shape : &names->shapes[i], &at);
	}
	if (e->with != NULL)
		member(text, e->with, "F16", &e->shape, &at);
	fputc('}', text);
	fclose(text);
	uint64_t n = length; /* the test's machine is little-endian as the format is */
	assert_non_null(out);
	assert_int_equal(fwrite(&n, 8, 1, out), 1);
	assert_int_equal(fwrite(header, length, 1, out), 1);
	assert_int_equal(fclose(out), 0);
	assert_int_equal(truncate(path, (off_t)(8 + length + at)), 0);
	free(header);
	return path;
}

const char *help_ldm_write(const char *file, const struct qd_model *model, const struct help_names *names, bool config)
{
	enum { BESIDE = 3 };
	static const char *const beside[BESIDE] = { "first_stage_model.quant_conv.weight",
		"cond_stage_model.transformer.text_model.final_layer_norm.weight", "model_ema.decay" };
	static const float value[4] = { 1, 2, 3, 4 };
	struct qd_tensor *tensors = calloc(names->n + BESIDE, sizeof(*tensors));
	char(*full)[192] = calloc(names->n, sizeof(*full));
	const char *path = scratch_path(file);
	assert_true(tensors && full && names->n == model->weights.n);
	for (size_t i = 0; i < names->n; i++) {
		const struct qd_tensor *tensor = qd_weights_find(&model->weights, names->diffusers[i]);
		assert_non_null(tensor);
		snprintf(full[i], sizeof(full[i]), "model.diffusion_model.%s", names->original[i]);
		tensors[i] = *tensor;
		tensors[i].name = full[i];
	}
	for (size_t i = 0; i < BESIDE; i++)
		tensors[names->n + i] = qd_tensor_view(beside[i], QD_F32, QD_SHAPE(4), value);
	if (qd_safetensors_write(path, tensors, names->n + BESIDE, NULL, 0, true, NULL, NULL) != QD_OK)
		fail_msg("%s", qd_message());
	if (config) {
		char to[4096];
		json_t *json = qd_unet_config_json(&model->config);
		snprintf(to, sizeof(to), "%.*s.config.json",
			(int)(strlen(path) - (qd_ends_with(path, ".safetensors") ? strlen(".safetensors") : 0)), path);
		assert_int_equal(qd_json_write(to, json, true), QD_OK);
		json_decref(json);
	}
	free(tensors);
	free(full);
	return path;
}
