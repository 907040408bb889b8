/*
 * The text form of a graph, one thing a line; what is printed parses back to an equal graph.
 *
 *   graph    = "graph" name line*                       # opens a comment that runs to the end of the line
 *   line     = "input" value type
 *            | "weight" value type [stored] data
 *            | value ("," value)* "=" [name ":"] operator "(" [operand ("," operand)*] ")" ["{" attribute ("," attribute)* "}"]
 *            | "output" value
 *   value    = "%" name
 *   operand  = value | "_"                               "_": an absent optional input
 *   type     = dtype "[" [integer ("," integer)*] "]"    f32[1,4,8,8]; the shape of a scalar is []
 *   stored   = "as" dtype                                the dtype of the bytes, where it is not the type's
 *   data     = "..." | "{" [number ("," number)*] "}"    all elements, or zeros that stand for more than 16 of them
 *   attribute = name "=" (integer | float | "[" integers "]" | string)    as the operator's row says
 *   operator = ONNX name
 *   name     = letters, digits and . _ / : - + without quotes, or a quoted string with \" \\ \n and \xHH
 *
 * A blank follows the colon behind a node's name, since names hold colons too. A node's name is printed where it is not its first
 * output's. Shapes of results are not written: the rules give them.
 */
#include "lib/ir/internal.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PRINTED_ELEMENTS = 16 };

/* ---- printing: into a memory stream, whose failures surface when it is closed ---- */

static bool plain_char(char c)
{
	return isalnum((unsigned char)c) || (c != '\0' && strchr("._/:-+", c) != NULL);
}

/* A trailing colon would be taken for the one behind a node's name. */
static bool plain_name(const char *name)
{
	size_t n = strlen(name);

	for (size_t i = 0; i < n; i++)
		if (!plain_char(name[i]))
			return false;
	return n > 0 && name[n - 1] != ':';
}

static void print_quoted(FILE *f, const char *text)
{
	fputc('"', f);
	for (const unsigned char *c = (const unsigned char *)text; *c != '\0'; c++) {
		if (*c == '"' || *c == '\\')
			fprintf(f, "\\%c", *c);
		else if (*c == '\n')
			fputs("\\n", f);
		else if (*c < 0x20 || *c == 0x7f)
			fprintf(f, "\\x%02x", *c);
		else
			fputc(*c, f);
	}
	fputc('"', f);
}

static void print_name(FILE *f, const char *name)
{
	if (plain_name(name))
		fputs(name, f);
	else
		print_quoted(f, name);
}

static void print_value(FILE *f, const struct qd_graph *g, qd_id id)
{
	if (id == QD_NONE) {
		fputc('_', f);
		return;
	}
	fputc('%', f);
	print_name(f, g->values[id].name);
}

static void print_dtype(FILE *f, enum qd_dtype dtype)
{
	for (const char *c = qd_dtype_name(dtype); *c != '\0'; c++)
		fputc(tolower((unsigned char)*c), f);
}

static void print_type(FILE *f, enum qd_dtype dtype, const struct qd_shape *shape)
{
	char text[QD_SHAPE_TEXT];
	print_dtype(f, dtype);
	fputs(qd_shape_text(shape, text), f);
}

/* Elements of a small weight; 9 significant digits give a float32 back. */
static enum qd_status print_elements(FILE *f, const struct qd_graph *g, qd_id id)
{
	struct qd_tensor t = { 0 };
	enum qd_status st = qd_graph_constant(g, id, &t);
	int64_t n = st == QD_OK ? qd_shape_elements(&t.shape) : 0;

	fputs(" {", f);
	for (int64_t i = 0; i < n; i++) {
		fputs(i > 0 ? ", " : "", f);
		if (t.dtype == QD_F32)
			fprintf(f, "%.9g", (double)((float *)t.data)[i]);
		else
			fprintf(f, "%" PRId64, ((int64_t *)t.data)[i]);
	}
	fputc('}', f);
	qd_tensor_release(&t);
	return st;
}

