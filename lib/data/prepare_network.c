/* A component of the pipeline that is executed one image or caption at a time. */
#include "lib/data/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum qd_status qd_prepare_network_open(
	struct qd_prepare_network *part, const char *root, const char *name, enum qd_component_kind kind)
{
	enum qd_component_kind found;
	enum qd_status st;

	*part = (struct qd_prepare_network){ 0 };
	st = qd_component_open(&part->component, root, name);
	if (st != QD_OK)
		return st;
	qd_graph_init(&part->graph, name);
	found = part->component.kind;
	if (found == QD_COMPONENT_TINY_VAE && kind == QD_COMPONENT_VAE)
		found = QD_COMPONENT_VAE;
	return found == kind ? QD_OK
			     : qd_fail(QD_EINPUT, "'%s/%s' is a %s, needs %s", root, name, qd_component_kind_name(found),
				       qd_component_kind_name(kind));
}

enum qd_status qd_prepare_network_build(struct qd_prepare_network *part, const struct qd_component_sizes *sizes)
{
	enum qd_status st = qd_component_graph(&part->graph, &part->component, sizes);

	return st == QD_OK ? qd_runner_open(&part->runner, &part->graph, NULL) : st;
}

void qd_prepare_network_release(struct qd_prepare_network *part)
{
	if (part->component.folder == NULL)
		return;
	qd_runner_release(&part->runner);
	qd_graph_release(&part->graph);
	qd_component_release(&part->component);
	*part = (struct qd_prepare_network){ 0 };
}

enum qd_status qd_prepare_network_hash(const struct qd_prepare_network *part, char *out)
{
	const struct qd_weights *w = &part->component.weights;
	size_t room = (w->n_files + 1) * QD_HASH_TEXT;
	char *all = calloc(room, 1), *config = NULL;
	enum qd_status st = QD_OK;

	if (all == NULL || asprintf(&config, "%s/config.json", part->component.folder) < 0) {
		config = NULL;
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	}
	if (qd_is_file(config))
		QD_TRY(st, qd_hash_file(config, all));
	for (size_t i = 0; i < w->n_files; i++)
		qd_hash_bytes(w->files[i].mapping.data, w->files[i].mapping.size, all + (i + 1) * QD_HASH_TEXT);
	qd_hash_bytes(all, room, out);
out:
	free(all);
	free(config);
	return st;
}
