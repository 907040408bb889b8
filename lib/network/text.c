/*
 * CLIPTextModel and CLIPTextModelWithProjection as a graph:
 *
 *   x      = token_embedding[input_ids] + position_embedding[0 .. L-1]
 *   layer    x += out_proj( softmax(q k^T / sqrt(d) + mask) v ), q, k, v of layer_norm1(x), with biases
 *            x += fc2(act(fc1(layer_norm2(x))))
 *   mask     0 where key j <= query i (and attention_mask[j] is 1, if there is one), else a number that no score outweighs
 *   last_hidden_state = final_layer_norm(x)
 *   pooler_output = its row at the first position of the largest id (eos 2, the legacy configuration: the real end token has the
 *            largest id), else at the first position of eos, 0 if there is none
 *   text_embeds = text_projection pooler_output
 *
 * Files of CLIPTextModel have the names with "text_model." in front or without, depending on the version that wrote them.
 */
#include "lib/network/network.h"
#include "lib/network/layers.h"

#include <float.h>
#include <stdlib.h>
#include <string.h>

static const char prefix[] = "text_model.";
enum { LEGACY_EOS = 2 };

struct text {
	struct qd_layers *l;
	struct qd_graph *g; /* that of the layers */
	const struct qd_text_config *config;
	const struct qd_component_sizes *sizes;
	qd_id ids, mask;
	qd_id norm_scale, norm_bias; /* of the final norm, which may be taken twice */
};

static const struct qd_tensor *find_weight(const struct qd_weights *weights, const char *name)
{
	const struct qd_tensor *tensor = qd_weights_find(weights, name);
	if (!tensor && qd_starts_with(name, prefix))
		tensor = qd_weights_find(weights, name + strlen(prefix));
	return tensor;
}

/* ---- what layers share ---- */

/* [N*L,D] as an output [N,L,D]. */
static void output_tokens(struct text *t, const char *name, qd_id tokens)
{
	int64_t dims[] = { t->sizes->batch, t->sizes->tokens, t->config->hidden };
	qd_graph_output(t->g, qd_build_reshape(t->g, name, tokens, 3, dims));
}

/* The first `tokens` rows of the position embedding: [L,D]. */
static qd_id positions(struct text *t)
{
	static const char path[] = "text_model.embeddings.position_embedding";
	const struct qd_text_config *c = t->config;
	qd_id w = qd_layers_weight(t->l, path, "weight", QD_SHAPE(c->positions, c->hidden));
	return t->sizes->tokens == c->positions ? w : qd_build_slice(t->g, path, w, 0, 0, t->sizes->tokens);
}

/* [N*L,D]. */
static qd_id embeddings(struct text *t)
{
	static const char path[] = "text_model.embeddings.token_embedding";
	const struct qd_text_config *c = t->config;
	qd_id table = qd_layers_weight(t->l, path, "weight", QD_SHAPE(c->vocabulary, c->hidden));
	qd_id x = qd_build_binary(t->g, QD_OP_GATHER, path, table, t->ids);
	x = qd_build_binary(t->g, QD_OP_ADD, "text_model.embeddings.sum", x, positions(t));
	int64_t rows = t->sizes->batch * t->sizes->tokens;
	return qd_build_reshape(t->g, "text_model.embeddings", x, 2, (int64_t[]){ rows, c->hidden });
}

/* [1,1,L,L]: 0 up to the diagonal, the lowest number after it. */
static qd_id causal_mask(struct text *t)
{
	size_t n = (size_t)t->sizes->tokens;
	float *mask = qd_arena_array(&t->g->arena, n * n, sizeof(*mask));
	if (!mask)
		return qd_graph_stop(t->g, QD_ENOMEM);
	for (size_t i = 0; i < n; i++)
		for (size_t j = i + 1; j < n; j++)
			mask[i * n + j] = -FLT_MAX;
	return qd_graph_const_f32(t->g, "text_model.causal_mask", QD_SHAPE(1, 1, (int64_t)n, (int64_t)n), mask);
}

/* Masked keys get the lowest number too: min(causal, (attention_mask - 1) * FLT_MAX) [N,1,L,L]. */
static qd_id padding_mask(struct text *t, qd_id causal)
{
	int64_t n = t->sizes->batch, tokens = t->sizes->tokens;
	qd_id given = qd_graph_input(t->g, "attention_mask", QD_I64, QD_SHAPE(n, tokens));
	struct qd_attr to = QD_AI("to", qd_dtype_onnx(QD_F32));
	qd_id x = qd_graph_node(t->g, QD_OP_CAST, "text_model.mask.float", 1, &given, 1, &to);
	x = qd_build_reshape(t->g, "text_model.mask.keys", x, 4, (int64_t[]){ n, 1, 1, tokens });
	x = qd_build_binary(t->g, QD_OP_SUB, "text_model.mask.off", x, qd_layers_scalar(t->l, "text_model.mask.one", 1));
	x = qd_build_binary(
		t->g, QD_OP_MUL, "text_model.mask.padding", x, qd_layers_scalar(t->l, "text_model.mask.lowest", FLT_MAX));
	return qd_build_binary(t->g, QD_OP_MIN, "text_model.mask", causal, x);
}

