/*
 * The configuration of a UNet as its graph says it: sizes from the shapes of named weights, numbers of layers from which weights
 * there are, heads, norms and paddings from the nodes that use them, the sinusoid from its frequencies. What leaves no trace in the
 * graph of a network has its usual value; whoever builds the network from this compares it with the graph.
 *
 * The sinusoid's frequencies are f_k = exp(-ln(10000) k / (half - freq_shift)), so that freq_shift = half + ln(10000) / ln f_1.
 */
#include "lib/model/internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

struct facts {
	const struct qd_graph *g;
	struct qd_unet_config *c;
};

/* ---- looking for weights and what uses them ---- */

/* The weight of a formatted name, or NULL. */
static const struct qd_value *weight(const struct facts *f, const char *fmt, ...) QD_PRINTF(2, 3);
static const struct qd_value *weight(const struct facts *f, const char *fmt, ...)
{
	char name[256];
	va_list args;
	va_start(args, fmt);
	vsnprintf(name, sizeof(name), fmt, args);
	va_end(args);
	qd_id id = qd_graph_find(f->g, name);
	return id != QD_NONE && f->g->values[id].kind == QD_WEIGHT ? &f->g->values[id] : NULL;
}

static int64_t dim(const struct qd_value *value, int axis)
{
	return value != NULL && axis < value->shape.rank ? value->shape.dim[axis] : 0;
}

/* The first node that has `value` as input `at`, or NULL. */
static const struct qd_node *user(const struct facts *f, const struct qd_value *value, size_t at)
{
	for (size_t i = 0; value != NULL && i < f->g->n_order; i++) {
		const struct qd_node *node = &f->g->nodes[f->g->order[i]];
		if (node->n_in > at && node->in[at] != QD_NONE && &f->g->values[node->in[at]] == value)
			return node;
	}
	return NULL;
}

static const struct qd_node *user_of_result(const struct facts *f, const struct qd_node *node)
{
	return node != NULL ? user(f, &f->g->values[node->out[0]], 0) : NULL;
}

/* ---- blocks ---- */

/* Layers "<at>.<kind>.0" onward. */
static int64_t count(const struct facts *f, const char *at, const char *kind, const char *leaf)
{
	int64_t n = 0;
	while (n <= QD_MAX_LAYERS && weight(f, "%s.%s.%lld.%s", at, kind, (long long)n, leaf) != NULL)
		n++;
	return n;
}

static int64_t depth_of(const struct facts *f, const char *attention)
{
	int64_t n = count(f, attention, "transformer_blocks", "norm1.weight");
	return n > 0 ? n : 1;
}

/* Heads and context of the attention at "<at>.attentions.0": to_q's product is split into [N,L,heads,d]. */
static void read_attention(const struct facts *f, const char *at, int64_t *heads, int64_t *cross)
{
	const struct qd_value *q = weight(f, "%s.attentions.0.transformer_blocks.0.attn1.to_q.weight", at);
	const struct qd_value *k = weight(f, "%s.attentions.0.transformer_blocks.0.attn2.to_k.weight", at);
	const struct qd_node *split = user_of_result(f, user(f, q, 1));
	if (split != NULL && split->op == QD_OP_RESHAPE && f->g->values[split->out[0]].shape.rank == 4)
		*heads = f->g->values[split->out[0]].shape.dim[2];
	if (k != NULL)
		*cross = dim(k, 1);
}

static void read_down(const struct facts *f, int i)
{
	struct qd_unet_config *c = f->c;
	char at[64], attention[96];
	snprintf(at, sizeof(at), "down_blocks.%d", i);
	c->channels[i] = dim(weight(f, "%s.resnets.0.conv1.weight", at), 0);
	c->layers[i] = count(f, at, "resnets", "conv1.weight");
	c->down_attention[i] = weight(f, "%s.attentions.0.norm.weight", at) != NULL;
	for (int j = 0; j < QD_MAX_LAYERS; j++) {
		snprintf(attention, sizeof(attention), "%s.attentions.%d", at, j);
		c->depth[i][j] = depth_of(f, attention);
	}
	read_attention(f, at, &c->heads[i], &c->cross_dim[i]);
}

