/*
 * Whether two graphs compute the same, node by node from the outputs back:
 *
 *   inputs      have one name, type and shape
 *   nodes       have one operator, equal attributes and output shapes, and inputs that match in order; of Add and Mul in any order
 *   constants   have one type and shape; small floats are equal within 2e-6 of the larger (or of 1), small integers exactly; large
 *               ones lie in the same place or have one name
 *
 * Which operands of Add and Mul belong together is told by hashes that leave the small constants' values out.
 */
#include "lib/ir/rewrite.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct pair {
	qd_id a, b;
};

struct matcher {
	const struct qd_graph *a, *b;
	uint64_t *hash_a, *hash_b;
	qd_id *seen; /* by value of a: the value of b it was paired with */
	struct pair *work;
	size_t n, cap;
};

static const double tolerance = 2e-6;

static bool is_small(const struct qd_value *v)
{
	return qd_shape_elements(&v->shape) <= QD_CONSTANT_ELEMENTS && v->data.data != NULL;
}

/* ---- hashes ---- */

/* FNV-1a over words. */
static uint64_t mix(uint64_t hash, uint64_t word)
{
	for (int i = 0; i < 8; i++)
		hash = (hash ^ (word >> 8 * i & 0xff)) * 0x100000001b3ULL;
	return hash;
}

static uint64_t mix_text(uint64_t hash, const char *text)
{
	for (; *text != '\0'; text++)
		hash = mix(hash, (unsigned char)*text);
	return hash;
}

static uint64_t hash_shape(const struct qd_value *v)
{
	uint64_t hash = mix(0xcbf29ce484222325ULL, (uint64_t)v->dtype);
	for (int i = 0; i < v->shape.rank; i++)
		hash = mix(hash, (uint64_t)v->shape.dim[i]);
	return hash;
}

static bool commutes(enum qd_op op)
{
	return op == QD_OP_ADD || op == QD_OP_MUL;
}

static void hash_node(const struct qd_graph *g, const struct qd_node *node, uint64_t *hashes)
{
	uint64_t hash = mix(0, (uint64_t)node->op), first = 0, second = 0;
	for (size_t i = 0; i < node->n_in; i++) {
		uint64_t in = node->in[i] != QD_NONE ? hashes[node->in[i]] : 1;
		if (commutes(node->op)) {
			first = i == 0 || in < first ? in : first;
			second += in;
		} else {
			hash = mix(hash, in);
		}
	}
	hash = mix(mix(hash, first), second);
	for (size_t i = 0; i < node->n_out; i++)
		hashes[node->out[i]] = mix(mix(hash, i), hash_shape(&g->values[node->out[i]]));
}

static uint64_t *hash_graph(const struct qd_graph *g)
{
	uint64_t *hashes = calloc(g->n_values + 1, sizeof(*hashes));
	for (size_t i = 0; hashes != NULL && i < g->n_values; i++) {
		const struct qd_value *v = &g->values[i];
		bool named = v->kind == QD_INPUT || (v->kind == QD_WEIGHT && !is_small(v));
		hashes[i] = named ? mix_text(hash_shape(v), v->name) : hash_shape(v);
	}
	for (size_t i = 0; hashes != NULL && i < g->n_order; i++)
		hash_node(g, &g->nodes[g->order[i]], hashes);
	return hashes;
}

/* ---- pairs ---- */

static enum qd_status differ(const struct qd_value *a, const struct qd_value *b, const char *what)
{
	return qd_fail(QD_EINPUT, "'%s' and '%s' differ in %s", a->name, b->name, what);
}

static bool near(const float *x, const float *y, int64_t n)
{
	for (int64_t i = 0; i < n; i++) {
		double larger = fmax(1, fmax(fabs((double)x[i]), fabs((double)y[i])));
		if (!(fabs((double)x[i] - (double)y[i]) <= tolerance * larger))
			return false;
	}
	return true;
}

static enum qd_status match_constants(const struct qd_value *a, const struct qd_value *b)
{
	float x[QD_CONSTANT_ELEMENTS], y[QD_CONSTANT_ELEMENTS];
	enum qd_status st;
	if (!is_small(a) || !is_small(b)) {
		bool same = a->data.data == b->data.data || strcmp(a->name, b->name) == 0;
		return same ? QD_OK : differ(a, b, "name");
	}
	if (a->dtype != QD_F32)
		return a->data.bytes == b->data.bytes && memcmp(a->data.data, b->data.data, a->data.bytes) == 0
			       ? QD_OK
			       : differ(a, b, "value");
	QD_TRY(st, qd_tensor_to_f32(&a->data, x));
	QD_TRY(st, qd_tensor_to_f32(&b->data, y));
	if (!near(x, y, qd_shape_elements(&a->shape)))
		st = differ(a, b, "value");
out:
	return st;
}

