/*
 * Reads the text form of a graph (its grammar stands in text.c). A cursor over the text with one function per rule of the grammar;
 * every message carries the line. Lists are collected in growing arrays that are reused from line to line.
 */
#include "lib/ir/internal.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Elements that the weights of one text may have together: parsing "..." makes zeros of them. */
enum { MAX_ELEMENTS = 1 << 26 };

struct parser {
	struct qd_graph *g;
	const char *at;
	unsigned line;
	int64_t elements; /* of all weights so far */
	qd_id *in;
	size_t n_in, cap_in;
	const char **names;
	size_t n_names, cap_names;
	struct qd_attr *attrs;
	size_t n_attrs, cap_attrs;
	int64_t *ints;
	size_t n_ints, cap_ints;
};

/* ---- tokens ---- */

/* Blanks and comments, not the end of the line. */
static void skip_blanks(struct parser *p)
{
	while (*p->at == ' ' || *p->at == '\t' || *p->at == '\r')
		p->at++;
	if (*p->at == '#')
		p->at += strcspn(p->at, "\n");
}

static bool accept(struct parser *p, const char *token)
{
	skip_blanks(p);
	if (!qd_starts_with(p->at, token))
		return false;
	p->at += strlen(token);
	return true;
}

static enum qd_status expect(struct parser *p, const char *token)
{
	if (accept(p, token))
		return QD_OK;
	if (*p->at == '\0' || *p->at == '\n')
		return qd_fail(QD_EINPUT, "the line ends, needs '%s'", token);
	return qd_fail(QD_EINPUT, "found '%.*s', needs '%s'", (int)strcspn(p->at, " \t\r\n"), p->at, token);
}

static bool plain_char(char c)
{
	return isalnum((unsigned char)c) || (c != '\0' && strchr("._/:-+", c) != NULL);
}

static int hex_digit(char c)
{
	const char *digits = "0123456789abcdef", *found = c != '\0' ? strchr(digits, tolower((unsigned char)c)) : NULL;
	return found != NULL ? (int)(found - digits) : -1;
}

/* The character behind a backslash. */
static enum qd_status unescape(struct parser *p, char *out)
{
	switch (*p->at++) {
	case '"':
		*out = '"';
		return QD_OK;
	case '\\':
		*out = '\\';
		return QD_OK;
	case 'n':
		*out = '\n';
		return QD_OK;
	case 'x':
		if (hex_digit(p->at[0]) >= 0 && hex_digit(p->at[1]) >= 0) {
			*out = (char)(hex_digit(p->at[0]) << 4 | hex_digit(p->at[1]));
			p->at += 2;
			return *out != '\0' ? QD_OK : qd_fail(QD_EINPUT, "a name holds \\x00");
		}
		break;
	default:
		p->at--;
	}
	return qd_fail(QD_EINPUT, "unknown escape in a quoted name");
}

static enum qd_status parse_quoted(struct parser *p, const char **out)
{
	const char *end = p->at;
	enum qd_status st = QD_OK;
	char *text;
	size_t n = 0;

	while (*end != '"' && *end != '\n' && *end != '\0')
		end += *end == '\\' && end[1] != '\0' ? 2 : 1;
	if (*end != '"')
		return qd_fail(QD_EINPUT, "a quoted name does not end");
	*out = text = qd_arena_alloc(&p->g->arena, (size_t)(end - p->at) + 1);
	if (text == NULL)
		return QD_ENOMEM;
	while (p->at < end) {
		char c = *p->at++;
		if (c == '\\')
			QD_TRY(st, unescape(p, &c));
		text[n++] = c;
	}
	p->at = end + 1;
out:
	return st;
}

/* A name, in the arena. A colon at the end of a plain one is not part of it. */
static enum qd_status parse_name(struct parser *p, const char *what, const char **out)
{
	size_t n = 0;
	char *text;

	if (accept(p, "\""))
		return parse_quoted(p, out);
	while (plain_char(p->at[n]))
		n++;
	while (n > 0 && p->at[n - 1] == ':')
		n--;
	if (n == 0)
		return qd_fail(QD_EINPUT, "found '%.*s', needs %s", (int)strcspn(p->at, " \t\r\n"), p->at, what);
	*out = text = qd_arena_alloc(&p->g->arena, n + 1);
	if (text == NULL)
		return QD_ENOMEM;
	memcpy(text, p->at, n);
	p->at += n;
	return QD_OK;
}

static enum qd_status parse_int(struct parser *p, int64_t *out)
{
	char *end;

