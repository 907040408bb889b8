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
 * listed. Weights of operators are parameters; LoRA inputs, being inputs of the graph, are activations. Biases have no entry in
 * this version.
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

/* A weight of an operator, as opposed to any other constant. */
static bool is_parameter(const struct qd_graph *g, qd_id value)
{
	for (size_t i = 0; i < g->n_order; i++) {
		const struct qd_node *node = &g->nodes[g->order[i]];
		bool weighs = (qd_op(node->op)->flags & QD_OPF_WEIGHT) != 0 || node->op == QD_OP_GROUP_NORM ||
			      node->op == QD_OP_LAYER_NORM || node->op == QD_OP_INSTANCE_NORM;
		if (weighs && node->n_in > 1 && node->in[1] == value)
			return true;
	}
	return false;
}

/* Float values that a reader expects an entry for: inputs and results other than views'. */
static bool is_signal(const struct qd_graph *g, qd_id value)
{
	const struct qd_value *v = &g->values[value];
	return v->kind != QD_WEIGHT && v->dtype == QD_F32 && qd_value_source(g, value) == value && qd_graph_uses(g, value) > 0;
}

static void add_value(const struct qd_graph *g, qd_id value, json_t **activations, json_t **params)
{
	const struct qd_value *v = &g->values[value];

	if (v->dead)
		return;
	if (v->encoding != NULL)
		qd_json_append(v->kind == QD_WEIGHT && is_parameter(g, value) ? params : activations,
			encoding_entry(v->name, v->encoding));
	else if (is_signal(g, value))
		qd_json_append(activations, float_entry(v->name));
}

enum qd_status qd_encodings_json(const struct qd_graph *g, const struct qd_quant_options *o, json_t **out)
{
	json_t *activations = json_array(), *params = json_array(), *args;

	for (qd_id v = 0; v < g->n_values; v++)
		add_value(g, v, &activations, &params);
	args = json_pack("{s:i,s:s,s:b,s:i,s:b,s:s}", "activation_bitwidth", o->act_bits > 0 ? o->act_bits : 16, "dtype",
		o->act_bits > 0 ? "int" : "float", "is_symmetric", 1, "param_bitwidth", o->weight_bits, "per_channel_quantization",
		o->weight_scheme == QD_WEIGHT_PER_CHANNEL, "quant_scheme", "min_max");
	*out = json_pack("{s:s,s:o,s:o,s:o,s:[]}", "version", "1.0.0", "activation_encodings", activations, "param_encodings",
		params, "quantizer_args", args, "excluded_layers");
	return *out != NULL ? QD_OK : qd_fail(QD_ENOMEM, "cannot write the encodings");
}