/* ---- layers ---- */

static qd_id activation(struct text *t, const char *path, qd_id x)
{
	if (t->config->act == QD_OP_GELU)
		return qd_build_unary(t->g, QD_OP_GELU, path, x);
	qd_id factor = qd_layers_scalar(t->l, qd_layers_path(t->l, "%s.factor", path), 1.702);
	qd_id gate = qd_build_binary(t->g, QD_OP_MUL, qd_layers_path(t->l, "%s.scaled", path), x, factor);
	gate = qd_build_unary(t->g, QD_OP_SIGMOID, qd_layers_path(t->l, "%s.sigmoid", path), gate);
	return qd_build_binary(t->g, QD_OP_MUL, path, x, gate);
}

static qd_id attention(struct text *t, const char *path, qd_id x)
{
	static const char *const names[] = { "q_proj", "k_proj", "v_proj" };
	qd_id qkv[3];
	for (int i = 0; i < 3; i++)
		qkv[i] = qd_layers_linear(t->l, qd_layers_path(t->l, "%s.%s", path, names[i]), x, t->config->hidden, true);
	x = qd_layers_attention(t->l, path, qkv[0], qkv[1], qkv[2], t->mask, t->config->heads);
	return qd_layers_linear(t->l, qd_layers_path(t->l, "%s.out_proj", path), x, t->config->hidden, true);
}

static qd_id layer(struct text *t, const char *path, qd_id x)
{
	const struct qd_text_config *c = t->config;
	qd_id h = qd_layers_layer_norm(t->l, qd_layers_path(t->l, "%s.layer_norm1", path), x, c->eps);
	h = attention(t, qd_layers_path(t->l, "%s.self_attn", path), h);
	x = qd_build_binary(t->g, QD_OP_ADD, qd_layers_path(t->l, "%s.self_attn.add", path), x, h);
	h = qd_layers_layer_norm(t->l, qd_layers_path(t->l, "%s.layer_norm2", path), x, c->eps);
	h = qd_layers_linear(t->l, qd_layers_path(t->l, "%s.mlp.fc1", path), h, c->intermediate, true);
	h = activation(t, qd_layers_path(t->l, "%s.mlp.act", path), h);
	h = qd_layers_linear(t->l, qd_layers_path(t->l, "%s.mlp.fc2", path), h, c->hidden, true);
	return qd_build_binary(t->g, QD_OP_ADD, path, x, h);
}

/* ---- outputs ---- */

static qd_id final_norm(struct text *t, const char *name, qd_id x)
{
	return qd_build_layer_norm(t->g, name, x, t->norm_scale, t->norm_bias, (float)t->config->eps);
}

/* Position of the end token in every row: i64 [N]. */
static qd_id end_positions(struct text *t)
{
	struct qd_attr to = QD_AI("to", qd_dtype_onnx(QD_I64)), attrs[] = { QD_AI("axis", 1), QD_AI("keepdims", 0) };
	qd_id x = t->ids;
	if (t->config->eos != LEGACY_EOS) {
		qd_id eos = qd_graph_const_i64(t->g, "text_model.eos", 1, &t->config->eos);
		x = qd_build_binary(t->g, QD_OP_EQUAL, "text_model.is_end", x, eos);
		x = qd_graph_node(t->g, QD_OP_CAST, "text_model.is_end.number", 1, &x, 1, &to);
	}
	return qd_graph_node(t->g, QD_OP_ARG_MAX, "text_model.end", 1, &x, QD_COUNT(attrs), attrs);
}

/* The end token's row of `last` [N*L,D]: [N,D]. */
static qd_id pooled(struct text *t, qd_id last)
{
	int64_t n = t->sizes->batch;
	int64_t *first = qd_arena_array(&t->g->arena, (size_t)n, sizeof(*first));
	if (!first)
		return qd_graph_stop(t->g, QD_ENOMEM);
	for (int64_t i = 0; i < n; i++)
		first[i] = i * t->sizes->tokens;
	qd_id rows = qd_graph_const_i64(t->g, "text_model.first_rows", (size_t)n, first);
	rows = qd_build_binary(t->g, QD_OP_ADD, "text_model.end_rows", end_positions(t), rows);
	return qd_build_binary(t->g, QD_OP_GATHER, "pooler_output", last, rows);
}