	skip_blanks(p);
	errno = 0;
	*out = isdigit((unsigned char)*p->at) || *p->at == '-' ? strtoll(p->at, &end, 10) : (end = (char *)p->at, 0);
	if (end == p->at || errno != 0)
		return qd_fail(QD_EINPUT, "found '%.*s', needs an integer", (int)strcspn(p->at, " \t\r\n"), p->at);
	p->at = end;
	return QD_OK;
}

static enum qd_status parse_float(struct parser *p, float *out)
{
	char *end = (char *)p->at;

	skip_blanks(p);
	if (*p->at != '\0' && !isspace((unsigned char)*p->at))
		*out = strtof(p->at, &end);
	if (end == p->at)
		return qd_fail(QD_EINPUT, "found '%.*s', needs a number", (int)strcspn(p->at, " \t\r\n"), p->at);
	p->at = end;
	return QD_OK;
}

/* "[1,2,3]" into p->ints. */
static enum qd_status parse_ints(struct parser *p)
{
	int64_t value;
	enum qd_status st;

	p->n_ints = 0;
	QD_TRY(st, expect(p, "["));
	if (accept(p, "]"))
		return QD_OK;
	do {
		QD_TRY(st, parse_int(p, &value));
		QD_PUSH(st, p->ints, p->n_ints, p->cap_ints, value);
	} while (accept(p, ","));
	QD_TRY(st, expect(p, "]"));
out:
	return st;
}

/* ---- types and data ---- */

static enum qd_status parse_dtype(struct parser *p, enum qd_dtype *out)
{
	char name[16];
	size_t n = 0;

	skip_blanks(p);
	for (; n + 1 < sizeof(name) && (isalnum((unsigned char)p->at[n]) || p->at[n] == '_'); n++)
		name[n] = (char)toupper((unsigned char)p->at[n]);
	name[n] = '\0';
	*out = qd_dtype_by_name(name);
	if (*out == QD_DTYPE_COUNT)
		return qd_fail(QD_EINPUT, "found '%.*s', needs a type such as f32", (int)strcspn(p->at, " \t\r\n"), p->at);
	p->at += n;
	return QD_OK;
}

static enum qd_status parse_type(struct parser *p, enum qd_dtype *dtype, struct qd_shape *shape)
{
	enum qd_status st;

	QD_TRY(st, parse_dtype(p, dtype));
	QD_TRY(st, parse_ints(p));
	if (p->n_ints > QD_MAX_RANK)
		return qd_fail(QD_EUNSUPPORTED, "rank is %zu, must be at most %d", p->n_ints, QD_MAX_RANK);
	*shape = (struct qd_shape){ .rank = (int)p->n_ints };
	for (size_t i = 0; i < p->n_ints; i++)
		shape->dim[i] = p->ints[i];
	QD_TRY(st, qd_shape_check(shape));
out:
	return st;
}

/* Integers are stored little-endian in the width of their type. */
static enum qd_status parse_element(struct parser *p, struct qd_tensor *t, int64_t i)
{
	size_t width = qd_dtype_bits(t->dtype) / 8;
	struct qd_tensor one = { .dtype = t->dtype, .data = (char *)t->data + (size_t)i * width, .bytes = width };
	int64_t whole = 0;
	double wide;
	float real = 0;
	enum qd_status st;

	if (qd_dtype_is_float(t->dtype)) {
		QD_TRY(st, parse_float(p, &real));
		wide = (double)real; /* F64 is stored, and computed with as float32 */
		if (t->dtype == QD_F64)
			memcpy(one.data, &wide, width);
		else
			QD_TRY(st, qd_tensor_from_f32(&one, &real));
	} else {
		QD_TRY(st, parse_int(p, &whole));
		memcpy(one.data, &whole, width);
	}
out:
	return st;
}

static enum qd_status parse_elements(struct parser *p, struct qd_tensor *t)
{
	int64_t n = qd_shape_elements(&t->shape);
	enum qd_status st = QD_OK;

	if (!qd_dtype_is_float(t->dtype) && !qd_dtype_is_integer(t->dtype) && t->dtype != QD_BOOL)
		return qd_fail(QD_EUNSUPPORTED, "elements of type %s cannot be written out", qd_dtype_name(t->dtype));
	for (int64_t i = 0; i < n; i++) {
		if (i > 0)
			QD_TRY(st, expect(p, ","));
		QD_TRY(st, parse_element(p, t, i));
	}
	QD_TRY(st, expect(p, "}"));
out:
	return st;
}

/* Zeros in the arena, to be filled. */
static enum qd_status new_data(struct parser *p, enum qd_dtype dtype, const struct qd_shape *shape, struct qd_tensor *t)
{
	int64_t n = qd_shape_elements(shape);