static bool equal_attrs(const struct qd_node *a, const struct qd_node *b)
{
	if (a->n_attrs != b->n_attrs)
		return false;
	for (size_t i = 0; i < a->n_attrs; i++) {
		const struct qd_attr *x = &a->attrs[i], *y = qd_node_attr(b, x->name);
		if (y == NULL || x->i != y->i || !(fabsf(x->f - y->f) <= 1e-6F * fabsf(x->f)) || x->n_ints != y->n_ints)
			return false;
		if (x->n_ints > 0 && memcmp(x->ints, y->ints, x->n_ints * sizeof(*x->ints)) != 0)
			return false;
		if (x->s != NULL && (y->s == NULL || strcmp(x->s, y->s) != 0))
			return false;
	}
	return true;
}

static enum qd_status push(struct matcher *m, qd_id a, qd_id b)
{
	enum qd_status st;
	struct pair pair = { a, b };
	QD_PUSH(st, m->work, m->n, m->cap, pair);
out:
	return st;
}

static enum qd_status match_nodes(struct matcher *m, const struct qd_value *va, const struct qd_value *vb)
{
	const struct qd_node *a = &m->a->nodes[va->producer], *b = &m->b->nodes[vb->producer];
	enum qd_status st = QD_OK;
	if (a->op != b->op || a->n_in != b->n_in || va->output_index != vb->output_index)
		return differ(va, vb, "operator");
	if (!equal_attrs(a, b))
		return differ(va, vb, "attributes");
	bool crossed = commutes(a->op) && a->in[0] != QD_NONE && b->in[0] != QD_NONE && m->hash_a[a->in[0]] != m->hash_b[b->in[0]];
	for (size_t i = 0; i < a->n_in; i++)
		QD_TRY(st, push(m, a->in[i], b->in[crossed ? 1 - i : i]));
out:
	return st;
}

static enum qd_status match_values(struct matcher *m, struct pair pair)
{
	if (pair.a == QD_NONE || pair.b == QD_NONE)
		return pair.a == pair.b ? QD_OK : qd_fail(QD_EINPUT, "an input is absent in one graph alone");
	const struct qd_value *a = &m->a->values[pair.a], *b = &m->b->values[pair.b];
	if (m->seen[pair.a] == pair.b)
		return QD_OK;
	/* one constant may stand for several equal ones */
	if (m->seen[pair.a] != QD_NONE && a->kind != QD_WEIGHT)
		return differ(a, b, "use");
	m->seen[pair.a] = pair.b;
	if (a->kind != b->kind || a->dtype != b->dtype || !qd_shape_equal(&a->shape, &b->shape))
		return differ(a, b, "kind, type or shape");
	if (a->kind == QD_WEIGHT)
		return match_constants(a, b);
	if (a->kind == QD_INPUT)
		return strcmp(a->name, b->name) == 0 ? QD_OK : differ(a, b, "name");
	return match_nodes(m, a, b);
}

enum qd_status qd_graph_match(const struct qd_graph *a, const struct qd_graph *b)
{
	struct matcher m = { .a = a, .b = b, .hash_a = hash_graph(a), .hash_b = hash_graph(b) };
	enum qd_status st = QD_OK;
	m.seen = malloc((a->n_values + 1) * sizeof(*m.seen));
	if (m.hash_a == NULL || m.hash_b == NULL || m.seen == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	memset(m.seen, 0xff, (a->n_values + 1) * sizeof(*m.seen));
	if (a->n_outputs != b->n_outputs)
		QD_TRY(st, qd_fail(QD_EINPUT, "%zu and %zu outputs", a->n_outputs, b->n_outputs));
	for (size_t i = 0; i < a->n_outputs; i++)
		QD_TRY(st, push(&m, a->outputs[i], b->outputs[i]));
	while (m.n > 0)
		QD_TRY(st, match_values(&m, m.work[--m.n]));
out:
	free(m.hash_a);
	free(m.hash_b);
	free(m.seen);
	free(m.work);
	return st;
}
