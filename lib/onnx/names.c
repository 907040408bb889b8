/*
 * What nodes of an ONNX file are called. Exporters write where a node comes from in one of two ways, and the graph's node names
 * have it in one: a module path, a slash, and a name.
 *
 *   node name        "/mid_block/attentions.0/transformer_blocks.0/attn1/to_q/MatMul": taken as it is
 *   metadata_props   "pkg.torch.onnx.name_scopes" = "['', 'mid_block', ..., 'mid_block....attn1.to_q', 'linear_3']"
 *                    "namespace" = ": UNet/mid_block: UNetMidBlock/.../mid_block....attn1.to_q: Linear/linear_3: aten.linear"
 *                    of either the last but one, before the node's name:
 *                    "mid_block.attentions.0.transformer_blocks.0.attn1.to_q/node_linear_3"
 *
 * NodeProto.metadata_props (9) is younger than some versions of onnx.proto that this is built with: it is then found among the
 * unknown fields.
 */
#include "lib/onnx/internal.h"

#include <errno.h>
#include <string.h>

enum { METADATA_FIELD = 9 };

/* ---- metadata ---- */

/* The text from `at` to before `end`, in the arena. */
static const char *part(struct qd_graph *g, const char *at, const char *end)
{
	const char *text = qd_arena_strf(&g->arena, "%.*s", (int)(end - at), at);
	if (text == NULL)
		qd_graph_stop(g, QD_ENOMEM);
	return text;
}

/* The last element but one of a Python list of strings: '..., 'PATH', 'last']'. NULL when it is none or empty. */
static const char *scope_of_list(struct qd_graph *g, const char *text)
{
	const char *end = strrchr(text, ',');
	const char *at = end;
	if (end == NULL || end - text < 2 || end[-1] != '\'')
		return NULL;
	for (at = --end; at > text && at[-1] != '\'';)
		at--;
	return at > text && at < end ? part(g, at, end) : NULL;
}

/* The module of the last element but one of "PATH: CLASS/PATH: CLASS/...". */
static const char *scope_of_namespace(struct qd_graph *g, const char *text)
{
	const char *last = strrchr(text, '/'), *at = last, *colon;
	if (last == NULL)
		return NULL;
	while (at > text && at[-1] != '/')
		at--;
	colon = strstr(at, ": ");
	return colon != NULL && colon < last && colon > at ? part(g, at, colon) : NULL;
}

static const char *scope_of(struct qd_graph *g, const Onnx__StringStringEntryProto *entry)
{
	if (entry == NULL || entry->key == NULL || entry->value == NULL)
		return NULL;
	if (!strcmp(entry->key, "pkg.torch.onnx.name_scopes"))
		return scope_of_list(g, entry->value);
	return !strcmp(entry->key, "namespace") ? scope_of_namespace(g, entry->value) : NULL;
}

/* Of a node whose messages know the field. */
static const char *known_scope(struct qd_graph *g, const Onnx__NodeProto *node, const ProtobufCFieldDescriptor *field)
{
	const char *base = (const char *)node, *scope = NULL;
	size_t n = *(const size_t *)(base + field->quantifier_offset);
	Onnx__StringStringEntryProto *const *entries = *(Onnx__StringStringEntryProto *const *const *)(base + field->offset);
	for (size_t i = 0; i < n && scope == NULL; i++)
		scope = scope_of(g, entries[i]);
	return scope;
}

/* Of a node whose messages do not: the bytes begin with their length as a varint. */
static const char *unknown_scope(struct qd_graph *g, const Onnx__NodeProto *node)
{
	const char *scope = NULL;
	for (unsigned i = 0; i < node->base.n_unknown_fields && scope == NULL; i++) {
		const ProtobufCMessageUnknownField *f = &node->base.unknown_fields[i];
		size_t skip = 0;
		if (f->tag != METADATA_FIELD || f->wire_type != PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED)
			continue;
		while (skip < f->len && f->data[skip] >= 0x80)
			skip++;
		if (skip >= f->len)
			continue;
		errno = 0;
		Onnx__StringStringEntryProto *entry =
			onnx__string_string_entry_proto__unpack(NULL, f->len - skip - 1, f->data + skip + 1);
		if (entry == NULL && errno == ENOMEM)
			qd_graph_stop(g, qd_fail(QD_ENOMEM, "out of memory"));
		scope = scope_of(g, entry);
		onnx__string_string_entry_proto__free_unpacked(entry, NULL);
	}
	return scope;
}

/* ---- names ---- */

const char *qd_onnx_node_name(struct qd_graph *g, const Onnx__NodeProto *node)
{
	const ProtobufCFieldDescriptor *field =
		protobuf_c_message_descriptor_get_field(&onnx__node_proto__descriptor, METADATA_FIELD);
	const char *scope = field != NULL ? known_scope(g, node, field) : unknown_scope(g, node);
	const char *name = node->name != NULL && node->name[0] != '\0' ? node->name : node->output[0];
	if (scope != NULL)
		name = qd_arena_strf(&g->arena, "%s/%s", scope, name);
	if (name == NULL)
		qd_graph_stop(g, QD_ENOMEM);
	if (name != NULL && qd_graph_find_node(g, name) != QD_NONE)
		name = qd_graph_unique(g, name);
	return name;
}