	if (n > MAX_ELEMENTS - p->elements)
		return qd_fail(QD_EUNSUPPORTED, "the weights of a text have more than %d elements", MAX_ELEMENTS);
	p->elements += n;
	*t = (struct qd_tensor){ .dtype = dtype, .shape = *shape, .bytes = ((size_t)n * qd_dtype_bits(dtype) + 7) / 8 };
	t->data = qd_arena_alloc(&p->g->arena, t->bytes);
	return t->data != NULL ? QD_OK : QD_ENOMEM;
}

/* ---- lines ---- */

static enum qd_status parse_value(struct parser *p, const char **name)
{
	enum qd_status st = expect(p, "%");
	return st == QD_OK ? parse_name(p, "a value's name", name) : st;
}

static enum qd_status parse_input(struct parser *p)
{
	enum qd_dtype dtype;
	struct qd_shape shape;
	const char *name;
	enum qd_status st;

	QD_TRY(st, parse_value(p, &name));
	QD_TRY(st, parse_type(p, &dtype, &shape));
	qd_graph_input(p->g, name, dtype, shape);
out:
	return st;
}

static enum qd_status parse_weight(struct parser *p)
{
	enum qd_dtype dtype, stored;
	struct qd_shape shape;
	struct qd_tensor t;
	const char *name;
	enum qd_status st;

	QD_TRY(st, parse_value(p, &name));
	QD_TRY(st, parse_type(p, &dtype, &shape));
	stored = dtype;
	if (accept(p, "as "))
		QD_TRY(st, parse_dtype(p, &stored));
	if (stored != dtype && !(dtype == QD_F32 && qd_dtype_is_float(stored)))
		return qd_fail(
			QD_EINPUT, "a weight of type %s cannot be stored as %s", qd_dtype_name(dtype), qd_dtype_name(stored));
	QD_TRY(st, new_data(p, stored, &shape, &t));
	if (!accept(p, "...")) {
		QD_TRY(st, expect(p, "{"));
		QD_TRY(st, parse_elements(p, &t));
	}
	qd_graph_add_constant(p->g, name, &t);
out:
	return st;
}

static enum qd_status find_value(struct parser *p, qd_id *id)
{
	const char *name;
	enum qd_status st;

	QD_TRY(st, parse_value(p, &name));
	*id = qd_graph_find(p->g, name);
	if (*id == QD_NONE)
		return qd_fail(QD_EINPUT, "value '%s' is not defined before its use", name);
out:
	return st;
}

static enum qd_status parse_output(struct parser *p)
{
	qd_id id = QD_NONE;
	enum qd_status st = find_value(p, &id);

	if (st == QD_OK)
		qd_graph_output(p->g, id);
	return st;
}

static const struct qd_attr_spec *find_spec(enum qd_op op, const char *name)
{
	for (size_t i = 0; i < qd_op(op)->n_attrs; i++)
		if (strcmp(qd_op(op)->attrs[i].name, name) == 0)
			return &qd_op(op)->attrs[i];
	return NULL;
}

/* Integers are copied out of p->ints, which the next list overwrites. */
static enum qd_status parse_int_list(struct parser *p, struct qd_attr *attr)
{
	enum qd_status st;
	int64_t *copy;

	QD_TRY(st, parse_ints(p));
	copy = qd_arena_array(&p->g->arena, p->n_ints, sizeof(*copy));
	if (copy == NULL)
		return QD_ENOMEM;
	if (p->n_ints > 0)
		memcpy(copy, p->ints, p->n_ints * sizeof(*copy));
	attr->ints = copy;
	attr->n_ints = p->n_ints;
out:
	return st;
}

static enum qd_status parse_attr(struct parser *p, enum qd_op op, struct qd_attr *attr)
{
	const struct qd_attr_spec *spec;
	enum qd_status st;

	*attr = (struct qd_attr){ 0 };
	QD_TRY(st, parse_name(p, "an attribute's name", &attr->name));
	QD_TRY(st, expect(p, "="));
	spec = find_spec(op, attr->name);
	if (spec == NULL)
		return qd_fail(QD_EINPUT, "%s has no attribute '%s'", qd_op(op)->name, attr->name);
	attr->type = spec->type;
	switch (spec->type) {
	case QD_ATTR_INT:
		return parse_int(p, &attr->i);
	case QD_ATTR_FLOAT:
		return parse_float(p, &attr->f);
	case QD_ATTR_INTS:
		return parse_int_list(p, attr);
	case QD_ATTR_STRING:
		return parse_name(p, "a string", &attr->s);
	}
out:
	return st;
}