/* Whether a weight's elements are written out: few, there (not made later), and of a type that constants can have. */
static bool prints_elements(const struct qd_value *v)
{
	return v->data.data != NULL && qd_shape_elements(&v->shape) <= PRINTED_ELEMENTS &&
	       (qd_dtype_is_float(v->dtype) || qd_dtype_is_integer(v->dtype) || v->dtype == QD_BOOL);
}

static enum qd_status print_weight(FILE *f, const struct qd_graph *g, qd_id id)
{
	const struct qd_value *v = &g->values[id];
	enum qd_status st = QD_OK;

	fputs("weight ", f);
	print_value(f, g, id);
	fputc(' ', f);
	print_type(f, v->dtype, &v->shape);
	if (v->data.dtype != v->dtype) {
		fputs(" as ", f);
		print_dtype(f, v->data.dtype);
	}
	if (prints_elements(v))
		st = print_elements(f, g, id);
	else
		fputs(" ...", f);
	fputc('\n', f);
	return st;
}

static void print_attr(FILE *f, const struct qd_attr *attr)
{
	fprintf(f, "%s=", attr->name);
	switch (attr->type) {
	case QD_ATTR_INT:
		fprintf(f, "%" PRId64, attr->i);
		break;
	case QD_ATTR_FLOAT:
		fprintf(f, "%.9g", (double)attr->f);
		break;
	case QD_ATTR_STRING:
		print_quoted(f, attr->s);
		break;
	case QD_ATTR_INTS:
		for (size_t i = 0; i < attr->n_ints; i++)
			fprintf(f, "%s%" PRId64, i > 0 ? "," : "[", attr->ints[i]);
		fputs(attr->n_ints > 0 ? "]" : "[]", f);
		break;
	}
}

static void print_node(FILE *f, const struct qd_graph *g, const struct qd_node *node)
{
	for (size_t i = 0; i < node->n_out; i++) {
		fputs(i > 0 ? ", " : "", f);
		print_value(f, g, node->out[i]);
	}
	fputs(" = ", f);
	if (strcmp(node->name, g->values[node->out[0]].name) != 0) {
		print_name(f, node->name);
		fputs(": ", f);
	}
	fprintf(f, "%s(", qd_op(node->op)->name);
	for (size_t i = 0; i < node->n_in; i++) {
		fputs(i > 0 ? ", " : "", f);
		print_value(f, g, node->in[i]);
	}
	fputc(')', f);
	for (size_t i = 0; i < node->n_attrs; i++) {
		fputs(i > 0 ? ", " : " {", f);
		print_attr(f, &node->attrs[i]);
	}
	fputs(node->n_attrs > 0 ? "}\n" : "\n", f);
}

static enum qd_status print_graph(FILE *f, const struct qd_graph *g)
{
	enum qd_status st = QD_OK;

	fputs("graph ", f);
	print_name(f, g->name);
	fputc('\n', f);
	for (size_t i = 0; i < g->n_inputs; i++) {
		fputs("input ", f);
		print_value(f, g, g->inputs[i]);
		fputc(' ', f);
		print_type(f, g->values[g->inputs[i]].dtype, &g->values[g->inputs[i]].shape);
		fputc('\n', f);
	}
	for (qd_id id = 0; id < g->n_values; id++)
		if (!g->values[id].dead && g->values[id].kind == QD_WEIGHT)
			QD_TRY(st, print_weight(f, g, id));
	for (size_t i = 0; i < g->n_order; i++)
		print_node(f, g, &g->nodes[g->order[i]]);
	for (size_t i = 0; i < g->n_outputs; i++) {
		fputs("output ", f);
		print_value(f, g, g->outputs[i]);
		fputc('\n', f);
	}
out:
	return st;
}

enum qd_status qd_graph_print(const struct qd_graph *g, char **text)
{
	struct qd_text out;
	enum qd_status st;

	*text = NULL;
	QD_TRY(st, qd_text_open(&out));
	QD_TRY(st, print_graph(out.stream, g));
	QD_TRY(st, qd_text_end(&out));
	*text = qd_text_take(&out);
out:
	qd_text_release(&out);
	return st;
}
