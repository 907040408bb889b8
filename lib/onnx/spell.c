/*
 * Operators that have no row because others say the same, for every number:
 *
 *   y = IsNaN(x)               y = Not(Equal(x, x))
 *   y = GreaterOrEqual(a, b)   y = Or(Greater(a, b), Equal(a, b))
 *   y = LessOrEqual(a, b)      y = Or(Less(a, b), Equal(a, b))
 *   y = Attention(q, k, v, m)  y = Softmax(scale q k^T + m) v, scale 1/sqrt(features of a head) where it is not given. q, k, v are
 *                              [N,heads,L,D], or [N,L,heads*D] with q_num_heads and kv_num_heads, y as q. Not read: fewer heads of
 *                              keys than of queries, causal masks, masks of booleans, caches, softcap, further outputs.
 *
 * An operator more of this kind: its row below and its function.
 */
#include "lib/onnx/internal.h"

#include <math.h>
#include <string.h>

struct spelling {
	const char *name;
	size_t least, most; /* inputs */
	enum qd_op other;   /* of a comparison, beside Equal; QD_OP_COUNT: none, and the result is negated */
	qd_id (*spell)(struct qd_graph *g, const struct spelling *s, const Onnx__NodeProto *node, const qd_id *in);
};

/* A node's name in the graph behind `suffix`; "" after a failure, which the graph remembers. */
static const char *unique_name(struct qd_graph *g, const char *stem, const char *suffix)
{
	const char *joined = qd_arena_strf(&g->arena, "%s%s", stem, suffix);
	const char *unique = joined != NULL ? qd_graph_unique(g, joined) : NULL;

	if (unique == NULL)
		qd_graph_stop(g, QD_ENOMEM);
	return unique != NULL ? unique : "";
}

/* ---- comparisons ---- */

/* A node of two operands called after `name`. */
static qd_id compare(struct qd_graph *g, enum qd_op op, const char *name, qd_id a, qd_id b)
{
	return qd_build_binary(g, op, unique_name(g, unique_name(g, name, "."), qd_op(op)->name), a, b);
}

static qd_id spell_comparison(struct qd_graph *g, const struct spelling *s, const Onnx__NodeProto *node, const qd_id *in)
{
	qd_id equal = compare(g, QD_OP_EQUAL, node->output[0], in[0], in[s->least - 1]);

	if (s->other == QD_OP_COUNT)
		return qd_build_unary(g, QD_OP_NOT, unique_name(g, node->output[0], ".not"), equal);
	return qd_build_binary(
		g, QD_OP_OR, unique_name(g, node->output[0], ".or"), compare(g, s->other, node->output[0], in[0], in[1]), equal);
}

/* ---- attention ---- */

struct attention {
	int64_t heads, key_heads; /* 0 where they are not said */
	float scale;              /* 0 where it is not said */
};

static enum qd_status attention_attributes(struct attention *a, const Onnx__NodeProto *node)
{
	/* Those whose 0 changes nothing, or that concern outputs and precisions that are not asked for. */
	static const char *const zero[] = { "is_causal", "softcap", "qk_matmul_output_mode" };

	for (size_t i = 0; i < node->n_attribute; i++) {
		const Onnx__AttributeProto *attribute = node->attribute[i];
		if (!strcmp(attribute->name, "q_num_heads"))
			a->heads = attribute->i;
		else if (!strcmp(attribute->name, "kv_num_heads"))
			a->key_heads = attribute->i;
		else if (!strcmp(attribute->name, "scale"))
			a->scale = attribute->f;
		else if (strcmp(attribute->name, "softmax_precision") != 0) {
			bool known = false;
			for (size_t k = 0; k < QD_COUNT(zero); k++)
				known = known || !strcmp(attribute->name, zero[k]);
			if (!known || attribute->i != 0 || attribute->f != 0)
				return qd_fail(QD_EUNSUPPORTED, "Attention with '%s' is not read", attribute->name);
		}
	}
	return QD_OK;
}

/* [N,L,heads*D] -> [N,heads,L,D]. */
static qd_id split_heads(struct qd_graph *g, const char *name, qd_id x, int64_t heads)
{
	const int64_t *dim = g->values[x].shape.dim;
	int64_t split[] = { dim[0], dim[1], heads, dim[2] / heads };

	x = qd_build_reshape(g, unique_name(g, name, ".split"), x, 4, split);
	return qd_build_transpose(g, unique_name(g, name, ".heads"), x, 4, (int64_t[]){ 0, 2, 1, 3 });
}

static enum qd_status check_attention(const struct qd_graph *g, const struct attention *a, const qd_id *in)
{
	const struct qd_shape *q = &g->values[in[0]].shape;
	char found[QD_SHAPE_TEXT];

