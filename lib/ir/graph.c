/*
 * The graph's storage and editing: values, nodes, their names, the order. Names, edges and attributes lie in the arena; the arrays
 * of values and nodes grow on the heap, so pointers into them do not outlive the next addition (ids do).
 */
#include "lib/ir/internal.h"
#include "lib/ir/rewrite.h"

#include <stdlib.h>
#include <string.h>

/* ---- life and failure ---- */

void qd_graph_init(struct qd_graph *g, const char *name)
{
	*g = (struct qd_graph){ 0 };
	g->name = qd_arena_strdup(&g->arena, name);
	if (g->name == NULL)
		qd_graph_stop(g, QD_ENOMEM);
}

void qd_graph_release(struct qd_graph *g)
{
	free(g->values);
	free(g->nodes);
	free(g->order);
	free(g->inputs);
	free(g->outputs);
	qd_strmap_release(&g->value_names);
	qd_strmap_release(&g->node_names);
	qd_strmap_release(&g->suffixes);
	qd_arena_release(&g->arena);
	*g = (struct qd_graph){ 0 };
}

qd_id qd_graph_stop(struct qd_graph *g, enum qd_status status)
{
	if (g->status == QD_OK && status != QD_OK) {
		const char *message = qd_arena_strdup(&g->arena, qd_message());
		g->status = status;
		g->failure = message != NULL ? message : "out of memory";
	}
	return QD_NONE;
}

enum qd_status qd_graph_status(const struct qd_graph *g)
{
	if (g->status == QD_OK)
		return QD_OK;
	return qd_fail(g->status, "%s", g->failure);
}

/* ---- adding ---- */

/* Claims a name in `map` for `id`; the arena's copy of the name goes to `kept`. */
static enum qd_status claim_name(
	struct qd_graph *g, struct qd_strmap *map, const char *what, const char *name, qd_id id, const char **kept)
{
	if (name == NULL || name[0] == '\0')
		return qd_fail(QD_EINPUT, "a %s has no name", what);
	if (qd_strmap_get(map, name) != QD_NONE)
		return qd_fail(QD_EINPUT, "%s name '%s' is taken", what, name);
	*kept = qd_arena_strdup(&g->arena, name);
	if (*kept == NULL)
		return QD_ENOMEM;
	return qd_strmap_put(map, name, id);
}

static enum qd_status push_id(qd_id **ids, size_t *n, size_t *cap, qd_id id)
{
	enum qd_status st;
	QD_PUSH(st, *ids, *n, *cap, id);
out:
	return st;
}

/* Adds a value; its name, kind, dtype and shape are in `value`. */
static enum qd_status add_value(struct qd_graph *g, struct qd_value value, qd_id *id)
{
	char text[QD_SHAPE_TEXT];
	enum qd_status st = QD_OK;

	if (g->n_values >= QD_NONE - 1)
		return qd_fail(QD_EUNSUPPORTED, "the graph has more than %u values", QD_NONE - 1);
	st = qd_shape_check(&value.shape);
	if (st != QD_OK) {
		st = qd_prefix(st, "value '%s' %s", value.name, qd_shape_text(&value.shape, text));
		goto out;
	}
	*id = (qd_id)g->n_values;
	QD_TRY(st, claim_name(g, &g->value_names, "value", value.name, *id, &value.name));
	QD_PUSH(st, g->values, g->n_values, g->cap_values, value);
out:
	return st;
}

qd_id qd_graph_input(struct qd_graph *g, const char *name, enum qd_dtype dtype, struct qd_shape shape)
{
	struct qd_value value = { .name = name, .kind = QD_INPUT, .dtype = dtype, .shape = shape, .producer = QD_NONE };
	enum qd_status st;
	qd_id id = QD_NONE;

	if (g->status != QD_OK)
		return QD_NONE;
	QD_TRY(st, add_value(g, value, &id));
	QD_TRY(st, push_id(&g->inputs, &g->n_inputs, &g->cap_inputs, id));
out:
	return st == QD_OK ? id : qd_graph_stop(g, st);
}