static void read_up(const struct facts *f, int i)
{
	struct qd_unet_config *c = f->c;
	int level = c->blocks - 1 - i;
	char at[64], attention[96];
	snprintf(at, sizeof(at), "up_blocks.%d", i);
	c->up_attention[i] = weight(f, "%s.attentions.0.norm.weight", at) != NULL;
	for (int j = 0; j < QD_MAX_LAYERS; j++) {
		snprintf(attention, sizeof(attention), "%s.attentions.%d", at, j);
		c->up_depth[i][j] = depth_of(f, attention);
	}
	read_attention(f, at, &c->heads[level], &c->cross_dim[level]);
}

static void read_mid(const struct facts *f)
{
	struct qd_unet_config *c = f->c;
	int last = c->blocks - 1;
	c->has_mid = weight(f, "mid_block.resnets.0.conv1.weight") != NULL;
	c->mid_attention = weight(f, "mid_block.attentions.0.norm.weight") != NULL;
	c->mid_depth = depth_of(f, "mid_block.attentions.0");
	read_attention(f, "mid_block", &c->heads[last], &c->cross_dim[last]);
}

/* Blocks without attention take over what the model's others have. */
static void fill_attention(struct qd_unet_config *c)
{
	int64_t cross = 0;
	for (int i = 0; i < c->blocks; i++)
		cross = cross > 0 ? cross : c->cross_dim[i];
	for (int i = 0; i < c->blocks; i++) {
		c->cross_dim[i] = c->cross_dim[i] > 0 ? c->cross_dim[i] : cross;
		c->heads[i] = c->heads[i] > 0 ? c->heads[i] : 1;
	}
}

/* ---- what stands before and after the blocks ---- */

/* The shift of a sinusoid from its frequencies [1,half] or [half]. */
static double shift_of(const struct qd_value *freqs)
{
	float f[QD_CONSTANT_ELEMENTS];
	int64_t half = qd_shape_elements(&freqs->shape);
	if (half < 2 || half > QD_CONSTANT_ELEMENTS || freqs->data.data == NULL || qd_tensor_to_f32(&freqs->data, f) != QD_OK ||
		!(f[1] > 0) || f[1] >= 1)
		return 0;
	return nearbyint((double)half + log(10000) / log((double)f[1])) + 0.0; /* no negative zero */
}

/* The sinusoid that reaches value `x`: Concat of Cos and Sin, in either order, of a product with frequencies. */
static void read_sinusoid(const struct facts *f, qd_id x)
{
	const struct qd_node *both = qd_made_by(f->g, x, QD_OP_CONCAT);
	const struct qd_node *first = both != NULL ? qd_made_by(f->g, both->in[0], QD_OP_COUNT) : NULL;
	const struct qd_node *angle = first != NULL && first->n_in > 0 ? qd_made_by(f->g, first->in[0], QD_OP_MUL) : NULL;
	f->c->flip_sin_to_cos = first == NULL || first->op == QD_OP_COS;
	for (int i = 0; i < 2 && angle != NULL; i++)
		if (f->g->values[angle->in[i]].kind == QD_WEIGHT)
			f->c->freq_shift = shift_of(&f->g->values[angle->in[i]]);
}

static void read_time(const struct facts *f)
{
	struct qd_unet_config *c = f->c;
	const struct qd_value *w = weight(f, "time_embedding.linear_1.weight");
	const struct qd_node *linear = user(f, w, 1), *sum;
	qd_id x = linear != NULL ? linear->in[0] : QD_NONE;
	c->time_dim = dim(w, 0);
	c->time_cond_dim = dim(weight(f, "time_embedding.cond_proj.weight"), 1);
	sum = qd_made_by(f->g, x, QD_OP_ADD);
	if (sum != NULL)
		x = qd_made_by(f->g, sum->in[0], QD_OP_CONCAT) != NULL ? sum->in[0] : sum->in[1];
	read_sinusoid(f, x);
}

