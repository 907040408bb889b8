/*
 * Encodings JSON 1.0.0, as AIMET and QAIRT read it:
 *
 *   { "version": "1.0.0",
 *     "activation_encodings": [ENTRY...], "param_encodings": [ENTRY...],
 *     "quantizer_args": { activation_bitwidth, dtype, is_symmetric, param_bitwidth, per_channel_quantization, quant_scheme },
 *     "excluded_layers": [] }
 *   ENTRY: { "name", "enc_type": "PER_TENSOR" | "PER_CHANNEL", "dtype": "INT", "bw", "is_sym", "scale": [...], "offset": [...] }
 *      or, for a tensor that stays float, exactly { "name", "enc_type": "PER_TENSOR", "dtype": "FLOAT", "bw": 16 }
 *
 * `offset` is an integer on the unsigned grid, also for signed encodings: min = offset * scale, max = (offset + 2^bw - 1) * scale.
 * So a zero point z is offset -z on an unsigned grid and -z - 2^(bw-1) on a signed one. `is_sym` says that the grid is signed and
 * every z is 0.
 *
 * A scale is the shortest decimal that gives the float32 back.
 *
 * The list is complete: every activation, LoRA input and weight has an entry, those without an encoding a float one, because a
 * reader switches off or calibrates by itself what is left out. Results of view operators share their source's entry and are not
 * listed, but for Resize's, to which readers give one of its own. Weights of operators are parameters; LoRA inputs, being inputs of
 * the graph, are activations, and so are constants that an operator computes with (attention's scale). Biases have no entry in this
 * version.
 *
 * Weights of norms and such constants are exact in the simulator and in the quantized file, but readers quantize them, and under
 * these rules: by range, asymmetric, per tensor, weights of LayerNormalization with the bits of weights, all others with those of
 * activations. Where what is computed stays float, so do they.
 */
#include "export/file/file.h"

#include <math.h>

static json_t *float_entry(const char *name)
{
	return json_pack("{s:s,s:s,s:s,s:i}", "name", name, "enc_type", "PER_TENSOR", "dtype", "FLOAT", "bw", 16);
}

static json_t *encoding_entry(const char *name, const struct qd_encoding *e)
{
	json_t *scales = json_array(), *offsets = json_array();

	for (size_t i = 0; i < e->n; i++) {
		json_int_t shift = e->is_signed ? (json_int_t)1 << (e->bits - 1) : 0;
		qd_json_append(&scales, qd_json_float(e->scale[i]));
		qd_json_append(&offsets, json_integer(-(json_int_t)lrintf(e->zero_point[i]) - shift));
	}
	return json_pack("{s:s,s:s,s:s,s:i,s:b,s:o,s:o}", "name", name, "enc_type", e->axis >= 0 ? "PER_CHANNEL" : "PER_TENSOR",
		"dtype", "INT", "bw", e->bits, "is_sym", e->is_signed && qd_encoding_is_centred(e), "scale", scales, "offset",
		offsets);
}

enum role {
	ROLE_NONE,      /* a bias, a shape, nothing that is used */
	ROLE_WEIGHT,    /* second operand of Conv, Gemm, MatMul and norms of channels */
	ROLE_FINE_NORM, /* the same of LayerNormalization */
	ROLE_OPERAND    /* a number to compute with */
};

/* What a constant is to the first node that uses it. */
static enum role role_of(const struct qd_graph *g, qd_id value, const struct qd_node **user)
{
	for (size_t i = 0; i < g->n_order; i++) {
		const struct qd_node *node = &g->nodes[g->order[i]];
		unsigned flags = qd_op(node->op)->flags;
		size_t k = 0;
		while (k < node->n_in && node->in[k] != value)
			k++;
		if (k == node->n_in)
			continue;
		*user = node;
		if ((flags & QD_OPF_ELEMENTWISE) != 0)
			return ROLE_OPERAND;
		if (k == 1 && node->op == QD_OP_LAYER_NORM)
			return ROLE_FINE_NORM;
		return k == 1 && ((flags & QD_OPF_WEIGHT) != 0 || node->op == QD_OP_GROUP_NORM || node->op == QD_OP_INSTANCE_NORM)
			       ? ROLE_WEIGHT
			       : ROLE_NONE;
	}
	return ROLE_NONE;
}