qd_id qd_graph_add_constant(struct qd_graph *g, const char *name, const struct qd_tensor *data)
{
	enum qd_dtype dtype = qd_dtype_is_float(data->dtype) ? QD_F32 : data->dtype;
	struct qd_value value = { .kind = QD_WEIGHT, .dtype = dtype, .shape = data->shape, .producer = QD_NONE, .data = *data };
	enum qd_status st;
	qd_id id = QD_NONE;

	if (g->status != QD_OK)
		return QD_NONE;
	value.name = name != NULL ? name : qd_graph_unique(g, "constant");
	if (value.name == NULL)
		return QD_NONE;
	QD_TRY(st, add_value(g, value, &id));
	g->values[id].data.name = g->values[id].name;
	g->values[id].data.owned = false;
out:
	return st == QD_OK ? id : qd_graph_stop(g, st);
}

qd_id qd_graph_weight(struct qd_graph *g, const char *name, const struct qd_tensor *data)
{
	return qd_graph_add_constant(g, name, data);
}

/* A constant whose `bytes` bytes are copied into the arena. */
static qd_id add_copy(
	struct qd_graph *g, const char *name, enum qd_dtype dtype, struct qd_shape shape, const void *values, size_t bytes)
{
	struct qd_tensor tensor = { .dtype = dtype, .shape = shape, .bytes = bytes };

	if (g->status != QD_OK)
		return QD_NONE;
	tensor.data = qd_arena_alloc(&g->arena, bytes);
	if (tensor.data == NULL)
		return qd_graph_stop(g, QD_ENOMEM);
	if (bytes > 0)
		memcpy(tensor.data, values, bytes);
	return qd_graph_add_constant(g, name, &tensor);
}

qd_id qd_graph_const_i64(struct qd_graph *g, const char *name, size_t n, const int64_t *values)
{
	return add_copy(g, name, QD_I64, QD_SHAPE((int64_t)n), values, n * sizeof(*values));
}

qd_id qd_graph_const_f32(struct qd_graph *g, const char *name, struct qd_shape shape, const float *values)
{
	if (g->status == QD_OK && qd_shape_check(&shape) != QD_OK)
		return qd_graph_stop(g, qd_prefix(QD_EINPUT, "constant '%s'", name != NULL ? name : ""));
	return add_copy(g, name, QD_F32, shape, values, (size_t)qd_shape_elements(&shape) * sizeof(*values));
}

static enum qd_status copy_attr(struct qd_graph *g, struct qd_attr *attr)
{
	attr->name = qd_arena_strdup(&g->arena, attr->name);
	if (attr->name == NULL)
		return QD_ENOMEM;
	if (attr->type == QD_ATTR_STRING) {
		attr->s = qd_arena_strdup(&g->arena, attr->s != NULL ? attr->s : "");
		return attr->s != NULL ? QD_OK : QD_ENOMEM;
	}
	if (attr->type == QD_ATTR_INTS) {
		int64_t *ints = qd_arena_array(&g->arena, attr->n_ints, sizeof(*ints));
		if (ints == NULL)
			return QD_ENOMEM;
		if (attr->n_ints > 0)
			memcpy(ints, attr->ints, attr->n_ints * sizeof(*ints));
		attr->ints = ints;
	}
	return QD_OK;
}

/* Gives `node` its own edges and attributes in the arena. */
static enum qd_status copy_node(struct qd_graph *g, struct qd_node *node)
{
	const qd_id *in = node->in;
	const struct qd_attr *attrs = node->attrs;
	enum qd_status st = QD_OK;

	node->in = qd_arena_array(&g->arena, node->n_in, sizeof(*node->in));
	node->out = qd_arena_array(&g->arena, node->n_out, sizeof(*node->out));
	node->attrs = qd_arena_array(&g->arena, node->n_attrs, sizeof(*node->attrs));
	if (node->in == NULL || node->out == NULL || node->attrs == NULL)
		return QD_ENOMEM;
	if (node->n_in > 0)
		memcpy(node->in, in, node->n_in * sizeof(*in));
	if (node->n_attrs > 0)
		memcpy(node->attrs, attrs, node->n_attrs * sizeof(*attrs));
	for (size_t i = 0; i < node->n_attrs; i++)
		QD_TRY(st, copy_attr(g, &node->attrs[i]));
out:
	return st;
}