/* text_time: pooled text and the sinusoids of time_ids enter add_embedding together. */
static void read_added(const struct facts *f)
{
	struct qd_unet_config *c = f->c;
	qd_id ids = qd_graph_find(f->g, "time_ids"), text = qd_graph_find(f->g, "text_embeds");
	c->addition_in_dim = dim(weight(f, "add_embedding.linear_1.weight"), 1);
	c->text_time = c->addition_in_dim > 0 && ids != QD_NONE && text != QD_NONE;
	if (!c->text_time)
		return;
	c->time_ids = dim(&f->g->values[ids], 1);
	c->addition_time_dim = c->time_ids > 0 ? (c->addition_in_dim - dim(&f->g->values[text], 1)) / c->time_ids : 0;
}

static void read_norms(const struct facts *f)
{
	const struct qd_node *norm = user(f, weight(f, "down_blocks.0.resnets.0.norm1.weight"), 1);
	f->c->groups = norm != NULL ? qd_node_int(norm, "num_groups", 32) : 32;
	f->c->norm_eps = norm != NULL ? (double)qd_node_float(norm, "epsilon", 1e-5F) : 1e-5;
	/* as a file would spell it: the shortest number that is this float */
	char text[32];
	snprintf(text, sizeof(text), "%.6g", f->c->norm_eps);
	sscanf(text, "%lf", &f->c->norm_eps);
}

static void read_ends(const struct facts *f)
{
	struct qd_unet_config *c = f->c;
	const struct qd_value *in = weight(f, "conv_in.weight"), *out = weight(f, "conv_out.weight");
	const struct qd_node *down = user(f, weight(f, "down_blocks.0.downsamplers.0.conv.weight"), 1);
	const struct qd_attr *pads = down != NULL ? qd_node_attr(down, "pads") : NULL;
	c->in_channels = dim(in, 1);
	c->out_channels = dim(out, 0);
	c->conv_in_kernel = dim(in, 2);
	c->conv_out_kernel = dim(out, 2);
	c->downsample_padding = pads != NULL && pads->n_ints > 0 ? pads->ints[0] : 1;
	c->linear_projection = false;
	for (size_t i = 0; i < f->g->n_values; i++) {
		const struct qd_value *v = &f->g->values[i];
		if (!v->dead && v->kind == QD_WEIGHT && qd_ends_with(v->name, ".proj_in.weight") && v->shape.rank == 2)
			c->linear_projection = true;
	}
}

enum qd_status qd_onnx_unet_config(struct qd_unet_config *config, const struct qd_graph *g)
{
	struct facts f = { g, config };
	*config = (struct qd_unet_config){ .mid_scale = 1, .act = QD_OP_SIGMOID };
	while (config->blocks < QD_MAX_BLOCKS && weight(&f, "down_blocks.%d.resnets.0.conv1.weight", config->blocks) != NULL)
		config->blocks++;
	if (config->blocks == 0 || weight(&f, "conv_in.weight") == NULL || weight(&f, "conv_out.weight") == NULL)
		return qd_fail(QD_EINPUT,
			"has no layers 'conv_in', 'down_blocks.0.resnets.0.conv1' and 'conv_out', needs those of a UNet");
	for (int i = 0; i < config->blocks; i++)
		read_down(&f, i);
	for (int i = 0; i < config->blocks; i++)
		read_up(&f, i);
	read_mid(&f);
	fill_attention(config);
	read_time(&f);
	read_added(&f);
	read_norms(&f);
	read_ends(&f);
	return QD_OK;
}