	if ((q->rank != 4 && q->rank != 3) || g->values[in[1]].shape.rank != q->rank || g->values[in[2]].shape.rank != q->rank)
		return qd_fail(QD_EINPUT, "Attention over queries of shape %s, needs [N,heads,L,D] or [N,L,heads*D]",
			qd_shape_text(q, found));
	if (q->rank == 3 && (a->heads < 1 || a->heads != a->key_heads || q->dim[2] % a->heads != 0 ||
				    g->values[in[1]].shape.dim[2] != q->dim[2] || g->values[in[2]].shape.dim[2] % a->heads != 0))
		return qd_fail(QD_EUNSUPPORTED,
			"Attention of %lld heads of queries and %lld of keys over %lld features is not read", (long long)a->heads,
			(long long)a->key_heads, (long long)q->dim[2]);
	if (q->rank == 4 && (g->values[in[1]].shape.dim[1] != q->dim[1] || g->values[in[2]].shape.dim[1] != q->dim[1]))
		return qd_fail(QD_EUNSUPPORTED, "Attention of %lld heads of queries and %lld of keys is not read",
			(long long)q->dim[1], (long long)g->values[in[1]].shape.dim[1]);
	if (in[3] != QD_NONE && g->values[in[3]].dtype != QD_F32)
		return qd_fail(QD_EUNSUPPORTED, "Attention with a mask of %s is not read, needs numbers",
			qd_dtype_name(g->values[in[3]].dtype));
	if (in[4] != QD_NONE || in[5] != QD_NONE || in[6] != QD_NONE)
		return qd_fail(QD_EUNSUPPORTED, "Attention with past keys and values is not read");
	return QD_OK;
}

static qd_id spell_attention(struct qd_graph *g, const struct spelling *s, const Onnx__NodeProto *node, const qd_id *in)
{
	struct attention a = { 0 };
	const char *name = node->output[0];
	qd_id heads[3] = { in[0], in[1], in[2] }, y;
	enum qd_status st = attention_attributes(&a, node);
	struct qd_shape q;

	(void)s;
	if (st == QD_OK)
		st = check_attention(g, &a, in);
	if (st != QD_OK)
		return qd_graph_stop(g, st);
	q = g->values[in[0]].shape;
	for (int i = 0; q.rank == 3 && i < 3; i++)
		heads[i] = split_heads(g, unique_name(g, name, (const char *const[]){ ".q", ".k", ".v" }[i]), in[i], a.heads);
	if (qd_graph_status(g) != QD_OK)
		return QD_NONE;
	if (a.scale == 0)
		a.scale = (float)(1 / sqrt((double)g->values[heads[0]].shape.dim[3]));
	y = qd_build_attention(g, unique_name(g, name, ".attention"), heads[0], heads[1], heads[2], in[3], a.scale);
	if (q.rank == 4 || y == QD_NONE)
		return y;
	q.dim[2] = a.heads * g->values[y].shape.dim[3];
	y = qd_build_transpose(g, unique_name(g, name, ".joined"), y, 4, (int64_t[]){ 0, 2, 1, 3 });
	return qd_build_reshape(g, unique_name(g, name, ".tokens"), y, 3, q.dim);
}

/* ---- the table ---- */

static const struct spelling spellings[] = {
	{ "IsNaN", 1, 1, QD_OP_COUNT, spell_comparison },
	{ "GreaterOrEqual", 2, 2, QD_OP_GREATER, spell_comparison },
	{ "LessOrEqual", 2, 2, QD_OP_LESS, spell_comparison },
	{ "Attention", 3, QD_ONNX_SPELLED_INPUTS, QD_OP_COUNT, spell_attention },
};

static const struct spelling *find(const char *name)
{
	for (size_t i = 0; i < QD_COUNT(spellings); i++)
		if (!strcmp(spellings[i].name, name))
			return &spellings[i];
	return NULL;
}

bool qd_onnx_is_spelled(const char *op_type)
{
	return find(op_type) != NULL;
}

enum qd_status qd_onnx_spell(struct qd_graph *g, const Onnx__NodeProto *node, const qd_id *in)
{
	const struct spelling *s = find(node->op_type);
	enum qd_status st;
	qd_id result;

	for (size_t i = 0; i < s->least; i++)
		if (in[i] == QD_NONE)
			return qd_fail(QD_EINPUT, "%s has %zu inputs, needs %zu", s->name, node->n_input, s->least);
	if (node->n_input > s->most)
		return qd_fail(QD_EINPUT, "%s has %zu inputs, needs at most %zu", s->name, node->n_input, s->most);
	result = s->spell(g, s, node, in);
	QD_TRY(st, qd_graph_status(g));
	st = qd_graph_rename(g, result, node->output[0]);
out:
	return st;
}
