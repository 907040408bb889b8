/*
 * What happens to the graph between the encodings on its values and the file: the passes, in their order.
 *
 *   dead_code         what no output needs is not shipped
 *   share_constants   equal small constants become one, so that they are stored once
 *
 * is the float file; the encodings JSON is of this graph, whose names are those of both files. On it, for the quantized file:
 *
 *   qdq               encodings become QuantizeLinear and DequantizeLinear nodes; from here on they are gone from the values
 *   dead_code         values that only carried an encoding
 */
#include "export/pass/pass.h"

static const struct qd_pass *const passes[] = { &qd_pass_dead_code, &qd_pass_share_constants, &qd_pass_qdq, &qd_pass_dead_code };
enum { FIRST_QUANTIZED = 2 };

const char *qd_pipeline_pass_name(size_t i)
{
	for (size_t k = 0; k < QD_COUNT(passes); k++) {
		size_t first = 0;
		while (passes[first] != passes[k])
			first++;
		if (first == k && i-- == 0)
			return passes[k]->name;
	}
	return NULL;
}

static enum qd_status run_list(struct qd_graph *g, const struct qd_pass *const *list, size_t n,
	const struct qd_pass_options *options, struct qd_stored_weights *stored)
{
	struct qd_pass_options verified = *options;
	struct qd_pass copies[QD_COUNT(passes)];

	verified.verify = true;
	for (size_t i = 0; i < n; i++)
		copies[i] = *list[i];
	return qd_passes_run(g, copies, n, stored, &verified);
}

enum qd_status qd_pipeline_float(struct qd_graph *g, const struct qd_pass_options *options)
{
	return run_list(g, passes, FIRST_QUANTIZED, options, NULL);
}

enum qd_status qd_pipeline_quantized(struct qd_graph *g, const struct qd_pass_options *options, struct qd_stored_weights *stored)
{
	return run_list(g, passes + FIRST_QUANTIZED, QD_COUNT(passes) - FIRST_QUANTIZED, options, stored);
}