/* Adds the values that `node` (already with its id) computes. */
static enum qd_status add_results(struct qd_graph *g, struct qd_node *node, qd_id id, const char *const *names,
	const struct qd_shape *shapes, const enum qd_dtype *dtypes)
{
	enum qd_status st = QD_OK;
	for (size_t i = 0; i < node->n_out; i++) {
		struct qd_value value = { .name = names[i],
			.kind = QD_RESULT,
			.dtype = dtypes[i],
			.shape = shapes[i],
			.producer = id,
			.output_index = (uint32_t)i };
		QD_TRY(st, add_value(g, value, &node->out[i]));
	}
out:
	return qd_prefix(st, "node '%s'", node->name);
}

static enum qd_status add_node(struct qd_graph *g, struct qd_node node, const char *const *names, qd_id *out)
{
	struct qd_shape *shapes = NULL;
	enum qd_dtype *dtypes = NULL;
	enum qd_status st;
	qd_id id = (qd_id)g->n_nodes;

	if (g->n_nodes >= QD_NONE - 1)
		return qd_fail(QD_EUNSUPPORTED, "the graph has more than %u nodes", QD_NONE - 1);
	QD_TRY(st, claim_name(g, &g->node_names, "node", node.name, id, &node.name));
	QD_TRY(st, copy_node(g, &node));
	shapes = calloc(node.n_out + 1, sizeof(*shapes));
	dtypes = calloc(node.n_out + 1, sizeof(*dtypes));
	if (shapes == NULL || dtypes == NULL) {
		st = qd_fail(QD_ENOMEM, "out of memory");
		goto out;
	}
	QD_TRY(st, qd_node_infer(g, &node, shapes, dtypes));
	QD_TRY(st, add_results(g, &node, id, names, shapes, dtypes));
	QD_PUSH(st, g->nodes, g->n_nodes, g->cap_nodes, node);
	QD_TRY(st, push_id(&g->order, &g->n_order, &g->cap_order, id));
	memcpy(out, node.out, node.n_out * sizeof(*out));
out:
	free(shapes);
	free(dtypes);
	return st;
}

void qd_graph_add_node(struct qd_graph *g, const struct qd_node *node, const char *const *out_names, qd_id *out)
{
	enum qd_status st;

	for (size_t i = 0; i < node->n_out; i++)
		out[i] = QD_NONE;
	if (g->status != QD_OK)
		return;
	st = add_node(g, *node, out_names, out);
	if (st != QD_OK)
		qd_graph_stop(g, st);
}

qd_id qd_graph_node(struct qd_graph *g, enum qd_op op, const char *name, size_t n_in, const qd_id *in, size_t n_attrs,
	const struct qd_attr *attrs)
{
	struct qd_node node = { .op = op,
		.name = name,
		.in = (qd_id *)in,
		.n_in = n_in,
		.n_out = 1,
		.attrs = (struct qd_attr *)attrs,
		.n_attrs = n_attrs };
	qd_id out = QD_NONE;
	qd_graph_add_node(g, &node, &name, &out);
	return out;
}

void qd_graph_output(struct qd_graph *g, qd_id value)
{
	enum qd_status st;

	if (g->status != QD_OK)
		return;
	if (value >= g->n_values || g->values[value].dead)
		st = qd_fail(QD_EINPUT, "an output of graph '%s' is no value of it", g->name);
	else
		st = push_id(&g->outputs, &g->n_outputs, &g->cap_outputs, value);
	if (st != QD_OK)
		qd_graph_stop(g, st);
}

/* ---- editing ---- */

size_t qd_graph_replace(struct qd_graph *g, qd_id from, qd_id to, qd_id keep)
{
	size_t uses = 0;
	for (size_t n = 0; n < g->n_nodes; n++)
		for (size_t i = 0; !g->nodes[n].dead && n != keep && i < g->nodes[n].n_in; i++)
			if (g->nodes[n].in[i] == from) {
				g->nodes[n].in[i] = to;
				uses++;
			}
	for (size_t i = 0; i < g->n_outputs; i++)
		if (g->outputs[i] == from) {
			g->outputs[i] = to;
			uses++;
		}
	return uses;
}