/* `states` are the hidden states, embeddings first: layers + 1 of them. */
static void outputs(struct text *t, const qd_id *states)
{
	static const char path[] = "text_model.final_layer_norm";
	const struct qd_text_config *c = t->config;
	int64_t last = c->layers, skip = t->sizes->clip_skip;
	t->norm_scale = qd_layers_weight(t->l, path, "weight", QD_SHAPE(c->hidden));
	t->norm_bias = qd_layers_weight(t->l, path, "bias", QD_SHAPE(c->hidden));
	qd_id normed = final_norm(t, path, states[last]);
	output_tokens(t, "last_hidden_state", normed);
	qd_id pool = pooled(t, normed);
	qd_graph_output(t->g, pool);
	output_tokens(t, "hidden_states_m1", states[last]);
	output_tokens(t, "hidden_states_m2", states[last - 1]);
	if (c->projection) {
		qd_id embeds = qd_layers_linear(t->l, "text_projection", pool, c->projection, false);
		qd_graph_output(t->g, qd_build_unary(t->g, QD_OP_IDENTITY, "text_embeds", embeds));
	}
	if (skip < 1)
		return;
	qd_id skipped = final_norm(t, "text_model.final_layer_norm.skipping", states[last - skip]);
	output_tokens(t, qd_layers_path(t->l, "clip_skip_%d", (int)skip), skipped);
	if (skip < last)
		output_tokens(t, qd_layers_path(t->l, "hidden_states_m%d", (int)skip + 2), states[last - skip - 1]);
}

/* ---- all of it ---- */

static enum qd_status check_sizes(const struct qd_text_config *c, const struct qd_component_sizes *s)
{
	if (s->batch < 1 || s->tokens < 1)
		return qd_fail(QD_EINPUT, "batch and tokens are %lld and %lld, need at least 1", (long long)s->batch,
			(long long)s->tokens);
	if (s->tokens > c->positions)
		return qd_fail(QD_EINPUT, "a prompt has %lld tokens, needs at most the %lld positions of the text encoder",
			(long long)s->tokens, (long long)c->positions);
	if (s->clip_skip < 0 || s->clip_skip > c->layers)
		return qd_fail(QD_EINPUT, "clip skip is %lld, needs 0 to the %lld layers of the text encoder",
			(long long)s->clip_skip, (long long)c->layers);
	return QD_OK;
}

enum qd_status qd_text_graph(struct qd_graph *g, const struct qd_text_config *config, const struct qd_weights *weights,
	const struct qd_component_sizes *sizes)
{
	struct qd_layers l = { .g = g, .weights = weights, .find = find_weight, .batch = sizes->batch };
	struct text t = { .l = &l, .g = g, .config = config, .sizes = sizes };
	enum qd_status st = check_sizes(config, sizes);
	if (st != QD_OK)
		return st;
	qd_graph_init(g, "text_encoder");
	qd_id *states = qd_arena_array(&g->arena, (size_t)config->layers + 1, sizeof(*states));
	if (!states)
		return QD_ENOMEM;
	t.ids = qd_graph_input(g, "input_ids", QD_I64, QD_SHAPE(sizes->batch, sizes->tokens));
	t.mask = causal_mask(&t);
	if (config->uses_attention_mask)
		t.mask = padding_mask(&t, t.mask);
	states[0] = embeddings(&t);
	for (int64_t i = 0; i < config->layers; i++)
		states[i + 1] = layer(&t, qd_layers_path(&l, "text_model.encoder.layers.%d", (int)i), states[i]);
	outputs(&t, states);
	return qd_graph_status(g);
}

/* Element i of an integer tensor, which may be unaligned. */
static int64_t integer_at(const struct qd_tensor *tensor, int64_t i)
{
	int32_t narrow;
	int64_t wide;
	if (tensor->dtype == QD_I64) {
		memcpy(&wide, (const char *)tensor->data + 8 * i, sizeof(wide));
		return wide;
	}
	memcpy(&narrow, (const char *)tensor->data + 4 * i, sizeof(narrow));
	return narrow;
}

enum qd_status qd_text_check_ids(const struct qd_text_config *config, const struct qd_tensor *ids, const char *where)
{
	enum qd_status st = QD_OK;
	if (ids->dtype != QD_I64 && ids->dtype != QD_I32)
		st = qd_fail(QD_EINPUT, "tensor '%s' is %s, needs I64 or I32", ids->name, qd_dtype_name(ids->dtype));
	for (int64_t i = 0, n = qd_shape_elements(&ids->shape); st == QD_OK && i < n; i++) {
		int64_t id = integer_at(ids, i);
		if (id < 0 || id >= config->vocabulary)
			st = qd_fail(QD_EINPUT, "tensor '%s' has id %lld at element %lld, needs 0 to %lld", ids->name,
				(long long)id, (long long)i, (long long)config->vocabulary - 1);
	}
	return where ? qd_prefix(st, "'%s'", where) : st;
}
