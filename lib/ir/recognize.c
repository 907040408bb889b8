/*
 * The order in which an exporter's graph is brought into the form that networks are built in: constants first, then one spelling
 * for views, then patterns from small to large, each group followed by what tidies up after it.
 */
#include "lib/ir/ir.h"

enum qd_status qd_graph_recognize(struct qd_graph *g, struct qd_transposed *kept, const struct qd_pass_options *options)
{
	const struct qd_pass passes[] = {
		qd_pass_fold_constants,
		qd_pass_no_ops,
		qd_pass_forms,
		qd_pass_views,
		qd_pass_no_ops,
		qd_pass_merge,
		qd_pass_dead_code,
		qd_pass_group_norm,
		qd_pass_layer_norm,
		qd_pass_gelu,
		qd_pass_tokens,
		qd_pass_dead_code,
		qd_pass_bias,
		qd_pass_dead_code,
		qd_pass_output_major,
		qd_pass_views,
		qd_pass_no_ops,
		qd_pass_attention,
		qd_pass_merge,
		qd_pass_dead_code,
	};
	return qd_passes_run(g, passes, QD_COUNT(passes), kept, options);
}