/* The changed node: checked, with the shape and type that its output has already. */
static enum qd_status changed_node(struct qd_graph *g, struct qd_node *node)
{
	const struct qd_value *out = &g->values[node->out[0]];
	char found[QD_SHAPE_TEXT], needed[QD_SHAPE_TEXT];
	struct qd_shape shape;
	enum qd_dtype dtype;
	enum qd_status st;
	qd_id *outputs = node->out;

	QD_TRY(st, copy_node(g, node));
	node->out = outputs;
	QD_TRY(st, qd_node_infer(g, node, &shape, &dtype));
	if (!qd_shape_equal(&shape, &out->shape) || dtype != out->dtype)
		st = qd_fail(QD_EINPUT, "node '%s' would give %s %s, needs %s %s", node->name, qd_dtype_name(dtype),
			qd_shape_text(&shape, found), qd_dtype_name(out->dtype), qd_shape_text(&out->shape, needed));
out:
	return st;
}

void qd_graph_change(
	struct qd_graph *g, qd_id id, enum qd_op op, size_t n_in, const qd_id *in, size_t n_attrs, const struct qd_attr *attrs)
{
	enum qd_status st;

	if (g->status != QD_OK)
		return;
	struct qd_node node = g->nodes[id];
	node.op = op;
	node.in = (qd_id *)in;
	node.n_in = n_in;
	node.attrs = (struct qd_attr *)attrs;
	node.n_attrs = n_attrs;
	st = changed_node(g, &node);
	if (st == QD_OK)
		g->nodes[id] = node;
	else
		qd_graph_stop(g, st);
}

void qd_graph_remove_node(struct qd_graph *g, qd_id id)
{
	struct qd_node *node = &g->nodes[id];
	size_t kept = 0;

	if (node->dead)
		return;
	node->dead = true;
	qd_strmap_remove(&g->node_names, node->name);
	for (size_t i = 0; i < node->n_out; i++) {
		g->values[node->out[i]].dead = true;
		qd_strmap_remove(&g->value_names, g->values[node->out[i]].name);
	}
	for (size_t i = 0; i < g->n_order; i++)
		if (g->order[i] != id)
			g->order[kept++] = g->order[i];
	g->n_order = kept;
}

enum qd_status qd_graph_rename(struct qd_graph *g, qd_id value, const char *name)
{
	struct qd_value *v = &g->values[value];
	const char *old = v->name;
	enum qd_status st;

	if (strcmp(old, name) == 0)
		return QD_OK;
	QD_TRY(st, claim_name(g, &g->value_names, "value", name, value, &v->name));
	qd_strmap_remove(&g->value_names, old);
	if (v->kind == QD_WEIGHT)
		v->data.name = v->name;
out:
	return st;
}

/* ---- sorting: depth first from each node in the present order, so that an order that is right stays as it is ---- */

enum { UNSEEN, OPEN, DONE };

struct sort_frame {
	qd_id node;
	size_t next; /* input to look at */
};

struct sorter {
	const struct qd_graph *g;
	unsigned char *state;
	struct sort_frame *stack;
	size_t depth;
	qd_id *order;
	size_t n;
};

static void sort_push(struct sorter *s, qd_id node)
{
	s->state[node] = OPEN;
	s->stack[s->depth++] = (struct sort_frame){ node, 0 };
}

/* The node behind the next input of the top frame that is not placed yet, or QD_NONE. */
static qd_id sort_next(struct sorter *s)
{
	struct sort_frame *top = &s->stack[s->depth - 1];
	const struct qd_node *node = &s->g->nodes[top->node];

	while (top->next < node->n_in) {
		qd_id in = node->in[top->next++];
		qd_id producer = in < s->g->n_values && s->g->values[in].kind == QD_RESULT ? s->g->values[in].producer : QD_NONE;
		if (producer < s->g->n_nodes && !s->g->nodes[producer].dead && s->state[producer] != DONE)
			return producer;
	}
	return QD_NONE;
}

