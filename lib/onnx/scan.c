/*
 * A walk over the wire format of an ONNX file before it is unpacked. A field is a varint tag (number << 3 | type) and, by type: 0 a
 * varint, 1 eight bytes, 2 a varint length and that many bytes, 5 four bytes. Messages that may contain themselves (a subgraph in
 * an attribute, a sequence of sequences) would let a small file nest as deep as it likes; they are refused here, so that unpacking
 * cannot run out of stack.
 */
#include "lib/onnx/internal.h"

enum message { MODEL, GRAPH, NODE, ATTRIBUTE, VALUE_INFO, TYPE, REFUSED };

/* Fields that messages name things by. */
enum { MODEL_FUNCTIONS = 25, FUNCTION_NAME = 1, NODE_NAME = 3, NODE_OP = 4 };

struct rule {
	enum message in;
	unsigned field;
	enum message is;
	const char *what;
};

static const struct rule rules[] = {
	{ MODEL, 7, GRAPH, NULL },
	{ MODEL, 20, REFUSED, "training information" },
	{ MODEL, 25, REFUSED, "local functions" },
	{ GRAPH, 1, NODE, NULL },
	{ GRAPH, 11, VALUE_INFO, NULL },
	{ GRAPH, 12, VALUE_INFO, NULL },
	{ GRAPH, 13, VALUE_INFO, NULL },
	{ GRAPH, 15, REFUSED, "sparse initializers" },
	{ NODE, 5, ATTRIBUTE, NULL },
	{ ATTRIBUTE, 6, REFUSED, "subgraphs" },
	{ ATTRIBUTE, 11, REFUSED, "subgraphs" },
	{ ATTRIBUTE, 14, REFUSED, "attributes that are types" },
	{ ATTRIBUTE, 15, REFUSED, "attributes that are types" },
	{ ATTRIBUTE, 22, REFUSED, "sparse attributes" },
	{ ATTRIBUTE, 23, REFUSED, "sparse attributes" },
	{ VALUE_INFO, 2, TYPE, NULL },
	{ TYPE, 4, REFUSED, "sequences" },
	{ TYPE, 5, REFUSED, "maps" },
	{ TYPE, 7, REFUSED, "opaque types" },
	{ TYPE, 8, REFUSED, "sparse tensors" },
	{ TYPE, 9, REFUSED, "optional types" },
};

static bool varint(struct qd_onnx_cursor *c, uint64_t *out)
{
	*out = 0;
	for (unsigned shift = 0; shift < 64 && c->at < c->end; shift += 7) {
		unsigned char byte = *c->at++;
		*out |= (uint64_t)(byte & 0x7F) << shift;
		if (byte < 0x80)
			return true;
	}
	return false;
}

bool qd_onnx_field(struct qd_onnx_cursor *c, unsigned *field, struct qd_onnx_cursor *body)
{
	static const unsigned char fixed[8] = { [1] = 8, [5] = 4 };
	uint64_t tag, length;
	*body = (struct qd_onnx_cursor){ c->at, c->at };
	if (c->at >= c->end || !varint(c, &tag) || tag >> 3 > 536870911u)
		return false;
	*field = (unsigned)(tag >> 3);
	if ((tag & 7) == 0)
		return varint(c, &length);
	if ((tag & 7) == 2) {
		if (!varint(c, &length) || length > (uint64_t)(c->end - c->at))
			return false;
		*body = (struct qd_onnx_cursor){ c->at, c->at + length };
		c->at += length;
		return true;
	}
	if (fixed[tag & 7] == 0 || c->end - c->at < fixed[tag & 7])
		return false;
	c->at += fixed[tag & 7];
	return true;
}

static const struct rule *rule_for(enum message in, unsigned field)
{
	for (size_t i = 0; i < QD_COUNT(rules); i++)
		if (rules[i].in == in && rules[i].field == field)
			return &rules[i];
	return NULL;
}

/* The text of a field of a message; "" when it is not there. */
static const char *text_field(struct qd_onnx_cursor c, unsigned wanted, char *text, size_t size)
{
	struct qd_onnx_cursor body;
	unsigned field;
	text[0] = '\0';
	while (qd_onnx_field(&c, &field, &body))
		if (field == wanted)
			snprintf(text, size, "%.*s",
				(int)((size_t)(body.end - body.at) < size ? body.end - body.at : (ptrdiff_t)size),
				(const char *)body.at);
	return text;
}

/* A failure inside of a node names it and its operator. */
static enum qd_status in_node(enum qd_status st, struct qd_onnx_cursor node)
{
	char name[256], op[64];
	return qd_prefix(
		st, "node '%s' (%s)", text_field(node, NODE_NAME, name, sizeof(name)), text_field(node, NODE_OP, op, sizeof(op)));
}

static enum qd_status refuse(const struct rule *rule, struct qd_onnx_cursor body)
{
	char name[256];
	enum qd_status st = qd_fail(QD_EUNSUPPORTED, "%s are not read", rule->what);
	if (rule->in != MODEL || rule->field != MODEL_FUNCTIONS)
		return st;
	return qd_prefix(st, "function '%s'", text_field(body, FUNCTION_NAME, name, sizeof(name)));
}

/* Recursion ends: the rules make no message contain itself. */
static enum qd_status scan(enum message kind, struct qd_onnx_cursor c)
{
	const struct qd_onnx_cursor whole = c;
	struct qd_onnx_cursor body;
	unsigned field;
	enum qd_status st = QD_OK;
	while (st == QD_OK && qd_onnx_field(&c, &field, &body)) {
		const struct rule *rule = rule_for(kind, field);
		if (rule == NULL)
			continue;
		st = rule->is == REFUSED ? refuse(rule, body) : scan(rule->is, body);
	}
	return kind == NODE ? in_node(st, whole) : st;
}

enum qd_status qd_onnx_scan(const void *bytes, size_t size)
{
	return scan(MODEL, (struct qd_onnx_cursor){ bytes, (const unsigned char *)bytes + size });
}
