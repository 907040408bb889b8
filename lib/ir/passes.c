/*
 * The pass runner: passes in order, the verifier after each where asked for, the text form after the one that the caller names.
 */
#include "lib/ir/ir.h"

#include <stdlib.h>
#include <string.h>

static enum qd_status dump(const struct qd_graph *g, const struct qd_pass_options *options)
{
	char *text = NULL;
	enum qd_status st = qd_graph_print(g, &text);

	if (st == QD_OK)
		options->dump(options->dump_context, text);
	free(text);
	return st;
}

static enum qd_status run_pass(struct qd_graph *g, const struct qd_pass *pass, void *context, const struct qd_pass_options *options)
{
	size_t changes = 0;
	enum qd_status st;

	QD_TRY(st, pass->run(g, context, &changes));
	qd_log(QD_LOG_DEBUG, "pass %s: %zu changes", pass->name, changes);
	QD_TRY(st, qd_graph_status(g));
	if (options->verify)
		QD_TRY(st, qd_graph_verify(g));
	if (options->dump != NULL && options->dump_after != NULL && strcmp(options->dump_after, pass->name) == 0)
		QD_TRY(st, dump(g, options));
out:
	return qd_prefix(st, "pass %s", pass->name);
}

enum qd_status qd_passes_run(
	struct qd_graph *g, const struct qd_pass *passes, size_t n, void *context, const struct qd_pass_options *options)
{
	struct qd_pass_options none = { 0 };
	enum qd_status st = QD_OK;

	for (size_t i = 0; i < n; i++)
		QD_TRY(st, run_pass(g, &passes[i], context, options != NULL ? options : &none));
out:
	return st;
}