static enum qd_status sort_from(struct sorter *s, qd_id root)
{
	if (s->state[root] == DONE)
		return QD_OK;
	sort_push(s, root);
	while (s->depth > 0) {
		qd_id next = sort_next(s);
		if (next == QD_NONE) {
			qd_id done = s->stack[--s->depth].node;
			s->state[done] = DONE;
			s->order[s->n++] = done;
		} else if (s->state[next] == OPEN) {
			return qd_fail(QD_EINPUT, "node '%s' is part of a cycle", s->g->nodes[next].name);
		} else {
			sort_push(s, next);
		}
	}
	return QD_OK;
}

enum qd_status qd_graph_sort(struct qd_graph *g)
{
	struct sorter s = { .g = g };
	enum qd_status st = QD_OK;

	if (g->n_order == 0)
		return QD_OK;
	s.state = calloc(g->n_nodes + 1, sizeof(*s.state));
	s.stack = calloc(g->n_nodes + 1, sizeof(*s.stack));
	s.order = calloc(g->n_nodes + 1, sizeof(*s.order));
	if (s.state == NULL || s.stack == NULL || s.order == NULL) {
		st = qd_fail(QD_ENOMEM, "out of memory");
		goto out;
	}
	for (size_t i = 0; i < g->n_order; i++)
		QD_TRY(st, sort_from(&s, g->order[i]));
	memcpy(g->order, s.order, s.n * sizeof(*s.order));
	g->n_order = s.n;
out:
	free(s.state);
	free(s.stack);
	free(s.order);
	return st;
}

/* ---- looking ---- */

qd_id qd_graph_find(const struct qd_graph *g, const char *value_name)
{
	return qd_strmap_get(&g->value_names, value_name);
}

qd_id qd_graph_find_node(const struct qd_graph *g, const char *node_name)
{
	return qd_strmap_get(&g->node_names, node_name);
}

bool qd_graph_is_output(const struct qd_graph *g, qd_id value)
{
	for (size_t i = 0; i < g->n_outputs; i++)
		if (g->outputs[i] == value)
			return true;
	return false;
}

size_t qd_graph_uses(const struct qd_graph *g, qd_id value)
{
	size_t uses = 0;
	for (size_t n = 0; n < g->n_order; n++) {
		const struct qd_node *node = &g->nodes[g->order[n]];
		for (size_t i = 0; i < node->n_in; i++)
			uses += node->in[i] == value;
	}
	for (size_t i = 0; i < g->n_outputs; i++)
		uses += g->outputs[i] == value;
	return uses;
}

static bool name_taken(const struct qd_graph *g, const char *name)
{
	return qd_graph_find(g, name) != QD_NONE || qd_graph_find_node(g, name) != QD_NONE;
}

const char *qd_graph_unique(struct qd_graph *g, const char *stem)
{
	uint32_t suffix = qd_strmap_get(&g->suffixes, stem);
	const char *name;

	if (g->status != QD_OK)
		return NULL;
	if (suffix == QD_NONE)
		suffix = 0;
	name = suffix == 0 ? qd_arena_strdup(&g->arena, stem) : qd_arena_strf(&g->arena, "%s_%u", stem, suffix);
	while (name != NULL && name_taken(g, name))
		name = qd_arena_strf(&g->arena, "%s_%u", stem, ++suffix);
	if (name == NULL || qd_strmap_put(&g->suffixes, stem, suffix) != QD_OK) {
		qd_graph_stop(g, QD_ENOMEM);
		return NULL;
	}
	return name;
}

enum qd_status qd_graph_ints(const struct qd_graph *g, qd_id value, size_t max, int64_t *out, size_t *n)
{
	struct qd_tensor tensor = { 0 };
	enum qd_status st;

	*n = 0;
	QD_TRY(st, qd_graph_constant(g, value, &tensor));
	if (g->values[value].dtype != QD_I64 && g->values[value].dtype != QD_I32) {
		st = qd_fail(QD_EINPUT, "value '%s' is %s, needs I64 or I32", g->values[value].name,
			qd_dtype_name(g->values[value].dtype));
		goto out;
	}
	*n = tensor.bytes / sizeof(int64_t);
	if (*n > max) {
		st = qd_fail(QD_EINPUT, "value '%s' has %zu elements, needs at most %zu", g->values[value].name, *n, max);
		goto out;
	}
	if (*n > 0)
		memcpy(out, tensor.data, tensor.bytes);
out:
	qd_tensor_release(&tensor);
	return st;
}
