/*
 * What happens to the graph between the encodings on its values and the file: the passes, in their order.
 *
 *   dead_code         what no output needs is not shipped
 *   share_constants   equal small constants become one, so that they are stored once
 *   qdq               encodings become QuantizeLinear and DequantizeLinear nodes; from here on they are gone from the values
 *   dead_code         values that only carried an encoding
 *
 * The float file, beside which the encodings JSON is read, stops before qdq.
 */
#include "export/pass/pass.h"

static const struct qd_pass *const quantized[] = { &qd_pass_dead_code, &qd_pass_share_constants, &qd_pass_qdq, &qd_pass_dead_code };
static const struct qd_pass *const in_float[] = { &qd_pass_dead_code, &qd_pass_share_constants };

/* The longer list has them all, some twice. */
const char *qd_pipeline_pass_name(size_t i)
{
	for (size_t k = 0; k < QD_COUNT(quantized); k++) {
		size_t first = 0;
		while (quantized[first] != quantized[k])
			first++;
		if (first == k && i-- == 0)
			return quantized[k]->name;
	}
	return NULL;
}

static enum qd_status run_list(struct qd_graph *g, const struct qd_pass *const *list, size_t n,
	const struct qd_pass_options *options, struct qd_stored_weights *stored)
{
	struct qd_pass_options verified = *options;
	struct qd_pass passes[QD_COUNT(quantized)];

	verified.verify = true;
	for (size_t i = 0; i < n; i++)
		passes[i] = *list[i];
	return qd_passes_run(g, passes, n, stored, &verified);
}

enum qd_status qd_pipeline_quantized(struct qd_graph *g, const struct qd_pass_options *options, struct qd_stored_weights *stored)
{
	return run_list(g, quantized, QD_COUNT(quantized), options, stored);
}

enum qd_status qd_pipeline_float(struct qd_graph *g, const struct qd_pass_options *options)
{
	return run_list(g, in_float, QD_COUNT(in_float), options, NULL);
}