static enum qd_status parse_attrs(struct parser *p, enum qd_op op)
{
	struct qd_attr attr;
	enum qd_status st = QD_OK;

	p->n_attrs = 0;
	if (!accept(p, "{"))
		return QD_OK;
	do {
		QD_TRY(st, parse_attr(p, op, &attr));
		QD_PUSH(st, p->attrs, p->n_attrs, p->cap_attrs, attr);
	} while (accept(p, ","));
	QD_TRY(st, expect(p, "}"));
out:
	return st;
}

static enum qd_status parse_operands(struct parser *p)
{
	enum qd_status st;
	qd_id id;

	p->n_in = 0;
	QD_TRY(st, expect(p, "("));
	if (accept(p, ")"))
		return QD_OK;
	do {
		id = QD_NONE;
		if (!accept(p, "_"))
			QD_TRY(st, find_value(p, &id));
		QD_PUSH(st, p->in, p->n_in, p->cap_in, id);
	} while (accept(p, ","));
	QD_TRY(st, expect(p, ")"));
out:
	return st;
}

/* "[name :] operator": the first name is the node's where a colon follows. */
static enum qd_status parse_operator(struct parser *p, const char **node_name, enum qd_op *op)
{
	const char *name;
	enum qd_status st;

	QD_TRY(st, parse_name(p, "an operator", &name));
	if (accept(p, ":")) {
		*node_name = name;
		QD_TRY(st, parse_name(p, "an operator", &name));
	}
	*op = qd_op_by_name(name);
	if (*op == QD_OP_COUNT)
		return qd_fail(QD_EUNSUPPORTED, "operator '%s' is unknown", name);
out:
	return st;
}

static enum qd_status parse_node(struct parser *p)
{
	struct qd_node node = { 0 };
	const char *name;
	qd_id *out = NULL;
	enum qd_status st;

	p->n_names = 0;
	do {
		QD_TRY(st, parse_value(p, &name));
		QD_PUSH(st, p->names, p->n_names, p->cap_names, name);
	} while (accept(p, ","));
	QD_TRY(st, expect(p, "="));
	node.name = p->names[0];
	QD_TRY(st, parse_operator(p, &node.name, &node.op));
	QD_TRY(st, parse_operands(p));
	QD_TRY(st, parse_attrs(p, node.op));
	node.in = p->in;
	node.n_in = p->n_in;
	node.attrs = p->attrs;
	node.n_attrs = p->n_attrs;
	node.n_out = p->n_names;
	out = qd_arena_array(&p->g->arena, node.n_out, sizeof(*out));
	if (out == NULL)
		return QD_ENOMEM;
	qd_graph_add_node(p->g, &node, p->names, out);
out:
	return st;
}

/* One line, up to its end. */
static enum qd_status parse_line(struct parser *p)
{
	enum qd_status st = QD_OK;

	skip_blanks(p);
	if (*p->at == '%')
		st = parse_node(p);
	else if (accept(p, "input "))
		st = parse_input(p);
	else if (accept(p, "weight "))
		st = parse_weight(p);
	else if (accept(p, "output "))
		st = parse_output(p);
	if (st == QD_OK)
		st = qd_graph_status(p->g);
	skip_blanks(p);
	if (st == QD_OK && *p->at != '\n' && *p->at != '\0')
		return qd_fail(QD_EINPUT, "found '%.*s', needs the end of the line", (int)strcspn(p->at, " \t\r\n"), p->at);
	return st;
}

/* "graph NAME" on the first line that is not empty. */
static enum qd_status parse_header(struct parser *p)
{
	const char *name;
	enum qd_status st;

	for (skip_blanks(p); *p->at == '\n'; skip_blanks(p)) {
		p->at++;
		p->line++;
	}
	QD_TRY(st, expect(p, "graph "));
	QD_TRY(st, parse_name(p, "the graph's name", &name));
	p->g->name = name;
out:
	return st;
}

static enum qd_status parse_lines(struct parser *p)
{
	enum qd_status st;

	QD_TRY(st, parse_header(p));
	for (;;) {
		QD_TRY(st, parse_line(p));
		if (*p->at == '\0')
			break;
		p->at++;
		p->line++;
	}
out:
	return st;
}

enum qd_status qd_graph_parse(struct qd_graph *g, const char *what, const char *text)
{
	struct parser p = { .g = g, .at = text, .line = 1 };
	enum qd_status st;

	qd_graph_init(g, what);
	st = parse_lines(&p);
	st = qd_prefix(st, "%s:%u", what, p.line);
	free(p.in);
	free(p.names);
	free(p.attrs);
	free(p.ints);
	return st;
}
