/*
 * Pass merge: nodes that compute the same from the same.
 *
 *   before  %a = Sigmoid(%x)   %b = Sigmoid(%x)   %y = Mul(%x, %b)
 *   after   %a = Sigmoid(%x)   %y = Mul(%x, %a)
 *
 * Small constants of equal type, shape and bytes count as one. Not merged: nodes of several outputs, nodes that make a graph
 * output, nodes with an annotated output.
 */
#include "lib/ir/rewrite.h"

#include <stdio.h>
#include <stdlib.h>

enum { SMALL_BYTES = 64 };

struct merging {
	struct qd_strmap nodes, constants;
};

/* A text that is the same for what is the same: "w<id>" of the first equal small constant, "<id>" of anything else. */
static enum qd_status print_input(FILE *f, const struct qd_graph *g, struct merging *m, qd_id id)
{
	struct qd_text key;
	enum qd_status st = QD_OK;
	const struct qd_value *v = id != QD_NONE ? &g->values[id] : NULL;
	if (v == NULL || v->kind != QD_WEIGHT || v->data.bytes > SMALL_BYTES || v->data.data == NULL) {
		fprintf(f, " %u", id);
		return QD_OK;
	}
	char shape[QD_SHAPE_TEXT];
	QD_TRY(st, qd_text_open(&key));
	fprintf(key.stream, "%d %s ", (int)v->data.dtype, qd_shape_text(&v->shape, shape));
	for (size_t i = 0; i < v->data.bytes; i++)
		fprintf(key.stream, "%02x", ((const unsigned char *)v->data.data)[i]);
	QD_TRY(st, qd_text_end(&key));
	if (qd_strmap_get(&m->constants, key.bytes) == QD_NONE)
		QD_TRY(st, qd_strmap_put(&m->constants, key.bytes, id));
	fprintf(f, " w%u", qd_strmap_get(&m->constants, key.bytes));
out:
	qd_text_release(&key);
	return st;
}

static void print_attr(FILE *f, const struct qd_attr *a)
{
	fprintf(f, " %s=%lld/%a/%s", a->name, (long long)a->i, (double)a->f, a->s != NULL ? a->s : "");
	for (size_t i = 0; i < a->n_ints; i++)
		fprintf(f, ",%lld", (long long)a->ints[i]);
}

/* The text of what a node computes; the caller releases it. */
static enum qd_status node_key(const struct qd_graph *g, struct merging *m, const struct qd_node *node, struct qd_text *key)
{
	enum qd_status st;
	QD_TRY(st, qd_text_open(key));
	fprintf(key->stream, "%d", (int)node->op);
	for (size_t i = 0; i < node->n_in; i++)
		QD_TRY(st, print_input(key->stream, g, m, node->in[i]));
	for (size_t i = 0; i < node->n_attrs; i++)
		print_attr(key->stream, &node->attrs[i]);
	st = qd_text_end(key);
out:
	return st;
}

static enum qd_status merge_visit(struct qd_graph *g, qd_id id, void *context, size_t *changes)
{
	struct merging *m = context;
	const struct qd_node *node = &g->nodes[id];
	enum qd_status st;
	struct qd_text key = { 0 };
	if (node->n_out != 1 || qd_graph_is_output(g, node->out[0]) || g->values[node->out[0]].encoding != NULL)
		return QD_OK;
	QD_TRY(st, node_key(g, m, node, &key));
	uint32_t first = qd_strmap_get(&m->nodes, key.bytes);
	if (first == QD_NONE)
		QD_TRY(st, qd_strmap_put(&m->nodes, key.bytes, node->out[0]));
	else
		*changes += qd_graph_replace(g, node->out[0], first, QD_NONE) > 0;
out:
	qd_text_release(&key);
	return st;
}

static enum qd_status merge_run(struct qd_graph *g, void *context, size_t *changes)
{
	struct merging m = { 0 };
	(void)context;
	enum qd_status st = qd_graph_visit(g, merge_visit, &m, changes);
	qd_strmap_release(&m.nodes);
	qd_strmap_release(&m.constants);
	return st;
}

const struct qd_pass qd_pass_merge = { "merge", "compute once what is computed several times", merge_run };