/* Float values that a reader expects an entry for: inputs and results other than views'. */
static bool is_signal(const struct qd_graph *g, qd_id value)
{
	const struct qd_value *v = &g->values[value];
	return v->kind != QD_WEIGHT && v->dtype == QD_F32 && qd_value_source(g, value) == value && qd_graph_uses(g, value) > 0;
}

struct lists {
	const struct qd_graph *graph;
	const struct qd_quant_options *options;
	struct qd_arena arena; /* encodings of what carries none */
	json_t *activations, *params;
};

/* A constant that carries no encoding. */
static enum qd_status add_constant(struct lists *l, const struct qd_value *v, enum role role, const struct qd_node *user)
{
	json_t **list = role == ROLE_OPERAND ? &l->activations : &l->params;
	int bits = role == ROLE_FINE_NORM ? l->options->weight_bits : l->options->act_bits;
	struct qd_encoding *e;
	struct qd_range range;
	enum qd_status st;

	if (bits == 0 || l->graph->values[qd_value_source(l->graph, user->out[0])].encoding == NULL) {
		qd_json_append(list, float_entry(v->name));
		return QD_OK;
	}
	QD_TRY(st, qd_tensor_range(&v->data, &range));
	QD_TRY(st, qd_encoding_from_range(&l->arena, range.low, range.high, bits, false, &e));
	qd_json_append(list, encoding_entry(v->name, e));
out:
	return st;
}

static enum qd_status add_value(struct lists *l, qd_id value)
{
	const struct qd_graph *g = l->graph;
	const struct qd_value *v = &g->values[value], *source = &g->values[qd_value_source(g, value)];
	const struct qd_node *user = NULL;
	enum role role = v->kind == QD_WEIGHT && !v->dead ? role_of(g, value, &user) : ROLE_NONE;

	if (v->dead)
		return QD_OK;
	if (v->encoding != NULL)
		qd_json_append(role == ROLE_WEIGHT || role == ROLE_FINE_NORM ? &l->params : &l->activations,
			encoding_entry(v->name, v->encoding));
	else if (role != ROLE_NONE && v->dtype == QD_F32)
		return add_constant(l, v, role, user);
	else if (is_signal(g, value))
		qd_json_append(&l->activations, float_entry(v->name));
	else if (qd_made_by(g, value, QD_OP_RESIZE) != NULL)
		qd_json_append(&l->activations,
			source->encoding != NULL ? encoding_entry(v->name, source->encoding) : float_entry(v->name));
	return QD_OK;
}

enum qd_status qd_encodings_json(const struct qd_graph *g, const struct qd_quant_options *o, json_t **out)
{
	struct lists l = { .graph = g, .options = o, .activations = json_array(), .params = json_array() };
	json_t *args;
	enum qd_status st = QD_OK;

	*out = NULL;
	for (qd_id v = 0; v < g->n_values; v++)
		QD_TRY(st, add_value(&l, v));
	args = json_pack("{s:i,s:s,s:b,s:i,s:b,s:s}", "activation_bitwidth", o->act_bits > 0 ? o->act_bits : 16, "dtype",
		o->act_bits > 0 ? "int" : "float", "is_symmetric", 1, "param_bitwidth", o->weight_bits, "per_channel_quantization",
		o->weight_scheme == QD_WEIGHT_PER_CHANNEL, "quant_scheme", "min_max");
	*out = json_pack("{s:s,s:O,s:O,s:o,s:[]}", "version", "1.0.0", "activation_encodings", l.activations, "param_encodings",
		l.params, "quantizer_args", args, "excluded_layers");
	if (*out == NULL)
		st = qd_fail(QD_ENOMEM, "cannot write the encodings");
out:
	json_decref(l.activations);
	json_decref(l.params);
	qd_arena_release(&l.arena);
	return st;
}
