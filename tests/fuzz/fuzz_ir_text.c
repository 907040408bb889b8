/*
 * Any bytes as a graph's text: parsing ends in a graph or a message. A graph verifies, survives its passes, and its text parses
 * back to the same text.
 */
#include "export/pass/pass.h"
#include "lib/ir/ir.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds)
{
	if (!holds)
		abort();
}

static void check_text(const struct qd_graph *g)
{
	struct qd_graph back;
	char *text = NULL, *again = NULL;

	must(qd_graph_print(g, &text) == QD_OK);
	must(qd_graph_parse(&back, "again", text) == QD_OK);
	must(qd_graph_print(&back, &again) == QD_OK);
	must(strcmp(text, again) == 0);
	free(text);
	free(again);
	qd_graph_release(&back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct qd_pass passes[] = { qd_pass_fold_constants, qd_pass_dead_code };
	struct qd_pass_options options = { .verify = true };
	char *text = strndup((const char *)data, size);
	struct qd_graph g;

	if (text == NULL)
		return 0;
	if (qd_graph_parse(&g, "input", text) == QD_OK) {
		must(qd_graph_verify(&g) == QD_OK);
		check_text(&g);
		/* Folding may meet a division by zero; then the graph is left half folded and is not looked at again. */
		if (qd_passes_run(&g, passes, QD_COUNT(passes), NULL, &options) == QD_OK)
			check_text(&g);
	}
	qd_graph_release(&g);
	free(text);
	return 0;
}
